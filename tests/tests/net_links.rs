//! One `keiki serve` for machines of two networks, between which nothing goes.

use anyhow::{Context, Result, ensure};
use keiki_tests::bench::Bench;
use keiki_tests::network::{self, FAR, HERE, Neighbour};
use keiki_tests::site::{World, are, end};
use keiki_tests::{call, serving};

/// A machine in each network waits for one word, and gets the image by the multicast of its own network.
#[test]
fn net_machines_of_two_networks_are_restored_by_one_server() -> Result<()> {
    let world = World::new(2, &[])?;
    network::second_switch()?;
    world.machines[1].moved("port1", 101)?;
    let answers = world.bench.path("answers.toml").display().to_string();
    let world = world.again(&["--interface", "br1", "--answers", &answers])?;
    let key = world.site.key.clone();
    let agents = [world.agent(0, &key)?, world.agent_of(1, (FAR, &key))?];
    let machines = world.site.until(are(2, "waits"))?;
    for (number, network) in [(0, "10.77."), (1, "10.78.")] {
        let machine = world.machine(&machines, number)?;
        let address = machine["address"].as_str().context("address")?;
        ensure!(address.starts_with(network), "{address}");
    }
    world.site.post("api/restore", "")?;
    for agent in agents {
        let (code, said) = end(agent)?;
        ensure!(code == Some(0) && !said.contains("fetched"), "{code:?}: {said}");
    }
    ensure!(world.is_restored(0)? && world.is_restored(1)?);
    let told = world.site.status()?;
    for (at, interface) in ["br0", "br1"].iter().enumerate() {
        let sent = &told["sent"][at];
        let is_sent = sent["sent_bytes"].as_u64() > Some(12 << 20);
        ensure!(sent["interface"] == *interface && is_sent, "{told}");
    }
    Ok(())
}

/// Addresses are handed out in one network and not in the other, and each is told the server's address there.
#[test]
fn net_each_network_has_its_own_addresses_and_files() -> Result<()> {
    serving::prepare()?;
    network::own()?;
    network::switch()?;
    network::second_switch()?;
    let [near, far] = ["veth0", "veth1"].map(Neighbour::plugged);
    let (near, far) = (near?, far?);
    near.address(100)?;
    far.moved("veth1", 10)?;
    far.run(&call!("ip", "addr", "flush", "dev", "eth0"))?;
    let bench = Bench::new()?;
    let state = bench.path("state").display().to_string();
    let options = ["--dhcp-range", "10.78.0.50-10.78.0.99", "--state", &state];
    let _server = serving::serve("br0,br1", &options)?;
    let (is_given, said) = near.asks_for_an_address()?;
    ensure!(!is_given, "{said}");
    let (_, said) = far.asks_for_an_address()?;
    ensure!(said.contains("lease of 10.78.0.50 obtained from 10.78.0.1"), "{said}");
    far.moved("veth1", 50)?;
    for (machine, server) in [(&near, HERE), (&far, FAR)] {
        let url = format!("http://{server}/grub/grub.cfg");
        let menu = machine.run(&call!("curl", "-sS", "--fail", "-m", "60", url))?;
        ensure!(menu.contains(&format!("set root=(http,{server})")), "{menu}");
    }
    Ok(())
}
