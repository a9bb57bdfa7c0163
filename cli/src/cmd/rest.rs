//! What a machine does that was started over the network, before anything else: it brings the rest of its system.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use image_core::error::Error;
use image_core::repo::Location;
use image_core::report::Report;
use image_core::units::Bytes;
use live_iso::{name, unpack};
use netboot::room::file::File;

use crate::args::rest::Rest;
use crate::exit::Exit;
use crate::network;
use crate::output::{self, progress::Progress};

/// For so long a cable and a server may take to be there; then it is said that they are not, and asked again.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the verb.
///
/// # Errors
/// The server does not answer, or sends another system; memory is full.
pub fn run(args: &Rest, progress: &Progress) -> Result<Exit> {
    let length = Bytes::new(args.length);
    output::talk(&format!("Loading the rest of the system from {}: {length}.", args.folder));
    let files = Location::from(&args.folder).files()?;
    let files = files.as_ref();
    let found = network::until(PATIENCE, || {
        progress.checkpoint()?;
        Ok(File::find(files, name::SYSTEM, (args.hash, length), progress)?)
    });
    let file = found.with_context(network::state)?.ok_or_else(|| {
        Error::refused(format!(
            "{} has another system than the one that this machine was started with: start it again",
            args.folder
        ))
    })?;
    let began = Instant::now();
    let (bytes, fetched) = file.get(progress)?;
    output::talk(&format!(
        "{} came by multicast and {fetched} were fetched, in {:.1} s.",
        length.saturating_sub(fetched),
        began.elapsed().as_secs_f64()
    ));
    unpack::unpack(&bytes, &args.root)
        .context("the system is not unpacked, which takes 1 GiB of memory")?;
    Ok(Exit::Done)
}
