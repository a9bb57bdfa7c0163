//! How much a save is going to store, from a sample.

use super::encode::ChunkEncoder;
use super::read::{self, Piece, Volume};
use crate::error::Result;
use crate::image::chunk;
use crate::image::hash::ChunkId;
use crate::io::aligned::AlignedBuf;
use crate::report::Report;
use crate::units::Bytes;

/// Windows that are looked at: a second's work at the usual level.
const SAMPLES: u64 = 64;

/// Roughly what the used bytes of `volumes` take once those that `known` has are left out and the rest is
/// compressed.
///
/// # Errors
/// [`crate::error::Error::Io`] where a source cannot be read, [`crate::error::Error::Interrupted`].
pub fn stored_bytes(
    volumes: &[Volume<'_>],
    window: Bytes,
    known: &dyn Fn(&ChunkId) -> bool,
    encoder: &mut ChunkEncoder<'_>,
    report: &dyn Report,
) -> Result<Bytes> {
    let total: u64 = volumes.iter().map(|volume| volume.used.total().get()).sum();
    let stride = (total / SAMPLES).max(window.get());
    let mut buffer = AlignedBuf::zeroed(window.index().unwrap_or(0));
    let (mut stored, mut seen, mut sampled, mut due) = (Vec::new(), 0_u64, 0_u64, 0_u64);
    let mut needed = 0_u64;
    for (at, volume) in volumes.iter().enumerate() {
        read::windows(volume, window, &mut |piece| {
            let (number, length, used) = match piece {
                Piece::Zeros { count, .. } => {
                    seen += window.get() * count;
                    sampled += window.get() * count;
                    due = due.max(seen);
                    return Ok(());
                }
                Piece::Window { number, length, used } => (number, length, used),
            };
            let bytes: Bytes = used.iter().map(|extent| extent.len()).sum();
            seen += bytes.get();
            if seen < due {
                return Ok(());
            }
            due += stride;
            report.checkpoint()?;
            sampled += bytes.get();
            let part = buffer.get_mut(..length).unwrap_or_default();
            let start = Bytes::new(window.get() * number);
            let unreadable = read::fill(volume.source.as_ref(), start, &used, part)?;
            let (_, plain_len) = chunk::compact(part, &used, &unreadable);
            let plain = part.get(..plain_len).unwrap_or_default();
            if !plain.is_empty() && !known(&ChunkId::of(plain)) {
                encoder.encode((at, number), plain, &mut stored)?;
                needed += Bytes::of(&stored).get();
            }
            Ok(())
        })?;
    }
    let scaled = u128::from(needed) * u128::from(total) / u128::from(sampled.max(1));
    Ok(Bytes::new(u64::try_from(scaled).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::stored_bytes;
    use crate::extent::{Extent, ExtentSet};
    use crate::io::{Source, memory::Memory};
    use crate::pipeline::encode::ChunkEncoder;
    use crate::pipeline::read::Volume;
    use crate::report::Quiet;
    use crate::units::Bytes;

    #[test]
    fn noise_takes_its_size_and_known_or_zero_bytes_nothing() {
        let mut state = 1_u32;
        let noise: Vec<u8> = (0..4 << 20)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_le_bytes()[3]
            })
            .collect();
        let used: ExtentSet = Extent::first(Bytes::mib(4)).into();
        let estimate = |bytes: Vec<u8>, known: bool| {
            let source: Source = Arc::new(Memory::new(bytes));
            let volume = Volume { source: &source, used: &used };
            let report = Quiet::default();
            let mut encoder = ChunkEncoder::new(Bytes::MIB, 3, None, &report).unwrap();
            stored_bytes(&[volume], Bytes::MIB, &|_| known, &mut encoder, &report).unwrap()
        };
        let full = estimate(noise.clone(), false);
        assert!(full > Bytes::mib(3) && full < Bytes::mib(5), "{full}");
        assert_eq!(estimate(noise, true), Bytes::ZERO);
        assert!(estimate(vec![0; 4 << 20], false) < Bytes::KIB);
    }
}
