//! Bootable recovery media: a kernel, an initramfs and boot loaders, made of a distribution's packages and the program
//! `keiki`.
//!
//! Answers: the files that a machine boots from a disc, a stick or a network, and the disc itself. Refuses: to sign
//! anything, and to boot what nobody signed: kernel and boot loaders are the distribution's own, so Secure Boot stays on.
//!
//! - [`packages`]: downloads and unpacks packages. - `cache`: where they are kept. - [`tree`]: looks into what was unpacked.
//! - [`system`]: what a live system consists of. - `closure`: the libraries that its programs need. - [`kernel`]: the
//!   kernel and its modules. - `staging`: packs all that into an initramfs. - [`unpack`]: unpacks what came later.
//! - [`boot`]: what every way to boot has in common. - [`bootloader`]: what firmware starts of a medium. - [`iso`]: the disc.
//!   [`stick`]: the disc, with space for images behind it. - [`net`]: the same for a network.

pub mod boot;
pub mod bootloader;
mod cache;
mod closure;
pub mod iso;
pub mod kernel;
pub mod net;
pub mod packages;
mod staging;
pub mod stick;
pub mod system;
pub mod tree;
pub mod unpack;

/// How much hardware a live system knows.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Profile {
    /// What PCs, servers and virtual machines usually have.
    #[default]
    Small,
    /// Storage networks and rare adapters too.
    Full,
}

impl Profile {
    /// How much memory a machine needs for it, measured, and some more.
    fn memory(self) -> &'static str {
        match self {
            Self::Small => "512 MiB",
            Self::Full => "640 MiB",
        }
    }
}

/// Names of the files that a machine boots from.
pub mod name {
    /// The kernel.
    pub const KERNEL: &str = "vmlinuz";
    /// The initramfs: the first stage, which can fetch the rest from a network. The next three are loaded behind it.
    pub const FIRST: &str = "first.img";
    /// The rest of what is of the distribution.
    pub const SYSTEM: &str = "system.img";
    /// The program `keiki`.
    pub const PROGRAM: &str = "keiki.img";
    /// What is another one on each medium.
    pub const SETTINGS: &str = "settings.img";
    /// The EFI system partition.
    pub const ESP: &str = "esp.img";
    /// The El Torito image: GRUB's core behind the code that loads it from a CD.
    pub const ELTORITO: &str = "eltorito.img";
    /// Boot code for the MBR.
    pub const HYBRID: &str = "boot_hybrid.img";
}

/// The folder of libraries of the one architecture that is built.
const TRIPLET: &str = "x86_64-linux-gnu";
