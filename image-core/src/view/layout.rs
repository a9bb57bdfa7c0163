//! Where a volume lies on the targets.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::lvm::model::{SegmentKind, Vg};
use crate::units::Bytes;

/// A position on a target.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Place {
    /// A disk or an image file.
    pub path: PathBuf,
    /// Counted from its start.
    pub offset: Bytes,
}

/// A part of a volume, in one place or striped over several.
///
/// The `i`th `stripe_size` bytes lie in place `i % places`, behind those that went there before.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Piece {
    /// Where it starts in the volume.
    pub volume_offset: Bytes,
    /// Number of bytes.
    pub length: Bytes,
    /// How much goes to one place before the next one's turn.
    pub stripe_size: Bytes,
    /// At least one.
    pub places: Vec<Place>,
}

impl Piece {
    /// A piece that lies in one place.
    pub fn linear(volume_offset: Bytes, length: Bytes, place: Place) -> Self {
        Self { volume_offset, length, stripe_size: length, places: vec![place] }
    }

    /// The bytes it takes up in each of its places, counted from there.
    pub(crate) fn share(&self) -> Option<Bytes> {
        let places = u64::try_from(self.places.len()).ok()?;
        let round = self.stripe_size.checked_mul(places).filter(|round| !round.is_zero())?;
        let whole = !self.length.is_zero() && self.length.is_aligned(round);
        whole.then(|| Bytes::new(self.length.get() / places))
    }

    /// The volume's bytes that it holds.
    pub(crate) fn extent(&self) -> Option<Extent> {
        Extent::at(self.volume_offset, self.length)
    }
}

/// Where a whole volume lies: pieces in the volume's order, without holes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(try_from = "Vec<Piece>", into = "Vec<Piece>")]
pub struct Layout {
    pieces: Vec<Piece>,
    size: Bytes,
}

impl Layout {
    /// The volume made of `pieces`; linear ones that continue each other become one.
    ///
    /// # Errors
    /// [`Error::Refused`] where they leave holes, overlap, or do not fill their stripes.
    pub fn new(pieces: Vec<Piece>) -> Result<Self> {
        let mut layout = Self { pieces: Vec::with_capacity(pieces.len()), size: Bytes::ZERO };
        for piece in pieces {
            let at = piece.volume_offset.get();
            let extent = piece.extent().filter(|extent| extent.start == layout.size);
            let fits = piece.share().is_some_and(|share| {
                piece.places.iter().all(|place| place.offset.checked_add(share).is_some())
            });
            let (Some(extent), true) = (extent, fits) else {
                return Err(Error::refused(format!(
                    "the piece at byte {at} of a volume is misplaced"
                )));
            };
            layout.size = extent.end;
            match layout.pieces.last_mut() {
                Some(last) if continues(last, &piece) => {
                    last.length += piece.length;
                    last.stripe_size = last.length;
                }
                _ => layout.pieces.push(piece),
            }
        }
        Ok(layout)
    }

    /// The logical volume `name` of `vg`, whose physical volumes start at `start` (by their index in `vg`).
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no such volume, it has segments of another kind than linear and
    /// striped, or a physical volume is nowhere.
    pub fn of_lv(vg: &Vg, name: &str, start: &dyn Fn(usize) -> Option<Place>) -> Result<Self> {
        let nowhere = || Error::refused(format!("LV {}/{name} has no place", vg.name));
        let mut pieces = Vec::new();
        for segment in &vg.lv(name).ok_or_else(nowhere)?.segments {
            let SegmentKind::Striped { stripe_size, stripes } = &segment.kind else {
                return Err(nowhere());
            };
            let mut places = Vec::new();
            for (pv, pe) in stripes {
                let (place, model) = start(*pv).zip(vg.pvs.get(*pv)).ok_or_else(nowhere)?;
                let inside = model.pe_start.checked_add(vg.extents(*pe)).ok_or_else(nowhere)?;
                let offset = place.offset.checked_add(inside).ok_or_else(nowhere)?;
                places.push(Place { offset, ..place });
            }
            let length = vg.extents(segment.extent_count);
            let stripe_size = if places.len() > 1 { *stripe_size } else { length };
            let volume_offset = vg.extents(segment.start_extent);
            pieces.push(Piece { volume_offset, length, stripe_size, places });
        }
        Self::new(pieces)
    }

    /// Number of bytes in the volume.
    pub fn size(&self) -> Bytes {
        self.size
    }

    /// The pieces in the volume's order.
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Target and place of a volume that lies in one stretch.
    pub(crate) fn contiguous(&self) -> Option<(&Path, Extent)> {
        match self.pieces.as_slice() {
            [Piece { length, places, .. }] => match places.as_slice() {
                [place] => Some((&place.path, Extent::at(place.offset, *length)?)),
                _ => None,
            },
            _ => None,
        }
    }
}

fn continues(last: &Piece, next: &Piece) -> bool {
    match (last.places.as_slice(), next.places.as_slice()) {
        ([one], [other]) => {
            one.path == other.path && one.offset.checked_add(last.length) == Some(other.offset)
        }
        _ => false,
    }
}

impl TryFrom<Vec<Piece>> for Layout {
    type Error = Error;
    fn try_from(pieces: Vec<Piece>) -> Result<Self> {
        Self::new(pieces)
    }
}

impl From<Layout> for Vec<Piece> {
    fn from(layout: Layout) -> Self {
        layout.pieces
    }
}

#[cfg(test)]
mod tests {
    use super::{Layout, Piece, Place};
    use crate::extent::Extent;
    use crate::units::Bytes;

    fn place(path: &str, offset: u64) -> Place {
        Place { path: path.into(), offset: Bytes::mib(offset) }
    }

    fn linear(at: u64, length: u64, place: Place) -> Piece {
        Piece::linear(Bytes::mib(at), Bytes::mib(length), place)
    }

    #[test]
    fn neighbours_become_one_stretch() {
        let pieces = vec![linear(0, 4, place("a", 10)), linear(4, 2, place("a", 14))];
        let layout = Layout::new(pieces).unwrap();
        assert_eq!(layout.size(), Bytes::mib(6));
        let (path, extent) = layout.contiguous().unwrap();
        assert_eq!(path.to_str(), Some("a"));
        assert_eq!(extent, Extent::new(Bytes::mib(10), Bytes::mib(16)));
    }

    #[test]
    fn pieces_elsewhere_stay_apart() {
        for second in [place("a", 15), place("b", 14)] {
            let layout =
                Layout::new(vec![linear(0, 4, place("a", 10)), linear(4, 2, second)]).unwrap();
            assert_eq!(layout.contiguous(), None);
        }
    }

    #[test]
    fn misplaced_pieces_are_refused() {
        let whole = linear(0, 4, place("a", 0));
        let striped = |length| Piece {
            volume_offset: Bytes::ZERO,
            length: Bytes::kib(length),
            stripe_size: Bytes::kib(64),
            places: vec![place("a", 0), place("b", 0)],
        };
        for wrong in [
            vec![whole.clone(), linear(5, 1, place("a", 9))],
            vec![whole.clone(), linear(3, 1, place("a", 9))],
            vec![linear(0, 0, place("a", 0))],
            vec![striped(192)],
            vec![Piece { places: Vec::new(), ..whole.clone() }],
            vec![Piece { stripe_size: Bytes::ZERO, ..whole }],
            vec![Piece::linear(
                Bytes::ZERO,
                Bytes::MIB,
                Place { path: "a".into(), offset: Bytes::MAX },
            )],
        ] {
            assert!(Layout::new(wrong.clone()).is_err(), "{wrong:?}");
        }
        assert!(Layout::new(vec![striped(256)]).is_ok());
    }
}
