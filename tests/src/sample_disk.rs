//! A small disk like those that people save, in seconds: GPT, ESP, /boot, and a volume group `vg0` with
//! an ext4 `root`, an XFS `data` and `swap`. It does not boot; see [`crate::debian`] for one that does.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image_core::units::Bytes;
use tempfile::TempDir;

use crate::filesystem::{self, uuid};
use crate::tree::Tree;
use crate::vg::Vg;
use crate::{run, sparse, table, volumes};

/// The size of the disk.
pub const SIZE: Bytes = Bytes::mib(800);

/// A disk, and what its filesystems hold.
#[derive(Debug)]
pub struct SampleDisk {
    /// The image file.
    pub path: PathBuf,
    /// By volume id: `d0:1`, `d0:2`, `vg0/root`, `vg0/data`.
    pub trees: BTreeMap<String, Tree>,
}

/// Makes the disk at `path`; needs root and loop devices.
///
/// # Errors
/// A tool is missing or fails.
pub fn make(path: &Path) -> Result<SampleDisk> {
    let work = TempDir::new()?;
    sparse::create(path, SIZE)?;
    run!(
        "sgdisk",
        "-n1:2048:+40M",
        "-t1:ef00",
        "-c1:EFI System",
        "-n2:0:+64M",
        "-t2:8300",
        "-n3:0:0",
        "-t3:8e00",
        path
    )?;
    let parts = table::partitions(path)?;
    let [esp, boot, pv] = parts.as_slice() else { anyhow::bail!("{parts:?}") };

    let image = work.path().join("image");
    let readme = work.path().join("readme");
    fs::write(&readme, filler(1, 300_000))?;
    let files: [(&str, &Path); 3] = [
        ("EFI/BOOT/BOOTX64.EFI", &readme),
        ("EFI/a rather long name.cfg", &readme),
        ("X", &readme),
    ];
    let serial = uuid()?.replace('-', "").chars().take(8).collect::<String>().to_uppercase();
    filesystem::fat32(&image, esp.len(), ["ESP", &serial], &files)?;
    sparse::copy(&image, whole(&image)?, path, esp.start)?;

    let folder = work.path().join("boot");
    fs::create_dir_all(folder.join("grub"))?;
    fs::write(folder.join("vmlinuz"), filler(2, 6_000_000))?;
    fs::write(folder.join("grub/grub.cfg"), "linux /vmlinuz root=/dev/mapper/vg0-root ro\n")?;
    filesystem::ext4(&image, boot.len(), ["boot", &uuid()?], &folder)?;
    sparse::copy(&image, whole(&image)?, path, boot.start)?;

    let vg = Vg::create("vg0", &[(path.to_owned(), *pv)])?;
    let (root, data, swap) = (Bytes::mib(200), Bytes::mib(320), Bytes::mib(32));
    for (lv, size) in [("root", root), ("data", data), ("swap", swap)] {
        vg.add(lv, size, None)?;
    }
    let empty = work.path().join("empty");
    fs::create_dir(&empty)?;
    filesystem::ext4(&image, root, ["root", &uuid()?], &empty)?;
    filesystem::filled(&image, |folder| live_in(folder, 3))?;
    vg.put("root", &image)?;
    filesystem::xfs(&image, data, ["data", &uuid()?])?;
    filesystem::filled(&image, |folder| live_in(folder, 4))?;
    vg.put("data", &image)?;
    filesystem::swap(&image, swap, ["swap", &uuid()?])?;
    vg.put("swap", &image)?;
    drop(vg);
    Ok(SampleDisk { path: path.to_owned(), trees: volumes::trees(&[path.to_owned()])? })
}

fn whole(image: &Path) -> Result<image_core::extent::Extent> {
    Ok(image_core::extent::Extent::first(Bytes::new(fs::metadata(image)?.len())))
}

/// Writes into `folder` what years of use leave behind: files of many sizes, links, holes, and free space
/// that still holds what was deleted.
fn live_in(folder: &Path, seed: u64) -> Result<()> {
    let doomed = folder.join("doomed");
    fs::write(&doomed, filler(seed << 32, 20_000_000))?;
    for number in 0..300_u64 {
        let home = folder.join(format!("home/user{}/{}", number % 3, number % 7));
        fs::create_dir_all(&home)?;
        let length = usize::try_from(number * number * 11 % 90_000)?;
        fs::write(home.join(format!("note {number}.txt")), filler(seed << 16 | number, length))?;
    }
    fs::remove_file(doomed)?;
    for number in (0..300_u64).step_by(5) {
        let home = folder.join(format!("home/user{}/{}", number % 3, number % 7));
        fs::remove_file(home.join(format!("note {number}.txt")))?;
    }
    let text = "A line that repeats itself compresses well.\n".repeat(100_000);
    fs::write(folder.join("log"), text)?;
    fs::write(folder.join("photo.raw"), filler(seed, 9_000_000))?;
    sparse::create(&folder.join("holes"), Bytes::mib(64))?;
    symlink("home/user1", folder.join("me"))?;
    symlink("../nowhere", folder.join("dangling"))?;
    fs::hard_link(folder.join("log"), folder.join("log.link"))?;
    fs::create_dir(folder.join("empty"))?;
    fs::set_permissions(folder.join("photo.raw"), fs::Permissions::from_mode(0o4711))
        .context("cannot set permissions")
}

/// `length` bytes that do not compress, always the same for one `seed`.
pub(crate) fn filler(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
