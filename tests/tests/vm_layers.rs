//! What Keiki copies without knowing its inside, with what the kernel makes of it before and after: LUKS, an array, thin
//! volumes and btrfs, saved and restored in the live system onto another controller, and onto sectors of 4096 bytes.

#![allow(clippy::print_stdout, reason = "a test says how long things took")]

mod only_all {
    use std::path::Path;

    use anyhow::{Context, Result, ensure};
    use image_core::units::Bytes;
    use keiki_tests::bench::Bench;
    use keiki_tests::live::{self, Firmware, Live, Medium};
    use keiki_tests::{run, sparse};

    /// Partitions and their sizes (MiB): LUKS, two members of an array, a physical volume, btrfs.
    const PARTS: [(u32, u32); 5] = [(1, 64), (2, 48), (3, 48), (4, 80), (5, 128)];

    /// What is made on the disk `$D`, and what opens it again; both leave all of it mounted below `/l`. `$P` is what
    /// partitions of it are called.
    const MAKE: [&str; 11] = [
        "printf secret > /tmp/key; mkdir -p /l/luks /l/raid /l/thin /l/btrfs",
        "modprobe -a dm-crypt dm-thin-pool raid1 btrfs ext4",
        "cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /tmp/key ${P}1",
        "cryptsetup open --key-file /tmp/key ${P}1 locked",
        "mdadm --create /dev/md0 --run --metadata 1.2 --level 1 --raid-devices 2 ${P}2 ${P}3",
        "for vg in luks:/dev/mapper/locked raid:/dev/md0; do vgcreate ${vg%%:*} ${vg#*:}; lvcreate -y -l 100%FREE -n data ${vg%%:*}; done",
        "vgcreate thin ${P}4 && lvcreate -y -L 48M -T thin/pool && lvcreate -y -V 200M -T thin/pool -n data",
        "for vg in luks raid thin; do mke2fs -q -t ext4 -b 4096 /dev/$vg/data; mount /dev/$vg/data /l/$vg; done",
        "mkfs.btrfs -q -f ${P}5 && mount ${P}5 /l/btrfs",
        "for at in luks raid thin btrfs; do cp -r /etc /l/$at; dd if=/dev/urandom of=/l/$at/noise bs=64k count=48; done",
        "cd /l && sha256sum */noise */etc/passwd > /tmp/sums; cd /; wc -l /tmp/sums",
    ];
    const OPEN: [&str; 5] = [
        "cryptsetup open --key-file /tmp/key ${P}1 locked",
        "mdadm --assemble /dev/md0 ${P}2 ${P}3",
        "for vg in luks raid thin; do vgchange -ay $vg && mount /dev/$vg/data /l/$vg; done",
        "mount ${P}5 /l/btrfs",
        "cd /l && sha256sum -c /tmp/sums; code=$?; cd /; [ $code -eq 0 ]",
    ];
    const CLOSE: [&str; 3] = [
        "umount /l/luks /l/raid /l/thin /l/btrfs && vgchange -an luks raid thin",
        "mdadm --stop /dev/md0",
        "cryptsetup close locked",
    ];

    /// A drive of a file, as that device.
    fn drive(id: &str, file: &Path, device: &str) -> [String; 4] {
        let drive = format!("if=none,id={id},format=raw,discard=unmap,file={}", file.display());
        let device = format!("{device},drive={id}");
        ["-drive".to_owned(), drive, "-device".to_owned(), device]
    }

    fn run_all(machine: &mut Live, commands: &[&str], part: &str) -> Result<()> {
        for command in commands {
            println!("{}", machine.run(&format!("P={part}; {command}"))?);
        }
        Ok(())
    }

    #[test]
    fn vm_layers_that_are_only_copied_work_on_the_new_disk() -> Result<()> {
        let bench = Bench::new()?;
        let [source, usb, nvme, large] =
            ["source", "usb", "nvme", "large"].map(|name| bench.path(name));
        sparse::create(&source, Bytes::mib(400))?;
        for (number, size) in PARTS {
            run!("sgdisk", format!("-n{number}:0:+{size}M"), &source)?;
        }
        sparse::create(&usb, Bytes::mib(600))?;
        run!("mke2fs", "-q", "-t", "ext4", &usb)?;
        sparse::create(&nvme, Bytes::mib(500))?;
        sparse::create(&large, Bytes::mib(600))?;
        let sectors = "nvme,serial=LARGE,logical_block_size=4096,physical_block_size=4096";
        let more = [
            drive("source", &source, "virtio-blk-pci,serial=SOURCE"),
            drive("nvme", &nvme, "nvme,serial=NVME"),
            drive("large", &large, sectors),
            ["-device".to_owned(), "qemu-xhci".to_owned(), "-boot".to_owned(), "c".to_owned()],
            drive("usb", &usb, "usb-storage"),
        ];
        let more: Vec<&str> = more.iter().flatten().map(String::as_str).collect();
        let mut machine = Live::boot(Firmware::Uefi, Medium::Cd, &live::disc()?, &more)?;
        machine.shell()?;
        run_all(&mut machine, &MAKE, "/dev/vda")?;
        run_all(&mut machine, &CLOSE, "/dev/vda")?;
        println!("the source is made after {:.1?}", machine.age());
        machine.device("/dev/sda")?;
        machine.run(
            "mkdir /media/usb && mount /dev/sda /media/usb; export KEIKI_REPO=/media/usb/keiki",
        )?;
        println!("{}", machine.run("keiki save /dev/vda --name layers --progress plain")?);
        let empty = |disk: &str| {
            format!("dd if=/dev/zero of={disk} bs=1M; sync; blockdev --rereadpt {disk}")
        };
        // The disk is lost; two with the same groups and arrays are none of this test's questions.
        machine.run(&empty("/dev/vda"))?;
        for serial in ["NVME", "LARGE"] {
            // The kernel finds them in either order.
            let found = machine.run(&format!("grep -l {serial} /sys/block/nvme*/device/serial"))?;
            let mut paths =
                found.lines().filter_map(|line| line.trim().strip_prefix("/sys/block/"));
            let name = paths.next().and_then(|path| path.split('/').next());
            let disk = &format!("/dev/{}", name.context("a disk with that serial")?);
            let said = machine
                .run(&format!("keiki restore layers {disk} --confirm {serial} --progress plain"))?;
            println!("{said}");
            // As it is broken into lines, it could be anywhere.
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            let is_large = serial == "LARGE";
            ensure!(said.contains("may not work with 4096") == is_large, "{said}");
            run_all(&mut machine, &OPEN, &format!("{disk}p"))?;
            run_all(&mut machine, &CLOSE, &format!("{disk}p"))?;
            machine.run(&empty(disk))?;
            println!("{serial}: restored, opened, read and emptied after {:.1?}", machine.age());
        }
        machine.run("umount /media/usb")?;
        machine.send("poweroff\r")?;
        machine.ended()
    }
}
