//! Machines of a group, and a word for all of them: real processes, each in its own network at one switch.

use std::fs;

use anyhow::{Context, Result, anyhow, ensure};
use keiki_tests::site::{self, World, are};
use keiki_tests::{keiki, tool};
use serde_json::{Value, json};

/// A field of a machine, as text.
fn field(machine: &Value, name: &str) -> Result<String> {
    Ok(machine[name].as_str().with_context(|| format!("{name} of {machine}"))?.to_owned())
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
    let csv = format!("mac,group\n{},room-1\n", field(&machines[1], "mac")?);
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
    ensure!(found == expected && of_group("room-2")?.is_empty(), "{found:?}");
    let state = world.bench.path("state");
    let status = keiki!(
        "--json",
        "serve",
        "status",
        "--interface",
        "br0",
        "--state",
        state,
        "--group",
        "room-1"
    );
    let status: Value = serde_json::from_str(&tool::run(&status)?)?;
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
    std::thread::sleep(std::time::Duration::from_secs(21));
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
