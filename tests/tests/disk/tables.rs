//! Tables made by sgdisk and sfdisk, moved by us, judged by them, by gptman and by the kernel.

use std::collections::BTreeMap;

use gptman::GPT;
use image_core::disk::table::{self, Table};
use image_core::exec::real::Machine;
use image_core::exec::{Call, Runner};
use image_core::extent::Extent;
use image_core::units::Bytes;
use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

use crate::image_file::{ImageFile, tool};

const SECTOR: Bytes = Bytes::new(512);
const SIZE: Bytes = Bytes::mib(64);

fn read(disk: &ImageFile) -> Table {
    let found = table::read(disk).unwrap().unwrap();
    assert_eq!(found.warnings, Vec::<String>::new());
    found.table
}

/// Every partition that starts behind `from` moved by `distance`; extended ones are left out.
fn shifted(table: &Table, from: Bytes, distance: Bytes) -> BTreeMap<u32, Extent> {
    let partitions =
        table.partitions().iter().filter(|part| !["0x05", "0x0f"].contains(&part.kind.as_str()));
    partitions
        .map(|part| {
            let distance = if part.extent.start < from { Bytes::ZERO } else { distance };
            (part.number, part.extent.shifted(distance))
        })
        .collect()
}

fn entries(disk: &ImageFile) -> Vec<(u32, gptman::GPTPartitionEntry)> {
    let mut file = std::fs::File::open(disk.path()).unwrap();
    let gpt = GPT::read_from(&mut file, 512).unwrap();
    gpt.iter().filter(|(_, e)| e.is_used()).map(|(number, e)| (number, e.clone())).collect()
}

/// A GPT by sgdisk: number, length and gap in sectors, the attribute bit 2 for odd numbers.
fn made_by_sgdisk(entries: u32, layout: &BTreeMap<u32, (u64, u64)>) -> ImageFile {
    let disk = ImageFile::new(SIZE, SECTOR);
    let mut line = format!("sgdisk -a 1 --resize-table={entries}");
    let mut start = 2048;
    for (number, (length, gap)) in layout {
        let end = start + length - 1;
        line += &format!(" -n {number}:{start}:{end} -t {number}:8e00 -c {number}:Größe-{number}");
        line += &format!(" -A {number}:set:{}", if number % 2 == 1 { 2 } else { 63 });
        start += length + gap;
    }
    disk.check(&(line + " FILE"));
    disk
}

fn no_problems(disk: &ImageFile) {
    let said = disk.check("sgdisk -v FILE");
    assert!(said.contains("No problems found"), "{said}");
}

#[test]
fn numbers_1_2_7_and_1_200_survive_growth() {
    for (count, numbers) in [(128, vec![1, 2, 7]), (256, vec![1, 200])] {
        let disk = made_by_sgdisk(count, &numbers.iter().map(|n| (*n, (4096, 77))).collect());
        let table = read(&disk);
        let target = SIZE + Bytes::mib(37) + Bytes::new(100);
        let moved =
            table.moved(target, SECTOR, &shifted(&table, Bytes::ZERO, Bytes::ZERO)).unwrap();
        let grown = ImageFile::with_table(&moved, target, SECTOR);
        no_problems(&grown);
        assert_eq!(entries(&grown), entries(&disk));
        assert_eq!(entries(&grown).iter().map(|(number, _)| *number).collect::<Vec<_>>(), numbers);
        let info = |disk: &ImageFile| {
            disk.check("sgdisk -p FILE")
                .lines()
                .skip(3)
                .map(str::to_owned)
                .find(|line| line.contains("identifier"))
        };
        assert_eq!(info(&grown), info(&disk));
        assert_eq!(read(&grown), moved);
    }
}

#[test]
fn a_hybrid_mbr_stays_one() {
    let disk = made_by_sgdisk(128, &[(1, (2048, 0)), (3, (9000, 5)), (4, (700, 0))].into());
    disk.check("sgdisk -h 3:4 FILE");
    let table = read(&disk);
    let target = Bytes::mib(90);
    let places = shifted(&table, Bytes::mib(2), Bytes::mib(20));
    let grown =
        ImageFile::with_table(&table.moved(target, SECTOR, &places).unwrap(), target, SECTOR);
    no_problems(&grown);
    let hybrid = |disk: &ImageFile| disk.check("sgdisk -O FILE");
    let (before, after) = (hybrid(&disk), hybrid(&grown));
    assert!(before.contains("0x07") || before.contains("0x8E"), "{before}");
    assert_eq!(before.lines().count(), after.lines().count(), "{before}{after}");
    let start = Bytes::mib(22).units(SECTOR).to_string();
    assert!(after.contains(&start), "{after}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sgdisk_finds_no_problem(
        layout in prop::collection::btree_map(1..=128u32, (1..9000u64, 0..500u64), 0..10),
        growth in 0..200_000_000u64,
        distance in 0..9000u64,
    ) {
        let disk = made_by_sgdisk(128, &layout);
        let table = read(&disk);
        prop_assert_eq!(table.partitions().len(), layout.len());
        let distance = Bytes::new(distance * 512);
        let target = SIZE + Bytes::new(growth) + distance;
        let places = shifted(&table, Bytes::mib(3), distance);
        let moved = table.moved(target, SECTOR, &places).unwrap();
        let grown = ImageFile::with_table(&moved, target, SECTOR);
        no_problems(&grown);
        let mut expected = entries(&disk);
        for (number, entry) in &mut expected {
            entry.starting_lba = places[number].start.units(SECTOR);
            entry.ending_lba = places[number].end.units(SECTOR) - 1;
        }
        prop_assert_eq!(entries(&grown), expected);
        prop_assert_eq!(read(&grown), moved);
    }

    #[test]
    fn sfdisk_finds_no_error(
        primary in prop::collection::vec((1..5000u64, 0..9u64), 0..=3),
        logical in prop::collection::vec((1..5000u64, 2049..4000u64, any::<u64>()), 0..7),
        growth in 0..200_000_000u64,
        distance in 0..9000u64,
    ) {
        let disk = made_by_sfdisk(&primary, &logical);
        let table = read(&disk);
        prop_assert_eq!(&ours(&table), &theirs(&disk.check("sfdisk -d FILE")));
        let distance = Bytes::new(distance * 512);
        let target = SIZE + Bytes::new(growth) + distance;
        let places = shifted(&table, Bytes::mib(10), distance);
        let moved = table.moved(target, SECTOR, &places).unwrap();
        let grown = ImageFile::with_table(&moved, target, SECTOR);
        let said = grown.tool("sfdisk -V FILE");
        prop_assert!(said.success() && said.talk().contains("No errors detected"), "{}", said.talk());
        let there = theirs(&grown.check("sfdisk -d FILE"));
        prop_assert_eq!(&ours(&moved), &there);
        prop_assert_eq!(there.len(), table.partitions().len());
        for (number, (start, ..)) in there {
            if let Some(place) = places.get(&number) {
                prop_assert_eq!(start, place.start.units(SECTOR));
            }
        }
        prop_assert_eq!(read(&grown), moved);
    }
}

/// Primary partitions (length, gap), then an extended one with logical ones (length, gap, rank in the
/// chain), all in sectors.
fn made_by_sfdisk(primary: &[(u64, u64)], logical: &[(u64, u64, u64)]) -> ImageFile {
    let disk = ImageFile::new(SIZE, SECTOR);
    let mut script = "label: dos\nlabel-id: 0xc0ffee42\nunit: sectors\n\n".to_owned();
    let mut start = 2048;
    for (number, (length, gap)) in (1..).zip(primary) {
        let boot = if number == 2 { ",bootable" } else { "" };
        script += &format!("{number} : start={start},size={length},type=7{boot}\n");
        start += length + gap;
    }
    if !logical.is_empty() {
        let from = start;
        let mut parts = Vec::new();
        for (length, gap, rank) in logical {
            start += gap;
            parts.push((rank, start, length));
            start += length;
        }
        parts.sort_unstable();
        script += &format!("4 : start={from},size={},type=f\n", start - from + 100);
        for (number, (_, start, length)) in (5..).zip(parts) {
            script += &format!("{number} : start={start},size={length},type=8e\n");
        }
    }
    let call =
        Call::new("sfdisk", ["-q".into(), disk.path().into_os_string()]).stdin(script.clone());
    let outcome = Machine.run(&call).unwrap();
    assert!(outcome.success(), "{script}{}", outcome.talk());
    disk
}

type Rows = BTreeMap<u32, (u64, u64, String, bool)>;

/// What `sfdisk -d` says: number, start, size, type, boot flag.
fn theirs(dump: &str) -> Rows {
    let mut rows = Rows::new();
    for line in dump.lines().filter(|line| line.contains("start=")) {
        let (node, fields) = line.split_once(" : ").unwrap();
        let number = node.trim_start_matches(|c: char| !c.is_ascii_digit());
        let number = number.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
        let field = |name: &str| {
            let field = fields.split(',').find_map(|field| field.trim().strip_prefix(name));
            field.map(|field| field.trim().to_owned()).unwrap_or_default()
        };
        let boot = fields.contains("bootable");
        let number_of = |name| field(name).parse().unwrap();
        rows.insert(number, (number_of("start="), number_of("size="), field("type="), boot));
    }
    rows
}

fn ours(table: &Table) -> Rows {
    let row = |part: &table::Partition| {
        let kind = part.kind.trim_start_matches("0x").trim_start_matches('0').to_owned();
        let (start, length) = (part.extent.start.units(SECTOR), part.extent.len().units(SECTOR));
        (part.number, (start, length, kind, part.attributes == 0x80))
    };
    table.partitions().iter().map(row).collect()
}

/// A loop device with sectors of 4096 bytes; detached with this value.
struct Loop4096(String);

impl Loop4096 {
    fn on(disk: &ImageFile) -> Self {
        Self(
            disk.check("losetup --find --show --partscan --sector-size 4096 FILE")
                .trim()
                .to_owned(),
        )
    }
    fn check(&self, line: &str) -> String {
        let outcome = tool(line, self.0.as_ref());
        assert!(outcome.success(), "{line}: {}", outcome.talk());
        outcome.talk()
    }
}

impl Drop for Loop4096 {
    fn drop(&mut self) {
        tool("losetup -d FILE", self.0.as_ref());
    }
}

#[test]
fn loop_tables_in_sectors_of_4096_bytes_are_read_and_made() {
    let large = Bytes::BLOCK;
    // Made there, read here.
    let disk = ImageFile::new(SIZE, large);
    let device = Loop4096::on(&disk);
    device.check("sgdisk -n 2:1M:+8M -n 5:0:+1M FILE");
    drop(device);
    let table = read(&disk);
    let places: Vec<_> = table.partitions().iter().map(|p| (p.number, p.extent)).collect();
    assert_eq!(
        places,
        [
            (2, Extent::new(Bytes::mib(1), Bytes::mib(9))),
            (5, Extent::new(Bytes::mib(9), Bytes::mib(10)))
        ]
    );
    assert_eq!(table::detect_sector_size(&disk), Some(large));

    // Made here from tables in sectors of 512 bytes, judged there.
    let gpt = made_by_sgdisk(128, &[(1, (2048, 0)), (7, (8192, 2048))].into());
    let mbr = made_by_sfdisk(&[(2048, 0)], &[(2048, 2048, 2), (4096, 2048, 1)]);
    for source in [gpt, mbr] {
        let table = read(&source);
        let target = SIZE + Bytes::mib(3);
        let moved = table.moved(target, large, &shifted(&table, Bytes::ZERO, Bytes::ZERO)).unwrap();
        let disk = ImageFile::with_table(&moved, target, large);
        assert_eq!(read(&disk), moved);
        let device = Loop4096::on(&disk);
        let (verdict, line) = match table {
            Table::Gpt(_) => ("No problems found", "sgdisk -v FILE"),
            Table::Mbr(_) => ("No errors detected", "sfdisk -V FILE"),
        };
        let said = device.check(line);
        assert!(said.contains(verdict), "{said}");
        // The kernel's view, in sectors of 512 bytes whatever the disk's are.
        let seen = device.check("partx -g -o NR,START FILE");
        let seen: Vec<Vec<u64>> = seen
            .lines()
            .map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect())
            .collect();
        let expected: Vec<Vec<u64>> = moved
            .partitions()
            .iter()
            .map(|part| vec![part.number.into(), part.extent.start.units(SECTOR)])
            .collect();
        assert_eq!(seen, expected);
    }
}
