//! A room of emulated machines: from power-on, `keiki serve` alone at the other end of their cables, to their own restored systems.

#![allow(clippy::print_stdout, reason = "a test says how long things took")]

mod only_all {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::time::Instant;

    use anyhow::{Context, Result, ensure};
    use image_core::exec::real::Machine;
    use image_core::units::Bytes;
    use keiki_tests::bench::Bench;
    use keiki_tests::debian::{self, Layout};
    use keiki_tests::live::{Firmware, Live, Medium};
    use keiki_tests::vm::{self, Writes};
    use keiki_tests::{garbage, judge, network, serving, volumes};

    /// The machines: how they boot, and how much larger their disks are, in percent.
    const ROOM: [(Firmware, u64); 3] =
        [(Firmware::Uefi, 10), (Firmware::SecureBoot, 50), (Firmware::Uefi, 25)];

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

    #[test]
    fn vm_three_machines_are_restored_from_one_session() -> Result<()> {
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
        let options_of_server = [&more[..], &["--unattended", &answers]].concat();
        let call = serving::call("br0", &options_of_server)?.env("KEIKI_REPO", &repo);
        let mut server = Machine.spawn(&call)?;
        let said = server.answer()?;
        ensure!(said.starts_with("Serving on"), "{said}");
        say("it is served");

        let disks: Vec<PathBuf> =
            (0..count).map(|number| bench.path(&format!("target-{number}"))).collect();
        let mut machines: Vec<Live> = Vec::new();
        for ((number, disk), (firmware, more)) in (0..).zip(&disks).zip(ROOM) {
            garbage::fill(disk, Bytes::new(size / 100 * (100 + more)).align_up(Bytes::MIB))?;
            let options = options(disk);
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let machine = match machines.first() {
                None => Live::boot(firmware, Medium::Pxe, Path::new(""), &options)?,
                Some(first) => first.beside(firmware, number, &options)?,
            };
            machines.push(machine);
        }
        for machine in &mut machines {
            machine.patiently("It begins in")?;
            say("a machine begins");
        }
        for machine in &mut machines {
            let said = machine.patiently("The image server is restored.")?;
            ensure!(!said.contains("fetched"), "{said}");
            say("a machine is restored");
        }
        for machine in &mut machines {
            machine.ended()?;
        }
        drop(machines);
        drop(server);
        for (disk, (firmware, _)) in disks.iter().zip(ROOM) {
            let disk = std::slice::from_ref(disk);
            judge::disks(disk)?;
            volumes::expect_same(&trees, &volumes::trees(disk)?)?;
            let after = vm::boot(firmware, disk, Writes::Discarded)?;
            ensure!(after.health()? == before.health()?, "{}", after.text());
            say(&format!("one has run by {firmware:?}"));
        }
        Ok(())
    }
}
