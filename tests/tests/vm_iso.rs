//! The recovery disc, made by `keiki iso` and booted.

#![allow(clippy::print_stdout, reason = "a test says how long a boot took")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::Bench;
use keiki_tests::garbage::{self, Old};
use keiki_tests::live::{self, Firmware, Live, Medium};
use keiki_tests::loops::Loop;
use keiki_tests::vg::Vg;
use keiki_tests::web::Web;
use keiki_tests::{
    binary, call, filesystem, fixtures, kill, network, pulled, run, sources, sparse, table, tool,
};

/// Boots one way; the menu comes, and the kernel says how it was started. A picture of the screen is left for a person.
fn reaches_the_menu(firmware: Firmware, medium: Medium) -> Result<()> {
    reaches(&live::disc()?, firmware, medium)
}

/// The same with a certain disc.
fn reaches(disc: &Path, firmware: Firmware, medium: Medium) -> Result<()> {
    let mut machine = Live::boot(firmware, medium, disc, &[])?;
    machine.shell()?;
    println!("{firmware:?} {medium:?}: a shell after {:.1?}", machine.age());
    let pictures = fixtures::folder()?.join("pictures");
    fs::create_dir_all(&pictures)?;
    let picture = pictures.join(format!("{firmware:?}-{medium:?}.png"));
    drop(fs::remove_file(&picture));
    machine.picture(&picture)?;
    let kernel = machine.run("dmesg")?;
    let is_locked = kernel.contains("Secure boot enabled");
    ensure!(is_locked == (firmware == Firmware::SecureBoot), "{kernel}");
    let efi = if firmware == Firmware::Bios { "! test" } else { "test" };
    machine.run(&format!("{efi} -d /sys/firmware/efi")).map(drop)
}

#[test]
fn vm_the_disc_boots_by_bios_from_cd() -> Result<()> {
    reaches_the_menu(Firmware::Bios, Medium::Cd)
}

#[test]
fn vm_the_disc_boots_with_secure_boot_from_usb() -> Result<()> {
    let disc = live::disc()?;
    let mut machine = Live::boot(Firmware::SecureBoot, Medium::Usb, &disc, &[])?;
    machine.shell()?;
    println!("a shell after {:.1?}", machine.age());
    let kernel = machine.run("dmesg")?;
    ensure!(kernel.contains("Secure boot enabled"), "{kernel}");
    // Every program is there with everything that it needs; the tools say what they are.
    for command in [
        "lvm version",
        "mdadm --version",
        "cryptsetup --version",
        "thin_check --version",
        "e2fsck -V",
        "xfs_repair -V",
        "btrfs --version",
        "ntfsfix --version",
        "mkdir /tmp/m && truncate -s 8M /tmp/n && mkntfs -q -Q -F /tmp/n && ntfs-3g /tmp/n /tmp/m && umount /tmp/m",
        "setpriv --version",
        "fsck.fat --help",
        "fsck.exfat -V",
        "fsck.f2fs -V",
        "efibootmgr --version",
        "ssh -V",
        "sshfs --version",
        "mount.nfs -V",
        "mount.cifs -V",
        "xorriso -version",
        "mcopy --version",
        "sgdisk --version",
        "loadkeys --version",
        "keiki --version",
    ] {
        // Some end with other codes than 0; without a library or the program itself it is 127.
        machine.run(&format!("{command} > /dev/null 2>&1; [ $? -ne 127 ]"))?;
    }
    // What mtools needs besides libraries shows only where it is used.
    machine.run(
        "mkfs.vfat -C /tmp/fat 1440 && mcopy -i /tmp/fat /etc/hosts ::Hosts && mdir -i /tmp/fat ::",
    )?;
    // Volumes, for real: nothing here is activated by itself.
    machine.run(
        "modprobe -a dm-mod dm-thin-pool dm-crypt raid1 xfs btrfs ntfs3 exfat f2fs vfat nfs cifs",
    )?;
    machine.send("poweroff\r")?;
    machine.ended()
}

/// One byte of the kernel is another one: GRUB refuses it where Secure Boot is on.
#[test]
fn vm_a_changed_kernel_is_refused_by_secure_boot() -> Result<()> {
    let work = tempfile::tempdir()?;
    let changed = work.path().join("changed.iso");
    fs::copy(live::disc()?, &changed)?;
    let bytes = fs::read(&changed)?;
    // The header of a kernel's image: "HdrS" at 0x202, a version behind it.
    let at =
        bytes.windows(4).position(|window| window == b"HdrS").context("no kernel")? + (1 << 20);
    let file = fs::File::options().write(true).open(&changed)?;
    let byte = bytes.get(at).context("it ends")? ^ 1;
    file.write_all_at(&[byte], u64::try_from(at)?)?;
    let mut machine = Live::boot(Firmware::SecureBoot, Medium::Cd, &changed, &[])?;
    machine.expect("bad shim signature").map(drop)
}

/// A disc with an image and answers, and an empty disk: nothing happens where a key is pressed; without one the disk
/// becomes the one that was saved, larger; and that once.
#[test]
fn vm_an_unattended_disc_restores_once() -> Result<()> {
    let bench = Bench::new()?;
    let [source, target] = ["source", "target"].map(|name| bench.path(name));
    kill::disk(&source, Bytes::mib(164), 5)?;
    bench.save("lab", std::slice::from_ref(&source))?;
    // The image that is put there is made of differences from the one before.
    kill::put(&source, Bytes::mib(9), &kill::noise(6, Bytes::kib(4)))?;
    let saved = bench.save("lab", std::slice::from_ref(&source))?;
    ensure!(kill::number(&saved, "delta_chunks")? > 0, "{saved}");
    let answers = bench.path("answers.toml");
    fs::write(&answers, "image = \"lab\"\ncountdown = 20\n\n[[disk]]\nat_least = \"180MiB\"\n")?;
    let disc = bench.path("disc");
    let [repo, answers] = [bench.path("repo"), answers].map(|path| path.display().to_string());
    let options = ["--repo", &repo, "--image", "lab", "--unattended", &answers];
    let said = live::make_disc(&disc, &options)?;
    let schema = fs::read(sources::workspace().join("docs/schema/iso.json"))?;
    jsonschema::validate(&serde_json::from_slice(&schema)?, &said)
        .map_err(|error| anyhow!("{error}: {said}"))?;
    ensure!(kill::number(&said, "size")? == fs::metadata(&disc)?.len(), "{said}");
    sparse::create(&target, Bytes::mib(200))?;
    let drive = format!("if=none,id=target,format=raw,file={}", target.display());
    let more = ["-drive", &drive, "-device", "virtio-blk-pci,drive=target,serial=T1"];
    let boot = |medium| Live::boot(Firmware::Uefi, medium, &disc, &more);

    let mut machine = boot(Medium::Cd)?;
    machine.expect("serial T1, blank")?;
    machine.expect("It begins in 20 s.")?;
    machine.send("x")?;
    machine.expect("nothing was done")?;
    machine.walk(&[
        ("What shall be done?", "Verify an image"),
        ("where images are kept", "/media/keiki/keiki"),
        ("Verify which image?", "lab"),
    ])?;
    machine.expect("is whole")?;
    machine.power_off()?;
    drop(machine);
    ensure!(fs::read(&target)?.iter().all(|byte| *byte == 0), "it was written");

    let mut machine = boot(Medium::Usb)?;
    machine.expect("restored lab@")?;
    machine.expect("The image lab is restored.")?;
    machine.expect("The machine starts again in")?;
    machine.ended()?;
    drop(machine);
    let restored = fs::read(&target)?;
    let part = table::partitions(&source)?[0];
    let [start, end] = [part.start, part.end].map(|at| at.index().unwrap_or(0));
    ensure!(fs::read(&source)?.get(start..end) == restored.get(start..end), "other bytes");

    let mut machine = boot(Medium::Usb)?;
    machine.expect("This disc restored the image lab onto /dev/vda")?;
    machine.expect("take the disc out")?;
    machine.expect("Press any key for the menu.")?;
    machine.send(" ")?;
    machine.shell()?;
    machine.send("poweroff\r")?;
    machine.ended()?;
    ensure!(fs::read(&target)? == restored, "it was restored again");
    Ok(())
}

/// A stick, on which the live system makes another one of itself, without a network.
#[test]
fn vm_a_stick_makes_another_disc_that_boots() -> Result<()> {
    let bench = Bench::new()?;
    let [stick, target] = ["stick", "target"].map(|name| bench.path(name));
    sparse::create(&stick, Bytes::mib(400))?;
    let name = stick.display().to_string();
    let said = live::make_stick(&name, &["--confirm", &name])?;
    ensure!(kill::number(&said, "space")? > Bytes::mib(300).get(), "{said}");
    let parts = table::partitions(&stick)?;
    let part = parts.get(2).context("no third partition")?;
    let images = Loop::part(&stick, *part)?;
    tool::run(&call!("fsck.exfat", "-n", images.device()))?;
    drop(images);
    sparse::create(&target, Bytes::mib(100))?;
    let drive = format!("if=none,id=target,format=raw,file={}", target.display());
    let more = ["-drive", &drive, "-device", "virtio-blk-pci,drive=target,serial=T1"];
    let mut machine = Live::boot(Firmware::Bios, Medium::Usb, &stick, &more)?;
    machine.shell()?;
    machine.device("/dev/sda3")?;
    machine.run("mkdir /media/data && mount -t exfat /dev/sda3 /media/data")?;
    machine.run("keiki iso --out /media/data/own.iso --keymap de-latin1")?;
    machine.run("dd if=/media/data/own.iso of=/dev/vda bs=1M conv=fsync")?;
    machine.run("umount /media/data && poweroff")?;
    machine.ended()?;
    drop(machine);
    let mut machine = Live::boot(Firmware::Uefi, Medium::Usb, &target, &[])?;
    machine.shell()?;
    machine.run("grep -qx de-latin1 /etc/keiki/keymap").map(drop)
}

/// A volume group, a member of an array and an ext4 that was not unmounted lie there: the menu lists them, and nothing is
/// activated or changed.
#[test]
fn vm_no_disk_is_touched_before_it_is_told() -> Result<()> {
    let bench = Bench::new()?;
    let disks = ["group", "array", "dirty"].map(|name| bench.path(name));
    let [group, array, dirty] = &disks;
    sparse::create(group, Bytes::mib(64))?;
    let vg = Vg::create("vg7", &[(group.clone(), Extent::first(Bytes::mib(64)))])?;
    vg.add("root", Bytes::mib(16), None)?;
    drop(vg);
    sparse::create(array, Bytes::mib(64))?;
    garbage::plant(array, &[Old::Md12])?;
    let empty = bench.path("empty");
    fs::create_dir(&empty)?;
    filesystem::ext4(dirty, Bytes::mib(64), ["dirty", &filesystem::uuid()?], &empty)?;
    pulled::pull(dirty, "", |folder| pulled::write(&folder.join(pulled::KEPT), "kept", 5000))?;
    let before: Vec<Vec<u8>> = disks.iter().map(fs::read).collect::<Result<_, _>>()?;
    let more: Vec<String> = (0..)
        .zip(&disks)
        .flat_map(|(at, file)| {
            let drive = format!("if=none,id=d{at},format=raw,file={}", file.display());
            [
                "-drive".to_owned(),
                drive,
                "-device".to_owned(),
                format!("virtio-blk-pci,drive=d{at}"),
            ]
        })
        .collect();
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let mut machine = Live::boot(Firmware::Bios, Medium::Cd, &live::disc()?, &more)?;
    machine.choose("What shall be done?", "Clone a disk")?;
    machine.expect("Clone which disk?")?;
    let listed = machine.expect("An image file")?;
    for disk in ["/dev/vda", "/dev/vdb", "/dev/vdc", "vg7", "ext4"] {
        ensure!(listed.contains(disk), "{disk} is not listed: {listed}");
    }
    machine.send("\x1b")?;
    let seen = machine.commands(&[
        "vgs --noheadings -o vg_name,lv_count",
        "mdadm --examine /dev/vdb",
        "[ -z \"$(dmsetup info -c --noheadings -o name 2> /dev/null | grep -v '^No devices')\" ]",
        "! grep -s ^md /proc/mdstat",
        "! grep -E '^/dev/(vd|dm|md|mapper)' /proc/mounts",
    ])?;
    ensure!(seen.first().is_some_and(|said| said.contains("vg7")), "{seen:?}");
    machine.power_off()?;
    for (disk, before) in disks.iter().zip(before) {
        ensure!(fs::read(disk)? == before, "{} was changed", disk.display());
    }
    Ok(())
}

/// What does not fit is said in words, before anything else.
#[test]
fn vm_too_little_memory_is_said_in_words() -> Result<()> {
    let mut machine = Live::boot(Firmware::Bios, Medium::Cd, &live::disc()?, &["-m", "256"])?;
    machine.expect("Keiki does not fit into the memory of this machine")?;
    machine.expect("It needs 512 MiB").map(drop)
}

mod only_all {
    use super::*;

    #[test]
    fn vm_the_disc_boots_in_all_nine_ways() -> Result<()> {
        for (firmware, medium) in live::WAYS {
            reaches_the_menu(firmware, medium)
                .with_context(|| format!("{firmware:?} {medium:?}"))?;
        }
        Ok(())
    }

    /// Rare adapters take more memory; the machine says how much.
    #[test]
    fn vm_the_full_profile_takes_640_mib() -> Result<()> {
        let work = tempfile::tempdir()?;
        let disc = work.path().join("disc.iso");
        live::make_disc(&disc, &["--profile", "full"])?;
        let mut machine = Live::boot(Firmware::Bios, Medium::Cd, &disc, &["-m", "640"])?;
        machine.shell()?;
        machine.run("modprobe lpfc && grep -q ^lpfc /proc/modules")?;
        drop(machine);
        let mut machine = Live::boot(Firmware::Bios, Medium::Cd, &disc, &["-m", "512"])?;
        machine.expect("It needs 640 MiB").map(drop)
    }

    /// Firmware fetches the disc into memory, where Linux finds it as a disk, with the image on it.
    #[test]
    fn vm_the_disc_boots_over_http_with_secure_boot() -> Result<()> {
        let bench = Bench::new()?;
        let source = bench.path("source");
        sparse::create(&source, Bytes::mib(8))?;
        kill::put(&source, Bytes::MIB, &kill::noise(5, Bytes::MIB))?;
        bench.save("lab", &[source])?;
        let served = bench.path("served");
        fs::create_dir(&served)?;
        let repo = bench.path("repo").display().to_string();
        live::make_disc(&served.join("keiki.iso"), &["--repo", &repo, "--image", "lab"])?;
        network::own()?;
        network::cable()?;
        let web = Web::at(network::HERE, &served, "")?;
        let url = format!("--dhcp-boot=tag:http,{}", web.address("keiki.iso"));
        let _dhcp = network::dhcp(&[
            "--dhcp-vendorclass=set:http,HTTPClient",
            "--dhcp-option-force=tag:http,60,HTTPClient",
            &url,
        ])?;
        let more = ["-m", "1024"];
        let mut machine = Live::boot(Firmware::SecureBoot, Medium::Http, &served, &more)?;
        machine.walk(&[
            ("What shall be done?", "Restore an image"),
            ("where images are kept", "Attach a disk or a share"),
            ("Where are images kept?", "This disc itself"),
            ("where images are kept", "/media/keiki/keiki"),
            ("Restore which image?", "lab"),
        ])?;
        println!("an image is chosen after {:.1?}", machine.age());
        machine.expect("All of it, or one volume?").map(drop)
    }

    /// In a Debian that has a kernel and nothing else: whatever the program asks for is installed, as it says.
    const INSTALLED: &str = r#"
for try in 1 2 3; do
    chroot "$1" env HOME=/root keiki iso --packages installed --out /disc.iso 2> "$1/said" && exit
    words=$(sed -n 's/.*install them: apt-get/apt-get -qq -y/p' "$1/said")
    [ -n "$words" ] || break
    chroot "$1" $words
done
cat "$1/said"
exit 1
"#;

    #[test]
    fn vm_a_disc_of_what_is_installed_boots() -> Result<()> {
        for release in ["bookworm", "trixie"] {
            let work = tempfile::tempdir()?;
            run!(
                "mmdebstrap",
                "--quiet",
                "--variant=minbase",
                "--include=linux-image-amd64",
                "--dpkgopt=path-exclude=/usr/share/doc/*",
                format!("--customize-hook=copy-in {} /usr/bin", binary::keiki().display()),
                format!("--customize-hook={INSTALLED}"),
                format!("--customize-hook=copy-out /disc.iso {}", work.path().display()),
                release,
                "/dev/null"
            )?;
            let disc = work.path().join("disc.iso");
            reaches(&disc, Firmware::SecureBoot, Medium::Cd).context(release)?;
        }
        Ok(())
    }

    #[test]
    fn two_discs_are_the_same_bytes_and_so_are_sticks() -> Result<()> {
        let work = tempfile::tempdir()?;
        let [one, two] = ["one", "two"].map(|name| work.path().join(name));
        live::make_disc(&one, &[])?;
        live::make_disc(&two, &[])?;
        ensure!(fs::read(&one)? == fs::read(&two)?);
        for stick in [&one, &two] {
            sparse::create(stick, Bytes::mib(400))?;
            let name = stick.display().to_string();
            live::make_stick(&name, &["--confirm", &name])?;
        }
        ensure!(fs::read(&one)? == fs::read(&two)?);
        Ok(())
    }
}
