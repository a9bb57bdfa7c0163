//! Packs of which most is not needed: what is needed of them is copied, as it is stored, into new packs.

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::error::{Error, Result};
use crate::image::hash::Hash;
use crate::image::pack::PackBuilder;
use crate::repo::index::{PackFile, is_damage, pack_path};
use crate::repo::locations::Place;
use crate::repo::needs::Needs;
use crate::repo::read::Read;
use crate::repo::write::{Draft, Session};
use crate::report::{Report, Stage};
use crate::units::Bytes;

/// What rewriting did.
#[derive(Default)]
pub(super) struct Rewritten {
    /// Packs of which everything that is needed is in new packs now, durably.
    pub old: Vec<PackFile>,
    /// How much that was.
    pub copied: Bytes,
    /// Chunks that cannot be copied; their packs stay as they are.
    pub damaged: Vec<Error>,
}

/// Rewrites all packs whose fate that is. After an error some of their chunks are in two packs.
pub(super) fn rewrite(
    session: &Session,
    files: &dyn Read,
    needs: &Needs,
    report: &dyn Report,
) -> Result<Rewritten> {
    let total = needs.packs(super::needs::Fate::Rewrite).into_iter().map(|(_, live)| live).sum();
    report.stage(Stage::Rewrite, Some(total));
    let mut out = Rewritten::default();
    let mut open = None;
    needs.kept_places(files, |pack, places| {
        report.checkpoint()?;
        // All are read before the first is copied: a pack is copied entirely or not at all.
        let damaged = damaged_places(files, &places)?;
        if !damaged.is_empty() {
            out.damaged.extend(damaged.into_iter().map(|(_, error)| error));
            return Ok(());
        }
        for place in places {
            report.checkpoint()?;
            copy(session, files, &place, &mut open)?;
            let stored = Bytes::from(place.entry.stored_len);
            out.copied += stored;
            report.advance(stored);
        }
        out.old.push(pack);
        Ok(())
    })?;
    open.take().map_or(Ok(()), finish)?;
    Ok(out)
}

/// A pack that is being written.
type Open = Option<(Draft, PackBuilder)>;

fn copy(session: &Session, files: &dyn Read, place: &Place, open: &mut Open) -> Result<()> {
    let bytes = read(files, place)?;
    let (mut draft, mut builder) = match open.take() {
        Some(open) => open,
        None => (session.draft()?, PackBuilder::new()),
    };
    builder.put(&place.entry)?;
    draft.append(&bytes)?;
    if builder.is_full() {
        return finish((draft, builder));
    }
    *open = Some((draft, builder));
    Ok(())
}

fn finish((mut draft, builder): (Draft, PackBuilder)) -> Result<()> {
    let (name, tail) = builder.finish();
    draft.append(&tail)?;
    draft.finish(&pack_path(name))
}

/// A chunk's stored bytes, as their hash says.
fn read(files: &dyn Read, place: &Place) -> Result<Vec<u8>> {
    let path = pack_path(place.pack);
    let bytes = files.range(&path, place.range())?;
    let (expected, found) = (place.entry.stored_hash, Hash::of(&bytes));
    if found == expected {
        return Ok(bytes);
    }
    let what = format!("chunk {}, hash of the stored bytes", place.entry.id);
    Err(Error::corrupt(what, place.offset, expected.to_string(), found.to_string()).on(&path))
}

/// Which chunks of a pack cannot be read as their hash says, and why.
pub(super) fn damaged_places(files: &dyn Read, places: &[Place]) -> Result<Vec<(Place, Error)>> {
    let look = |place: &Place| match read(files, place) {
        Ok(_) => None,
        Err(error) if is_damage(&error) => Some(Ok((*place, error))),
        Err(error) => Some(Err(error)),
    };
    places.par_iter().filter_map(look).collect()
}
