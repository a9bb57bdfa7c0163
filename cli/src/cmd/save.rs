//! `keiki save`: disks into the repository.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use image_core::exec::real::Machine;
use image_core::extent::Extent;
use image_core::image::manifest::Root;
use image_core::repo::{ImageInfo, Location, Repository, Saver, host_name};
use image_core::save::fill::{self, Filled, Old};
use image_core::save::{self, Firmware, Request, Saved};
use image_core::survey::Wishes;
use image_core::survey::model::Survey;
use image_core::units::Bytes;
use serde_json::{Value, json};

use super::{location as repository_location, open_or_create, repository, room_for, source};
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
    let place = repository_location(global)?;
    place.takes_images()?;
    // A server looks after its own space.
    let path = place.folder();
    let purpose = match &args.fill {
        Some(_) => source::Purpose::Fill(path),
        None => source::Purpose::Copy(path),
    };
    // An image that is not there ends it before a disk is touched.
    let filled =
        args.fill.as_ref().map(|image| Filling::of(global, image, progress)).transpose()?;
    let inputs = source::open(&args.sources, args.sector_size, purpose)?;
    let wishes = Wishes { all_gaps: args.gaps, strict: args.strict };
    let own = inputs.iter().any(|input| is_block_device(&input.path));
    let survey = source::survey(&inputs, wishes, &args.exclude, progress)?;
    let repo = match &filled {
        Some(filling) => filling.repo.clone(),
        None => {
            source::tell(&survey, global, progress);
            match path {
                Some(path) => open_or_create(path, global.quiet, progress)?,
                None => place.open()?,
            }
        }
    };
    let request = Request {
        parent: repo.images()?.newest(&args.name).cloned(),
        name: args.name.clone(),
        level: args.level,
        workers: std::thread::available_parallelism().map_or(1, usize::from),
        host: host_name(),
        tool: concat!("keiki ", env!("CARGO_PKG_VERSION")).to_owned(),
        firmware: if own { Firmware::of_this_machine(&Machine) } else { Firmware::default() },
    };
    let (saved, filled) = match &filled {
        Some(filling) => {
            let (saved, filled) = filling.run(&survey, place, &request, global, progress)?;
            (saved, Some((filling, filled)))
        }
        None => (whole(&survey, &repo, place, &request, progress)?, None),
    };
    progress.finish();
    let seconds = began.elapsed().as_secs_f64();
    let again = format!(
        "to read only these places again: keiki save {} --name {} --fill {}",
        args.sources.join(" "),
        args.name,
        output::image(&saved.image)
    );
    let is_whole = saved.root.unreadable_bytes().is_zero();
    if !is_whole {
        holes::tell(&saved.root.volumes);
        output::talk(&again);
    }
    tell(global, &saved, filled.as_ref(), seconds)
        .with_context(|| format!("{} is saved, {}", output::image(&saved.image), output::UNSAID))?;
    Ok(if is_whole { Exit::Done } else { Exit::Unreadable })
}

fn tell(
    global: &Global,
    saved: &Saved,
    filled: Option<&(&Filling, Filled)>,
    seconds: f64,
) -> anyhow::Result<()> {
    if global.json {
        return output::json(&object(saved, filled.map(|(_, filled)| filled), seconds));
    }
    if global.quiet {
        return Ok(());
    }
    if let Some((filling, filled)) = filled {
        output::say(&filling.text(filled))?;
    }
    output::say(&text(saved, seconds, global.verbose > 0))
}

/// Saves everything in `survey`, if there is room for it.
fn whole(
    survey: &Survey,
    repo: &Repository,
    place: &Location,
    request: &Request,
    progress: &Progress,
) -> anyhow::Result<Saved> {
    let saver = saver(repo, place, progress)?;
    let needed =
        save::estimate(survey, &saver, request, progress).context("there is no new image")?;
    room_in(needed, place)?;
    save::save(survey, saver, request, progress)
        .context("there is no new image; the next save uses what was stored")
}

fn saver(repo: &Repository, place: &Location, progress: &Progress) -> anyhow::Result<Saver> {
    repo.saver(progress).with_context(|| format!("nothing was saved into {place}"))
}

/// A folder has to have so much space; a server says when it has no more.
fn room_in(needed: Bytes, place: &Location) -> anyhow::Result<()> {
    place.folder().map_or(Ok(()), |path| room_for(needed, path))
}

/// An image with holes that are read again.
struct Filling {
    repo: Repository,
    image: ImageInfo,
    root: Root,
}

impl Filling {
    fn of(global: &Global, image: &str, progress: &Progress) -> anyhow::Result<Self> {
        let repo = repository(global)?;
        let image = repo.resolve(image, progress)?;
        let root = repo.root(&image)?;
        Ok(Self { repo, image, root })
    }

    fn run(
        &self,
        survey: &Survey,
        place: &Location,
        request: &Request,
        global: &Global,
        progress: &Progress,
    ) -> anyhow::Result<(Saved, Filled)> {
        let old = Old { repo: &self.repo, root: &self.root };
        let name = output::image(&self.image);
        let sources = fill::same(survey, old, progress).context(format!("{name} is not filled"))?;
        if !global.quiet {
            progress.talk(&format!(
                "filling {name}: {} of it could not be read and are read again; everything else is taken from it, \
                 as it was on {}",
                self.root.unreadable_bytes(),
                self.image.record.created
            ));
        }
        let saver = saver(&self.repo, place, progress)?;
        room_in(self.root.unreadable_bytes(), place)?;
        save::fill(saver, (old, &sources), request, progress)
            .context("there is no new image; the one that was to be filled is as it was")
    }

    fn text(&self, filled: &Filled) -> String {
        let bytes: Bytes = filled.ranges.iter().map(|(_, range)| range.len()).sum();
        let mut volumes: Vec<&str> = filled.ranges.iter().map(|(id, _)| id.as_str()).collect();
        volumes.dedup();
        let lacked = self.root.unreadable_bytes();
        if bytes.is_zero() {
            return format!("none of the {lacked} that are unreadable could be read this time");
        }
        format!("filled: {bytes} of the {lacked} that were unreadable, in {}", volumes.join(", "))
    }
}

fn object(saved: &Saved, filled: Option<&Filled>, seconds: f64) -> Value {
    let mut object = json!({"image": saved.image.record.name, "id": saved.image.id,
        "volumes": saved.volumes, "used_bytes": saved.used_bytes, "read_bytes": saved.read_bytes,
        "new_chunks": saved.new_chunks, "known_chunks": saved.known_chunks,
        "delta_chunks": saved.delta_chunks, "stored_bytes": saved.stored_bytes,
        "raw_volumes": saved.raw_volumes, "unreadable": holes::ranges(&saved.root.volumes),
        "hit": holes::hits(&saved.root.volumes), "seconds": seconds});
    if let (Some(filled), Some(fields)) = (filled, object.as_object_mut()) {
        let range = |(id, range): &(String, Extent)| json!({"volume": id, "start": range.start, "length": range.len()});
        fields.insert("filled".to_owned(), filled.ranges.iter().map(range).collect());
    }
    object
}

/// An image file says nothing of the machine that it came from.
fn is_block_device(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device())
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
