//! Where each byte of an LV lies, and an LV as something to read from or write to.

use std::sync::Arc;

use super::model::{Lv, SegmentKind, Vg};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::io::source::beyond_end;
use crate::io::{BlockSink, BlockSource};
use crate::units::Bytes;

/// The bytes of one LV as bytes of its VG's PVs; work grows with segments and pieces asked for, never
/// with the LV's size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LvMap {
    runs: Vec<Run>,
    size: Bytes,
}

/// One segment in bytes, on PVs; or, from [`LvMap::runs`], on what these lie on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// Within the LV.
    extent: Extent,
    /// How many bytes lie on one leg before the next one's turn; for one leg a single byte, so that
    /// every place is the start of a row.
    chunk: Bytes,
    /// Index of the PV, and where the leg begins there.
    legs: Vec<(usize, Bytes)>,
}

/// Bytes that lie together in the LV and on one PV.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// From the start of the LV.
    pub lv_offset: Bytes,
    /// Number of bytes.
    pub length: Bytes,
    /// Index in `vg.pvs`.
    pub pv: usize,
    /// From the start of the PV.
    pub pv_offset: Bytes,
}

impl Run {
    /// The bytes of each of its legs, with what it lies on.
    pub(crate) fn places(&self) -> impl Iterator<Item = (usize, Extent)> + '_ {
        self.legs.iter().map(|leg| (leg.0, self.on_leg(*leg, self.extent)))
    }

    /// Whether `next` goes on where this one ends, on all legs.
    fn goes_on(&self, next: &Self) -> bool {
        let ends = self.places().map(|(on, extent)| (on, extent.end));
        self.chunk == next.chunk && ends.eq(next.legs.iter().copied())
    }

    /// Bytes of one turn over all legs.
    fn row(&self) -> Bytes {
        self.chunk.checked_mul(Bytes::from(self.legs.len()).get()).unwrap_or(Bytes::MAX)
    }

    /// What lies together from `at` on, up to `end`; both are in the run.
    fn piece(&self, at: Bytes, end: Bytes) -> Option<Piece> {
        let inside = at - self.extent.start;
        let (leg, on_leg, together) = match self.legs.as_slice() {
            [leg] => (leg, inside, end - at),
            legs => {
                let (row, rest) =
                    (inside.units(self.row()), inside - inside.align_down(self.row()));
                let leg = legs.get(usize::try_from(rest.units(self.chunk)).ok()?)?;
                let in_chunk = rest - rest.align_down(self.chunk);
                (leg, self.chunk.checked_mul(row)? + in_chunk, self.chunk - in_chunk)
            }
        };
        let length = together.min(end - at);
        Some(Piece { lv_offset: at, length, pv: leg.0, pv_offset: leg.1 + on_leg })
    }

    /// The leg's part that holds the rows of `rows`, which begins and ends with a row (or the run).
    fn on_leg(&self, leg: (usize, Bytes), rows: Extent) -> Extent {
        let legs = Bytes::from(self.legs.len()).get();
        let each = |lv: Bytes| Bytes::new((lv - self.extent.start).get() / legs);
        Extent::new(each(rows.start), each(rows.end)).shifted(leg.1)
    }

    /// `part` of the run, widened to whole rows.
    fn rows_around(&self, part: Extent) -> Extent {
        let row = self.row();
        let part = part.relative_to(self.extent.start);
        Extent::new(part.start.align_down(row), part.end.align_up(row).min(self.extent.len()))
            .shifted(self.extent.start)
    }

    /// The whole rows in `part` of the run; empty at the part's end if there are none.
    fn rows_within(&self, part: Extent) -> Extent {
        let row = self.row();
        let inner = part.relative_to(self.extent.start);
        let end = inner.end.align_down(row);
        let start = inner.start.align_up(row);
        if start >= end {
            return Extent::new(part.end, part.end);
        }
        Extent::new(start, end).shifted(self.extent.start)
    }
}

impl LvMap {
    /// The map of `lv`, which is one of `vg`'s.
    ///
    /// # Errors
    /// [`Error::Refused`] where a segment is of a kind that is not handled.
    pub fn new(vg: &Vg, lv: &Lv) -> Result<Self> {
        let mut runs = Vec::new();
        for segment in &lv.segments {
            let (stripe_size, stripes) = match &segment.kind {
                SegmentKind::Striped { stripe_size, stripes } => (*stripe_size, stripes),
                SegmentKind::Unsupported(what) => {
                    return Err(Error::refused(format!("LV {}/{} is {what}", vg.name, lv.name)));
                }
            };
            let place = |(pv, pe): &(usize, u64)| {
                let start = vg.pvs.get(*pv)?.pe_start;
                Some((*pv, start.checked_add(vg.extents(*pe))?))
            };
            let legs: Option<Vec<_>> = stripes.iter().map(place).collect();
            let start = vg.extents(segment.start_extent);
            let extent = Extent::at(start, vg.extents(segment.extent_count));
            let (Some(legs), Some(extent)) = (legs, extent) else {
                return Err(Error::refused(format!("LV {}/{} leaves its VG", vg.name, lv.name)));
            };
            let chunk = if legs.len() == 1 { Bytes::new(1) } else { stripe_size };
            runs.push(Run { extent, chunk, legs });
        }
        Ok(Self { runs, size: lv.size(vg) })
    }

    /// Where the LV lies on what its PVs lie on: `place` tells for each of them on what, and where there. Two
    /// maps of the same bytes in the same order give the same.
    pub(crate) fn runs(
        &self,
        place: &dyn Fn(usize) -> Option<(usize, Extent)>,
    ) -> Option<Vec<Run>> {
        let mut runs: Vec<Run> = Vec::new();
        for run in &self.runs {
            let leg = |(pv, start): &(usize, Bytes)| {
                let (on, extent) = place(*pv)?;
                Some((on, extent.start.checked_add(*start)?))
            };
            let legs = run.legs.iter().map(leg).collect::<Option<Vec<_>>>()?;
            let run = Run { legs, ..run.clone() };
            match runs.last_mut() {
                Some(last) if last.goes_on(&run) => last.extent.end = run.extent.end,
                _ => runs.push(run),
            }
        }
        Some(runs)
    }

    /// Size of the LV.
    pub fn size(&self) -> Bytes {
        self.size
    }

    /// The PV and the place on it of the whole LV, where it lies in one piece.
    pub fn contiguous(&self) -> Option<(usize, Bytes)> {
        let (pv, start) = *self.runs.first()?.legs.first()?;
        let follows = |run: &Run| match run.legs.as_slice() {
            [leg] => leg.0 == pv && start.checked_add(run.extent.start) == Some(leg.1),
            _ => false,
        };
        self.runs.iter().all(follows).then_some((pv, start))
    }

    /// The pieces of `range`, in order; what lies behind the LV's end is left out.
    pub fn pieces(&self, range: Extent) -> impl Iterator<Item = Piece> + '_ {
        self.parts(range).flat_map(|(run, part)| {
            let next = move |at: Bytes| {
                if at < part.end { run.piece(at, part.end) } else { None }
            };
            std::iter::successors(next(part.start), move |piece| {
                next(piece.lv_offset + piece.length)
            })
        })
    }

    /// The PVs' bytes that `range` lies on, in no order; rows of stripes are taken together.
    pub(crate) fn spans(&self, range: Extent) -> impl Iterator<Item = (usize, Extent)> + '_ {
        self.parts(range).flat_map(move |(run, part)| {
            let rows = run.rows_within(part);
            let edges = [Extent::new(part.start, rows.start), Extent::new(rows.end, part.end)];
            let single = edges
                .into_iter()
                .flat_map(|edge| self.pieces(edge))
                .filter_map(|piece| Some((piece.pv, Extent::at(piece.pv_offset, piece.length)?)));
            let whole = run.legs.iter().map(move |leg| (leg.0, run.on_leg(*leg, rows)));
            whole.filter(|(_, extent)| !extent.is_empty()).chain(single)
        })
    }

    /// The runs that `range` touches, each with the part of it.
    fn parts(&self, range: Extent) -> impl Iterator<Item = (&Run, Extent)> + '_ {
        let from = self.runs.partition_point(|run| run.extent.end <= range.start);
        let runs = self.runs.get(from..).unwrap_or_default().iter();
        runs.map_while(move |run| Some((run, run.extent.intersect(range)?)))
    }
}

/// An LV over the containers that hold its PVs.
pub struct LvView<T: ?Sized> {
    name: String,
    map: LvMap,
    pvs: Vec<Option<Arc<T>>>,
    sector_size: Bytes,
}

/// An LV to read from.
pub type LvSource = LvView<dyn BlockSource>;

/// An LV to write to.
pub type LvSink = LvView<dyn BlockSink>;

impl<T: ?Sized> LvView<T> {
    /// `measure` tells size and sector size of a PV.
    fn open(
        name: String,
        map: LvMap,
        pvs: Vec<Option<Arc<T>>>,
        measure: impl Fn(&T) -> (Bytes, Bytes),
    ) -> Result<Self> {
        let mut sector_size = Bytes::new(512);
        for run in &map.runs {
            for leg in &run.legs {
                let Some(pv) = pvs.get(leg.0).and_then(Option::as_deref) else {
                    return Err(Error::refused(format!("{name}: the PV {} is missing", leg.0)));
                };
                let (size, sector) = measure(pv);
                let end = run.on_leg(*leg, run.extent).end;
                if end > size {
                    return Err(Error::refused(format!(
                        "{name}: the PV {} has {} bytes, the LV needs {}",
                        leg.0,
                        size.get(),
                        end.get()
                    )));
                }
                sector_size = sector_size.max(sector);
            }
        }
        Ok(Self { name, map, pvs, sector_size })
    }

    fn pv(&self, index: usize) -> Result<&T> {
        let pv = self.pvs.get(index).and_then(Option::as_deref);
        pv.ok_or_else(|| Error::refused(format!("{}: the PV {index} is missing", self.name)))
    }

    fn inside(&self, action: &str, offset: Bytes, length: usize) -> Result<Extent> {
        Extent::at(offset, Bytes::from(length))
            .filter(|range| range.end <= self.map.size)
            .ok_or_else(|| beyond_end(&self.name, action, offset, length, self.map.size))
    }

    fn check(&self, action: &str, range: Extent) -> Result<()> {
        let length = range.len().index().unwrap_or(usize::MAX);
        self.inside(action, range.start, length).map(drop)
    }
}

/// The part of a buffer that belongs to `length` bytes; the rest stays in `buffer`.
fn next_len(length: Bytes, buffer: &[u8]) -> usize {
    length.index().unwrap_or(usize::MAX).min(buffer.len())
}

impl LvSource {
    /// The LV of `map`, called `name` in messages; `pvs` as in `vg.pvs`, `None` where it has no extents.
    ///
    /// # Errors
    /// [`Error::Refused`] where a PV that it needs is missing or too short.
    pub fn new(
        name: impl Into<String>,
        map: LvMap,
        pvs: Vec<Option<Arc<dyn BlockSource>>>,
    ) -> Result<Self> {
        Self::open(name.into(), map, pvs, |pv| (pv.size(), pv.sector_size()))
    }
}

impl BlockSource for LvSource {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn size(&self) -> Bytes {
        self.map.size
    }
    fn sector_size(&self) -> Bytes {
        self.sector_size
    }
    fn read_at(&self, offset: Bytes, mut buffer: &mut [u8]) -> Result<()> {
        for piece in self.map.pieces(self.inside("read", offset, buffer.len())?) {
            let (part, rest) = buffer.split_at_mut(next_len(piece.length, buffer));
            self.pv(piece.pv)?.read_at(piece.pv_offset, part)?;
            buffer = rest;
        }
        Ok(())
    }
    fn read_around(
        &self,
        offset: Bytes,
        mut buffer: &mut [u8],
        wanted: &[Extent],
    ) -> Result<ExtentSet> {
        let mut unreadable = ExtentSet::new();
        let mut at = Bytes::ZERO;
        for piece in self.map.pieces(self.inside("read", offset, buffer.len())?) {
            let (part, rest) = buffer.split_at_mut(next_len(piece.length, buffer));
            let here = Extent::new(at, at + Bytes::of(part));
            let wanted: Vec<Extent> = wanted
                .iter()
                .filter_map(|range| Some(range.intersect(here)?.relative_to(at)))
                .collect();
            let holes = self.pv(piece.pv)?.read_around(piece.pv_offset, part, &wanted)?;
            holes.shifted(at).iter().for_each(|hole| unreadable.insert(hole));
            (at, buffer) = (here.end, rest);
        }
        Ok(unreadable)
    }
    /// In a striped segment a row counts as soon as one leg has something there.
    fn allocated(&self, range: Extent) -> Result<ExtentSet> {
        self.check("read", range)?;
        let mut all = ExtentSet::new();
        for (run, part) in self.map.parts(range) {
            let rows = run.rows_around(part);
            let legs = Bytes::from(run.legs.len()).get();
            let mut here = ExtentSet::new();
            for leg in &run.legs {
                let set = self.pv(leg.0)?.allocated(run.on_leg(*leg, rows))?;
                let widened = set.iter().filter_map(|extent| {
                    let on_leg = extent.relative_to(leg.1);
                    let start = on_leg.start.align_down(run.chunk).checked_mul(legs)?;
                    let end = on_leg.end.align_up(run.chunk).checked_mul(legs)?;
                    Extent::new(start, end).shifted(run.extent.start).intersect(part)
                });
                here = here.union(&widened.collect());
            }
            here.iter().for_each(|extent| all.insert(extent));
        }
        Ok(all)
    }
}

impl LvSink {
    /// The LV of `map`, called `name` in messages; `pvs` as in `vg.pvs`, `None` where it has no extents.
    ///
    /// # Errors
    /// [`Error::Refused`] where a PV that it needs is missing or too short.
    pub fn new(
        name: impl Into<String>,
        map: LvMap,
        pvs: Vec<Option<Arc<dyn BlockSink>>>,
    ) -> Result<Self> {
        Self::open(name.into(), map, pvs, |pv| (pv.size(), pv.sector_size()))
    }
}

impl BlockSink for LvSink {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn size(&self) -> Bytes {
        self.map.size
    }
    fn sector_size(&self) -> Bytes {
        self.sector_size
    }
    fn write_at(&self, offset: Bytes, mut bytes: &[u8]) -> Result<()> {
        for piece in self.map.pieces(self.inside("write", offset, bytes.len())?) {
            let (part, rest) = bytes.split_at(next_len(piece.length, bytes));
            self.pv(piece.pv)?.write_at(piece.pv_offset, part)?;
            bytes = rest;
        }
        Ok(())
    }
    fn zero(&self, range: Extent) -> Result<()> {
        self.check("zero", range)?;
        self.map.spans(range).try_for_each(|(pv, extent)| self.pv(pv)?.zero(extent))
    }
    fn discard(&self, range: Extent) -> Result<()> {
        self.check("discard", range)?;
        self.map.spans(range).try_for_each(|(pv, extent)| self.pv(pv)?.discard(extent))
    }
    /// Flushes every PV it was given.
    fn flush(&self) -> Result<()> {
        self.pvs.iter().flatten().try_for_each(|pv| pv.flush())
    }
}

#[cfg(test)]
#[expect(clippy::as_conversions, reason = "small numbers of the tests")]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::{LvMap, LvSink, LvSource};
    use crate::error::Result;
    use crate::extent::{Extent, ExtentSet};
    use crate::io::memory::Memory;
    use crate::io::{BlockSink, BlockSource};
    use crate::lvm::model::{Lv, SegmentKind, Vg};
    use crate::lvm::sample;
    use crate::units::Bytes;

    /// Two PVs of 24 extents of 8 sectors, an LV of linear and striped segments.
    fn vg() -> Vg {
        let segments = vec![
            (3, 0, vec![(1, 4)]),
            (6, 2, vec![(0, 0), (1, 10), (0, 8)]),
            (2, 4, vec![(1, 0), (0, 20)]),
        ];
        sample::vg(8, &[24, 24], &[("lv", segments), ("one", vec![(4, 0, vec![(1, 20)])])])
    }

    /// Where the byte `at` of an LV lies, told one byte at a time.
    fn byte(vg: &Vg, lv: &Lv, at: u64) -> (usize, u64) {
        let extent = vg.extent_size.get();
        for segment in &lv.segments {
            let (start, end) = (segment.start_extent, segment.start_extent + segment.extent_count);
            let SegmentKind::Striped { stripe_size, stripes } = &segment.kind else { continue };
            if at / extent >= end {
                continue;
            }
            let inside = at - start * extent;
            let chunk = if stripes.len() == 1 { extent } else { stripe_size.get() };
            let n = stripes.len() as u64;
            let (pv, pe) = stripes[(inside / chunk % n) as usize];
            let on_leg = inside / chunk / n * chunk + inside % chunk;
            return (pv, vg.pvs[pv].pe_start.get() + pe * extent + on_leg);
        }
        panic!("byte {at} is behind the LV");
    }

    fn extent(from: u64, to: u64) -> Extent {
        Extent::new(Bytes::new(from.min(to)), Bytes::new(from.max(to)))
    }

    const SIZE: u64 = 11 * 4096;

    proptest! {
        #[test]
        fn pieces_agree_with_single_bytes(a in 0..=SIZE, b in 0..=SIZE) {
            let vg = vg();
            let map = LvMap::new(&vg, &vg.lvs[0]).unwrap();
            let range = extent(a, b);
            let mut at = range.start;
            for piece in map.pieces(range) {
                prop_assert_eq!(piece.lv_offset, at);
                for step in 0..piece.length.get() {
                    let there = (piece.pv, piece.pv_offset.get() + step);
                    prop_assert_eq!(byte(&vg, &vg.lvs[0], at.get() + step), there);
                }
                at += piece.length;
            }
            prop_assert_eq!(at, range.end);
            let spans = |pv: usize| -> ExtentSet {
                map.spans(range).filter(|span| span.0 == pv).map(|span| span.1).collect()
            };
            let pieces = |pv: usize| -> ExtentSet {
                let here = map.pieces(range).filter(|piece| piece.pv == pv);
                here.map(|piece| Extent::at(piece.pv_offset, piece.length).unwrap()).collect()
            };
            prop_assert_eq!((spans(0), spans(1)), (pieces(0), pieces(1)));
        }

        #[test]
        fn nothing_allocated_is_left_out(spots in prop::collection::vec((0..2_usize, 0..24_u64 * 4096), 0..4),
                                         a in 0..=SIZE, b in 0..=SIZE) {
            let vg = vg();
            let map = LvMap::new(&vg, &vg.lvs[0]).unwrap();
            let holes = |pv| -> Arc<dyn BlockSource> {
                let spots = spots.iter().filter(|spot| spot.0 == pv);
                let set = spots.map(|spot| extent((1 << 20) + spot.1, (1 << 20) + spot.1 + 1));
                Arc::new(Sparse(set.collect()))
            };
            let source = LvSource::new("lv", map, vec![Some(holes(0)), Some(holes(1))]).unwrap();
            let range = extent(a, b);
            let set = source.allocated(range).unwrap();
            prop_assert!(set.subtract(&range.into()).is_empty());
            for at in range.start.get()..range.end.get() {
                let (pv, place) = byte(&vg, &vg.lvs[0], at);
                if spots.contains(&(pv, place - (1 << 20))) {
                    prop_assert!(set.contains(extent(at, at + 1)));
                }
            }
            if spots.is_empty() {
                prop_assert!(set.is_empty());
            }
        }
    }

    /// A source of which only these bytes are allocated.
    struct Sparse(ExtentSet);

    impl BlockSource for Sparse {
        fn name(&self) -> String {
            "sparse".to_owned()
        }
        fn size(&self) -> Bytes {
            Bytes::mib(2)
        }
        fn sector_size(&self) -> Bytes {
            Bytes::new(4096)
        }
        fn read_at(&self, _: Bytes, _: &mut [u8]) -> Result<()> {
            Ok(())
        }
        fn allocated(&self, range: Extent) -> Result<ExtentSet> {
            Ok(self.0.within(range).collect())
        }
    }

    #[test]
    fn what_is_written_and_zeroed_is_read() {
        let vg = vg();
        let disks = [0, 1].map(|_| Arc::new(Memory::new(vec![0xee; (1 << 20) + 24 * 4096])));
        let map = LvMap::new(&vg, &vg.lvs[0]).unwrap();
        let sinks = disks.iter().map(|disk| Some(disk.clone() as Arc<dyn BlockSink>)).collect();
        let sources = disks.iter().map(|disk| Some(disk.clone() as Arc<dyn BlockSource>)).collect();
        let sink = LvSink::new("lv", map.clone(), sinks).unwrap();
        let source = LvSource::new("lv", map, sources).unwrap();
        let mut bytes: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
        sink.write_at(Bytes::ZERO, &bytes).unwrap();
        assert_eq!(source.read(Bytes::ZERO, bytes.len()).unwrap(), bytes);
        sink.zero(extent(5000, 40000)).unwrap();
        sink.flush().unwrap();
        bytes[5000..40000].fill(0);
        assert_eq!(source.read(Bytes::new(17), 40900).unwrap(), bytes[17..40917]);
        sink.discard(extent(0, 4096)).unwrap();
        let past = source.read(Bytes::new(SIZE - 1), 2).unwrap_err().to_string();
        assert!(past.contains("lv: cannot read 2 bytes at byte 45055: beyond the end"), "{past}");
        assert!(sink.write_at(Bytes::new(SIZE), &[1]).is_err());
        assert!(sink.zero(extent(0, SIZE + 1)).is_err());
        let theirs = disks[1].read(Bytes::new((1 << 20) + 20 * 4096), 4 * 4096).unwrap();
        assert!(theirs.iter().all(|byte| *byte == 0xee), "another LV was written");
    }

    #[test]
    fn only_one_run_on_one_pv_is_contiguous() {
        let vg = sample::vg(
            8,
            &[24, 24],
            &[
                ("a", vec![(2, 0, vec![(0, 3)]), (2, 0, vec![(0, 5)])]),
                ("b", vec![(2, 0, vec![(0, 7)]), (2, 0, vec![(0, 10)])]),
                ("c", vec![(2, 0, vec![(0, 12)]), (2, 0, vec![(1, 14)])]),
                ("d", vec![(2, 8, vec![(0, 14), (0, 15)])]),
            ],
        );
        let contiguous = |index: usize| LvMap::new(&vg, &vg.lvs[index]).unwrap().contiguous();
        assert_eq!(contiguous(0), Some((0, Bytes::new((1 << 20) + 3 * 4096))));
        assert_eq!([contiguous(1), contiguous(2), contiguous(3)], [None; 3]);
    }

    #[test]
    fn missing_and_short_pvs_are_refused() {
        let vg = vg();
        let map = LvMap::new(&vg, &vg.lvs[1]).unwrap();
        let full: Arc<dyn BlockSource> = Arc::new(Memory::new(vec![0; (1 << 20) + 24 * 4096]));
        let short: Arc<dyn BlockSource> = Arc::new(Memory::new(vec![0; (1 << 20) + 24 * 4096 - 1]));
        assert!(LvSource::new("one", map.clone(), vec![None, Some(full)]).is_ok());
        assert!(LvSource::new("one", map.clone(), vec![None, None]).is_err());
        let error = LvSource::new("one", map, vec![None, Some(short)]).err().unwrap().to_string();
        assert_eq!(error, "one: the PV 1 has 1146879 bytes, the LV needs 1146880");
    }

    #[test]
    fn a_huge_striped_lv_costs_its_segments_only() {
        let half = 1 << 30;
        let vg =
            sample::vg(8192, &[half, half], &[("lv", vec![(2 * half, 8, vec![(0, 0), (1, 0)])])]);
        let map = LvMap::new(&vg, &vg.lvs[0]).unwrap();
        let last = extent(map.size().get() - 1, map.size().get());
        let piece = map.pieces(last).next().unwrap();
        assert_eq!(piece.pv_offset, vg.pvs[1].pe_end(vg.extent_size) - Bytes::new(1));
        assert_eq!(map.spans(Extent::first(map.size())).count(), 2);
    }
}
