//! Frees what no image needs: into the trash first, and after a day for good.
//!
//! Alone in the repository, by an exclusive lock. Whatever happens, and whenever it ends, every image can be read:
//! what is needed is durable in its new place before it leaves its old one, and readers look into the trash.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::image::hash::Hash;
use crate::image::time::Timestamp;
use crate::repo::census::for_each_segment;
use crate::repo::index::{Index, PackFile, is_damage, list_packs};
use crate::repo::locations::{self, locations_path};
use crate::repo::lock::{Lock, LockKind, leftovers};
use crate::repo::needs::{Fate, Needs};
use crate::repo::read::Read;
use crate::repo::rewrite::rewrite;
use crate::repo::trash::{self, Trashed, Unneeded};
use crate::repo::write::Session;
use crate::repo::{Repository, catalog, table_path};
use crate::report::Report;
use crate::units::Bytes;

/// How pruning goes about it.
#[derive(Clone, Copy, Default, Debug)]
pub struct PruneOptions {
    /// Free at once what would stay in the trash for a day.
    pub now: bool,
    /// Only tell what would be done.
    pub dry_run: bool,
}

/// Some files.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Debug)]
pub struct Amount {
    /// How many.
    pub files: usize,
    /// How long they are together.
    pub bytes: Bytes,
}

impl Amount {
    fn of(sizes: impl IntoIterator<Item = Bytes>) -> Self {
        sizes.into_iter().fold(Self::default(), |sum, size| Self {
            files: sum.files + 1,
            bytes: sum.bytes.saturating_add(size),
        })
    }
}

/// What pruning did, or would do.
#[derive(Default, Debug)]
pub struct PruneReport {
    /// Number of images, all of which can be read.
    pub images: usize,
    /// Packs, tables and roots that went to the trash; rewritten packs are among them.
    pub trashed: Amount,
    /// Packs of which less than half was needed, and the bytes that were copied of them.
    pub rewritten: Amount,
    /// What was taken out of the trash because an image needs it.
    pub taken_back: Amount,
    /// What was removed for good: the space that is free now.
    pub deleted: Amount,
    /// What is in the trash afterwards.
    pub in_trash: Amount,
    /// Chunks that were found damaged on the way; what holds them was left alone.
    pub damaged: Vec<Error>,
}

/// Prunes.
pub(super) fn prune(
    repository: &Repository,
    options: PruneOptions,
    report: &dyn Report,
) -> Result<PruneReport> {
    let session = repository.session()?;
    let kind = if options.dry_run { LockKind::Shared } else { LockKind::Exclusive };
    let lock = Lock::take(session, kind)?;
    let needs = Needs::find(repository, report)?;
    let out = PruneReport {
        images: needs.images.len(),
        taken_back: Amount::of(needs.take_back.iter().map(|one| one.size)),
        ..PruneReport::default()
    };
    let mut prune = Prune { repository, session, lock, needs, options, report, out };
    if options.dry_run {
        prune.estimate()?;
    } else {
        prune.carry_out()?;
    }
    prune.out.damaged.append(&mut prune.needs.damaged);
    Ok(prune.out)
}

struct Prune<'a> {
    repository: &'a Repository,
    session: &'a Arc<Session>,
    lock: Lock,
    needs: Needs,
    options: PruneOptions,
    report: &'a dyn Report,
    out: PruneReport,
}

impl Prune<'_> {
    fn files(&self) -> &dyn Read {
        self.repository.files.as_ref()
    }

    fn carry_out(&mut self) -> Result<()> {
        for leftover in leftovers(self.files())? {
            self.session.delete(&format!("tmp/{}", leftover.name))?;
        }
        for one in &self.needs.take_back {
            trash::take_back(self.session.files().as_ref(), one)?;
        }
        // First what needs no space: rewriting may want some.
        let dead: Vec<PackFile> =
            self.needs.packs(Fate::Throw).into_iter().map(|(pack, _)| pack).collect();
        let mut unneeded = self.unneeded_tables()?;
        unneeded.extend(dead.iter().map(pack_to_throw));
        self.throw(&dead, &unneeded)?;
        self.remove_locations()?;
        self.empty_trash()?;

        let rewritten = rewrite(self.session, self.files(), &self.needs, self.report)?;
        self.out.damaged.extend(rewritten.damaged);
        self.out.rewritten = Amount { files: rewritten.old.len(), bytes: rewritten.copied };
        let unneeded: Vec<Unneeded> = rewritten.old.iter().map(pack_to_throw).collect();
        if !unneeded.is_empty() {
            self.throw(&rewritten.old, &unneeded)?;
            if self.options.now {
                self.empty_trash()?;
            }
        }
        self.out.in_trash = Amount::of(trash::list(self.files())?.iter().map(|one| one.size));
        catalog::write(self.session)
    }

    /// What [`Prune::carry_out`] would do.
    fn estimate(&mut self) -> Result<()> {
        let dead = self.needs.packs(Fate::Throw);
        let sparse = self.needs.packs(Fate::Rewrite);
        let packs = dead.iter().chain(&sparse).map(|(pack, _)| pack.size);
        let tables = self.unneeded_tables()?;
        self.out.trashed = Amount::of(packs.chain(tables.iter().map(|one| one.size)));
        let copied = sparse.iter().map(|(_, live)| *live).sum();
        self.out.rewritten = Amount { files: sparse.len(), bytes: copied };
        let taken_back = |one: &Trashed| self.needs.take_back.contains(one);
        let mut there = trash::list(self.files())?;
        there.retain(|one| !taken_back(one));
        let mut old = trash::expired(self.files(), self.lock.time_there()?, self.options.now)?;
        old.retain(|one| !taken_back(one));
        let sum = |one: Amount, other: Amount| Amount {
            files: one.files + other.files,
            bytes: one.bytes.saturating_add(other.bytes),
        };
        self.out.deleted = Amount::of(old.iter().map(|one| one.size));
        there.retain(|one| !old.contains(one));
        self.out.in_trash = Amount::of(there.iter().map(|one| one.size));
        let goes_to = if self.options.now { &mut self.out.deleted } else { &mut self.out.in_trash };
        *goes_to = sum(*goes_to, self.out.trashed);
        Ok(())
    }

    /// Roots and tables of no image.
    fn unneeded_tables(&self) -> Result<Vec<Unneeded>> {
        let mut unneeded = Vec::new();
        let folders = [("roots", &self.needs.roots), ("tables", &self.needs.segments)];
        for (folder, needed) in folders {
            for file in self.files().list(folder)? {
                // Files with other names are not ours.
                let hash = file.name.parse::<Hash>().ok().filter(|hash| !needed.contains(hash));
                unneeded.extend(hash.map(|hash| Unneeded { folder, hash, size: file.size }));
            }
        }
        Ok(unneeded)
    }

    /// Locations are a cache: they are removed at once.
    fn remove_locations(&self) -> Result<()> {
        let files = self.session.files();
        let mut removed = false;
        for file in files.list("locations")? {
            if file.name.parse().is_ok_and(|hash| !self.needs.segments.contains(&hash)) {
                files.delete(&format!("locations/{}", file.name))?;
                removed = true;
            }
        }
        if removed { files.flush_folder("locations") } else { Ok(()) }
    }

    /// Moves files into the trash, once everything that images need is known to be elsewhere than in the packs
    /// `gone`, which are among them.
    fn throw(&mut self, gone: &[PackFile], unneeded: &[Unneeded]) -> Result<()> {
        if !gone.is_empty() {
            self.settle(&gone.iter().map(|pack| pack.name).collect())?;
        }
        self.still_alone()?;
        let date = Timestamp::from(self.lock.time_there()?).day();
        trash::throw(self.session, &date, unneeded)?;
        let thrown = Amount::of(unneeded.iter().map(|one| one.size));
        self.out.trashed.files += thrown.files;
        self.out.trashed.bytes += thrown.bytes;
        Ok(())
    }

    /// Looks for every chunk of every image in the packs that stay, by another way than that by which it was
    /// found out which these are; makes the locations anew that name a pack that goes.
    fn settle(&self, gone: &HashSet<Hash>) -> Result<()> {
        let files = self.files();
        let mut packs = list_packs(files)?;
        packs.retain(|pack| !gone.contains(&pack.name));
        let index = Index::build(files, packs, self.report)?;
        let (mut seen, mut damaged) = (HashSet::new(), Vec::new());
        let mut settled = Ok(());
        for image in &self.needs.images {
            let mut visit = |segment: Hash, ids: &HashSet<_>| {
                if settled.is_ok() {
                    settled = self.settle_segment(&index, gone, segment, ids);
                }
            };
            let repository = self.repository;
            for_each_segment(repository, image, &mut seen, &mut damaged, self.report, &mut visit)?;
        }
        settled?;
        damaged.into_iter().next().map_or(Ok(()), Err)
    }

    fn settle_segment(
        &self,
        index: &Index,
        gone: &HashSet<Hash>,
        segment: Hash,
        ids: &HashSet<crate::image::hash::ChunkId>,
    ) -> Result<()> {
        let places = index.locate(self.files(), ids.iter().copied())?;
        let found = places.iter().filter(|place| ids.contains(&place.entry.id)).count();
        if found != ids.len() {
            let found = format!("only {found} in the packs that would stay");
            let expected = format!("{} chunks", ids.len());
            let error = Error::corrupt("table segment", Bytes::ZERO, expected, found);
            return Err(error.on(&table_path(segment)));
        }
        let fit = match locations::read(self.files(), segment) {
            Err(error) if is_damage(&error) => false,
            listed => listed?.iter().all(|place| !gone.contains(&place.pack)),
        };
        if fit {
            return Ok(());
        }
        self.session.put(&locations_path(segment), &locations::encode(segment, &places))
    }

    /// Empties what is a day old; nothing of it is needed, for what was has been taken back.
    fn empty_trash(&mut self) -> Result<()> {
        trash::note_ages(self.session)?;
        let old = trash::expired(self.files(), self.lock.time_there()?, self.options.now)?;
        self.still_alone()?;
        trash::remove(self.session.files().as_ref(), &old)?;
        let removed = Amount::of(old.iter().map(|one| one.size));
        self.out.deleted.files += removed.files;
        self.out.deleted.bytes += removed.bytes;
        Ok(())
    }

    /// The lock is held, and the images are those whose needs are known: a machine that slept may have lost both.
    fn still_alone(&self) -> Result<()> {
        self.lock.held()?;
        let ids = |images: &[super::ImageInfo]| -> BTreeSet<Hash> {
            images.iter().map(|image| image.id).collect()
        };
        let now = self.repository.images()?;
        if now.damaged.is_empty() && ids(&now.intact) == ids(&self.needs.images) {
            return Ok(());
        }
        Err(Error::refused("the images changed while they were looked at; prune again".to_owned()))
    }
}

fn pack_to_throw(pack: &PackFile) -> Unneeded {
    Unneeded { folder: "packs", hash: pack.name, size: pack.size }
}
