//! What a machine says of itself.

use serde::{Deserialize, Serialize};

/// A disk of a machine.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Default, Debug)]
pub struct Disk {
    /// Its node.
    pub path: String,
    /// Its size, in bytes.
    pub size: u64,
    /// Model, where known.
    pub model: Option<String>,
    /// Serial number, where known.
    pub serial: Option<String>,
    /// World-wide name, where known.
    pub wwn: Option<String>,
    /// Whether it can be pulled out.
    pub removable: bool,
    /// Whether it may be written to: it is not read-only, and nothing of it is in use.
    pub usable: bool,
}

impl Disk {
    /// Whether it is the same one, wherever it is plugged in now; one without serial and name counts by its place and size.
    pub fn is(&self, other: &Self) -> bool {
        let same = (&self.serial, &self.wwn, self.size) == (&other.serial, &other.wwn, other.size);
        same && (self.is_named() || self.path == other.path)
    }

    /// What it takes in memory, about, in bytes.
    pub(super) fn size(&self) -> usize {
        let Self { path, model, serial, wwn, .. } = self;
        let texts = [model, serial, wwn].into_iter().flatten().chain([path]);
        size_of::<Self>() + texts.map(String::len).sum::<usize>()
    }

    /// Whether it has a name of its own, wherever it is.
    pub fn is_named(&self) -> bool {
        self.serial.is_some() || self.wwn.is_some()
    }
}

/// A machine.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Default, Debug)]
pub struct Machine {
    /// The UUID of its firmware's tables (SMBIOS), as text. Some makers give all machines the same.
    pub uuid: Option<String>,
    /// The serial number of the whole machine, where it has one.
    pub serial: Option<String>,
    /// Maker and model, where known.
    pub model: Option<String>,
    /// The addresses of its own network adapters, in order: `52:54:00:12:34:56`. Those of a dock are not its own, unless it
    /// has no other.
    pub macs: Vec<String>,
    /// Memory, in bytes.
    pub memory: u64,
    /// Its disks.
    pub disks: Vec<Disk>,
}

/// Letters that are not mistaken for one another, however they are read out.
const LETTERS: &[u8; 16] = b"BCDFGHJKLMNPQRTX";

/// No machine has more, and nothing that is told of one is longer, in bytes.
const DISKS: usize = 64;
const MACS: usize = 32;
const LONGEST: usize = 200;

impl Machine {
    /// Whether it could be one: it is kept, and shown on terminals.
    pub fn is_sound(&self) -> bool {
        let disk = |disk: &Disk| {
            let Disk { path, model, serial, wwn, .. } = disk;
            is_text(path) && [model, serial, wwn].into_iter().flatten().all(|text| is_text(text))
        };
        let own = [&self.uuid, &self.serial, &self.model].into_iter().flatten();
        own.chain(&self.macs).all(|text| is_text(text))
            && self.macs.len() <= MACS
            && self.disks.len() <= DISKS
            && self.disks.iter().all(disk)
    }

    /// What it takes in memory, about, in bytes.
    pub(super) fn size(&self) -> usize {
        let Self { uuid, serial, model, macs, disks, .. } = self;
        let texts = [uuid, serial, model].into_iter().flatten().chain(macs);
        let texts = texts.map(|text| size_of::<String>() + text.len()).sum::<usize>();
        texts + disks.iter().map(Disk::size).sum::<usize>()
    }

    /// Tells it from every other machine that has another UUID, serial number or adapter: 16 hexadecimal digits.
    pub fn id(&self) -> String {
        let known = (&self.uuid, &self.serial, &self.macs);
        let text = serde_json::to_string(&known).unwrap_or_default();
        blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
    }
}

/// Whether a text is short, and moves no cursor.
pub(super) fn is_text(text: &str) -> bool {
    text.len() <= LONGEST && !text.chars().any(char::is_control)
}

/// The four letters by which people know the machine with this id, as they stand on its screen.
pub fn tag(id: &str) -> String {
    letters(id, 4)
}

/// So many letters of that machine: where others have the same four, more of them tell it from these.
pub(super) fn letters(id: &str, count: usize) -> String {
    let digits = id.chars().filter_map(|digit| digit.to_digit(16)).take(count);
    digits
        .filter_map(|digit| LETTERS.get(digit as usize))
        .map(|letter| char::from(*letter))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Disk, Machine, tag};

    #[test]
    fn a_machine_is_known_by_what_is_its_own() {
        let one = Machine {
            uuid: Some("a".to_owned()),
            macs: vec!["1".to_owned()],
            ..Machine::default()
        };
        let same = Machine {
            disks: vec![Disk::default()],
            memory: 5,
            model: Some("x".to_owned()),
            ..one.clone()
        };
        assert_eq!(one.id(), same.id());
        assert_eq!(tag(&one.id()).len(), 4);
        // The same UUID in every machine of a room.
        assert_ne!(one.id(), Machine { macs: vec!["2".to_owned()], ..one.clone() }.id());
        assert_ne!(one.id(), Machine { serial: Some("2".to_owned()), ..one.clone() }.id());
        assert_ne!(
            one.id(),
            Machine { uuid: None, serial: Some("a".to_owned()), ..one.clone() }.id()
        );
    }

    #[test]
    fn what_no_machine_says_is_not_believed() {
        let sound = Machine {
            model: Some("PC".to_owned()),
            disks: vec![Disk::default()],
            ..Machine::default()
        };
        assert!(sound.is_sound());
        let text = |text: &str| Machine { model: Some(text.to_owned()), ..sound.clone() };
        assert!(!text("\u{1b}[2J").is_sound() && !text(&"x".repeat(201)).is_sound());
        assert!(!Machine { disks: vec![Disk::default(); 65], ..sound.clone() }.is_sound());
        assert!(!Machine { macs: vec![String::new(); 33], ..sound.clone() }.is_sound());
        let disk = Disk { serial: Some("\n".to_owned()), ..Disk::default() };
        assert!(!Machine { disks: vec![disk], ..sound }.is_sound());
    }

    #[test]
    fn a_disk_is_known_by_its_names_and_size() {
        let disk = Disk { path: "/dev/sda".to_owned(), size: 9, ..Disk::default() };
        assert!(disk.is(&disk) && !disk.is(&Disk { path: "/dev/sdb".to_owned(), ..disk.clone() }));
        let named = Disk { serial: Some("S".to_owned()), ..disk.clone() };
        assert!(named.is(&Disk { path: "/dev/sdb".to_owned(), ..named.clone() }));
        assert!(!named.is(&disk) && !named.is(&Disk { size: 8, ..named.clone() }));
    }
}
