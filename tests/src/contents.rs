//! A filesystem of each kind that Keiki maps, with files in it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use image_core::units::Bytes;
use tempfile::TempDir;

use crate::filesystem::{self, uuid};
use crate::{call, run, sparse, tool};

/// A kind of content, and how it is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content {
    /// A name for it.
    pub name: &'static str,
    /// The program that makes it, with its arguments.
    pub made_by: &'static str,
    /// The smallest size that makes sense.
    pub size: Bytes,
    /// Whether a tool makes it larger: resize2fs is not trusted with bigalloc.
    pub grows: bool,
}

const fn content(name: &'static str, made_by: &'static str, mib: u64, grows: bool) -> Content {
    Content { name, made_by, size: Bytes::mib(mib), grows }
}

/// Every kind.
pub const ALL: [Content; 12] = [
    content("ext2", "mke2fs -q -F -t ext2", 40, true),
    content("ext3", "mke2fs -q -F -t ext3 -b 1024", 40, true),
    content("ext4-1k", "mke2fs -q -F -t ext4 -b 1024", 64, true),
    content("ext4-4k", "mke2fs -q -F -t ext4 -b 4096", 72, true),
    content("ext4-bigalloc", "mke2fs -q -F -t ext4 -b 4096 -O bigalloc -C 65536", 96, false),
    content(
        "ext4-meta-bg",
        "mke2fs -q -F -t ext4 -b 1024 -g 1024 -O meta_bg,^resize_inode",
        40,
        true,
    ),
    content("xfs", "mkfs.xfs -q -f", 320, true),
    content("fat12", "mkfs.vfat -F 12 -s 64", 36, false),
    content("fat16", "mkfs.vfat -F 16 -s 8", 40, false),
    content("fat32", "mkfs.vfat -F 32 -s 1", 40, false),
    content("swap", "mkswap -q", 32, true),
    content("raw", "", 8, false),
];

/// The kind of this name.
///
/// # Errors
/// There is none.
pub fn named(name: &str) -> Result<Content> {
    ALL.into_iter().find(|content| content.name == name).with_context(|| format!("no {name}"))
}

impl Content {
    /// Makes it in the file `image` of `size`; `seed` makes its files differ. Needs root and loop devices.
    ///
    /// # Errors
    /// A tool fails.
    pub fn make(&self, image: &Path, size: Bytes, seed: u64) -> Result<()> {
        sparse::create(image, size)?;
        if self.made_by.is_empty() {
            let mut bytes = vec![0; 300_000];
            blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
            return Ok(fs::write(image, &bytes)?).and_then(|()| {
                fs::File::options().write(true).open(image)?.set_len(size.get())?;
                Ok(())
            });
        }
        let mut words = self.made_by.split(' ');
        let mut made = call!(words.next().context("a program")?);
        made.args.extend(words.map(Into::into));
        let (label, id) = (format!("L{seed}"), uuid()?);
        let identity: Vec<String> = match self.made_by {
            line if line.starts_with("mkfs.xfs") => {
                vec!["-L".into(), label, "-m".into(), format!("uuid={id}")]
            }
            line if line.starts_with("mkfs.vfat") => {
                vec!["-n".into(), label, "-i".into(), format!("{:08X}", 0x4b45_0000 + seed)]
            }
            _ => vec!["-L".into(), label, "-U".into(), id],
        };
        made.args.extend(identity.into_iter().map(Into::into));
        made.args.push(image.into());
        tool::run(&made)?;
        match self.name {
            "swap" => Ok(()),
            name if name.starts_with("fat") => fill_fat(image, seed),
            _ => filesystem::filled(image, |folder| fill(folder, seed)),
        }
    }
}

/// Files of many sizes, and free space that still holds what was deleted.
fn fill(folder: &Path, seed: u64) -> Result<()> {
    let bytes = |name: u64, length: usize| {
        let mut bytes = vec![0; length];
        let key = [seed.to_le_bytes(), name.to_le_bytes()].concat();
        blake3::Hasher::new().update(&key).finalize_xof().fill(&mut bytes);
        bytes
    };
    fs::write(folder.join("doomed"), bytes(1, 3_000_000))?;
    for number in 0..60_u64 {
        let home = folder.join(format!("home/{}", number % 5));
        fs::create_dir_all(&home)?;
        let length = usize::try_from(number * number * 13 % 40_000)?;
        fs::write(home.join(format!("note {number}")), bytes(number, length))?;
    }
    fs::remove_file(folder.join("doomed"))?;
    fs::write(folder.join("large"), bytes(2, 4_000_001))?;
    sparse::create(&folder.join("holes"), Bytes::mib(16))?;
    std::os::unix::fs::symlink("large", folder.join("link"))?;
    Ok(())
}

fn fill_fat(image: &Path, seed: u64) -> Result<()> {
    let work = TempDir::new()?;
    let copy = |name: &str, length: usize| -> Result<()> {
        let file = work.path().join(name);
        let mut bytes = vec![0; length];
        let key = [&seed.to_le_bytes()[..], name.as_bytes()].concat();
        blake3::Hasher::new().update(&key).finalize_xof().fill(&mut bytes);
        fs::write(&file, bytes)?;
        run!("mcopy", "-i", image, &file, format!("::{name}")).map(drop)
    };
    copy("doomed", 900_000)?;
    copy("kept", 700_001)?;
    run!("mdel", "-i", image, "::doomed")?;
    run!("mmd", "-i", image, "::folder")?;
    copy("a long name.text", 77)?;
    copy("small", 1)
}
