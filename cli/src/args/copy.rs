//! `keiki copy`.

use clap::Args;
use image_core::repo::Location;

/// Copy images into another repository
///
/// A copy has the same id. What the other repository has already is not copied again, so a copy that was interrupted
/// goes on when it is run again. NAME there means the newest image of that name, as everywhere.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  keiki copy server --to /mnt/usb/keiki\n  \
    keiki copy server@3f2a web --to /mnt/usb/keiki --flatten")]
pub struct Copy {
    /// NAME (its newest), NAME@ID or NAME@2026-11-20
    #[arg(required = true, value_name = "IMAGE", value_parser = super::image)]
    pub images: Vec<String>,
    /// The folder of the other repository; made where there is none
    #[arg(long, value_name = "LOCATION", value_parser = super::location())]
    pub to: Location,
    /// Store what is a difference from an older image in full, so that nothing
    /// of that one is needed
    #[arg(long)]
    pub flatten: bool,
}
