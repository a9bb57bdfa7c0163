//! A filesystem with a dirty log, once somebody has replayed that log on another copy of it.

use super::{LOG_IS_DIRTY, Superblock, Xfs};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::fs::{Filesystem, GrowthTool, Identity, State};
use crate::io::Source;
use crate::units::Bytes;

struct Replayed {
    identity: Identity,
    used: ExtentSet,
    v5: bool,
}

/// The filesystem on `raw`, whose log is dirty; `after` is the same one once the kernel has mounted it,
/// replayed its log and unmounted it, which read or wrote the bytes `touched`.
///
/// What is stored are the bytes of `raw`, and whoever mounts the restored filesystem first replays its log. The
/// map has what that needs:
///
/// - What is in use afterwards, proven as always. Whatever the log does not write itself is as it was.
/// - What the replay touched: the log, the blocks that logged changes are laid over, and what is freed at its end
///   (extent maps of files that were deleted while open), which `after` no longer has.
/// - What is in use before that, unproven: it can only add. Another kernel may read what this one did not; and
///   where the free-space btrees contradict themselves, as they may before a replay, the whole allocation group.
///
/// # Errors
/// [`Error::Refused`] where `raw` has other doubts than its log, `after` is not clean, or the two are not of
/// one shape; whatever keeps the map of `after` from being proven.
pub fn replayed(raw: &Source, after: &Source, touched: &ExtentSet) -> Result<Box<dyn Filesystem>> {
    let (raw, after) = (open(raw)?, open(after)?);
    if raw.doubt.as_deref() != Some(LOG_IS_DIRTY) {
        return Err(Error::refused("it is not the log alone that keeps it from being mapped"));
    }
    if let Some(doubt) = &after.doubt {
        return Err(Error::refused(format!("after a replay of its log, {doubt}")));
    }
    if !raw.superblock.is_of_one_shape_with(&after.superblock) {
        return Err(Error::refused("a change of its size or identity waits in the log"));
    }
    let size = raw.source.size();
    let mut used = after.used()?.union(&touched.intersect(&Extent::first(size).into()));
    for number in 0..raw.superblock.ag_count {
        used = used.union(&before(&raw, number)?);
    }
    used.insert(raw.superblock.log_extent()?);
    let used = used.rounded_out(Bytes::BLOCK, size);
    Ok(Box::new(Replayed { identity: raw.identity, used, v5: raw.superblock.v5 }))
}

fn open(source: &Source) -> Result<Xfs> {
    let superblock = Superblock::read(source)?
        .ok_or_else(|| Error::refused("there is no XFS where one was mounted"))?;
    Xfs::new(source, superblock)
}

/// What AG `number` says it uses; all of it where it contradicts itself.
fn before(raw: &Xfs, number: u32) -> Result<ExtentSet> {
    let mut used = ExtentSet::new();
    match raw.add_group(number, &mut used) {
        Ok(_) => Ok(used),
        Err(Error::Corrupt { .. }) => {
            let whole = raw.superblock.ag_extent(number, 0, raw.superblock.ag_length(number))?;
            Ok(whole.into())
        }
        Err(other) => Err(other),
    }
}

impl Filesystem for Replayed {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn state(&self) -> Result<State> {
        Ok(State::Replayable)
    }

    fn used(&self) -> Result<ExtentSet> {
        Ok(self.used.clone())
    }

    fn growth(&self) -> Option<GrowthTool> {
        // It is mounted to be grown, which replays its log.
        self.v5.then_some(GrowthTool::XfsGrowfs)
    }
}
