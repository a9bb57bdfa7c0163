//! Machines of a group, and a word for all of them, now or for later: real processes, each in its own network at one switch.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use image_core::image::time::Timestamp;
use keiki_tests::site::{self, World, are};
use keiki_tests::{keiki, run, tool};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// A field of a machine, as text.
fn field(machine: &Value, name: &str) -> Result<String> {
    Ok(machine[name].as_str().with_context(|| format!("{name} of {machine}"))?.to_owned())
}

/// A time so many seconds ahead, as RFC 3339 writes it.
fn ahead(seconds: u64) -> String {
    Timestamp::now().later(seconds).to_string()
}

/// Off, called for later, taken back and called again; a server that is started again wakes it, and it gets its order.
#[test]
fn net_a_machine_that_is_off_is_woken_at_its_time() -> Result<()> {
    let world = World::new(1, &[])?;
    let agent = world.agent(0, &world.site.key)?;
    let told = world.site.until(are(1, "waits"))?;
    let (id, mac) = (field(&told[0], "id")?, field(&told[0], "mac")?);
    let one = format!("api/machines/{id}");
    for at in ["2020-01-01T00:00:00Z", "tomorrow", "2026-11-23T02:00"] {
        for path in ["api/restore", &format!("{one}/restore"), "api/groups/room-1/restore"] {
            let wish = json!({"at": at}).to_string();
            let (status, said) = world.site.ask(path, world.site.token(), Some(&wish))?;
            let why = if at == "2020-01-01T00:00:00Z" { "in the past" } else { "no time" };
            ensure!(status == 400 && said.contains(why), "{path} {at}: {status} {said}");
        }
    }
    world.site.post("api/restore", &json!({"at": ahead(7200)}).to_string())?;
    let told = world.site.until(|machines| !machines[0]["later"].is_null())?;
    ensure!(told[0]["state"] == "waits" && told[0]["stage"] == "waits for its time", "{told:?}");
    world.site.conforms()?;
    let metrics = world.site.ask("metrics", world.site.token(), None)?.1;
    ensure!(metrics.contains("keiki_scheduled_machines 1"), "{metrics}");
    std::thread::sleep(Duration::from_secs(5));
    let pid = i32::try_from(agent.id()).ok().and_then(Pid::from_raw).context("pid")?;
    kill_process(pid, Signal::TERM)?;
    let (_, screen) = site::end(agent)?;
    ensure!(screen.contains("it is restored at"), "{screen}");
    world.site.post(&format!("{one}/stop"), "")?;
    world.site.until(|machines| machines[0]["later"].is_null())?;

    // In time for the server to end and to start again.
    let at = Instant::now();
    world.site.post(&format!("{one}/restore"), &json!({"at": ahead(40)}).to_string())?;
    let heard = world.hears(0, &mac)?;
    // Its options stand in a file, and the answers beside it.
    let config = world.bench.path("serve.toml");
    fs::write(&config, "answers = \"answers.toml\"\nimage = \"another\"\n")?;
    let world = world.again(&["--config", &config.display().to_string()])?;
    heard.join().map_err(|_| anyhow!("a thread panicked"))??;
    ensure!(at.elapsed() > Duration::from_secs(38), "it was woken after {:?}", at.elapsed());
    let told = world.site.until(are(1, "called"))?;
    ensure!(told[0]["later"].is_null(), "{told:?}");
    let (code, said) = site::end(world.agent(0, &world.site.key)?)?;
    ensure!(code == Some(0) && world.is_restored(0)?, "{code:?} {said}");
    world.site.until(are(1, "done")).map(drop)
}

/// Bytes that were written into a file, as strace's files in `traces` tell it.
fn written(traces: &Path, target: &Path) -> Result<u64> {
    let target = format!("<{}>", target.canonicalize()?.display());
    let mut sum = 0;
    for thread in fs::read_dir(traces)? {
        let text = fs::read_to_string(thread?.path())?;
        for line in text.lines().filter(|line| line.contains(&target)) {
            sum += line
                .rsplit("= ")
                .next()
                .and_then(|text| text.trim().parse::<u64>().ok())
                .unwrap_or(0);
        }
    }
    Ok(sum)
}

/// A room that holds last month's image gets this month's: what differs is written, and all of it is what was saved.
#[test]
fn net_only_what_changed_is_written_where_the_answers_say_so() -> Result<()> {
    let world = World::new(1, &[])?;
    let key = world.site.key.clone();
    let [first, again] = ["first", "again"].map(|name| world.bench.path(name));
    let calls = "pwrite64,pwritev,write,writev";
    let restored = |world: &World, traces: &Path, is_known: bool| -> Result<u64> {
        let call = |machines: &[Value]| -> Result<()> {
            world.site.post(&format!("api/machines/{}/restore", field(&machines[0], "id")?), "")
        };
        if is_known {
            call(&world.site.until(are(1, "done"))?)?;
        }
        let agent = world.traced(0, (&key, calls), traces)?;
        if !is_known {
            call(&world.site.until(are(1, "waits"))?)?;
        }
        let (code, said) = site::end(agent)?;
        ensure!(code == Some(0) && said.contains("read back and equal"), "{code:?} {said}");
        ensure!(world.is_restored(0)?);
        written(traces, &world.target(0))
    };
    let all = restored(&world, &first, false)?;
    ensure!(all > 12 << 20, "strace saw {all} bytes only");

    // A block of the file is another one.
    let (disk, file) = (world.bench.path("disk"), fs::read(world.bench.path("files-lab/file"))?);
    let mut bytes = fs::read(&disk)?;
    let block = file.get(5 << 20..(5 << 20) + 4096).context("block")?;
    let at = bytes.chunks(4096).position(|one| one == block).context("its block")? * 4096;
    bytes.get_mut(at..at + 4096).context("block")?.fill(7);
    fs::write(&disk, bytes)?;
    world.bench.save("lab", std::slice::from_ref(&disk))?;
    let answers = world.bench.path("answers.toml");
    let text = fs::read_to_string(&answers)?;
    fs::write(&answers, format!("only_changed = true\n{text}"))?;
    let world = world.again(&["--answers", &answers.display().to_string()])?;
    let changed = restored(&world, &again, true)?;
    ensure!(changed < 4 << 20, "{changed} of {all} bytes were written");
    ensure!(changed >= 4096, "nothing was written");
    Ok(())
}

#[test]
fn net_a_group_is_restored_by_one_word() -> Result<()> {
    let world = World::new(3, &[])?;
    let key = world.site.key.clone();
    let agents = (0..3).map(|number| world.agent(number, &key)).collect::<Result<Vec<_>>>()?;
    let told = world.site.until(are(3, "waits"))?;
    let machines = (0..3).map(|number| world.machine(&told, number)).collect::<Result<Vec<_>>>()?;
    let ids = machines.iter().map(|one| field(one, "id")).collect::<Result<Vec<_>>>()?;

    // One is put into a group by hand; the file says where another one stands, and lets nobody in by that.
    for (path, wish, status) in [
        ("api/groups", json!({"machines": [ids[0]], "group": "a b"}), 400),
        ("api/groups", json!({"group": "room-1"}), 400),
        ("api/groups/room-1/restore", json!({"image": "none"}), 400),
        ("api/groups/room-1/restore", json!({"machines": [ids[0]]}), 400),
        ("api/groups/a%20b/stop", json!({}), 400),
        ("api/groups/room-1/explode", json!({}), 404),
        ("api/groups", json!({"machines": [ids[0]], "group": "room-1"}), 200),
    ] {
        let (told, said) = world.site.ask(path, world.site.token(), Some(&wish.to_string()))?;
        ensure!(told == status, "{path} {wish}: {told} {said}");
    }
    let csv =
        format!("mac,group\n{},room-1\n02:00:00:00:00:77,room-9\n", field(&machines[1], "mac")?);
    fs::write(world.bench.path("room.csv"), csv)?;
    let [answers, csv] =
        ["answers.toml", "room.csv"].map(|name| world.bench.path(name).display().to_string());
    let world = world.again(&["--answers", &answers, "--machines", &csv])?;
    let server = &world.site;
    server.until(|machines| {
        machines.iter().filter(|one| one["address"].is_string()).count() == 3
            && are(3, "waits")(machines)
    })?;
    server.conforms()?;
    let of_group = |group: &str| -> Result<Vec<String>> {
        let (_, said) = server.ask(&format!("api/groups/{group}"), server.token(), None)?;
        let told: Value = serde_json::from_str(&said)?;
        told["machines"]
            .as_array()
            .context("machines")?
            .iter()
            .map(|one| field(one, "id"))
            .collect()
    };
    let mut expected = ids[..2].to_vec();
    let mut found = of_group("room-1")?;
    expected.sort();
    found.sort();
    ensure!(found == expected, "{found:?}");
    for (path, posted) in [("", None), ("/stop", Some(""))] {
        let path = format!("api/groups/room-2{path}");
        let (status, said) = server.ask(&path, server.token(), posted)?;
        let why = "no machine is in the group room-2; there is: room-1, room-9";
        ensure!(status == 404 && said.contains(why), "{status} {said}");
    }
    // Of that one somebody wrote down nobody was heard of yet.
    ensure!(of_group("room-9")?.is_empty(), "room-9");
    let [state, other] = ["state", "other"].map(|name| world.bench.path(name));
    run!("cp", "-a", &state, &other)?;
    let token: String = server.token().chars().rev().collect();
    fs::write(other.join("token"), token)?;
    let status = |state: &Path, group: &str| {
        let mut call = keiki!("--json", "serve", "status", "--interface", "br0", "--group", group);
        call.args.extend(["--state".into(), state.into()]);
        tool::outcome(&call)
    };
    for (state, why) in
        [(&state, "no machine is in the group room-2"), (&other, "another site is served there")]
    {
        let outcome = status(state, "room-2")?;
        ensure!(outcome.code == Some(1) && outcome.text().contains(why), "{}", outcome.text());
    }
    let status: Value = serde_json::from_str(&status(&state, "room-1")?.text())?;
    ensure!(status["machines"].as_array().map(Vec::len) == Some(2), "{status}");

    // Whom it means gets its order; the third one still waits.
    server.post("api/groups/room-1/restore", "")?;
    for (number, agent) in agents.into_iter().enumerate().take(2) {
        let (code, said) = site::end(agent)?;
        ensure!(code == Some(0) && world.is_restored(number)?, "{code:?} {said}");
    }
    let told = server.until(are(2, "done"))?;
    ensure!(world.machine(&told, 2)?["state"] == "waits" && !world.is_restored(2)?, "{told:?}");
    let metrics = server.ask("metrics", server.token(), None)?.1;
    let figure = "keiki_group_machines{group=\"room-1\",state=\"done\"} 2";
    ensure!(metrics.contains(figure), "{metrics}");

    // Off, and woken by one word; and once more restored, where that is said and not taken back.
    let macs = machines.iter().map(|one| field(one, "mac")).collect::<Result<Vec<_>>>()?;
    std::thread::sleep(Duration::from_secs(21));
    let heard = [world.hears(0, &macs[0])?, world.hears(1, &macs[1])?];
    let (_, said) = server.ask("api/groups/room-1/wake", server.token(), Some(""))?;
    ensure!(said == r#"{"machines":2}"#, "{said}");
    for machine in heard {
        machine.join().map_err(|_| anyhow!("a thread panicked"))??;
    }
    server.post("api/groups/room-1/restore", "")?;
    server.until(are(2, "called"))?;
    server.post("api/groups/room-1/stop", "")?;
    server.until(are(3, "waits"))?;
    let again = world.agent(0, &key)?;
    server.until(|machines| {
        let is_held = |one: &Value| one["address"].is_string() && !one["limit"].is_null();
        machines.iter().any(is_held)
    })?;
    drop(again);
    Ok(())
}
