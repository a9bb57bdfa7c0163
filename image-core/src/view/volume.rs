//! Reads and writes a volume where it lies.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use super::layout::Layout;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::io::BlockSource;
use crate::io::source::beyond_end;
use crate::units::Bytes;

/// A volume's targets, open for reading and writing.
#[derive(Debug)]
pub struct Volume {
    targets: Vec<(PathBuf, File)>,
    segments: Vec<Segment>,
    size: Bytes,
}

/// A [`super::Piece`] whose places are open.
#[derive(Debug)]
struct Segment {
    extent: Extent,
    stripe_size: Bytes,
    /// Index of the target, and the position on it.
    places: Vec<(usize, Bytes)>,
}

/// Bytes of the volume that lie together on one target.
struct Run<'a> {
    path: &'a Path,
    file: &'a File,
    offset: Bytes,
    length: Bytes,
}

impl Run<'_> {
    /// Its length as an index into a buffer of which `left` bytes are left.
    fn within(&self, left: usize) -> usize {
        self.length.index().map_or(left, |length| length.min(left))
    }
}

impl Volume {
    /// Opens every target of `layout`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Refused`] where a piece does not lie inside of its target.
    pub fn open(layout: &Layout) -> Result<Self> {
        Self::open_by(layout, File::options().read(true).write(true))
    }

    /// Opens every target of `layout` for reading only; writing to it is an error then.
    ///
    /// # Errors
    /// As [`Volume::open`].
    pub fn open_to_read(layout: &Layout) -> Result<Self> {
        Self::open_by(layout, File::options().read(true))
    }

    fn open_by(layout: &Layout, options: &OpenOptions) -> Result<Self> {
        let mut volume = Self { targets: Vec::new(), segments: Vec::new(), size: layout.size() };
        for piece in layout.pieces() {
            let mut places = Vec::with_capacity(piece.places.len());
            for place in &piece.places {
                let target = volume.target(&place.path, options)?;
                let end = piece.share().and_then(|share| place.offset.checked_add(share));
                if end.is_none_or(|end| end > target.1) {
                    let (path, at) = (place.path.display(), place.offset.get());
                    return Err(Error::refused(format!(
                        "{path} ends before the volume at byte {at}"
                    )));
                }
                places.push((target.0, place.offset));
            }
            let extent = Extent::new(piece.volume_offset, piece.volume_offset + piece.length);
            volume.segments.push(Segment { extent, stripe_size: piece.stripe_size, places });
        }
        Ok(volume)
    }

    /// Index and size of the target at `path`, opened now unless it is open already.
    fn target(&mut self, path: &Path, options: &OpenOptions) -> Result<(usize, Bytes)> {
        let failed = |action, source| Error::io(path.display().to_string(), action, source);
        let index = match self.targets.iter().position(|(open, _)| open == path) {
            Some(index) => index,
            None => {
                let file = options.open(path);
                self.targets
                    .push((path.to_owned(), file.map_err(|source| failed("open", source))?));
                self.targets.len() - 1
            }
        };
        let size = self.targets.get(index).map_or(Ok(0), |(_, file)| {
            let mut file: &File = file;
            file.seek(SeekFrom::End(0))
        });
        Ok((index, Bytes::new(size.map_err(|source| failed("measure", source))?)))
    }

    /// The open target of a volume that lies in one stretch, and where.
    pub(crate) fn contiguous(&self) -> Option<(&File, Extent)> {
        match (self.targets.as_slice(), self.segments.as_slice()) {
            ([(_, file)], [Segment { extent, places, .. }]) => match places.as_slice() {
                [(_, offset)] => Some((file, Extent::at(*offset, extent.len())?)),
                _ => None,
            },
            _ => None,
        }
    }

    /// The first `length` bytes.
    ///
    /// # Errors
    /// As [`BlockSource::read_at`].
    pub fn first(&self, length: usize) -> Result<Vec<u8>> {
        self.read(Bytes::ZERO, length)
    }

    /// Writes all of `bytes` at position `offset`.
    ///
    /// # Errors
    /// [`Error::Io`] with the target's name and position; writing past the end is one too.
    pub fn write_at(&self, offset: Bytes, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        self.each(offset, Bytes::of(bytes), "write", |run| {
            let (now, later) = rest.split_at(run.within(rest.len()));
            rest = later;
            run.file.write_all_at(now, run.offset.get())
        })
    }

    /// Passes fallocate's `mode` (a hole, zeros) on to the targets; block devices know both as well.
    ///
    /// # Errors
    /// [`Error::Io`], with `EOPNOTSUPP` where a target cannot do that.
    pub fn allocate(&self, range: Extent, mode: FallocateFlags) -> Result<()> {
        self.each(range.start, range.len(), "deallocate", |run| {
            Ok(rustix::fs::fallocate(run.file, mode, run.offset.get(), run.length.get())?)
        })
    }

    /// Returns when everything written to the targets is durable, by whomever.
    ///
    /// # Errors
    /// [`Error::Io`]: some write since the targets were opened was lost.
    pub fn flush(&self) -> Result<()> {
        self.targets.iter().try_for_each(|(path, file)| {
            file.sync_all().map_err(|source| Error::io(path.display().to_string(), "flush", source))
        })
    }

    /// Does `work` for each run of the `length` bytes from `offset`, in order.
    fn each(
        &self,
        offset: Bytes,
        length: Bytes,
        action: &str,
        mut work: impl FnMut(&Run<'_>) -> std::io::Result<()>,
    ) -> Result<()> {
        let wanted = Extent::at(offset, length).filter(|wanted| wanted.end <= self.size);
        let outside = || {
            let length = length.index().unwrap_or(usize::MAX);
            beyond_end(&self.name(), action, offset, length, self.size)
        };
        let mut rest = wanted.ok_or_else(outside)?;
        while !rest.is_empty() {
            let run = self.run(rest).ok_or_else(outside)?;
            work(&run).map_err(|source| {
                let what = format!("{action} {} bytes", run.length.get());
                Error::io_at(run.path.display().to_string(), what, run.offset, source)
            })?;
            rest.start += run.length;
        }
        Ok(())
    }

    /// The longest run at the start of `wanted`.
    fn run(&self, wanted: Extent) -> Option<Run<'_>> {
        let index = self.segments.partition_point(|segment| segment.extent.end <= wanted.start);
        let segment = self.segments.get(index)?;
        let inside = wanted.intersect(segment.extent)?.relative_to(segment.extent.start);
        let stripe = inside.start.units(segment.stripe_size);
        let within = inside.start - inside.start.align_down(segment.stripe_size);
        let places = u64::try_from(segment.places.len()).ok()?;
        let turn = usize::try_from(stripe.checked_rem(places)?).ok()?;
        let (target, start) = segment.places.get(turn)?;
        let (path, file) = self.targets.get(*target)?;
        let before = segment.stripe_size.checked_mul(stripe.checked_div(places)?)?;
        Some(Run {
            path,
            file,
            offset: *start + before + within,
            length: (segment.stripe_size - within).min(inside.len()),
        })
    }
}

impl BlockSource for Volume {
    fn name(&self) -> String {
        let paths: Vec<_> = self.targets.iter().map(|(path, _)| path.to_string_lossy()).collect();
        format!("volume on {}", paths.join(", "))
    }
    fn size(&self) -> Bytes {
        self.size
    }
    fn sector_size(&self) -> Bytes {
        let sectors = self.targets.iter().map(|(_, file)| rustix::fs::ioctl_blksszget(file));
        // Regular files have none: then what a loop device counts in.
        sectors.filter_map(|size| size.ok()).max().map_or(Bytes::new(512), Bytes::from)
    }
    fn read_at(&self, offset: Bytes, buffer: &mut [u8]) -> Result<()> {
        let mut rest = &mut *buffer;
        let length = Bytes::of(rest);
        self.each(offset, length, "read", |run| {
            let at = run.within(rest.len());
            let (now, later) = std::mem::take(&mut rest).split_at_mut(at);
            rest = later;
            run.file.read_exact_at(now, run.offset.get())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Volume;
    use crate::error::Error;
    use crate::extent::Extent;
    use crate::io::BlockSource;
    use crate::units::Bytes;
    use crate::view::{Layout, Piece, Place};

    const KIB: usize = 1024;

    fn place(folder: &Path, name: &str, offset: u64) -> Place {
        Place { path: folder.join(name), offset: Bytes::kib(offset) }
    }

    /// 8 KiB in `a` at 4, then 16 KiB in stripes of 4 over `a` at 20 and `b` at 1, then 3 KiB in `b` at 12.
    fn volume(folder: &Path) -> Volume {
        for (name, size) in [("a", 32), ("b", 16)] {
            std::fs::write(folder.join(name), vec![0xEE; size * KIB]).unwrap();
        }
        let striped = Piece {
            volume_offset: Bytes::kib(8),
            length: Bytes::kib(16),
            stripe_size: Bytes::kib(4),
            places: vec![place(folder, "a", 20), place(folder, "b", 1)],
        };
        let layout = Layout::new(vec![
            Piece::linear(Bytes::ZERO, Bytes::kib(8), place(folder, "a", 4)),
            striped,
            Piece::linear(Bytes::kib(24), Bytes::kib(3), place(folder, "b", 12)),
        ]);
        Volume::open(&layout.unwrap()).unwrap()
    }

    #[test]
    fn every_byte_goes_to_its_place_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let volume = volume(folder.path());
        let number = |i: usize| u8::try_from(i / KIB).unwrap();
        let bytes: Vec<u8> = (0..27 * KIB).map(number).collect();
        volume.write_at(Bytes::ZERO, &bytes[..5000]).unwrap();
        volume.write_at(Bytes::new(5000), &bytes[5000..]).unwrap();
        assert_eq!(volume.read(Bytes::ZERO, 27 * KIB).unwrap(), bytes);
        assert_eq!(volume.read(Bytes::new(11_000), 9000).unwrap(), bytes[11_000..20_000]);

        let kib = |name: &str| -> Vec<u8> {
            std::fs::read(folder.path().join(name)).unwrap().iter().step_by(KIB).copied().collect()
        };
        let (e, mut a, mut b) = (0xEE, vec![0xEE; 4], vec![0xEE; 1]);
        a.extend([0, 1, 2, 3, 4, 5, 6, 7, e, e, e, e, e, e, e, e]);
        a.extend([8, 9, 10, 11, 16, 17, 18, 19, e, e, e, e]);
        b.extend([12, 13, 14, 15, 20, 21, 22, 23, e, e, e, 24, 25, 26, e]);
        assert_eq!(kib("a"), a);
        assert_eq!(kib("b"), b);
    }

    #[test]
    fn holes_reach_every_piece() {
        let folder = tempfile::tempdir().unwrap();
        let volume = volume(folder.path());
        let range = Extent::new(Bytes::kib(4), Bytes::kib(25));
        let mode = super::FallocateFlags::PUNCH_HOLE | super::FallocateFlags::KEEP_SIZE;
        volume.allocate(range, mode).unwrap();
        let bytes = volume.read(Bytes::ZERO, 27 * KIB).unwrap();
        assert!(bytes[4 * KIB..25 * KIB].iter().all(|byte| *byte == 0));
        assert!(bytes[..4 * KIB].iter().chain(&bytes[25 * KIB..]).all(|byte| *byte == 0xEE));
        let a = std::fs::read(folder.path().join("a")).unwrap();
        assert!(a[12 * KIB..20 * KIB].iter().all(|byte| *byte == 0xEE));
    }

    #[test]
    fn nothing_is_written_outside() {
        let folder = tempfile::tempdir().unwrap();
        let volume = volume(folder.path());
        assert!(volume.write_at(Bytes::kib(27), &[1]).is_err());
        assert!(volume.write_at(Bytes::MAX, &[1]).is_err());
        let piece = Piece::linear(Bytes::ZERO, Bytes::kib(8), place(folder.path(), "a", 25));
        let refused = Volume::open(&Layout::new(vec![piece]).unwrap()).unwrap_err();
        assert!(matches!(refused, Error::Refused(_)), "{refused}");
    }
}
