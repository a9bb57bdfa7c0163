//! `keiki __rest`: what the first stage of a live system runs that was loaded from a network.

use std::path::PathBuf;

use clap::Args;
use image_core::image::hash::Hash;

/// Fetch the rest of a live system, and unpack it
#[derive(Args, Debug)]
pub struct Rest {
    /// The folder of the server
    pub folder: String,
    /// The hash of the rest (BLAKE3)
    pub hash: Hash,
    /// How long it is, in bytes
    pub length: u64,
    /// Where it is unpacked
    pub root: PathBuf,
}
