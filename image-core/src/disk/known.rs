//! The signatures that are known: names and places as in libblkid's `superblocks` and `partitions`.

use super::confirm::{self, Confirm};
use super::probe::Usage;
use crate::extent::Extent;
use crate::units::Bytes;

/// One kind of content.
pub(super) struct Known {
    pub(super) name: &'static str,
    pub(super) usage: Usage,
    pub(super) marks: &'static [Mark],
    pub(super) confirm: Confirm,
}

impl Known {
    /// Whether a hit of that name came from here; a confirmation may have made it more precise.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name == name
            || confirm::FAMILIES.iter().any(|(of, names)| *of == self.name && names.contains(&name))
    }
}

/// Where one structure stands and what tells that it does.
pub(super) struct Mark {
    from: From,
    /// The magic bytes' distance from the structure's start.
    inside: u64,
    /// Any of these.
    pub(super) magics: &'static [&'static [u8]],
    /// The magic bytes may also stand this much further, so many times.
    step: u64,
    count: u64,
    pub(super) copy: bool,
}

/// Where a structure starts.
enum From {
    /// At this byte.
    Start(u64),
    /// This much before the end, rounded down to a multiple of the grain first.
    End { grain: u64, back: u64 },
}

impl Mark {
    const fn copy(self) -> Self {
        Self { copy: true, ..self }
    }

    const fn every(self, step: u64, count: u64) -> Self {
        Self { step, count, ..self }
    }

    /// Where the structure starts in a volume of `size`, if it has room.
    pub(super) fn structure(&self, size: Bytes) -> Option<Bytes> {
        match self.from {
            From::Start(at) => Some(Bytes::new(at)).filter(|at| *at < size),
            From::End { grain, back } => {
                size.align_down(Bytes::new(grain)).checked_sub(Bytes::new(back))
            }
        }
    }

    /// Where its magic bytes may stand in a volume of `size`.
    pub(super) fn places(&self, size: Bytes) -> impl Iterator<Item = Extent> {
        let longest = self.magics.iter().map(|magic| Bytes::of(magic)).max().unwrap_or_default();
        let start = self.structure(size);
        (0..self.count).filter_map(move |index| {
            let at =
                Bytes::new(self.inside).checked_add(Bytes::new(self.step).checked_mul(index)?)?;
            Extent::at(start?.checked_add(at)?, longest).filter(|place| place.end <= size)
        })
    }
}

const fn at(structure: u64, inside: u64, magics: &'static [&'static [u8]]) -> Mark {
    Mark { from: From::Start(structure), inside, magics, step: 0, count: 1, copy: false }
}

const fn end(grain: u64, back: u64, inside: u64, magics: &'static [&'static [u8]]) -> Mark {
    Mark { from: From::End { grain, back }, inside, magics, step: 0, count: 1, copy: false }
}

/// On the `back`th sector of 512 bytes from the end.
const fn last(back: u64, inside: u64, magics: &'static [&'static [u8]]) -> Mark {
    end(512, back * 512, inside, magics)
}

const fn known(
    name: &'static str,
    usage: Usage,
    marks: &'static [Mark],
    confirm: Confirm,
) -> Known {
    Known { name, usage, marks, confirm }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

const MD: &[&[u8]] = &[b"\xfc\x4e\x2b\xa9"];
const MD_EITHER: &[&[u8]] = &[b"\xfc\x4e\x2b\xa9", b"\xa9\x2b\x4e\xfc"];
const PROMISE: &[&[u8]] = &[b"Promise Technology, Inc."];
const BCACHEFS: &[&[u8]] = &[b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"];
const DRBD: &[&[u8]] = &[b"\x83\x74\x02\x6b", b"\x83\x74\x02\x6c", b"\x83\x74\x02\x6d"];
const LVM2: &[&[u8]] = &[b"LVM2 001"];
const STRATIS: &[&[u8]] = &[b"!Stra0tis\x86\xff\x02^\x41rh"];
const LUKS_SECOND: &[&[u8]] = &[b"SKUL\xba\xbe"];
const SWAP: &[&[u8]] = &[b"SWAPSPACE2", b"SWAP-SPACE"];
const HIBERNATED: &[&[u8]] = &[b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"];
const OCFS2: &[&[u8]] = &[b"OCFSV2"];
const BTRFS: &[&[u8]] = &[b"_BHRfS_M"];
const F2FS: &[&[u8]] = &[b"\x10\x20\xf5\xf2"];
const NILFS: &[&[u8]] = &[b"\x34\x34"];
const GPT: &[&[u8]] = &[b"EFI PART"];
const BSD: &[&[u8]] = &[b"\x57\x45\x56\x82"];
const NTFS: &[&[u8]] = &[b"NTFS    "];
const EXFAT: &[&[u8]] = &[b"EXFAT   "];
const MINIX: &[&[u8]] = &[
    b"\x7f\x13",
    b"\x8f\x13",
    b"\x13\x7f",
    b"\x13\x8f",
    b"\x68\x24",
    b"\x78\x24",
    b"\x24\x68",
    b"\x24\x78",
];
/// UFS1, UFS2 and the variants, little- and big-endian.
const UFS: &[&[u8]] = &[
    b"\x54\x19\x01\x00",
    b"\x00\x01\x19\x54",
    b"\x19\x01\x54\x19",
    b"\x19\x54\x01\x19",
    b"\x12\x56\x19\x00",
    b"\x00\x19\x56\x12",
    b"\x14\x50\x09\x00",
    b"\x00\x09\x50\x14",
    b"\x95\x21\x61\x00",
    b"\x00\x61\x21\x95",
    b"\x94\x19\x23\x05",
    b"\x05\x23\x19\x94",
];
/// Uberblocks in either byte order; newer libblkid looks at the label's name-value list instead.
const UBERBLOCK: &[&[u8]] = &[b"\x0c\xb1\xba\0\0\0\0\0", b"\0\0\0\0\0\xba\xb1\x0c"];
const ZFS_LIST: &[&[u8]] = &[b"\x01\x01\0\0\0\0\0\0", b"\x01\0\0\0\0\0\0\0"];
const ZFS_LABEL: u64 = 256 * KIB;
const ZFS_SLOTS: u64 = 128;

const fn uberblocks(label: Mark) -> Mark {
    Mark { inside: 128 * KIB, magics: UBERBLOCK, ..label }.every(KIB, ZFS_SLOTS)
}

/// Every kind, members of something larger first.
pub(super) const KNOWN: &[Known] = &[
    known(
        "linux_raid_member",
        Usage::Raid,
        &[
            end(64 * KIB, 64 * KIB, 0, MD_EITHER),
            end(4 * KIB, 8 * KIB, 0, MD),
            at(0, 0, MD),
            at(4 * KIB, 0, MD),
        ],
        confirm::md,
    ),
    known(
        "ddf_raid_member",
        Usage::Raid,
        &[last(1, 0, &[b"\xde\x11\xde\x11"]), last(257, 0, &[b"\xde\x11\xde\x11"])],
        confirm::magic,
    ),
    known(
        "isw_raid_member",
        Usage::Raid,
        &[
            last(2, 0, &[b"Intel Raid ISM Cfg Sig. "]),
            end(4 * KIB, 8 * KIB, 0, &[b"Intel Raid ISM Cfg Sig. "]),
        ],
        confirm::magic,
    ),
    known("lsi_mega_raid_member", Usage::Raid, &[last(1, 0, &[b"$XIDE$"])], confirm::magic),
    known("via_raid_member", Usage::Raid, &[last(1, 0, &[b"\x55\xaa"])], confirm::via),
    known(
        "silicon_medley_raid_member",
        Usage::Raid,
        &[last(1, 0x60, &[b"\0\0\0\x2f"])],
        confirm::silicon,
    ),
    known("nvidia_raid_member", Usage::Raid, &[last(2, 0, &[b"NVIDIA  "])], confirm::magic),
    known(
        "promise_fasttrack_raid_member",
        Usage::Raid,
        &[
            last(63, 0, PROMISE),
            last(255, 0, PROMISE),
            last(256, 0, PROMISE),
            last(16, 0, PROMISE),
            last(399, 0, PROMISE),
            last(591, 0, PROMISE),
            last(675, 0, PROMISE),
            last(735, 0, PROMISE),
            last(911, 0, PROMISE),
            last(974, 0, PROMISE),
            last(991, 0, PROMISE),
            last(951, 0, PROMISE),
            last(3087, 0, PROMISE),
        ],
        confirm::magic,
    ),
    known(
        "hpt45x_raid_member",
        Usage::Raid,
        &[last(11, 0, &[b"\xf3\x16\x78\x5a", b"\xfd\x16\x78\x5a"])],
        confirm::magic,
    ),
    known(
        "hpt37x_raid_member",
        Usage::Raid,
        &[at(4608, 32, &[b"\xf0\x16\x78\x5a", b"\xfd\x16\x78\x5a"])],
        confirm::magic,
    ),
    known(
        "adaptec_raid_member",
        Usage::Raid,
        &[last(1, 0, &[b"\x37\xfc\x4d\x1e"])],
        confirm::magic,
    ),
    known("jmicron_raid_member", Usage::Raid, &[last(1, 0, &[b"JM"])], confirm::jmicron),
    known(
        "bcache",
        Usage::Other,
        &[at(4 * KIB, 24, &[b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"])],
        confirm::magic,
    ),
    known(
        "bcachefs",
        Usage::Filesystem,
        &[
            at(4 * KIB, 24, BCACHEFS),
            at(2 * MIB, 24, BCACHEFS).copy(),
            end(1, MIB, 24, BCACHEFS).copy(),
        ],
        confirm::magic,
    ),
    known(
        "ceph_bluestore",
        Usage::Other,
        &[at(0, 0, &[b"bluestore block device"])],
        confirm::magic,
    ),
    known(
        "drbd",
        Usage::Raid,
        &[end(1, 4 * KIB, 60, DRBD), end(4 * KIB, 4 * KIB, 60, DRBD)],
        confirm::drbd,
    ),
    known(
        "LVM2_member",
        Usage::Raid,
        &[at(512, 0x18, LVM2), at(0, 0x18, LVM2), at(1024, 0x18, LVM2), at(1536, 0x18, LVM2)],
        confirm::magic,
    ),
    known("LVM1_member", Usage::Raid, &[at(0, 0, &[b"HM\x01\0", b"HM\x02\0"])], confirm::magic),
    known("DM_snapshot_cow", Usage::Other, &[at(0, 0, &[b"SnAp"])], confirm::magic),
    known("DM_verity_hash", Usage::Crypto, &[at(0, 0, &[b"verity\0\0"])], confirm::magic),
    known("DM_integrity", Usage::Crypto, &[at(0, 0, &[b"integrt\0"])], confirm::magic),
    known(
        "crypto_LUKS",
        Usage::Crypto,
        &[
            at(0, 0, &[b"LUKS\xba\xbe"]),
            at(0x4000, 0, LUKS_SECOND).copy(),
            at(0x8000, 0, LUKS_SECOND).copy(),
            at(0x10000, 0, LUKS_SECOND).copy(),
            at(0x20000, 0, LUKS_SECOND).copy(),
            at(0x40000, 0, LUKS_SECOND).copy(),
            at(0x80000, 0, LUKS_SECOND).copy(),
            at(0x0010_0000, 0, LUKS_SECOND).copy(),
            at(0x0020_0000, 0, LUKS_SECOND).copy(),
            at(0x0040_0000, 0, LUKS_SECOND).copy(),
        ],
        confirm::luks,
    ),
    known("VMFS_volume_member", Usage::Raid, &[at(MIB, 0, &[b"\x0d\xd0\x01\xc0"])], confirm::magic),
    known("VMFS", Usage::Filesystem, &[at(2 * MIB, 0, &[b"\x5e\xf1\xab\x2f"])], confirm::magic),
    known("ubi", Usage::Raid, &[at(0, 0, &[b"UBI#"])], confirm::magic),
    known("vdo", Usage::Other, &[at(0, 0, &[b"dmvdo001"])], confirm::magic),
    known(
        "stratis",
        Usage::Raid,
        &[at(512, 4, STRATIS), at(9 * 512, 4, STRATIS).copy()],
        confirm::magic,
    ),
    known(
        "BitLocker",
        Usage::Crypto,
        &[at(0, 0, &[b"\xeb\x52\x90-FVE-FS-", b"\xeb\x58\x90-FVE-FS-", b"\xeb\x58\x90MSWIN4.1"])],
        confirm::bitlocker,
    ),
    known(
        "vfat",
        Usage::Filesystem,
        &[
            at(0, 0x52, &[b"MSWIN", b"FAT32   "]),
            at(0, 0x36, &[b"MSDOS", b"FAT16   ", b"FAT12   ", b"FAT     "]),
            at(0, 510, &[b"\x55\xaa"]),
            at(6 * 512, 0x52, &[b"FAT32   "]).copy(),
        ],
        confirm::fat,
    ),
    known(
        "swsuspend",
        Usage::Other,
        &[
            at(0, 0, &[b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c"]),
            at(0, 0xff6, HIBERNATED),
            at(0, 0x1ff6, HIBERNATED),
            at(0, 0x3ff6, HIBERNATED),
            at(0, 0x7ff6, HIBERNATED),
            at(0, 0xfff6, HIBERNATED),
        ],
        confirm::magic,
    ),
    known(
        "swap",
        Usage::Other,
        &[
            at(0, 0xff6, SWAP),
            at(0, 0x1ff6, SWAP),
            at(0, 0x3ff6, SWAP),
            at(0, 0x7ff6, SWAP),
            at(0, 0xfff6, SWAP),
        ],
        confirm::magic,
    ),
    known("xfs", Usage::Filesystem, &[at(0, 0, &[b"XFSB"])], confirm::magic),
    known(
        "xfs_external_log",
        Usage::Other,
        &[at(0, 0, &[b"\xfe\xed\xba\xbe"]).every(512, 512)],
        confirm::xfs_log,
    ),
    known("ext2", Usage::Filesystem, &[at(KIB, 0x38, &[b"\x53\xef"])], confirm::ext),
    known(
        "reiserfs",
        Usage::Filesystem,
        &[
            at(64 * KIB, 0x34, &[b"ReIsEr2Fs", b"ReIsEr3Fs", b"ReIsErFs"]),
            at(8 * KIB, 0x34, &[b"ReIsErFs"]),
            at(8 * KIB, 20, &[b"ReIsErFs"]),
        ],
        confirm::magic,
    ),
    known("reiser4", Usage::Filesystem, &[at(64 * KIB, 0, &[b"ReIsEr4"])], confirm::magic),
    known("jfs", Usage::Filesystem, &[at(32 * KIB, 0, &[b"JFS1"])], confirm::magic),
    known(
        "iso9660",
        Usage::Filesystem,
        &[at(32 * KIB, 1, &[b"CD001"]), at(32 * KIB, 9, &[b"CDROM"])],
        confirm::magic,
    ),
    known(
        "udf",
        Usage::Filesystem,
        &[at(32 * KIB, 1, &[b"NSR02", b"NSR03"]).every(2 * KIB, 16)],
        confirm::magic,
    ),
    known(
        "zfs_member",
        Usage::Filesystem,
        &[
            uberblocks(at(0, 0, &[])),
            at(0, 16 * KIB, ZFS_LIST),
            uberblocks(at(ZFS_LABEL, 0, &[])),
            at(ZFS_LABEL, 16 * KIB, ZFS_LIST),
            uberblocks(end(ZFS_LABEL, 2 * ZFS_LABEL, 0, &[])),
            end(ZFS_LABEL, 2 * ZFS_LABEL, 16 * KIB, ZFS_LIST),
            uberblocks(end(ZFS_LABEL, ZFS_LABEL, 0, &[])),
            end(ZFS_LABEL, ZFS_LABEL, 16 * KIB, ZFS_LIST),
        ],
        confirm::zfs,
    ),
    known(
        "hfsplus",
        Usage::Filesystem,
        &[at(KIB, 0, &[b"H+\0\x04", b"HX\0\x05", b"H+\0\x05", b"HX\0\x04"])],
        confirm::magic,
    ),
    known("hfs", Usage::Filesystem, &[at(KIB, 0, &[b"BD"])], confirm::hfs),
    known(
        "ufs",
        Usage::Filesystem,
        &[
            at(0, 0x55c, UFS),
            at(8 * KIB, 0x55c, UFS),
            at(64 * KIB, 0x55c, UFS),
            at(256 * KIB, 0x55c, UFS),
        ],
        confirm::magic,
    ),
    known("hpfs", Usage::Filesystem, &[at(8 * KIB, 0, &[b"\x49\xe8\x95\xf9"])], confirm::magic),
    known("ntfs", Usage::Filesystem, &[at(0, 3, NTFS), last(1, 3, NTFS).copy()], confirm::ntfs),
    known("ReFS", Usage::Filesystem, &[at(0, 0, &[b"\0\0\0ReFS\0"])], confirm::magic),
    known(
        "cramfs",
        Usage::Filesystem,
        &[at(0, 0, &[b"\x45\x3d\xcd\x28", b"\x28\xcd\x3d\x45"])],
        confirm::magic,
    ),
    known("romfs", Usage::Filesystem, &[at(0, 0, &[b"-rom1fs-"])], confirm::magic),
    known(
        "minix",
        Usage::Filesystem,
        &[at(KIB, 0x10, MINIX), at(KIB, 0x18, &[b"\x5a\x4d", b"\x4d\x5a"])],
        confirm::minix,
    ),
    known("gfs2", Usage::Filesystem, &[at(64 * KIB, 0, &[b"\x01\x16\x19\x70"])], confirm::gfs),
    known("ocfs", Usage::Filesystem, &[at(8 * KIB, 0, &[b"OracleCFS"])], confirm::magic),
    known(
        "ocfs2",
        Usage::Filesystem,
        &[at(KIB, 0, OCFS2), at(2 * KIB, 0, OCFS2), at(4 * KIB, 0, OCFS2), at(8 * KIB, 0, OCFS2)],
        confirm::magic,
    ),
    known("oracleasm", Usage::Filesystem, &[at(0, 32, &[b"ORCLDISK"])], confirm::magic),
    known(
        "vxfs",
        Usage::Filesystem,
        &[at(KIB, 0, &[b"\xf5\xfc\x01\xa5"]), at(8 * KIB, 0, &[b"\xa5\x01\xfc\xf5"])],
        confirm::magic,
    ),
    known("squashfs", Usage::Filesystem, &[at(0, 0, &[b"hsqs", b"sqsh"])], confirm::magic),
    known(
        "btrfs",
        Usage::Filesystem,
        &[
            at(64 * KIB, 0x40, BTRFS),
            at(64 * MIB, 0x40, BTRFS).copy(),
            at(256 * KIB * MIB, 0x40, BTRFS).copy(),
        ],
        confirm::btrfs,
    ),
    known(
        "nilfs2",
        Usage::Filesystem,
        &[
            at(KIB, 6, NILFS),
            end(512, 4 * KIB, 6, NILFS).copy(),
            end(4 * KIB, 4 * KIB, 6, NILFS).copy(),
        ],
        confirm::nilfs,
    ),
    known(
        "exfat",
        Usage::Filesystem,
        &[at(0, 3, EXFAT), at(12 * 512, 3, EXFAT).copy(), at(12 * 4 * KIB, 3, EXFAT).copy()],
        confirm::exfat,
    ),
    known(
        "f2fs",
        Usage::Filesystem,
        &[at(KIB, 0, F2FS), at(5 * KIB, 0, F2FS).copy()],
        confirm::magic,
    ),
    known("apfs", Usage::Filesystem, &[at(0, 32, &[b"NXSB"])], confirm::magic),
    known("erofs", Usage::Filesystem, &[at(KIB, 0, &[b"\xe2\xe1\xf5\xe0"])], confirm::magic),
    known("zonefs", Usage::Filesystem, &[at(0, 0, &[b"SFOZ"])], confirm::magic),
    known(
        "gpt",
        Usage::Table,
        &[
            at(512, 0, GPT),
            at(4 * KIB, 0, GPT),
            last(1, 0, GPT).copy(),
            end(4 * KIB, 4 * KIB, 0, GPT).copy(),
        ],
        confirm::magic,
    ),
    known("dos", Usage::Table, &[at(0, 510, &[b"\x55\xaa"])], confirm::dos),
    known("mac", Usage::Table, &[at(512, 0, &[b"PM\0\0"])], confirm::magic),
    known("sgi", Usage::Table, &[at(0, 0, &[b"\x0b\xe5\xa9\x41"])], confirm::magic),
    known("sun", Usage::Table, &[at(0, 508, &[b"\xda\xbe"])], confirm::sun),
    known("bsd", Usage::Table, &[at(512, 0, BSD), at(0, 64, BSD), at(0, 128, BSD)], confirm::magic),
];
