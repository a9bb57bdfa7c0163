//! Restores of whole disks in memory: what arrives, in which order, and what every fault ends in.

mod keep;
mod resume;
mod together;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{Job, ReadBack, Restored, Stored, Unused, Windows, restore};
use crate::disk::fixtures::{gpt_bytes, wanted};
use crate::disk::table::{self, MbrTable, Partition, Table};
use crate::error::{Error, Result};
use crate::exec::Call;
use crate::exec::real::Machine;
use crate::extent::Extent;
use crate::image::manifest::Root;
use crate::io::crash::Power;
use crate::io::memory::Memory;
use crate::io::{BlockSink, BlockSource, Medium, Source};
use crate::lvm::write::pv_image;
use crate::lvm::{label, sample};
use crate::plan::restore::{Request, RestorePlan, Target, plan, slots};
use crate::repo::{self, Repository};
use crate::report::{Impatient, Quiet, Report};
use crate::save;
use crate::survey::{self, Input, Wishes, model::Survey};
use crate::units::Bytes;

const MIB: usize = 1 << 20;
const SECTOR: Bytes = Bytes::new(512);

fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Boot code, a gap, a partition of noise and a physical volume; and a second disk that is one.
fn disks(seed: u8) -> Vec<Vec<u8>> {
    let list = [wanted(1, 1, 1), wanted(2, 2, 3)];
    let mut first = gpt_bytes(Bytes::mib(8), SECTOR, 128, &list);
    let mut second = noise(seed ^ 1, 5 * MIB);
    first[..440].copy_from_slice(&noise(seed, 440));
    first[40 << 10..5 * MIB].copy_from_slice(&noise(seed ^ 2, 5 * MIB - (40 << 10)));
    first[1200 << 10..1500 << 10].fill(0);
    let text = sample::text(
        2048,
        &[2, 4],
        &[
            ("root", vec![(2, 0, vec![(0, 0)]), (2, 0, vec![(1, 2)])]),
            ("x", vec![(1, 0, vec![(1, 0)])]),
        ],
    );
    let text = text.replace("0000-000000\"", &format!("0000-0000{seed:02}\""));
    let vg = crate::lvm::model::Vg::parse(&text).unwrap();
    for (index, disk) in [&mut first[2 * MIB..], &mut second[..]].into_iter().enumerate() {
        let mut head = sample::head(index, &[(4096, 1_044_480)]);
        head.uuid.clone_from(&vg.pvs[index].uuid);
        disk[..MIB].fill(0);
        let image = pv_image(&vg, index, &head, &vg.text(0).unwrap()).unwrap();
        for (at, bytes) in image.text.into_iter().chain(image.area_headers).chain([image.label]) {
            let at = at.index().unwrap();
            disk[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }
    vec![first, second]
}

fn surveyed(disks: &[Vec<u8>]) -> Survey {
    let inputs: Vec<Input> = disks
        .iter()
        .map(|disk| Input {
            path: PathBuf::from("disk"),
            source: Arc::new(Memory::new(disk.clone())),
            hardware: Default::default(),
            select: None,
            whole: true,
        })
        .collect();
    survey::survey(&inputs, Wishes::default(), &Quiet::default()).unwrap()
}

/// An image, and the files of its repository.
struct Image {
    files: repo::Memory,
    repo: Repository,
    root: Root,
}

fn saved(disks: &[Vec<u8>]) -> Image {
    let files = repo::Memory::new();
    let repo = Repository::create(Arc::new(files.clone())).unwrap();
    let request = save::Request {
        name: "test".parse().unwrap(),
        level: 1,
        workers: 2,
        host: "here".to_owned(),
        tool: "test".to_owned(),
        parent: None,
        firmware: save::Firmware::default(),
    };
    let saver = repo.saver(&Quiet::default()).unwrap();
    let saved = save::save(&surveyed(disks), saver, &request, &Quiet::default()).unwrap();
    let root = repo.root(&saved.image).unwrap();
    Image { files, repo, root }
}

fn planned(root: &Root, sizes: &[usize]) -> RestorePlan {
    plan(root, &asked(root, sizes)).unwrap()
}

fn asked(root: &Root, sizes: &[usize]) -> Request {
    let targets = slots(root).into_iter().zip(sizes).map(|(slot, size)| Target {
        slot: slot.to_owned(),
        path: "target".into(),
        size: Bytes::from(*size),
        sector_size: SECTOR,
        creates: false,
    });
    Request { targets: targets.collect(), ..Request::default() }
}

fn run(
    image: &Image,
    power: &Arc<Power>,
    sizes: &[usize],
    report: &dyn Report,
) -> Result<Restored> {
    run_reading(image, power, sizes, report, ReadBack::Full)
}

fn run_reading(
    image: &Image,
    power: &Arc<Power>,
    sizes: &[usize],
    report: &dyn Report,
    read_back: ReadBack,
) -> Result<Restored> {
    run_with(image, power, sizes, report, &|job| job.read_back = read_back)
}

fn run_with(
    image: &Image,
    power: &Arc<Power>,
    sizes: &[usize],
    report: &dyn Report,
    with: &dyn Fn(&mut Job<'_>),
) -> Result<Restored> {
    carried_out(image, power, &planned(&image.root, sizes), report, with)
}

fn carried_out(
    image: &Image,
    power: &Arc<Power>,
    plan: &RestorePlan,
    report: &dyn Report,
    with: &dyn Fn(&mut Job<'_>),
) -> Result<Restored> {
    let (stored, touched) =
        (Stored { repo: &image.repo, root: &image.root }, AtomicBool::new(false));
    let mut job = job((&stored, &image.root), power, plan, &touched);
    with(&mut job);
    restore(&job, report)
}

/// A restore onto the disks of `power`, with nothing asked for.
fn job<'a>(
    (windows, root): (&'a dyn Windows, &'a Root),
    power: &Arc<Power>,
    plan: &'a RestorePlan,
    touched: &'a AtomicBool,
) -> Job<'a> {
    Job {
        windows,
        root,
        plan,
        targets: (0..plan.targets.len()).map(|at| power.disk(at) as Arc<dyn Medium>).collect(),
        unused: Unused::Keep,
        read_back: ReadBack::Full,
        only_changed: false,
        fresh: false,
        touched,
        runner: &Machine,
        server: Call::new("true", [""; 0]),
    }
}

fn now(power: &Power) -> Vec<Vec<u8>> {
    power.cut_after(usize::MAX, &mut || true)
}

/// Every volume's bytes, by id; without the metadata of physical volumes.
fn contents(disks: &[Vec<u8>]) -> Vec<(String, Vec<u8>)> {
    let survey = surveyed(disks);
    let volumes = survey.volumes.iter().filter(|volume| !volume.is_container());
    volumes
        .map(|volume| {
            let size = volume.size().index().unwrap();
            (volume.id.clone(), volume.source.read(Bytes::ZERO, size).unwrap())
        })
        .collect()
}

/// Old disks with tables and labels of their own, to be overwritten.
fn garbage() -> Arc<Power> {
    Power::new(disks(7))
}

const SIZES: [usize; 2] = [8 * MIB, 5 * MIB];

/// Whether anybody would find something on a disk.
fn is_seen(disk: &[u8]) -> bool {
    let disk: Source = Arc::new(Memory::new(disk.to_vec()));
    !matches!(table::read(&disk), Ok(None)) || is_labelled(&disk)
}

/// Whether a table or a label is there, but not all that belongs to it.
fn is_half(disk: &[u8]) -> bool {
    let disk: Source = Arc::new(Memory::new(disk.to_vec()));
    let table = match table::read(&disk) {
        Ok(found) => found.is_some_and(|found| !found.warnings.is_empty()),
        Err(_) => true,
    };
    table || !matches!(label::read(&disk), Ok(None)) && !is_labelled(&disk)
}

fn is_labelled(disk: &Source) -> bool {
    matches!(label::read(disk), Ok(Some(head)) if head.vg.is_some())
}

#[test]
fn every_volume_arrives_with_its_table_and_labels() {
    let (source, power) = (disks(1), garbage());
    let image = saved(&source);
    let restored = run(&image, &power, &SIZES, &Quiet::default()).unwrap();
    assert!(restored.verified && restored.damaged.is_empty() && restored.grown.is_empty());
    let ids: Vec<String> = contents(&source).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["d0:gap0", "d0:1", "vg/root", "vg/x"]);
    assert_eq!(contents(&now(&power)), contents(&source));
    let tables =
        |disks: &[Vec<u8>]| surveyed(disks).slots.into_iter().map(|s| s.table).collect::<Vec<_>>();
    assert_eq!(tables(&now(&power)), tables(&source));

    let larger = Power::new(vec![noise(9, 11 * MIB), noise(8, 9 * MIB)]);
    run(&image, &larger, &[11 * MIB, 9 * MIB], &Quiet::default()).unwrap();
    let mut there = contents(&now(&larger));
    there.retain(|(id, _)| ids.contains(id));
    assert!(there == contents(&source));
    let survey = surveyed(&now(&larger));
    assert_eq!(survey.groups[0].vg.pvs[1].dev_size, Bytes::mib(9));
}

#[test]
fn at_every_power_cut_the_disks_are_not_seen_or_whole() {
    let (source, power) = (disks(1), garbage());
    let image = saved(&source);
    run(&image, &power, &SIZES, &Quiet::default()).unwrap();
    let (total, invalid) = (power.steps(), power.flushes()[3]);
    let whole = contents(&now(&power));
    let mut luck = 1_u32;
    let (mut seen, mut cuts) = (0, 0);
    for cut in (invalid..=total).filter(|cut| cut % 3 == 0 || cut + 60 > total) {
        for kind in 0..3 {
            let disks = power.cut_after(cut, &mut || {
                luck = luck.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                kind == 0 || (kind == 1 && luck & 0x1000_0000 != 0)
            });
            cuts += 1;
            assert!(!disks.iter().any(|disk| is_half(disk)), "after {cut} of {total}");
            assert!(!is_half(&disks[0][2 * MIB..5 * MIB]), "after {cut} of {total}");
            if disks.iter().any(|disk| is_seen(disk)) {
                seen += 1;
                // A volume group on a disk without a table is seen before boot code and tables are there.
                for (id, bytes) in &whole {
                    let late = id == "d0:gap0" && !is_seen(&disks[0]);
                    assert!(late || arrived(&disks, id, bytes), "{id} after {cut} of {total}");
                }
            }
        }
    }
    assert!(seen > 3 && cuts > seen + 30, "{seen} of {cuts}");
}

/// Whether a volume has its bytes, table or not.
fn arrived(disks: &[Vec<u8>], id: &str, bytes: &[u8]) -> bool {
    match id {
        "d0:gap0" => disks[0][40 << 10..MIB] == bytes[40 << 10..],
        "d0:1" => disks[0][MIB..2 * MIB] == *bytes,
        "vg/root" => {
            disks[0][3 * MIB..5 * MIB] == bytes[..2 * MIB]
                && disks[1][3 * MIB..5 * MIB] == bytes[2 * MIB..]
        }
        _ => disks[1][MIB..2 * MIB] == *bytes,
    }
}

#[test]
fn a_target_that_fails_at_any_step_is_an_error() {
    let image = saved(&disks(1));
    let power = garbage();
    run(&image, &power, &SIZES, &Quiet::default()).unwrap();
    let total = power.steps();
    for step in (0..total).filter(|step| step % 7 == 0 || step + 25 > total) {
        let power = garbage();
        power.fail_at(step);
        let ended = run_reading(&image, &power, &SIZES, &Quiet::default(), ReadBack::None);
        assert!(matches!(ended, Err(Error::Io { .. })), "step {step}: {ended:?}");
    }
}

#[test]
fn a_byte_that_the_target_does_not_keep_is_found_wherever_it_is() {
    let image = saved(&disks(1));
    let places = [
        (0, 100),
        (0, 450),
        (0, 512 + 16),
        (0, 1024 + 3),
        (0, 50 << 10),
        (0, MIB + 5),
        (0, 1300 << 10),
        (0, 2 * MIB + 520),
        (0, 2 * MIB + 4100),
        (0, 2 * MIB + 4700),
        (0, 8 * MIB - 500),
        (0, 8 * MIB - 512 - 16000),
        (1, 530),
        (1, 4 * MIB),
    ];
    for (disk, byte) in places {
        let power = garbage();
        power.rot(disk, byte);
        let ended = run(&image, &power, &SIZES, &Quiet::default());
        assert!(matches!(ended, Err(Error::Io { .. })), "{disk} {byte}: {ended:?}");
    }
}

#[test]
fn an_interrupted_restore_says_so_and_leaves_no_table() {
    let image = saved(&disks(1));
    let mut ends = 0;
    for patience in (0..).step_by(3) {
        let power = garbage();
        match run(&image, &power, &SIZES, &Impatient::new(patience)) {
            Ok(restored) => {
                assert!(restored.verified);
                break;
            }
            Err(Error::Interrupted) => ends += 1,
            Err(error) => panic!("{error}"),
        }
        let disks = now(&power);
        let table = table::read(&Memory::new(disks[0].clone()));
        // Only before more than the records was written is the old table still there.
        assert!(matches!(table, Ok(None)) || power.steps() <= 4, "{patience}: {table:?}");
    }
    assert!(ends > 10, "{ends}");
}

#[test]
fn a_damaged_chunk_stops_before_growth_labels_and_tables() {
    let source = disks(1);
    let image = saved(&source);
    let pack = image.files.paths().into_iter().find(|path| path.starts_with("packs/")).unwrap();
    // The chunks lie in disk order: boot code first.
    for (byte, volume) in [(0, "d0:gap0"), (MIB, "d0:1"), (5 * MIB / 2, "vg/root")] {
        image.files.damage(&pack, |bytes| bytes[byte] ^= 1);
        let power = garbage();
        let restored = run(&image, &power, &SIZES, &Quiet::default()).unwrap();
        image.files.damage(&pack, |bytes| bytes[byte] ^= 1);
        assert!(restored.damaged.iter().all(|one| one.volume == volume), "{restored:?}");
        assert!((1..3).contains(&restored.damaged.len()), "one for each range of a window");
        assert!(!restored.verified);
        let disks = now(&power);
        assert!(disks.iter().all(|disk| !is_seen(disk)));
        assert!(!is_seen(&disks[0][2 * MIB..5 * MIB]), "the label of a partition");
        for (id, bytes) in contents(&source) {
            let written = arrived(&disks, &id, &bytes);
            assert_eq!(written, id != volume && id != "d0:gap0", "{id}");
        }
    }
}

#[test]
fn a_missing_table_segment_is_damage_too() {
    let image = saved(&disks(1));
    let of = |id: &str| image.root.volumes.iter().find(|volume| volume.id == id).unwrap();
    let hash = of("vg/x").segments[0].unwrap();
    image.files.damage(&format!("tables/{hash}"), |bytes| bytes[50] ^= 1);
    let power = garbage();
    let restored = run(&image, &power, &SIZES, &Quiet::default()).unwrap();
    assert_eq!(restored.damaged.len(), 1);
    assert_eq!(restored.damaged[0].range, Extent::first(Bytes::MIB));
    assert!(!now(&power).iter().any(|disk| is_seen(disk)));
}

/// DOS's layout: the first partition begins 63 sectors from the start, within what is kept back.
fn old_mbr() -> Vec<u8> {
    let partition = |number: u32, start: u64, end: u64| Partition {
        number,
        extent: Extent::new(Bytes::new(start * 512), Bytes::new(end * 512)),
        kind: "0x83".to_owned(),
        uuid: Some(format!("c0ffee42-{number:02x}")),
        name: None,
        attributes: 0,
    };
    let table = Table::Mbr(MbrTable {
        signature: "c0ffee42".to_owned(),
        reserved: 0,
        partitions: vec![partition(1, 63, 3000), partition(2, 3000, 5003)],
        ebrs: Vec::new(),
    });
    let disk = Memory::new(noise(3, 3 * MIB + 512));
    let image = table.image(BlockSink::size(&disk), SECTOR).unwrap();
    disk.write_at(image.mbr_sector.0, &image.mbr_sector.1).unwrap();
    disk.into_bytes()
}

#[test]
fn partitions_at_odd_sectors_and_volumes_smaller_than_what_is_kept_back_arrive() {
    let source = vec![old_mbr()];
    let image = saved(&source);
    let power = Power::new(vec![noise(5, source[0].len())]);
    run(&image, &power, &[source[0].len()], &Quiet::default()).unwrap();
    assert_eq!(contents(&now(&power)), contents(&source));
    let (total, invalid) = (power.steps(), power.flushes()[1]);
    for cut in invalid..total - 1 {
        assert!(!is_seen(&power.cut_after(cut, &mut || true)[0]), "{cut}");
    }

    for size in [300_000, MIB, MIB + 1000] {
        let source = vec![noise(4, size)];
        let image = saved(&source);
        let power = Power::new(vec![vec![0xee; size]]);
        let restored = run(&image, &power, &[size], &Quiet::default()).unwrap();
        assert!(now(&power) == source, "{size}");
        assert_eq!(restored.written, Bytes::from(size));
        // Its start comes once everything else is there.
        let start = size.min(MIB);
        for cut in power.flushes()[0]..power.steps() {
            let disk = &power.cut_after(cut, &mut || true)[0];
            assert!(disk[..start].iter().all(|byte| *byte == 0) || *disk == source[0], "{size}");
        }
    }
}

#[test]
fn targets_of_another_size_than_planned_are_refused() {
    let image = saved(&disks(1));
    let power = Power::new(vec![vec![9; 8 * MIB], vec![9; 4 * MIB]]);
    let ended = run(&image, &power, &SIZES, &Quiet::default());
    assert!(matches!(ended, Err(Error::Refused(_))), "{ended:?}");
    assert_eq!(power.steps(), 0);
}

/// A swap area of 2 MiB, as mkswap makes it.
fn swap() -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(2 << 20).unwrap();
    let call = Call::new("mkswap", ["-L", "here", file.path().to_str().unwrap()]);
    crate::exec::Runner::check(&Machine, &call).expect("install util-linux");
    std::fs::read(file.path()).unwrap()
}

#[test]
fn a_swap_area_is_made_for_its_new_size_and_that_is_read_back() {
    let area = swap();
    let image = saved(std::slice::from_ref(&area));
    let power = Power::new(vec![vec![0xee; 5 * MIB]]);
    let restored = run(&image, &power, &[5 * MIB], &Quiet::default()).unwrap();
    assert!(restored.grown[0].filesystem_grown && restored.verified);
    let header = |bytes: &[u8]| {
        let header = crate::fs::swap::Header::read(&Memory::new(bytes.to_vec()), Bytes::of(bytes));
        header.unwrap().unwrap()
    };
    let expected = header(&area).resized(Bytes::mib(5)).unwrap();
    assert_eq!(header(&now(&power)[0]), expected);
    let power = Power::new(vec![vec![0xee; 5 * MIB]]);
    power.rot(0, 1029);
    assert!(run(&image, &power, &[5 * MIB], &Quiet::default()).is_err());
}
