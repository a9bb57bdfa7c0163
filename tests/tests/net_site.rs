//! Machines that an administrator lets be restored, or not: real processes, each in its own network at one switch.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use image_core::exec::Call;
use image_core::exec::real::{Beside, Machine};
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::Bench;
use keiki_tests::network::{self, Neighbour};
use keiki_tests::site::{Site, are};
use keiki_tests::{filesystem, keiki, run, sparse, volumes};
use serde_json::{Value, json};

/// How long a machine may take; no figure, only the end of a test that hangs.
const PATIENCE: Duration = Duration::from_secs(300);

const SIZE: Bytes = Bytes::mib(24);

/// A repository with an image of one disk, and a server that sends it to machines that somebody lets in.
struct World {
    bench: Bench,
    site: Site,
    machines: Vec<Neighbour>,
}

/// The call that serves.
fn serve(bench: &Bench, options: &[&str]) -> Call {
    let mut call = keiki!("--repo", bench.path("repo"), "--progress", "none", "serve", "--no-boot");
    call.args.extend(["--interface", "br0", "--image", "lab"].map(Into::into));
    call.args.extend(options.iter().map(Into::into));
    call
}

impl World {
    fn new(machines: u8, options: &[&str]) -> Result<Self> {
        let bench = Bench::new()?;
        let (disk, files) = (bench.path("disk"), bench.path("files"));
        fs::create_dir(&files)?;
        let mut bytes = vec![0; 12 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        fs::write(files.join("file"), bytes)?;
        let part = bench.path("part");
        filesystem::ext4(&part, SIZE - Bytes::mib(2), ["lab", &filesystem::uuid()?], &files)?;
        sparse::create(&disk, SIZE)?;
        run!("sgdisk", format!("-n1:2048:+{}K", (SIZE - Bytes::mib(2)).units(Bytes::KIB)), &disk)?;
        sparse::copy(&part, Extent::first(SIZE - Bytes::mib(2)), &disk, Bytes::MIB)?;
        bench.save("lab", std::slice::from_ref(&disk))?;
        let answers =
            "image = \"lab\"\ncountdown = 5\nrepair = false\nthen = \"menu\"\n\n[[disk]]\n";
        fs::write(bench.path("answers.toml"), answers)?;
        network::own()?;
        network::switch()?;
        let machines = (0..machines).map(|number| {
            let machine = Neighbour::plugged(&format!("port{number}"))?;
            machine.address(100 + number)?;
            Ok(machine)
        });
        let machines = machines.collect::<Result<_>>()?;
        let answers = bench.path("answers.toml").display().to_string();
        let rules = if options.contains(&"--unattended") { "" } else { "--answers" };
        let options = [options, &[rules, &answers][usize::from(rules.is_empty())..]].concat();
        let site = Site::start(serve(&bench, &options), bench.path("state"))?;
        Ok(Self { bench, site, machines })
    }

    fn target(&self, number: usize) -> PathBuf {
        self.bench.path(&format!("target-{number}"))
    }

    /// What a machine runs that offers its disk, which knows the site by this key.
    fn agent(&self, number: usize, key: &str) -> Result<Beside> {
        let target = self.target(number);
        if !target.exists() {
            sparse::create(&target, SIZE)?;
        }
        let call = keiki!(
            "--progress",
            "none",
            "agent",
            "http://10.77.0.1",
            "--site-key",
            key,
            "--disk",
            &target
        );
        Ok(Machine.spawn(&self.machines[number].call(&call))?)
    }

    /// The machine that offers the disk with this number.
    fn machine(&self, machines: &[Value], number: usize) -> Result<Value> {
        let path = self.target(number).display().to_string();
        let is_it =
            |one: &&Value| one["disks"][0].as_str().is_some_and(|disk| disk.starts_with(&path));
        Ok(machines.iter().find(is_it).with_context(|| format!("{machines:?}"))?.clone())
    }

    fn is_restored(&self, number: usize) -> Result<bool> {
        let bytes = fs::read(self.target(number))?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(false);
        }
        let [source, target] = [[self.bench.path("disk")], [self.target(number)]];
        volumes::expect_same(&volumes::trees(&source)?, &volumes::trees(&target)?)?;
        Ok(true)
    }
}

/// Ends it as it ends, and says with which code and words.
fn end(agent: Beside) -> Result<(Option<i32>, String)> {
    let ended = agent.finish(PATIENCE)?;
    Ok((ended.code, ended.text() + &ended.talk()))
}

#[test]
fn net_machines_wait_for_a_word_and_are_restored_once() -> Result<()> {
    let world = World::new(3, &[])?;
    let site = &world.site;
    // Of RFC 8032, section 7.1.
    let strange = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let agents = [site.key.as_str(), &site.key, strange];
    let mut agents = (0..)
        .zip(agents)
        .map(|(number, key)| world.agent(number, key))
        .collect::<Result<Vec<_>>>()?;
    let machines = site.until(are(3, "waits"))?;

    // Nothing is told or done without the token.
    for (path, posted) in [("api/machines", None), ("metrics", None), ("api/restore", Some("{}"))] {
        for token in ["", "wrong"] {
            ensure!(site.ask(path, token, posted)?.0 == 401, "{path}");
        }
    }
    let id = |number| {
        Ok::<_, anyhow::Error>(
            world.machine(&machines, number)?["id"].as_str().context("id")?.to_owned(),
        )
    };
    let [first, second, third] = [id(0)?, id(1)?, id(2)?];
    for (path, wish, status) in [
        (format!("api/machines/{first}/restore"), r#"{"hostname": "a b"}"#, 400),
        (format!("api/machines/{first}/restore"), r#"{"image": "none"}"#, 400),
        (format!("api/machines/{first}/restore"), r#"{"other": 1}"#, 400),
        ("api/machines/0123456789abcdef/restore".to_owned(), "", 409),
        (format!("api/machines/{first}/explode"), "", 404),
    ] {
        let (told, said) = site.ask(&path, site.token(), Some(wish))?;
        ensure!(told == status, "{path} {wish}: {told} {said}");
    }
    conforms(site)?;

    // The first is let in; the third as well, but it belongs to another site.
    site.post(&format!("api/machines/{first}/restore"), "{}")?;
    site.post(&format!("api/machines/{third}/restore"), "")?;
    let (code, said) = end(agents.remove(0))?;
    ensure!(code == Some(0) && said.contains("is restored"), "{code:?} {said}");
    let (code, said) = end(agents.remove(1))?;
    ensure!(code == Some(1) && said.contains("not signed by the site"), "{code:?} {said}");
    ensure!(world.is_restored(0)? && !world.is_restored(1)? && !world.is_restored(2)?);
    let told = site.until(|machines| are(1, "done")(machines) && are(1, "failed")(machines))?;
    let why = world.machine(&told, 2)?["limit"].as_str().context("why")?.to_owned();
    ensure!(why.contains("not signed"), "{why}");
    let metrics = site.ask("metrics", site.token(), None)?.1;
    ensure!(metrics.contains("keiki_machines{state=\"done\"} 1"), "{metrics}");
    conforms(site)?;

    // What is used up stays so, also where the server starts again.
    let before = fs::metadata(world.target(0))?.modified()?;
    let (code, said) = end(world.agent(0, &site.key)?)?;
    ensure!(code == Some(0) && said.contains("not restored again"), "{code:?} {said}");
    let answers = world.bench.path("answers.toml").display().to_string();
    let World { bench, site, machines } = world;
    drop(site);
    let site = Site::start(serve(&bench, &["--answers", &answers]), bench.path("state"))?;
    let world = World { bench, site, machines };
    let (code, said) = end(world.agent(0, &world.site.key)?)?;
    ensure!(code == Some(0) && said.contains("not restored again"), "{code:?} {said}");
    ensure!(fs::metadata(world.target(0))?.modified()? == before, "it was written to");

    // The second has waited all the time, and is let in by the server that is there now.
    world.site.until(are(1, "waits"))?;
    world.site.post("api/restore", "{}")?;
    let (code, said) = end(agents.remove(0))?;
    ensure!(code == Some(0) && world.is_restored(1)?, "{code:?} {said}");
    ensure!(second.len() == 16);
    Ok(())
}

/// The answers are as the description says that they are.
fn conforms(site: &Site) -> Result<()> {
    let (status, description) = site.ask("api/openapi.json", "", None)?;
    ensure!(status == 200);
    let description: Value = serde_json::from_str(&description)?;
    let schema =
        json!({"$ref": "#/components/schemas/board", "components": description["components"]});
    let told = serde_json::from_str(&site.ask("api/machines", site.token(), None)?.1)?;
    if let Err(why) = jsonschema::validator_for(&schema)?.validate(&told) {
        anyhow::bail!("{why}: {told}");
    }
    Ok(())
}

/// With `--unattended` nobody is asked; one that is killed in the middle begins again; and one that is stopped does not.
#[test]
fn net_everyone_is_restored_and_one_begins_again() -> Result<()> {
    let world = World::new(2, &["--rate", "20", "--hostname", "lab-%02d", "--unattended"])?;
    let site = &world.site;
    let one = world.agent(0, &site.key)?;
    site.until(are(1, "works"))?;
    std::thread::sleep(Duration::from_secs(6));
    drop(one);
    let again = world.agent(0, &site.key)?;
    let told = site.until(are(1, "works"))?;
    ensure!(told[0]["hostname"] == "lab-01", "{told:?}");
    let (code, said) = end(again)?;
    // There is no system in it that could get a name.
    ensure!(
        code == Some(6) && said.contains("not repaired") && world.is_restored(0)?,
        "{code:?} {said}"
    );
    site.until(are(1, "done"))?;

    let other = world.agent(1, &site.key)?;
    let told = site.until(are(1, "works"))?;
    let id = world.machine(&told, 1)?["id"].as_str().context("id")?.to_owned();
    site.post(&format!("api/machines/{id}/stop"), "")?;
    let (code, said) = end(other)?;
    ensure!(code != Some(0), "{said}");
    let looked = volumes::trees(&[world.target(1)]);
    let is_whole = looked.is_ok_and(|trees| !trees.is_empty());
    ensure!(!is_whole, "a disk that is half restored must not look whole");
    let again = world.agent(1, &site.key)?;
    site.until(|machines| {
        machines.iter().any(|one| one["id"] == id.as_str() && one["state"] == "failed")
    })?;
    drop(again);
    Ok(())
}
