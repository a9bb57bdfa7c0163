//! `--new-ids` and what starts a system: GRUB's core for BIOS, programs of UEFI, and the steps that remain.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::Bench;
use keiki_tests::filesystem::{self, uuid};
use keiki_tests::loops::Loop;
use keiki_tests::tree::Tree;
use keiki_tests::{call, garbage, grub, judge, run, sparse, table, tool};
use serde_json::Value;

/// What the result says that `old` is now.
fn renewed(said: &Value, old: &str) -> Result<String> {
    let list = said["new_ids"].as_array().context("new_ids")?;
    let found = list.iter().find(|one| one["old"] == old).and_then(|one| one["new"].as_str());
    Ok(found.with_context(|| format!("{old} stays"))?.to_owned())
}

/// A disk that boots by BIOS, with a core of GRUB that looks for the filesystem `boot`, and nothing else.
fn bios(path: &Path, gpt: bool, boot: &str) -> Result<Bytes> {
    sparse::create(path, Bytes::mib(24))?;
    let place = if gpt {
        run!("sgdisk", "-n1:2048:+1M", "-t1:ef02", "-n2:0:0", path)?;
        Bytes::MIB
    } else {
        tool::run(&call!("sfdisk", "--quiet", path).stdin("label: dos\ntype=83\n"))?;
        Bytes::new(512)
    };
    let part = table::partitions(path)?.pop().context("a partition")?;
    let (image, work) = (path.with_extension("image"), path.with_extension("work"));
    fs::create_dir_all(&work)?;
    filesystem::ext4(&image, part.len(), ["", boot], &work)?;
    sparse::copy(&image, Extent::first(part.len()), path, part.start)?;
    Ok(place)
}

/// What GRUB for BIOS looks for is in its compressed core, with and without error correction.
#[test]
fn loop_grub_for_bios_looks_for_the_new_identifier() -> Result<()> {
    let bench = Bench::new()?;
    for (gpt, by_setup) in [(true, true), (true, false), (false, true), (false, false)] {
        let name = format!("{gpt}-{by_setup}");
        let (source, target) = (bench.path(&name), bench.path(&format!("{name}-target")));
        let boot = uuid()?;
        let place = bios(&source, gpt, &boot)?;
        match by_setup {
            true => grub::setup(&source, &boot)?,
            false => grub::install(&source, place, &boot, &source.with_extension("work"))?,
        }
        garbage::fill(&target, Bytes::mib(24))?;
        let clone = format!("clone ./{name} ./{name}-target --confirm {}", target.display());
        let said = bench.run(&format!("{clone} --new-ids"))?;
        ensure!(said["steps"] == serde_json::json!([]), "{said}");
        let new = renewed(&said, &boot)?;
        let [was, is] = [&source, &target].map(|disk| grub::decompressed(disk, place));
        let (was, is) = (was?, is?);
        let old = was.windows(36).position(|word| word == boot.as_bytes()).context("old")?;
        let expected = [&was[..old], new.as_bytes(), &was[old + 36..]].concat();
        ensure!(is == expected, "{name}: the core says something else");
        // The boot code and the first sector of the core stay as they are.
        let sector = |disk: &Path, at: Bytes, length: usize| -> Result<Vec<u8>> {
            let mut bytes = vec![0; length];
            File::open(disk)?.read_exact_at(&mut bytes, at.get())?;
            Ok(bytes)
        };
        for (at, length) in [(Bytes::ZERO, 440), (place, 512)] {
            ensure!(sector(&source, at, length)? == sector(&target, at, length)?, "{at}");
        }
        // Without new identifiers nothing of it changes.
        bench.run(&clone)?;
        let length = 512 << 10;
        ensure!(sector(&source, place, length)? == sector(&target, place, length)?, "{name}");
    }
    Ok(())
}

/// A core that is not understood stays, and the step that remains is named.
#[test]
fn loop_a_core_that_is_not_understood_is_a_step_that_remains() -> Result<()> {
    let bench = Bench::new()?;
    let (source, target, boot) = (bench.path("source"), bench.path("target"), uuid()?);
    let place = bios(&source, true, &boot)?;
    grub::setup(&source, &boot)?;
    File::options().write(true).open(&source)?.write_all_at(&[9; 900], place.get() + 20_000)?;
    garbage::fill(&target, Bytes::mib(24))?;
    let clone = format!("clone ./source ./target --confirm {} --new-ids", target.display());
    let outcome = bench.outcome(&clone)?;
    ensure!(outcome.code == Some(6), "{:?} {}", outcome.code, outcome.talk());
    let said: Value = serde_json::from_str(&outcome.text())?;
    let steps = said["steps"].as_array().context("steps")?;
    ensure!(steps.len() == 1 && steps[0].as_str().is_some_and(|s| s.contains("grub-install DISK")));
    judge::disks(std::slice::from_ref(&target))
}

/// A GPT with an EFI system partition of `files` and an ext4 of `system`; and an NTFS.
fn uefi(path: &Path, files: &[(&str, &Path)], system: &Path, boot: &str) -> Result<()> {
    sparse::create(path, Bytes::mib(80))?;
    run!("sgdisk", "-n1:2048:+40M", "-t1:ef00", "-n2:0:+16M", "-n3:0:+16M", path)?;
    let parts = table::partitions(path)?;
    let image = path.with_extension("image");
    filesystem::fat32(&image, parts[0].len(), ["ESP", "1A2B3C4D"], files)?;
    sparse::copy(&image, Extent::first(parts[0].len()), path, parts[0].start)?;
    filesystem::ext4(&image, parts[1].len(), ["", boot], system)?;
    sparse::copy(&image, Extent::first(parts[1].len()), path, parts[1].start)?;
    let device = Loop::part(path, parts[2])?;
    run!("mkfs.ntfs", "-q", "-F", device.device())?;
    Ok(())
}

fn esp(disk: &Path) -> Result<(tempfile::TempDir, Vec<String>)> {
    let out = tempfile::tempdir()?;
    filesystem::read_fat(disk, table::partitions(disk)?[0], out.path())?;
    let files = Tree::of(out.path())?;
    let names =
        files.changed(&Tree::default()).into_iter().filter(|path| out.path().join(path).is_file());
    let names = names.map(|path| path.display().to_string()).collect();
    Ok((out, names))
}

/// The only system of a disk whose firmware entry stays behind: GRUB in one file, which names `/boot`.
#[test]
fn loop_the_only_boot_loader_starts_without_an_entry() -> Result<()> {
    let bench = Bench::new()?;
    let (source, target, work) = (bench.path("source"), bench.path("target"), bench.path("work"));
    let boot = uuid()?;
    fs::create_dir(&work)?;
    let grub = grub::efi(&boot, &work)?;
    fs::create_dir(bench.path("system"))?;
    uefi(&source, &[("EFI/arch/grubx64.efi", &grub)], &bench.path("system"), &boot)?;
    garbage::fill(&target, Bytes::mib(80))?;
    let clone = format!("clone ./source ./target --confirm {} --new-ids", target.display());
    let outcome = bench.outcome(&clone)?;
    let said: Value = serde_json::from_str(&outcome.text())?;
    // But for the NTFS.
    ensure!(said["steps"].as_array().is_some_and(|steps| steps.len() == 1), "{said}");
    judge::disks(std::slice::from_ref(&target))?;
    let new = renewed(&said, &boot)?;
    let (files, names) = esp(&target)?;
    ensure!(names == ["EFI/BOOT/BOOTX64.EFI", "EFI/arch/grubx64.efi"], "{names:?}");
    let old = fs::read(grub)?;
    let at = old.windows(36).position(|word| word == boot.as_bytes()).context("boot")?;
    let expected = [&old[..at], new.as_bytes(), &old[at + 36..]].concat();
    for name in names {
        ensure!(fs::read(files.path().join(&name))? == expected, "{name}");
    }
    Ok(())
}

/// Everything that is left to the user, each with a command or a place.
#[test]
fn loop_what_cannot_be_changed_is_a_step_that_remains() -> Result<()> {
    let bench = Bench::new()?;
    let (source, target) = (bench.path("source"), bench.path("target"));
    let boot = uuid()?;
    let signed = "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed";
    let program = [fs::read(signed)?, boot.clone().into_bytes()].concat();
    let (loader, bcd) = (bench.path("loader"), bench.path("bcd"));
    fs::write(&loader, program)?;
    fs::write(&bcd, "x")?;
    let system = bench.path("system");
    fs::create_dir_all(system.join("etc"))?;
    fs::write(system.join("etc/fstab"), "/dev/sda1 /x ext4\n")?;
    let files = [
        ("EFI/a/grubx64.efi", loader.as_path()),
        ("EFI/b/grubx64.efi", loader.as_path()),
        ("EFI/Microsoft/Boot/BCD", bcd.as_path()),
        ("EFI/Linux/kernel.efi", bcd.as_path()),
    ];
    uefi(&source, &files, &system, &boot)?;
    garbage::fill(&target, Bytes::mib(80))?;
    let clone = format!("clone ./source ./target --confirm {} --new-ids", target.display());
    let outcome = bench.outcome(&clone)?;
    ensure!(outcome.code == Some(6), "{:?} {}", outcome.code, outcome.talk());
    let said: Value = serde_json::from_str(&outcome.text())?;
    let steps = said["steps"].as_array().context("steps")?;
    let words = [
        "/dev/sda1 in etc/fstab",
        "ntfslabel --new-serial",
        "efibootmgr --create",
        "kernel-install",
        "grub-install",
        "bcdboot",
    ];
    for word in words {
        let count = steps.iter().filter(|step| step.as_str().is_some_and(|s| s.contains(word)));
        ensure!(count.count() == 1, "{word}: {steps:#?}");
    }
    ensure!(steps.len() == words.len(), "{steps:#?}");
    let (files, _) = esp(&target)?;
    ensure!(fs::read(files.path().join("EFI/a/grubx64.efi"))? == fs::read(&loader)?);
    Ok(())
}
