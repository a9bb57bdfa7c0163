//! A volume that the kernel may mount and write, of which nothing is written.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::driver;
use super::layout::Layout;
use super::scratch::Scratch;
use super::served::{ServedVolume, Writes};
use crate::error::{Error, Result};
use crate::exec::Call;
use crate::extent::{Extent, ExtentSet};
use crate::io::Source;
use crate::io::device::Device;
use crate::sys::loop_device::{Access, LoopDevice};
use crate::sys::mount_namespace::Mounting;
use crate::units::Bytes;

/// A volume whose changes a child process keeps in memory; they are gone when it is dropped.
#[derive(Debug)]
pub struct Trial {
    served: ServedVolume,
    size: Bytes,
}

impl Trial {
    /// Over the volume at `layout`, whose targets are only read. `server` is described at
    /// [`super::OpenView::open`].
    ///
    /// # Errors
    /// [`Error::Io`]: no FUSE, or no rights; [`Error::Refused`] where a piece does not lie inside of its target.
    pub fn open(layout: &Layout, server: &Call) -> Result<Self> {
        let served = ServedVolume::start(server, layout, Writes::StayInMemory)?;
        Ok(Self { served, size: layout.size() })
    }

    /// Mounts it as a `kind` filesystem with `options`, where nobody else sees that, and unmounts it.
    ///
    /// # Errors
    /// [`Error::Io`]: no loop devices, no rights, the kernel does not take it, or there were too many changes.
    pub fn mount_once(&self, kind: &str, options: &str) -> Result<()> {
        self.mounted(kind, options, false, |_| Ok(()))
    }

    /// Runs `work` with the folder where it is mounted as a `kind` filesystem with `options`, as
    /// [`super::OpenView::mounted`] does.
    ///
    /// # Errors
    /// As [`Trial::mount_once`]; else what `work` says.
    pub fn mounted<T: Send>(
        &self,
        kind: &str,
        options: &str,
        read_only: bool,
        work: impl FnOnce(&Path) -> Result<T> + Send,
    ) -> Result<T> {
        let path = self.served.path();
        let failed = |source| Error::io(path.display().to_string(), "open", source);
        let file = File::options().read(true).write(true).open(&path).map_err(failed)?;
        let device = LoopDevice::attach(&file, Extent::first(self.size), Access::Write)?;
        let folder = Scratch::new()?;
        let mounting = Mounting { device: device.path(), kind, options, read_only };
        let mounted = driver::mounted(mounting, folder.path(), || work(folder.path()));
        // The device ends in any case: the mount's error is the one that tells what happened.
        let detached = device.detach();
        mounted.and_then(|done| detached.map(|()| done))
    }

    /// The file that it is, for tools that need no mount.
    pub fn path(&self) -> std::path::PathBuf {
        self.served.path()
    }

    /// Which of its bytes were read or written until now, by whomever.
    ///
    /// # Errors
    /// [`Error::Io`]: the child does not answer.
    pub fn touched(&mut self) -> Result<ExtentSet> {
        self.served.touched()
    }

    /// Its bytes with the changes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn source(&self) -> Result<Source> {
        let path: &Path = &self.served.path();
        Ok(Arc::new(Device::open_source(path, None)?))
    }

    /// Ends it, and tells whether every read and every change went well.
    ///
    /// # Errors
    /// [`Error::Io`]: one did not.
    pub fn close(self) -> Result<()> {
        self.served.close()
    }
}
