//! `keiki restore`.

use clap::{Args, ValueEnum};
use image_core::restore;
use image_core::units::Bytes;

/// Restore an image onto disks, partitions or files
///
/// What is on them is lost. The plan is shown first, and each target that exists is confirmed.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  keiki restore server /dev/sdb\n  \
    keiki restore server /dev/sdb --grow vg0/root=rest --dry-run\n  \
    keiki restore server copy.img --size 200GiB")]
pub struct Restore {
    /// NAME (its newest), NAME@ID or NAME@2026-11-20
    #[arg(value_parser = super::image)]
    pub image: String,
    /// One for each disk of the image, in the order of `keiki show`; a file that
    /// does not exist is made
    #[arg(value_name = "TARGET")]
    pub targets: Vec<String>,
    /// Restore this volume only, onto one partition, logical volume or file
    #[arg(long, value_name = "ID")]
    pub volume: Option<String>,
    /// How it comes onto the targets.
    #[command(flatten)]
    pub onto: Onto,
}

/// What every verb takes that overwrites targets.
#[derive(Args, Debug)]
pub struct Onto {
    /// Write tables and volume groups whole, but data to this volume only,
    /// repeatable; the others are left empty
    #[arg(long, value_name = "ID")]
    pub only: Vec<String>,
    /// Leave this partition or logical volume of a target as it is, byte by byte,
    /// repeatable: sdb3, disk.img:3, 3, vg0/data. A partition takes the place of
    /// the image's with the same PARTUUID, or of the one that is named: 3=d0:4;
    /// a logical volume that of its name. The others are laid out around it
    #[arg(long, value_name = "PART")]
    pub keep: Vec<String>,
    /// Put a disk onto this target: `d0=/dev/nvme0n1`; `d1=none` leaves out a
    /// disk that only has physical volumes: what they held follows on the
    /// others. Restores only the volume in `vg0/root=/dev/sdb2`, repeatable
    #[arg(long, value_name = "WHAT=TARGET")]
    pub map: Vec<String>,
    /// Size of target files that do not exist yet [default: that of the source disk]
    #[arg(long)]
    pub size: Option<Bytes>,
    /// Who gets new space: auto, none, proportional, or by name, repeatable:
    /// VOLUME=+20GiB, VOLUME=+50%, VOLUME=rest, VOLUME=fixed [default: auto]
    #[arg(long, value_name = "WHO")]
    pub grow: Vec<String>,
    /// Space that was free on the source may be given away too
    #[arg(long)]
    pub use_free: bool,
    /// What happens to bytes that the source does not use
    #[arg(long, value_enum, default_value_t = Unused::Keep, value_name = "HOW")]
    pub unused: Unused,
    /// Read back what was written
    #[arg(long, value_enum, default_value_t = ReadBack::Full, value_name = "HOW")]
    pub verify: ReadBack,
    /// Look at each piece of the targets first, and write only what differs
    #[arg(long, conflicts_with = "unused")]
    pub only_changed: bool,
    /// Start over where this restore was interrupted before, instead of going on
    #[arg(long)]
    pub fresh: bool,
    /// Confirm a target in advance, repeatable: its serial or WWN, or its path
    /// where it has neither
    #[arg(long, value_name = "X")]
    pub confirm: Vec<String>,
    /// Write although another disk of this machine carries the same volume group
    #[arg(long)]
    pub keep_ids: bool,
    /// Give disks, partitions, filesystems, swap areas and volume groups new identifiers, and rewrite
    /// what names them on the target: so it can run beside its source. If it is interrupted, it starts
    /// over: the identifiers are random, and others each time
    #[arg(long, conflicts_with = "keep_ids")]
    pub new_ids: bool,
    /// The volume group's name with --new-ids [default: NAME-2]
    #[arg(long, value_name = "NAME", requires = "new_ids")]
    pub vg_name: Option<String>,
    /// Print the plan and stop; nothing is written
    #[arg(long)]
    pub dry_run: bool,
    /// Sector size of target files
    #[arg(long, value_name = "SIZE")]
    pub sector_size: Option<Bytes>,
}

/// What happens to the bytes of the target that the source does not use.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unused {
    /// They stay as they are (old signatures are removed in any case)
    Keep,
    /// The device is told that they are not needed
    Discard,
    /// They are overwritten with zeros
    Zero,
}

impl From<Unused> for restore::Unused {
    fn from(typed: Unused) -> Self {
        match typed {
            Unused::Keep => Self::Keep,
            Unused::Discard => Self::Discard,
            Unused::Zero => Self::Zero,
        }
    }
}

/// How much of what was written is read back.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadBack {
    /// All of it
    Full,
    /// One window in a hundred, the first and the last
    Sample,
    /// Nothing
    None,
}

impl From<ReadBack> for restore::ReadBack {
    fn from(typed: ReadBack) -> Self {
        match typed {
            ReadBack::Full => Self::Full,
            ReadBack::Sample => Self::Sample,
            ReadBack::None => Self::None,
        }
    }
}
