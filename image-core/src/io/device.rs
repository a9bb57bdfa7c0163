//! Disks, partitions and image files of this machine.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::{Advice, OFlags, fadvise};

use super::direct::{Bypass, DirectReader};
use super::identity::DeviceIdentity;
use super::source::beyond_end;
use super::{BlockSink, BlockSource, Medium, Source, file};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::sys::ioctl;
use crate::units::Bytes;

/// What zeros are written from, where nobody can be asked to make them.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// From here on bytes are written past the page cache: with less, waiting for the disk costs more than the copy.
const LARGE: usize = 64 << 10;

/// An open block device or regular file. Reads and short writes go through the page cache, for a table or a bitmap
/// is asked for often; data go past it.
#[derive(Debug)]
pub struct Device {
    file: File,
    path: PathBuf,
    kind: Kind,
    size: Bytes,
    sector_size: Bytes,
    // The kernel reports a lost write once and forgets it; the bytes stay lost.
    lost: AtomicBool,
    // Opened when it is first needed; `None` where O_DIRECT is refused.
    bypass: OnceLock<Option<Bypass>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Block,
    File,
}

impl Device {
    /// Opens `path` for reading. `file_sectors` is the sector size that an image file stands for (512
    /// where unknown); a block device knows its own.
    ///
    /// # Errors
    /// [`Error::Refused`] for what is neither a block device nor a regular file; [`Error::Io`].
    pub fn open_source(path: &Path, file_sectors: Option<Bytes>) -> Result<Self> {
        let device =
            Self::open(path, OpenOptions::new().read(true), OFlags::empty(), file_sectors)?;
        if device.kind == Kind::File {
            // ZFS took pages that were not written yet for holes until 2.2.2. Read-only filesystems
            // cannot do it and need not.
            drop(device.file.sync_data());
        }
        Ok(device)
    }

    /// Opens an existing `path` for reading and writing; a block device is claimed, so that nobody can
    /// mount it meanwhile. `file_sectors` as in [`Device::open_source`].
    ///
    /// # Errors
    /// [`Error::Refused`] for a block device that is claimed already or read-only, and for what is
    /// neither a block device nor a regular file; [`Error::Io`].
    pub fn open_target(path: &Path, file_sectors: Option<Bytes>) -> Result<Self> {
        let device = Self::open(
            path,
            OpenOptions::new().read(true).write(true),
            OFlags::EXCL,
            file_sectors,
        )?;
        let read_only = match device.kind {
            Kind::Block => ioctl::read_only(&device.file),
            Kind::File => Ok(false),
        };
        if read_only.map_err(|error| device.error("ask whether it is read-only", error))? {
            return Err(read_only_target(path));
        }
        Ok(device)
    }

    /// Makes the sparse file `path` of `size`, which reads as zeros.
    ///
    /// # Errors
    /// [`Error::Io`], also where it exists already; then it is left alone.
    pub fn create_file(path: &Path, size: Bytes, sector_size: Bytes) -> Result<Self> {
        let failed = |error| Error::io(path.display().to_string(), "create", error);
        let sector_size = checked_sectors(path, sector_size)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(failed)?;
        let sized = file.set_len(size.get()).and_then(|()| {
            // The name is durable only when its folder is.
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        });
        if let Err(error) = sized {
            drop(std::fs::remove_file(path));
            return Err(failed(error));
        }
        Ok(Self::new(file, path, Kind::File, size, sector_size))
    }

    fn open(
        path: &Path,
        options: &mut OpenOptions,
        exclusive: OFlags,
        file_sectors: Option<Bytes>,
    ) -> Result<Self> {
        let name = path.display().to_string();
        let failed = |action: &str, error| Error::io(name.clone(), action, error);
        // Asked before opening: opening alone may do something to a tape or a watchdog, or wait for ever.
        let kind = kind(path, &path.metadata().map_err(|error| failed("open", error))?)?;
        // O_EXCL without O_CREAT claims a block device; for files it is not defined.
        let exclusive = if kind == Kind::Block { exclusive } else { OFlags::empty() };
        let flags = (exclusive | OFlags::NONBLOCK | OFlags::NOCTTY).bits();
        let file = options
            .custom_flags(flags.cast_signed())
            .open(path)
            .map_err(|error| match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                Some(rustix::io::Errno::BUSY) => Error::refused(format!(
                    "{name} is in use: it is mounted, or swap, or part of a volume group or array; release it first"
                )),
                Some(rustix::io::Errno::ROFS) => read_only_target(path),
                _ => failed("open", error),
            })?;
        let metadata = file.metadata().map_err(|error| failed("stat", error))?;
        if self::kind(path, &metadata)? != kind {
            return Err(Error::refused(format!("{name} was replaced while it was opened")));
        }
        let (size, sector_size) = match kind {
            Kind::Block => (
                ioctl::size(&file).map_err(|error| failed("ask for the size", error))?,
                ioctl::logical_sector(&file)
                    .map_err(|error| failed("ask for the sector size", error))?,
            ),
            Kind::File => (Bytes::new(metadata.len()), file_sectors.unwrap_or(Bytes::new(512))),
        };
        let sector_size = checked_sectors(path, sector_size)?;
        Ok(Self::new(file, path, kind, size, sector_size))
    }

    fn new(file: File, path: &Path, kind: Kind, size: Bytes, sector_size: Bytes) -> Self {
        let (path, lost, bypass) = (path.to_owned(), AtomicBool::new(false), OnceLock::new());
        Self { file, path, kind, size, sector_size, lost, bypass }
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a block device, and not a file.
    pub fn is_block_device(&self) -> bool {
        self.kind == Kind::Block
    }

    /// What to call it in messages: the path it was opened with.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Number of bytes, when it was opened.
    pub fn size(&self) -> Bytes {
        self.size
    }

    /// The logical sector size of the device, or the one that a file stands for.
    pub fn sector_size(&self) -> Bytes {
        self.sector_size
    }

    /// What tells it from others, asked of the open descriptor.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn identity(&self) -> Result<DeviceIdentity> {
        DeviceIdentity::of(&self.file, &self.name(), self.size)
    }

    /// Asks again whether the open descriptor is what a person confirmed; to be called before the first
    /// write.
    ///
    /// # Errors
    /// [`Error::Refused`] where it is not; [`Error::Io`].
    pub fn confirm(&self, expected: &DeviceIdentity) -> Result<()> {
        self.identity()?.check(expected, &self.name())
    }

    /// A second way to read the same device or file that bypasses the page cache: for reading back what
    /// was written. Call [`BlockSink::flush`] first.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn reopen_direct(&self) -> Result<DirectReader> {
        DirectReader::open(&self.file, &self.name(), self.size, self.sector_size)
    }

    fn error(&self, action: &str, error: io::Error) -> Error {
        Error::io(self.name(), action, error)
    }

    /// The error of an access beyond the end, which a file would not make: it would grow.
    fn check(&self, action: &str, offset: Bytes, length: usize) -> Result<()> {
        match offset.checked_add(Bytes::from(length)) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(beyond_end(&self.name(), action, offset, length, self.size)),
        }
    }

    fn check_range(&self, action: &str, range: Extent) -> Result<()> {
        self.check(action, range.start, range.len().index().unwrap_or(usize::MAX))
    }

    /// What moves bytes past the page cache, where the kernel lets it.
    fn bypass(&self) -> Option<&Bypass> {
        let open = || {
            let access = rustix::fs::fcntl_getfl(&self.file).ok()? & OFlags::RWMODE;
            Bypass::open(&self.file, access, self.sector_size)
        };
        self.bypass.get_or_init(open).as_ref()
    }

    /// Writes the beginning of `bytes` past the page cache, as much as is possible; how many bytes that is.
    fn write_past_cache(&self, offset: Bytes, bytes: &[u8]) -> io::Result<usize> {
        let bypass = if bytes.len() < LARGE { None } else { self.bypass() };
        match bypass.map_or(Ok(0), |bypass| bypass.write(offset, bytes)) {
            // This filesystem reads so, and does not write so.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(0),
            other => other,
        }
    }

    fn write_zeros(&self, range: Extent) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let length = (range.end - at).index().unwrap_or(usize::MAX).min(ZEROS.len());
            self.write_at(at, &ZEROS[..length])?;
            at += Bytes::from(length);
        }
        Ok(())
    }

    /// The part of `range` that consists of whole sectors.
    fn whole_sectors(&self, range: Extent) -> Extent {
        let start = range.start.align_up(self.sector_size);
        Extent::new(start, range.end.align_down(self.sector_size))
    }
}

impl BlockSource for Device {
    fn name(&self) -> String {
        Self::name(self)
    }
    fn size(&self) -> Bytes {
        self.size
    }
    fn sector_size(&self) -> Bytes {
        self.sector_size
    }
    fn read_at(&self, offset: Bytes, buffer: &mut [u8]) -> Result<()> {
        let length = buffer.len();
        self.check("read", offset, length)?;
        self.file.read_exact_at(buffer, offset.get()).map_err(|error| {
            Error::io_at(self.name(), format!("read {length} bytes"), offset, error)
        })
    }
    /// By O_DIRECT, where the kernel lets it. (To take what is cached from there by RWF_NOWAIT was tried: it makes the
    /// kernel read ahead into the cache.)
    fn read_once(&self, offset: Bytes, buffer: &mut [u8]) -> Result<()> {
        let length = buffer.len();
        self.check("read", offset, length)?;
        let Some(bypass) = self.bypass() else { return self.read_at(offset, buffer) };
        bypass.read(offset, buffer).map_err(|error| {
            Error::io_at(self.name(), format!("read {length} bytes"), offset, error)
        })
    }
    fn allocated(&self, range: Extent) -> Result<ExtentSet> {
        self.check_range("look for holes in", range)?;
        match self.kind {
            Kind::Block => Ok(range.into()),
            Kind::File => file::allocated(&self.file, range)
                .map_err(|error| self.error("look for holes", error)),
        }
    }
}

impl BlockSink for Device {
    fn name(&self) -> String {
        Self::name(self)
    }
    fn size(&self) -> Bytes {
        self.size
    }
    fn sector_size(&self) -> Bytes {
        self.sector_size
    }
    fn write_at(&self, offset: Bytes, bytes: &[u8]) -> Result<()> {
        self.check("write", offset, bytes.len())?;
        let written = self.write_past_cache(offset, bytes).and_then(|length| {
            let rest = offset.saturating_add(Bytes::from(length));
            self.file.write_all_at(&bytes[length..], rest.get())
        });
        written.map_err(|error| {
            Error::io_at(self.name(), format!("write {} bytes", bytes.len()), offset, error)
        })
    }
    fn zero(&self, range: Extent) -> Result<()> {
        self.check_range("zero", range)?;
        if range.is_empty() {
            return Ok(());
        }
        let (middle, made) = match self.kind {
            Kind::File => (range, file::zero(&self.file, range)),
            Kind::Block => {
                let middle = self.whole_sectors(range);
                let made =
                    if middle.is_empty() { Ok(()) } else { ioctl::zero_out(&self.file, middle) };
                (middle, made)
            }
        };
        // Whatever the reason was: writing either works or says what is wrong.
        if made.is_err() || middle.is_empty() {
            return self.write_zeros(range);
        }
        self.write_zeros(Extent::new(range.start, middle.start))?;
        self.write_zeros(Extent::new(middle.end, range.end))
    }
    fn discard(&self, range: Extent) -> Result<()> {
        self.check_range("discard", range)?;
        let range = self.whole_sectors(range);
        if range.is_empty() {
            return Ok(());
        }
        let done = match self.kind {
            Kind::Block => ioctl::discard(&self.file, range),
            Kind::File => file::punch(&self.file, range),
        };
        match done {
            Err(error) if !cannot(&error) => {
                let action = format!("discard {} bytes", range.len().get());
                Err(Error::io_at(self.name(), action, range.start, error))
            }
            _ => Ok(()),
        }
    }
    fn flush(&self) -> Result<()> {
        let flushed = if self.lost.load(Ordering::Relaxed) {
            Err(io::Error::other("writes were lost before"))
        } else {
            // For a block device this also flushes the disk's own cache.
            self.file.sync_all()
        };
        flushed.map_err(|error| {
            self.lost.store(true, Ordering::Relaxed);
            self.error("flush", error)
        })
    }
}

impl Medium for Device {
    fn direct(&self) -> Result<Source> {
        Ok(Arc::new(self.reopen_direct()?))
    }
    fn hardware(&self) -> Result<String> {
        let DeviceIdentity { model, serial, wwn, .. } = self.identity()?;
        Ok(format!("{model:?} {serial:?} {wwn:?}"))
    }
    /// proc(5): opening it opens what the descriptor refers to. As long as a device is open, no other one
    /// gets its number.
    fn node(&self) -> Option<PathBuf> {
        Some(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into())
    }
    /// Nothing to do for a file, or for a device on which the kernel looks for no partitions (a partition,
    /// a loop device without `-P`): `EINVAL`.
    fn reread_partitions(&self) -> Result<()> {
        match self.kind {
            Kind::Block => match ioctl::reread_partitions(&self.file) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
                other => other.map_err(|error| self.error("read the partition table again", error)),
            },
            Kind::File => Ok(()),
        }
    }
}

/// Hints that clean pages of `range` may go.
pub(super) fn drop_pages(file: impl AsFd, range: Extent) {
    let Some(length) = std::num::NonZeroU64::new(range.len().get()) else { return };
    let _ = fadvise(file, range.start.get(), Some(length), Advice::DontNeed);
}

/// Whether an error says that the device or filesystem lacks the operation.
fn cannot(error: &io::Error) -> bool {
    use rustix::io::Errno;
    // EREMOTEIO is how SCSI disks refuse an UNMAP that they announced.
    let lacks = [Errno::OPNOTSUPP, Errno::NOSYS, Errno::NOTTY, Errno::REMOTEIO];
    lacks.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn kind(path: &Path, metadata: &std::fs::Metadata) -> Result<Kind> {
    let file_type = metadata.file_type();
    let what = if file_type.is_block_device() {
        return Ok(Kind::Block);
    } else if file_type.is_file() {
        return Ok(Kind::File);
    } else if file_type.is_dir() {
        "a directory"
    } else if file_type.is_char_device() {
        "a character device"
    } else if file_type.is_fifo() {
        "a pipe"
    } else {
        "a socket"
    };
    let name = path.display();
    Err(Error::refused(format!("{name} is {what}, neither a disk nor an image file")))
}

fn checked_sectors(path: &Path, size: Bytes) -> Result<Bytes> {
    if size.get().is_power_of_two() && size >= Bytes::new(512) && size <= Bytes::kib(64) {
        return Ok(size);
    }
    let name = path.display();
    Err(Error::refused(format!(
        "{name}: a sector size of {} bytes is not a power of two from 512 to 65536",
        size.get()
    )))
}

fn read_only_target(path: &Path) -> Error {
    Error::refused(format!("{} is read-only", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::conformance;

    fn refusal(result: Result<Device>) -> String {
        match result {
            Err(Error::Refused(why)) => why,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn a_file_conforms_in_every_way_to_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        let (size, sector) = (Bytes::new((3 << 20) + 515), Bytes::new(512));
        let device = Device::create_file(&path, size, sector).unwrap();
        let source = Device::open_source(&path, None).unwrap();
        let direct = device.reopen_direct().unwrap();
        let dropping =
            DirectReader::dropping(File::open(&path).unwrap(), "x", size, sector).unwrap();
        conformance::check(&device, &[&device, &source, &direct, &dropping]);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), size.get());
    }

    #[test]
    fn holes_of_sparse_files_are_not_allocated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse.img");
        let device = Device::create_file(&path, Bytes::mib(64), Bytes::new(4096)).unwrap();
        let all = Extent::first(Bytes::mib(64));
        assert!(device.allocated(all).unwrap().is_empty());
        device.write_at(Bytes::mib(32) + Bytes::new(5), b"x").unwrap();
        let block = Extent::at(Bytes::mib(32), Bytes::BLOCK).unwrap();
        assert_eq!(device.allocated(all).unwrap(), block.into());
        device.flush().unwrap();
        assert_eq!(device.reopen_direct().unwrap().allocated(all).unwrap(), block.into());
        device.zero(block).unwrap();
        assert!(device.allocated(all).unwrap().is_empty(), "zeros take room");
        assert_eq!(device.sector_size(), Bytes::new(4096));
    }

    #[test]
    fn what_is_no_disk_is_refused_without_opening_it() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, what) in [
            (folder.path(), "a directory"),
            (Path::new("/dev/null"), "a character device"),
            (&pipe, "a pipe"),
            (&socket, "a socket"),
        ] {
            for result in [Device::open_source(path, None), Device::open_target(path, None)] {
                let why = refusal(result);
                assert!(why.contains(&path.display().to_string()) && why.contains(what), "{why}");
            }
        }
        let missing = Device::open_source(&folder.path().join("no"), None);
        assert!(matches!(missing, Err(Error::Io { .. })));
    }

    #[test]
    fn absurd_sector_sizes_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for size in [0, 1, 513, 1 << 20] {
            let why = refusal(Device::open_source(file.path(), Some(Bytes::new(size))));
            assert!(why.contains("power of two"), "{why}");
        }
    }

    #[test]
    fn an_existing_file_is_not_created_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"precious").unwrap();
        let again = Device::create_file(file.path(), Bytes::MIB, Bytes::new(512));
        assert!(matches!(again, Err(Error::Io { .. })));
        assert_eq!(std::fs::read(file.path()).unwrap(), b"precious");
    }

    #[test]
    fn another_file_under_the_same_name_is_not_the_confirmed_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        let device = Device::create_file(&path, Bytes::MIB, Bytes::new(512)).unwrap();
        let identity = device.identity().unwrap();
        let again = Device::open_target(&path, None).unwrap();
        again.confirm(&identity).unwrap();
        std::fs::rename(&path, folder.path().join("old.img")).unwrap();
        let other = Device::create_file(&path, Bytes::MIB, Bytes::new(512)).unwrap();
        assert!(matches!(other.confirm(&identity), Err(Error::Refused(_))));
        assert!(again.confirm(&identity).is_ok());
    }
}
