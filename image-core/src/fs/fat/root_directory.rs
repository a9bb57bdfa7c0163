//! The root directory, as far as it holds the volume label.

use super::boot_sector::{BootSector, known_label};
use super::fat_table;
use crate::error::Result;
use crate::extent::Extent;
use crate::fields::Structure;
use crate::io::BlockSource;
use crate::units::Bytes;

const ENTRY: usize = 32;
/// A directory has at most 65536 entries.
const MOST: Bytes = Bytes::mib(2);
const DELETED: u8 = 0xE5;
const VOLUME_LABEL: u8 = 0x08;
/// Parts of a long name carry this in the attributes, with the label's bit in it.
const LONG_NAME: u8 = 0x0F;

enum Found {
    Label(Option<String>),
    End,
    More,
}

/// The label entry's name; `None` where there is none, or where the chain of clusters is not intact (the
/// map does not depend on it).
pub(super) fn label(source: &dyn BlockSource, boot: &BootSector) -> Result<Option<String>> {
    let Some(mut cluster) = boot.root_cluster else {
        return Ok(match search(source, boot.root)? {
            Found::Label(label) => label,
            _ => None,
        });
    };
    for _ in 0..=MOST.units(boot.cluster) {
        let Some(extent) = boot.cluster_extent(cluster) else { break };
        match search(source, extent)? {
            Found::Label(label) => return Ok(label),
            Found::End => break,
            Found::More => cluster = fat_table::entry(source, boot, cluster)?,
        }
    }
    Ok(None)
}

/// Looks through one region, which is at most 2 MiB (the fixed root) or a cluster.
fn search(source: &dyn BlockSource, region: Extent) -> Result<Found> {
    let bytes = source.read(region.start, region.len().index().unwrap_or(0))?;
    for entry in bytes.chunks_exact(ENTRY) {
        let entry = Structure::new("FAT directory entry", region.start, entry);
        let attributes = entry.u8(11)?;
        match entry.u8(0)? {
            0 => return Ok(Found::End),
            DELETED => {}
            _ if attributes & VOLUME_LABEL != 0 && attributes & LONG_NAME != LONG_NAME => {
                return Ok(Found::Label(known_label(entry.text(0, 11)?)));
            }
            _ => {}
        }
    }
    Ok(Found::More)
}
