//! What is on a target before it is overwritten: its table and physical volumes, or what a restore that
//! was interrupted remembers of them.

use std::sync::Arc;

use super::record;
use crate::disk::table;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::image::time::Timestamp;
use crate::io::Source;
use crate::io::window::Window;
use crate::lvm::label;
use crate::plan::old::{Old, OldPv};

/// A target as it is found.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Before {
    /// Its table and physical volumes.
    pub old: Old,
    /// A restore onto it that did not end.
    pub interrupted: Option<Interrupted>,
}

/// A restore that did not end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interrupted {
    /// When it was last known to run.
    pub at: Timestamp,
    /// What of the target it did not touch.
    pub kept: ExtentSet,
    /// Whether [`Before::old`] is what that restore found: then only `kept` is still what it was.
    pub remembered: bool,
}

/// Looks at a target. What stands on it counts; its restore record only where there is no table and no
/// label any more, because somebody may have made a new one since.
///
/// # Errors
/// [`Error::Io`].
pub fn before(source: &Source) -> Result<Before> {
    let found = record::find(source.as_ref())?;
    let there = there(source)?;
    let remembered = there.is_none();
    let interrupted = found.as_ref().map(|found| Interrupted {
        at: found.about.at,
        kept: found.about.kept.iter().copied().collect(),
        remembered,
    });
    let old = there.or(found.map(|found| found.about.old)).unwrap_or_default();
    Ok(Before { old, interrupted })
}

/// The table that is on the target, or the label of a physical volume on the whole of it.
fn there(source: &Source) -> Result<Option<Old>> {
    let table = match table::read(source) {
        Ok(found) => found.map(|found| found.table),
        Err(error @ Error::Io { .. }) => return Err(error),
        // Half gone, or none that can be kept.
        Err(_) => None,
    };
    let whole = Extent::first(source.size());
    let places: Vec<Extent> = match &table {
        Some(table) => table.partitions().iter().map(|partition| partition.extent).collect(),
        None => vec![whole],
    };
    let mut pvs = Vec::new();
    for extent in places.into_iter().filter(|extent| whole.contains(*extent)) {
        let volume = Window::new(Arc::clone(source), extent, source.name());
        match label::read(&volume) {
            Ok(Some(head)) => pvs.push(OldPv { extent, head }),
            Err(error @ Error::Io { .. }) => return Err(error),
            Ok(None) | Err(_) => {}
        }
    }
    Ok((table.is_some() || !pvs.is_empty()).then_some(Old { table, pvs }))
}
