//! `keiki save`.

use clap::Args;
use image_core::image::record::ImageName;
use image_core::units::Bytes;

/// Save disks, partitions, logical volumes or image files
///
/// The source is only read. It may not be mounted read-write.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  keiki save /dev/sda --name server\n  \
    keiki save /dev/sda /dev/sdb --name both-disks-of-the-volume-group\n  \
    keiki save disk.img:2 --name boot\n  \
    keiki save /dev/sda --name server --fill server   (again, the bad sectors only)")]
pub struct Save {
    /// Disks, partitions, logical volumes or image files (`disk.img:2`); a volume group over several
    /// disks needs all of them
    #[arg(required = true, value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// Name of the image: up to 64 of letters, digits, `.`, `_`, `-`
    #[arg(long)]
    pub name: ImageName,
    /// How hard zstd compresses: from -7 (fast) to 19 (small)
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(-7..=19), allow_hyphen_values = true)]
    pub level: i32,
    /// Save the space between partitions also where it is larger than 16 MiB
    #[arg(long)]
    pub gaps: bool,
    /// Save the place of this volume, but none of its bytes; repeatable: `2`,
    /// `sda2`, `vg0/root`
    #[arg(long, value_name = "VOLUME")]
    pub exclude: Vec<String>,
    /// Refuse volume groups that are not understood instead of saving their disks raw
    #[arg(long)]
    pub strict: bool,
    /// Read only what this image lacks, for it could not be read when it was
    /// saved, and take everything else from it; the disk must be unchanged
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["gaps", "exclude", "strict"])]
    pub fill: Option<String>,
    /// Sector size of image files, where it cannot be told from their table
    #[arg(long, value_name = "SIZE")]
    pub sector_size: Option<Bytes>,
}
