//! Machines whose disks are saved into the repository of the server that they wait for, and who may read there: real processes,
//! each in its own network at one switch.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use expectrl::Expect;
use image_core::exec::real::Machine;
use keiki_tests::binary::keiki;
use keiki_tests::site::{self, Site, World, are, make_disk};
use keiki_tests::{call, keiki, tool, volumes};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);
const URL: &str = "http://10.77.0.1/repo";

/// All files of a folder, by their names.
fn files(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => files.extend(self::files(&path)?),
            false => drop(files.insert(path.display().to_string(), fs::read(&path)?)),
        }
    }
    Ok(files)
}

fn count(repo: &Path, folder: &str) -> usize {
    fs::read_dir(repo.join(folder)).map(Iterator::count).unwrap_or(0)
}

/// Nothing is left but the lock of the server, which reads the image that it sends.
fn is_tidy(repo: &Path) -> Result<()> {
    let left = [count(repo, "tmp"), count(repo, "locks")];
    ensure!(left == [0, 1], "drafts and locks: {left:?}");
    Ok(())
}

/// The id of a machine that waits.
fn id(world: &World, number: usize) -> Result<String> {
    let there = |machines: &[Value]| world.machine(machines, number).is_ok();
    let machines = world.site.until(there)?;
    Ok(world.machine(&machines, number)?["id"].as_str().context("id")?.to_owned())
}

fn check(repo: &Path) -> Result<()> {
    let checked = tool::run(&keiki!("--repo", repo, "--json", "check", "--read-data"))?;
    let checked: Value = serde_json::from_str(&checked)?;
    ensure!(checked["damaged"].as_array().is_some_and(Vec::is_empty), "{checked}");
    Ok(())
}

/// Asks as a program of somebody at the cable; the status.
fn status(options: &[&str], path: &str) -> Result<String> {
    let url = format!("http://10.77.0.1/{path}");
    let mut curl = call!("curl", "-sS", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}");
    curl.args.extend(["--path-as-is", "--url", &url].map(Into::into));
    curl.args.extend(options.iter().map(Into::into));
    tool::run(&curl)
}

#[test]
fn net_a_machine_is_saved_and_another_gets_its_image() -> Result<()> {
    let world = World::new(2, &["--private"])?;
    let (server, repo) = (&world.site, world.bench.path("repo"));
    make_disk(&world.bench, &world.target(0), "golden")?;
    let before = fs::read(world.target(0))?;
    let golden = world.agent(0, &server.key)?;
    let machine = id(&world, 0)?;
    for (wish, status) in [(r#"{"name": "../x"}"#, 400), ("{}", 400), (r#"{"name": ""}"#, 400)] {
        let (told, said) =
            server.ask(&format!("api/machines/{machine}/save"), server.token(), Some(wish))?;
        ensure!(told == status, "{wish}: {told} {said}");
    }
    server.post(&format!("api/machines/{machine}/save"), r#"{"name": "golden"}"#)?;
    let (code, said) = site::end(golden)?;
    ensure!(code == Some(0) && said.contains("It is saved as golden"), "{code:?} {said}");
    let told = server.until(are(1, "waits"))?;
    let words = told[0]["limit"].as_str().unwrap_or_default().to_owned();
    ensure!(words == "it was saved as golden", "{told:?}");
    ensure!(fs::read(world.target(0))? == before, "the disk was changed");
    let grant = grant(&world)?;
    ensure!(!said.contains(&grant), "the grant was shown");
    check(&repo)?;
    is_tidy(&repo)?;

    // It can be chosen at once.
    let images = || -> Result<Option<String>> {
        let told: Value =
            serde_json::from_str(&server.ask("api/machines", server.token(), None)?.1)?;
        let images = told["images"].as_array().context("images")?.iter().filter_map(Value::as_str);
        Ok(images.map(str::to_owned).find(|image| image.starts_with("golden@")))
    };
    let began = Instant::now();
    let image = loop {
        if let Some(image) = images()? {
            break image;
        }
        ensure!(began.elapsed() < PATIENCE, "the image cannot be chosen");
    };
    let other = world.agent(1, &server.key)?;
    let machine = id(&world, 1)?;
    let wish = serde_json::json!({"image": image}).to_string();
    server.post(&format!("api/machines/{machine}/restore"), &wish)?;
    let (code, said) = site::end(other)?;
    ensure!(code == Some(0), "{code:?} {said}");
    let trees = |number| volumes::trees(&[world.target(number)]);
    volumes::expect_same(&trees(0)?, &trees(1)?)?;

    // What they were let do is over, and nobody else may do anything.
    let all = files(&repo)?;
    let token = format!("order:{}", server.token());
    let old = format!("order:{grant}");
    for login in [&["-u", &old][..], &["-u", &token], &["-u", "order:"], &[]] {
        for what in [&["-X", "PUT", "-d", "x"][..], &["-X", "DELETE"]] {
            let told = status(&[login, what].concat(), "repo/keiki")?;
            ensure!(told == "401", "{login:?} {what:?}: {told}");
        }
    }
    ensure!(files(&repo)? == all);
    private(&world, &old)
}

/// The grant of the last order of the first machine, as the server has written it down.
fn grant(world: &World) -> Result<String> {
    let list: Value = serde_json::from_slice(&fs::read(world.bench.path("state/machines.json"))?)?;
    let machines = list["machines"].as_object().context("machines")?;
    let path = world.target(0).display().to_string();
    let known = machines.values().find(|known| known["machine"]["disks"][0]["path"] == *path);
    let grant = known.and_then(|known| known["grant"].as_str());
    Ok(grant.context("no grant")?.to_owned())
}

/// Nobody reads images without the code, the token or an order that is at work, unlike that of the login `old`.
fn private(world: &World, old: &str) -> Result<()> {
    let told = world.site.status()?;
    let code = told["code"].as_str().context("code")?.to_owned();
    ensure!(code.len() == 8 && code.bytes().all(|byte| byte.is_ascii_digit()), "{code}");
    let images = |code: &str| {
        world.machines[1].call(&keiki!("--repo", URL, "images")).env("KEIKI_CODE", code)
    };
    let refused = |code: &str, why: &str| {
        let said =
            tool::run(&images(code)).err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(said.contains(why), "{code}: {said}");
        Ok(())
    };
    let token = world.site.token();
    ensure!(status(&[], "repo/keiki")? == "401" && status(&[], "repo/catalog")? == "401");
    ensure!(status(&[], "repo/")? == "401" && status(&[], "board")? == "200");
    // Nobody else opens a room.
    let id = world.bench.run("show golden")?["id"].as_str().context("id")?.to_owned();
    ensure!(status(&[], &format!("repo/room/{id}"))? == "401");
    ensure!(status(&["-u", &format!("keiki:{code}")], &format!("repo/room/{id}"))? == "200");
    ensure!(tool::run(&images(&code))?.contains("golden"));
    ensure!(tool::run(&images(token))?.contains("golden"));
    // A person is asked for it; a program is not.
    let typed = format!("{} --repo {URL} images", keiki().display());
    let mut person = world.machines[1].call(&call!("script", "-qec", typed, "/dev/null"));
    person.stdin = format!("{code}\n").into_bytes();
    let said = tool::run(&person)?;
    ensure!(said.contains("is private. Its code") && said.contains("golden"), "{said}");
    // What cannot be the code is no guess.
    for _ in 0..12 {
        ensure!(status(&["-u", old], "repo/keiki")? == "401");
        ensure!(status(&["-u", "keiki:00000000x"], "repo/keiki")? == "401");
    }
    let wrong = if code == "00000000" { "00000001" } else { "00000000" };
    for _ in 0..10 {
        refused(wrong, "wants another user or password")?;
    }
    refused(&code, "says 403")?;
    ensure!(tool::run(&images(token))?.contains("golden"));
    // Only who guessed waits.
    ensure!(status(&["-u", &format!("keiki:{code}")], "repo/keiki")? == "200");
    Ok(())
}

/// Somebody at a machine asks that it is saved: nothing is, until somebody at the server agrees.
#[test]
fn net_a_machine_asks_and_is_saved_when_somebody_agrees() -> Result<()> {
    let world = World::new(2, &[])?;
    let (server, repo) = (&world.site, world.bench.path("repo"));
    make_disk(&world.bench, &world.target(0), "golden")?;
    let before = fs::read(world.target(0))?;
    let all = files(&repo)?;
    let asks = |count: usize| {
        move |machines: &[Value]| {
            machines.iter().filter(|one| one["asks"] == "golden").count() == count
        }
    };
    let id = |told: &[Value]| -> Result<String> {
        Ok(world.machine(told, 0)?["id"].as_str().context("id")?.to_owned())
    };

    let refused = Machine.spawn(&world.asking(0, "golden")?)?;
    let told = server.until(asks(1))?;
    server.conforms()?;
    let words = told[0]["limit"].as_str().unwrap_or_default();
    ensure!(words.starts_with("asks to be saved as golden: /"), "{told:?}");
    let state = world.bench.path("state");
    let status = tool::run(&keiki!("serve", "status", "--interface", "br0", "--state", &state))?;
    ensure!(status.contains("asks to be saved as golden"), "{status}");
    server.post(&format!("api/machines/{}/stop", id(&told)?), "")?;
    let (code, said) = site::end(refused)?;
    ensure!(code == Some(1) && said.contains("somebody at the server said no"), "{code:?} {said}");
    let told = server.until(asks(0))?;
    ensure!(told[0]["state"] == "waits" && told[0]["limit"].is_null(), "{told:?}");
    ensure!(files(&repo)? == all, "something was saved unasked");

    let agreed = Machine.spawn(&world.asking(0, "golden")?)?;
    let told = server.until(asks(1))?;
    server.post(&format!("api/machines/{}/save", id(&told)?), r#"{"name": "golden"}"#)?;
    let (code, said) = site::end(agreed)?;
    ensure!(code == Some(0) && said.contains("It is saved as golden"), "{code:?} {said}");
    ensure!(said.contains("Nothing is saved before somebody agrees there"), "{said}");
    ensure!(said.contains("somebody at the server has to agree to save it as golden"), "{said}");
    ensure!(fs::read(world.target(0))? == before, "the disk was changed");
    let told = server.until(asks(0))?;
    ensure!(told[0]["limit"] == "it was saved as golden", "{told:?}");
    check(&repo)?;
    let out = world.bench.path("out");
    tool::run(&keiki!("--repo", &repo, "restore", "golden", &out))?;
    volumes::expect_same(&volumes::trees(&[world.target(0)])?, &volumes::trees(&[out])?)?;

    takes_it_back(&world, &told)
}

/// At a machine that nobody knew somebody asks, sees what he needs to know, and takes it back by a key; for the other one, which is
/// `told`, nothing is another thing.
fn takes_it_back(world: &World, told: &[Value]) -> Result<()> {
    let repo = world.bench.path("repo");
    let all = files(&repo)?;
    let call = world.asking(1, "other")?;
    let words = call.args.iter().map(|word| word.display().to_string());
    let line: Vec<String> =
        std::iter::once(call.program.display().to_string()).chain(words).collect();
    let mut screen = expectrl::spawn(line.join(" "))?;
    screen.set_expect_timeout(Some(PATIENCE));
    let mut said = String::new();
    for words in [
        "asks the server to save it as other",
        "Press any key to take that back.",
        "It waits: somebody at the server has to agree",
    ] {
        let found = screen.expect(words)?;
        said += &String::from_utf8_lossy(found.as_bytes());
    }
    let machines =
        world.site.until(|machines| machines.iter().any(|one| one["asks"] == "other"))?;
    let other = world.machine(&machines, 1)?;
    let tag = other["tag"].as_str().context("tag")?;
    ensure!(said.contains(&format!("beside {tag}.")), "{said}");
    let same = world.machine(&machines, 0)?;
    ensure!(same["limit"] == told[0]["limit"] && same["state"] == told[0]["state"], "{same}");
    screen.send("x")?;
    screen.expect("It asks no more; nothing is saved.")?;
    screen.expect(expectrl::Eof)?;
    let machines = world.site.until(|machines| machines.iter().all(|one| one["asks"].is_null()))?;
    let other = world.machine(&machines, 1)?;
    ensure!(other["state"] == "waits" && other["limit"].is_null(), "{other}");
    ensure!(files(&repo)? == all, "something was saved");
    Ok(())
}

/// Makes the cable of the first machine a slow one.
fn slow(world: &World) -> Result<()> {
    let slow = call!(
        "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "16mbit", "burst", "64kb",
        "latency", "400ms"
    );
    world.machines[0].run(&slow).map(drop)
}

/// Waits until a save is at work.
fn until_written(repo: &Path) -> Result<()> {
    let began = Instant::now();
    let is_written = || {
        let drafts = fs::read_dir(repo.join("tmp")).into_iter().flatten().flatten();
        drafts.filter_map(|draft| draft.metadata().ok()).any(|draft| draft.len() > 2 << 20)
    };
    while !is_written() {
        ensure!(began.elapsed() < PATIENCE, "nothing is written");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A server that is killed in the middle of a save leaves a sound repository, and once it is started again the save goes on.
#[test]
fn net_a_save_goes_on_when_the_server_is_killed() -> Result<()> {
    let world = World::new(1, &[])?;
    make_disk(&world.bench, &world.target(0), "golden")?;
    slow(&world)?;
    let golden = world.agent(0, &world.site.key)?;
    let machine = id(&world, 0)?;
    world.site.post(&format!("api/machines/{machine}/save"), r#"{"name": "golden"}"#)?;
    let repo = world.bench.path("repo");
    until_written(&repo)?;
    let draft = |repo: &Path| -> Result<(String, u64)> {
        let draft = fs::read_dir(repo.join("tmp"))?.next().context("no draft")??;
        Ok((draft.file_name().display().to_string(), draft.metadata()?.len()))
    };
    let World { bench, site, machines } = world;
    drop(site);
    let (name, length) = draft(&repo)?;
    check(&repo)?;
    ensure!(count(&repo, "images") == 1, "a half image is none");
    let answers = bench.path("answers.toml").display().to_string();
    let site = Site::start(site::serve(&bench, &["--answers", &answers]), bench.path("state"))?;
    let world = World { bench, site, machines };
    let (same, more) = draft(&repo)?;
    ensure!(same == name && more >= length, "{same} {more} after {name} {length}");
    let (code, said) = site::end(golden)?;
    ensure!(code == Some(0) && said.contains("It is saved as golden"), "{code:?} {said}");
    let told = world.site.until(are(1, "waits"))?;
    ensure!(told[0]["limit"] == "it was saved as golden", "{told:?}");
    is_tidy(&repo)?;
    check(&repo)?;
    let out = world.bench.path("out");
    tool::run(&keiki!("--repo", &repo, "restore", "golden", &out))?;
    volumes::expect_same(&volumes::trees(&[world.target(0)])?, &volumes::trees(&[out])?)
}

/// A save over a slow cable that loses its power begins again, and ends; meanwhile its grant opens nothing but its own.
#[test]
fn net_a_save_that_is_killed_begins_again() -> Result<()> {
    let world = World::new(1, &[])?;
    let (server, repo) = (&world.site, world.bench.path("repo"));
    make_disk(&world.bench, &world.target(0), "golden")?;
    slow(&world)?;
    let one = world.agent(0, &server.key)?;
    let machine = id(&world, 0)?;
    let before = files(&repo)?;
    server.post(&format!("api/machines/{machine}/save"), r#"{"name": "golden"}"#)?;
    until_written(&repo)?;
    let login = format!("order:{}", grant(&world)?);
    for (what, path, told) in [
        ("PUT", "repo/tmp/00000000000000000000000000000000.7?at=0", "403"),
        ("PUT", "repo/tmp/../keiki?at=0", "405"),
        ("PUT", "repo/tmp/%2e%2e/keiki?at=0", "405"),
        ("PUT", "repo/keiki?at=0", "403"),
        ("PUT", "repo/../x?at=0", "405"),
        ("PUT", "repo/keiki", "400"),
        ("POST", "repo/keiki?to=x", "403"),
        ("DELETE", "repo/keiki", "403"),
        ("DELETE", "repo/catalog", "403"),
    ] {
        let said = status(&["-u", &login, "-X", what, "-d", ""], path)?;
        ensure!(said == told, "{what} {path}: {said}");
    }
    forged(&world, &login)?;
    let now = files(&repo)?;
    ensure!(before.iter().all(|(name, bytes)| now.get(name) == Some(bytes)));
    drop(one);
    ensure!(count(&repo, "images") == 1, "a half image is none");

    let again = world.agent(0, &server.key)?;
    let (code, said) = site::end(again)?;
    ensure!(code == Some(0) && said.contains("It is saved as golden"), "{code:?} {said}");
    server.until(are(1, "waits"))?;
    ensure!(count(&repo, "images") == 2);
    is_tidy(&repo)?;
    check(&repo)
}

/// A pack of which one chunk is another one, sent by somebody who heard the grant of a machine that is saved, gets no place.
fn forged(world: &World, login: &str) -> Result<()> {
    let (elsewhere, repo) = (world.bench.path("elsewhere"), world.bench.path("repo"));
    tool::run(&keiki!("--repo", &elsewhere, "save", world.target(0), "--name", "forged"))?;
    let pack = fs::read_dir(elsewhere.join("packs"))?.next().context("no pack")??;
    let name = pack.file_name().display().to_string();
    let mut bytes = fs::read(pack.path())?;
    *bytes.get_mut(1000).context("no bytes")? ^= 1;
    let grant = login.trim_start_matches("order:");
    let session: String = blake3::hash(grant.as_bytes()).to_hex().chars().take(16).collect();
    let draft = format!("repo/tmp/{session}{}.7", "f".repeat(16));
    let piece = world.bench.path("piece");
    let sent = format!("@{}", piece.display());
    for (number, bytes) in bytes.chunks(1 << 20).enumerate() {
        fs::write(&piece, bytes)?;
        let options = ["-u", login, "-X", "PUT", "--data-binary", &sent];
        let told = status(&options, &format!("{draft}?at={}", number << 20))?;
        ensure!(told == "200", "piece {number}: {told}");
    }
    let place = format!("packs/{name}");
    let told = status(&["-u", login, "-X", "POST", "-d", ""], &format!("{draft}?to={place}"))?;
    ensure!(told == "403" && !repo.join(&place).exists(), "{told}");
    let told = status(&["-u", login, "-X", "DELETE"], &draft)?;
    ensure!(told == "200", "{told}");
    Ok(())
}

/// The first image of a lab: where there is none yet, none is sent.
#[test]
fn net_the_first_image_is_saved_and_restored() -> Result<()> {
    let world = World::new(2, &[])?;
    let answers = world.bench.path("answers.toml").display().to_string();
    let world = world.again(&["--save", "--answers", &answers])?;
    let server = &world.site;
    make_disk(&world.bench, &world.target(0), "golden")?;
    let golden = world.agent(0, &server.key)?;
    let machine = id(&world, 0)?;
    let path = format!("api/machines/{machine}/restore");
    let (told, said) = server.ask(&path, server.token(), Some("{}"))?;
    ensure!(told == 400 && said.contains("no image is sent; choose one"), "{told} {said}");
    server.post(&format!("api/machines/{machine}/save"), r#"{"name": "golden"}"#)?;
    let (code, said) = site::end(golden)?;
    ensure!(code == Some(0) && said.contains("It is saved as golden"), "{code:?} {said}");
    check(&world.bench.path("new"))?;
    let began = Instant::now();
    let image = loop {
        let told = server.status()?;
        server.conforms()?;
        if let Some(image) = told["images"][0].as_str() {
            break image.to_owned();
        }
        ensure!(began.elapsed() < PATIENCE, "the image cannot be chosen");
    };
    let other = world.agent(1, &server.key)?;
    let wish = serde_json::json!({"image": image}).to_string();
    server.post(&format!("api/machines/{}/restore", id(&world, 1)?), &wish)?;
    let (code, said) = site::end(other)?;
    ensure!(code == Some(0), "{code:?} {said}");
    let [first, second] = [0, 1].map(|number| volumes::trees(&[world.target(number)]));
    volumes::expect_same(&first?, &second?)
}

/// Where the server's disk is full, the save fails and says why; there is no image, and what is there stays whole.
#[test]
fn net_a_full_server_is_told() -> Result<()> {
    let World { bench, site, machines } = World::new(1, &[])?;
    drop(site);
    let repo = bench.path("repo");
    // In the server's own view only: so it ends with it.
    let script = "cp -a \"$0\" \"$0.copy\" && mount -t tmpfs -o size=20m none \"$0\" && cp -a \"$0.copy/.\" \"$0\" && exec \"$@\"";
    let answers = bench.path("answers.toml").display().to_string();
    let serve = site::serve(&bench, &["--answers", &answers]);
    let mut inside = call!("unshare", "--mount", "sh", "-c", script, &repo, &serve.program);
    inside.args.extend(serve.args);
    let site = Site::start(inside, bench.path("state"))?;
    let world = World { bench, site, machines };
    make_disk(&world.bench, &world.target(0), "golden")?;
    let one = world.agent(0, &world.site.key)?;
    let machine = id(&world, 0)?;
    world.site.post(&format!("api/machines/{machine}/save"), r#"{"name": "golden"}"#)?;
    let (code, said) = site::end(one)?;
    ensure!(code == Some(1) && said.contains("No space left on device"), "{code:?} {said}");
    let told = world.site.until(are(1, "waits"))?;
    let why = told[0]["limit"].as_str().unwrap_or_default();
    ensure!(
        why.contains("it was not saved")
            && why.contains("No space left")
            && why.contains("there is no new image"),
        "{why}"
    );
    let listed = tool::run(&keiki!("--repo", URL, "--json", "images"))?;
    ensure!(listed.contains("lab") && !listed.contains("golden"), "{listed}");
    Ok(())
}
