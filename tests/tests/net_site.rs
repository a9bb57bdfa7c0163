//! Machines that an administrator lets be restored, or not: real processes, each in its own network at one switch.

#![allow(clippy::print_stdout, reason = "a test says what machines said")]

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use keiki_tests::bench::Bench;
use keiki_tests::network::HERE;
use keiki_tests::site::{self, Site, World, are};
use keiki_tests::{run, volumes};
use serde_json::Value;

#[test]
fn net_machines_wait_for_a_word_and_are_restored_once() -> Result<()> {
    let world = World::new(3, &[])?;
    let server = &world.site;
    // Of RFC 8032, section 7.1.
    let strange = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let agents = [server.key.as_str(), &server.key, strange];
    let mut agents = (0..)
        .zip(agents)
        .map(|(number, key)| world.agent(number, key))
        .collect::<Result<Vec<_>>>()?;
    let machines = server.until(are(3, "waits"))?;

    // A state that would be served is refused.
    let inside = world.bench.path("repo/state");
    let said = Site::start(site::serve(&world.bench, &[]), inside.clone()).err();
    let said = said.context("it was served")?.to_string();
    ensure!(said.contains("--state") && !inside.exists(), "{said}");
    // What no machine says is not believed.
    for nonsense in [
        "",
        "{}",
        r#"{"machine": {"macs": [], "memory": 1, "disks": []}, "nonce": "\u001b[2J", "doing": {"what": "waits"}}"#,
    ] {
        ensure!(server.ask("agent", "", Some(nonsense))?.0 == 400, "{nonsense}");
    }

    // Nothing is told or done without the token.
    for (path, posted) in [("api/machines", None), ("metrics", None), ("api/restore", Some("{}"))] {
        for token in ["", "wrong"] {
            ensure!(server.ask(path, token, posted)?.0 == 401, "{path}");
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
        ("api/machines/0123456789abcdef/restore".to_owned(), "", 404),
        (format!("api/machines/{first}/explode"), "", 404),
    ] {
        let (told, said) = server.ask(&path, server.token(), Some(wish))?;
        ensure!(told == status, "{path} {wish}: {told} {said}");
    }
    server.conforms()?;

    // The first is let in; the third as well, but it belongs to another site.
    server.post(&format!("api/machines/{first}/restore"), "{}")?;
    let named = r#"{"hostname": "pc-3"}"#;
    server.post(&format!("api/machines/{third}/restore"), named)?;
    let (told, said) =
        server.ask(&format!("api/machines/{second}/restore"), server.token(), Some(named))?;
    ensure!(told == 400 && said.contains("has the name pc-3"), "{told} {said}");
    let (code, said) = site::end(agents.remove(0))?;
    ensure!(code == Some(0) && said.contains("is restored"), "{code:?} {said}");
    let (code, said) = site::end(agents.remove(1))?;
    ensure!(code == Some(1) && said.contains("not signed by the site"), "{code:?} {said}");
    ensure!(world.is_restored(0)? && !world.is_restored(1)? && !world.is_restored(2)?);
    let told = server.until(|machines| are(1, "done")(machines) && are(1, "failed")(machines))?;
    let why = world.machine(&told, 2)?["limit"].as_str().context("why")?.to_owned();
    ensure!(why.contains("not signed"), "{why}");
    let metrics = server.ask("metrics", server.token(), None)?.1;
    ensure!(metrics.contains("keiki_machines{state=\"done\"} 1"), "{metrics}");
    server.conforms()?;

    // What is used up stays so, also where the server starts again.
    let before = fs::metadata(world.target(0))?.modified()?;
    let (code, said) = site::end(world.agent(0, &server.key)?)?;
    ensure!(code == Some(0) && said.contains("not restored again"), "{code:?} {said}");
    let answers = world.bench.path("answers.toml").display().to_string();
    let world = world.again(&["--answers", &answers])?;
    let (code, said) = site::end(world.agent(0, &world.site.key)?)?;
    ensure!(code == Some(0) && said.contains("not restored again"), "{code:?} {said}");
    ensure!(fs::metadata(world.target(0))?.modified()? == before, "it was written to");

    // The second has waited all the time, and is let in by the server that is there now.
    let is_here = |one: &Value| one["state"] == "waits" && one["address"].is_string();
    world.site.until(|machines| machines.iter().any(is_here))?;
    world.site.post("api/restore", "{}")?;
    let (code, said) = site::end(agents.remove(0))?;
    ensure!(code == Some(0) && world.is_restored(1)?, "{code:?} {said}");
    ensure!(second.len() == 16);
    // The third failed before: that is told again.
    let (_, said) = world.site.interrupt()?;
    ensure!(said.contains("FAILED: ") && said.contains("not signed"), "{said}");
    Ok(())
}

/// The server ends in the middle of an order and comes again after a while, as where a service manager begins it.
#[test]
fn net_an_order_outlives_its_server() -> Result<()> {
    let gone = |_: &Bench| {
        std::thread::sleep(Duration::from_secs(12));
        Ok(())
    };
    outlives(|_| Ok(()), gone)
}

/// Its computer dies, and another one with copies of what it had takes its address: nobody says a word while none is there.
#[test]
fn net_another_computer_takes_the_place_of_a_dead_one() -> Result<()> {
    let address = format!("{HERE}/24");
    let dies = |bench: &Bench| {
        for name in ["repo", "state"] {
            run!("cp", "-a", bench.path(name), bench.path(&format!("copy-{name}")))?;
        }
        run!("ip", "addr", "del", &address, "dev", "br0")?;
        Ok(())
    };
    let comes = |bench: &Bench| {
        std::thread::sleep(Duration::from_secs(12));
        for name in ["repo", "state"] {
            fs::rename(bench.path(name), bench.path(&format!("dead-{name}")))?;
            fs::rename(bench.path(&format!("copy-{name}")), bench.path(name))?;
        }
        run!("ip", "link", "set", "br0", "address", "02:00:00:00:00:99")?;
        run!("ip", "addr", "add", &address, "brd", "+", "dev", "br0")?;
        Ok(())
    };
    outlives(dies, comes)
}

/// Whether machines in the middle of an order wait for their server and join again, and the order is carried out once.
fn outlives(
    dies: impl FnOnce(&Bench) -> Result<()>,
    comes: impl FnOnce(&Bench) -> Result<()>,
) -> Result<()> {
    let world = World::new(2, &["--rate", "15"])?;
    let key = world.site.key.clone();
    let agents = [world.agent(0, &key)?, world.agent(1, &key)?];
    world.site.until(are(2, "waits"))?;
    world.site.post("api/restore", "{}")?;
    let has = |row: &Value| row["blocks"].as_u64() > Some(3);
    world.site.until(|rows| rows.iter().filter(|row| has(row)).count() == 2)?;
    let answers = world.bench.path("answers.toml").display().to_string();
    dies(&world.bench)?;
    let world = world.again_after(&["--rate", "15", "--answers", &answers], comes)?;
    for (number, agent) in agents.into_iter().enumerate() {
        let (code, said) = site::end(agent)?;
        println!("{said}");
        ensure!(code == Some(0) && said.contains("joined again"), "{number}: {code:?} {said}");
        ensure!(!said.contains("fetched") && world.is_restored(number)?, "{number}: {said}");
    }
    world.site.until(are(2, "done"))?;
    Ok(())
}

/// With `--unattended` nobody is asked; one that is killed in the middle begins again; and one that is stopped does not.
#[test]
fn net_everyone_is_restored_and_one_begins_again() -> Result<()> {
    let world = World::new(2, &["--rate", "20", "--hostname", "lab-%02d", "--unattended"])?;
    let server = &world.site;
    let one = world.agent(0, &server.key)?;
    server.until(are(1, "works"))?;
    std::thread::sleep(Duration::from_secs(6));
    drop(one);
    let again = world.agent(0, &server.key)?;
    let told = server.until(are(1, "works"))?;
    ensure!(told[0]["hostname"] == "lab-01", "{told:?}");
    let (code, said) = site::end(again)?;
    // There is no system in it that could get a name.
    ensure!(
        code == Some(6) && said.contains("not repaired") && world.is_restored(0)?,
        "{code:?} {said}"
    );
    let told = server.until(are(1, "done"))?;
    let why = "by hand: not repaired: there is no Linux system on the targets";
    ensure!(told[0]["limit"] == why, "{told:?}");

    let other = world.agent(1, &server.key)?;
    let told = server.until(are(1, "works"))?;
    let id = world.machine(&told, 1)?["id"].as_str().context("id")?.to_owned();
    server.post(&format!("api/machines/{id}/stop"), "")?;
    let (code, said) = site::end(other)?;
    ensure!(code != Some(0), "{said}");
    let looked = volumes::trees(&[world.target(1)]);
    let is_whole = looked.is_ok_and(|trees| !trees.is_empty());
    ensure!(!is_whole, "a disk that is half restored must not look whole");
    let again = world.agent(1, &server.key)?;
    server.until(|machines| {
        let held = |one: &Value| one["limit"].as_str().is_some_and(|why| why.contains("stopped"));
        machines.iter().any(|one| one["id"] == id.as_str() && one["state"] == "waits" && held(one))
    })?;
    drop(again);
    Ok(())
}
