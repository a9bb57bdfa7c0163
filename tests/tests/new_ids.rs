//! `--new-ids`: nothing on the target has an identifier of the source, and everything there that named one names
//! the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::Bench;
use keiki_tests::filesystem::{self, uuid};
use keiki_tests::garbage::{self, Old};
use keiki_tests::loops::{Loop, Mount};
use keiki_tests::tree::Tree;
use keiki_tests::vg::Vg;
use keiki_tests::volumes::{self, Volume, Volumes};
use keiki_tests::{call, judge, pulled, run, sparse, table, tool};
use serde_json::Value;

/// The identifiers of a source, by what they are of.
type Ids = BTreeMap<&'static str, String>;

fn hash(path: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize())
}

fn lvm(vg: &Vg, command: &str, column: &str) -> Result<Vec<String>> {
    let args = ["--noheadings", "-o", column].map(str::to_owned).to_vec();
    Ok(vg.lvm(command, args)?.split_whitespace().map(str::to_owned).collect())
}

/// Files that name identifiers in every way that is understood, `{word}` for each.
const ROOT: [(&str, &str); 9] = [
    (
        "etc/fstab",
        "UUID={root} / ext4 defaults 0 1\nUUID={boot} /boot ext4\nUUID={esp} /boot/efi vfat\n\
                   /dev/mapper/vg--a-data /srv xfs\nUUID=\"{swap}\" none swap\nLABEL=other /o ext4\n\
                   AS-LABEL /srv2 xfs\n",
    ),
    ("etc/crypttab", "secret PARTUUID={part} none\n"),
    ("etc/default/grub", "GRUB_CMDLINE_LINUX=\"resume=/dev/vg-a/swap rd.lvm.lv=vg-a/root\"\n"),
    ("etc/kernel/cmdline", "root=/dev/mapper/vg--a-root ro\n"),
    ("etc/initramfs-tools/conf.d/resume", "RESUME=UUID={swap}\n"),
    ("etc/systemd/system/srv.mount", "What=/dev/disk/by-uuid/{data}\n"),
    ("etc/lvm/devices/system.devices", "IDTYPE=sys_wwid IDNAME=naa.5 PVID={pv}\n"),
    ("etc/lvm/lvm.conf", "# [ \"vg-a\" ]\nactivation { volume_list = [ \"VG\" ] }\n"),
    ("etc/hostname", "vg-a\n"),
];
const BOOT: [(&str, &str); 3] = [
    (
        "grub/grub.cfg",
        "search --fs-uuid --set=root {boot}\nset root='lvmid/{vg}/{lv}'\n\
                       linux /v root=/dev/mapper/vg--a-root rd.lvm.lv=vg-a/root\n",
    ),
    ("loader/entries/one.conf", "options root=UUID={root} ro\n"),
    ("vmlinuz", "a kernel that says {root}\n"),
];
const ESP: (&str, &str) = ("EFI/debian/grub.cfg", "search.fs_uuid {boot} root\n");

fn filled_in(text: &str, ids: &Ids) -> String {
    ids.iter().fold(text.to_owned(), |text, (word, id)| text.replace(&format!("{{{word}}}"), id))
}

fn write_all(folder: &Path, files: &[(&str, &str)], ids: &Ids) -> Result<()> {
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().context("a folder")?)?;
        // What is something else on the source than a name that stays or an identifier.
        let text = text.replace("AS-LABEL", "LABEL=data").replace("\"VG\"", "\"vg-a\"");
        fs::write(path, filled_in(&text, ids))?;
    }
    Ok(())
}

/// A disk of a system that does not boot, with the volume group `vg-a`.
fn system(path: &Path, bench: &Bench) -> Result<Ids> {
    sparse::create(path, Bytes::mib(600))?;
    run!("sgdisk", "-n1:2048:+40M", "-t1:ef00", "-n2:0:+32M", "-n3:0:0", "-t3:8e00", path)?;
    let parts = table::partitions(path)?;
    let vg = Vg::create("vg-a", &[(path.to_owned(), parts[2])])?;
    for (lv, mib) in [("root", 64), ("data", 320), ("swap", 16)] {
        vg.add(lv, Bytes::mib(mib), None)?;
    }
    let mut ids = Ids::new();
    for word in ["root", "boot", "data", "swap"] {
        ids.insert(word, uuid()?);
    }
    ids.insert("esp", "1A2B-3C4D".to_owned());
    ids.insert("vg", lvm(&vg, "vgs", "vg_uuid")?.concat());
    ids.insert("pv", lvm(&vg, "pvs", "pv_uuid")?.concat().replace('-', ""));
    ids.insert("lv", lvm(&vg, "lvs", "lv_uuid")?[0].clone());
    let device = table::Disk::open(path)?;
    let part = tool::run(&call!("sfdisk", "--part-uuid", device.path(), "3"))?;
    ids.insert("part", part.trim().to_owned());

    let (image, work) = (bench.path("image"), bench.path("work"));
    fs::create_dir(&work)?;
    write_all(&work, &ROOT, &ids)?;
    filesystem::ext4(&image, Bytes::mib(64), ["root", &ids["root"]], &work)?;
    // As if it had been mounted there.
    run!("tune2fs", "-M", "/", &image)?;
    vg.put("root", &image)?;
    filesystem::xfs(&image, Bytes::mib(320), ["data", &ids["data"]])?;
    filesystem::filled(&image, |folder| Ok(fs::write(folder.join("x"), "x".repeat(99_999))?))?;
    vg.put("data", &image)?;
    filesystem::swap(&image, Bytes::mib(16), ["swap", &ids["swap"]])?;
    vg.put("swap", &image)?;
    drop(vg);
    fs::remove_dir_all(&work)?;
    write_all(&work, &BOOT, &ids)?;
    filesystem::ext4(&image, parts[1].len(), ["boot", &ids["boot"]], &work)?;
    sparse::copy(&image, Extent::first(parts[1].len()), path, parts[1].start)?;
    fs::write(work.join("cfg"), filled_in(ESP.1, &ids))?;
    fs::write(work.join("program"), "a loader")?;
    let files = [("EFI/BOOT/BOOTX64.EFI", work.join("program")), (ESP.0, work.join("cfg"))];
    let files: Vec<(&str, &Path)> =
        files.iter().map(|(name, file)| (*name, file.as_path())).collect();
    filesystem::fat32(&image, parts[0].len(), ["ESP", "1A2B3C4D"], &files)?;
    sparse::copy(&image, Extent::first(parts[0].len()), path, parts[0].start)?;
    Ok(ids)
}

/// Everything that blkid, sfdisk and LVM call an identifier on a disk.
fn identifiers(disk: &Path) -> Result<BTreeSet<String>> {
    let volumes = Volumes::of(&[disk.to_owned()])?;
    let mut all = BTreeSet::new();
    let mut add = |id: &str| all.insert(id.to_owned());
    let opened = table::Disk::open(disk)?;
    add(&table::read(disk)?.id);
    for number in 1..=3 {
        let part = tool::run(&call!("sfdisk", "--part-uuid", opened.path(), number.to_string()))?;
        add(part.trim());
    }
    for Volume { file, extent, .. } in &volumes.all {
        let device = Loop::part(file, *extent)?;
        add(&judge::signature(device.device(), "UUID")?);
    }
    let vg = volumes.vg.context("a group")?;
    add(vg.name());
    for (command, column) in [("vgs", "vg_uuid"), ("pvs", "pv_uuid"), ("lvs", "lv_uuid")] {
        for id in lvm(&vg, command, column)? {
            add(&id);
        }
    }
    all.remove("");
    Ok(all)
}

/// The text of a file on a volume of `disk`.
fn text(disk: &Path, id: &str, name: &str) -> Result<String> {
    let volumes = Volumes::of(&[disk.to_owned()])?;
    let volume = volumes.all.iter().find(|volume| volume.id == id).context("the volume")?;
    if volume.content == "vfat" {
        let out = tempfile::tempdir()?;
        filesystem::read_fat(&volume.file, volume.extent, out.path())?;
        return Ok(fs::read_to_string(out.path().join(name))?);
    }
    let mount = Mount::new(&volume.file, volume.extent, "ro,noload")?;
    Ok(fs::read_to_string(mount.folder().join(name))?)
}

/// The ids as the result says they are now.
fn renewed(ids: &Ids, said: &Value) -> Result<Ids> {
    let list = said["new_ids"].as_array().context("new_ids")?;
    let mut new = Ids::new();
    for (word, id) in ids {
        let same = |one: &&Value| {
            let old = one["old"].as_str().unwrap_or_default();
            old.eq_ignore_ascii_case(id) || *word == "pv" && old.replace('-', "") == *id
        };
        let found = list.iter().find(same).with_context(|| format!("{word} {id} stays"))?;
        let found = found["new"].as_str().context("new")?.to_owned();
        new.insert(word, if *word == "pv" { found.replace('-', "") } else { found });
    }
    Ok(new)
}

/// What changed on `target` is what names identifiers, and it names the new ones.
fn check(source: &Path, target: &Path, ids: &Ids, said: &Value, name: &str) -> Result<()> {
    judge::disks(&[target.to_owned()])?;
    let [was, is] = [source, target].map(identifiers);
    let (was, is) = (was?, is?);
    ensure!(was.len() == is.len() && was.len() == 15, "{was:#?}\n{is:#?}");
    ensure!(was.is_disjoint(&is), "both have {:?}", was.intersection(&is).collect::<Vec<_>>());
    let new = renewed(ids, said)?;
    let doubled = name.replace('-', "--");
    let expected = |text: &str| {
        let text = text.replace("vg--a-", &format!("{doubled}-"));
        let text =
            text.replace("AS-LABEL", "UUID={data}").replace("\"VG\"", &format!("\"{name}\""));
        filled_in(&text.replace("vg-a/", &format!("{name}/")), &new)
    };
    let root = format!("{name}/root");
    for (volume, file, wanted) in ROOT
        .iter()
        .map(|(file, wanted)| (root.as_str(), file, wanted))
        .chain(BOOT.iter().map(|(file, wanted)| ("d0:2", file, wanted)))
        .chain([("d0:1", &ESP.0, &ESP.1)])
    {
        let wanted = match *file {
            "vmlinuz" => filled_in(wanted, ids),
            "etc/hostname" => (*wanted).to_owned(),
            // It is put aside as it was: an empty one would hide every device from LVM.
            "etc/lvm/devices/system.devices" => {
                let old = text(target, volume, &format!("{file}.old"))?;
                ensure!(old == filled_in(wanted, ids), "{old}");
                ensure!(text(target, volume, file).is_err(), "LVM would go by {file}");
                continue;
            }
            _ => expected(wanted),
        };
        let found = text(target, volume, file)?;
        ensure!(found == wanted, "{volume}:{file}:\n{found}\nnot\n{wanted}");
    }
    let [before, after] = [source, target].map(|disk| volumes::trees(&[disk.to_owned()]));
    let (before, after) = (before?, after?);
    for (id, count) in [("d0:1", 1), ("d0:2", 2), ("vg-a/root", 9), ("vg-a/data", 0)] {
        let found: &Tree =
            after.get(&id.replace("vg-a/", &format!("{name}/"))).context("a tree")?;
        let changed = before[id].changed(found);
        ensure!(changed.len() == count, "{id}: {changed:?}");
    }
    // The filesystem that was `/` still says so.
    let volumes = Volumes::of(&[target.to_owned()])?;
    let lv = volumes.all.iter().find(|volume| volume.id == root).context("root")?;
    let talk = run!("dumpe2fs", "-h", &lv.file)?;
    ensure!(talk.contains("Last mounted on:          /\n"), "{talk}");
    Ok(())
}

#[test]
fn loop_a_clone_with_new_identifiers_stands_beside_its_source() -> Result<()> {
    let bench = Bench::new()?;
    let (source, target) = (bench.path("source"), bench.path("target"));
    let ids = system(&source, &bench)?;
    let before = hash(&source)?;
    garbage::fill(&target, Bytes::mib(700))?;
    garbage::plant(&target, &Old::ALL)?;
    let (from, to) = (Loop::whole(&source)?, Loop::whole(&target)?);
    let [a, b] = [&from, &to].map(|device| device.device().display());
    let command = format!("clone {a} {b} --confirm {b} --new-ids");
    let outcome = bench.outcome(&command)?;
    // The initramfs may have the old UUID of the swap area: that is a step which remains.
    ensure!(outcome.code == Some(6), "{:?} {}", outcome.code, outcome.talk());
    ensure!(!outcome.talk().contains("carries"), "{}", outcome.talk());
    let said: Value = serde_json::from_str(&outcome.text())?;
    let steps = said["steps"].as_array().context("steps")?;
    let rebuild =
        steps.len() == 1 && steps[0].as_str().is_some_and(|s| s.contains("update-initramfs"));
    ensure!(rebuild, "{steps:?}");
    ensure!(hash(&source)? == before, "the source was written");
    drop((from, to));
    check(&source, &target, &ids, &said, "vg-a-2")
}

#[test]
fn loop_a_restore_with_new_identifiers_and_a_name() -> Result<()> {
    let bench = Bench::new()?;
    let (source, target) = (bench.path("source"), bench.path("target"));
    let ids = system(&source, &bench)?;
    bench.save("system", std::slice::from_ref(&source))?;
    garbage::fill(&target, Bytes::mib(600))?;
    let command = format!("restore system ./target --confirm {} --new-ids", target.display());
    let why = bench.fails(&format!("{command} --vg-name a/b"), 3)?;
    ensure!(why.contains("a/b"), "{why}");
    let outcome = bench.outcome(&format!("{command} --vg-name other"))?;
    ensure!(outcome.code == Some(6), "{:?} {}", outcome.code, outcome.talk());
    let said = serde_json::from_str(&outcome.text())?;
    check(&source, &target, &ids, &said, "other")
}

/// An MBR with logical partitions: the signature, and with it every PARTUUID.
#[test]
fn loop_an_mbr_gets_another_signature() -> Result<()> {
    let bench = Bench::new()?;
    let (source, target): (PathBuf, PathBuf) = (bench.path("source"), bench.path("target"));
    sparse::create(&source, Bytes::mib(64))?;
    let script = "label: dos\nlabel-id: 0xc0ffee42\nsize=20M,type=83\ntype=5\nsize=8M,type=83\n";
    tool::run(&call!("sfdisk", "--quiet", &source).stdin(script))?;
    let (image, work) = (bench.path("image"), bench.path("work"));
    let parts = table::partitions(&source)?;
    write_all(&work, &[("etc/fstab", "PARTUUID=c0ffee42-05 /x ext4\n")], &Ids::new())?;
    filesystem::ext4(&image, parts[0].len(), ["", &uuid()?], &work)?;
    sparse::copy(&image, Extent::first(parts[0].len()), &source, parts[0].start)?;
    garbage::fill(&target, Bytes::mib(64))?;
    let said =
        bench.run(&format!("clone ./source ./target --confirm {} --new-ids", target.display()))?;
    judge::disks(std::slice::from_ref(&target))?;
    let new = table::read(&target)?.id;
    ensure!(!new.contains("c0ffee42"), "{said}");
    let fstab = text(&target, "d0:1", "etc/fstab")?;
    let signature = new.split(['"', 'x']).find(|part| part.len() == 8).context("a signature")?;
    let expected = format!("PARTUUID={signature}-05 /x ext4\n");
    ensure!(fstab == expected, "{fstab} {new}");
    Ok(())
}

/// Two members of one RAID would be taken for the same one.
#[test]
fn loop_a_member_of_a_raid_is_refused() -> Result<()> {
    let bench = Bench::new()?;
    let (source, target) = (bench.path("source"), bench.path("target"));
    sparse::create(&source, Bytes::mib(16))?;
    garbage::plant(&source, &[Old::Md12])?;
    garbage::fill(&target, Bytes::mib(16))?;
    let before = hash(&target)?;
    let clone = format!("clone ./source ./target --confirm {} --new-ids", target.display());
    let why = bench.fails(&clone, 3)?;
    ensure!(why.contains("belongs to a RAID"), "{why}");
    ensure!(hash(&target)? == before, "it was written");
    Ok(())
}

/// The log of an XFS that was not unmounted is replayed where it is mounted for its files.
#[test]
fn loop_an_xfs_that_was_not_unmounted_gets_a_new_identifier() -> Result<()> {
    let bench = Bench::new()?;
    let (source, target, id) = (bench.path("source"), bench.path("target"), uuid()?);
    filesystem::xfs(&source, Bytes::mib(320), ["", &id])?;
    pulled::pull(&source, "rw", |folder| {
        fs::create_dir(folder.join("etc"))?;
        let mut fstab = File::create(folder.join("etc/fstab"))?;
        fstab.write_all(format!("UUID={id} / xfs\n").as_bytes())?;
        Ok(fstab.sync_all()?)
    })?;
    garbage::fill(&target, Bytes::mib(320))?;
    let said =
        bench.run(&format!("clone ./source ./target --confirm {} --new-ids", target.display()))?;
    judge::disks(std::slice::from_ref(&target))?;
    let new = renewed(&[("root", id)].into(), &said)?;
    ensure!(judge::signature(&target, "UUID")? == new["root"]);
    let mount = Mount::new(&target, Extent::first(Bytes::mib(320)), "ro")?;
    let fstab = fs::read_to_string(mount.folder().join("etc/fstab"))?;
    ensure!(fstab == format!("UUID={} / xfs\n", new["root"]), "{fstab}");
    Ok(())
}
