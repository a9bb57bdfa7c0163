//! `keiki serve` with real clients in another network at its cable, and beside a real DHCP server.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use image_core::exec::Call;
use image_core::exec::real::{Beside, Machine};
use keiki_tests::bench::Bench;
use keiki_tests::network::{self, Neighbour};
use keiki_tests::{binary, call, keiki, run, schema, serving, tool};
use netboot::{check, interface};
use serde_json::Value;

const RANGE: [&str; 2] = ["--dhcp-range", "10.77.0.50-10.77.0.99"];

/// What `keiki serve` says where it does not begin.
fn refused(options: &[&str]) -> Result<String> {
    let mut call = Call::new(binary::keiki(), ["serve", "--interface", "br0"]);
    call.args.extend(options.iter().map(Into::into));
    let outcome = tool::outcome(&call)?;
    ensure!(outcome.code == Some(3), "{:?}: {}", outcome.code, outcome.talk());
    Ok(outcome.talk())
}

/// Hands out addresses, with its state in this folder.
fn serve(bench: &Bench) -> Result<Beside> {
    let state = bench.path("state").display().to_string();
    serving::serve("br0", &[&RANGE[..], &["--state", &state]].concat())
}

/// What a machine says that asks for an address, and takes it.
fn ask(bench: &Bench, client: &Neighbour) -> Result<String> {
    let script = bench.path("script");
    let text = "#!/bin/sh\n[ $1 = bound ] && ip addr replace $ip/$mask dev $interface && echo got $ip\nexit 0\n";
    fs::write(&script, text)?;
    tool::run(&call!("chmod", "755", &script))?;
    client.run(&call!("busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-s", &script))
}

/// busybox, curl and tftp get an address and files; nothing else is there.
#[test]
fn net_clients_get_addresses_and_files() -> Result<()> {
    serving::prepare()?;
    network::own()?;
    network::cable()?;
    let client = Neighbour::new()?;
    let bench = Bench::new()?;
    let mut server = serve(&bench)?;
    let said = ask(&bench, &client)?;
    ensure!(said.contains("got 10.77.0.50"), "{said}");
    let line = server.answer()?;
    ensure!(
        line.starts_with("10.77.0.50 ") && line.contains("has its address from here"),
        "{line}"
    );

    let fetch = |url: &str, out: &str, more: &[&str]| {
        let out = bench.path(out);
        let mut call = call!("curl", "-sS", "--fail", "-m", "60", "-o", &out, url);
        call.args.extend(more.iter().map(Into::into));
        client.run(&call)?;
        fs::read(&out).with_context(|| url.to_owned())
    };
    // It may be any telephone: it is on the page once it fetches what boots.
    let board = || {
        Ok::<_, anyhow::Error>(String::from_utf8(fetch(
            "http://10.77.0.1/board.json",
            "board",
            &[],
        )?)?)
    };
    ensure!(board()?.ends_with("\"machines\":[]}"), "{}", board()?);
    let whole = fetch("http://10.77.0.1/boot/vmlinuz", "http", &[])?;
    let line = server.answer()?;
    ensure!(board()?.contains("\"stage\":\"loads its system\""), "{}", board()?);
    ensure!(line.contains("fetched boot/vmlinuz") && line.contains("HTTP)"), "{line}");
    ensure!(whole.get(0x202..0x206) == Some(b"HdrS"), "it is no kernel");
    for options in [vec![], vec!["--tftp-blksize", "1428"], vec!["--tftp-no-options"]] {
        let got = fetch("tftp://10.77.0.1//boot/vmlinuz", "tftp", &options)?;
        ensure!(got == whole, "{options:?}");
        let line = server.answer()?;
        ensure!(line.contains("fetched boot/vmlinuz") && line.contains("TFTP)"), "{line}");
    }
    let end = fetch("http://10.77.0.1/boot/vmlinuz", "end", &["-r", "-1000"])?;
    ensure!(whole.ends_with(&end) && end.len() == 1000);
    for nowhere in ["tftp://10.77.0.1/none", "http://10.77.0.1/none", "http://10.77.0.1/"] {
        ensure!(fetch(nowhere, "none", &[]).is_err(), "{nowhere}");
    }

    // Another one does not begin beside it, in neither mode.
    let said = refused(&RANGE)?;
    ensure!(said.contains("another program on this machine is a DHCP server on br0"), "{said}");
    let said = refused(&[])?;
    ensure!(said.contains("udp port 67 is used") && said.contains("ss -lunp"), "{said}");
    Ok(())
}

/// A server that is killed and started again gives no address to two machines: neither that of one that is off just then, which the
/// list has, nor, without the list, that of one that answers.
#[test]
fn net_addresses_stay_whose_they_are() -> Result<()> {
    serving::prepare()?;
    network::own()?;
    network::cable()?;
    let clients = [Neighbour::new()?, Neighbour::plugged("veth1")?, Neighbour::plugged("veth2")?];
    let bench = Bench::new()?;
    let gets = |client: usize, number: u8| {
        let said = ask(&bench, &clients[client])?;
        ensure!(said.contains(&format!("got 10.77.0.{number}\n")), "{client}: {said}");
        Ok(())
    };
    let server = serve(&bench)?;
    gets(0, 50)?;
    drop(server);
    clients[0].run(&call!("ip", "addr", "flush", "dev", "eth0"))?;
    let server = serve(&bench)?;
    gets(1, 51)?;
    gets(0, 50)?;
    drop(server);
    let list = bench.path("state/leases-br0.json");
    ensure!(fs::read_to_string(&list)?.contains("10.77.0.51"), "it is not written down");
    fs::write(&list, "}")?;
    let server = serve(&bench)?;
    gets(2, 52)?;
    gets(1, 51)?;
    run!("kill", "-INT", server.id().to_string())?;
    let said = server.finish(Duration::from_secs(60))?.talk();
    ensure!(said.contains("leases-br0.json is no list of addresses"), "{said}");
    Ok(())
}

/// Beside another server nobody but firmware is answered, and no address is handed out.
#[test]
fn net_no_address_is_handed_out_beside_another_server() -> Result<()> {
    serving::prepare()?;
    network::own()?;
    network::cable()?;
    let other = Neighbour::new()?;
    let _dhcp = other.dhcp(&[])?;
    let said = refused(&RANGE)?;
    ensure!(said.contains("10.77.0.2 answers on br0") && said.contains("--dhcp-range"), "{said}");
    let _server = serving::serve("br0", &[])?;
    drop(_dhcp);
    let (is_given, said) = other.asks_for_an_address()?;
    ensure!(!is_given, "{said}");
    Ok(())
}

/// What hinders multicast on this machine is told before it begins, with what mends it.
#[test]
fn net_what_hinders_multicast_is_told() -> Result<()> {
    network::own()?;
    network::switch()?;
    let check = || check::multicast(&interface::choose(Some("br0"))?);
    ensure!(check()?.is_none(), "{:?}", check()?);
    for (hook, words) in [("input", "on br0 does not come back"), ("output", "on br0 is not sent")]
    {
        let chain = format!("type filter hook {hook} priority 0; meta l4proto udp drop;");
        run!("nft", format!("table inet wall {{ chain wall {{ {chain} }}; }}"))?;
        let said = check()?.context("nothing was told of the firewall")?;
        ensure!(said.contains(words) && said.contains("nft list ruleset"), "{said}");
        run!("nft", "delete table inet wall")?;
    }
    ensure!(check()?.is_none(), "{:?}", check()?);
    run!("ip", "link", "set", "dev", "br0", "multicast", "off")?;
    let said = refused(&[])?;
    ensure!(said.contains("ip link set dev br0 multicast on"), "{said}");
    Ok(())
}

/// Programs read the first line.
#[test]
fn net_the_first_line_for_programs_is_as_described() -> Result<()> {
    let bench = Bench::new()?;
    let disk = bench.path("disk");
    fs::write(&disk, [7; 1 << 20])?;
    bench.save("lab", &[disk])?;
    network::own()?;
    network::switch()?;
    let [repo, state] = ["repo", "state"].map(|name| bench.path(name));
    let words = ["serve", "--interface", "br0", "--no-boot", "--image", "lab"];
    let mut call = keiki!("--json", "--repo", repo).env("KEIKI_STATE", state);
    call.args.extend(words.map(Into::into));
    let told: Value = serde_json::from_str(&Machine.spawn(&call)?.answer()?)?;
    schema::check("serve", &told)?;
    ensure!(told["image"] == "lab" && told["networks"][0]["dhcp"] == "none", "{told}");
    Ok(())
}
