//! What one volume contains, and which of its bytes are in use.

use super::model::{Coverage, Needs, Volume};
use crate::disk::probe::{self, Signature, Usage};
use crate::error::{Error, Result};
use crate::fs::{self, Filesystem, State};
use crate::io::rescue::is_bad_sector;

/// Fills in content, state and coverage of `volume`. What cannot be proven is to be copied whole.
///
/// # Errors
/// [`Error::Io`]: the volume cannot be read at all.
pub fn identify(volume: &mut Volume) -> Result<()> {
    let signatures = probe::signatures(&volume.source)?;
    let claims: Vec<&Signature> =
        signatures.iter().filter(|s| s.usage != Usage::Table && !s.copy).collect();
    if let Some(member) = claims.iter().find(|c| matches!(c.usage, Usage::Raid | Usage::Crypto)) {
        name_after(volume, member);
        let other = claims.iter().find(|claim| !same_family(claim.name, member.name));
        volume.state = match (member.usage, other) {
            (Usage::Crypto, _) => State::Locked,
            // What a RAID holds shows through; what an LVM member holds does not.
            (_, Some(other)) if member.name == "LVM2_member" => both(member.name, other),
            _ => State::Raw(format!("{} is not understood", member.name)),
        };
        return Ok(());
    }
    match fs::probe(&volume.source) {
        Ok(Some(filesystem)) => take(volume, filesystem.as_ref(), &claims),
        Ok(None) => {
            if let Some(claim) = claims.first() {
                name_after(volume, claim);
                volume.state = State::Raw(format!("{} is not understood", claim.name));
            }
            Ok(())
        }
        Err(error) if ends(&error) => Err(error),
        Err(error) => {
            if let Some(claim) = claims.first() {
                name_after(volume, claim);
            }
            volume.state = State::Raw(error.to_string());
            Ok(())
        }
    }
}

/// Fills in content, state and coverage of `volume`, as `filesystem` says instead of what it was identified by:
/// the same one, of which more is known now. Nothing else may claim the volume.
///
/// # Errors
/// As [`identify`].
pub fn take_instead(volume: &mut Volume, filesystem: &dyn Filesystem) -> Result<()> {
    take(volume, filesystem, &[])
}

fn name_after(volume: &mut Volume, signature: &Signature) {
    volume.content = signature.name.to_owned();
    volume.label.clone_from(&signature.label);
    volume.uuid.clone_from(&signature.uuid);
}

fn take(volume: &mut Volume, filesystem: &dyn Filesystem, claims: &[&Signature]) -> Result<()> {
    let identity = filesystem.identity();
    volume.content = identity.content.to_owned();
    volume.label.clone_from(&identity.label);
    volume.uuid.clone_from(&identity.uuid);
    // A second filesystem's signature: one of the two is stale, and guessing which loses the other.
    if let Some(other) = claims.iter().find(|claim| !same_family(claim.name, identity.content)) {
        volume.state = both(identity.content, other);
        return Ok(());
    }
    if identity.size > volume.size() {
        let reason = format!(
            "the filesystem claims {} bytes, the volume has {}",
            identity.size.get(),
            volume.size().get()
        );
        volume.state = State::Raw(reason);
        return Ok(());
    }
    let proven = match filesystem.state() {
        Ok(state @ (State::Clean | State::Replayable)) => {
            filesystem.used().map(|used| (state, used))
        }
        Ok(other) => {
            volume.state = other;
            return Ok(());
        }
        Err(error) => Err(error),
    };
    match proven {
        Ok((state, used)) => {
            // The map's grain, and what a replay read, may reach a little behind the filesystem.
            let min_bytes = filesystem.min_size().max(used.end());
            volume.state = state;
            volume.coverage = Coverage::Mapped(used);
            volume.needs = Some(Needs {
                min_bytes,
                block_size: identity.block_size,
                sector_limit: identity.sector_limit,
                growth: filesystem.growth(),
                last_mounted: identity.last_mounted.clone(),
            });
            Ok(())
        }
        Err(error) if ends(&error) => Err(error),
        Err(reason) => {
            volume.state = State::Raw(reason.to_string());
            Ok(())
        }
    }
}

/// Whether nothing can be copied any more. A bad sector in a filesystem's structures only keeps it from being
/// mapped.
fn ends(error: &Error) -> bool {
    matches!(error, Error::Io { .. } | Error::Interrupted) && !is_bad_sector(error)
}

/// The reason to copy a volume that two kinds of content claim.
fn both(name: &str, other: &Signature) -> State {
    let (other, at) = (other.name, other.offset.get());
    State::Raw(format!("it carries the signatures of both {name} and {other} (at byte {at})"))
}

/// Whether two of `blkid`'s names can stand for one filesystem: the ext family shares its superblock.
fn same_family(a: &str, b: &str) -> bool {
    let family =
        |name: &str| if name.starts_with("ext") { "ext".to_owned() } else { name.to_owned() };
    family(a) == family(b)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::take;
    use crate::error::{Error, Result};
    use crate::extent::{Extent, ExtentSet};
    use crate::fs::{Filesystem, Identity, State};
    use crate::io::memory::Memory;
    use crate::survey::model::{Coverage, Kind, Volume};
    use crate::units::Bytes;

    type Answer<T> = fn() -> Result<T>;

    /// A filesystem that says what it is told.
    struct Fake {
        identity: Identity,
        state: Answer<State>,
        used: Answer<ExtentSet>,
    }

    impl Filesystem for Fake {
        fn identity(&self) -> &Identity {
            &self.identity
        }
        fn state(&self) -> Result<State> {
            (self.state)()
        }
        fn used(&self) -> Result<ExtentSet> {
            (self.used)()
        }
    }

    fn taken(size: Bytes, state: Answer<State>, used: Answer<ExtentSet>) -> Result<Volume> {
        let identity = Identity {
            content: "ext4",
            label: None,
            uuid: None,
            size,
            block_size: Bytes::BLOCK,
            sector_limit: Bytes::BLOCK,
            last_mounted: None,
        };
        let source = Arc::new(Memory::new(vec![0; 1 << 20]));
        let extent = Extent::first(Bytes::MIB);
        let mut volume = Volume::new("v".to_owned(), None, Kind::Lv, extent, source);
        take(&mut volume, &Fake { identity, state, used }, &[])?;
        Ok(volume)
    }

    #[test]
    fn only_a_filesystem_with_a_proven_map_is_not_copied_whole() {
        let map: Answer<ExtentSet> = || Ok(Extent::first(Bytes::BLOCK).into());
        let broken: Answer<ExtentSet> =
            || Err(Error::corrupt("bitmap", Bytes::ZERO, "as many", "fewer"));
        let clean = taken(Bytes::MIB, || Ok(State::Clean), map).unwrap();
        assert_eq!((clean.used().total(), &clean.state), (Bytes::BLOCK, &State::Clean));
        let waiting = taken(Bytes::MIB, || Ok(State::Replayable), map).unwrap();
        assert_eq!((waiting.used().total(), &waiting.state), (Bytes::BLOCK, &State::Replayable));
        assert!(waiting.needs.is_some() && waiting.reason().is_none());
        let state: Answer<State> =
            || Err(Error::corrupt("journal", Bytes::ZERO, "sense", "nonsense"));
        for (size, state, used, reason) in [
            (Bytes::mib(2), (|| Ok(State::Clean)) as Answer<State>, map, "claims 2097152 bytes"),
            (Bytes::MIB, || Ok(State::Clean), broken, "bitmap"),
            (Bytes::MIB, || Ok(State::Replayable), broken, "bitmap"),
            (Bytes::MIB, || Ok(State::Hibernated), map, "a hibernated system"),
            (Bytes::MIB, state, map, "journal at byte 0"),
        ] {
            let volume = taken(size, state, used).unwrap();
            assert_eq!(volume.coverage, Coverage::Whole);
            assert!(volume.needs.is_none(), "a raw copy does not grow");
            assert!(volume.reason().unwrap().contains(reason), "{volume:?}");
        }
        let unread: Answer<State> =
            || Err(Error::io("v", "read", std::io::Error::from(std::io::ErrorKind::UnexpectedEof)));
        assert!(matches!(taken(Bytes::MIB, unread, map), Err(Error::Io { .. })));
    }
}
