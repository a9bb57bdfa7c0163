//! `keiki repair`.

use clap::Args;
use image_core::fixup::personal::HostName;

/// Make a moved or restored system start on other hardware
///
/// Looks for what keeps a Linux from starting there, says what it will do, asks, and does it: loaders for UEFI and
/// BIOS, the drivers in the initramfs, LVM's list of devices, and files that name disks by where they were plugged
/// in. What it cannot do or not tell for certain is listed with the command to run by hand (exit code 6). For the
/// initramfs it runs programs of that system.
///
/// Machines that were restored from one image are one machine to their network. With --hostname it also makes this one
/// another: name, machine id, SSH host keys, and what its DHCP client remembers. A Windows that sysprep generalized
/// gets its computer name.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  keiki repair /dev/nvme0n1 --dry-run\n  \
    keiki repair /dev/sda /dev/sdb   (a volume group over two disks)\n  \
    keiki repair disk.img --no-run --confirm disk.img\n  \
    keiki repair /dev/sda --hostname lab-07")]
pub struct Repair {
    /// The disks of one system: devices or image files; all disks of its volume
    /// group
    #[arg(required = true, value_name = "TARGET")]
    pub targets: Vec<String>,
    /// The volume with the root of the system, where there are several: d0:2,
    /// vg0/root
    #[arg(long, value_name = "ID")]
    pub root: Option<String>,
    /// Call the system so, and give it ids and keys of its own; one that is called
    /// so already keeps its ids
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<HostName>,
    /// Run no program of that system: what would take one is listed instead
    #[arg(long)]
    pub no_run: bool,
    /// Confirm a target in advance, repeatable: its serial or WWN, or its path
    /// where it has neither
    #[arg(long, value_name = "X")]
    pub confirm: Vec<String>,
    /// Say what would be done and stop; nothing is written
    #[arg(long)]
    pub dry_run: bool,
}
