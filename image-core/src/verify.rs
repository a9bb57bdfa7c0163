//! Verifying: every chunk of an image is read, checked and decompressed; nothing is written.

use crate::error::Result;
use crate::image::manifest::Root;
use crate::pipeline::write::{Damage, Target};
use crate::repo::Repository;
use crate::report::{Report, Stage};
use crate::units::Bytes;

/// What a verification found.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Verified {
    /// Chunks that were checked, those of several windows once a table segment.
    pub chunks: u64,
    /// Their plain bytes.
    pub bytes: Bytes,
    /// What cannot be restored.
    pub damaged: Vec<Damage>,
}

/// Checks every table segment and chunk that `root` names, containers' heads included.
///
/// # Errors
/// [`crate::error::Error::Io`] of a repository that cannot be read at all; damage is a result, not an error.
pub fn verify(repo: &Repository, root: &Root, report: &dyn Report) -> Result<Verified> {
    report.stage(Stage::Check, Some(root.used_bytes()));
    let mut verified = Verified::default();
    for (volume, number, hash) in root.segments() {
        report.checkpoint()?;
        let segment = match Damage::or_segment(repo, volume, number, hash, root.window)? {
            Ok(segment) => segment,
            Err(damage) => {
                verified.damaged.push(damage);
                continue;
            }
        };
        let target = Target { id: &volume.id, window: root.window, patches: &[] };
        let mut feed = repo.feed(root.window)?;
        let mut seen = 0;
        let mut bytes = Bytes::ZERO;
        let damage = target.receive(&segment, &mut feed, report, &mut |_, plain| {
            seen += 1;
            bytes += Bytes::of(plain);
            report.advance(Bytes::of(plain));
            Ok(())
        })?;
        verified.chunks += seen;
        verified.bytes += bytes;
        verified.damaged.extend(damage);
        // Zeros, and what several windows share.
        report.advance(segment.used_bytes().saturating_sub(bytes));
    }
    Ok(verified)
}
