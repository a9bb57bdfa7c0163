//! Several images at once from one `keiki serve`: real processes, each in its own network at one switch.

#![allow(clippy::print_stdout, reason = "a test says what was sent")]

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use image_core::exec::real::{Beside, Machine};
use image_core::repo::{Local, Repository};
use image_core::report::Quiet;
use image_core::units::Bytes;
use keiki_tests::bench::{self, Bench};
use keiki_tests::network::{self, Neighbour};
use keiki_tests::room::insider::Session;
use keiki_tests::room::{Client, REPO, Room, sent};
use keiki_tests::site::{self, World, are, make_disk};
use keiki_tests::{call, keiki, sparse, volumes};
use netboot::files::{Answers, Question};
use netboot::multicast::pace::Pace;
use netboot::room::rooms::{IDLE, MOST, Rooms};
use serde_json::{Value, json};

/// How long something may take; no figure, only the end of a test that hangs.
const PATIENCE: Duration = Duration::from_secs(120);

fn disk(bench: &Bench, name: &str) -> PathBuf {
    bench.path(&format!("disk-{name}"))
}

/// Saves a disk as the image `name`: its id, and the bytes that were stored.
fn save(bench: &Bench, name: &str) -> Result<(String, u64)> {
    let disk = disk(bench, name);
    make_disk(bench, &disk, name)?;
    let saved = bench.save(name, &[disk])?;
    let id = saved["id"].as_str().context("id")?.to_owned();
    Ok((id, saved["stored_bytes"].as_u64().context("stored_bytes")?))
}

/// Whether a machine has the files of that image.
fn has(world: &World, number: usize, image: &str) -> Result<()> {
    let [source, target] = [[disk(&world.bench, image)], [world.target(number)]];
    volumes::expect_same(&volumes::trees(&source)?, &volumes::trees(&target)?)
}

/// Begins to restore an image by hand.
fn restore(world: &World, number: usize, image: &str) -> Result<Beside> {
    restore_from(REPO, world, number, image)
}

/// The same from another server.
fn restore_from(repo: &str, world: &World, number: usize, image: &str) -> Result<Beside> {
    let target = world.target(number);
    if !target.exists() {
        sparse::create(&target, site::SIZE)?;
    }
    let mut call = keiki!("--progress", "none", "--repo", repo);
    let words = bench::restore(image, &[target], "");
    call.args.extend(words.split_whitespace().map(Into::into));
    Ok(Machine.spawn(&world.machines[number].call(&call))?)
}

/// What the server tells.
fn all(world: &World) -> Result<Value> {
    Ok(serde_json::from_str(&world.site.ask("api/machines", world.site.token(), None)?.1)?)
}

/// What of that is about the images that it sends.
fn told(world: &World) -> Result<Vec<Value>> {
    Ok(all(world)?["sent"].as_array().context("sent")?.clone())
}

/// Asks for the room of an image until that is open; none where there is none.
fn offer(mut ask: impl FnMut() -> Result<Option<Vec<u8>>>) -> Result<Option<Value>> {
    let began = Instant::now();
    while let Some(said) = ask()? {
        let said: Value = serde_json::from_slice(&said)?;
        if said != json!({"opens": true}) {
            return Ok(Some(said));
        }
        ensure!(began.elapsed() < PATIENCE, "it does not open");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(None)
}

/// The offer of the server of a site.
fn served(world: &World, id: &str) -> Result<Option<Value>> {
    offer(|| {
        let (status, said) = world.site.ask(&format!("repo/room/{id}"), "", None)?;
        match status {
            200 => Ok(Some(said.into_bytes())),
            404 => Ok(None),
            other => bail!("{other}: {said}"),
        }
    })
}

/// The server ends in the middle and comes again: with other numbers and keys, and the same blocks.
#[test]
fn net_a_server_that_begins_again_sends_the_rest() -> Result<()> {
    let world = World::new(2, &["--rate", "15"])?;
    let machines = [restore(&world, 0, "lab")?, restore(&world, 1, "lab")?];
    let began = Instant::now();
    let told = loop {
        let rows = world.site.until(|_| true)?;
        let has = |row: &Value| row["blocks"].as_u64() > Some(3);
        if rows.iter().filter(|row| has(row)).count() == 2 {
            break told(&world)?;
        }
        ensure!(began.elapsed() < PATIENCE, "{rows:?}");
    };
    let world = world.again(&["--rate", "15"])?;
    for (number, machine) in machines.into_iter().enumerate() {
        let (code, said) = site::end(machine)?;
        println!("{said}");
        ensure!(code == Some(0) && said.contains("joined again"), "{number}: {code:?} {said}");
        ensure!(!said.contains("fetched") && world.is_restored(number)?, "{number}: {said}");
    }
    let both = [told, self::told(&world)?].map(|told| told[0]["sent_bytes"].as_u64());
    ensure!(both.iter().all(|sent| *sent > Some(1 << 20)), "{both:?}");
    Ok(())
}

/// Two servers on one network, each with an image of this name, and symbols of the one in the group of the other: each machine gets
/// that of its own server.
#[test]
fn net_two_servers_on_one_network_do_not_mix() -> Result<()> {
    let world = World::new(4, &["--rate", "40"])?;
    let beside = Bench::new()?;
    make_disk(&beside, &beside.path("disk"), "beside")?;
    let stored = beside.save("lab", &[beside.path("disk")])?;
    let stored = stored["stored_bytes"].as_u64().context("stored_bytes")?;
    let other = Neighbour::plugged("port9")?;
    other.address(50)?;
    let mut serve = other.call(&site::serve(&beside, &["--rate", "40"]));
    let interface = serve.args.iter_mut().find(|word| *word == "br0");
    *interface.context("no interface")? = "eth0".into();
    let mut server = Machine.spawn(&serve.env("KEIKI_STATE", beside.path("state")))?;
    let said = server.answer()?;
    ensure!(said.starts_with("Serving on"), "{said}{}", server.finish(PATIENCE)?.talk());

    let servers = [(REPO, &world.bench), ("http://10.77.0.50/repo", &beside)];
    let [ours, theirs] = servers.map(|(repo, bench)| {
        let listed = bench.run("images")?;
        Session::at(repo, listed["images"][0]["id"].as_str().context("an id")?)
    });
    let mixed = theirs?.in_group_of(ours?);
    for mixes in [false, true] {
        let (ends, before) = (AtomicBool::new(!mixes), received(&world)?);
        let ended = thread::scope(|scope| {
            let mixed = scope.spawn(|| mixed.send(&ends));
            let running = (0..4).map(|at| restore_from(servers[at % 2].0, &world, at, "lab"));
            let running = running.collect::<Result<Vec<_>>>();
            let ended: Result<Vec<_>> =
                running.and_then(|all| all.into_iter().map(site::end).collect());
            ends.store(true, Ordering::Relaxed);
            mixed.join().map_err(|_| anyhow!("a thread panicked"))??;
            ended
        })?;
        for (number, (code, said)) in ended.into_iter().enumerate() {
            ensure!(code == Some(0), "{number}: {code:?} {said}");
            ensure!(!said.contains("fetched") && !said.contains("wrong"), "{number}: {said}");
            let [source, target] = [[servers[number % 2].1.path("disk")], [world.target(number)]];
            volumes::expect_same(&volumes::trees(&source)?, &volumes::trees(&target)?)?;
            fs::remove_file(world.target(number))?;
        }
        let came = received(&world)?.into_iter().zip(before).map(|(after, before)| after - before);
        let times: Vec<f64> = came.map(|came| came as f64 / stored as f64).collect();
        println!("to each machine came so many times an image: {times:.2?}");
        // Its own and the other one.
        ensure!(mixes || times.iter().all(|times| *times < 2.5), "{times:?}");
    }
    Ok(())
}

/// Bytes that came to each machine.
fn received(world: &World) -> Result<Vec<u64>> {
    let received = |machine: &Neighbour| {
        let said = machine.run(&call!("ip", "-json", "-statistics", "link", "show", "eth0"))?;
        let said: Value = serde_json::from_str(&said)?;
        said[0]["stats64"]["rx"]["bytes"].as_u64().context("bytes")
    };
    world.machines.iter().map(received).collect()
}

/// Half of the machines get the image of the command line, half another one that a person chose: each image leaves the server once.
#[test]
fn net_two_groups_get_two_images_at_once() -> Result<()> {
    let world = World::new(6, &["--rate", "20"])?;
    // The other one is as large.
    let (id, stored) = save(&world.bench, "other")?;
    let key = world.site.key.clone();
    let agents = (0..6).map(|number| world.agent(number, &key)).collect::<Result<Vec<_>>>()?;
    let machines = world.site.until(are(6, "waits"))?;
    let ids = |numbers: std::ops::Range<usize>| -> Result<Vec<Value>> {
        numbers.map(|number| Ok(world.machine(&machines, number)?["id"].clone())).collect()
    };
    for (group, numbers) in [("one", 0..3), ("two", 3..6)] {
        let put = json!({"machines": ids(numbers)?, "group": group});
        world.site.post("api/groups", &put.to_string())?;
    }
    let image = format!("other@{}", &id[..12]);
    let began = Instant::now();
    while !all(&world)?["images"].as_array().is_some_and(|images| images.contains(&json!(image))) {
        ensure!(began.elapsed() < PATIENCE, "it cannot be chosen");
        thread::sleep(Duration::from_millis(300));
    }
    let before = sent()?;
    world.site.post("api/groups/two/restore", &json!({"image": image}).to_string())?;
    world.site.post("api/groups/one/restore", "")?;

    // Both are told of while they are sent, each with those who are in its session.
    let began = Instant::now();
    let (both, rows) = loop {
        let machines = world.site.until(|_| true)?;
        let told = told(&world)?;
        if told.len() == 2 && told.iter().all(|one| one["receivers"] == 3) {
            break (told, machines);
        }
        ensure!(began.elapsed() < PATIENCE, "{told:?}");
    };
    world.site.conforms()?;
    ensure!(both[0]["name"].as_str().is_some_and(|name| name.starts_with("lab@")), "{both:?}");
    ensure!(both[1]["name"] == image.as_str(), "{both:?}");
    let metrics = world.site.ask("metrics", world.site.token(), None)?.1;
    for label in [
        format!("keiki_receivers{{image=\"{image}\",interface=\"br0\"}}"),
        "image=\"lab@".to_owned(),
    ] {
        ensure!(metrics.contains(&label), "{label}: {metrics}");
    }
    for row in &rows {
        let all = if row["group"] == "one" { &both[0]["blocks"] } else { &both[1]["blocks"] };
        ensure!(row["all_blocks"].is_null() || row["all_blocks"] == *all, "{row}");
    }

    for (number, agent) in agents.into_iter().enumerate() {
        let (code, said) = site::end(agent)?;
        ensure!(code == Some(0) && !said.contains("fetched"), "{number}: {code:?} {said}");
        if number < 3 { ensure!(world.is_restored(number)?) } else { has(&world, number, "other")? }
    }
    let sent = (sent()? - before) as f64 / (2 * stored) as f64;
    println!("{sent:.2} of both images were sent");
    // Machines begin when they ask, within two seconds of the ten that this takes.
    ensure!(sent > 1.0 && sent < 1.7, "{sent}");
    Ok(())
}

/// Where so many are sent already the next one comes over HTTP, and is right.
#[test]
fn net_one_image_too_many_is_fetched() -> Result<()> {
    let world = World::new(2, &[])?;
    let names: Vec<String> = (0..=MOST).map(|number| format!("image-{number}")).collect();
    let saved = names.iter().map(|name| save(&world.bench, name));
    let ids = saved.map(|saved| Ok(saved?.0)).collect::<Result<Vec<_>>>()?;
    let mut ports = Vec::new();
    for id in &ids[..MOST] {
        let offer = served(&world, id)?.context("no room")?;
        ports.push(offer["server"].as_str().context("server")?.to_owned());
    }
    ensure!(ports == ["10.77.0.1:7379", "10.77.0.1:7380", "10.77.0.1:7381", "10.77.0.1:7382"]);
    ensure!(told(&world)?.len() == 1 + MOST);
    ensure!(served(&world, &ids[MOST])?.is_none(), "there is one room too many");
    ensure!(served(&world, &"0".repeat(64))?.is_none(), "there is no such image");

    let both = [(0, &names[MOST]), (1, &names[0])];
    let running = both.map(|(number, name)| restore(&world, number, name));
    for ((number, name), running) in both.into_iter().zip(running) {
        let (code, said) = site::end(running?)?;
        ensure!(code == Some(0), "{name}: {code:?} {said}");
        has(&world, number, name)?;
    }
    let sent = told(&world)?;
    let is_sent = |one: &&Value| one["sent_bytes"].as_u64() > Some(12 << 20);
    let names: Vec<_> = sent.iter().filter(is_sent).map(|one| &one["name"]).collect();
    ensure!(*names == [&json!(format!("image-0@{}", &ids[0][..12]))], "{sent:?}");
    Ok(())
}

/// A room that nobody is in closes, and opens again with the same blocks when it is asked for.
#[test]
fn net_a_room_that_closed_opens_again() -> Result<()> {
    network::own()?;
    let bench = Bench::new()?;
    let [always, other] = ["always", "other"].map(|name| save(&bench, name));
    let (always, other) = (always?.0, other?.0);
    let repo = Repository::open(Arc::new(Local::new(bench.path("repo"))))?;
    let rooms = Rooms::new(repo.clone(), (Ipv4Addr::LOCALHOST, &Pace::new(1_000_000)));
    rooms.open(&repo.resolve("always", &Quiet::default())?, &Quiet::default())?;
    let ask = |name: &str| {
        let question = Question { name, posted: None, token: None, client: None };
        rooms.answer(&question).map(|made| made.bytes.to_vec())
    };
    let found = |id: &str| offer(|| Ok(ask(&format!("room/{id}"))))?.context("no room");
    let blocks = format!("room/{other}.blocks");
    ensure!(ask(&blocks).is_none(), "it opens for its offer only");
    let (first, list) = (found(&other)?, ask(&blocks).context("blocks")?);
    ensure!(first == found(&other)? && rooms.sent().len() == 2);

    let now = Instant::now();
    rooms.close_idle(now + IDLE / 2);
    ensure!(rooms.sent().len() == 2, "it closed too soon");
    rooms.close_idle(now + IDLE * 2);
    ensure!(rooms.sent().len() == 1 && ask(&blocks).is_none(), "it is still open");
    found(&always)?;
    let again = found(&other)?;
    ensure!(again["session"] != first["session"] && again["blocks"] == first["blocks"]);
    ensure!(ask(&blocks) == Some(list) && rooms.sent().len() == 2 && rooms.unreadable() == 0);

    rooms.close();
    ensure!(rooms.sent().is_empty() && ask(&format!("room/{other}")).is_none());
    // Nothing is left of it: images can be pruned.
    ensure!(fs::read_dir(bench.path("repo/locks"))?.next().is_none(), "a lock is left");
    Ok(())
}

/// Machines whose ports carry a tenth of what is sent share a lane: their image leaves the server once more, not once for each.
#[test]
fn net_machines_on_slow_ports_share_a_lane() -> Result<()> {
    let slow = Client { port: Some(5), ..Client::default() };
    let clients = [[Client::default(); 6].as_slice(), &[slow; 5]].concat();
    let outcome = Room::new(16)?.play(50, &clients)?;
    println!("{outcome:.2?}");
    ensure!(outcome.times.iter().all(Option::is_some));
    // What they lost until they left is in it.
    ensure!(outcome.sent < 4.5, "{}", outcome.sent);
    Ok(())
}

mod only_all {
    use super::*;

    /// Of each image; the server keeps 64 MiB of all of them.
    const LENGTH: usize = 96 << 20;
    /// What the server may take, in KiB: beside this there is what machines boot from.
    const MEMORY: u64 = 200 << 10;

    #[test]
    fn net_images_at_once_take_little_memory() -> Result<()> {
        let world = World::new(MOST as u8, &["--rate", "400"])?;
        let source = |number: usize| disk(&world.bench, &number.to_string());
        for number in 0..MOST {
            let mut bytes = vec![0; LENGTH];
            blake3::Hasher::new().update(&[number as u8]).finalize_xof().fill(&mut bytes);
            fs::write(source(number), bytes)?;
            world.bench.save(&format!("image-{number}"), &[source(number)])?;
        }
        let size = Bytes::from(LENGTH);
        let restored = (0..MOST).map(|number| {
            sparse::create(&world.target(number), size)?;
            restore(&world, number, &format!("image-{number}"))
        });
        let restored = restored.collect::<Result<Vec<_>>>()?;
        for (number, running) in restored.into_iter().enumerate() {
            let (code, said) = site::end(running)?;
            ensure!(code == Some(0), "{number}: {code:?} {said}");
            ensure!(fs::read(world.target(number))? == fs::read(source(number))?);
        }
        let memory = world.site.process().status("VmHWM")?;
        println!("{} MiB at most", memory >> 10);
        let sent = told(&world)?;
        let is_sent = |one: &&Value| one["sent_bytes"].as_u64() > Some(LENGTH as u64);
        ensure!(sent.iter().filter(is_sent).count() == MOST, "{sent:?}");
        ensure!(memory < MEMORY, "{memory} KiB");
        Ok(())
    }
}
