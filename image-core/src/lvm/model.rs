//! A volume group: its PVs, its LVs and where each segment lies, checked as a whole.

use serde::{Deserialize, Serialize};

use super::label::{Area, PvHead};
use super::metadata::{Entry, Section};
use crate::error::{Error, Result};
use crate::units::Bytes;

/// Extents are counted in 32 bits, and so are the extent size's sectors and the sequence number.
pub(super) const MAX_32: u64 = 0xffff_ffff;

/// Which VG a text describes, and how new it is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct VgStamp {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Raised by each change.
    pub seqno: u64,
}

/// A volume group. Its fields are what [`Vg::text`] writes, over everything else that the text it was
/// read from held; PVs and LVs stay in that text's order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vg {
    /// Name.
    pub name: String,
    /// UUID, 6-4-4-4-4-4-6.
    pub uuid: String,
    /// Raised by each change.
    pub seqno: u64,
    /// The grain of allocation.
    pub extent_size: Bytes,
    /// In the order of the text; segments name them by their index here.
    pub pvs: Vec<Pv>,
    /// Hidden ones too: what hides one that is not a part of another is no reason to lose it.
    pub lvs: Vec<Lv>,
    /// The text as it was read.
    pub(super) file: Section,
    pub(super) unsupported: Option<String>,
}

/// A physical volume as its VG knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pv {
    /// Its name in the text: `pv0`.
    pub key: String,
    /// UUID, as in the PV's header.
    pub uuid: String,
    /// Size of the device.
    pub dev_size: Bytes,
    /// Where extent 0 begins.
    pub pe_start: Bytes,
    /// Number of extents.
    pub pe_count: u64,
    /// Whether new extents may be taken from it.
    pub allocatable: bool,
    /// A second metadata area, behind the extents; known once the PV's header was seen.
    pub trailing_area: Option<Area>,
}

/// A logical volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lv {
    /// Name.
    pub name: String,
    /// UUID.
    pub uuid: String,
    /// In order, without gap.
    pub segments: Vec<Segment>,
    /// Whether its bytes are on its PVs already, so that it stays where it is whatever else moves.
    pub held: bool,
}

/// A run of an LV's extents that lies on PVs in one way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// First extent of the LV.
    pub start_extent: u64,
    /// Number of the LV's extents.
    pub extent_count: u64,
    /// How they lie.
    pub kind: SegmentKind,
    /// Tags, and keys that this version does not know.
    pub(super) extra: Vec<Entry>,
}

/// How a segment lies on PVs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SegmentKind {
    /// Chunks of `stripe_size` by turns; one stripe is a linear segment.
    Striped {
        /// Zero for one stripe.
        stripe_size: Bytes,
        /// Index of the PV, and its first extent there.
        stripes: Vec<(usize, u64)>,
    },
    /// Something else, as a phrase: `a thin-pool`.
    Unsupported(String),
}

impl Segment {
    /// Its stripes; none where it is not supported.
    pub fn stripes(&self) -> &[(usize, u64)] {
        match &self.kind {
            SegmentKind::Striped { stripes, .. } => stripes,
            SegmentKind::Unsupported(_) => &[],
        }
    }

    /// Extents on each of its stripes.
    pub fn extents_per_stripe(&self) -> u64 {
        let stripes = u64::try_from(self.stripes().len()).unwrap_or(MAX_32);
        self.extent_count.checked_div(stripes).unwrap_or(0)
    }
}

impl Lv {
    /// Number of extents.
    pub fn extents(&self) -> u64 {
        self.segments.iter().map(|segment| segment.extent_count).sum()
    }

    /// Size within its VG.
    pub fn size(&self, vg: &Vg) -> Bytes {
        vg.extents(self.extents())
    }
}

impl Pv {
    /// One past the last extent.
    pub fn pe_end(&self, extent_size: Bytes) -> Bytes {
        self.pe_start + extent_size.checked_mul(self.pe_count).unwrap_or(Bytes::ZERO)
    }

    /// Compares with the PV's own header, and notes the metadata area behind the extents.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where an area overlaps the extents; [`Error::Unsupported`] where more than one
    /// metadata area, or a boot loader area, lies behind them.
    pub(super) fn adopt_head(&mut self, head: &PvHead, extent_size: Bytes) -> Result<()> {
        let pe_end = self.pe_end(extent_size);
        let is_behind = |area: &Area| match area.end() {
            Some(end) if end <= self.pe_start => Ok(false),
            Some(_) if area.offset >= pe_end => Ok(true),
            _ => {
                let expected =
                    format!("outside the extents {}..{}", self.pe_start.get(), pe_end.get());
                let found = format!("{} bytes", area.size.get());
                Err(Error::corrupt("area of the PV header", area.offset, expected, found))
            }
        };
        let mut behind = Vec::new();
        for area in head.metadata_areas.iter().map(|metadata| metadata.area) {
            if is_behind(&area)? {
                behind.push(area);
            }
        }
        for area in &head.bootloader_areas {
            if is_behind(area)? {
                return Err(Error::unsupported("a boot loader area behind the extents"));
            }
        }
        if behind.len() > 1 {
            return Err(Error::unsupported("more than one metadata area behind the extents"));
        }
        self.trailing_area = behind.pop();
        Ok(())
    }
}

impl Vg {
    /// The first thing that keeps this VG from being handled, as a sentence: `LV vg/pool is a thin-pool`.
    pub fn unsupported(&self) -> Option<String> {
        self.unsupported.clone()
    }

    /// The LV `name`.
    pub fn lv(&self, name: &str) -> Option<&Lv> {
        self.lvs.iter().find(|lv| lv.name == name)
    }

    /// Space on its PVs that no LV has.
    pub fn free_bytes(&self) -> Bytes {
        let all: u64 = self.pvs.iter().map(|pv| pv.pe_count).sum();
        let used: u64 = self.used_extents().into_iter().sum();
        self.extents(all.saturating_sub(used))
    }

    /// The size of `count` extents.
    pub fn extents(&self, count: u64) -> Bytes {
        self.extent_size.checked_mul(count).unwrap_or(Bytes::MAX)
    }

    /// Extents of each PV that LVs have.
    pub(super) fn used_extents(&self) -> Vec<u64> {
        let mut used = vec![0; self.pvs.len()];
        for segment in self.lvs.iter().flat_map(|lv| &lv.segments) {
            for (pv, _) in segment.stripes() {
                if let Some(used) = used.get_mut(*pv) {
                    *used += segment.extents_per_stripe();
                }
            }
        }
        used
    }

    /// Proves that LVs have no gaps, that their sizes can be told, and that each extent has one user.
    pub(super) fn check(&self) -> Result<()> {
        let mut runs = Vec::new();
        for lv in &self.lvs {
            let mut next = 0_u64;
            for segment in &lv.segments {
                if segment.start_extent != next {
                    let found = segment.start_extent.to_string();
                    return Err(self.wrong(&lv.name, "start_extent", &next.to_string(), found));
                }
                next += segment.extent_count;
                let count = segment.extents_per_stripe();
                runs.extend(segment.stripes().iter().map(|(pv, pe)| (*pv, *pe, count, &lv.name)));
            }
            if next == 0 || next > MAX_32 || self.extent_size.checked_mul(next).is_none() {
                return Err(self.wrong(&lv.name, "extents", "1 to 4294967295", next.to_string()));
            }
        }
        runs.sort_unstable();
        let mut behind = (0, 0);
        for (pv, pe, count, lv) in runs {
            if (pv, pe) < behind {
                return Err(self.wrong(
                    lv,
                    "extents",
                    "not used twice",
                    format!("{pe} of pv {pv}"),
                ));
            }
            let end = pe.saturating_add(count);
            let limit = self.pvs.get(pv).map_or(0, |pv| pv.pe_count);
            if end > limit {
                let expected = format!("up to {limit} of pv {pv}");
                return Err(self.wrong(lv, "extents", &expected, end.to_string()));
            }
            behind = (pv, end);
        }
        Ok(())
    }

    fn wrong(&self, lv: &str, what: &str, expected: &str, found: String) -> Error {
        let whole = self.file.section(&self.name).and_then(|vg| vg.section("logical_volumes"));
        let section = whole.and_then(|lvs| lvs.section(lv)).unwrap_or(&self.file);
        section.corrupt(what, expected, found)
    }
}

#[cfg(test)]
mod tests {
    use crate::lvm::sample;
    use crate::units::Bytes;

    #[test]
    fn sizes_and_places_are_read() {
        let lvs = [
            ("root", vec![(2, 0, vec![(0, 1)]), (4, 128, vec![(0, 6), (1, 0)])]),
            ("swap", vec![(1, 0, vec![(0, 4)])]),
        ];
        let vg = sample::vg(2048, &[10, 5], &lvs);
        assert_eq!((vg.seqno, vg.extent_size, vg.unsupported()), (7, Bytes::MIB, None));
        assert_eq!((vg.pvs[1].pe_start, vg.pvs[1].dev_size), (Bytes::MIB, Bytes::mib(6)));
        let root = vg.lv("root").unwrap();
        assert_eq!(root.size(&vg), Bytes::mib(6));
        assert_eq!(root.segments[1].stripes(), [(0, 6), (1, 0)]);
        assert_eq!(vg.used_extents(), [5, 2]);
        assert_eq!(vg.free_bytes(), Bytes::mib(8));
        assert!(vg.lv("none").is_none());
    }
}
