//! By which rules machines are restored: the answer file, somebody's list of machines, and the images of the repository.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use csv::{ErrorKind, StringRecord};
use image_core::disk::inventory::DiskInfo;
use image_core::repo::{ImageInfo, Repository};
use image_core::report::Report;
use image_core::units::Bytes;
use netboot::board::is_hostname;
use netboot::event::Mac;
use netboot::orders::list::{Choice, Expected, Group, Policy};
use netboot::orders::machine::{Disk, Machine};
use serde::Deserialize;
use toml::{Table, Value};

use super::super::Usage;
use super::shelf::{Named, Shelf, whole};
use crate::answers::Answers;
use crate::args::image as is_image;
use crate::args::serve::{Pattern, Serve};

/// The rules where nobody gave any: the only disk of a machine, that cannot be pulled out.
const USUAL: &str = "image = \"-\"\ncountdown = 10\n[[disk]]\n";

/// Stands for an image where there is none, or none yet.
const NONE: &str = "-";

/// The rules of a site.
#[derive(Debug)]
pub struct Rules {
    answers: Table,
    /// The image that is sent, where one is: `lab@` and its whole id.
    sent: Option<String>,
    /// Those that somebody named: the one that is sent, and those of the list.
    images: Vec<Named>,
    /// All others that can be chosen.
    shelf: Option<Shelf>,
    everyone: bool,
    listed: Vec<Line>,
    pattern: Option<Pattern>,
}

/// A line of somebody's list of machines.
#[derive(Deserialize, Clone, PartialEq, Eq, Default, Debug)]
#[serde(deny_unknown_fields, default)]
struct Line {
    /// `room.csv, line 3`.
    #[serde(skip)]
    place: String,
    mac: Option<String>,
    uuid: Option<String>,
    serial: Option<String>,
    hostname: Option<String>,
    image: Option<String>,
    group: Option<Group>,
}

/// The columns of the list.
const COLUMNS: [&str; 6] = ["mac", "uuid", "serial", "hostname", "image", "group"];

impl Line {
    /// Whether one machine could be meant by both. Some makers give many one UUID or serial number, but no adapter is in two.
    fn is_machine_of(&self, other: &Self) -> bool {
        let known = |line: &Self| (line.mac.clone(), line.uuid.clone(), line.serial.clone());
        known(self) == known(other) || self.mac.is_some() && self.mac == other.mac
    }

    fn is_named_as(&self, other: &Self) -> bool {
        self.hostname.is_some() && self.hostname == other.hostname
    }
}

/// Reads the answer file and the list of machines: what is wrong with them is to be known before anything is built.
///
/// # Errors
/// [`Usage`]: what is wrong, and where.
pub fn read(args: &Serve) -> Result<Rules> {
    let path = args.unattended.as_ref().or(args.answers.as_ref());
    let text = path.map_or_else(|| Ok(USUAL.to_owned()), |path| text(path))?;
    let name = path.map(|path| path.display().to_string()).unwrap_or_default();
    let mut answers: Table =
        toml::from_str(&text).map_err(|why| Usage(format!("{name}: {why}")))?;
    // What machines are told has the one that is chosen for them.
    let image = args.image.clone().unwrap_or_else(|| NONE.to_owned());
    match answers.insert("image".to_owned(), Value::String(image.clone())) {
        Some(Value::String(other)) if path.is_some() && !args.save && other != image => {
            return Err(
                Usage(format!("{name} is for the image {other}, and {image} is sent")).into()
            );
        }
        _ => {}
    }
    written(&answers)
        .and_then(|text| Answers::parse(&text))
        .map_err(|why| Usage(format!("{name}: {why}")))?;
    let listed = args.machines.as_deref().map(listed).transpose()?.unwrap_or_default();
    let (everyone, pattern) = (args.unattended.is_some(), args.hostname.clone());
    Ok(Rules { answers, sent: None, images: Vec::new(), shelf: None, everyone, listed, pattern })
}

fn written(answers: &Table) -> Result<String, String> {
    toml::to_string(answers).map_err(|error| error.to_string())
}

fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Where a record begins in a text: what the reader says is where empty lines above it do.
struct Place<'a> {
    text: &'a str,
    /// From 1.
    line: usize,
    /// In bytes.
    at: usize,
}

impl Place<'_> {
    fn go_to(&mut self, record: &StringRecord) {
        let begins = record.position().and_then(|place| usize::try_from(place.byte()).ok());
        let is_end = |byte: &u8| b"\r\n".contains(byte);
        let rest = self.text.as_bytes().iter().enumerate().skip(begins.unwrap_or(self.at));
        let to = rest.filter(|(_, byte)| !is_end(byte)).map(|(at, _)| at).next().unwrap_or(self.at);
        let between = self.text.as_bytes().get(self.at..to).unwrap_or_default();
        // Lines end with LF, CR LF or CR.
        let ends = between.iter().filter(|byte| is_end(byte)).count();
        let pairs = between.windows(2).filter(|pair| pair == b"\r\n").count();
        (self.line, self.at) = (self.line + ends - pairs, to);
    }
}

fn listed(path: &Path) -> Result<Vec<Line>> {
    let text = text(path)?;
    let mut builder = csv::ReaderBuilder::new();
    let mut reader = builder.trim(csv::Trim::All).flexible(true).from_reader(text.as_bytes());
    let mut lines: Vec<Line> = Vec::new();
    let columns = reader.headers().with_context(|| path.display().to_string())?;
    if let Some(other) = columns.iter().find(|column| !COLUMNS.contains(column)) {
        let known = COLUMNS.join(", ");
        let why = format!("{other:?} is no column; it names them, with commas between: of {known}");
        return Err(Usage(format!("{}, line 1: {why}", path.display())).into());
    }
    let columns = columns.clone();
    let mut place = Place { text: &text, line: 1, at: 0 };
    for record in reader.records() {
        let record = record.with_context(|| path.display().to_string())?;
        place.go_to(&record);
        let place = format!("{}, line {}", path.display(), place.line);
        let wrong = |why: String| Usage(format!("{place}: {why}"));
        if record.len() != columns.len() {
            let (has, names) = (record.len(), columns.len());
            return Err(wrong(format!(
                "line 1 names {names} columns, and here is another number of fields, {has}"
            ))
            .into());
        }
        let line = record.deserialize(Some(&columns));
        let mut line: Line = line.map_err(|why| match why.kind() {
            ErrorKind::Deserialize { err, .. } => wrong(err.kind().to_string()),
            _ => wrong(why.to_string()),
        })?;
        let mac = line.mac.as_ref().map(|mac| mac.parse::<Mac>().map_err(wrong)).transpose()?;
        line.mac = mac.map(|mac| mac.to_string());
        line.uuid = line.uuid.map(|uuid| uuid.to_lowercase());
        if (&line.mac, &line.uuid, &line.serial) == (&None, &None, &None) {
            return Err(wrong("it needs a mac, a uuid or a serial".to_owned()).into());
        }
        if let Some(name) = line.hostname.as_ref().filter(|name| !is_hostname(name)) {
            return Err(wrong(format!("{name:?} is no host name")).into());
        }
        if let Some(image) = &line.image {
            is_image(image).map_err(wrong)?;
        }
        let same = |other: &&Line| line.is_machine_of(other) || line.is_named_as(other);
        if let Some(other) = lines.iter().find(same) {
            let what = if line.is_named_as(other) { "host name" } else { "machine" };
            return Err(wrong(format!("it has the {what} of {}", other.place)).into());
        }
        lines.push(Line { place, ..line });
    }
    Ok(lines)
}

impl Rules {
    /// Adds the images that there are; `sent` is the one that is sent.
    ///
    /// # Errors
    /// An image of the list of machines is not there.
    pub fn with(
        mut self,
        repo: &Repository,
        sent: Option<&ImageInfo>,
        report: &dyn Report,
    ) -> Result<Self> {
        self.sent = sent.map(whole);
        self.images =
            sent.map(|sent| (crate::output::image(sent), whole(sent))).into_iter().collect();
        self.shelf = Some(Shelf::new(repo.clone()));
        for line in &self.listed {
            if let Some(image) = &line.image {
                let wrong = || line.place.clone();
                let image = repo.resolve(image, report).with_context(wrong)?;
                self.images.push((line.image.clone().unwrap_or_default(), whole(&image)));
            }
        }
        Ok(self)
    }
}

impl Rules {
    /// The disks of a machine that the rules mean, for this image.
    fn onto(&self, machine: &Machine, image: String) -> Result<Choice, String> {
        let mut answers = self.answers.clone();
        answers.insert("image".to_owned(), Value::String(image.clone()));
        let answers = written(&answers)?;
        let disks: Vec<DiskInfo> = machine.disks.iter().map(disk).collect();
        let chosen = Answers::parse(&answers)?
            .choose(&disks)?
            .into_iter()
            .map(|disk| disk.path.clone())
            .collect::<Vec<_>>();
        let disks = chosen
            .iter()
            .filter_map(|path| machine.disks.iter().find(|disk| Path::new(&disk.path) == path));
        Ok(Choice { image, disks: disks.cloned().collect(), answers })
    }

    /// The images that there are; the one that is sent is the first, where one is.
    fn known(&self) -> Vec<Named> {
        let mut known = self.images.clone();
        let more = self.shelf.as_ref().map(Shelf::images).unwrap_or_default();
        known.extend(
            more.into_iter().filter(|(name, _)| self.images.iter().all(|(one, _)| one != name)),
        );
        known
    }
}

impl Policy for Rules {
    fn choose(&self, machine: &Machine, image: Option<&str>) -> Result<Choice, String> {
        let image = match image {
            None => self.sent.clone().ok_or("no image is sent; choose one")?,
            Some(image) => {
                let known = self.known().into_iter().find(|(name, _)| name == image);
                known.ok_or_else(|| format!("there is no image {image}"))?.1
            }
        };
        self.onto(machine, image)
    }

    fn disks(&self, machine: &Machine) -> Result<Choice, String> {
        self.onto(machine, NONE.to_owned())
    }

    fn expected(&self, machine: &Machine) -> Option<Expected> {
        let fits = |line: &&Line| {
            let is =
                |wanted: &Option<String>, has: &Option<String>| wanted.is_none() || wanted == has;
            is(&line.uuid, &machine.uuid)
                && is(&line.serial, &machine.serial)
                && line.mac.as_ref().is_none_or(|mac| machine.macs.contains(mac))
        };
        let Line { hostname, image, group, .. } = self.listed.iter().find(fits)?.clone();
        // A line that only says where a machine stands wishes nothing for it.
        let is_called = group.is_none() || hostname.is_some() || image.is_some();
        Some(Expected { hostname, image, group, is_called })
    }

    fn name(&self, taken: &dyn Fn(&str) -> bool) -> Option<String> {
        let pattern = self.pattern.as_ref()?;
        let is_listed =
            |name: &str| self.listed.iter().any(|line| line.hostname.as_deref() == Some(name));
        (1..100_000)
            .map(|number| pattern.name(number))
            .find(|name| !taken(name) && !is_listed(name))
    }

    fn groups(&self) -> BTreeSet<&Group> {
        self.listed.iter().filter_map(|line| line.group.as_ref()).collect()
    }

    fn everyone(&self) -> bool {
        self.everyone
    }

    fn images(&self) -> Vec<String> {
        self.known().into_iter().map(|(name, _)| name).collect()
    }
}

/// What a machine told of a disk.
fn disk(disk: &Disk) -> DiskInfo {
    DiskInfo {
        path: PathBuf::from(&disk.path),
        size: Bytes::new(disk.size),
        sector_size: None,
        model: disk.model.clone(),
        serial: disk.serial.clone(),
        wwn: disk.wwn.clone(),
        whole: true,
        removable: disk.removable,
        read_only: !disk.usable,
        partitions: Vec::new(),
        holders: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use image_core::repo::Local;
    use image_core::report::Quiet;

    use super::*;

    fn rules(listed: Vec<Line>) -> Rules {
        Rules {
            answers: toml::from_str(USUAL).unwrap(),
            sent: Some("lab@12".to_owned()),
            images: vec![
                ("lab@1".to_owned(), "lab@12".to_owned()),
                ("old@3".to_owned(), "old@34".to_owned()),
            ],
            shelf: None,
            everyone: false,
            listed,
            pattern: Some("pc-%02d".parse().unwrap()),
        }
    }

    fn machine() -> Machine {
        let disk =
            Disk { path: "/dev/sda".to_owned(), size: 1 << 30, usable: true, ..Disk::default() };
        let stick = Disk { path: "/dev/sdb".to_owned(), removable: true, ..disk.clone() };
        Machine {
            macs: vec!["52:54:00:00:00:01".to_owned()],
            disks: vec![disk, stick],
            ..Machine::default()
        }
    }

    #[test]
    fn a_machine_gets_the_image_on_its_only_disk() {
        let (rules, mut machine) = (rules(Vec::new()), machine());
        let choice = rules.choose(&machine, None).unwrap();
        assert_eq!((&*choice.image, choice.disks.as_slice()), ("lab@12", &machine.disks[..1]));
        assert_eq!(Answers::parse(&choice.answers).unwrap().image, "lab@12");
        assert_eq!(rules.choose(&machine, Some("old@3")).unwrap().image, "old@34");
        assert!(rules.choose(&machine, Some("new")).unwrap_err().contains("there is no image new"));
        machine.disks[1].removable = false;
        assert!(rules.choose(&machine, None).unwrap_err().contains("more than one disk"));
        machine.disks[0].usable = false;
        assert_eq!(rules.choose(&machine, None).unwrap().disks, machine.disks[1..]);
    }

    #[test]
    fn names_are_those_of_the_list_or_the_first_that_is_free() {
        let line = Line {
            mac: machine().macs.pop(),
            hostname: Some("pc-01".to_owned()),
            ..Line::default()
        };
        let rules = rules(vec![line]);
        assert_eq!(rules.expected(&machine()).unwrap().hostname.as_deref(), Some("pc-01"));
        assert_eq!(rules.expected(&Machine::default()), None);
        assert!(rules.expected(&machine()).unwrap().is_called);
        assert_eq!(rules.name(&|name| name == "pc-02").as_deref(), Some("pc-03"));
    }

    #[test]
    fn a_line_with_a_group_only_calls_nobody() {
        let group: Group = "room-1".parse().unwrap();
        let line =
            Line { mac: machine().macs.pop(), group: Some(group.clone()), ..Line::default() };
        let expected = |line: &Line| rules(vec![line.clone()]).expected(&machine()).unwrap();
        assert_eq!(expected(&line), Expected { group: Some(group), ..Expected::default() });
        for wish in [
            Line { hostname: Some("pc-1".to_owned()), ..line.clone() },
            Line { image: Some("lab".to_owned()), ..line.clone() },
            Line { group: None, ..line },
        ] {
            assert!(expected(&wish).is_called, "{wish:?}");
        }
    }

    #[test]
    fn lists_of_machines_are_read_and_mistakes_named() {
        let work = tempfile::tempdir().unwrap();
        let path = work.path().join("room.csv");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            listed(&path).map_err(|error| error.to_string())
        };
        let lines = read("mac,hostname\n52-54-00-00-00-0A, pc-1\n").unwrap();
        assert_eq!(lines[0].mac.as_deref(), Some("52:54:00:00:00:0a"));
        assert_eq!((lines[0].hostname.as_deref(), &lines[0].image), (Some("pc-1"), &None));
        for (text, why) in [
            ("mac,color\n52:54:00:00:00:01,red\n", "line 1: \"color\" is no column"),
            ("mac;hostname\n52:54:00:00:00:01;a\n", "line 1: \"mac;hostname\" is no column"),
            ("52:54:00:00:00:01,a\n", "line 1: \"52:54:00:00:00:01\" is no column"),
            (
                "mac,hostname\n52:54:00:00:00:01,a\n52-54-00-00-00-01,b\n",
                "room.csv, line 3: it has the machine of ",
            ),
            (
                "mac,hostname\n52:54:00:00:00:01,a\n\n\n52:54:00:00:00:02,a\n",
                "room.csv, line 5: it has the host name of ",
            ),
            ("mac,hostname\nx,a\n", "line 2: \"x\" is no address"),
            ("mac,hostname\n52:54:00:00:00:01,a_b\n", "no host name"),
            ("hostname\na\n", "needs a mac"),
            ("mac,image\n52:54:00:00:00:01,a/b\n", "line 2"),
            (
                "mac,group\n\n52:54:00:00:00:01,a/b\n",
                "room.csv, line 3: \"a/b\" is no name of a group",
            ),
            ("mac,group\r\n52:54:00:00:00:01,a/b\r\n", "room.csv, line 2: \"a/b\" is no name"),
            ("mac,group\r52:54:00:00:00:01,a\rx,a\r", "room.csv, line 3: \"x\" is no"),
            (
                "mac,group\n\"52:54:00:00:00:01\",a\nb\n",
                "line 3: line 1 names 2 columns, and here is another number of fields, 1",
            ),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        let listed = read("mac,image\n\n52:54:00:00:00:01,lob\n").unwrap();
        let files = Local::new(work.path().join("repository"));
        let repo = Repository::create(Arc::new(files)).unwrap();
        let said = format!("{:#}", rules(listed).with(&repo, None, &Quiet::default()).unwrap_err());
        assert!(said.contains("room.csv, line 3: there is no image lob"), "{said}");
    }
}
