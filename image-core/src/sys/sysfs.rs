//! Block devices and how they are stacked, from `/sys/class/block` (Documentation/ABI/stable/sysfs-block).

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::units::Bytes;

/// The kernel's address of a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceNumber {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

impl DeviceNumber {
    /// The number as `stat` reports it in `st_rdev` and `st_dev`.
    pub fn from_raw(raw: u64) -> Self {
        Self { major: rustix::fs::major(raw), minor: rustix::fs::minor(raw) }
    }
}

impl FromStr for DeviceNumber {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.split_once(':').ok_or(())?;
        Ok(Self { major: major.parse().map_err(drop)?, minor: minor.parse().map_err(drop)? })
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What sysfs says of one block device: a disk, a partition, or a device stacked on others.
///
/// Text that a disk's maker wrote has no control characters left in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockDevice {
    /// The kernel's name: `sda`, `nvme0n1p2`, `dm-0`.
    pub name: String,
    /// Its number.
    pub number: DeviceNumber,
    /// Its size.
    pub size: Bytes,
    /// Where it lies on its disk, if it is a partition.
    pub partition: Option<Partition>,
    /// Names of the devices that are stacked on it.
    pub holders: Vec<String>,
    /// Names of the devices that it is stacked on.
    pub slaves: Vec<String>,
    /// What device-mapper says of it, if it is one of its devices.
    pub mapped: Option<Mapped>,
    /// The file (or device) behind it, if it is a loop device that is attached.
    pub backing: Option<Backing>,
    /// Model; partitions have their disk's.
    pub model: Option<String>,
    /// Serial number; partitions have their disk's.
    pub serial: Option<String>,
    /// World-wide name, as `0x5000...`, `eui....` or `uuid....`; partitions have their disk's.
    pub wwn: Option<String>,
    /// A number that no other disk had since the machine started: tells a changed disk in the same slot.
    pub sequence: Option<u64>,
    /// Whether it can be pulled out: its medium, or itself where it hangs on USB.
    pub removable: bool,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether it is a spinning disk.
    pub rotational: bool,
    /// Whether it has no node in `/dev` (one path of a multipath NVMe disk).
    pub hidden: bool,
    /// Logical sector size.
    pub sector_size: Bytes,
}

/// Where a partition lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Partition {
    /// Its number in the table.
    pub number: u32,
    /// Its first byte.
    pub start: Bytes,
    /// Name of its disk.
    pub disk: String,
}

/// What device-mapper says of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapped {
    /// `vg0-root`.
    pub name: String,
    /// `LVM-...`, `CRYPT-...`, `mpath-...`; empty where its maker gave none.
    pub uuid: String,
}

/// What a loop device shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backing {
    /// The file, as this process could open it; ` (deleted)` behind it where it has no name any more.
    pub path: PathBuf,
    /// Where in the file the device starts.
    pub offset: Bytes,
}

impl BlockDevice {
    /// Its node: `/dev/sda`, `/dev/cciss/c0d0`, `/dev/mapper/vg0-root`.
    pub fn path(&self) -> PathBuf {
        match &self.mapped {
            Some(mapped) => Path::new("/dev/mapper").join(&mapped.name),
            // sysfs writes the slashes of a device's name as exclamation marks.
            None => Path::new("/dev").join(self.name.replace('!', "/")),
        }
    }
}

/// All block devices that the sysfs mounted at `root` (`/sys`) lists, in no particular order.
///
/// # Errors
/// Where the list cannot be read. A device that goes away meanwhile is left out.
pub fn block_devices(root: &Path) -> io::Result<Vec<BlockDevice>> {
    let mut devices = Vec::new();
    for entry in std::fs::read_dir(root.join("class/block"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(device) = block_device(root, name)? {
            devices.push(device);
        }
    }
    Ok(devices)
}

/// For every mounted btrfs, the names of the block devices that it is spread over: mountinfo names only one.
///
/// # Errors
/// Where a list cannot be read; no btrfs at all is an empty answer.
pub fn btrfs_devices(root: &Path) -> io::Result<Vec<Vec<String>>> {
    let folders = names(&root.join("fs/btrfs"))?;
    let lists = folders.iter().map(|uuid| names(&root.join("fs/btrfs").join(uuid).join("devices")));
    lists.filter(|list| !matches!(list, Ok(names) if names.is_empty())).collect()
}

fn block_device(root: &Path, name: String) -> io::Result<Option<BlockDevice>> {
    let Ok(folder) = std::fs::canonicalize(root.join("class/block").join(&name)) else {
        return Ok(None);
    };
    let here = Attributes(&folder);
    let (Some(number), Some(sectors)) = (here.parse("dev"), here.parse::<u64>("size")) else {
        return Ok(None);
    };
    let partition = here.partition();
    // What a partition does not know of itself is known of the disk that it is a part of.
    let disk = match &partition {
        Some(_) => Attributes(folder.parent().unwrap_or(&folder)),
        None => Attributes(&folder),
    };
    Ok(Some(BlockDevice {
        name,
        number,
        size: sector_count(sectors)?,
        partition,
        holders: names(&folder.join("holders"))?,
        slaves: names(&folder.join("slaves"))?,
        mapped: here
            .text("dm/name")
            .map(|name| Mapped { name, uuid: here.text("dm/uuid").unwrap_or_default() }),
        backing: here.raw("loop/backing_file").map(|path| Backing {
            path: PathBuf::from(std::ffi::OsString::from_vec(path)),
            offset: here.parse("loop/offset").map_or(Bytes::ZERO, Bytes::new),
        }),
        model: disk.text("device/model"),
        serial: disk.serial(),
        wwn: disk.wwn(),
        sequence: disk.parse("diskseq"),
        removable: disk.flag("removable") || disk.usb().is_some(),
        read_only: here.flag("ro") || disk.flag("ro"),
        rotational: disk.flag("queue/rotational"),
        hidden: disk.flag("hidden"),
        sector_size: disk.parse("queue/logical_block_size").map_or(Bytes::new(512), Bytes::new),
    }))
}

/// sysfs counts sizes and starts in 512 bytes, whatever the device's sectors are.
fn sector_count(sectors: u64) -> io::Result<Bytes> {
    let absurd = || io::Error::other(format!("absurd size of {sectors} sectors"));
    Bytes::new(512).checked_mul(sectors).ok_or_else(absurd)
}

/// File names in a folder, sorted; none where there is no such folder.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

/// The attribute files in the folder of one device.
struct Attributes<'a>(&'a Path);

impl Attributes<'_> {
    /// An attribute's bytes without the line's end; `None` where it does not exist or is empty.
    fn raw(&self, attribute: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        // An attribute is a page at most.
        let file = File::open(self.0.join(attribute)).ok()?;
        file.take(64 << 10).read_to_end(&mut bytes).ok()?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        (!bytes.is_empty()).then_some(bytes)
    }

    fn text(&self, attribute: &str) -> Option<String> {
        clean(&self.raw(attribute)?)
    }

    fn parse<T: FromStr>(&self, attribute: &str) -> Option<T> {
        self.text(attribute)?.parse().ok()
    }

    fn flag(&self, attribute: &str) -> bool {
        self.parse::<u64>(attribute).is_some_and(|value| value != 0)
    }

    fn partition(&self) -> Option<Partition> {
        Some(Partition {
            number: self.parse("partition")?,
            start: sector_count(self.parse("start")?).ok()?,
            disk: self.0.parent()?.file_name()?.to_string_lossy().into_owned(),
        })
    }

    fn serial(&self) -> Option<String> {
        // virtio; NVMe and MMC; SCSI and SATA (page 0x80 of SPC's vital product data: 4 bytes of header).
        self.text("serial")
            .or_else(|| self.text("device/serial"))
            .or_else(|| clean(self.raw("device/vpd_pg80")?.get(4..)?))
            .or_else(|| self.usb_serial())
            // `t10.ATA     model    serial`: what a SATA disk without a world-wide name has.
            .or_else(|| {
                let wwid = self.text("device/wwid")?;
                Some(wwid.strip_prefix("t10.")?.split_whitespace().last()?.to_owned())
            })
    }

    /// The USB device that the disk is behind.
    fn usb(&self) -> Option<&Path> {
        self.0.ancestors().skip(1).find(|folder| folder.join("idVendor").exists())
    }

    fn usb_serial(&self) -> Option<String> {
        Attributes(self.usb()?).text("serial")
    }

    fn wwn(&self) -> Option<String> {
        let name = self.text("wwid").or_else(|| self.text("device/wwid"))?;
        match name.strip_prefix("naa.") {
            Some(digits) => Some(format!("0x{digits}")),
            None => ["eui.", "uuid."].iter().any(|kind| name.starts_with(kind)).then_some(name),
        }
    }
}

/// Text for people: what a device reports may hold anything, also what moves a terminal's cursor.
fn clean(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let text: String = text.chars().filter(|char| !char.is_control()).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fake::Tree;

    #[test]
    fn a_disk_and_its_partition_share_what_the_disk_knows() {
        let tree = Tree::new();
        let sata = tree.disk("sdx", "8:160", 1000);
        sata.attribute("queue/logical_block_size", "4096\n")
            .attribute("device/model", "Fast \x1b[31mDisk   \n")
            .attribute("device/vpd_pg80", "\0\u{1}\0\u{8}  S3R1AL")
            .attribute("device/wwid", "naa.5000c500a1b2c3d4\n")
            .attribute("diskseq", "17\n")
            .attribute("removable", "1\n");
        tree.partition("sdx", 3, "8:163", 64, 128);
        let devices = block_devices(&tree.sys()).unwrap();
        assert_eq!(devices.len(), 2);
        for device in &devices {
            assert_eq!(device.model.as_deref(), Some("Fast [31mDisk"));
            assert_eq!(device.serial.as_deref(), Some("S3R1AL"));
            assert_eq!(device.wwn.as_deref(), Some("0x5000c500a1b2c3d4"));
            assert_eq!((device.sequence, device.removable), (Some(17), true));
            assert_eq!(device.sector_size, Bytes::new(4096));
        }
        let part = devices.iter().find(|device| device.name == "sdx3").unwrap();
        let expected = Partition { number: 3, start: Bytes::new(64 * 512), disk: "sdx".to_owned() };
        assert_eq!(part.partition, Some(expected));
        assert_eq!((part.size, part.path()), (Bytes::new(128 * 512), "/dev/sdx3".into()));
        assert_eq!(part.number, DeviceNumber { major: 8, minor: 163 });
    }

    #[test]
    fn serial_numbers_are_found_in_every_place() {
        for (attribute, value, serial) in [
            ("serial", "virt-1\n", "virt-1"),
            ("device/serial", "S4EVNX0M   \n", "S4EVNX0M"),
            ("device/wwid", "t10.ATA     QEMU HARDDISK      QM00001  \n", "QM00001"),
        ] {
            let tree = Tree::new();
            tree.disk("sdx", "8:160", 1).attribute(attribute, value);
            let devices = block_devices(&tree.sys()).unwrap();
            assert_eq!(devices[0].serial.as_deref(), Some(serial));
            assert_eq!(devices[0].wwn, None);
        }
        let tree = Tree::new();
        tree.disk("sdx", "8:160", 1);
        tree.write("sys/devices/idVendor", "0781\n");
        tree.write("sys/devices/serial", "4C53\n");
        let stick = &block_devices(&tree.sys()).unwrap()[0];
        assert_eq!((stick.serial.as_deref(), stick.removable), (Some("4C53"), true));
    }

    #[test]
    fn stacked_devices_name_each_other() {
        let tree = Tree::new();
        tree.disk("sdx", "8:160", 100);
        tree.disk("dm-7", "253:7", 50)
            .attribute("dm/name", "vg0-root\n")
            .attribute("dm/uuid", "LVM-abc\n");
        tree.stack("dm-7", "sdx");
        tree.disk("loop9", "7:9", 50).attribute("loop/backing_file", "/some where\n");
        tree.disk("cciss!c0d0", "104:0", 50);
        let devices = block_devices(&tree.sys()).unwrap();
        let find = |name: &str| devices.iter().find(|device| device.name == name).unwrap();
        assert_eq!(find("sdx").holders, ["dm-7"]);
        assert_eq!(find("dm-7").slaves, ["sdx"]);
        assert_eq!(find("dm-7").path(), Path::new("/dev/mapper/vg0-root"));
        assert_eq!(find("loop9").backing.as_ref().unwrap().path, Path::new("/some where"));
        assert_eq!(find("cciss!c0d0").path(), Path::new("/dev/cciss/c0d0"));
    }

    #[test]
    fn an_absurd_size_is_an_error() {
        let tree = Tree::new();
        tree.disk("sdx", "8:160", u64::MAX);
        assert!(block_devices(&tree.sys()).is_err());
    }
}
