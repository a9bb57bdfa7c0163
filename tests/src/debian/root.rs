//! The files of the Debian system: a root folder made once by mmdebstrap, and what each disk changes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Ids;
use crate::{call, fixtures, grub, run, tool};

/// What the system has besides Debian's essential packages.
const PACKAGES: &str = "systemd-sysv,dbus,udev,lvm2,kmod,initramfs-tools,zstd,e2fsprogs,xfsprogs,\
                        linux-image-amd64";

/// Drivers that no machine of the tests needs, below the kernel's modules: most of their bytes.
const DRIVERS_LEFT_OUT: [&str; 8] = [
    "sound",
    "drivers/gpu",
    "drivers/iio",
    "drivers/infiniband",
    "drivers/media",
    "drivers/net/ethernet",
    "drivers/net/wireless",
    "drivers/staging",
];

/// Before packages are unpacked: an initramfs with what virtual machines need, compressed quickly.
const INITRAMFS: &str = r#"
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/etc/initramfs-tools/hooks"
printf 'MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=1\nRESUME=none\nFSTYPE=ext4\n' > "$1/etc/initramfs-tools/conf.d/small"
cat > "$1/etc/initramfs-tools/hooks/small" <<'END'
#!/bin/sh
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules virtio_pci virtio_blk virtio_scsi sd_mod nvme ext4 xfs dm_mod
END
chmod +x "$1/etc/initramfs-tools/hooks/small"
"#;

/// Afterwards: a name, a password, and nothing that runs by the clock or looks for a network.
const HOUSEKEEPING: &str = r#"
echo root:keiki | chroot "$1" chpasswd
echo sample > "$1/etc/hostname"
rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer getty@tty1.service; do
    ln -sf /dev/null "$1/etc/systemd/system/$unit"
done
"#;

/// Says how the system is. It waits for the end of the start, so it reports failed units of a normal boot;
/// in emergency mode it says that at once.
const REPORT: &str = r#"#!/bin/sh
exec > /dev/ttyS1 2>&1
section() { echo "== $1"; shift; "$@"; }
state() { timeout 300 systemctl is-system-running --wait; }
srv() { cd /srv && sha256sum --check --quiet data.sum && echo SRV-OK; cd /; }
# Volume groups that the start does not wait for are made active by what udev starts.
settled() {
    udevadm settle --timeout=300
    for _ in $(seq 300); do systemctl --quiet is-active 'lvm-activate-*' || break; sleep 1; done
    udevadm settle --timeout=300
}
firmware() { if [ -d /sys/firmware/efi ]; then echo UEFI; else echo BIOS; fi; }
echo KEIKI-REPORT-BEGIN
section state state
settled
section failed systemctl --failed --no-legend --plain
section firmware firmware
section lsblk lsblk -rno NAME,SIZE,TYPE,FSTYPE,MOUNTPOINT
section lvs lvs --noheadings -o lv_full_name,lv_size,lv_attr,seg_count --units b --nosuffix
section vgck vgck
section blkid blkid
section pvs pvs --noheadings -o pv_name,pv_uuid,vg_name,vg_uuid
section lv_uuids lvs --noheadings -o lv_full_name,lv_uuid
section df df -T -B1 -x tmpfs -x devtmpfs -x efivarfs
section kernel dmesg --notime --level=emerg,alert,crit,err,warn
section swaps cat /proc/swaps
section srv srv
section host hostname
section machine cat /etc/machine-id
echo KEIKI-REPORT-END
systemctl --force poweroff
"#;

/// It is no part of the start that it waits for: nothing waits for the end of a `Type=exec` service.
const REPORT_UNIT: &str = "\
[Unit]
Description=Report to the test that booted this machine
DefaultDependencies=no
After=multi-user.target
[Service]
Type=exec
ExecStart=/usr/local/sbin/keiki-report
";

/// The root folder as a tar file.
pub(super) fn tar() -> Result<PathBuf> {
    // Another recipe is another fixture.
    let left_out = DRIVERS_LEFT_OUT.concat();
    let recipe = [PACKAGES, &left_out, INITRAMFS, HOUSEKEEPING].concat();
    let recipe = blake3::hash(recipe.as_bytes()).to_hex();
    fixtures::once(&format!("debian-12-{}.tar", recipe.split_at(8).0), |part| {
        let mut call = call!(
            "mmdebstrap",
            "--quiet",
            "--format=tar",
            "--variant=minbase",
            format!("--include={PACKAGES}"),
            "--aptopt=Acquire::Languages \"none\"",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            format!("--setup-hook={INITRAMFS}"),
            format!("--customize-hook={HOUSEKEEPING}")
        );
        for folder in DRIVERS_LEFT_OUT {
            let files = format!("--dpkgopt=path-exclude=/lib/modules/*/kernel/{folder}/*");
            call.args.push(files.into());
        }
        call.args.extend(["bookworm".into(), part.into()]);
        tool::run(&call).map(drop)
    })
}

/// Unpacks the system into `work` and points it at `ids`: the folders of `/` and of `/boot`.
pub(super) fn unpack(tar: &Path, work: &Path, ids: &Ids) -> Result<(PathBuf, PathBuf)> {
    let (root, boot) = (work.join("root"), work.join("boot"));
    fs::create_dir(&root)?;
    run!("tar", "-C", &root, "-xf", tar, "--numeric-owner", "--xattrs", "--xattrs-include=*")?;
    fs::rename(root.join("boot"), &boot)?;
    fs::create_dir_all(root.join("boot"))?;
    // A machine id and these stamps keep systemd from its work of a first boot.
    let machine = crate::filesystem::uuid()?.replace('-', "");
    fs::write(root.join("etc/machine-id"), format!("{machine}\n"))?;
    fs::write(root.join("etc/.updated"), "")?;
    fs::write(root.join("var/.updated"), "")?;
    fs::write(root.join("etc/fstab"), fstab(ids))?;

    let script = root.join("usr/local/sbin/keiki-report");
    fs::write(&script, REPORT)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let units = root.join("etc/systemd/system");
    fs::write(units.join("keiki-report.service"), REPORT_UNIT)?;
    for target in ["multi-user.target.wants", "emergency.target.wants"] {
        fs::create_dir_all(units.join(target))?;
        symlink("../keiki-report.service", units.join(target).join("keiki-report.service"))?;
    }

    fs::create_dir_all(boot.join("grub"))?;
    fs::create_dir_all(boot.join("efi"))?;
    fs::write(boot.join("grub/grub.cfg"), grub_cfg(&boot, ids)?)?;
    run!("cp", "-r", "/usr/lib/grub/i386-pc", boot.join("grub"))?;
    // What grub-install leaves beside them.
    fs::write(boot.join("grub/i386-pc/core.img"), grub::core(&ids.boot, work)?)?;
    Ok((root, boot))
}

fn fstab(ids: &Ids) -> String {
    let Ids { root, boot, srv, swap, .. } = ids;
    let esp = ids.esp_dashed();
    format!(
        "UUID={root} / ext4 errors=remount-ro 0 1\n\
         UUID={boot} /boot ext4 defaults 0 2\n\
         UUID={esp} /boot/efi vfat umask=0077 0 0\n\
         UUID={srv} /srv xfs defaults 0 0\n\
         UUID={swap} none swap sw 0 0\n"
    )
}

fn grub_cfg(boot: &Path, ids: &Ids) -> Result<String> {
    let kernel = fs::read_dir(boot)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned))
        .context("the root folder has no kernel")?;
    // A panic ends the machine instead of the test's patience.
    Ok(format!(
        "serial --unit=0 --speed=115200\n\
         terminal_input serial console\n\
         terminal_output serial\n\
         echo \"GRUB on $grub_platform\"\n\
         search --no-floppy --fs-uuid --set=root {}\n\
         linux /vmlinuz-{kernel} root=/dev/mapper/vg0-root ro console=ttyS0 panic=-1 quiet\n\
         initrd /initrd.img-{kernel}\n\
         boot\n",
        ids.boot
    ))
}

/// The data whose hash the report checks.
pub(super) fn fill_srv(folder: &Path) -> Result<()> {
    let mut data = vec![0; 20_000_000];
    blake3::Hasher::new().update(b"srv").finalize_xof().fill(&mut data);
    fs::write(folder.join("data.bin"), data)?;
    let data = folder.join("data.bin");
    let line = run!("sha256sum", &data)?;
    let sum = line.split(' ').next().context("sha256sum prints nothing")?;
    fs::write(folder.join("data.sum"), format!("{sum}  data.bin\n"))?;
    Ok(())
}
