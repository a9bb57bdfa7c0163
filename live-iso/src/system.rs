//! What a live system consists of: programs of a distribution, our own, and a few files of ours.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use image_core::error::{Error, Result};
use image_core::exec::{Call, Runner};

use crate::Profile;
use crate::closure::{closure, is_elf, stripped};
use crate::kernel::{Kernel, Scope};
use crate::staging::Staging;
use crate::tree::Tree;

/// A package, and those of its files that a live system has: programs by their names, other files by their paths,
/// whole folders by paths with a `/` at the end. What has a `?` in front is in other packages elsewhere, and left out there; a
/// `|` is between places that a file has in different releases.
pub struct Part {
    /// Its name in Debian and Ubuntu.
    pub package: &'static str,
    /// The files.
    pub files: &'static [&'static str],
}

const fn part(package: &'static str, files: &'static [&'static str]) -> Part {
    Part { package, files }
}

/// What is taken of a distribution's packages, besides the kernel. The first two are in the first stage.
pub const PARTS: &[Part] = &[
    part("busybox-static", &["busybox"]),
    part("kmod", &["kmod", "modprobe", "lsmod", "modinfo", "rmmod", "depmod"]),
    part("bash", &["bash"]),
    part("mount", &["mount", "umount", "losetup", "swapon", "swapoff"]),
    part("util-linux", &["blkid", "blockdev", "findmnt", "lsblk", "setpriv", "wipefs", "partx"]),
    part("fdisk", &["fdisk", "sfdisk"]),
    part("gdisk", &["gdisk", "sgdisk"]),
    part(
        "lvm2",
        &[
            "lvm",
            "lvchange",
            "lvconvert",
            "lvcreate",
            "lvdisplay",
            "lvextend",
            "lvreduce",
            "lvremove",
            "lvrename",
            "lvresize",
            "lvs",
            "lvscan",
            "pvchange",
            "pvck",
            "pvcreate",
            "pvdisplay",
            "pvmove",
            "pvremove",
            "pvresize",
            "pvs",
            "pvscan",
            "vgcfgbackup",
            "vgcfgrestore",
            "vgchange",
            "vgck",
            "vgcreate",
            "vgdisplay",
            "vgextend",
            "vgimportclone",
            "vgmknodes",
            "vgreduce",
            "vgremove",
            "vgrename",
            "vgs",
            "vgscan",
        ],
    ),
    part("dmsetup", &["dmsetup"]),
    part(
        "thin-provisioning-tools",
        &[
            "pdata_tools",
            "thin_check",
            "thin_dump",
            "thin_repair",
            "thin_restore",
            "cache_check",
            "cache_dump",
            "cache_repair",
            "cache_restore",
        ],
    ),
    part("mdadm", &["mdadm", "mdmon"]),
    part("cryptsetup-bin", &["cryptsetup"]),
    part(
        "e2fsprogs",
        &[
            "e2fsck",
            "fsck.ext2",
            "fsck.ext3",
            "fsck.ext4",
            "mke2fs",
            "mkfs.ext4",
            "resize2fs",
            "tune2fs",
            "dumpe2fs",
            "debugfs",
            "badblocks",
            "etc/mke2fs.conf",
        ],
    ),
    part("xfsprogs", &["xfs_repair", "xfs_growfs", "xfs_db", "xfs_admin", "xfs_io", "mkfs.xfs"]),
    part("btrfs-progs", &["btrfs", "btrfstune", "mkfs.btrfs"]),
    part(
        "ntfs-3g",
        &["ntfs-3g", "ntfsfix", "ntfsresize", "ntfsinfo", "ntfslabel", "mkntfs", "mkfs.ntfs"],
    ),
    part("dosfstools", &["fsck.fat", "fsck.vfat", "fatlabel", "mkfs.fat", "mkfs.vfat"]),
    part("exfatprogs", &["fsck.exfat", "mkfs.exfat", "exfatlabel"]),
    part("f2fs-tools", &["fsck.f2fs", "resize.f2fs", "mkfs.f2fs"]),
    part("efibootmgr", &["efibootmgr"]),
    part("mtools", &["mtools", "mcopy", "mdir", "mmd", "mdel", "mtype"]),
    part("xorriso", &["xorriso"]),
    part("openssh-client", &["ssh", "ssh-keygen", "scp"]),
    part("sshfs", &["sshfs"]),
    part("fuse3", &["fusermount3"]),
    part("nfs-common", &["mount.nfs", "mount.nfs4", "umount.nfs", "umount.nfs4"]),
    part("libtirpc-common", &["etc/netconfig"]),
    part("netbase", &["etc/protocols", "etc/services"]),
    part("cifs-utils", &["mount.cifs"]),
    part("kbd", &["loadkeys"]),
    part("console-data", &["usr/share/keymaps/i386/", "usr/share/keymaps/include/"]),
    part(
        "ncurses-base",
        &[
            "lib/terminfo/l/linux|usr/share/terminfo/l/linux",
            "lib/terminfo/v/vt100|usr/share/terminfo/v/vt100",
            "lib/terminfo/v/vt220|usr/share/terminfo/v/vt220",
            "lib/terminfo/x/xterm|usr/share/terminfo/x/xterm",
            "lib/terminfo/x/xterm-256color|usr/share/terminfo/x/xterm-256color",
        ],
    ),
    part("libc-bin", &["?usr/lib/locale/C.utf8/"]),
    // glibc opens it when a thread is cancelled; nothing names it.
    part("libgcc-s1", &["libgcc_s.so.1"]),
];

/// How many of [`PARTS`] are in the first stage.
const EARLY: usize = 2;

/// Our own files: where they go, what is in them, and their permissions.
const OURS: &[(&str, &str, u32)] = &[
    ("init", include_str!("files/init"), 0o755),
    ("etc/rc", include_str!("files/rc"), 0o755),
    ("etc/profile", include_str!("files/profile"), 0o644),
    ("usr/lib/keiki/console", include_str!("files/console"), 0o755),
    ("usr/lib/keiki/unattended", include_str!("files/unattended"), 0o755),
    ("usr/lib/keiki/coldplug", include_str!("files/coldplug"), 0o755),
    ("usr/lib/keiki/fetch", include_str!("files/fetch"), 0o755),
    ("usr/lib/keiki/plug", include_str!("files/plug"), 0o755),
    ("usr/lib/keiki/dhcp", include_str!("files/dhcp"), 0o755),
    ("etc/lvm/lvm.conf", include_str!("files/lvm.conf"), 0o644),
    ("etc/nfsmount.conf", include_str!("files/nfsmount.conf"), 0o644),
    ("etc/mdadm/mdadm.conf", include_str!("files/mdadm.conf"), 0o644),
    // ASCII, for what mtools would call files in DOS: other conversions are libraries, in another package each release.
    ("etc/mtools.conf", "default_codepage=367\n", 0o644),
    ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n", 0o644),
    ("etc/group", "root:x:0:\n", 0o644),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n", 0o644),
    ("etc/nsswitch.conf", "hosts: files dns\n", 0o644),
    ("etc/hostname", "keiki\n", 0o644),
];

/// Folders that have to be there.
const FOLDERS: [&str; 9] = ["dev", "proc", "sys", "run", "tmp", "mnt", "media", "root", "var/tmp"];

/// What is needed to say that memory is too small.
pub(crate) const FIRST: [&str; 5] = ["bin", "usr", "usr/bin", "usr/bin/busybox", "init"];

/// The last file of what comes behind the first stage: its name comes behind the others.
pub(crate) const WHOLE: &str = "whole";

/// The last file of all: where it is missing, memory was too small for what came before it.
pub(crate) const COMPLETE: &str = "unpacked";

/// The packages that a tree lacks, of those that a live system is made of.
pub fn missing(tree: &Tree) -> Vec<&'static str> {
    let lacks = |file: &&str| !file.starts_with('?') && found(tree, file).is_none();
    let lacks = |part: &&Part| part.files.iter().any(lacks);
    PARTS.iter().filter(lacks).map(|part| part.package).collect()
}

/// Whether a layout of the keyboard is among those that the live system has.
///
/// # Errors
/// [`Error::Io`].
pub fn has_keymap(tree: &Tree, name: &str) -> Result<bool> {
    let folder = Path::new("usr/share/keymaps/i386");
    let file = format!("{name}.kmap.gz");
    for family in tree.list(folder)? {
        if tree.list(&folder.join(family))?.contains(&file) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn found(tree: &Tree, file: &str) -> Option<PathBuf> {
    let file = file.trim_start_matches('?');
    if file.contains('/') {
        return tree.one_of(file);
    }
    if file.contains(".so.") { tree.library(file, &[]) } else { tree.program(file) }
}

/// Gathers everything that a live system has of a distribution and of our own files: the first stage, which can fetch the rest
/// from a network, and that. The program `keiki` comes in an archive of its own, so that these are made once for many discs.
///
/// # Errors
/// [`Error::Io`]: a file is missing; a tool fails.
pub(crate) fn gather(
    runner: &dyn Runner,
    tree: &Tree,
    kernel: &Kernel,
    profile: Profile,
) -> Result<[Staging; 2]> {
    let staging = Staging::merged()?;
    for folder in FOLDERS {
        staging.folder(Path::new(folder))?;
    }
    for (path, text, mode) in OURS {
        let text = text.replace("@MEMORY@", profile.memory());
        staging.file(Path::new(path), text.as_bytes(), *mode)?;
    }
    staging.link(Path::new("etc/mtab"), "/proc/self/mounts")?;
    staging.link(Path::new("var/run"), "/run")?;
    programs(tree, PARTS.get(..EARLY).unwrap_or_default(), &staging)?;
    kernel.stage(tree, (profile, Scope::First), &staging)?;
    let first: BTreeSet<PathBuf> = staging.all(Path::new(""))?.into_iter().collect();
    programs(tree, PARTS, &staging)?;
    kernel.stage(tree, (profile, Scope::All), &staging)?;
    let later: BTreeSet<PathBuf> = staging.all(Path::new(""))?.into_iter().collect();
    // What is made now is little, and in the first stage: the index of all modules, and links to busybox.
    applets(runner, tree, &staging)?;
    let folder = staging.path().display().to_string();
    runner.check(&Call::new("depmod", ["-b", &folder, &kernel.version]))?;
    let rest = staging.split(|path| later.contains(path) && !first.contains(path))?;
    rest.file(Path::new(WHOLE), b"", 0o444)?;
    Ok([staging, rest])
}

/// Gathers the program `keiki` and the libraries that it needs, if any.
///
/// # Errors
/// [`Error::Io`]: a library is not in the tree; [`Error::Unsupported`]: it is no program.
pub(crate) fn ours(tree: &Tree, keiki: &Path) -> Result<Staging> {
    let name = keiki.display().to_string();
    let bytes = fs::read(keiki).map_err(|error| Error::io(&name, "read", error))?;
    let bytes = stripped(&bytes).map_err(|error| error.on(&name))?;
    let staging = Staging::empty()?;
    staging.file(Path::new("usr/bin/keiki"), &bytes, 0o755)?;
    for library in closure(tree, &[], &[&bytes])? {
        stage(tree, &library, &staging)?;
    }
    Ok(staging)
}

/// The distribution's programs and files, and what they need.
fn programs(tree: &Tree, parts: &[Part], staging: &Staging) -> Result<()> {
    let mut files = Vec::new();
    for Part { package, files: names } in parts {
        for name in *names {
            match found(tree, name) {
                Some(path) => files.push(path),
                None if name.starts_with('?') => {}
                None => {
                    let missing = format!("the package {package} has it");
                    return Err(Error::io(*name, "find", std::io::Error::other(missing)));
                }
            }
        }
    }
    let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) =
        files.into_iter().partition(|path| tree.place(path).is_dir());
    let libraries = closure(tree, &files, &[])?;
    for path in folders.iter().chain(&files).chain(&libraries) {
        stage(tree, path, staging)?;
    }
    Ok(())
}

/// Puts a file of the tree where it is there, or everything in a folder; where a link led to it, the link too.
fn stage(tree: &Tree, path: &Path, staging: &Staging) -> Result<()> {
    let Some(found) = tree.resolve(path) else { return Ok(()) };
    if tree.place(&found).is_dir() {
        let names = tree.list(&found)?;
        return names.iter().try_for_each(|name| stage(tree, &found.join(name), staging));
    }
    if !staging.has(&found) {
        let bytes = tree.read(&found)?;
        let is_program = is_elf(&bytes) || bytes.starts_with(b"#!");
        staging.file(&found, &bytes, if is_program { 0o755 } else { 0o644 })?;
    }
    staging.link(path, Path::new("/").join(&found))
}

/// The names under which busybox does what no other program here does.
fn applets(runner: &dyn Runner, tree: &Tree, staging: &Staging) -> Result<()> {
    let busybox = tree.program("busybox").unwrap_or_default();
    let listed = runner.check(&Call::new(tree.place(&busybox), ["--list"]))?.text();
    staging.link(Path::new("usr/bin/sh"), "bash")?;
    for name in listed.lines() {
        let is_there =
            ["usr/bin", "usr/sbin"].iter().any(|folder| staging.has(&Path::new(folder).join(name)));
        if !is_there {
            staging.link(&Path::new("usr/bin").join(name), "/usr/bin/busybox")?;
        }
    }
    Ok(())
}
