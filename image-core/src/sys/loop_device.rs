//! A part of a file or disk as a block device of its own (Linux `drivers/block/loop.c`).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, NoArg, Opcode, Setter, ioctl};

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::units::Bytes;

/// Numbers and structures of `include/uapi/linux/loop.h`.
mod uapi {
    use rustix::ioctl::Opcode;

    pub(super) const LOOP_CLR_FD: Opcode = 0x4C01;
    pub(super) const LOOP_CONFIGURE: Opcode = 0x4C0A;
    pub(super) const LOOP_CTL_GET_FREE: Opcode = 0x4C82;
    pub(super) const LO_FLAGS_READ_ONLY: u32 = 1;
    pub(super) const LO_FLAGS_AUTOCLEAR: u32 = 4;
    pub(super) const LO_FLAGS_DIRECT_IO: u32 = 16;

    #[repr(C)]
    #[derive(Default)]
    pub(super) struct LoopInfo64 {
        pub device: u64,
        pub inode: u64,
        pub rdevice: u64,
        pub offset: u64,
        pub sizelimit: u64,
        pub number: u32,
        pub encrypt_type: u32,
        pub encrypt_key_size: u32,
        pub flags: u32,
        pub file_name: [[u8; 32]; 2],
        pub crypt_name: [[u8; 32]; 2],
        pub encrypt_key: [u8; 32],
        pub init: [u64; 2],
    }

    #[repr(C)]
    #[derive(Default)]
    pub(super) struct LoopConfig {
        pub fd: u32,
        pub block_size: u32,
        pub info: LoopInfo64,
        pub reserved: [u64; 8],
    }
}

/// Its logical sectors. Set, because newer kernels would take the backing file's larger ones, on which
/// an XFS or ext filesystem made for 512-byte sectors cannot be mounted.
const SECTOR: u32 = 512;
/// Others may take the free number first; each try asks for a new one.
const TRIES: usize = 100;
/// How long another process (udev's blkid) may keep a detached device open.
const PATIENCE: Duration = Duration::from_secs(10);

/// What may be done through a loop device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Reading and writing.
    Write,
    /// Reading only, whoever asks. The flag goes with the device; BLKROSET's would stay on its number,
    /// and the next user of that number could not write.
    Read,
}

impl Access {
    fn flags(self) -> u32 {
        match self {
            Self::Write => 0,
            Self::Read => uapi::LO_FLAGS_READ_ONLY,
        }
    }
}

/// A loop device that this process made; detached when dropped, and by the kernel when this process dies.
///
/// It is a fence too: nothing that works on it can reach a byte outside of its extent.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    path: PathBuf,
    /// Kept open: the device clears itself at the last close, which must not be a passer-by's.
    file: Option<File>,
    backing: Vec<u8>,
}

impl LoopDevice {
    /// A new loop device on `extent` of `backing`, which is open for reading and writing. Reads and writes
    /// bypass the page cache where `backing` can do that.
    ///
    /// # Errors
    /// [`Error::Io`]: no loop driver, no rights, or `backing` ends before `extent` does.
    pub(crate) fn attach(backing: &File, extent: Extent, access: Access) -> Result<Self> {
        let control = Path::new("/dev/loop-control");
        let failed = |action, source| Error::io(control.display().to_string(), action, source);
        let control = File::options()
            .read(true)
            .write(true)
            .open(control)
            .map_err(|source| failed("open", source))?;
        for _ in 0..TRIES {
            // SAFETY: LOOP_CTL_GET_FREE takes no argument and touches no memory of ours.
            let number = unsafe { ioctl(&control, GetFree) }
                .map_err(|source| failed("find a free loop device", source.into()))?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            match configure(&path, backing, extent, access) {
                Ok(file) => return Self::new(path, file, extent),
                Err(source) if may_pass(&source) => std::thread::sleep(Duration::from_millis(5)),
                Err(source) => {
                    return Err(Error::io(path.display().to_string(), "configure", source));
                }
            }
        }
        let source = io::Error::other("others took every free one");
        Err(failed("find a free loop device", source))
    }

    fn new(path: PathBuf, file: File, extent: Extent) -> Result<Self> {
        let backing = backing_of(&path).unwrap_or_default();
        let device = Self { path, file: Some(file), backing };
        let expected = extent.len().align_down(Bytes::from(SECTOR));
        let found = device.size()?;
        if found != expected {
            let problem = format!("it has {} bytes, not {}", found.get(), expected.get());
            return Err(device.failed("configure", io::Error::other(problem)));
        }
        Ok(device)
    }

    fn size(&self) -> Result<Bytes> {
        let mut file = self.open_file()?;
        let end = io::Seek::seek(&mut file, io::SeekFrom::End(0));
        end.map(Bytes::new).map_err(|source| self.failed("measure", source))
    }

    /// Where it is: `/dev/loop7`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes what was written durable, takes the device away, and waits until it is gone.
    ///
    /// # Errors
    /// [`Error::Io`]: something was not written, or somebody holds the device.
    pub(crate) fn detach(mut self) -> Result<()> {
        let flushed = self.open_file()?.sync_all().map_err(|source| self.failed("flush", source));
        flushed.and(self.clear())
    }

    fn clear(&mut self) -> Result<()> {
        let Some(file) = self.file.take() else { return Ok(()) };
        // SAFETY: LOOP_CLR_FD takes no argument and touches no memory of ours.
        let cleared = unsafe { ioctl(&file, NoArg::<{ uapi::LOOP_CLR_FD }>::new()) };
        drop(file);
        cleared.map_err(|source| self.failed("detach", source.into()))?;
        // The kernel takes it down when the last one closes it, which need not be us.
        let start = Instant::now();
        while backing_of(&self.path).is_some_and(|backing| backing == self.backing) {
            if start.elapsed() > PATIENCE {
                return Err(self.failed("detach", io::Error::from(Errno::BUSY)));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn open_file(&self) -> Result<&File> {
        self.file.as_ref().ok_or_else(|| self.failed("use", io::Error::from(Errno::NXIO)))
    }

    fn failed(&self, action: &str, source: io::Error) -> Error {
        Error::io(self.path.display().to_string(), action, source)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // Whoever wants to know calls `detach`; here an earlier error is on its way already.
        drop(self.clear());
    }
}

/// Whether another process took that number first, or its device file is still being made.
fn may_pass(error: &io::Error) -> bool {
    [Errno::BUSY, Errno::NXIO, Errno::NOENT, Errno::NODEV]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn configure(path: &Path, backing: &File, extent: Extent, access: Access) -> io::Result<File> {
    let file = File::options().read(true).write(true).open(path)?;
    let config = uapi::LoopConfig {
        fd: descriptor(backing.as_raw_fd())?,
        block_size: SECTOR,
        info: uapi::LoopInfo64 {
            offset: extent.start.get(),
            sizelimit: extent.len().get(),
            flags: uapi::LO_FLAGS_AUTOCLEAR | uapi::LO_FLAGS_DIRECT_IO | access.flags(),
            ..Default::default()
        },
        ..Default::default()
    };
    // SAFETY: LOOP_CONFIGURE reads a `struct loop_config` through its pointer; LoopConfig has its layout.
    unsafe {
        ioctl(&file, Setter::<{ uapi::LOOP_CONFIGURE }, uapi::LoopConfig>::new(config))?;
    }
    Ok(file)
}

fn descriptor(fd: RawFd) -> io::Result<u32> {
    u32::try_from(fd).map_err(io::Error::other)
}

/// The file behind the loop device, as sysfs writes it; `None` when it is detached.
fn backing_of(path: &Path) -> Option<Vec<u8>> {
    let name = path.file_name()?;
    std::fs::read(Path::new("/sys/block").join(name).join("loop/backing_file")).ok()
}

/// LOOP_CTL_GET_FREE, whose answer is the ioctl's return value.
struct GetFree;

// SAFETY: it has no argument and changes no memory; the answer is the plain return value.
unsafe impl Ioctl for GetFree {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        uapi::LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        answer: IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<Self::Output> {
        Ok(answer)
    }
}
