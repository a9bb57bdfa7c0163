//! Mounted filesystems, swap areas and `/etc/fstab` (proc(5), fstab(5)).
//!
//! Paths and sources are bytes that whoever mounted them chose; space, tab, newline and backslash are
//! written as three octal digits.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::sysfs::DeviceNumber;

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// The kernel's number for this mount.
    pub id: u64,
    /// The device; major 0 where the filesystem has an invented one (tmpfs, overlay, also btrfs).
    pub device: DeviceNumber,
    /// The folder of the filesystem that is mounted: `/` but for bind mounts and subvolumes.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// `ext4`, `xfs`, `tmpfs`.
    pub fs_type: String,
    /// What was given to mount: a device path, often, or any word.
    pub source: PathBuf,
    /// Whether writing through this mount point is forbidden.
    pub read_only: bool,
    /// Whether the filesystem itself is read-only. Where it is not, the kernel may write to the device
    /// though every mount point is read-only.
    pub super_read_only: bool,
}

/// The mounts that this process sees, below `root` (`/`), in the order in which they were made.
///
/// # Errors
/// Also for a line that does not look as proc(5) says: then nothing is known of the mounts.
pub fn mounts(root: &Path) -> io::Result<Vec<Mount>> {
    parse_mounts(&std::fs::read(root.join("proc/self/mountinfo"))?)
}

/// The devices and files that are swapped to; none where the kernel cannot swap.
///
/// # Errors
/// Where the list cannot be read.
pub fn swaps(root: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(parse_swaps(&read_if_there(&root.join("proc/swaps"))?))
}

/// The mount points that `/etc/fstab` lists, mounted or not; none where there is no such file.
///
/// # Errors
/// Where it cannot be read.
pub fn fstab(root: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(parse_fstab(&read_if_there(&root.join("etc/fstab"))?))
}

fn read_if_there(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result,
    }
}

fn parse_mounts(text: &[u8]) -> io::Result<Vec<Mount>> {
    lines(text).map(|line| parse_mount(line).ok_or_else(|| malformed(line))).collect()
}

fn parse_mount(line: &[u8]) -> Option<Mount> {
    // id parent major:minor root point options [optional fields] - type source super-options
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
    Some(Mount {
        id: std::str::from_utf8(fields.first()?).ok()?.parse().ok()?,
        device: std::str::from_utf8(fields.get(2)?).ok()?.parse().ok()?,
        root: unescape(fields.get(3)?),
        point: unescape(fields.get(4)?),
        fs_type: unescape(fields.get(dash + 1)?).to_string_lossy().into_owned(),
        source: unescape(fields.get(dash + 2)?),
        read_only: has_option(fields.get(5)?, b"ro"),
        super_read_only: has_option(fields.get(dash + 3)?, b"ro"),
    })
}

fn has_option(options: &[u8], option: &[u8]) -> bool {
    options.split(|byte| *byte == b',').any(|have| have == option)
}

/// The first line is a heading, the first word of each other line a path.
fn parse_swaps(text: &[u8]) -> Vec<PathBuf> {
    lines(text).skip(1).filter_map(|line| words(line).next()).map(unescape).collect()
}

/// Swap areas have no absolute mount point, but `none` or `swap`.
fn parse_fstab(text: &[u8]) -> Vec<PathBuf> {
    lines(text)
        .filter_map(|line| {
            let mut words = words(line);
            let source = words.next()?;
            let point = unescape(words.next()?);
            (!source.starts_with(b"#") && point.is_absolute()).then_some(point)
        })
        .collect()
}

/// The mount of `mounts` that holds `path`, which exists; `None` where it is not among them (in a chroot
/// whose root is not a mount point).
///
/// # Errors
/// Where `path` cannot be asked, or the kernel is older than 5.8.
pub fn filesystem_of<'a>(path: &Path, mounts: &'a [Mount]) -> io::Result<Option<&'a Mount>> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?;
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        let what = "the kernel does not tell which mount a file is on (Linux 5.8 does)";
        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
    }
    Ok(mounts.iter().find(|mount| mount.id == stat.stx_mnt_id))
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty())
}

fn malformed(line: &[u8]) -> io::Error {
    let what = format!("the malformed line `{}`", line.escape_ascii());
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_understood() {
        let text = b"36 35 98:0 /sub /mnt\\040a\\134b ro,noatime master:1 shared:2 - ext3 /dev/sda1 rw,errors=x\n\
            37 35 0:21 / /proc rw,relatime - proc  rw\n";
        let mounts = parse_mounts(text).unwrap();
        let ext3 = &mounts[0];
        assert_eq!((ext3.id, ext3.device), (36, DeviceNumber { major: 98, minor: 0 }));
        assert_eq!(ext3.root, Path::new("/sub"));
        assert_eq!(ext3.point, Path::new("/mnt a\\b"));
        assert_eq!((ext3.fs_type.as_str(), ext3.source.as_path()), ("ext3", "/dev/sda1".as_ref()));
        assert!(ext3.read_only && !ext3.super_read_only);
        assert_eq!(mounts[1].source, Path::new(""));
    }

    #[test]
    fn malformed_mountinfo_is_an_error_not_a_guess() {
        for line in
            ["", "1 2 3:4 / /m rw", "1 2 3:4 / /m rw - ext4 /dev/a", "1 2 34 / /m rw - a b rw"]
        {
            let text = format!("{line}\nx\n");
            assert!(parse_mounts(text.as_bytes()).is_err(), "{line}");
        }
        let text = b"1 2 3:4 / /m\\9x\\04 rw - ext4 s rw";
        assert_eq!(parse_mounts(text).unwrap()[0].point, Path::new("/m\\9x\\04"));
    }

    #[test]
    fn swaps_and_fstab_are_understood() {
        let swaps = b"Filename\t\tType\nsome\\040file   file\t1 0 -2\n/dev/sda2 partition 1 0 -2\n";
        assert_eq!(parse_swaps(swaps), [Path::new("some file"), Path::new("/dev/sda2")]);
        let fstab = b"# a comment /x\n\nUUID=1 / ext4 defaults 0 1\nUUID=2 none swap sw 0 0\n/dev/b\t/my\\040disk auto\n";
        assert_eq!(parse_fstab(fstab), [Path::new("/"), Path::new("/my disk")]);
    }

    #[test]
    fn the_filesystem_of_proc_is_proc() {
        let mounts = mounts(Path::new("/")).unwrap();
        let proc = filesystem_of(Path::new("/proc/self"), &mounts).unwrap().unwrap();
        assert_eq!((proc.fs_type.as_str(), proc.point.as_path()), ("proc", Path::new("/proc")));
    }
}
