use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use super::super::checksum::crc32c;
use super::super::{probe, replayed, sample::Sample};
use crate::exec::real::Machine;
use crate::exec::{Call, Runner};
use crate::fs::State;
use crate::io::BlockSource;
use crate::io::memory::Memory;
use crate::units::Bytes;

const BLOCK: usize = 1024;
/// Blocks of the sample's journal, the first of which is its superblock.
const COUNT: usize = 1024;

/// A filesystem whose journal was written by debugfs.
#[derive(Clone)]
struct Waiting {
    sample: Sample,
}

/// Two transactions: one writes blocks 5000 to 5002, the last of which looks like the journal's own; the
/// other revokes 5000, writes 5001 again, and 1200.
const TWO: &str = "jw -b 5000-5002 FILE\njw -r 5000\njw -b 5001,1200 FILE\njc\n";

impl Waiting {
    /// The sample with `features`, its journal opened by debugfs' command `open` and written by `script`.
    fn new(features: &str, open: &str, script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [image, content] = ["image", "content"].map(|name| folder.path().join(name));
        std::fs::write(&image, Sample::new(features).bytes).unwrap();
        let mut bytes: Vec<u8> = (0..3 * BLOCK).map(|at| (at % 251).try_into().unwrap()).collect();
        bytes[2 * BLOCK..2 * BLOCK + 4].copy_from_slice(&super::superblock::MAGIC.to_be_bytes());
        std::fs::write(&content, bytes).unwrap();
        let script = format!("{open}\n{script}").replace("FILE", content.to_str().unwrap());
        let image = image.to_str().unwrap();
        Machine.check(&Call::new("debugfs", ["-w", "-f", "-", image]).stdin(script)).unwrap();
        Self { sample: Sample { bytes: std::fs::read(image).unwrap() } }
    }

    /// Position of block `number` of the journal, which lies in one piece.
    fn at(&self, number: usize) -> usize {
        self.sample.journal() + number * BLOCK
    }

    fn put(mut self, number: usize, at: usize, bytes: &[u8]) -> Self {
        let start = self.at(number);
        self.sample.put(start + at, bytes);
        self
    }

    /// The same with bytes of the journal's superblock replaced.
    fn superblock(self, at: usize, bytes: &[u8]) -> Self {
        let damaged = self.put(0, at, bytes);
        damaged.sign(0, 0xFC, u32::MAX)
    }

    /// The same with bytes of a descriptor or revoke block replaced.
    fn block(self, number: usize, at: usize, bytes: &[u8]) -> Self {
        let seed = self.seed();
        self.put(number, at, bytes).sign(number, BLOCK - 4, seed)
    }

    /// The same with bytes of a commit block replaced.
    fn commit(self, number: usize, at: usize, bytes: &[u8]) -> Self {
        let seed = self.seed();
        self.put(number, at, bytes).sign(number, 16, seed)
    }

    fn sign(self, number: usize, at: usize, seed: u32) -> Self {
        let unsigned = self.put(number, at, &[0; 4]);
        let start = unsigned.at(number);
        let crc = crc32c(seed, &unsigned.sample.bytes[start..start + BLOCK]);
        unsigned.put(number, at, &crc.to_be_bytes())
    }

    fn seed(&self) -> u32 {
        let start = self.at(0) + 0x30;
        crc32c(u32::MAX, &self.sample.bytes[start..start + 16])
    }

    /// The same log, beginning so near the end of the ring that it goes on at its start.
    fn wrapped(mut self, blocks: usize) -> Self {
        let (first, ring) = (self.at(1), self.at(1)..self.at(COUNT));
        let log = self.sample.bytes[first..first + blocks * BLOCK].to_vec();
        self.sample.bytes[ring].fill(0);
        for (index, block) in log.chunks(BLOCK).enumerate() {
            let number = 1 + (COUNT - 1 - 2 - 1 + index) % (COUNT - 1);
            self = self.put(number, 0, block);
        }
        self.superblock(0x1C, &u32::try_from(COUNT - 3).unwrap().to_be_bytes())
    }

    fn replayed(&self) -> Result<Vec<u8>, String> {
        let source = replayed(&self.sample.source()).map_err(|error| error.to_string())?.unwrap();
        Ok(source.read(Bytes::ZERO, self.sample.bytes.len()).unwrap())
    }

    /// What e2fsck makes of it when it does nothing but replay.
    fn judged(&self) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &self.sample.bytes).unwrap();
        let path = file.path().to_str().unwrap();
        Machine.check(&Call::new("e2fsck", ["-p", "-E", "journal_only", path])).unwrap();
        std::fs::read(file.path()).unwrap()
    }

    /// The blocks that read otherwise after the replay, all of them as e2fsck leaves them.
    fn changed(&self) -> Vec<usize> {
        let (replayed, judged) = (self.replayed().unwrap(), self.judged());
        let journal = self.at(0) / BLOCK..self.at(COUNT) / BLOCK;
        let differs = |other: &[u8]| -> Vec<usize> {
            let blocks = replayed.chunks(BLOCK).zip(other.chunks(BLOCK)).enumerate();
            blocks.filter(|(_, (one, other))| one != other).map(|(number, _)| number).collect()
        };
        // e2fsck also says in both superblocks that nothing waits any more.
        let others = differs(&judged);
        assert!(others.iter().all(|block| *block == 1 || journal.contains(block)), "{others:?}");
        differs(&self.sample.bytes)
    }

    fn refusal(&self) -> String {
        assert_eq!(self.replayed().unwrap_err(), self.sample.refusal());
        self.sample.refusal()
    }
}

#[test]
fn every_layout_of_tags_is_replayed_as_e2fsck_does() {
    for (features, open) in [
        ("", "jo"),
        ("", "jo -c -v 2"),
        ("", "jo -c -v 3"),
        ("^64bit", "jo"),
        ("^64bit", "jo -c -v 2"),
        ("^64bit", "jo -c -v 3"),
        ("^64bit,^metadata_csum", "jo"),
    ] {
        let waiting = Waiting::new(features, open, TWO);
        assert_eq!(waiting.sample.state(), State::Replayable);
        assert_eq!(waiting.changed(), [1200, 5001, 5002], "{features} {open}");
        assert!(waiting.sample.open().used().is_ok());
    }
}

/// Checksums v1, over a whole transaction. (What debugfs writes for one that only revokes, e2fsck refuses.)
#[test]
fn one_checksum_for_a_whole_transaction() {
    let script = "jw -b 5000-5002 FILE\njw -b 5001,1200 FILE\njc\n";
    let waiting = Waiting::new("^metadata_csum", "jo -c", script);
    assert_eq!(waiting.changed(), [1200, 5000, 5001, 5002]);
    let error = waiting.clone().put(3, 500, &[1]).refusal();
    assert!(error.starts_with("journal transaction 1 h_chksum at byte"), "{error}");
    // Kind, size and value of zero: it was written without one.
    let without = waiting.put(5, 12, &[0; 2]).put(5, 16, &[0; 4]).put(3, 500, &[1]);
    assert_eq!(without.changed(), [1200, 5000, 5001, 5002]);
}

#[test]
fn a_log_that_goes_on_at_the_start_of_the_ring() {
    for features in ["", "^64bit"] {
        // Descriptor, three blocks, commit; revokes, commit; descriptor, two blocks, commit.
        let waiting = Waiting::new(features, "jo -c -v 3", TWO).wrapped(11);
        assert_eq!(waiting.changed(), [1200, 5001, 5002]);
    }
}

#[test]
fn a_transaction_without_commit_block_does_not_count() {
    let waiting = Waiting::new("", "jo -c -v 3", "jw -b 5000 FILE\njw -c -b 5001 FILE\njc\n");
    assert_eq!(waiting.changed(), [5000]);
    // Nor does one whose blocks did not all reach the disk, for its commit block is written last.
    let torn = waiting.clone().put(5, 0, &[0xEE]).put(4, 100, &[0xEE]);
    assert_eq!(torn.changed(), [5000]);
}

static V3: LazyLock<Waiting> = LazyLock::new(|| Waiting::new("", "jo -c -v 3", TWO));

#[test]
fn what_only_looks_like_a_transaction_ends_the_log() {
    // An older commit time behind a wrong checksum: left over from an earlier journal.
    let old = |waiting: Waiting, number| waiting.put(number, 48, &[0; 16]);
    for (stale, changed) in [
        (old(V3.clone().put(8, 200, &[1]), 11), &[5001, 5002][..]),
        (old(V3.clone(), 11), &[5001, 5002]),
        (old(V3.clone().put(6, 200, &[1]), 7), &[5000, 5001, 5002]),
        (V3.clone().put(8, 8, &[9]), &[5001, 5002]),
        (V3.clone().put(8, 7, &[3]), &[5001, 5002]),
    ] {
        assert_eq!(stale.changed(), changed);
    }
}

#[test]
fn damage_in_the_log_is_an_error() {
    let v3 = || V3.clone();
    let tags = |at| format!("at byte {}", v3().at(1) + 12 + at);
    for (damaged, message) in [
        (v3().put(1, 500, &[1]), "1 t_checksum".to_owned()),
        (v3().put(2, 500, &[1]), format!("1 tag's t_checksum {}", tags(0))),
        (v3().put(5, 500, &[1]), "1 h_chksum".to_owned()),
        (v3().put(6, 500, &[1]), "2 t_checksum".to_owned()),
        (
            v3().block(6, 12, &[0xFF; 4]),
            "2 r_count at byte BYTE: expected at most 1020, found 4294967295".to_owned(),
        ),
        (
            v3().block(1, 12, &[0, 0, 0x18, 0]),
            format!(
                "1 tag's t_blocknr {}: expected a block of the filesystem outside the journal, found 6144",
                tags(0)
            ),
        ),
    ] {
        let refusal = damaged.refusal();
        let byte = (damaged.at(6) + 12).to_string();
        let message = format!("journal transaction {}", message.replace("BYTE", &byte));
        assert!(refusal.starts_with(&message), "{refusal}\n{message}");
    }
    // A block of the journal's own.
    let own = u32::try_from(v3().at(500) / BLOCK).unwrap();
    let refusal = v3().block(1, 12, &own.to_be_bytes()).refusal();
    assert!(refusal.ends_with(&format!("outside the journal, found {own}")), "{refusal}");
}

#[test]
fn with_async_commits_the_last_transaction_may_be_torn() {
    let asynchronous = V3.clone().superblock(0x2B, &[0x17]);
    let last = asynchronous.clone().put(11, 500, &[1]);
    assert_eq!(last.replayed().map(drop), Ok(()));
    let changed = last.replayed().unwrap();
    assert_eq!(changed[1200 * BLOCK..1201 * BLOCK], V3.sample.bytes[1200 * BLOCK..1201 * BLOCK]);
    let middle = asynchronous.put(7, 500, &[1]).refusal();
    assert!(
        middle.contains("expected none behind a transaction with a wrong checksum"),
        "{middle}"
    );
}

#[test]
fn a_log_without_end_is_an_error() {
    let mut waiting = Waiting::new("", "jo", "jw -r 5000\njc\n");
    let revoke = waiting.sample.bytes[waiting.at(1)..waiting.at(2)].to_vec();
    for number in 1..COUNT {
        waiting = waiting.put(number, 0, &revoke);
    }
    let at = waiting.at(1);
    let expected = format!(
        "journal transaction 1 at byte {at}: expected an end within the log's 1023 blocks, found none"
    );
    assert_eq!(waiting.refusal(), expected);
}

#[test]
fn an_impossible_superblock_is_an_error() {
    let at = |offset| format!("at byte {}", V3.at(0) + offset);
    for (offset, bytes, message) in [
        (0x0E, &[8][..], format!("s_blocksize {}: expected 1024, found 2048", at(0x0C))),
        (
            0x12,
            &[5],
            format!("s_maxlen {}: expected 1024 to the 1024 of its file, found 1280", at(0x10)),
        ),
        (
            0x12,
            &[3],
            format!("s_maxlen {}: expected 1024 to the 1024 of its file, found 768", at(0x10)),
        ),
        (0x17, &[0], format!("s_first {}: expected 1 to 1023, found 0", at(0x14))),
        (0x16, &[4, 0], format!("s_first {}: expected 1 to 1023, found 1024", at(0x14))),
        (0x1E, &[4, 0], format!("s_start {}: expected 0 or 1 to 1023, found 1024", at(0x1C))),
        (
            0x27,
            &[1],
            format!(
                "s_feature_incompat {}: expected one kind of checksum, found 0x1 and 0x13",
                at(0x28)
            ),
        ),
    ] {
        let refusal = V3.clone().superblock(offset, bytes).refusal();
        assert_eq!(refusal, format!("journal superblock {message}"));
    }
    for (offset, bytes, message) in [
        (0x27, &[2][..], "compat feature 0x2 of the journal is not supported"),
        (0x2B, &[0x53], "incompat feature 0x40 of the journal is not supported"),
        (0x2F, &[1], "ro_compat feature 0x1 of the journal is not supported"),
        (0x50, &[1], "journal checksum type 1 is not supported"),
        (0x2B, &[0x33], "the journal is dirty and has fast commits"),
        (0x23, &[5], "the journal was aborted (s_errno); e2fsck should see it"),
    ] {
        assert_eq!(V3.clone().superblock(offset, bytes).refusal(), message);
    }
}

#[test]
fn a_journal_that_is_none_is_an_error() {
    let mut sample = Sample::new("");
    let journal = sample.journal();
    sample.put(journal + 7, &[5]);
    assert_eq!(
        sample.open().state().unwrap_err().to_string(),
        "journal superblock h_magic at byte 2098176: \
         expected 0xc03b3998 of type 3 or 4, found 0xc03b3998 of type 5"
    );
}

#[test]
fn its_checksum_is_verified() {
    let mut sample = Sample::new("");
    let journal = sample.journal();
    sample.put(journal + 0x2B, &[0x10]);
    let error = sample.open().state().unwrap_err().to_string();
    assert!(error.starts_with("journal superblock s_checksum at byte 2098428: expected 0x"));
}

#[test]
fn transactions_without_needs_recovery_are_a_contradiction() {
    let mut sample = Sample::new("");
    let journal = sample.journal();
    sample.put(journal + 0x1F, &[1]);
    let reason = "transactions wait in its journal, but needs_recovery is not set".to_owned();
    assert_eq!(sample.state(), State::Raw(reason));
}

/// What waits in the journal decides, not what is on the disk: superblock, descriptors and bitmaps too.
#[test]
fn what_waits_in_the_journal_passes_the_same_gate() {
    let pristine = Sample::new("");
    let journaled = |sample: &Sample, block: usize| {
        let folder = tempfile::tempdir().unwrap();
        let content = folder.path().join("content");
        std::fs::write(&content, &sample.bytes[block * BLOCK..(block + 1) * BLOCK]).unwrap();
        Waiting::new("", "jo -c -v 3", &format!("jw -b {block} {}\njc\n", content.display()))
    };
    let bitmap = pristine.block_bitmap(0) / BLOCK;
    let more = pristine.clone().bitmap(0, 0x7F, &[0xC0]);
    for (waiting, message) in [
        (journaled(&pristine, 1), ""),
        (journaled(&more, bitmap), "group 0 block bitmap's checksum at byte"),
        (
            journaled(&pristine.clone().flags(0x3A, 2), 1),
            "once the journal is replayed, it has recorded errors (s_state); e2fsck should see it",
        ),
        (
            journaled(&pristine.clone().superblock(0x04, &[0xFE, 0x17]), 1),
            "a change of its size or layout waits in the journal",
        ),
        (
            journaled(&pristine.clone().superblock(0x68, &[9]), 1),
            "another superblock waits in the journal",
        ),
    ] {
        let used = waiting.sample.open().used().map(drop).map_err(|error| error.to_string());
        match message {
            "" => assert_eq!(used, Ok(())),
            _ => assert!(used.as_ref().unwrap_err().starts_with(message), "{used:?} {message}"),
        }
    }
}

static PLAIN: LazyLock<Waiting> = LazyLock::new(|| Waiting::new("^64bit", "jo", TWO));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn no_journal_makes_it_panic_or_hang(
        signed in any::<bool>(),
        blocks in prop::collection::vec((1..12_usize, 0..80_usize, any::<[u8; 4]>()), 0..6),
        fields in prop::collection::vec((12..0x60_usize, any::<[u8; 2]>()), 0..3),
    ) {
        let waiting = if signed { V3.clone() } else { PLAIN.clone() };
        let waiting = blocks.iter().fold(waiting, |waiting, (number, at, bytes)| match number {
            5 | 7 | 11 => waiting.commit(*number, *at, bytes),
            _ => waiting.block(*number, *at, bytes),
        });
        let waiting = fields.iter().fold(waiting, |waiting, (at, bytes)| waiting.superblock(*at, bytes));
        let source: Arc<dyn BlockSource> = Arc::new(Memory::new(waiting.sample.bytes.clone()));
        let filesystem = probe(&source).unwrap().unwrap();
        drop(filesystem.state());
        drop(filesystem.used());
    }
}
