//! A Debian that comes to a machine with another controller, with everything broken that `keiki repair` mends, comes up
//! healthy after one, under its new name.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says so what failed")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::Bench;
use keiki_tests::debian::{self, Layout};
use keiki_tests::loops::Mount;
use keiki_tests::vm::{self, Controller, Firmware, Report, Writes};
use keiki_tests::volumes::Volumes;
use keiki_tests::{judge, moved, run, table};

/// What its initramfs knew of on the machine that it came from: not SCSI.
const HOOK: &str = "etc/initramfs-tools/hooks/small";

#[test]
fn vm_a_moved_debian_starts_by_bios_on_another_controller() {
    let scene = Broken::new();
    scene.repair();
    scene.starts(Firmware::Bios, Controller::VirtioScsi);
}

struct Broken {
    bench: Bench,
    disks: Vec<PathBuf>,
    /// The machine that it came from.
    machine: String,
}

impl Broken {
    fn new() -> Self {
        let bench = Bench::new().unwrap();
        let disks = debian::make(Layout::Gpt, &bench.path("")).unwrap().disks;
        let mut scene = Self { bench, disks, machine: String::new() };
        scene.machine = scene.break_root();
        scene.break_boot();
        scene.break_loaders();
        scene
    }

    fn parts(&self) -> Vec<Extent> {
        table::partitions(&self.disks[0]).unwrap()
    }

    /// Names by place, LVM's list of devices, and what is built into an initramfs; the machine's id.
    fn break_root(&self) -> String {
        let vg = Volumes::of(&self.disks).unwrap().vg.unwrap();
        let image = self.bench.path("root.part");
        vg.take("root", &image).unwrap();
        let machine = {
            let size = Bytes::new(fs::metadata(&image).unwrap().len());
            let mount = Mount::new(&image, Extent::first(size), "rw").unwrap();
            let root = mount.folder();
            let fstab = fs::read_to_string(root.join("etc/fstab")).unwrap();
            let named = |line: &str| match line.split_whitespace().nth(1) {
                Some("/boot") => format!("/dev/vda3 {}\n", line.split_once(' ').unwrap().1),
                Some("/boot/efi") => format!("/dev/vda2 {}\n", line.split_once(' ').unwrap().1),
                _ => format!("{line}\n"),
            };
            fs::write(root.join("etc/fstab"), fstab.lines().map(named).collect::<String>())
                .unwrap();
            fs::create_dir_all(root.join("etc/lvm/devices")).unwrap();
            let list = "IDTYPE=sys_wwid IDNAME=naa.5000 DEVNAME=/dev/sda4 PVID=none PART=4\n";
            fs::write(root.join("etc/lvm/devices/system.devices"), list).unwrap();
            fs::write(root.join("etc/lvm/lvmlocal.conf"), "devices {\n\tuse_devicesfile = 1\n}\n")
                .unwrap();
            let hook = fs::read_to_string(root.join(HOOK)).unwrap();
            fs::write(root.join(HOOK), hook.replace("virtio_scsi sd_mod", "")).unwrap();
            fs::read_to_string(root.join("etc/machine-id")).unwrap().trim().to_owned()
        };
        vg.put("root", &image).unwrap();
        fs::remove_file(image).unwrap();
        machine
    }

    /// An initramfs without SCSI, and a swap area to resume from that is gone.
    fn break_boot(&self) {
        let mount = Mount::new(&self.disks[0], self.parts()[2], "rw").unwrap();
        let files: Vec<PathBuf> =
            fs::read_dir(mount.folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let ramdisk = files.iter().find(|path| name(path).starts_with("initrd.img-")).unwrap();
        let new = moved::without(&fs::read(ramdisk).unwrap(), &["virtio_scsi", "sd_mod"]).unwrap();
        fs::write(ramdisk, new).unwrap();
        let config = mount.folder().join("grub/grub.cfg");
        let text = fs::read_to_string(&config).unwrap();
        let gone = " resume=UUID=01234567-89ab-cdef-0123-456789abcdef ro ";
        fs::write(&config, text.replace(" ro ", gone)).unwrap();
    }

    /// No fallback for UEFI, no core of GRUB for BIOS.
    fn break_loaders(&self) {
        let image = format!("{}@@{}", self.disks[0].display(), self.parts()[1].start.get());
        run!("mdeltree", "-i", image, "::/EFI/BOOT").unwrap();
        let disk = File::options().write(true).open(&self.disks[0]).unwrap();
        disk.write_all_at(&[0; 40_000], self.parts()[0].start.get()).unwrap();
    }

    fn repair(&self) {
        let path = self.disks[0].display();
        let line = format!("repair {path} --confirm {path} --hostname lab-07");
        let said = self.bench.run(&line).unwrap();
        println!("{said:#}");
        let done = said["done"].as_array().unwrap();
        for word in [
            "etc/fstab on vg0/root: /dev/vda3 is UUID=",
            "system.devices.keiki-old",
            "resume=UUID=01234567-89ab-cdef-0123-456789abcdef is resume=UUID=",
            "EFI/BOOT/BOOTX64.EFI",
            "GRUB for BIOS",
            "lacks ahci, sd_mod, virtio_scsi",
            "etc/machine-id on vg0/root",
            "etc/hostname on vg0/root: sample becomes lab-07",
        ] {
            let has = |line: &&serde_json::Value| line.as_str().unwrap().contains(word);
            assert_eq!(done.iter().filter(has).count(), 1, "{word}");
        }
        assert_eq!(done.len(), 8);
        judge::disks(&self.disks).unwrap();
    }

    fn starts(&self, firmware: Firmware, controller: Controller) -> Report {
        let report = vm::boot_on(firmware, controller, &self.disks, Writes::Discarded).unwrap();
        println!("{}\nconsole:\n{}", report.text(), report.console());
        assert_eq!(report.health().unwrap(), "running\n", "{}", report.text());
        assert_eq!(report.section("firmware").unwrap(), format!("{firmware:?}").to_uppercase());
        assert_eq!(report.section("srv").unwrap(), "SRV-OK");
        assert_eq!(report.section("host").unwrap(), "lab-07");
        // Its own id, which systemd believes: it makes another one where it does not.
        let machine = report.section("machine").unwrap();
        assert!(machine.len() == 32 && machine != self.machine, "{machine}");
        let disk = if controller == Controller::Nvme { "nvme0n1" } else { "sda" };
        report.line("lsblk", disk).unwrap();
        report
    }
}

/// What takes longer; see docs/TESTING.md for the two tiers.
mod only_all {
    use super::{Broken, Controller, Firmware, Writes, vm};

    /// And before the repair it does not.
    #[test]
    fn vm_a_moved_debian_starts_by_uefi_on_other_controllers() {
        let scene = Broken::new();
        let (uefi, scsi) = (Firmware::Uefi, Controller::VirtioScsi);
        vm::boot_on(uefi, scsi, &scene.disks, Writes::Discarded).unwrap_err();
        scene.repair();
        scene.starts(uefi, scsi);
        scene.starts(uefi, Controller::Nvme);
        scene.starts(Firmware::Bios, Controller::Nvme);
    }
}
