//! `keiki inspect`.

use clap::Args;
use image_core::units::Bytes;

/// Show disks, partitions, volumes and filesystems; reads only
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  keiki inspect /dev/sda /dev/sdb")]
pub struct Inspect {
    /// Disks, partitions, logical volumes or image files (`disk.img:2`)
    #[arg(required = true, value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// Sector size of image files, where it cannot be told from their table
    #[arg(long, value_name = "SIZE")]
    pub sector_size: Option<Bytes>,
}
