//! Feature flags of the superblock.
//!
//! Source: Linux `Documentation/filesystems/ext4/super.rst`.

/// `s_feature_compat`.
pub(super) mod compat {
    pub(in super::super) const HAS_JOURNAL: u32 = 0x4;
    pub(in super::super) const RESIZE_INODE: u32 = 0x10;
    pub(in super::super) const SPARSE_SUPER2: u32 = 0x200;
    pub(in super::super) const ORPHAN_FILE: u32 = 0x1000;
    /// Beyond the above: dir_prealloc, imagic_inodes, ext_attr, dir_index, fast_commit, stable_inodes.
    pub(super) const KNOWN: u32 =
        HAS_JOURNAL | RESIZE_INODE | SPARSE_SUPER2 | ORPHAN_FILE | 0x1 | 0x2 | 0x8 | 0x20 | 0xC00;
}

/// `s_feature_incompat`.
pub(super) mod incompat {
    pub(in super::super) const FILETYPE: u32 = 0x2;
    pub(in super::super) const RECOVER: u32 = 0x4;
    pub(in super::super) const JOURNAL_DEV: u32 = 0x8;
    pub(in super::super) const META_BG: u32 = 0x10;
    pub(in super::super) const BITS64: u32 = 0x80;
    pub(in super::super) const MMP: u32 = 0x100;
    pub(in super::super) const CSUM_SEED: u32 = 0x2000;
    /// Beyond the above: extents, flex_bg, ea_inode, largedir, inline_data, encrypt, casefold. Not
    /// compression and dirdata, which no kernel.org kernel mounts.
    pub(super) const KNOWN: u32 = FILETYPE
        | RECOVER
        | JOURNAL_DEV
        | META_BG
        | BITS64
        | MMP
        | CSUM_SEED
        | 0x40
        | 0x200
        | 0x400
        | 0x4000
        | 0x8000
        | 0x3_0000;
}

/// `s_feature_ro_compat`.
pub(super) mod ro_compat {
    pub(in super::super) const SPARSE_SUPER: u32 = 0x1;
    pub(super) const LARGE_FILE: u32 = 0x2;
    pub(super) const BTREE_DIR: u32 = 0x4;
    pub(in super::super) const GDT_CSUM: u32 = 0x10;
    pub(in super::super) const BIGALLOC: u32 = 0x200;
    pub(in super::super) const METADATA_CSUM: u32 = 0x400;
    pub(in super::super) const READONLY: u32 = 0x1000;
    pub(in super::super) const SHARED_BLOCKS: u32 = 0x4000;
    pub(in super::super) const ORPHAN_PRESENT: u32 = 0x1_0000;
    /// Beyond the above: huge_file, dir_nlink, extra_isize, quota, project, verity. Not has_snapshot and
    /// replica, which no kernel.org kernel mounts for writing.
    pub(super) const KNOWN: u32 = SPARSE_SUPER
        | LARGE_FILE
        | BTREE_DIR
        | GDT_CSUM
        | BIGALLOC
        | METADATA_CSUM
        | READONLY
        | SHARED_BLOCKS
        | 0x8
        | 0x20
        | 0x40
        | 0x100
        | 0x2000
        | ORPHAN_PRESENT
        | 0x8000;
}

/// The three words of feature flags.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    pub(super) compat: u32,
    pub(super) incompat: u32,
    pub(super) ro_compat: u32,
}

impl Features {
    pub(super) fn has_compat(self, flag: u32) -> bool {
        self.compat & flag != 0
    }

    pub(super) fn has_incompat(self, flag: u32) -> bool {
        self.incompat & flag != 0
    }

    pub(super) fn has_ro_compat(self, flag: u32) -> bool {
        self.ro_compat & flag != 0
    }

    /// The flags that this version does not know, as a noun phrase.
    ///
    /// Unknown compat flags count too: kernels ignore them, but e2fsck refuses to touch such a filesystem.
    pub(super) fn unknown(self) -> Option<String> {
        [
            ("incompat", self.incompat & !incompat::KNOWN),
            ("ro_compat", self.ro_compat & !ro_compat::KNOWN),
            ("compat", self.compat & !compat::KNOWN),
        ]
        .iter()
        .find(|(_, flags)| *flags != 0)
        .map(|(word, flags)| format!("{word} feature {flags:#x}"))
    }

    /// `blkid`'s TYPE, by the rules of util-linux `libblkid/src/superblocks/ext.c`.
    pub(super) fn content(self) -> &'static str {
        let ext3_incompat = incompat::FILETYPE | incompat::RECOVER | incompat::META_BG;
        let ext3_ro_compat = ro_compat::SPARSE_SUPER | ro_compat::LARGE_FILE | ro_compat::BTREE_DIR;
        if self.has_incompat(incompat::JOURNAL_DEV) {
            "jbd"
        } else if self.has_incompat(!ext3_incompat) || self.has_ro_compat(!ext3_ro_compat) {
            "ext4"
        } else if self.has_compat(compat::HAS_JOURNAL) {
            "ext3"
        } else {
            "ext2"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Features;

    #[test]
    fn content_follows_blkid() {
        for (compat, incompat, ro_compat, content) in [
            (0x38, 0x2, 0x3, "ext2"),
            (0x3C, 0x2, 0x3, "ext3"),
            (0x3C, 0x6, 0x3, "ext3"),
            (0x38, 0x12, 0x3, "ext2"),
            (0x38, 0x42, 0x3, "ext4"),
            (0x3C, 0x2, 0xB, "ext4"),
            (0x00, 0x8, 0x0, "jbd"),
            (0x00, 0x8, 0x400, "jbd"),
        ] {
            assert_eq!(Features { compat, incompat, ro_compat }.content(), content);
        }
    }
}
