//! Chooses the view that a tool needs, and makes it.

use std::path::{Path, PathBuf};

use super::driver;
use super::layout::Layout;
use super::scratch::Scratch;
#[cfg(feature = "fuse")]
use super::served::{ServedVolume, Writes};
use super::volume::Volume;
use crate::error::{Error, Result};
use crate::exec::Call;
use crate::sys::loop_device::{Access, LoopDevice};
use crate::sys::mount_namespace::{self, Branch, Mounting};
#[cfg(feature = "fuse")]
use crate::{extent::Extent, io::BlockSource};

/// What a tool works on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// A path: a file will do as well as a block device.
    Path,
    /// A block device that can be mounted.
    Mount,
}

/// The ways of showing a volume to a tool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    /// A loop device with offset and size, on the target itself.
    Loop,
    /// A file that a child process serves by FUSE.
    Fuse,
    /// A loop device on such a file.
    LoopOnFuse,
}

impl View {
    /// The simplest view of `layout` that meets `need`; `root` tells whether this process may make loop
    /// devices.
    pub fn of(layout: &Layout, need: Need, root: bool) -> Self {
        match (layout.contiguous(), need) {
            (Some(_), Need::Mount) => Self::Loop,
            (Some(_), Need::Path) if root => Self::Loop,
            (_, Need::Path) => Self::Fuse,
            (None, Need::Mount) => Self::LoopOnFuse,
        }
    }

    /// Whether it takes a loop device.
    pub fn takes_loop(self) -> bool {
        self != Self::Fuse
    }

    /// Whether it takes FUSE.
    pub fn takes_fuse(self) -> bool {
        self != Self::Loop
    }
}

/// A view that exists; gone when dropped.
#[derive(Debug)]
pub struct OpenView {
    // In this order they are dropped: what stands upon something goes before it.
    device: Option<LoopDevice>,
    #[cfg(feature = "fuse")]
    served: Option<ServedVolume>,
    volume: Volume,
}

impl OpenView {
    /// Shows the volume at `layout` as `view`.
    ///
    /// `server` starts a process that calls [`super::serve`] with its input, its output and the path
    /// that is added as the last argument.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Refused`] where a piece does not lie inside of its target.
    #[cfg_attr(not(feature = "fuse"), expect(unused_variables, reason = "only FUSE is served"))]
    pub fn open(layout: &Layout, view: View, server: &Call) -> Result<Self> {
        // Opened first: its flush then tells of every write that was lost from here on.
        let volume = Volume::open(layout)?;
        #[cfg(feature = "fuse")]
        let served = view
            .takes_fuse()
            .then(|| ServedVolume::start(server, layout, Writes::ReachTargets))
            .transpose()?;
        #[cfg(not(feature = "fuse"))]
        if view.takes_fuse() {
            return Err(Error::unsupported("a volume in several pieces, without FUSE,"));
        }
        let mut open = Self {
            device: None,
            #[cfg(feature = "fuse")]
            served,
            volume,
        };
        if view.takes_loop() {
            open.device = Some(open.attach(Access::Write)?);
        }
        Ok(open)
    }

    /// Runs `work` on the volume at `layout`, shown as `view`, and gives the volume back once the view is gone.
    ///
    /// # Errors
    /// As [`OpenView::open`] and [`OpenView::close`]; else what `work` says. Where the view itself failed, the tools
    /// saw a broken device, not a broken filesystem: so what they said of it is not believed.
    pub fn with<T>(
        layout: &Layout,
        view: View,
        server: &Call,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<(T, Volume)> {
        let mut open = Self::open(layout, view, server)?;
        let worked = work(&mut open);
        let volume = open.close()?;
        Ok((worked?, volume))
    }

    /// A loop device on the served file, or else on the target itself.
    fn attach(&self, access: Access) -> Result<LoopDevice> {
        #[cfg(feature = "fuse")]
        if let Some(served) = &self.served {
            let path = served.path();
            let file = std::fs::File::options().read(true).write(true).open(&path);
            let file =
                file.map_err(|source| Error::io(path.display().to_string(), "open", source))?;
            let whole = Extent::first(BlockSource::size(&self.volume));
            return LoopDevice::attach(&file, whole, access);
        }
        match self.volume.contiguous() {
            Some((file, extent)) => LoopDevice::attach(file, extent, access),
            None => Err(Error::unsupported("a loop device on a volume in several pieces")),
        }
    }

    /// What a tool is given.
    pub fn path(&self) -> PathBuf {
        #[cfg(feature = "fuse")]
        if let (None, Some(served)) = (&self.device, &self.served) {
            return served.path();
        }
        self.device.as_ref().map(|device| device.path().to_owned()).unwrap_or_default()
    }

    /// The volume's bytes.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Runs `work` with the folder where the device is mounted as a `kind` filesystem with `options`.
    ///
    /// Nobody but `work` and the programs that it starts see the mount, and it ends with `work`.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be mounted or unmounted; else what `work` says.
    pub fn mounted<T: Send>(
        &self,
        kind: &str,
        options: &str,
        read_only: bool,
        work: impl FnOnce(&Path) -> Result<T> + Send,
    ) -> Result<T> {
        let folder = Scratch::new()?;
        let mounting = Mounting { device: &self.path(), kind, options, read_only };
        driver::mounted(mounting, folder.path(), || work(folder.path()))
    }

    /// Runs `work` with the folder where `branches` are a whole system whose programs may run: the views of its
    /// volumes, as what they are mounted, and where in it; its root first.
    ///
    /// # Errors
    /// As [`OpenView::mounted`].
    pub fn rooted<T: Send>(
        branches: &[(&Self, &str, &str)],
        work: impl FnOnce(&Path) -> Result<T> + Send,
    ) -> Result<T> {
        let folder = Scratch::new()?;
        let devices: Vec<PathBuf> = branches.iter().map(|(view, ..)| view.path()).collect();
        let branches: Vec<Branch<'_>> = branches
            .iter()
            .zip(&devices)
            .map(|((_, kind, point), device)| {
                let options = if *kind == "xfs" { "nouuid" } else { "" };
                Branch { mounting: Mounting { device, kind, options, read_only: false }, point }
            })
            .collect();
        mount_namespace::rooted(&branches, folder.path(), || work(folder.path()))
    }

    /// Makes what was written durable, and the loop device anew so that nobody can write through it.
    ///
    /// # Errors
    /// [`Error::Io`]: something was not written, or somebody still uses the device.
    pub fn forbid_writing(&mut self) -> Result<()> {
        if let Some(device) = self.device.take() {
            device.detach()?;
            self.device = Some(self.attach(Access::Read)?);
        }
        Ok(())
    }

    /// Takes the view away, with everything that was written through it durable; gives the volume back.
    ///
    /// # Errors
    /// [`Error::Io`]: something was not written, or somebody still uses the view.
    pub fn close(self) -> Result<Volume> {
        let detached = self.device.map_or(Ok(()), LoopDevice::detach);
        #[cfg(feature = "fuse")]
        let detached = detached.and(self.served.map_or(Ok(()), ServedVolume::close));
        detached?;
        self.volume.flush()?;
        Ok(self.volume)
    }
}
