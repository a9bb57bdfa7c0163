//! A chunk as what it has beyond a base chunk: the codecs patch and prefix.
//!
//! A patch lists runs: bytes copied from the base, then fresh ones. It carries no map of the window: blocks
//! are found in the base by their content, so neither side has to know where the base's bytes lay in
//! their window, and a block that moved within it is found too.

use std::collections::HashMap;

use zstd::zstd_safe::{CCtx, CParameter, DCtx};

use crate::error::{Error, Result};
use crate::fields::Structure;
use crate::image::codec::{
    Codec, Decoder, Encoder, MAX_WINDOW_LOG, check_frame, check_lengths, zstd_failed,
};
use crate::image::hash::ChunkId;
use crate::units::Bytes;

/// The grain at which changes are found.
const BLOCK: usize = 4096;

/// Number of bytes in front of a patch's list of runs, and of each run.
const COUNT: usize = 4;
const RUN: usize = 12;

/// A chunk that others may be stored against: itself stored in full.
#[derive(Clone, Copy, Debug)]
pub struct Base<'a> {
    /// Its id.
    pub id: ChunkId,
    /// Its bytes, which have that id.
    pub plain: &'a [u8],
    /// What it takes in its pack.
    pub stored_len: Bytes,
}

/// Bytes copied from the base, followed by fresh ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    from: usize,
    copied: usize,
    fresh: usize,
}

impl Encoder {
    /// Puts into `stored` what makes `plain` of `base`, if that is worth it: if it takes at most three quarters of
    /// what `plain` takes in full.
    ///
    /// A patch where at most a quarter of `window` is fresh, else a frame with the base as its prefix, which
    /// finds bytes that are shifted, and costs more time.
    pub fn encode_delta(
        &mut self,
        window: Bytes,
        base: &Base<'_>,
        plain: &[u8],
        stored: &mut Vec<u8>,
    ) -> Result<Option<Codec>> {
        let runs = narrowed(runs(base.plain, plain), base.plain, plain);
        let fresh: usize = runs.iter().map(|run| run.fresh).sum();
        if fresh > window.index().unwrap_or_default() / 4 {
            let most = self.worth(plain)?;
            let fits = self.prefixed(base.plain, plain, most, stored);
            return Ok(fits.then_some(Codec::PREFIX));
        }
        if fresh >= plain.len() {
            return Ok(None);
        }
        let mut patch = std::mem::take(&mut self.scratch);
        list(&runs, plain, &mut patch);
        let compressed = self.compress(&patch, stored);
        self.scratch = patch;
        compressed?;
        // Most patches are that small beside their base; so few chunks are compressed in full for the comparison.
        let is_small = Bytes::of(stored) <= Bytes::new(base.stored_len.get() / 4);
        let is_worth_it = is_small || stored.len() <= self.worth(plain)?;
        Ok((is_worth_it && stored.len() < plain.len()).then_some(Codec::PATCH))
    }

    /// The most that a delta of `plain` may take.
    fn worth(&mut self, plain: &[u8]) -> Result<usize> {
        let mut full = std::mem::take(&mut self.scratch);
        let encoded = self.encode(plain, &mut full);
        let worth = full.len() / 4 * 3;
        self.scratch = full;
        encoded.map(|_| worth)
    }

    /// Compresses `plain` with `base` in front of it; whether that fits into `limit` bytes.
    fn prefixed(&self, base: &[u8], plain: &[u8], limit: usize, stored: &mut Vec<u8>) -> bool {
        // A context refers to its prefix, so this one cannot be kept.
        let Some(mut context) = CCtx::try_create() else { return false };
        let both = base.len().saturating_add(plain.len()).next_power_of_two().ilog2();
        let window_log = both.clamp(10, u32::from(MAX_WINDOW_LOG));
        // With no more room than is allowed, zstd gives up as soon as that is exceeded.
        stored.clear();
        stored.resize(limit, 0);
        let length = context
            .set_parameter(CParameter::CompressionLevel(self.level))
            .and_then(|_| context.set_parameter(CParameter::WindowLog(window_log)))
            .and_then(|_| context.ref_prefix(base))
            .and_then(|_| context.compress2(stored.as_mut_slice(), plain));
        stored.truncate(length.unwrap_or_default());
        length.is_ok()
    }
}

impl Decoder {
    /// Puts the plain form of `stored` into `plain`, replacing what was there; `base` are the verified bytes
    /// of the base chunk that the trailer names.
    ///
    /// # Errors
    /// `Unsupported` for other codecs than patch and prefix; `Corrupt` where lengths are beyond the window,
    /// the frame is damaged, a run leaves the base, or the runs do not make exactly `plain_len` bytes.
    pub fn decode_delta(
        &mut self,
        codec: Codec,
        base: &[u8],
        stored: &[u8],
        plain_len: Bytes,
        plain: &mut Vec<u8>,
    ) -> Result<()> {
        check_lengths(self.window, Bytes::of(stored), plain_len)?;
        check_frame(stored)?;
        plain.clear();
        let length = plain_len.index().unwrap_or_default();
        match codec {
            Codec::PATCH => {
                let mut patch = std::mem::take(&mut self.scratch);
                patch.clear();
                patch.reserve(COUNT + RUN * length.div_ceil(BLOCK) + length);
                let decoded = self.decompress(stored, &mut patch);
                let applied = decoded.and_then(|()| apply(&patch, base, length, plain));
                self.scratch = patch;
                applied
            }
            Codec::PREFIX => {
                plain.reserve(length);
                let mut context = DCtx::try_create().ok_or_else(out_of_memory)?;
                context.ref_prefix(base).and_then(|_| context.decompress(plain, stored)).map_err(
                    |code| {
                        let found = zstd::zstd_safe::get_error_name(code);
                        Error::corrupt("zstd frame", Bytes::ZERO, "intact", found)
                    },
                )?;
                match Bytes::of(plain) == plain_len {
                    true => Ok(()),
                    false => Err(wrong("plain bytes", length, plain.len())),
                }
            }
            other => Err(Error::unsupported(format!("chunk codec {other} with a base"))),
        }
    }
}

fn out_of_memory() -> Error {
    zstd_failed("set up", std::io::Error::from(std::io::ErrorKind::OutOfMemory))
}

fn wrong(what: &str, expected: impl ToString, found: impl ToString) -> Error {
    Error::corrupt(format!("patch, {what}"), Bytes::ZERO, expected.to_string(), found.to_string())
}

/// Finds the blocks of `plain` in `base`.
fn runs(base: &[u8], plain: &[u8]) -> Vec<Run> {
    let mut index: Option<HashMap<u32, usize>> = None;
    let mut runs: Vec<Run> = Vec::new();
    // Where the base goes on behind what was copied last.
    let mut next = 0;
    for block in plain.chunks(BLOCK) {
        let is_at = |from: &usize| base.get(*from..).is_some_and(|rest| rest.starts_with(block));
        let fresh = runs.last().map_or(0, |run| run.fresh);
        let found = [next + fresh, next].into_iter().find(is_at).or_else(|| {
            let index = index.get_or_insert_with(|| index_of(base));
            index.get(&crc32c::crc32c(block)).copied().filter(is_at)
        });
        match (runs.last_mut(), found) {
            (Some(run), Some(from)) if run.fresh == 0 && run.from + run.copied == from => {
                run.copied += block.len();
            }
            (_, Some(from)) => runs.push(Run { from, copied: block.len(), fresh: 0 }),
            (Some(run), None) => run.fresh += block.len(),
            (None, None) => runs.push(Run { from: 0, copied: 0, fresh: block.len() }),
        }
        next = found.map_or(next, |from| from + block.len());
    }
    runs
}

/// The same runs, with the equal ends of changed blocks copied too: an inode or a directory entry changes some bytes
/// of its block. A changed block is compared with what follows in the base where the copy before it ended.
fn narrowed(runs: Vec<Run>, base: &[u8], plain: &[u8]) -> Vec<Run> {
    let mut out: Vec<Run> = Vec::with_capacity(runs.len());
    let mut rest = plain;
    for run in &runs {
        push_copy(&mut out, run.from, run.copied);
        let (_, behind) = rest.split_at_checked(run.copied).unwrap_or_default();
        let (fresh, behind) = behind.split_at_checked(run.fresh).unwrap_or_default();
        rest = behind;
        let mut from = run.from + run.copied;
        for block in fresh.chunks(BLOCK) {
            let there = base.get(from..from + block.len()).unwrap_or_default();
            let equal = |(one, other): &(&u8, &u8)| one == other;
            let front = worth(block.iter().zip(there).take_while(equal).count());
            let back = block.iter().rev().zip(there.iter().rev()).take_while(equal).count();
            let back = worth(back.min(block.len() - front));
            push_copy(&mut out, from, front);
            match out.last_mut() {
                Some(run) => run.fresh += block.len() - front - back,
                None => out.push(Run { from: 0, copied: 0, fresh: block.len() - front - back }),
            }
            push_copy(&mut out, from + block.len() - back, back);
            from += block.len();
        }
    }
    // A reader takes one run for each block at most.
    if out.len() > plain.len().div_ceil(BLOCK) { runs } else { out }
}

/// Fewer bytes are not worth a run.
fn worth(equal: usize) -> usize {
    if equal < 64 { 0 } else { equal }
}

fn push_copy(runs: &mut Vec<Run>, from: usize, copied: usize) {
    match runs.last_mut() {
        _ if copied == 0 => {}
        Some(run) if run.fresh == 0 && run.from + run.copied == from => run.copied += copied,
        _ => runs.push(Run { from, copied, fresh: 0 }),
    }
}

/// Where each block of the base begins; of equal ones the first.
fn index_of(base: &[u8]) -> HashMap<u32, usize> {
    let mut index = HashMap::with_capacity(base.len() / BLOCK);
    for (number, block) in base.chunks_exact(BLOCK).enumerate() {
        index.entry(crc32c::crc32c(block)).or_insert(number * BLOCK);
    }
    index
}

/// Puts the patch, not yet compressed, into `patch`.
fn list(runs: &[Run], plain: &[u8], patch: &mut Vec<u8>) {
    // Windows have at most 4 MiB.
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes();
    patch.clear();
    patch.extend(number(runs.len()));
    for run in runs {
        patch.extend([run.from, run.copied, run.fresh].into_iter().flat_map(number));
    }
    let mut rest = plain;
    for run in runs {
        let (_, behind) = rest.split_at_checked(run.copied).unwrap_or_default();
        let (fresh, behind) = behind.split_at_checked(run.fresh).unwrap_or_default();
        patch.extend_from_slice(fresh);
        rest = behind;
    }
}

/// Makes `length` plain bytes of `base` by a patch.
fn apply(patch: &[u8], base: &[u8], length: usize, plain: &mut Vec<u8>) -> Result<()> {
    let structure = Structure::new("patch", Bytes::ZERO, patch);
    let size = |at: usize| structure.le32(at).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let count = size(0)?;
    // A run that a writer makes has a block at least, the last one perhaps the chunk's short end.
    if count > length.div_ceil(BLOCK) {
        return Err(wrong("number of runs", format!("at most {}", length.div_ceil(BLOCK)), count));
    }
    let mut fresh = patch.get(COUNT + RUN * count..).unwrap_or_default();
    plain.reserve(length);
    for at in (0..count).map(|number| COUNT + RUN * number) {
        let (from, copied, new) = (size(at)?, size(at + 4)?, size(at + 8)?);
        let copy = from.checked_add(copied).and_then(|end| base.get(from..end));
        let copy = copy.ok_or_else(|| {
            wrong("run", format!("within {}", base.len()), format!("{from}+{copied}"))
        })?;
        let (new, behind) = fresh
            .split_at_checked(new)
            .ok_or_else(|| wrong("fresh bytes", format!("{new} more"), fresh.len()))?;
        fresh = behind;
        if copy.len().saturating_add(new.len()) > length - plain.len() {
            return Err(wrong("plain bytes", length, "more"));
        }
        plain.extend_from_slice(copy);
        plain.extend_from_slice(new);
    }
    match (plain.len() == length, fresh) {
        (false, _) => Err(wrong("plain bytes", length, plain.len())),
        (true, []) => Ok(()),
        (true, more) => Err(wrong("end", "nothing behind the fresh bytes", more.len())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BLOCK, Base, apply, list, runs};
    use crate::error::{Error, Result};
    use crate::image::WINDOW;
    use crate::image::codec::{Codec, Decoder, Encoder};
    use crate::image::hash::ChunkId;
    use crate::units::Bytes;

    fn noise(seed: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// The delta of `plain` against a base of noise, and what comes back.
    fn delta(base: &[u8], plain: &[u8]) -> Option<(Codec, Vec<u8>)> {
        let mut stored = vec![1, 2, 3];
        let base = Base { id: ChunkId::of(base), plain: base, stored_len: Bytes::of(base) };
        let codec =
            Encoder::new(3).unwrap().encode_delta(WINDOW, &base, plain, &mut stored).unwrap()?;
        let mut full = Vec::new();
        Encoder::new(3).unwrap().encode(plain, &mut full).unwrap();
        assert!(stored.len() <= (base.plain.len() / 4).max(full.len() / 4 * 3));
        assert_eq!(decode(codec, base.plain, &stored, plain.len()).unwrap(), plain);
        Some((codec, stored))
    }

    fn decode(codec: Codec, base: &[u8], stored: &[u8], length: usize) -> Result<Vec<u8>> {
        let mut plain = vec![9; 7];
        let mut decoder = Decoder::new(WINDOW)?;
        decoder.decode_delta(codec, base, stored, Bytes::from(length), &mut plain)?;
        Ok(plain)
    }

    #[test]
    fn a_few_changed_blocks_take_what_they_take() {
        let base = noise(1, 1 << 20);
        let mut plain = base.clone();
        for block in [0, 7, 8, 255] {
            plain[block * BLOCK + 5] ^= 1;
        }
        let (codec, stored) = delta(&base, &plain).unwrap();
        assert_eq!(codec, Codec::PATCH);
        assert!(stored.len() < 200, "{}", stored.len());
        for block in [0, 7, 8, 255] {
            plain[block * BLOCK..][..BLOCK].copy_from_slice(&noise(3, BLOCK));
        }
        let (codec, stored) = delta(&base, &plain).unwrap();
        assert_eq!(codec, Codec::PATCH);
        assert!(stored.len() > BLOCK && stored.len() < 4 * BLOCK + 100, "{}", stored.len());
    }

    #[test]
    fn blocks_that_came_went_or_moved_cost_nothing() {
        let base = noise(1, 1 << 20);
        let gone = [&base[..9 * BLOCK], &base[20 * BLOCK..]].concat();
        let moved = [&base[100 * BLOCK..], &base[..100 * BLOCK]].concat();
        let short = base[3 * BLOCK..9 * BLOCK + 100].to_vec();
        for plain in [gone, moved, short] {
            let (codec, stored) = delta(&base, &plain).unwrap();
            assert_eq!(codec, Codec::PATCH);
            assert!(stored.len() < 100, "{}", stored.len());
        }
        let come = [&base[..9 * BLOCK], &noise(2, BLOCK), &base[9 * BLOCK..255 * BLOCK]].concat();
        assert!(delta(&base, &come).unwrap().1.len() < BLOCK + 100);
    }

    #[test]
    fn shifted_bytes_are_prefixed() {
        let base = noise(1, 1 << 20);
        let plain = [&[7; 100][..], &base[..(1 << 20) - 100]].concat();
        let (codec, stored) = delta(&base, &plain).unwrap();
        assert_eq!(codec, Codec::PREFIX);
        assert!(stored.len() < 2000, "{}", stored.len());
    }

    #[test]
    fn what_is_not_worth_it_is_no_delta() {
        let base = noise(1, 1 << 20);
        assert!(delta(&base, &noise(2, 1 << 20)).is_none(), "nothing in common");
        assert!(delta(&base, &noise(2, BLOCK)).is_none(), "nothing in common, and short");
        assert!(delta(&base, &vec![7; 1 << 20]).is_none(), "alone it takes as little");
        let mixed = |old: usize| [&base[..old], &noise(2, (1 << 20) - old)].concat();
        assert!(delta(&base, &mixed(1 << 18)).is_none(), "a byte more than three quarters");
        assert!(delta(&base, &mixed(1 << 19)).is_some(), "half of it is there already");
        let text = vec![7; 1 << 20];
        let mut other = text.clone();
        other[..BLOCK].copy_from_slice(&noise(1, BLOCK));
        let cheap = Base { id: ChunkId::of(&text), plain: &text, stored_len: Bytes::new(70) };
        let mut encoder = Encoder::new(3).unwrap();
        let none = encoder.encode_delta(WINDOW, &cheap, &other, &mut Vec::new()).unwrap();
        assert_eq!(none, None, "the base takes less");
    }

    #[test]
    fn patches_that_contradict_themselves_are_refused() {
        let base = noise(1, 2 * BLOCK);
        let patch = |numbers: &[u32], fresh: &[u8]| {
            let mut bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
            bytes.extend_from_slice(fresh);
            apply(&bytes, &base, BLOCK + 2, &mut Vec::new())
        };
        patch(&[2, 1, 4096, 1, 0, 0, 1], b"ab").unwrap();
        patch(&[1, 4095, 4097, 1], b"a").unwrap();
        for (numbers, fresh) in [
            (&[][..], &b""[..]),
            (&[0], b""),
            (&[1, 0, 4096, 1], b"a"),
            (&[1, 0, 4096, 2], b"a"),
            (&[1, 0, 4096, 2], b"abc"),
            (&[1, 0, 4096, 3], b"abc"),
            (&[1, 4096, 4097, 1], b"a"),
            (&[1, u32::MAX, u32::MAX, 1], b"a"),
            (&[1, 0, 4096, u32::MAX], b"a"),
            (&[2, 0, 4096, 1], b"a"),
            (&[3, 0, 4096, 0, 0, 1, 0, 0, 1, 0], b""),
            (&[u32::MAX, 0, 4096, 2], b"ab"),
        ] {
            let error = patch(numbers, fresh).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{numbers:?}: {error}");
        }
    }

    #[test]
    fn another_base_is_noticed_or_gives_other_bytes() {
        let base = noise(1, 1 << 20);
        let mut plain = base.clone();
        plain[0] ^= 1;
        let (codec, stored) = delta(&base, &plain).unwrap();
        assert!(decode(codec, &base[1..], &stored, plain.len()).is_err());
        assert_ne!(decode(codec, &noise(2, 1 << 20), &stored, plain.len()).unwrap(), plain);
        for length in [plain.len() - 1, 0] {
            assert!(decode(codec, &base, &stored, length).is_err());
        }
        for other in [Codec::STORED, Codec::ZSTD, Codec(4)] {
            let error = decode(other, &base, &stored, plain.len()).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_pair_comes_back(
            base in prop::collection::vec((0_u8..6, 1_usize..=BLOCK), 0..24),
            plain in prop::collection::vec((0_u8..6, 1_usize..=BLOCK), 1..24),
            ragged: bool,
        ) {
            let bytes = |blocks: &[(u8, usize)]| -> Vec<u8> {
                let block = |(seed, length): &(u8, usize)| noise(*seed, if ragged { *length } else { BLOCK });
                blocks.iter().flat_map(block).collect()
            };
            let (base, plain) = (bytes(&base), bytes(&plain));
            let runs = runs(&base, &plain);
            let mut patch = Vec::new();
            list(&runs, &plain, &mut patch);
            let mut out = Vec::new();
            apply(&patch, &base, plain.len(), &mut out).unwrap();
            prop_assert_eq!(&out, &plain);
            if !base.is_empty() {
                delta(&base, &plain);
            }
        }

        #[test]
        fn hostile_patches_never_panic(
            codec in 2_u8..4,
            numbers in prop::collection::vec(0_u32..6000, 0..12),
            mut tail in prop::collection::vec(any::<u8>(), 0..100),
            frame: bool,
        ) {
            let base = noise(1, BLOCK);
            let mut bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
            bytes.append(&mut tail);
            let _ = apply(&bytes, &base, 5000, &mut Vec::new());
            let stored = if frame { zstd::bulk::compress(&bytes, 1).unwrap() } else { bytes };
            let _ = decode(Codec(codec), &base, &stored, 5000);
            let _ = decode(Codec(codec), &base, &[&[0x28, 0xb5, 0x2f, 0xfd], &stored[..]].concat(), 5000);
        }
    }
}
