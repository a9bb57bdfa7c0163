//! `keiki save`: disks into the repository.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use image_core::disk::location;
use image_core::error::Error;
use image_core::exec::real::Machine;
use image_core::repo::{Local, Repository, host_name};
use image_core::save::{self, Firmware, Saved};
use image_core::survey::Wishes;
use image_core::sys::space;
use serde_json::json;

use super::{location as repository_location, source};
use crate::args::Global;
use crate::args::save::Save;
use crate::exit::Exit;
use crate::output::{self, holes, progress::Progress};

/// Runs the verb.
///
/// # Errors
/// Any: then there is no image.
pub fn run(global: &Global, args: &Save, progress: &Progress) -> anyhow::Result<Exit> {
    let began = Instant::now();
    let path = repository_location(global)?;
    let inputs = source::open(&args.sources, args.sector_size, source::Purpose::Copy(Some(path)))?;
    let wishes = Wishes { all_gaps: args.gaps, strict: args.strict };
    let own = inputs.iter().any(|input| is_block_device(&input.path));
    let survey = source::survey(&inputs, wishes, &args.exclude, progress)?;
    source::tell(&survey, global, progress);
    let repo = open_or_create(path, global.quiet, progress)?;
    let request = save::Request {
        parent: repo.images()?.newest(&args.name).cloned(),
        name: args.name.clone(),
        level: args.level,
        workers: std::thread::available_parallelism().map_or(1, usize::from),
        host: host_name(),
        tool: concat!("keiki ", env!("CARGO_PKG_VERSION")).to_owned(),
        firmware: if own { Firmware::of_this_machine(&Machine) } else { Firmware::default() },
    };
    let saver = repo
        .saver(progress)
        .with_context(|| format!("nothing was saved into {}", path.display()))?;
    let needed =
        save::estimate(&survey, &saver, &request, progress).context("there is no new image")?;
    let free = space::free(path).with_context(|| format!("free space of {}", path.display()))?;
    if needed > free {
        return Err(Error::refused(format!(
            "the image will take about {needed}, but {} has only {free} free",
            path.display()
        ))
        .into());
    }
    let saved = save::save(&survey, saver, &request, progress)
        .context("there is no new image; the next save uses what was stored")?;
    progress.finish();
    let seconds = began.elapsed().as_secs_f64();
    if global.json {
        output::json(&json!({"image": args.name, "id": saved.image.id, "volumes": saved.volumes,
            "used_bytes": saved.used_bytes, "read_bytes": saved.read_bytes,
            "new_chunks": saved.new_chunks, "known_chunks": saved.known_chunks,
            "delta_chunks": saved.delta_chunks,
            "stored_bytes": saved.stored_bytes, "raw_volumes": saved.raw_volumes,
            "unreadable": holes::ranges(&saved.root.volumes),
            "hit": holes::hits(&saved.root.volumes), "seconds": seconds}))?;
    } else if !global.quiet {
        output::say(&text(&saved, seconds, global.verbose > 0))?;
    }
    if saved.root.unreadable_bytes().is_zero() {
        return Ok(Exit::Done);
    }
    holes::tell(&saved.root.volumes);
    Ok(Exit::Unreadable)
}

/// An image file says nothing of the machine that it came from.
fn is_block_device(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device())
}

fn open_or_create(path: &Path, quiet: bool, progress: &Progress) -> anyhow::Result<Repository> {
    let files = Arc::new(Local::new(path));
    if Repository::exists(files.as_ref())? {
        return Ok(Repository::open(files)?);
    }
    location::check_new_repository(path)?;
    if !quiet {
        progress.talk(&format!("making a new repository at {}", path.display()));
    }
    Ok(Repository::create(files)?)
}

fn text(saved: &Saved, seconds: f64, verbose: bool) -> String {
    let stored = if saved.stored_bytes.is_zero() {
        "nothing had to be added to the repository".to_owned()
    } else {
        format!("{} were added to the repository", saved.stored_bytes)
    };
    let chunks = if verbose {
        let Saved { new_chunks, delta_chunks, known_chunks, .. } = saved;
        format!("\n{new_chunks} new chunks, {delta_chunks} of them deltas, {known_chunks} known")
    } else {
        String::new()
    };
    format!(
        "saved {}: {} with {} in use; {stored}, in {seconds:.1} s{chunks}",
        output::image(&saved.image),
        output::count(saved.volumes, "volume"),
        saved.used_bytes,
    )
}
