//! The LVM room against lvm2's own programs, which need no device-mapper for metadata.
//!
//! `loop_` tests make PVs on loop devices with lvm2, read them with `image_core::lvm`, lay the VG out on
//! larger (or equal) PVs, write these, and let lvm2 judge. They need root, lvm2 and util-linux.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::error::Error;
use image_core::exec::real::Machine;
use image_core::exec::{Call, Outcome, Runner};
use image_core::io::BlockSource;
use image_core::lvm::allocate::{fit, room};
use image_core::lvm::assemble::{Group, assemble};
use image_core::lvm::label::{self, PvHead};
use image_core::lvm::model::{SegmentKind, Vg};
use image_core::lvm::write::pv_image;
use image_core::units::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

/// What lvm2 says on every run without device-mapper.
const EXPECTED: [&str; 3] =
    ["Activation disabled. No device-mapper interaction", "NOT backed up", "not zeroed"];

/// A file read as a device.
struct Disk(File, PathBuf);

impl Disk {
    fn open(path: &Path) -> Result<Self> {
        Ok(Self(File::open(path)?, path.to_owned()))
    }
}

impl BlockSource for Disk {
    fn name(&self) -> String {
        self.1.display().to_string()
    }
    fn size(&self) -> Bytes {
        Bytes::new(self.0.metadata().map_or(0, |data| data.len()))
    }
    fn sector_size(&self) -> Bytes {
        Bytes::new(512)
    }
    fn read_at(&self, offset: Bytes, buffer: &mut [u8]) -> image_core::error::Result<()> {
        let read = self.0.read_exact_at(buffer, offset.get());
        read.map_err(|source| Error::io_at(self.name(), "read", offset, source))
    }
}

/// A loop device, detached when dropped.
struct Loop(String);

impl Loop {
    fn attach(file: &Path, sector_size: u64) -> Result<Self> {
        let size = sector_size.to_string();
        let args = ["-f", "--show", "--sector-size", &size, &file.display().to_string()];
        Ok(Self(tool("losetup", &args)?.text().trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = tool("losetup", &["-d", &self.0]);
    }
}

fn tool(program: &str, args: &[&str]) -> Result<Outcome> {
    Machine.check(&Call::new(program, args)).context("this test needs root, lvm2 and util-linux")
}

/// Some disks, and an lvm2 that sees nothing else.
struct Lab {
    loops: Vec<Loop>,
    files: Vec<PathBuf>,
    folder: TempDir,
}

impl Lab {
    fn new(sizes: &[Bytes], sector_size: u64) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (mut loops, mut files) = (Vec::new(), Vec::new());
        for (index, size) in sizes.iter().enumerate() {
            let path = folder.path().join(format!("disk{index}"));
            File::create(&path)?.set_len(size.get())?;
            loops.push(Loop::attach(&path, sector_size)?);
            files.push(path);
        }
        let accept: String = loops.iter().map(|device| format!("\"a|^{}$|\",", device.0)).collect();
        let own = folder.path().display();
        let conf = format!(
            "devices {{ scan=[\"/dev\"] filter=[{accept}\"r|.*|\"] global_filter=[{accept}\"r|.*|\"]\n\
             use_devicesfile=0 obtain_device_list_from_udev=0 external_device_info_source=\"none\" hints=\"none\" }}\n\
             global {{ activation=0 use_lvmlockd=0 use_lvmpolld=0 event_activation=0 notify_dbus=0\n\
             locking_dir=\"{own}/lock\" etc=\"{own}\" }}\n\
             activation {{ udev_sync=0 udev_rules=0 monitoring=0 }} backup {{ backup=0 archive=0 }}\n"
        );
        std::fs::write(folder.path().join("lvm.conf"), conf)?;
        Ok(Self { loops, files, folder })
    }

    /// Runs lvm commands, one a line, with `$0` for the first device; fails on any unexpected word.
    fn lvm(&self, script: &str) -> Result<String> {
        let mut script = script.to_owned();
        for (index, device) in self.loops.iter().enumerate() {
            script = script.replace(&format!("${index}"), &device.0);
        }
        let mut answer = String::new();
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let call = Call::new("lvm", line.split_whitespace())
                .env("LVM_SYSTEM_DIR", self.folder.path())
                .env("LVM_SUPPRESS_FD_WARNINGS", "1");
            let outcome = Machine.check(&call).context("this test needs root and lvm2")?;
            let words = String::from_utf8_lossy(&outcome.stderr).into_owned();
            let unexpected =
                words.lines().find(|line| !EXPECTED.iter().any(|ok| line.contains(ok)));
            ensure!(unexpected.is_none(), "{line}: {words}");
            answer += &outcome.text();
        }
        Ok(answer)
    }

    /// The rows of a report of lvm2's.
    fn report(&self, command: &str, kind: &str) -> Result<Vec<serde_json::Value>> {
        let text = self.lvm(&format!("{command} --reportformat json --units b --nosuffix"))?;
        let json: serde_json::Value = serde_json::from_str(&text)?;
        json["report"][0][kind].as_array().cloned().context("no rows")
    }

    fn heads(&self) -> Result<Vec<(usize, PvHead)>> {
        let read = |path: &PathBuf| label::read(&Disk::open(path)?)?.context("no label");
        self.files.iter().enumerate().map(|(key, path)| Ok((key, read(path)?))).collect()
    }

    /// The one VG on the disks, and each disk's head by key.
    fn read(&self) -> Result<(Group, Vec<(usize, PvHead)>)> {
        let heads = self.heads()?;
        let mut assembly = assemble(&heads);
        ensure!(assembly.raw.is_empty() && assembly.orphans.is_empty(), "{assembly:?}");
        let group = assembly.groups.pop().context("no VG")?;
        ensure!(assembly.groups.is_empty(), "several VGs");
        Ok((group, heads))
    }
}

/// A segment: LV, first extent, extents, stripe size, places.
type Row = (String, u64, u64, u64, String);

fn field(row: &serde_json::Value, name: &str) -> String {
    row[name].as_str().unwrap_or_default().to_owned()
}

fn number(row: &serde_json::Value, name: &str) -> u64 {
    field(row, name).parse().unwrap_or(u64::MAX)
}

/// Where lvm2 sees the segments of all LVs.
fn theirs(lab: &Lab, vg: &str) -> Result<Vec<Row>> {
    let columns = "lv_name,seg_start_pe,seg_size_pe,stripe_size,seg_pe_ranges";
    let rows = lab.report(&format!("lvs -a --segments -o {columns} {vg}"), "seg")?;
    let mut rows: Vec<Row> = rows
        .iter()
        .map(|row| {
            let [start, count, stripe] =
                ["seg_start_pe", "seg_size_pe", "stripe_size"].map(|name| number(row, name));
            (field(row, "lv_name"), start, count, stripe, field(row, "seg_pe_ranges"))
        })
        .collect();
    rows.sort();
    Ok(rows)
}

/// Where the model has them, in lvm2's words.
fn ours(lab: &Lab, group: &Group) -> Vec<Row> {
    let mut rows = Vec::new();
    for lv in &group.vg.lvs {
        for segment in &lv.segments {
            let SegmentKind::Striped { stripe_size, stripes } = &segment.kind else { continue };
            let each = segment.extents_per_stripe();
            let range = |(pv, pe): &(usize, u64)| {
                let device = &lab.loops[group.members[*pv]].0;
                format!("{device}:{pe}-{}", pe + each - 1)
            };
            let ranges: Vec<String> = stripes.iter().map(range).collect();
            let (start, count) = (segment.start_extent, segment.extent_count);
            rows.push((lv.name.clone(), start, count, stripe_size.get(), ranges.join(" ")));
        }
    }
    rows.sort();
    rows
}

/// Compares everything that lvm2 and the model know of a VG.
fn agree(lab: &Lab, group: &Group) -> Result<()> {
    let vg = &group.vg;
    assert_eq!(ours(lab, group), theirs(lab, &vg.name)?);
    let rows = lab.report("vgs -o vg_name,vg_uuid,vg_seqno,vg_extent_size,vg_free", "vg")?;
    let row = rows.first().context("no VG")?;
    assert_eq!((field(row, "vg_name"), field(row, "vg_uuid")), (vg.name.clone(), vg.uuid.clone()));
    assert_eq!(
        (number(row, "vg_seqno"), number(row, "vg_extent_size"), number(row, "vg_free")),
        (vg.seqno, vg.extent_size.get(), vg.free_bytes().get())
    );
    let rows = lab.report("pvs -o pv_name,pv_uuid,dev_size,pv_pe_count,pe_start", "pv")?;
    for (pv, key) in vg.pvs.iter().zip(&group.members) {
        let row = rows.iter().find(|row| field(row, "pv_uuid") == pv.uuid).context("no PV")?;
        assert_eq!(field(row, "pv_name"), lab.loops[*key].0);
        assert_eq!(
            (number(row, "dev_size"), number(row, "pv_pe_count"), number(row, "pe_start")),
            (pv.dev_size.get(), pv.pe_count, pv.pe_start.get())
        );
    }
    for row in lab.report("lvs -a -o lv_name,lv_uuid,lv_size", "lv")? {
        let lv = vg.lv(&field(&row, "lv_name")).context("unknown LV")?;
        assert_eq!(
            (field(&row, "lv_uuid"), number(&row, "lv_size")),
            (lv.uuid.clone(), lv.size(vg).get())
        );
    }
    Ok(())
}

fn write_pv(path: &Path, vg: &Vg, pv: usize, head: &PvHead, text: &str) -> Result<()> {
    let image = pv_image(vg, pv, head, text)?;
    let file = File::options().write(true).open(path)?;
    for (offset, bytes) in image.text.iter().chain(&image.area_headers).chain([&image.label]) {
        file.write_all_at(bytes, offset.get())?;
    }
    Ok(())
}

/// Fills the first and the last 2 MiB with garbage: zeros would hide bytes that are not written.
fn fill_ends(path: &Path) -> Result<()> {
    let file = File::options().write(true).open(path)?;
    let garbage = vec![0x5a; 2 << 20];
    file.write_all_at(&garbage, 0)?;
    Ok(file.write_all_at(&garbage, file.metadata()?.len() - (2 << 20))?)
}

/// Reads the VG that lvm2 made, writes it on disks larger by `more` with LVs grown by `growth`, and
/// lets lvm2 judge that and change it once more.
fn round_trip(lab: &Lab, sector_size: u64, more: &[Bytes], growth: &[(&str, Bytes)]) -> Result<Vg> {
    let (group, heads) = lab.read()?;
    agree(lab, &group)?;
    let key = |pv: usize| group.members[pv];
    let pvs = 0..group.vg.pvs.len();
    let sizes: Vec<Bytes> =
        pvs.clone().map(|pv| group.vg.pvs[pv].dev_size + more[key(pv)]).collect();
    let mut lvs = BTreeMap::new();
    for (name, more) in growth {
        let lv = group.vg.lv(name).context("no such LV")?;
        lvs.insert((*name).to_owned(), lv.size(&group.vg) + *more);
    }
    let vg = fit(&group.vg, &sizes, &lvs)?;
    for (name, size) in &lvs {
        let lv = vg.lv(name).context("the LV is gone")?;
        assert!(lv.size(&vg) >= *size && lv.size(&vg) < *size + vg.extents(3), "{name}");
    }
    let text = vg.text(1_700_000_000)?;
    let mut targets = vec![Bytes::ZERO; sizes.len()];
    pvs.clone().for_each(|pv| targets[key(pv)] = sizes[pv]);
    let target = Lab::new(&targets, sector_size)?;
    for pv in pvs {
        fill_ends(&target.files[key(pv)])?;
        write_pv(&target.files[key(pv)], &vg, pv, &heads[key(pv)].1, &text)?;
    }
    judge(&target, &vg, &text)?;
    let (back, _) = target.read()?;
    assert_eq!(back.vg.text(1_700_000_000)?, text);
    assert_eq!((&back.vg.pvs, &back.vg.lvs), (&vg.pvs, &vg.lvs));
    agree(&target, &back)?;
    // lvm2 goes on from here.
    let name = &vg.name;
    target.lvm(&format!("vgchange --addtag later {name}\nvgck {name}"))?;
    let (later, _) = target.read()?;
    assert_eq!(later.vg.seqno, vg.seqno + 1);
    agree(&target, &later)?;
    Ok(vg)
}

/// lvm2's checkers accept every device of `lab`, and each metadata area holds `text`.
fn judge(lab: &Lab, vg: &Vg, text: &str) -> Result<()> {
    for (index, file) in lab.files.iter().enumerate() {
        lab.lvm(&format!("pvck ${index}"))?;
        let headers = lab.lvm(&format!("pvck --dump headers {}", file.display()))?;
        let areas = headers.matches("# location of metadata area").count();
        let found = format!("# vgname {} seqno {}", vg.name, vg.seqno);
        let ignored = headers.matches("raw_locn[0].flags 0x1").count();
        assert!(headers.matches(&found).count() + ignored >= areas, "{headers}");
        if areas > ignored {
            let dump = lab.lvm(&format!("pvck --dump metadata {}", file.display()))?;
            assert!(dump.contains(text), "{dump}");
        }
    }
    let rows = lab.report("pvs -o pv_name,vg_name,pv_in_use,pv_missing", "pv")?;
    assert_eq!(rows.len(), lab.files.len());
    for row in rows {
        assert_eq!(
            (field(&row, "vg_name"), field(&row, "pv_in_use")),
            (vg.name.clone(), "used".to_owned())
        );
        assert_eq!(field(&row, "pv_missing"), "");
    }
    lab.lvm(&format!("vgck {}", vg.name)).map(drop)
}

const NEW: &str = "lvcreate -an -Zn -Wn --yes";

#[test]
fn loop_one_disk_with_fragments_and_tags() -> Result<()> {
    let lab = Lab::new(&[Bytes::mib(300)], 512)?;
    lab.lvm(&format!(
        "pvcreate $0
         vgcreate vg $0
         {NEW} -L 40m -n root --addtag one --addtag t+w.o vg
         {NEW} -L 12m -n swap_1 vg
         lvextend -L 80m vg/root
         {NEW} -L 20m -pr -n s.r-v+ vg
         lvextend -L 100m vg/root
         lvextend -L 24m vg/swap_1
         lvrename vg/swap_1 vg/swap
         vgrename vg debian-vg
         vgchange --addtag site debian-vg"
    ))?;
    let same = round_trip(&lab, 512, &[Bytes::ZERO], &[])?;
    assert_eq!(same.lvs, lab.read()?.0.vg.lvs, "an equal disk keeps the map");
    let more = Bytes::gib(3) + Bytes::new(512 * 77);
    let vg = round_trip(&lab, 512, &[more], &[("root", Bytes::gib(1)), ("s.r-v+", Bytes::new(1))])?;
    assert!(vg.lvs.iter().all(|lv| lv.segments.len() == 1), "packed LVs are contiguous");
    round_trip(&lab, 512, &[more], &[])?;
    Ok(())
}

#[test]
fn loop_stripes_over_three_disks_with_none_one_and_two_metadata_areas() -> Result<()> {
    let sizes = [Bytes::mib(200), Bytes::mib(160) + Bytes::kib(300), Bytes::mib(250)];
    let lab = Lab::new(&sizes, 512)?;
    lab.lvm(&format!(
        "pvcreate $1
         pvcreate --metadatacopies 2 $0
         pvcreate --metadatacopies 0 --bootloaderareasize 1m $2
         vgcreate -s 1m vg $2 $0 $1
         {NEW} -i 3 -I 64k -L 60m -n three vg
         {NEW} -L 30m -n root vg $0
         {NEW} -i 2 -I 16k -L 40m -n two vg $0 $2
         lvextend -L 60m vg/root $1
         lvextend -i 3 -I 64k -L 90m vg/three
         lvextend -i 1 -l +5 vg/two $2
         {NEW} -l 100%FREE -n rest vg $0 $1"
    ))?;
    round_trip(&lab, 512, &[Bytes::ZERO; 3], &[])?;
    let more = [Bytes::gib(1), Bytes::mib(700) + Bytes::new(512), Bytes::gib(2)];
    let growth = [("three", Bytes::mib(300)), ("root", Bytes::gib(2)), ("two", Bytes::mib(64))];
    round_trip(&lab, 512, &more, &growth)?;
    let (group, _) = lab.read()?;
    let grown: Vec<Bytes> =
        group.vg.pvs.iter().zip(&group.members).map(|(pv, key)| pv.dev_size + more[*key]).collect();
    let room = room(&group.vg, &grown)?;
    let three = group.vg.lv("three").context("three")?;
    round_trip(&lab, 512, &more, &[("three", room.for_lv(three))])?;
    round_trip(&lab, 512, &more, &[("rest", room.total())])?;
    Ok(())
}

#[test]
fn loop_disks_of_4096_byte_sectors_with_large_extents() -> Result<()> {
    let lab = Lab::new(&[Bytes::gib(2), Bytes::gib(3)], 4096)?;
    lab.lvm(&format!(
        "pvcreate --metadatacopies 2 $0 $1
         vgcreate -s 32m big $0 $1
         {NEW} -i 2 -I 128k -L 256m -n data big
         {NEW} -L 512m -n home big $1
         lvextend -L 1g big/home $0"
    ))?;
    round_trip(&lab, 4096, &[Bytes::ZERO; 2], &[])?;
    let more = [Bytes::gib(10), Bytes::gib(5) + Bytes::kib(4)];
    round_trip(&lab, 4096, &more, &[("data", Bytes::gib(3)), ("home", Bytes::gib(9))])?;
    Ok(())
}

#[test]
fn loop_many_lvs_and_an_ignored_metadata_area() -> Result<()> {
    let lab = Lab::new(&[Bytes::mib(200), Bytes::mib(100)], 512)?;
    let mut script = "pvcreate $0 $1\nvgcreate -s 1m vg $0 $1\n".to_owned();
    for index in 0..40 {
        script += &format!("{NEW} -l {} -n lv{index} vg\n", 1 + index % 5);
    }
    for index in (0..40).step_by(3) {
        script += &format!("lvextend -l +1 vg/lv{index}\n");
    }
    script += "pvchange --metadataignore y $1\nlvremove -y vg/lv7 vg/lv20";
    lab.lvm(&script)?;
    assert!(lab.heads()?[1].1.metadata_areas[0].ignored);
    round_trip(&lab, 512, &[Bytes::ZERO; 2], &[])?;
    let growth = [("lv0", Bytes::mib(50)), ("lv39", Bytes::mib(500)), ("lv21", Bytes::mib(90))];
    round_trip(&lab, 512, &[Bytes::mib(400), Bytes::mib(300)], &growth)?;
    Ok(())
}

#[test]
fn loop_a_text_that_lvm2_wrapped_around_is_read() -> Result<()> {
    let lab = Lab::new(&[Bytes::mib(64)], 512)?;
    let tags: String = (0..60).map(|tag| format!(" --addtag {tag:060}")).collect();
    lab.lvm(&format!(
        "pvcreate --metadatasize 32k --dataalignment 64k $0
         vgcreate vg $0
         {NEW} -L 8m -n a vg
         vgchange{tags} vg"
    ))?;
    for _ in 0..20 {
        lab.lvm("vgchange --addtag more vg\nvgchange --deltag more --addtag most vg")?;
        let (group, heads) = lab.read()?;
        agree(&lab, &group)?;
        let area = heads[0].1.metadata_areas[0].area;
        // The first slot: where the text begins in the area, and how long it is.
        let slot = Disk::open(&lab.files[0])?.read(area.offset + Bytes::new(40), 16)?;
        let (start, length) = slot.split_at(8);
        let number = |bytes: &[u8]| -> Result<u64> { Ok(u64::from_le_bytes(bytes.try_into()?)) };
        if number(start)? + number(length)? > area.size.get() {
            return Ok(());
        }
        lab.lvm("vgchange --deltag most vg")?;
    }
    anyhow::bail!("no text wrapped around")
}

#[test]
fn loop_incomplete_and_unused_pvs_are_told_apart() -> Result<()> {
    let lab = Lab::new(&[Bytes::mib(64), Bytes::mib(64), Bytes::mib(64)], 512)?;
    lab.lvm(&format!("pvcreate $0 $1 $2\nvgcreate vg $0 $1\n{NEW} -L 8m -n a vg $1"))?;
    let heads = lab.heads()?;
    let assembly = assemble(&heads[1..]);
    assert_eq!((assembly.groups.len(), assembly.orphans), (0, vec![2]));
    let [raw] = assembly.raw.as_slice() else { anyhow::bail!("{:?}", assembly.raw) };
    assert_eq!((raw.vg.as_deref(), raw.keys.as_slice()), (Some("vg"), [1].as_slice()));
    assert_eq!(raw.reason, format!("PV pv0 ({}) of VG vg is missing", heads[0].1.uuid));
    Ok(())
}

fn uuid(kind: char, number: usize) -> String {
    format!("{kind}{number:05}-0000-0000-0000-0000-0000-000000")
}

/// A VG of two PVs and `names` as LVs of one extent (or two, striped) each.
fn seed(names: &[(String, bool)]) -> String {
    let mut text = format!(
        "vg {{\nid = \"{}\"\nseqno = 3\nformat = \"lvm2\"\nstatus = [\"RESIZEABLE\", \"READ\", \"WRITE\"]\n\
         extent_size = 2048\nmax_lv = 0\nmax_pv = 0\nphysical_volumes {{\n",
        uuid('v', 0)
    );
    for pv in 0..2 {
        text += &format!(
            "pv{pv} {{ id = \"{}\" status = [\"ALLOCATABLE\"] flags = [] dev_size = 43008\n\
             pe_start = 2048 pe_count = 20 }}\n",
            uuid('p', pv)
        );
    }
    text += "}\nlogical_volumes {\n";
    for (index, (name, striped)) in names.iter().enumerate() {
        let stripes = if *striped {
            format!(
                "extent_count = 2 stripe_count = 2 stripe_size = 128 stripes = [\"pv0\", {index}, \"pv1\", {index}]"
            )
        } else {
            format!("extent_count = 1 stripe_count = 1 stripes = [\"pv{}\", {index}]", index % 2)
        };
        text += &format!(
            "{name} {{ id = \"{}\" status = [\"READ\", \"WRITE\", \"VISIBLE\"] flags = []\n\
             segment_count = 1 segment1 {{ start_extent = 0 type = \"striped\" {stripes} }} }}\n",
            uuid('l', index)
        );
    }
    text + "}\n}\ncontents = \"Text Format Volume Group\"\nversion = 1\n"
}

/// The header of a PV with these metadata areas, as one would find it in a saved image.
fn saved_head(pv: usize, second: bool) -> Result<PvHead> {
    let area = |offset: u64, size: u64| serde_json::json!({ "offset": offset, "size": size });
    let mut areas = vec![serde_json::json!({ "area": area(4096, 1_044_480), "ignored": false })];
    if second {
        areas.push(serde_json::json!({ "area": area(21 << 20, 1 << 20), "ignored": false }));
    }
    Ok(serde_json::from_value(serde_json::json!({
        "uuid": uuid('p', pv), "device_size": 22 << 20, "data_areas": [area(1 << 20, 0)],
        "metadata_areas": areas, "bootloader_areas": [], "label_sector": 1, "in_use": true,
        "text": null, "vg": null,
    }))?)
}

/// Writes a random VG on plain files and lets `pvck` read every area of it.
fn pvck_reads(names: &[(String, bool)], more: &[u64], growth: &[u64], second: bool) -> Result<()> {
    let mut heads = vec![(0, saved_head(0, second)?), (1, saved_head(1, false)?)];
    heads[1].1.metadata_areas.clear();
    let seed = seed(names);
    let seed = Vg::parse(&seed).map(|_| seed)?;
    heads[0].1.vg = Some(serde_json::from_value(
        serde_json::json!({ "name": "vg", "uuid": uuid('v', 0), "seqno": 3 }),
    )?);
    heads[0].1.text = Some(seed);
    let group = assemble(&heads).groups.pop().context("the PVs form no VG")?;
    let sizes: Vec<Bytes> =
        group.vg.pvs.iter().zip(more).map(|(pv, more)| pv.dev_size + Bytes::kib(*more)).collect();
    let lvs = names.iter().zip(growth).map(|((name, _), more)| (name.clone(), Bytes::mib(*more)));
    let vg = fit(&group.vg, &sizes, &lvs.collect())?;
    let text = vg.text(1_700_000_000)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("pv");
    File::create(&path)?.set_len(sizes[0].get())?;
    write_pv(&path, &vg, 0, &heads[0].1, &text)?;
    let file = path.display().to_string();
    for area in 1..=heads[0].1.metadata_areas.len() {
        let settings = format!("mda_num={area}");
        let dump = Machine.check(
            &Call::new("lvm", ["pvck", "--dump", "metadata", "--settings", &settings, &file])
                .env("LVM_SYSTEM_DIR", folder.path())
                .env("LVM_SUPPRESS_FD_WARNINGS", "1"),
        )?;
        ensure!(dump.text().contains(&text), "{}", dump.talk());
        ensure!(
            !dump.talk().contains("CHECK") && !dump.talk().contains("incorrect"),
            "{}",
            dump.talk()
        );
    }
    let read = label::read(&Disk::open(&path)?)?.context("no label")?;
    ensure!(read.text.as_deref() == Some(&text), "another text was read");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn pvck_reads_every_vg_that_is_written(
        names in prop::collection::btree_map("[a-z][a-zA-Z0-9+_.-]{0,20}", any::<bool>(), 0..8),
        more in prop::collection::vec(40_000..80_000_u64, 2),
        growth in prop::collection::vec(0..6_u64, 8),
        second: bool,
    ) {
        let names: Vec<(String, bool)> = names.into_iter().collect();
        pvck_reads(&names, &more, &growth, second).unwrap();
    }
}
