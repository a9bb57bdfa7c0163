//! Tools of filesystems that fail in the middle of a restore: everything else is done, what remains is said, and the
//! exit code is 6. What they spoil is an error, and the next restore mends it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use image_core::exec::Outcome;
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::{self, Bench};
use keiki_tests::contents::{Content, named};
use keiki_tests::loops::Loop;
use keiki_tests::proof::Facts;
use keiki_tests::{judge, run, sparse, table, tool};
use serde_json::{Value, json};

/// By how much the target is larger.
const MORE: Bytes = Bytes::mib(96);

/// The image `disk` of a disk with one filesystem, and a folder of tools that come before those of the machine.
struct Stage {
    bench: Bench,
    facts: Facts,
    target: PathBuf,
}

impl Stage {
    fn new(content: Content) -> Result<Self> {
        let bench = Bench::new()?;
        let [source, target, image] = ["source", "target", "image"].map(|name| bench.path(name));
        sparse::create(&source, content.size + Bytes::mib(5))?;
        run!("sgdisk", format!("--new=0:0:+{}M", content.size.units(Bytes::MIB)), &source)?;
        let part = table::partitions(&source)?[0];
        content.make(&image, part.len(), 1)?;
        sparse::copy(&image, Extent::first(part.len()), &source, part.start)?;
        bench.save("disk", std::slice::from_ref(&source))?;
        let facts = Facts::of(std::slice::from_ref(&source))?;
        sparse::create(&target, Bytes::new(fs::metadata(&source)?.len()) + MORE)?;
        Ok(Self { bench, facts, target })
    }

    /// Restores while the tool `name` is the shell script `script`.
    fn restore(&self, options: &str, name: &str, script: &str) -> Result<Outcome> {
        let tools = self.bench.path(&format!("tools of {name}"));
        fs::create_dir(&tools)?;
        fs::write(tools.join(name), format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(tools.join(name), Permissions::from_mode(0o755))?;
        let path = std::env::var("PATH").unwrap_or_default();
        let line = bench::restore("disk", std::slice::from_ref(&self.target), options);
        tool::outcome(&self.bench.call(&line).env("PATH", format!("{}:{path}", tools.display())))
    }

    fn is_whole(&self) -> Result<()> {
        let targets = std::slice::from_ref(&self.target);
        judge::disks(targets)?;
        self.facts.expect(&Facts::of(targets)?)
    }
}

fn said(outcome: &Outcome, code: i32) -> Result<Value> {
    ensure!(outcome.code == Some(code), "{:?}: {}", outcome.code, outcome.talk());
    Ok(serde_json::from_str(&outcome.text())?)
}

/// The filesystem has the size that it had, its partition the new one; what the program says then grows it.
fn stays_small(
    content: Content,
    tool: &str,
    step: &str,
    by_hand: fn(&Path) -> Result<()>,
) -> Result<()> {
    for script in ["echo no such luck >&2; exit 1", "kill -9 $$"] {
        let stage = Stage::new(content)?;
        let outcome = stage.restore("", tool, script)?;
        let said = said(&outcome, 6)?;
        ensure!(said["grown"][0]["filesystem_grown"] == false, "{said}");
        ensure!(said["steps"] == json!([step]), "{said}");
        ensure!(outcome.talk().contains(tool), "{}", outcome.talk());
        stage.is_whole()?;
        let part = table::partitions(&stage.target)?[0];
        ensure!(part.len() > content.size + Bytes::mib(90), "the partition has {}", part.len());
        let device = Loop::part(&stage.target, part)?;
        by_hand(device.device())?;
        drop(device);
        stage.is_whole()?;
    }
    Ok(())
}

#[test]
fn loop_an_ext4_that_is_not_grown() -> Result<()> {
    let step = "grow d0:1: e2fsck -f DEVICE && resize2fs DEVICE";
    stays_small(named("ext4-4k")?, "resize2fs", step, |device| {
        run!("e2fsck", "-f", "-y", device)?;
        run!("resize2fs", device).map(drop)
    })
}

#[test]
fn loop_an_xfs_that_is_not_grown() -> Result<()> {
    let step = "grow d0:1: mount it, then xfs_growfs MOUNTPOINT";
    stays_small(named("xfs")?, "xfs_growfs", step, |device| {
        let folder = tempfile::tempdir()?;
        run!("mount", "-o", "nouuid", device, folder.path())?;
        let grown = run!("xfs_growfs", folder.path()).map(drop);
        keiki_tests::loops::unmount(folder.path());
        grown
    })
}

/// It says that all is well, and has written over the filesystem.
#[test]
fn loop_a_tool_that_destroys_is_found_out_and_the_next_restore_mends() -> Result<()> {
    let stage = Stage::new(named("ext4-4k")?)?;
    let script = r#"dd if=/dev/zero of="$1" bs=1M count=24 conv=notrunc 2> /dev/null"#;
    let outcome = stage.restore("", "resize2fs", script)?;
    let error = said(&outcome, 1)?;
    ensure!(error["error"]["kind"] == "io", "{error}");
    let kind = judge::signature(&stage.target, "PTTYPE")?;
    ensure!(
        kind.is_empty() || kind == "PMBR",
        "a disk with a {kind} table looks as if it were whole"
    );
    let said = stage.bench.run(&bench::restore("disk", std::slice::from_ref(&stage.target), ""))?;
    ensure!(said["grown"][0]["filesystem_grown"] == true, "{said}");
    stage.is_whole()
}

#[test]
fn loop_an_ext4_that_keeps_its_uuid() -> Result<()> {
    let stage = Stage::new(named("ext4-4k")?)?;
    let outcome = stage.restore("--new-ids --grow none", "tune2fs", "exit 1")?;
    let said = said(&outcome, 6)?;
    let steps = said["steps"].as_array().map_or(&[][..], Vec::as_slice);
    ensure!(steps.iter().any(|step| step.to_string().contains("d0:1")), "{said}");
    judge::disks(std::slice::from_ref(&stage.target))
}
