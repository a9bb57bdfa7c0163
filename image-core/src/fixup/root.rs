//! A mounted filesystem that is not ours: no path leads out of it.
//!
//! Its links may lead anywhere, so every path is looked up by openat2(2) with the filesystem's root as the root.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RawMode, ResolveFlags, Uid, XattrFlags, fchmod,
    fchown, fgetxattr, flistxattr, fsetxattr, fstat, fsync, openat, openat2, readlinkat, renameat,
    statat, unlinkat,
};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// A configuration file is not longer.
const LONGEST: u64 = 4 << 20;
/// So many links may stand one behind the other, as for the kernel.
const MOST_LINKS: usize = 40;
/// What a file that is being written is called until it is whole.
const NEW: &str = ".keiki-new";
/// An extended attribute is not longer (Linux `XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const LONGEST_ATTRIBUTE: usize = 64 << 10;

/// A mounted filesystem out of which no path leads.
pub(crate) struct Root(OwnedFd);

impl Root {
    pub(crate) fn open(&self, name: &str, flags: OFlags) -> Result<Option<OwnedFd>> {
        let mut flags = flags | OFlags::CLOEXEC;
        // With O_PATH nothing is opened that could wait, and openat2(2) takes nothing beside it.
        flags.set(OFlags::NONBLOCK | OFlags::NOCTTY, !flags.contains(OFlags::PATH));
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        match openat2(&self.0, name, flags, Mode::empty(), resolve) {
            Ok(file) => Ok(Some(file)),
            // What is not there, or is something else, or leads elsewhere, is none of these files.
            Err(
                Errno::NOENT
                | Errno::NOTDIR
                | Errno::ISDIR
                | Errno::LOOP
                | Errno::XDEV
                | Errno::NXIO,
            ) => Ok(None),
            Err(error) => Err(Error::io(name, "open", error.into())),
        }
    }

    /// The paths of the files in `folder` whose names end in `end`, sorted.
    pub(crate) fn list(&self, folder: &str, end: &str) -> Result<Vec<String>> {
        let Some(open) = self.open(folder, OFlags::DIRECTORY)? else { return Ok(Vec::new()) };
        let failed = |error: Errno| Error::io(folder, "list", error.into());
        let mut names = Vec::new();
        for entry in Dir::new(open).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = std::ffi::OsStr::from_bytes(entry.file_name().to_bytes());
            if let Some(name) =
                name.to_str().filter(|name| name.ends_with(end) && *name != "." && *name != "..")
            {
                names.push(format!("{folder}/{name}"));
            }
        }
        names.sort();
        Ok(names)
    }

    /// The text of a regular file that is not too long to be one of these.
    pub(crate) fn read(&self, name: &str, flags: OFlags) -> Result<Option<(File, Vec<u8>)>> {
        let Some(open) = self.open(name, flags)? else { return Ok(None) };
        let mut file = File::from(open);
        let failed = |error| Error::io(name, "read", error);
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() || metadata.len() > LONGEST {
            return Ok(None);
        }
        let mut text = Vec::new();
        Read::by_ref(&mut file).take(LONGEST).read_to_end(&mut text).map_err(failed)?;
        Ok(Some((file, text)))
    }

    /// Renames a file; whether it was there.
    pub(crate) fn set_aside(&self, [folder, old, new]: [&str; 3]) -> Result<bool> {
        let Some(open) = self.open(folder, OFlags::DIRECTORY)? else { return Ok(false) };
        let renamed = renameat(&open, old, &open, new).and_then(|()| fsync(&open));
        match renamed {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(Error::io(format!("{folder}/{old}"), "rename", error.into())),
        }
    }

    /// The filesystem that is mounted on `folder`.
    pub(crate) fn of(folder: &Path) -> Result<Self> {
        let failed = |source: Errno| Error::io(folder.display().to_string(), "open", source.into());
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, folder, flags, Mode::empty()).map_err(failed)?))
    }

    /// Whether there is a file or folder of that name.
    pub(crate) fn has(&self, name: &str) -> Result<bool> {
        Ok(self.open(name, OFlags::PATH)?.is_some())
    }

    /// A regular file, opened for reading, however long it is.
    pub(crate) fn file(&self, name: &str) -> Result<Option<File>> {
        let Some(open) = self.open(name, OFlags::RDONLY)? else { return Ok(None) };
        let file = File::from(open);
        let metadata = file.metadata().map_err(|error| Error::io(name, "read", error))?;
        Ok(metadata.is_file().then_some(file))
    }

    /// Puts `new` in the place of the file `name`, where a link of that name leads to: at no moment is there
    /// anything but the old file or the whole new one, which has its owner, mode and extended attributes.
    ///
    /// # Errors
    /// [`Error::Io`]; then the old file is there. [`Error::Refused`]: it is another one than `old`.
    pub(crate) fn replace(&self, name: &str, old: &[u8], new: &[u8]) -> Result<()> {
        let found = self.read(name, OFlags::RDONLY)?.filter(|(_, text)| text == old);
        let (file, _) = found.ok_or_else(|| {
            Error::refused(format!(
                "{name} is not what it was when the plan was made; run it again"
            ))
        })?;
        self.put(name, &file, new)
    }

    /// Writes a file `name` that is not there yet, with the owner, mode and extended attributes of the file `like`.
    ///
    /// # Errors
    /// As [`Root::replace`].
    pub(crate) fn add(&self, name: &str, like: &str, new: &[u8]) -> Result<()> {
        if self.has(name)? {
            return Err(Error::refused(format!("{name} is there by now; run it again")));
        }
        let like = self.file(like)?.ok_or_else(|| Error::refused(format!("there is no {like}")))?;
        self.put(name, &like, new)
    }

    /// Makes `new` whole beside the file `name`, like the file `model`, and renames it.
    fn put(&self, name: &str, model: &File, new: &[u8]) -> Result<()> {
        let (folder, last) = self.place(name)?;
        let part = format!("{last}{NEW}");
        let failed = |error: Errno| Error::io(name, "replace", error.into());
        // Left behind by one that was killed.
        match unlinkat(&folder, &part, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(error)),
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let written = openat(&folder, &part, flags, Mode::RUSR | Mode::WUSR)
            .map_err(failed)
            .and_then(|open| {
                let mut open = File::from(open);
                open.write_all(new).map_err(|error| Error::io(name, "replace", error))?;
                like(model, &open).map_err(failed)?;
                open.sync_all().map_err(|error| Error::io(name, "replace", error))?;
                renameat(&folder, &part, &folder, &last)
                    .and_then(|()| fsync(&folder))
                    .map_err(failed)
            });
        if written.is_err() {
            // What failed is what has to be known.
            unlinkat(&folder, &part, AtFlags::empty()).unwrap_or_default();
        }
        written
    }

    /// Writes a file `name` that is not there yet.
    pub(crate) fn create(&self, name: &str, text: &[u8]) -> Result<()> {
        let (folder, last) = self.place(name)?;
        let failed = |error: std::io::Error| Error::io(name, "create", error);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        let mut file =
            File::from(openat(&folder, &last, flags, mode).map_err(|error| failed(error.into()))?);
        file.write_all(text).and_then(|()| file.sync_all()).map_err(failed)
    }

    /// Removes a file; none there is fine.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let (folder, last) = self.place(name)?;
        match unlinkat(&folder, &last, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(Error::io(name, "remove", error.into())),
        }
    }

    /// The folder in which the file that `name` leads to lies, and its name there.
    fn place(&self, name: &str) -> Result<(OwnedFd, String)> {
        let lost = || Error::refused(format!("{name} leads out of its filesystem"));
        let mut path = PathBuf::from(name);
        for _ in 0..MOST_LINKS {
            let last = match path.components().next_back() {
                Some(Component::Normal(last)) => last.to_owned(),
                _ => return Err(lost()),
            };
            let parent = path.parent().unwrap_or(Path::new("")).to_owned();
            let text = parent.to_str().ok_or_else(lost)?;
            let text = if text.is_empty() { "." } else { text };
            let folder = self.open(text, OFlags::DIRECTORY)?.ok_or_else(lost)?;
            let link = match statat(&folder, &last, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) => FileType::from_raw_mode(found.st_mode as RawMode) == FileType::Symlink,
                Err(Errno::NOENT) => false,
                Err(error) => return Err(Error::io(name, "look at", error.into())),
            };
            if !link {
                return Ok((folder, last.to_str().ok_or_else(lost)?.to_owned()));
            }
            let target = readlinkat(&folder, &last, Vec::new())
                .map_err(|error| Error::io(name, "look at", error.into()))?;
            path = parent.join(std::ffi::OsStr::from_bytes(target.as_bytes()));
        }
        Err(lost())
    }
}

/// Who may do what with a file of NTFS, as ntfs-3g tells and takes it; it is in no list of attributes.
const NTFS_ACL: &[u8] = b"system.ntfs_acl";

/// Gives `new` the owner, the mode and the extended attributes of `old`.
fn like(old: &impl AsFd, new: &impl AsFd) -> rustix::io::Result<()> {
    let found = fstat(old)?;
    fchown(new, Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)))?;
    // Behind the owner: a change of that takes bits of the mode away.
    fchmod(new, Mode::from_raw_mode(found.st_mode as RawMode))?;
    let mut names = vec![0; LONGEST_ATTRIBUTE];
    let length = match flistxattr(old, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut value = vec![0; LONGEST_ATTRIBUTE];
    let names = names.get(..length).unwrap_or_default();
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    for name in names.chain([NTFS_ACL]) {
        let length = match fgetxattr(old, name, &mut value) {
            Err(Errno::NOTSUP | Errno::NODATA) if name == NTFS_ACL => continue,
            found => found?,
        };
        fsetxattr(new, name, value.get(..length).unwrap_or_default(), XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::Root;

    #[test]
    fn a_file_is_replaced_where_its_links_lead_within_the_filesystem() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir_all(root.join("etc/real")).unwrap();
        fs::create_dir(&outside).unwrap();
        for path in [root.join("etc/real/fstab"), outside.join("x"), root.join("x")] {
            fs::write(path, "old").unwrap();
        }
        fs::set_permissions(root.join("etc/real/fstab"), fs::Permissions::from_mode(0o4640))
            .unwrap();
        symlink("/etc/real/fstab", root.join("etc/fstab")).unwrap();
        symlink("../../../outside/x", root.join("etc/out")).unwrap();
        symlink("loop", root.join("etc/loop")).unwrap();
        // What a process that was killed left behind.
        fs::write(root.join("etc/real/fstab.keiki-new"), "half").unwrap();
        let system = Root::of(&root).unwrap();
        system.replace("etc/fstab", b"old", b"new text").unwrap();
        assert_eq!(fs::read_to_string(root.join("etc/real/fstab")).unwrap(), "new text");
        let mode = fs::metadata(root.join("etc/real/fstab")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o4640);
        assert!(root.join("etc/fstab").is_symlink());
        assert_eq!(fs::read_dir(root.join("etc/real")).unwrap().count(), 1);
        // Another content than was planned with, and links to nowhere.
        system.replace("etc/fstab", b"old", b"newer").unwrap_err();
        system.replace("etc/loop", b"old", b"new").unwrap_err();
        system.replace("etc/none", b"old", b"new").unwrap_err();
        system.replace("etc/out", b"old", b"new").unwrap_err();
        assert_eq!(fs::read_to_string(outside.join("x")).unwrap(), "old");
    }

    #[test]
    fn attributes_go_with_the_file() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "old").unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        if rustix::fs::setxattr(&path, "user.keiki", b"orchid", flags).is_err() {
            // A filesystem without attributes has none to lose.
            return;
        }
        Root::of(folder.path()).unwrap().replace("x", b"old", b"new").unwrap();
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(&path, "user.keiki", &mut value).unwrap();
        assert_eq!(&value[..length], b"orchid");
    }
}
