//! Restores whose windows come all at once, their chunks in any order: as from a carousel that is joined in the middle.

use std::cell::Cell;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{
    Image, MIB, SIZES, arrived, contents, disks, garbage, is_seen, job, now, planned, run, saved,
};
use crate::error::{Error, Result};
use crate::extent::ExtentSet;
use crate::image::hash::{ChunkId, Hash};
use crate::image::manifest::Hit;
use crate::io::crash::Power;
use crate::pipeline::fetch::Segment;
use crate::pipeline::write::Damage;
use crate::repo::{ChunkFeed, Delivery, Lost, WantSet};
use crate::report::{Quiet, Report};
use crate::restore::{Part, Restored, Stored, Windows, Work, restore};
use crate::units::Bytes;

/// An image whose parts are handed over together.
struct Together<'a> {
    stored: Stored<'a>,
    /// How the chunks are shuffled.
    seed: u32,
    /// A chunk that cannot be had.
    lost: Option<ChunkId>,
    /// After so many chunks nothing comes any more.
    patience: usize,
    /// Chunks that were delivered, and parts that were handed over at once.
    delivered: Cell<usize>,
    most: Cell<usize>,
}

impl<'a> Together<'a> {
    fn new(image: &'a Image, seed: u32) -> Self {
        let stored = Stored { repo: &image.repo, root: &image.root };
        let (delivered, most) = (Cell::new(0), Cell::new(0));
        Self { stored, seed, lost: None, patience: usize::MAX, delivered, most }
    }
}

/// Everything that there is, in an order of its own.
struct Shuffled<'a> {
    deliveries: VecDeque<Delivery>,
    windows: &'a Together<'a>,
}

impl ChunkFeed for Shuffled<'_> {
    fn next(&mut self, wanted: &WantSet) -> Result<Option<Delivery>> {
        assert!(!wanted.is_empty(), "asked for nothing");
        let delivered = &self.windows.delivered;
        if delivered.get() >= self.windows.patience {
            return Err(Error::Interrupted);
        }
        while let Some(delivery) = self.deliveries.pop_front() {
            if wanted.contains(&delivery.id()) {
                delivered.set(delivered.get() + 1);
                return Ok(Some(delivery));
            }
        }
        Ok(None)
    }
}

impl Together<'_> {
    /// The chunks of the image in disk order, then shuffled.
    fn deliveries(&self, parts: &[Part]) -> Result<VecDeque<Delivery>> {
        let ids: HashSet<ChunkId> =
            parts.iter().flat_map(|part| part.segment.wanted.keys().copied()).collect();
        let mut wanted = WantSet::new(Hash::of(b"all"), ids);
        let mut feed = self.stored.repo.feed(self.stored.root.window)?;
        let mut all = Vec::new();
        while let Some(delivery) = feed.next(&wanted)? {
            let id = delivery.id();
            wanted.remove(&id);
            let lost = Lost::nowhere(id, "planted".to_owned());
            all.push(if self.lost == Some(id) { Delivery::Lost(lost) } else { delivery });
        }
        all.sort_by_key(Delivery::id);
        let mut luck = self.seed;
        for at in (1..all.len()).rev() {
            luck = luck.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            all.swap(at, (luck >> 8) as usize % (at + 1));
        }
        Ok(all.into())
    }
}

impl Windows for Together<'_> {
    fn each(&self, volumes: &[usize], report: &dyn Report, work: Work<'_>) -> Result<Vec<Damage>> {
        self.stored.parts(volumes, usize::MAX, report, &mut |parts| {
            self.most.set(self.most.get().max(parts.len()));
            let deliveries = self.deliveries(parts)?;
            work(parts, &mut Shuffled { deliveries, windows: self })
        })
    }
    fn again(&self, volume: usize, work: &mut dyn FnMut(&Segment) -> Result<()>) -> Result<()> {
        self.stored.again(volume, work)
    }
    fn used(&self, volume: usize, places: &ExtentSet) -> Result<ExtentSet> {
        self.stored.used(volume, places)
    }
    fn first(&self, volume: usize) -> Result<(Vec<u8>, Vec<Damage>)> {
        self.stored.first(volume)
    }
    fn unreadable(&self, volume: usize) -> ExtentSet {
        self.stored.unreadable(volume)
    }
    fn hit(&self, volume: usize) -> Option<Hit> {
        self.stored.hit(volume)
    }
}

/// Disks of which three volumes have a window of the same bytes.
fn sharing() -> Vec<Vec<u8>> {
    let mut source = disks(1);
    let shared = source[0][MIB..2 * MIB].to_vec();
    source[0][4 * MIB..5 * MIB].copy_from_slice(&shared);
    source[1][MIB..2 * MIB].copy_from_slice(&shared);
    source
}

fn restored(windows: &Together<'_>, power: &Arc<Power>) -> Result<Restored> {
    let plan = planned(windows.stored.root, &SIZES);
    let touched = AtomicBool::new(false);
    restore(&job((windows, windows.stored.root), power, &plan, &touched), &Quiet::default())
}

/// All bytes, but those in which a volume group's metadata says when it was written.
fn timeless(power: &Power) -> Vec<Vec<u8>> {
    let mut disks = now(power);
    disks[0][2 * MIB..3 * MIB].fill(0);
    disks[1][..MIB].fill(0);
    disks
}

#[test]
fn all_at_once_in_any_order_is_the_same_as_one_after_another() {
    let source = sharing();
    let image = saved(&source);
    let power = garbage();
    let plain = run(&image, &power, &SIZES, &Quiet::default()).unwrap();
    assert_eq!(contents(&now(&power)), contents(&source));
    for seed in 0..4 {
        let (windows, together) = (Together::new(&image, seed), garbage());
        let restored = restored(&windows, &together).unwrap();
        assert!(timeless(&together) == timeless(&power), "{seed}");
        assert_eq!(contents(&now(&together)), contents(&source));
        assert_eq!(restored, plain);
        assert_eq!(windows.most.get(), 3, "volumes at once");
        // The boot code's is looked at and written; the shared one came once.
        assert_eq!(windows.delivered.get(), 2 + 4, "{seed}");
    }
}

#[test]
fn what_was_interrupted_goes_on_with_what_is_missing() {
    let source = sharing();
    let image = saved(&source);
    let all = {
        let (windows, power) = (Together::new(&image, 0), garbage());
        restored(&windows, &power).unwrap();
        windows.delivered.get()
    };
    // The last one is that of the boot code, when the records are gone.
    for (patience, seed) in (0..all - 1).zip(10..) {
        let (mut windows, power) = (Together::new(&image, seed), garbage());
        windows.patience = patience;
        let ended = restored(&windows, &power);
        assert!(matches!(ended, Err(Error::Interrupted)), "{patience}: {ended:?}");
        assert!(!now(&power).iter().any(|disk| is_seen(disk)), "{patience}");
        // In another order, and with the power gone a little earlier than now.
        for cut in [power.steps(), power.steps().saturating_sub(2)] {
            let again = Power::new(power.cut_after(cut, &mut || true));
            let windows = Together::new(&image, seed + 7);
            let continued = restored(&windows, &again).unwrap();
            assert!(continued.verified && continued.continued.is_some(), "{patience}");
            assert!(contents(&now(&again)) == contents(&source), "{patience}");
            assert!(windows.delivered.get() <= all - patience + 1, "{patience}");
        }
    }
}

#[test]
fn at_every_power_cut_it_goes_on_and_ends_right() {
    let source = sharing();
    let (image, power) = (saved(&source), garbage());
    let whole = restored(&Together::new(&image, 3), &power).unwrap();
    let (mut went_on, mut least) = (0, whole.written);
    for cut in power.flushes() {
        let again = Power::new(power.cut_after(cut, &mut || false));
        let restored = restored(&Together::new(&image, 4), &again).unwrap();
        assert!(restored.verified && contents(&now(&again)) == contents(&source), "{cut}");
        assert_eq!(restored.written + restored.skipped, whole.written + whole.skipped);
        went_on += usize::from(restored.continued.is_some());
        least = least.min(restored.written);
    }
    assert!(went_on > 10 && least <= Bytes::MIB, "{went_on} {least}");
}

#[test]
fn where_all_data_is_there_only_the_boot_code_is_asked_for() {
    let source = sharing();
    let (image, power) = (saved(&source), garbage());
    let mut windows = Together::new(&image, 1);
    // All data, and nothing of the boot code.
    windows.patience = 4;
    restored(&windows, &power).unwrap_err();
    let again = Power::new(now(&power));
    let windows = Together::new(&image, 2);
    let restored = restored(&windows, &again).unwrap();
    assert!(contents(&now(&again)) == contents(&source));
    // It is looked at, and then written.
    assert_eq!(windows.delivered.get(), 2);
    assert!(restored.continued.is_some() && restored.written <= Bytes::MIB, "{restored:?}");
}

#[test]
fn a_lost_chunk_is_damage_of_every_volume_that_needs_it() {
    let source = sharing();
    let image = saved(&source);
    let mut windows = Together::new(&image, 5);
    let volume = image.root.volumes.iter().find(|volume| volume.id == "vg/x").unwrap();
    let shared =
        Segment::load(&image.repo, volume, 0, volume.segments[0].unwrap(), image.root.window);
    windows.lost = shared.unwrap().windows[0].1.chunk;
    let power = garbage();
    let ended = restored(&windows, &power).unwrap();
    let volumes: HashSet<&str> = ended.damaged.iter().map(|one| one.volume.as_str()).collect();
    assert_eq!(volumes, HashSet::from(["d0:1", "vg/root", "vg/x"]));
    assert!(ended.damaged.iter().all(|one| one.why == "planted"));
    let disks = now(&power);
    assert!(!ended.verified && !disks.iter().any(|disk| is_seen(disk)));
    // Everything else was written, and goes on where the chunk can be had.
    assert_eq!(disks[0][3 * MIB..4 * MIB], source[0][3 * MIB..4 * MIB]);
    windows.lost = None;
    windows.delivered.set(0);
    let again = Power::new(disks);
    assert!(restored(&windows, &again).unwrap().continued.is_some());
    assert_eq!(contents(&now(&again)), contents(&source));
    for (id, bytes) in contents(&source) {
        assert!(arrived(&now(&again), &id, &bytes), "{id}");
    }
    // The shared one, and the boot code twice.
    assert_eq!(windows.delivered.get(), 3);
}
