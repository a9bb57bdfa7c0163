//! Disks and shares where images are kept: mounted below `/media` when a person asks for it, and never by themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use image_core::exec::real::Machine;
use image_core::exec::{Call, Runner};
use image_core::sys::mounts::{self, Mount};
use image_core::units::Bytes;
use live_iso::bootloader::ESP_LABEL;
use live_iso::iso;
use serde::Deserialize;

use super::super::ask::Item;
use super::super::{Menu, places};
use super::{attend, check, is_attached};
use crate::medium;

/// Below which folder.
pub const MEDIA: &str = "/media";

/// How long is waited for something that could be attached.
const PATIENCE: Duration = Duration::from_secs(10);

/// Filesystems that can hold images, by blkid's names, and what the kernel calls them.
const FILESYSTEMS: [(&str, &str); 10] = [
    ("ext4", "ext4"),
    ("ext3", "ext4"),
    ("ext2", "ext4"),
    ("xfs", "xfs"),
    ("btrfs", "btrfs"),
    ("f2fs", "f2fs"),
    ("ntfs", "ntfs3"),
    ("exfat", "exfat"),
    ("vfat", "vfat"),
    ("iso9660", "iso9660"),
];

/// What `lsblk --json` says of a block device.
#[derive(Deserialize, Clone, PartialEq, Eq, Default, Debug)]
struct Block {
    path: String,
    #[serde(default)]
    size: u64,
    fstype: Option<String>,
    label: Option<String>,
    model: Option<String>,
    tran: Option<String>,
    #[serde(default)]
    ro: bool,
    #[serde(default)]
    mountpoints: Vec<Option<String>>,
    #[serde(default)]
    children: Vec<Block>,
}

#[derive(Deserialize)]
struct Listed {
    blockdevices: Vec<Block>,
}

impl Block {
    /// Asks what is on it and on its partitions, where that is not known.
    fn probe(&mut self, blkid: &dyn Fn(&str) -> String) {
        if self.fstype.is_none() && self.children.is_empty() {
            for (key, value) in blkid(&self.path).lines().filter_map(|line| line.split_once('=')) {
                // Spaces and the like are behind a backslash.
                let value = Some(value.replace('\\', ""));
                match key {
                    "TYPE" => self.fstype = value,
                    "LABEL" => self.label = value,
                    _ => {}
                }
            }
        }
        self.children.iter_mut().for_each(|child| child.probe(blkid));
    }

    /// It, and everything on it that can be mounted, with what is known of the disk.
    fn mountable(&self, disk: Option<&Self>, out: &mut Vec<(Self, String)>) {
        let disk = disk.unwrap_or(self);
        let known = FILESYSTEMS.iter().any(|(name, _)| self.fstype.as_deref() == Some(name));
        if known && self.mountpoints.iter().flatten().next().is_none() {
            let words = [disk.tran.as_deref(), disk.model.as_deref()];
            let words: Vec<&str> = words.into_iter().flatten().map(str::trim).collect();
            out.push((Self { children: Vec::new(), ..self.clone() }, words.join(" ")));
        }
        self.children.iter().for_each(|child| child.mountable(Some(disk), out));
    }

    fn is_read_only(&self) -> bool {
        self.ro || self.fstype.as_deref() == Some("iso9660")
    }

    /// Whether it is worth naming: not what a stick of ours has besides its images, and not what cannot be written to save to.
    fn is_offered(&self, purpose: Purpose) -> bool {
        let label = self.label.as_deref().unwrap_or_default();
        let is_ours = [iso::LABEL, ESP_LABEL].contains(&label);
        !is_ours && (purpose != Purpose::Save || !self.is_read_only())
    }

    fn describe(&self, disk: &str) -> String {
        let label = self.label.as_deref().filter(|label| !label.is_empty()).unwrap_or("no name");
        let kind = self.fstype.as_deref().unwrap_or_default();
        format!(
            "{:<16}{label:<18}{kind:<9}{:<10} {disk}",
            self.path,
            Bytes::new(self.size).to_string()
        )
        .trim_end()
        .to_owned()
    }
}

fn blocks() -> Result<Vec<(Block, String)>> {
    // Only with a NAME it says which partitions are on which disk.
    let columns = "NAME,PATH,SIZE,FSTYPE,LABEL,MODEL,TRAN,RO,MOUNTPOINTS";
    let said = check(&Call::new("lsblk", ["--json", "--bytes", "--output", columns]))?;
    // lsblk asks udev what is on them, and there is none here.
    listed(&said, &|path| {
        let said = Machine.run(&Call::new("blkid", ["-p", "-o", "export", path]));
        said.map(|said| said.text()).unwrap_or_default()
    })
}

/// What can be mounted of what lsblk lists; `blkid` says what is on a device, in lines `KEY=value`.
fn listed(json: &str, blkid: &dyn Fn(&str) -> String) -> Result<Vec<(Block, String)>> {
    let mut listed: Listed = serde_json::from_str(json).context("lsblk said something else")?;
    listed.blockdevices.iter_mut().for_each(|block| block.probe(blkid));
    let mut out = Vec::new();
    listed.blockdevices.iter().for_each(|disk| disk.mountable(None, &mut out));
    Ok(out)
}

/// What something is attached for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Images on it are restored.
    Restore,
    /// Images are saved to it.
    Save,
    /// Nobody knows yet.
    Any,
}

/// Asks for one thing of a kind, and mounts it; whether something was.
type Attach = fn(&mut Menu<'_>, Purpose) -> Result<bool>;

/// Lets a disk, a share or a web server be chosen, and mounts what can be; whether something was.
pub fn attach(menu: &mut Menu<'_>, purpose: Purpose) -> Result<bool> {
    let mut kinds: Vec<(Item, Attach)> = vec![
        (Item::new("A disk, a stick or a disc").with("ext4, XFS, btrfs, NTFS, exFAT, FAT32"), disk),
        (Item::new("An NFS share"), |menu, _| share(menu, "nfs", "SERVER:/FOLDER", nfs)),
        (Item::new("A share of Windows or Samba (SMB)"), |menu, _| {
            share(menu, "smb", "USER@SERVER/SHARE", smb)
        }),
        (Item::new("A folder of a machine with SSH"), |menu, _| {
            share(menu, "ssh", "USER@SERVER:/FOLDER", ssh)
        }),
    ];
    if purpose != Purpose::Save {
        let web = Item::new("A web server").with("only to restore from it: http://SERVER/FOLDER");
        kinds.push((web, |menu, _| places::web(menu)));
    }
    if purpose == Purpose::Any && medium::is_known() {
        kinds.push((own_item(), |menu, _| own(menu)));
    }
    let items: Vec<Item> = kinds.iter().map(|(item, _)| item.clone()).collect();
    let Some(at) = menu.choose("Where are images kept?", &items, 0)? else { return Ok(false) };
    // What is gone keeps its place no longer from what comes back.
    for gone in gone() {
        take_away(menu, &gone.point)?;
    }
    kinds.get(at).map_or(Ok(false), |(_, attach)| attach(menu, purpose))
}

/// The entry for what this machine was started from.
pub fn own_item() -> Item {
    let item = Item::new("This disc itself");
    match medium::images() {
        Some(0) => {
            item.blocked(Some("no images were put on it; keiki iso --image does that".into()))
        }
        Some(count) => item.with(crate::output::count(count, "image")),
        None => item.with("the images that were put on it"),
    }
}

/// Whether that could be attached and is not yet.
pub fn offers_own() -> bool {
    super::is_here() && medium::is_known() && !is_mounted(Path::new(medium::POINT))
}

/// Attaches what this machine was started from; whether there are images on it. It is only read.
pub fn own(menu: &mut Menu<'_>) -> Result<bool> {
    menu.ask.busy("Looking for the disc that this machine was started from");
    let point = medium::attach()?;
    if !point.join(iso::IMAGES).is_dir() {
        check(&Call::new("umount", [&point]))?;
        drop(fs::remove_dir(&point));
        menu.tell("No images were put on this disc (keiki iso --image NAME does that).");
        return Ok(false);
    }
    attached(menu, &point, true)
}

/// What can be attached; a stick takes the kernel some seconds, so the first one is waited for.
fn offered(purpose: Purpose) -> Result<Vec<(Block, String)>> {
    let began = Instant::now();
    loop {
        let mut blocks = blocks()?;
        blocks.retain(|(block, _)| block.is_offered(purpose));
        if !blocks.is_empty() || began.elapsed() > PATIENCE {
            return Ok(blocks);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn disk(menu: &mut Menu<'_>, purpose: Purpose) -> Result<bool> {
    let block = loop {
        menu.ask.busy("Looking for filesystems");
        let blocks = offered(purpose)?;
        if blocks.is_empty() {
            menu.tell("No filesystem was found that could be attached. Plug one in and try again.");
            return Ok(false);
        }
        let mut items: Vec<Item> =
            blocks.iter().map(|(block, disk)| Item::new(block.describe(disk))).collect();
        items.push(Item::new("Look again").with("for what was plugged in just now"));
        let Some(at) = menu.choose("Attach which one?", &items, 0)? else { return Ok(false) };
        if let Some((block, _)) = blocks.into_iter().nth(at) {
            break block;
        }
    };
    let block = &block;
    let read_only = match purpose {
        _ if block.is_read_only() => true,
        Purpose::Restore => true,
        Purpose::Save => false,
        Purpose::Any => {
            let items = [
                Item::new("To restore from it").with("it is only read, and stays as it is"),
                Item::new("To save to it").with("it is read and written"),
            ];
            match menu.choose("What is it for?", &items, 0)? {
                Some(at) => at == 0,
                None => return Ok(false),
            }
        }
    };
    let name = block.path.rsplit('/').next().unwrap_or("disk");
    let point = point(name)?;
    if let Err(error) = check(&disk_call(block, &point, read_only)?) {
        drop(fs::remove_dir(&point));
        return Err(error);
    }
    attached(menu, &point, read_only)
}

/// The call that mounts a filesystem.
fn disk_call(block: &Block, point: &Path, read_only: bool) -> Result<Call> {
    let fstype = block.fstype.as_deref().unwrap_or_default();
    let known = FILESYSTEMS.iter().find(|(name, _)| *name == fstype);
    let Some((_, kernel)) = known else { bail!("{}: {fstype} cannot be attached", block.path) };
    // Not even the journal of what is only read is replayed.
    let options = match (read_only, *kernel) {
        (true, "ext4") => "ro,noload",
        (true, "xfs") => "ro,norecovery",
        (true, _) => "ro",
        (false, _) => "rw,noatime",
    };
    let point = point.display().to_string();
    Ok(Call::new("mount", ["-t", kernel, "-o", options, &block.path, &point]))
}

/// Asks for a share and mounts it. Its program may ask for a password.
fn share(
    menu: &mut Menu<'_>,
    kind: &str,
    like: &str,
    call: fn(&str, &str) -> Result<Call, String>,
) -> Result<bool> {
    let Some(text) = menu.ask.line(like, "", &|text| call(text, "").map(drop))? else {
        return Ok(false);
    };
    let point = point(kind)?;
    let call = call(&text, &point.display().to_string()).map_err(anyhow::Error::msg)?;
    if attend(menu, &call)? {
        return attached(menu, &point, false);
    }
    drop(fs::remove_dir(&point));
    menu.tell("That did not work. Is the network up (This machine, Network)?");
    Ok(false)
}

fn nfs(text: &str, point: &str) -> Result<Call, String> {
    let (server, folder) = text.split_once(":/").unwrap_or_default();
    if server.is_empty() || text.starts_with('-') {
        return Err(format!("{text:?} is not like 192.168.1.5:/backup."));
    }
    // A server that is gone becomes an error after half a minute (5 + 10 + 15 s), not a program that cannot be ended. That
    // is safe here: whatever is saved is flushed and looked up again before it counts, so a write that failed is seen.
    // nfsmount.conf(5) of the disc says with which version to begin.
    let options = "soft,timeo=50,retrans=2,nolock";
    Ok(Call::new("mount.nfs", [&format!("{server}:/{folder}"), point, "-o", options]))
}

fn smb(text: &str, point: &str) -> Result<Call, String> {
    let (user, place) = text.split_once('@').unwrap_or(("guest", text));
    let place = place.replace('\\', "/");
    let place = place.trim_start_matches('/');
    if !place.contains('/') || user.is_empty() || user.contains(',') || text.starts_with('-') {
        return Err(format!("{text:?} is not like anna@192.168.1.5/backup."));
    }
    let guest = if user == "guest" { ",guest" } else { "" };
    // A server that answers nothing for three of these intervals (seconds; usually 60) is gone.
    let options = format!("username={user}{guest},soft,echo_interval=10,noatime");
    Ok(Call::new("mount.cifs", [&format!("//{place}"), point, "-o", &options]))
}

fn ssh(text: &str, point: &str) -> Result<Call, String> {
    let (server, _) = text.split_once(':').unwrap_or_default();
    if server.is_empty() || text.starts_with('-') {
        return Err(format!("{text:?} is not like anna@192.168.1.5:/backup."));
    }
    let options = "StrictHostKeyChecking=ask,ServerAliveInterval=10,ServerAliveCountMax=3";
    Ok(Call::new("sshfs", [text, point, "-o", options]))
}

/// A new folder to mount on.
fn point(name: &str) -> Result<PathBuf> {
    let names =
        std::iter::once(name.to_owned()).chain((2..).map(|number| format!("{name}-{number}")));
    for name in names {
        let point = Path::new(MEDIA).join(name);
        match fs::create_dir(&point) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                if !is_mounted(&point) {
                    return Ok(point);
                }
            }
            made => {
                made.with_context(|| format!("cannot create {}", point.display()))?;
                return Ok(point);
            }
        }
    }
    bail!("no name is left below {MEDIA}")
}

fn is_mounted(point: &Path) -> bool {
    points().iter().any(|mounted| mounted == point)
}

/// Where something is attached.
fn points() -> Vec<PathBuf> {
    mounted().into_iter().map(|mount| mount.point).collect()
}

fn mounted() -> Vec<Mount> {
    let mounts = mounts::mounts(Path::new("/")).unwrap_or_default();
    mounts.into_iter().filter(|mount| is_attached(&mount.point)).collect()
}

/// Something that was attached and does not come back by itself.
struct Gone {
    point: PathBuf,
    why: String,
}

/// What was pulled out, and broken connections of SSH. Shares of NFS and SMB do come back.
fn gone() -> Vec<Gone> {
    let mounted = mounted();
    let pulled = mounted.iter().filter(|mount| {
        let Mount { source, .. } = mount;
        source.starts_with("/dev") && !source.exists()
    });
    let pulled = pulled.map(|mount| Gone {
        point: mount.point.clone(),
        why: format!("{} was pulled out", mount.source.display()),
    });
    // sshfs unmounts when it has lost its server; what is detached here leaves no folder.
    let folders = fs::read_dir(MEDIA).into_iter().flatten().flatten().map(|entry| entry.path());
    let left = folders.filter(|folder| mounted.iter().all(|mount| mount.point != *folder));
    let broken = left.map(|point| Gone { point, why: "the connection broke".to_owned() });
    pulled.chain(broken).collect()
}

/// Says so where something that was attached is gone, for whoever looks for the reason why something failed.
pub fn tell_gone(menu: &mut Menu<'_>) {
    // sshfs takes a moment to end.
    std::thread::sleep(Duration::from_secs(1));
    for Gone { point, why } in gone() {
        let point = point.display();
        menu.tell(&format!("{point} is gone: {why}. Attach it again (main menu, This machine)."));
    }
}

/// Unmounts what is gone. Its folder goes too, or what is saved there would be saved into memory.
fn take_away(menu: &mut Menu<'_>, point: &Path) -> Result<()> {
    if is_mounted(point) {
        check(&Call::new("umount", ["-l".as_ref(), point.as_os_str()]))?;
    }
    forget(menu, point);
    Ok(())
}

/// The folder goes, and the repository is chosen anew where it was in it.
fn forget(menu: &mut Menu<'_>, point: &Path) {
    // What somebody put there by hand stays.
    drop(fs::remove_dir(point));
    if menu.folder().is_some_and(|repo| repo.starts_with(point)) {
        menu.repo = None;
    }
}

fn attached(menu: &mut Menu<'_>, point: &Path, read_only: bool) -> Result<bool> {
    let how = if read_only { ", only to be read" } else { "" };
    menu.tell(&format!("Attached as {}{how}.", point.display()));
    Ok(true)
}

/// Folders for new repositories: one on everything that is attached and can be written.
pub fn new_places() -> Vec<PathBuf> {
    let writable = mounted().into_iter().filter(|mount| !mount.read_only);
    writable.map(|mount| mount.point.join("keiki")).collect()
}

/// Asks for one of the folders where something is attached; to write there, or any.
pub fn choose_attached(
    menu: &mut Menu<'_>,
    question: &str,
    to_write: bool,
) -> Result<Option<PathBuf>> {
    let mounted = mounted().into_iter().filter(|mount| !(to_write && mount.read_only));
    let points: Vec<PathBuf> = mounted.map(|mount| mount.point).collect();
    if points.is_empty() {
        menu.tell(if to_write {
            "Nothing is attached that can be written to."
        } else {
            "Nothing is attached."
        });
        return Ok(None);
    }
    let items: Vec<Item> =
        points.iter().map(|point| Item::new(point.display().to_string())).collect();
    Ok(menu.choose(question, &items, 0)?.and_then(|at| points.get(at).cloned()))
}

/// Unmounts what a person chooses.
pub fn detach(menu: &mut Menu<'_>) -> Result<()> {
    let Some(point) = choose_attached(menu, "Detach which one?", false)? else { return Ok(()) };
    if gone().iter().any(|gone| gone.point == point) {
        take_away(menu, &point)?;
        menu.tell(&format!("{} was gone already.", point.display()));
        return Ok(());
    }
    menu.ask.busy("Writing what is not written yet");
    check(&Call::new("umount", [&point]))?;
    forget(menu, &point);
    menu.tell(&format!("{} is safe to unplug.", point.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Block, disk_call, listed, nfs, smb, ssh};

    const LSBLK: &str = r#"{"blockdevices": [
        {"path":"/dev/sda","size":1000204886016,"fstype":null,"label":null,"model":"Backup Disk  ","tran":"usb",
         "ro":false,"mountpoints":[null],"children":[
            {"path":"/dev/sda1","size":1000202788864,"fstype":"ntfs","label":"Sicherung","model":null,"tran":null,
             "ro":false,"mountpoints":[null]},
            {"path":"/dev/sda2","size":1048576,"fstype":"LVM2_member","label":null,"model":null,"tran":null,
             "ro":false,"mountpoints":[null]}]},
        {"path":"/dev/sdb","size":1000202788864,"fstype":null,"label":null,"model":"Stick","tran":"usb",
         "ro":false,"mountpoints":[null]},
        {"path":"/dev/sr0","size":56832000,"fstype":"iso9660","label":"KEIKI","model":"QEMU DVD-ROM","tran":"sata",
         "ro":false,"mountpoints":["/media/sr0"]}]}"#;

    #[test]
    fn what_can_be_attached_is_listed_with_its_disk() {
        let found = listed(LSBLK, &|path| match path {
            "/dev/sdb" => "DEVNAME=/dev/sdb\nLABEL=My\\ stick\nTYPE=exfat\n".to_owned(),
            _ => panic!("{path} is known already"),
        });
        let found = found.unwrap();
        let [(block, disk), (stick, _)] = found.as_slice() else { panic!("{found:?}") };
        let line = stick.describe("usb");
        assert!(line.contains("My stick") && line.contains("exfat"), "{line}");
        let line = block.describe(disk);
        for word in ["/dev/sda1", "Sicherung", "ntfs", "931 GiB", "usb Backup Disk"] {
            assert!(line.contains(word), "{line}");
        }
        let call = disk_call(block, Path::new("/media/sda1"), true).unwrap();
        assert_eq!(call.line(), "mount -t ntfs3 -o ro /dev/sda1 /media/sda1");
        let ext = Block { fstype: Some("ext3".to_owned()), ..block.clone() };
        let call = disk_call(&ext, Path::new("/media/sda1"), true).unwrap();
        assert_eq!(call.line(), "mount -t ext4 -o ro,noload /dev/sda1 /media/sda1");
        let member = Block { fstype: Some("LVM2_member".to_owned()), ..block.clone() };
        assert!(disk_call(&member, Path::new("/media/sda1"), true).is_err());
    }

    #[test]
    fn shares_are_checked_as_they_are_typed() {
        assert_eq!(
            nfs("10.0.0.1:/srv/images", "/media/nfs").unwrap().line(),
            "mount.nfs 10.0.0.1:/srv/images /media/nfs -o soft,timeo=50,retrans=2,nolock"
        );
        assert_eq!(
            smb(r"anna@\\10.0.0.1\backup", "/media/smb").unwrap().line(),
            "mount.cifs //10.0.0.1/backup /media/smb -o username=anna,soft,echo_interval=10,noatime"
        );
        assert!(smb("10.0.0.1/backup", "").unwrap().line().contains("username=guest,guest"));
        assert!(ssh("anna@10.0.0.1:/backup", "/media/ssh").is_ok());
        assert!(nfs("10.0.0.1", "").is_err() && nfs("-o:/x", "").is_err());
        assert!(smb("10.0.0.1", "").is_err() && smb("a,uid=0@h/s", "").is_err());
        assert!(ssh("10.0.0.1", "").is_err() && ssh("-oProxyCommand=x:/", "").is_err());
    }
}
