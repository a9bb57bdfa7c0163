//! Machines without a disk, from power-on to the menu, with `keiki serve` at the other end of their cable.

#![allow(clippy::print_stdout, reason = "a test says how long a boot took")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use image_core::exec::real::Beside;
use keiki_tests::bench::Bench;
use keiki_tests::live::{Firmware, Live, Medium};
use keiki_tests::proof::Facts;
use keiki_tests::site::{Site, are};
use keiki_tests::{fixtures, network, run, sample_disk, serving, sparse};

const RANGE: [&str; 2] = ["--dhcp-range", "10.77.0.50-10.77.0.99"];

/// Boots a machine to the menu; what was fetched meanwhile, in the words of the server, and the kernel's own words.
fn booted(firmware: Firmware, medium: Medium, server: &mut Beside) -> Result<Vec<String>> {
    let more = ["-m", "1024", "-device", "virtio-rng-pci"];
    let mut machine = Live::boot(firmware, medium, Path::new(""), &more)?;
    machine.patiently("Booting `Keiki")?;
    machine.shell()?;
    println!("{firmware:?} {medium:?}: a shell after {:.1?}", machine.age());
    let mut lines = Vec::new();
    loop {
        let line = server.answer()?;
        print!("{line}");
        let is_last = line.contains("boot/settings.img") || line.is_empty();
        lines.push(line);
        if is_last {
            break;
        }
    }
    let told = machine.run("grep -h -e multicast -e known /run/keiki/log")?;
    println!("{}", told.trim());
    ensure!(told.contains("came by multicast and"), "{told}");
    machine.run("grep -q keiki.adapter=$(cat /sys/class/net/eth0/address) /proc/cmdline")?;
    let kernel = machine.run("dmesg")?;
    let is_locked = kernel.contains("Secure boot enabled");
    ensure!(is_locked == (firmware == Firmware::SecureBoot), "{kernel}");
    Ok(lines)
}

fn has(lines: &[String], words: [&str; 2]) -> bool {
    lines.iter().any(|line| words.iter().all(|word| line.contains(word)))
}

fn fetched(lines: &[String], (kind, first): (&str, &str)) -> Result<()> {
    for words in [
        [kind, "is told to boot"],
        ["52:54:00:", first],
        ["fetched boot/vmlinuz", "HTTP"],
        ["fetched boot/first.img", "HTTP"],
        ["fetched boot/settings.img", "HTTP"],
    ] {
        ensure!(has(lines, words), "{words:?}: {lines:?}");
    }
    Ok(())
}

/// A server that is alone on its network.
fn alone() -> Result<Beside> {
    serving::prepare()?;
    network::own()?;
    network::cable()?;
    let state = state()?;
    if state.exists() {
        std::fs::remove_dir_all(state)?;
    }
    again()
}

/// Where it keeps who has which address.
fn state() -> Result<PathBuf> {
    Ok(fixtures::folder()?.join("state-vm_serve"))
}

/// The same server, started again.
fn again() -> Result<Beside> {
    let state = state()?.display().to_string();
    serving::serve("tap0", &[&RANGE[..], &["--state", &state]].concat())
}

#[test]
fn vm_bios_boots_from_the_server_alone() -> Result<()> {
    let lines = booted(Firmware::Bios, Medium::Pxe, &mut alone()?)?;
    fetched(&lines, ("BIOS", "fetched keiki.pxe"))
}

mod only_all {
    use super::*;

    /// The server ends as soon as the first stage has an address, and comes again.
    #[test]
    fn vm_a_first_stage_says_what_hinders_it_and_goes_on() -> Result<()> {
        let mut server = alone()?;
        let more = ["-m", "1024", "-device", "virtio-rng-pci"];
        let mut machine = Live::boot(Firmware::Bios, Medium::Pxe, Path::new(""), &more)?;
        while !server.answer()?.contains("has its address from here") {}
        drop(server);
        let said = machine.patiently("Enter opens a shell")?;
        ensure!(said.contains("10.77.0.1") && said.contains("eth0 "), "{said}");
        machine.send("\r")?;
        machine.expect("/ # ")?;
        machine.run("[ ! -e /whole ] && ip link show eth0")?;
        let _server = again()?;
        machine.send("exit\r")?;
        machine.patiently("came by multicast")?;
        machine.shell()
    }

    /// A port of a switch that looks for loops (spanning tree) passes nothing on for 50 s, once the kernel has begun with the adapter.
    #[test]
    fn vm_a_port_that_is_silent_for_50_s_is_waited_for() -> Result<()> {
        serving::prepare()?;
        let bench = Bench::new()?;
        network::own()?;
        network::switch()?;
        network::plug(0)?;
        let state = bench.path("state").display().to_string();
        let _server = serving::serve("br0", &[&RANGE[..], &["--state", &state]].concat())?;
        let more = ["-m", "1024", "-device", "virtio-rng-pci"];
        let mut machine = Live::boot(Firmware::Bios, Medium::Pxe, Path::new(""), &more)?;
        machine.patiently("Loading the rest of the system")?;
        run!("bridge", "link", "set", "dev", "tap0", "state", "0")?;
        std::thread::sleep(Duration::from_secs(50));
        run!("bridge", "link", "set", "dev", "tap0", "state", "3")?;
        machine.patiently("came by multicast")?;
        machine.shell()
    }

    /// Whoever stands at a machine that waits restores it by its menu, from the server's list, and lets it wait again.
    #[test]
    fn vm_a_person_restores_from_the_server_by_the_menu() -> Result<()> {
        serving::prepare()?;
        let bench = Bench::new()?;
        let [source, target] = ["source", "target"].map(|name| bench.path(name));
        sample_disk::make(&source)?;
        bench.save("lab", std::slice::from_ref(&source))?;
        let facts = Facts::of(std::slice::from_ref(&source))?;
        sparse::create(&target, sample_disk::SIZE)?;
        network::own()?;
        network::switch()?;
        network::plug(0)?;
        let call = serving::call("br0", &[&RANGE[..], &["--image", "lab"]].concat())?;
        let site = Site::start(call.env("KEIKI_REPO", bench.path("repo")), bench.path("state"))?;

        let drive = format!("if=virtio,format=raw,cache=unsafe,file={}", target.display());
        let more = ["-m", "1024", "-device", "virtio-rng-pci", "-drive", &drive];
        let mut machine = Live::boot(Firmware::Bios, Medium::Pxe, Path::new(""), &more)?;
        machine.patiently("Press any key to see the menu")?;
        site.until(are(1, "waits"))?;
        machine.send(" ")?;
        machine.walk(&[
            ("What shall be done?", "Restore an image"),
            ("where images are kept", "The server that started this machine"),
        ])?;
        machine.restore("lab", "/dev/vda")?;
        machine.expect("Restored.")?;
        machine.choose("Shall the system on it start", "No")?;
        machine.choose("What shall be done?", "Wait for the server")?;
        machine.expect("It waits: ")?;
        machine.send(" ")?;
        machine.commands(&["sync"])?;
        facts.expect(&Facts::of(&[target])?)?;
        machine.power_off()
    }

    /// A server beside another one, which hands out addresses and knows nothing of it; with more of dnsmasq's options.
    fn beside(options: &[&str]) -> Result<(Beside, network::Neighbour, Beside)> {
        serving::prepare()?;
        network::own()?;
        network::cable()?;
        let other = network::Neighbour::new()?;
        let dhcp = other.dhcp(options)?;
        Ok((serving::serve("br0", &[])?, other, dhcp))
    }

    #[test]
    fn vm_uefi_boots_from_the_server_alone() -> Result<()> {
        let lines = booted(Firmware::Uefi, Medium::Pxe, &mut alone()?)?;
        fetched(&lines, ("UEFI", "fetched shimx64.efi"))
    }

    #[test]
    fn vm_secure_boot_boots_from_the_server_alone() -> Result<()> {
        let lines = booted(Firmware::SecureBoot, Medium::Pxe, &mut alone()?)?;
        fetched(&lines, ("UEFI", "fetched shimx64.efi"))
    }

    #[test]
    fn vm_secure_boot_boots_over_http() -> Result<()> {
        let lines = booted(Firmware::SecureBoot, Medium::Http, &mut alone()?)?;
        fetched(&lines, ("UEFI over HTTP", "fetched shimx64.efi"))?;
        ensure!(!has(&lines, ["TFTP", ""]), "{lines:?}");
        Ok(())
    }

    #[test]
    fn vm_bios_boots_beside_another_server() -> Result<()> {
        let (mut server, _other, _dhcp) = beside(&[])?;
        let lines = booted(Firmware::Bios, Medium::Pxe, &mut server)?;
        fetched(&lines, ("BIOS", "fetched keiki.pxe"))
    }

    #[test]
    fn vm_secure_boot_boots_beside_another_server() -> Result<()> {
        let (mut server, _other, _dhcp) = beside(&[])?;
        let lines = booted(Firmware::SecureBoot, Medium::Pxe, &mut server)?;
        fetched(&lines, ("UEFI", "fetched shimx64.efi"))
    }

    #[test]
    fn vm_uefi_boots_over_http_beside_another_server() -> Result<()> {
        let (mut server, _other, _dhcp) = beside(&[])?;
        let lines = booted(Firmware::Uefi, Medium::Http, &mut server)?;
        fetched(&lines, ("UEFI over HTTP", "fetched shimx64.efi"))
    }

    /// Shim asks the other server for GRUB then; firmware goes on to HTTP.
    #[test]
    fn vm_secure_boot_goes_on_to_http_beside_a_boot_file_in_the_head() -> Result<()> {
        let options = ["--dhcp-boot=other.efi,,10.77.0.2", "--dhcp-no-override"];
        let (mut server, _other, _dhcp) = beside(&options)?;
        let lines = booted(Firmware::SecureBoot, Medium::Pxe, &mut server)?;
        fetched(&lines, ("UEFI over HTTP", "fetched shimx64.efi"))?;
        ensure!(!has(&lines, ["fetched grubx64.efi", "TFTP"]), "{lines:?}");
        Ok(())
    }
}
