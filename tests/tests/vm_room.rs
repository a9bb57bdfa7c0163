//! Rooms of emulated machines: from power-on, with `keiki serve` at the other end of their cables, to their own restored systems.

#![allow(clippy::print_stdout, reason = "a test says how long things took")]

mod only_all {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

    use anyhow::{Context, Result, ensure};
    use image_core::exec::real::Beside;
    use image_core::units::Bytes;
    use keiki_tests::bench::Bench;
    use keiki_tests::browser::Browser;
    use keiki_tests::debian::{self, Layout};
    use keiki_tests::live::{Firmware, Live, Medium};
    use keiki_tests::network::{self, Neighbour};
    use keiki_tests::site::{Site, are};
    use keiki_tests::tree::Tree;
    use keiki_tests::vm::{self, Report, Writes};
    use keiki_tests::{fixtures, garbage, judge, serving, volumes};

    /// How a machine boots, and how much larger its disk is, in percent.
    type Kind = (Firmware, Medium, u64);

    const PXE: [Kind; 3] = [
        (Firmware::Bios, Medium::Pxe, 25),
        (Firmware::SecureBoot, Medium::Pxe, 50),
        (Firmware::Uefi, Medium::Pxe, 10),
    ];
    const HTTP: [Kind; 2] =
        [(Firmware::SecureBoot, Medium::Http, 50), (Firmware::Uefi, Medium::Http, 10)];

    /// Our server has no other beside it, and hands out the addresses.
    const ALONE: Option<&[&str]> = None;
    /// Another one hands out the addresses.
    const OTHER: Option<&[&str]> = Some(&[]);
    /// It names a boot file too, in an option.
    const OTHER_FILE: Option<&[&str]> = Some(&["--dhcp-boot=other.efi,,10.77.0.2"]);
    /// It does so in the head of its packets, where shim looks first.
    const OTHER_HEAD: Option<&[&str]> =
        Some(&["--dhcp-boot=other.efi,,10.77.0.2", "--dhcp-no-override"]);

    /// It names our file for BIOS, as docs/NETBOOT.md has it for firmware that takes no second server.
    const OTHER_OURS: Option<&[&str]> = Some(&["--dhcp-boot=keiki.pxe,,10.77.0.1"]);

    /// Each machine gets a name of its own.
    const NAMES: [&str; 2] = ["--hostname", "lab-%02d"];

    /// What a machine of a room has of its own.
    const OWN: [&str; 4] =
        ["etc/hostname", "etc/hosts", "etc/machine-id", "var/lib/systemd/random-seed"];

    /// UEFI says this when it asks for something to boot over the network.
    const ASKS: &str = ">>Start ";

    /// An image of a Debian that has run, and a server that sends it to machines at a switch.
    struct Room {
        site: Site,
        _other: Option<(Neighbour, Beside)>,
        kinds: &'static [Kind],
        size: u64,
        before: Report,
        trees: BTreeMap<String, Tree>,
        bench: Bench,
        clock: Instant,
    }

    impl Room {
        /// A room beside that other DHCP server, if there is one, and with these rules for names.
        fn new(kinds: &'static [Kind], other: Option<&[&str]>, names: &[&str]) -> Result<Self> {
            let clock = Instant::now();
            serving::prepare()?;
            let bench = Bench::new()?;
            let source = debian::make(Layout::Gpt, &bench.path(""))?.disks;
            let before = vm::boot(Firmware::Bios, &source, Writes::Kept)?;
            let trees = volumes::trees(&source)?;
            bench.save("server", &source)?;
            let size = fs::metadata(source.first().context("a disk")?)?.len();
            let answers = bench.path("answers.toml");
            let text = "image = \"server\"\ncountdown = 5\nrepair = false\ngrow = [\"vg0/root=rest\"]\n\
                        then = \"reboot\"\n\n[[disk]]\nserial = \"THE-DISK\"\n";
            fs::write(&answers, text)?;

            network::own()?;
            network::switch()?;
            (0..u8::try_from(kinds.len())?).try_for_each(network::plug)?;
            let neighbour = |options| {
                let other = Neighbour::plugged("veth0")?;
                let dhcp = other.dhcp(options)?;
                Ok::<_, anyhow::Error>((other, dhcp))
            };
            let other = other.map(neighbour).transpose()?;
            let range: &[&str] = match other {
                None => &["--dhcp-range", "10.77.0.50-10.77.0.99"],
                Some(_) => &[],
            };
            let [repo, answers] =
                [bench.path("repo"), answers].map(|path| path.display().to_string());
            let more = [range, &["--image", "server", "--answers", &answers], names].concat();
            let call = serving::call("br0", &more)?.env("KEIKI_REPO", &repo);
            let site = Site::start(call, bench.path("state"))?;
            let room = Self { site, _other: other, kinds, size, before, trees, bench, clock };
            room.say("it is served");
            Ok(room)
        }

        fn say(&self, what: &str) {
            println!("{:4} s: {what}", self.clock.elapsed().as_secs());
        }

        fn disk(&self, number: u8) -> PathBuf {
            self.bench.path(&format!("target-{number}"))
        }

        /// Switches a machine on, beside the first one where there is one. Its adapter comes before its disk.
        fn start(&self, first: Option<&Live>, number: u8) -> Result<Live> {
            let (firmware, medium, _) = self.kinds[usize::from(number)];
            let disk = self.disk(number);
            let drive = format!("if=none,id=disk,format=raw,cache=unsafe,file={}", disk.display());
            let options = [
                "-m",
                "1024",
                "-device",
                "virtio-rng-pci",
                "-drive",
                &drive,
                "-device",
                "virtio-blk-pci,drive=disk,serial=THE-DISK,bootindex=1",
            ];
            match first {
                None => Live::boot(firmware, medium, Path::new(""), &options),
                Some(first) => first.beside((firmware, medium), number, &options),
            }
        }

        /// Switches all of them on, and lets them in once they wait.
        fn let_in(&self) -> Result<Vec<Live>> {
            let mut machines: Vec<Live> = Vec::new();
            for (number, (_, _, more)) in (0..).zip(self.kinds) {
                let size = Bytes::new(self.size / 100 * (100 + more)).align_up(Bytes::MIB);
                garbage::fill(&self.disk(number), size)?;
                machines.push(self.start(machines.first(), number)?);
            }
            for (machine, (firmware, ..)) in machines.iter_mut().zip(self.kinds) {
                let said = machine.patiently("Press any key to see the menu")?;
                ensure!(said.contains(ASKS) == (*firmware != Firmware::Bios), "{said}");
                self.say("a machine waits");
            }
            // They have one UUID, and are told apart.
            self.site.until(are(self.kinds.len(), "waits"))?;
            self.site.post("api/restore", "")?;
            for machine in &mut machines {
                machine.patiently("It begins in")?;
                self.say("a machine begins");
            }
            Ok(machines)
        }

        /// Waits until they are restored and have started from their disks; each has to be what was saved, with a name of its own.
        fn come_up(&self, mut machines: Vec<Live>) -> Result<()> {
            for machine in &mut machines {
                let said = machine.patiently(" is restored.")?;
                ensure!(!said.contains("fetched"), "{said}");
                self.say("a machine is restored");
            }
            machines.iter_mut().try_for_each(Live::ended)?;
            let told = self.site.until(are(self.kinds.len(), "done"))?;
            let mut names = Vec::new();
            for (number, _) in (0..).zip(self.kinds) {
                self.compare(&self.disk(number))?;
                let mac = if number == 0 { 0x56 } else { number };
                let mac = format!("52:54:00:12:34:{mac:02x}");
                let machine = told.iter().find(|one| one["mac"] == mac.as_str());
                let name = machine.and_then(|machine| machine["hostname"].as_str());
                names.push(name.with_context(|| format!("{told:?}"))?);
            }
            // UEFI was told to start from the disk, and asks for nothing before; BIOS gets no boot file.
            let mut machines = machines.into_iter().map(Live::again).collect::<Result<Vec<_>>>()?;
            for (machine, name) in machines.iter_mut().zip(&names) {
                let said = machine.patiently(&format!("{name} login:"))?;
                ensure!(!said.contains(ASKS), "{said}");
                self.say(&format!("{name} has started from its disk"));
            }
            machines.iter_mut().try_for_each(Live::ended)?;
            drop(machines);
            let mut seen = BTreeSet::new();
            for ((number, (firmware, ..)), name) in (0..).zip(self.kinds).zip(names) {
                let after = vm::boot(*firmware, &[self.disk(number)], Writes::Discarded)?;
                ensure!(after.health()? == self.before.health()?, "{}", after.text());
                ensure!(after.section("host")? == name, "{}", after.text());
                // Each name and each machine's id once.
                ensure!(seen.insert(after.section("host")?.to_owned()), "{seen:?}");
                ensure!(seen.insert(after.section("machine")?.to_owned()), "{seen:?}");
                self.say(&format!("one has run by {firmware:?}"));
            }
            Ok(())
        }

        /// Whether a disk has what was saved, but for what is a machine's own.
        fn compare(&self, disk: &Path) -> Result<()> {
            let disks = [disk.to_owned()];
            judge::disks(&disks)?;
            let found = volumes::trees(&disks)?;
            for (id, tree) in &self.trees {
                let changed = tree.changed(found.get(id).with_context(|| id.clone())?);
                let is_own = |path: &PathBuf| OWN.iter().any(|own| path == Path::new(own));
                ensure!(changed.iter().all(is_own), "{id}: {changed:?}");
            }
            Ok(())
        }
    }

    /// Takes a picture of the page once machines are being restored; it is left with the fixtures.
    fn picture(board: &str) -> Result<()> {
        let browser = Browser::new()?;
        browser.size(1280, 560)?;
        browser.open(board)?;
        browser.wait("#machines", Duration::from_secs(300), |text| text.contains(" %"))?;
        let folder = fixtures::folder()?.join("pictures");
        fs::create_dir_all(&folder)?;
        browser.picture(&folder.join("room.png"))
    }

    fn restored(kinds: &'static [Kind], other: Option<&[&str]>) -> Result<()> {
        let room = Room::new(kinds, other, &NAMES)?;
        room.come_up(room.let_in()?)
    }

    #[test]
    fn vm_three_machines_are_let_in_and_restored_from_one_session() -> Result<()> {
        let room = Room::new(&PXE, ALONE, &NAMES)?;
        let mut machines = room.let_in()?;
        picture(&room.site.board)?;
        let mut last = machines.pop().context("a machine")?;
        last.patiently("writing: ")?;
        drop(last);
        let mut again = room.start(machines.first(), 2)?;
        room.say("the last loses its power, and is switched on again");
        again.patiently("It begins in")?;
        machines.push(again);
        room.come_up(machines)
    }

    #[test]
    fn vm_a_room_beside_another_server() -> Result<()> {
        restored(&PXE, OTHER)
    }

    #[test]
    fn vm_a_room_beside_another_server_with_a_boot_file() -> Result<()> {
        restored(&PXE, OTHER_FILE)
    }

    /// It starts our GRUB for ever: that is told who was restored.
    #[test]
    fn vm_bios_starts_its_disk_where_another_server_names_our_file() -> Result<()> {
        restored(&PXE[..1], OTHER_OURS)
    }

    #[test]
    fn vm_a_room_over_http() -> Result<()> {
        restored(&HTTP, ALONE)
    }

    #[test]
    fn vm_a_room_over_http_beside_another_server_with_a_boot_file() -> Result<()> {
        restored(&HTTP, OTHER_HEAD)
    }

    /// Nobody makes an entry for the disk where the system is not repaired.
    #[test]
    fn vm_uefi_without_an_entry_for_its_disk_gets_no_boot_file() -> Result<()> {
        let room = Room::new(&PXE[2..], ALONE, &[])?;
        let mut machine = room.let_in()?.pop().context("a machine")?;
        machine.patiently("The firmware is not told to start from the disk")?;
        machine.ended()?;
        let mut machine = machine.again()?;
        let said = machine.patiently("login:")?;
        ensure!(said.contains(ASKS), "{said}");
        machine.ended()
    }
}
