//! Targets as restores meet them: every byte something else than zero, and old signatures everywhere.
//!
//! A target full of zeros would hide what a restore forgets to write. Where a tool can make the
//! structure it does; md and ZFS need kernel modules, so theirs are written here.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use image_core::extent::Extent;
use image_core::units::Bytes;
use tempfile::TempDir;

use crate::filesystem::{self, uuid};
use crate::vg::{Segment, Vg};
use crate::{run, sparse};

/// A structure that an earlier life left behind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Old {
    /// An XFS superblock, at the start.
    Xfs,
    /// The label of a physical volume of the group `oldvg` and its metadata.
    Lvm,
    /// A swap header: at 1 KiB, and `SWAPSPACE2` at the end of the page.
    Swap,
    /// An ext4 superblock, at 1 KiB: it takes the place of swap's header.
    Ext,
    /// A btrfs superblock at 64 KiB and its mirror at 64 MiB.
    Btrfs,
    /// ZFS uberblocks in the two labels at the start and the two at the end.
    Zfs,
    /// An md superblock 1.2, at 4 KiB: it takes the place of LVM's metadata.
    Md12,
    /// An md superblock 0.90, in the last 128 KiB.
    Md090,
    /// An md superblock 1.0, in the last 12 KiB.
    Md10,
    /// A backup GPT, at the end.
    GptBackup,
}

impl Old {
    /// All of them; in this order none hides another but where it says so.
    pub const ALL: [Self; 10] = [
        Self::Xfs,
        Self::Lvm,
        Self::Swap,
        Self::Ext,
        Self::Btrfs,
        Self::Zfs,
        Self::Md12,
        Self::Md090,
        Self::Md10,
        Self::GptBackup,
    ];
}

/// Makes the file `path`, or overwrites it, with `size` bytes none of which is zero.
///
/// # Errors
/// Writing fails.
pub fn fill(path: &Path, size: Bytes) -> Result<()> {
    let mut block = vec![0; 1 << 20];
    blake3::Hasher::new().update(b"garbage").finalize_xof().fill(&mut block);
    block.iter_mut().for_each(|byte| *byte = (*byte).max(1));
    let mut file = fs::File::create(path).with_context(|| format!("cannot create {path:?}"))?;
    let mut left = size.get();
    while left > 0 {
        let length = usize::try_from(left)?.min(block.len());
        file.write_all(block.get(..length).context("block")?)?;
        left -= u64::try_from(length)?;
    }
    Ok(())
}

/// Plants old signatures in the file `path`; needs root and loop devices for [`Old::Lvm`].
///
/// # Errors
/// A tool fails.
pub fn plant(path: &Path, signatures: &[Old]) -> Result<()> {
    let size = Bytes::new(fs::metadata(path)?.len());
    let whole = Segment { start: Bytes::ZERO, file: path.to_owned(), extent: Extent::first(size) };
    plant_in(&[whole], signatures)
}

/// Plants old signatures in a volume that consists of these runs; those that have no room are left out.
///
/// # Errors
/// A tool fails.
pub fn plant_in(runs: &[Segment], signatures: &[Old]) -> Result<()> {
    let size = runs.iter().map(|run| run.extent.len()).sum();
    for old in signatures {
        for (at, bytes) in structures(*old, size)? {
            let Some(structure) = Extent::at(at, Bytes::of(&bytes)) else { continue };
            for run in runs {
                let volume = Extent::first(run.extent.len()).shifted(run.start);
                let Some(part) = volume.intersect(structure) else { continue };
                let piece = part.relative_to(at);
                let piece =
                    piece.start.index().context("piece")?..piece.end.index().context("piece")?;
                let at = run.extent.start + (part.start - run.start);
                let bytes = bytes.get(piece).context("a piece of the structure")?;
                OpenOptions::new().write(true).open(&run.file)?.write_all_at(bytes, at.get())?;
            }
        }
    }
    Ok(())
}

/// Bytes at their place in a volume.
type Structure = (Bytes, Vec<u8>);

/// What `old` leaves on a volume of `size`.
fn structures(old: Old, size: Bytes) -> Result<Vec<Structure>> {
    let from_end = |grain: Bytes, back: Bytes| size.align_down(grain).checked_sub(back);
    Ok(match old {
        Old::Zfs => zfs(size),
        Old::Md12 => vec![(Bytes::kib(4), md_1(Bytes::kib(4)))],
        Old::Md10 => {
            from_end(Bytes::kib(4), Bytes::kib(8)).map(|at| (at, md_1(at))).into_iter().collect()
        }
        Old::Md090 => {
            from_end(Bytes::kib(64), Bytes::kib(64)).map(|at| (at, md_090())).into_iter().collect()
        }
        Old::GptBackup => backup_gpt(size)?,
        Old::Xfs | Old::Lvm | Old::Ext | Old::Swap | Old::Btrfs => {
            static MADE: Mutex<BTreeMap<Old, Vec<Structure>>> = Mutex::new(BTreeMap::new());
            let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
            match made.get(&old) {
                Some(have) => have.clone(),
                None => made.entry(old).or_insert(made_by_a_tool(old)?).clone(),
            }
        }
    })
}

/// The first structures of a volume of 300 MiB as its tool makes it.
fn made_by_a_tool(old: Old) -> Result<Vec<Structure>> {
    let work = TempDir::new()?;
    let (made, size) = (work.path().join("made"), Bytes::mib(300));
    sparse::create(&made, size)?;
    let sector = Bytes::new(512);
    let places = match old {
        Old::Xfs => {
            filesystem::xfs(&made, size, ["old", &uuid()?])?;
            vec![(Bytes::ZERO, sector)]
        }
        Old::Lvm => {
            drop(Vg::create("oldvg", &[(made.clone(), Extent::first(size))])?);
            vec![(sector, sector), (Bytes::kib(4), Bytes::kib(8))]
        }
        Old::Ext => {
            run!("mke2fs", "-q", "-F", "-t", "ext4", &made)?;
            vec![(Bytes::KIB, Bytes::KIB)]
        }
        Old::Swap => {
            filesystem::swap(&made, size, ["old", &uuid()?])?;
            vec![(Bytes::KIB, sector), (Bytes::new(4086), Bytes::new(10))]
        }
        _ => {
            run!("mkfs.btrfs", "-q", "-f", &made)?;
            vec![(Bytes::kib(64), Bytes::kib(4)), (Bytes::mib(64), Bytes::kib(4))]
        }
    };
    places.into_iter().map(|(at, length)| Ok((at, read(&made, at, length)?))).collect()
}

fn read(file: &Path, at: Bytes, length: Bytes) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length.index().context("length")?];
    fs::File::open(file)?.read_exact_at(&mut bytes, at.get())?;
    Ok(bytes)
}

/// The last sectors of a disk with one partition.
fn backup_gpt(size: Bytes) -> Result<Vec<Structure>> {
    if size < Bytes::mib(4) {
        return Ok(Vec::new());
    }
    let work = TempDir::new()?;
    let made = work.path().join("made");
    sparse::create(&made, size)?;
    // 24 entries: 128 would lie where md 1.0 has its superblock.
    run!("sgdisk", "--resize-table=24", "-n1:2048:+1M", &made)?;
    let length = Bytes::new(7 * 512);
    let at = size.align_down(Bytes::new(512)) - length;
    Ok(vec![(at, read(&made, at, length)?)])
}

/// Uberblocks in the second half of each label; source: the ZFS on-disk specification, chapter 1.
fn zfs(size: Bytes) -> Vec<Structure> {
    const MAGIC: u64 = 0x00ba_b10c;
    let label = Bytes::kib(256);
    let mut uberblock = [0; 1024];
    for (field, value) in [MAGIC, 5000, 4, 1234, 1_700_000_000].into_iter().enumerate() {
        uberblock[field * 8..][..8].copy_from_slice(&value.to_le_bytes());
    }
    let ring = uberblock.repeat(128);
    let end = size.align_down(label);
    let back = |labels: u64| end.checked_sub(Bytes::kib(256 * labels));
    [Some(Bytes::ZERO), Some(label), back(2), back(1)]
        .into_iter()
        .flatten()
        .map(|start| (start + Bytes::kib(128), ring.clone()))
        .collect()
}

/// The magic number of all md superblocks.
const MD_MAGIC: u32 = 0xa92b_4efc;

/// A member of a two-disk mirror; source: `struct mdp_superblock_1` in Linux's `raid/md_p.h`.
fn md_1(at: Bytes) -> Vec<u8> {
    let mut block = [0; 260];
    let mut put = |offset: usize, bytes: &[u8]| {
        block[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0, &MD_MAGIC.to_le_bytes());
    put(4, &1_u32.to_le_bytes()); // major_version
    put(16, b"old array's uuid"); // set_uuid
    put(32, b"old:0"); // set_name
    put(72, &1_u32.to_le_bytes()); // level
    put(80, &65_536_u64.to_le_bytes()); // size, in sectors
    put(92, &2_u32.to_le_bytes()); // raid_disks
    put(128, &2048_u64.to_le_bytes()); // data_offset
    put(136, &65_536_u64.to_le_bytes()); // data_size
    put(144, &at.units(Bytes::new(512)).to_le_bytes()); // super_offset
    put(168, b"old device's uid"); // device_uuid
    put(200, &7_u64.to_le_bytes()); // events
    put(208, &u64::MAX.to_le_bytes()); // resync_offset: in sync
    put(220, &2_u32.to_le_bytes()); // max_dev
    put(256, &[0, 0, 1, 0]); // dev_roles
    let sum = md_checksum(&block);
    block[216..220].copy_from_slice(&sum.to_le_bytes());
    block.to_vec()
}

/// The same in the old format of 1024 words; source: `struct mdp_superblock_s` in `raid/md_p.h`.
fn md_090() -> Vec<u8> {
    let mut words = [0_u32; 1024];
    words[0] = MD_MAGIC;
    words[2] = 90; // minor_version
    words[5] = 0x6b65_696b; // set_uuid0
    words[7] = 1; // level
    words[8] = 65_536; // size, in KiB
    words[9] = 2; // nr_disks
    words[10] = 2; // raid_disks
    words[33] = 1; // state: clean
    words[34] = 2; // active_disks
    words[35] = 2; // working_disks
    words[39] = 7; // events
    for disk in 0..2 {
        // number, major, minor, raid_disk, state (active and in sync)
        let entry = [disk, 8, disk * 16, disk, 6];
        let start = if disk == 0 { 128 } else { 160 };
        words[start..start + 5].copy_from_slice(&entry);
    }
    words[992..997].copy_from_slice(&[0, 8, 0, 0, 6]); // this_disk
    let bytes =
        |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    words[38] = md_checksum(&bytes(&words));
    bytes(&words)
}

/// The sum of all 32-bit words with its carries added once; source: `calc_sb_csum` in mdadm.
fn md_checksum(block: &[u8]) -> u32 {
    let (words, _) = block.as_chunks::<4>();
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_le_bytes(*word))).sum();
    let folded = (sum & 0xffff_ffff) + (sum >> 32);
    u32::try_from(folded & 0xffff_ffff).unwrap_or_default()
}
