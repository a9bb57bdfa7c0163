//! Makes the sound containers that inputs change, with the tools of others. They are kept, because what an input
//! changes depends on where everything lies.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image_core::exec::Call;
use image_core::extent::Extent;
use image_core::units::Bytes;
use rustix::fs::{FallocateFlags, fallocate};
use tempfile::TempDir;

use super::edited::{Base, CONTENT};
use super::loaders;
use crate::vg::Vg;
use crate::{call, filesystem, run, sparse, tool};

/// How mke2fs makes each ext; names as in [`super::filesystems`].
const EXT: [(&str, &str, &str); 10] = [
    ("ext4", "-t ext4 -b 1024 -g 1024 -J size=1 -O metadata_csum,64bit,^resize_inode", "6m"),
    ("ext4-gdt-csum", "-t ext4 -b 1024 -g 1024 -J size=1 -O ^metadata_csum,uninit_bg,^64bit", "6m"),
    ("ext2", "-t ext2 -b 1024 -g 1024", "3m"),
    ("ext4-bigalloc", "-t ext4 -b 1024 -J size=1 -O bigalloc,metadata_csum -C 4096", "12m"),
    (
        "ext4-meta-bg",
        "-t ext4 -b 1024 -g 256 -J size=1 -O meta_bg,^resize_inode,metadata_csum",
        "8m",
    ),
    ("ext4-4k", "-t ext4 -b 4096 -J size=4 -O metadata_csum,64bit", "16m"),
    ("journal", "-t ext4 -b 1024 -J size=1 -O metadata_csum,64bit", "6m"),
    ("journal-v2", "-t ext4 -b 1024 -J size=1 -O metadata_csum,^64bit", "6m"),
    ("journal-v3", "-t ext4 -b 1024 -J size=1 -O metadata_csum,64bit", "6m"),
    ("journal-no-csum", "-t ext4 -b 1024 -J size=1 -O ^metadata_csum,^64bit", "6m"),
];
/// How debugfs opens the journals of those that wait.
const JOURNALS: [(&str, &str); 4] = [
    ("journal", "jo"),
    ("journal-v2", "jo -c -v 2"),
    ("journal-v3", "jo -c -v 3"),
    ("journal-no-csum", "jo"),
];
/// What waits in them: a block of the last group, one of a table of inodes, and what takes them back.
const LOG: &str = "jw -b 5000-5002 FILE\njw -r 5000\njw -b 5001,1200 FILE\njc\n";
/// Files are made by mounting it, which no kernel has to do for version 4, or by mkfs.
const XFS: [(&str, &str, bool); 3] = [
    ("xfs-v5", "-d agcount=2 -m crc=1,reflink=0,rmapbt=0", true),
    ("xfs-v4", "-d agcount=2 -m crc=0", false),
    ("xfs-1k", "-d agcount=2 -m crc=1 -b size=1024", true),
];
/// What mkfs puts into one: see mkfs.xfs(8), `-p`.
const PROTOTYPE: &str =
    "/\n0 0\nd--755 0 0\nsmall ---644 0 0 FILE\nfolder d--755 0 0\nlarge ---644 0 0 FILE\n$\n$\n";
const FAT: [(&str, &str, &str); 3] =
    [("fat12", "-F 12 -s 4", "2m"), ("fat16", "-F 16 -s 1", "4m"), ("fat32", "-F 32 -s 1", "34m")];
const SWAP: [(&str, &str); 2] = [("swap", ""), ("swap-64k", "-p 65536")];

/// Makes those whose names are in `wanted`, or all. Needs root and loop devices.
///
/// # Errors
/// A tool is missing or fails.
pub fn make(wanted: &[String]) -> Result<()> {
    let work = Work { folder: TempDir::new()?, wanted };
    work.content()?;
    for (name, options, size) in EXT {
        work.keep(name, |image| work.ext(name, image, options, size))?;
    }
    for (name, options, mounts) in XFS {
        work.keep(name, |image| work.xfs(image, options, mounts))?;
    }
    for (name, options, size) in FAT {
        work.keep(name, |image| work.fat(image, options, size))?;
    }
    for (name, options) in SWAP {
        work.keep(name, |image| {
            sparse::create(image, Bytes::mib(1))?;
            tool::run(&with(call!("mkswap", "-q", "-L", "orchid"), options, image)).map(drop)
        })?;
    }
    work.keep("lvm", |image| lvm(image, "1"))?;
    work.keep("lvm-two", |image| lvm(image, "2"))?;
    work.keep("gpt", gpt)?;
    work.keep("hybrid", |image| {
        gpt(image)?;
        run!("sgdisk", "-h", "1:3", image).map(drop)
    })?;
    work.keep("mbr", mbr)?;
    work.keep("grub", |image| Ok(fs::write(image, work.grub()?)?))?;
    work.keep("record", |image| Ok(fs::write(image, record()?)?))
}

fn with(mut call: Call, options: &str, image: &Path) -> Call {
    call.args.extend(options.split_whitespace().map(Into::into));
    call.args.push(image.into());
    call
}

struct Work<'a> {
    folder: TempDir,
    wanted: &'a [String],
}

impl Work<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes one in a file and keeps it.
    fn keep(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        if !self.wanted.is_empty() && !self.wanted.iter().any(|wanted| wanted == name) {
            return Ok(());
        }
        let image = self.path("image");
        if image.exists() {
            fs::remove_file(&image)?;
        }
        make(&image).with_context(|| format!("cannot make {name}"))?;
        Base::keep(name, &fs::read(&image)?)
    }

    /// Files of some lengths; an input does not reach what is in them.
    fn content(&self) -> Result<()> {
        let folder = self.path("content");
        for number in 0..24_u64 {
            let inner = folder.join(format!("folder{}", number % 3));
            fs::create_dir_all(&inner)?;
            let file = File::create(inner.join(format!("file{number}")))?;
            for block in 0..=number * 3 {
                file.write_all_at(&[CONTENT], block * 1024)?;
            }
        }
        Ok(())
    }

    fn ext(&self, name: &str, image: &Path, options: &str, size: &str) -> Result<()> {
        let mut call =
            call!("mke2fs", "-q", "-F", "-N", "96", "-L", "orchid", "-d", self.path("content"));
        call.args.extend(options.split(' ').map(Into::into));
        call.args.extend([image.into(), size.into()]);
        tool::run(&call)?;
        let Some((_, open)) = JOURNALS.iter().find(|(journal, _)| *journal == name) else {
            return Ok(());
        };
        let block = self.path("block");
        fs::write(&block, [[0x5A; 1024], [0; 1024], [0xC0; 1024]].concat())?;
        let script = format!("{open}\n{LOG}").replace("FILE", &block.display().to_string());
        tool::run(&call!("debugfs", "-w", "-f", "-", image).stdin(script)).map(drop)
    }

    /// With holes in its free space: of a file every second block is taken out.
    fn xfs(&self, image: &Path, options: &str, mounts: bool) -> Result<()> {
        sparse::create(image, Bytes::mib(32))?;
        let prototype = self.path("prototype");
        let file = self.path("content/folder2/file23");
        fs::write(&prototype, PROTOTYPE.replace("FILE", &file.display().to_string()))?;
        let mut call = call!("mkfs.xfs", "-q", "-f", "--unsupported", "-L", "orchid");
        if !mounts {
            call.args.extend(["-p".into(), prototype.into()]);
        }
        tool::run(&with(call, options, image))?;
        if !mounts {
            return Ok(());
        }
        filesystem::filled(image, |folder| {
            let file = File::create(folder.join("file"))?;
            file.write_all_at(&vec![CONTENT; 400 * 4096], 0)?;
            file.sync_all()?;
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            (0..200).try_for_each(|number| Ok(fallocate(&file, flags, number * 8192, 4096)?))
        })?;
        // What was logged on the way would be most of what an input reaches.
        run!("xfs_repair", "-L", image).map(drop)
    }

    fn fat(&self, image: &Path, options: &str, size: &str) -> Result<()> {
        run!("truncate", "-s", size, image)?;
        tool::run(&with(call!("mkfs.fat", "-n", "ORCHID", "-i", "c0ffee00"), options, image))?;
        // What is in use does not begin with the first cluster, nor lie in one piece.
        let large = self.path("large");
        fs::write(&large, vec![CONTENT; 700 << 10])?;
        run!("mcopy", "-i", image, large, "::")?;
        run!("mcopy", "-s", "-i", image, self.path("content"), "::")?;
        run!("mdel", "-i", image, "::large").map(drop)
    }

    /// A disk that begins with what GRUB's would begin with, without a byte of GRUB: see `image-core/src/fixup/grub.rs`
    /// for the fields.
    fn grub(&self) -> Result<Vec<u8>> {
        let mut kernel: Vec<u8> =
            (0..6000_u32).flat_map(|number| (number * number).to_le_bytes()).collect();
        kernel.extend(
            format!("mimg search.fs_uuid {} root\nset prefix=($root)/grub\n", loaders::NAMED)
                .bytes(),
        );
        let file = self.path("kernel");
        fs::write(&file, &kernel)?;
        let options = "--lzma1=lc=3,lp=0,pb=2,dict=64KiB";
        let packed =
            tool::outcome(&call!("xz", "--format=lzma", options, "--stdout", &file))?.stdout;
        // Behind the header of an .lzma file.
        let stream = packed.get(13..).context("no stream")?;
        let mut disk = vec![0; 1024];
        disk[0x5C] = 1;
        disk[0x180..0x184].copy_from_slice(b"GRUB");
        disk.extend([0x90; 2816]);
        disk.extend(stream);
        disk.resize(disk.len().next_multiple_of(512) + 4096, 0);
        let sectors = u16::try_from(disk.len() / 512 - 2)?;
        let put = |disk: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            disk[at..at + bytes.len()].copy_from_slice(bytes)
        };
        put(&mut disk, 512 + 500, &2_u64.to_le_bytes());
        put(&mut disk, 512 + 508, &sectors.to_le_bytes());
        put(&mut disk, 512 + 510, &0x820_u16.to_le_bytes());
        put(&mut disk, 1024 + 8, &u32::try_from(stream.len())?.to_le_bytes());
        put(&mut disk, 1024 + 12, &u32::try_from(kernel.len())?.to_le_bytes());
        put(&mut disk, 1024 + 0x14, &2000_u16.to_le_bytes());
        Ok(disk)
    }
}

fn lvm(image: &Path, copies: &str) -> Result<()> {
    sparse::create(image, Bytes::mib(24))?;
    let vg = Vg::create("vg0", &[(image.to_owned(), Extent::first(Bytes::mib(24)))])?;
    let device = vg.devices().concat();
    vg.lvm("vgremove", vec!["vg0".to_owned()])?;
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    vg.lvm("pvcreate", words(&format!("-ff -y --metadatacopies {copies} {device}")))?;
    vg.lvm("vgcreate", words(&format!("-s 256k --addtag orchid vg0 {device}")))?;
    vg.add("root", Bytes::mib(4), Some(0))?;
    vg.add("home", Bytes::mib(2), Some(0))?;
    vg.extend("root", Bytes::mib(6), Some(0))
}

fn gpt(image: &Path) -> Result<()> {
    sparse::create(image, Bytes::mib(8))?;
    run!(
        "sgdisk",
        "-n",
        "1:2048:+1M",
        "-t",
        "1:ef00",
        "-c",
        "1:esp",
        "-n",
        "3:0:+2M",
        "-t",
        "3:8e00",
        "-n",
        "7:0:0",
        "-c",
        "7:orchid",
        image
    )
    .map(drop)
}

fn mbr(image: &Path) -> Result<()> {
    sparse::create(image, Bytes::mib(16))?;
    let table =
        "label: dos\n2048,2048,c,*\n4096,2048,83\n6144,20480,5\n,2048,83\n,4096,82\n,2048,8e\n";
    tool::run(&call!("sfdisk", "-q", image).stdin(table.to_owned())).map(drop)
}

/// The record of a restore as docs/FORMAT.md describes it, its description not compressed.
fn record() -> Result<Vec<u8>> {
    let about = serde_json::json!({
        "plan": "5a".repeat(32), "target": 0, "at": "2026-11-21T15:28:58Z", "wiped": true, "grain": 1 << 20,
        "old": {"table": null, "pvs": []}, "kept": [{"start": 4096, "end": 8192}, {"start": 65536, "end": 131_072}, {"start": 1 << 20, "end": 1 << 21}],
    });
    let json = about.to_string().into_bytes();
    // One frame of one raw block (RFC 8878, 3.1.1): single segment, its length in two bytes, last block.
    let length = u16::try_from(json.len())?;
    let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0x60];
    frame.extend((length.checked_sub(256).context("too short")?).to_le_bytes());
    frame.extend(&(u32::from(length) << 3 | 1).to_le_bytes()[..3]);
    frame.extend(json);
    let mut slot = b"keiki restore 1\n".to_vec();
    slot.extend(7_u64.to_le_bytes());
    slot.extend(8192_u32.to_le_bytes());
    slot.extend(u32::try_from(frame.len())?.to_le_bytes());
    slot.extend(frame);
    slot.resize(8192 - 32, 0x0F);
    let sum = blake3::hash(&slot);
    slot.splice(32..32, sum.as_bytes().iter().copied());
    let mut target = vec![0; 64 << 10];
    target[16 << 10..][..slot.len()].copy_from_slice(&slot);
    Ok(target)
}
