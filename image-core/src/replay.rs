//! Filesystems whose log only the kernel can replay, and what they will use once it has.
//!
//! Answers: a used map of an XFS with a dirty log, from a mount of it whose writes stay in memory; its source is
//! only read. Refuses: nothing; what cannot be mounted here (no root, no XFS in the kernel, no FUSE), or whose
//! map is then not proven, stays a volume to be copied whole, with the reason.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::exec::Call;
use crate::fs::{Filesystem, State, xfs};
use crate::report::Report;
use crate::survey::content;
use crate::survey::model::{Coverage, Kind, Survey, Volume};
use crate::units::Bytes;
use crate::view::{Layout, Piece, Place, Trial};

/// The source may be mounted here read-only too, and so has its identifier; quotas would be counted anew.
const OPTIONS: &str = "nouuid,noquota";

/// Replays the dirty logs of `survey`'s volumes. `server` is described at [`crate::view::OpenView::open`].
///
/// # Errors
/// [`Error::Interrupted`]; [`Error::Io`] where a volume that can be mapped cannot be read.
pub fn dirty_logs(survey: &mut Survey, server: &Call, report: &dyn Report) -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    for at in 0..survey.volumes.len() {
        report.checkpoint()?;
        let Some(volume) = survey.volumes.get(at).filter(|volume| root && waits(volume)) else {
            continue;
        };
        let paths = |slot: usize| survey.slots.get(slot).map(|slot| slot.path.clone());
        let found =
            layout(survey, volume, &paths).and_then(|layout| replayed(volume, &layout, server));
        let Some(volume) = survey.volumes.get_mut(at) else { continue };
        match found {
            Ok(filesystem) => content::take_instead(volume, filesystem.as_ref())?,
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => {
                let dirty = xfs::LOG_IS_DIRTY;
                volume.state =
                    State::Raw(format!("{dirty}, and could not be replayed here: {error}"));
            }
        }
    }
    Ok(())
}

/// Whether it is only a log that keeps `volume` from being mapped, and it is to be saved.
fn waits(volume: &Volume) -> bool {
    let reason = |reason: &str| reason == xfs::LOG_IS_DIRTY;
    volume.coverage == Coverage::Whole
        && volume.content == "xfs"
        && matches!(&volume.state, State::Raw(why) if reason(why))
}

fn replayed(volume: &Volume, layout: &Layout, server: &Call) -> Result<Box<dyn Filesystem>> {
    let mut trial = Trial::open(layout, server)?;
    trial.mount_once("xfs", OPTIONS)?;
    // Before its bytes are read here.
    let touched = trial.touched()?;
    let after = trial.source()?;
    let filesystem = xfs::replayed(&volume.source, &after, &touched)?;
    drop(after);
    trial.close()?;
    Ok(filesystem)
}

/// Where `volume` lies in files and devices, which `paths` names by the number of their slot.
pub(crate) fn layout(
    survey: &Survey,
    volume: &Volume,
    paths: &dyn Fn(usize) -> Option<PathBuf>,
) -> Result<Layout> {
    let nowhere = || Error::refused(format!("{} has no place of its own", volume.id));
    let place =
        |volume: &Volume| Some(Place { path: paths(volume.slot?)?, offset: volume.extent.start });
    if volume.kind != Kind::Lv {
        let place = place(volume).ok_or_else(nowhere)?;
        return Layout::new(vec![Piece::linear(Bytes::ZERO, volume.size(), place)]);
    }
    let lies_in = |name: &String| survey.groups.iter().find(|group| group.vg.name == *name);
    let group = volume.group.as_ref().and_then(lies_in).ok_or_else(nowhere)?;
    let name = volume.id.strip_prefix(&format!("{}/", group.vg.name)).ok_or_else(nowhere)?;
    Layout::of_lv(&group.vg, name, &|pv| {
        let id = &group.pvs.get(pv)?.volume;
        place(survey.volumes.iter().find(|volume| volume.id == *id)?)
    })
}
