//! Addresses of the machine's network interfaces.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::Result;
use image_core::exec::Call;

use super::super::Menu;
use super::super::ask::Item;
use super::check;
use crate::network;

/// Asks for an interface and gives it an address.
pub fn run(menu: &mut Menu<'_>) -> Result<()> {
    loop {
        menu.ask.busy("Looking at the network");
        let interfaces = network::interfaces();
        if interfaces.is_empty() {
            menu.tell(
                "This machine has no network interface that is known; see dmesg in the shell.",
            );
            return Ok(());
        }
        let items: Vec<Item> =
            interfaces.iter().map(|name| Item::new(format!("{name:<12}{}", state(name)))).collect();
        let Some(name) = menu.choose("Network", &items, 0)?.and_then(|at| interfaces.get(at))
        else {
            return Ok(());
        };
        let ways = [
            Item::new("By DHCP").with("the network has a server that gives addresses"),
            Item::new("By hand").with("address, gateway and name server are typed"),
        ];
        match menu.choose(&format!("How does {name} get its address?"), &ways, 0)? {
            Some(0) => by_dhcp(menu, name)?,
            Some(_) => by_hand(menu, name)?,
            None => continue,
        }
        menu.tell(&format!("{name}: {}", state(name)));
    }
}

/// The address of an interface, or why it has none.
fn state(name: &str) -> String {
    match network::address(name) {
        Some(address) => address,
        None if network::is_plugged(name) => "connected, no address yet".to_owned(),
        None => "no cable, or the other end is off".to_owned(),
    }
}

fn by_dhcp(menu: &mut Menu<'_>, name: &str) -> Result<()> {
    if !super::attend(menu, &network::lease(name))? {
        menu.tell("No DHCP server answered.");
    }
    Ok(())
}

fn by_hand(menu: &mut Menu<'_>, name: &str) -> Result<()> {
    let question = "Address with the length of its prefix, for example 192.168.1.20/24";
    let Some(address) = menu.ask.line(question, "", &|text| prefixed(text))? else { return Ok(()) };
    let question = "Gateway, or nothing";
    let Some(gateway) = menu.ask.line(question, "", &optional)? else { return Ok(()) };
    let question = "Name server, or nothing";
    let Some(server) = menu.ask.line(question, "", &optional)? else { return Ok(()) };
    check(&Call::new("ip", ["addr", "flush", "dev", name]))?;
    check(&Call::new("ip", ["addr", "add", &address, "dev", name]))?;
    if !gateway.is_empty() {
        check(&Call::new("ip", ["route", "replace", "default", "via", &gateway, "dev", name]))?;
    }
    if !server.is_empty() {
        fs::write("/etc/resolv.conf", format!("nameserver {server}\n"))?;
    }
    Ok(())
}

/// Whether a text is an address with a prefix.
fn prefixed(text: &str) -> Result<(), String> {
    let parts = text.split_once('/').and_then(|(address, prefix)| {
        Some((address.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?))
    });
    match parts {
        Some((_, 1..=32)) => Ok(()),
        _ => Err(format!("{text:?} is not like 192.168.1.20/24.")),
    }
}

fn optional(text: &str) -> Result<(), String> {
    if text.is_empty() || text.parse::<Ipv4Addr>().is_ok() {
        return Ok(());
    }
    Err(format!("{text:?} is not like 192.168.1.1."))
}

#[cfg(test)]
mod tests {
    use super::{optional, prefixed};

    #[test]
    fn addresses_are_checked_as_they_are_typed() {
        assert!(prefixed("192.168.1.20/24").is_ok());
        for wrong in
            ["192.168.1.20", "192.168.1.20/33", "192.168.1.20/0", "192.168.1/24", "a/8", ""]
        {
            assert!(prefixed(wrong).is_err(), "{wrong}");
        }
        assert!(
            optional("").is_ok() && optional("10.0.0.1").is_ok() && optional("10.0.0").is_err()
        );
    }
}
