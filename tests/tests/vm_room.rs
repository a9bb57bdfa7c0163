//! A room of emulated machines: from power-on, `keiki serve` alone at the other end of their cables, to their own restored systems.

#![allow(clippy::print_stdout, reason = "a test says how long things took")]

mod only_all {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

    use anyhow::{Context, Result, ensure};
    use image_core::units::Bytes;
    use keiki_tests::bench::Bench;
    use keiki_tests::browser::Browser;
    use keiki_tests::debian::{self, Layout};
    use keiki_tests::live::{Firmware, Live, Medium};
    use keiki_tests::site::{Site, are};
    use keiki_tests::vm::{self, Writes};
    use keiki_tests::{fixtures, garbage, judge, network, serving, volumes};

    /// The machines: how they boot, and how much larger their disks are, in percent.
    const ROOM: [(Firmware, u64); 3] =
        [(Firmware::Bios, 25), (Firmware::SecureBoot, 50), (Firmware::Uefi, 10)];

    /// What a machine of a room has of its own.
    const OWN: [&str; 4] =
        ["etc/hostname", "etc/hosts", "etc/machine-id", "var/lib/systemd/random-seed"];

    fn options(disk: &Path) -> Vec<String> {
        let drive = format!("if=none,id=disk,format=raw,cache=unsafe,file={}", disk.display());
        let words = [
            "-m",
            "1024",
            "-device",
            "virtio-rng-pci",
            "-drive",
            &drive,
            "-device",
            "virtio-blk-pci,drive=disk,serial=THE-DISK",
        ];
        words.map(str::to_owned).to_vec()
    }

    /// Switches a machine on, beside the first one where there is one.
    fn start(first: Option<&Live>, firmware: Firmware, number: u8, disk: &Path) -> Result<Live> {
        let options = options(disk);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        match first {
            None => Live::boot(firmware, Medium::Pxe, Path::new(""), &options),
            Some(first) => first.beside(firmware, number, &options),
        }
    }

    /// Takes a picture of the page once machines are being restored; it is left with the fixtures.
    fn picture(browser: &Browser) -> Result<()> {
        browser.wait("#machines", Duration::from_secs(300), |text| text.contains(" %"))?;
        let folder = fixtures::folder()?.join("pictures");
        fs::create_dir_all(&folder)?;
        browser.picture(&folder.join("room.png"))
    }

    #[test]
    fn vm_three_machines_are_let_in_and_restored_from_one_session() -> Result<()> {
        let clock = Instant::now();
        let say = |what: &str| println!("{:4} s: {what}", clock.elapsed().as_secs());
        serving::prepare()?;
        let bench = Bench::new()?;
        let source = debian::make(Layout::Gpt, &bench.path(""))?.disks;
        let before = vm::boot(Firmware::Bios, &source, Writes::Kept)?;
        let trees = volumes::trees(&source)?;
        bench.save("server", &source)?;
        let size = fs::metadata(source.first().context("a disk")?)?.len();
        let answers = bench.path("answers.toml");
        let text = "image = \"server\"\ncountdown = 5\nrepair = false\ngrow = [\"vg0/root=rest\"]\n\
                    then = \"poweroff\"\n\n[[disk]]\nserial = \"THE-DISK\"\n";
        fs::write(&answers, text)?;
        say("it is saved");

        network::own()?;
        network::switch()?;
        let count = u8::try_from(ROOM.len())?;
        (0..count).try_for_each(network::plug)?;
        let [repo, answers] = [bench.path("repo"), answers].map(|path| path.display().to_string());
        let more = ["--dhcp-range", "10.77.0.50-10.77.0.99", "--image", "server"];
        let rules = ["--answers", &answers, "--hostname", "lab-%02d"];
        let call = serving::call("br0", &[more, rules].concat())?.env("KEIKI_REPO", &repo);
        let site = Site::start(call, bench.path("state"))?;
        say("it is served");

        let disks: Vec<PathBuf> =
            (0..count).map(|number| bench.path(&format!("target-{number}"))).collect();
        let mut machines: Vec<Live> = Vec::new();
        for ((number, disk), (firmware, more)) in (0..).zip(&disks).zip(ROOM) {
            garbage::fill(disk, Bytes::new(size / 100 * (100 + more)).align_up(Bytes::MIB))?;
            machines.push(start(machines.first(), firmware, number, disk)?);
        }
        // They have one UUID, and are told apart.
        site.until(are(ROOM.len(), "waits"))?;
        say("all of them wait for a word");
        let browser = Browser::new()?;
        browser.size(1280, 560)?;
        browser.open(&site.board)?;
        site.post("api/restore", "")?;
        for machine in &mut machines {
            machine.patiently("It begins in")?;
            say("a machine begins");
        }
        picture(&browser)?;
        let last = machines.last_mut().context("a machine")?;
        last.patiently("writing: ")?;
        machines.pop();
        let number = count - 1;
        let disk = disks.last().context("a disk")?;
        let (firmware, _) = ROOM[usize::from(number)];
        let mut again = start(machines.first(), firmware, number, disk)?;
        say("the last loses its power, and is switched on again");
        again.patiently("It begins in")?;
        machines.push(again);
        for machine in &mut machines {
            let said = machine.patiently(" is restored.")?;
            ensure!(!said.contains("fetched"), "{said}");
            say("a machine is restored");
        }
        for machine in &mut machines {
            machine.ended()?;
        }
        drop(machines);
        let told = site.until(are(ROOM.len(), "done"))?;
        let name = |number: u8| {
            let mac = if number == 0 { 0x56 } else { number };
            let mac = format!("52:54:00:12:34:{mac:02x}");
            let machine = told.iter().find(|one| one["mac"] == mac.as_str());
            let name = machine.and_then(|machine| machine["hostname"].as_str());
            Ok::<_, anyhow::Error>(name.with_context(|| format!("{told:?}"))?.to_owned())
        };
        let mut seen = BTreeSet::new();
        for (number, (disk, (firmware, _))) in (0..).zip(disks.iter().zip(ROOM)) {
            let disk = std::slice::from_ref(disk);
            judge::disks(disk)?;
            let found = volumes::trees(disk)?;
            for (id, tree) in &trees {
                let changed = tree.changed(found.get(id).with_context(|| id.clone())?);
                let is_own = |path: &PathBuf| OWN.iter().any(|own| path == Path::new(own));
                ensure!(changed.iter().all(is_own), "{id}: {changed:?}");
            }
            let after = vm::boot(firmware, disk, Writes::Discarded)?;
            ensure!(after.health()? == before.health()?, "{}", after.text());
            ensure!(after.section("host")? == name(number)?, "{}", after.text());
            // Each name and each machine's id once.
            ensure!(seen.insert(after.section("host")?.to_owned()), "{seen:?}");
            ensure!(seen.insert(after.section("machine")?.to_owned()), "{seen:?}");
            say(&format!("one has run by {firmware:?}"));
        }
        // Switched on again, with its adapter first: it gets no boot file, and starts from its disk.
        let (disk, (firmware, _)) = disks.iter().zip(ROOM).next().context("a disk")?;
        let mut again = start(None, firmware, 0, disk)?;
        again.patiently(&format!("{} login:", name(0)?))?;
        say("the first starts from its disk");
        again.ended()?;
        Ok(())
    }
}
