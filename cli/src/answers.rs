//! The answer file of `keiki iso --unattended`: what a disc restores where nobody is there to be asked.
//!
//! It is looked at twice: when the disc is made, so that a mistake is found by who makes it, and on the machine.

use clap::ValueEnum;
use image_core::disk::inventory::DiskInfo;
use image_core::plan::growth::Policy;
use image_core::units::Bytes;
use serde::Deserialize;

use crate::args;
use crate::args::restore::ReadBack;

/// An answer file (TOML).
#[derive(Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    /// The image, as `keiki restore` takes it; it is on the disc.
    pub image: String,
    /// A rule for each disk of the image, in the order of `keiki show`.
    #[serde(rename = "disk")]
    pub rules: Vec<Rule>,
    /// Seconds in which a key stops it.
    #[serde(default = "countdown")]
    pub countdown: u16,
    /// As `--grow`.
    #[serde(default)]
    pub grow: Vec<String>,
    /// As `--use-free`.
    #[serde(default)]
    pub use_free: bool,
    /// As `--only-changed`: for disks that hold an older state.
    #[serde(default)]
    pub only_changed: bool,
    /// As `--verify`: `full`, `sample` or `none`.
    #[serde(default = "full")]
    pub verify: String,
    /// Whether the restored system is made to start here, as `keiki repair` does it.
    #[serde(default = "yes")]
    pub repair: bool,
    /// What happens afterwards.
    #[serde(default)]
    pub then: Then,
}

/// What a disk has to be. All that is given has to be so, and exactly one disk of the machine has to be it.
#[derive(Deserialize, Clone, PartialEq, Eq, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its serial number.
    serial: Option<String>,
    /// Its world-wide name.
    wwn: Option<String>,
    /// Words of its model; capitals do not matter.
    model: Option<String>,
    /// It is no smaller.
    at_least: Option<Size>,
    /// It is no larger.
    at_most: Option<Size>,
    /// It may be one that can be pulled out, such as a USB disk.
    #[serde(default)]
    removable: bool,
}

/// A size as it is written on the command line.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(try_from = "String")]
struct Size(Bytes);

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

/// What happens when all is done.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Then {
    /// The machine starts again.
    #[default]
    Reboot,
    /// It is switched off.
    Poweroff,
    /// The menu comes.
    Menu,
}

const fn countdown() -> u16 {
    30
}

fn full() -> String {
    "full".to_owned()
}

const fn yes() -> bool {
    true
}

impl Answers {
    /// Reads an answer file.
    ///
    /// # Errors
    /// What is wrong with it and where, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let answers: Self =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        args::image(&answers.image)?;
        if answers.rules.is_empty() {
            return Err("no disk: add a table [[disk]] with a rule for it".to_owned());
        }
        if !(5..=3600).contains(&answers.countdown) {
            return Err("countdown: from 5 to 3600 seconds".to_owned());
        }
        let mut policy = Policy::default();
        for wish in &answers.grow {
            policy.add(wish).map_err(|why| format!("grow: {wish}: {why}"))?;
        }
        ReadBack::from_str(&answers.verify, false)
            .map_err(|_| "verify: \"full\", \"sample\" or \"none\"".to_owned())?;
        Ok(answers)
    }

    /// The words of the command that restores onto `targets`, each confirmed by the answer beside it.
    pub fn restore(&self, targets: &[(String, String)]) -> Vec<String> {
        let mut words = vec!["restore".to_owned(), self.image.clone()];
        words.extend(targets.iter().map(|(path, _)| path.clone()));
        words.extend(self.grow.iter().map(|wish| format!("--grow={wish}")));
        if self.use_free {
            words.push("--use-free".to_owned());
        }
        if self.only_changed {
            words.push("--only-changed".to_owned());
        }
        words.push(format!("--verify={}", self.verify));
        words.extend(confirmed(targets));
        words
    }

    /// The words of the command that makes the restored system start here, by this name where one is given.
    pub fn repair(targets: &[(String, String)], hostname: Option<&str>) -> Vec<String> {
        let mut words = vec!["repair".to_owned()];
        words.extend(targets.iter().map(|(path, _)| path.clone()));
        words.extend(hostname.map(|name| format!("--hostname={name}")));
        words.extend(confirmed(targets));
        words
    }

    /// The disk that each rule means.
    ///
    /// # Errors
    /// In words: none fits, several do, or two rules mean the same one.
    pub fn choose<'a>(&self, disks: &'a [DiskInfo]) -> Result<Vec<&'a DiskInfo>, String> {
        let mut chosen: Vec<&DiskInfo> = Vec::new();
        for (rule, number) in self.rules.iter().zip(1..) {
            let fitting: Vec<&DiskInfo> = disks.iter().filter(|disk| rule.fits(disk)).collect();
            let disk = match fitting.as_slice() {
                [disk] => *disk,
                [] => {
                    return Err(format!(
                        "rule {number} fits no disk of this machine{}",
                        list(disks.iter())
                    ));
                }
                _ => {
                    let which = list(fitting.into_iter());
                    return Err(format!("rule {number} fits more than one disk{which}"));
                }
            };
            if chosen.iter().any(|other| other.path == disk.path) {
                let path = disk.path.display();
                return Err(format!("rule {number} fits {path}, and so does one before it"));
            }
            chosen.push(disk);
        }
        Ok(chosen)
    }
}

fn confirmed(targets: &[(String, String)]) -> impl Iterator<Item = String> + '_ {
    targets.iter().map(|(_, answer)| format!("--confirm={answer}"))
}

/// Disks, a line each.
fn list<'a>(disks: impl Iterator<Item = &'a DiskInfo>) -> String {
    let lines: Vec<String> = disks.map(|disk| format!("\n  {}", words(disk))).collect();
    if lines.is_empty() { String::new() } else { format!(":{}", lines.concat()) }
}

/// A disk, as a rule would name it.
fn words(disk: &DiskInfo) -> String {
    let parts = [
        Some(format!("{}: {}", disk.path.display(), disk.size)),
        disk.model.as_ref().map(|model| format!("model {model}")),
        disk.serial.as_ref().map(|serial| format!("serial {serial}")),
        disk.wwn.as_ref().map(|wwn| format!("wwn {wwn}")),
        disk.removable.then(|| "removable".to_owned()),
        disk.read_only.then(|| "read-only".to_owned()),
        (!disk.holders.is_empty()).then(|| "in use".to_owned()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

impl Rule {
    fn fits(&self, disk: &DiskInfo) -> bool {
        let is = |rule: &Option<String>, has: &Option<String>| rule.is_none() || rule == has;
        let lower = |text: &String| text.to_lowercase();
        let model = self.model.as_ref().is_none_or(|words| {
            disk.model.as_ref().is_some_and(|model| lower(model).contains(&lower(words)))
        });
        is(&self.serial, &disk.serial)
            && is(&self.wwn, &disk.wwn)
            && model
            && self.at_least.is_none_or(|size| disk.size >= size.0)
            && self.at_most.is_none_or(|size| disk.size <= size.0)
            && (self.removable || !disk.removable)
            && !disk.read_only
            && disk.holders.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn disk(path: &str, gib: u64, model: &str, removable: bool) -> DiskInfo {
        DiskInfo {
            path: PathBuf::from(path),
            size: Bytes::gib(gib),
            sector_size: Some(Bytes::new(512)),
            model: Some(model.to_owned()),
            serial: Some(format!("S-{path}")),
            wwn: None,
            whole: true,
            removable,
            read_only: false,
            partitions: Vec::new(),
            holders: Vec::new(),
        }
    }

    fn machine() -> Vec<DiskInfo> {
        vec![
            disk("/dev/sda", 100, "Fast SSD 870", false),
            disk("/dev/sdb", 2000, "Big Disk", false),
            disk("/dev/sdc", 60, "Stick", true),
        ]
    }

    fn chosen(rules: &str) -> Result<Vec<String>, String> {
        let answers = Answers::parse(&format!("image = \"lab\"\n{rules}")).unwrap();
        let paths = |found: Vec<&DiskInfo>| {
            found.iter().map(|disk| disk.path.display().to_string()).collect()
        };
        answers.choose(&machine()).map(paths)
    }

    #[test]
    fn a_rule_means_exactly_one_disk() {
        for (rules, expected) in [
            ("[[disk]]\nmodel = \"ssd\"", "/dev/sda"),
            ("[[disk]]\nat_least = \"1TB\"", "/dev/sdb"),
            ("[[disk]]\nat_most = \"150 GiB\"", "/dev/sda"),
            ("[[disk]]\nserial = \"S-/dev/sdb\"\nat_least = \"10G\"", "/dev/sdb"),
            ("[[disk]]\nat_most = \"80GiB\"\nremovable = true", "/dev/sdc"),
        ] {
            assert_eq!(chosen(rules).unwrap(), [expected], "{rules}");
        }
        let two = "[[disk]]\nmodel = \"big\"\n[[disk]]\nmodel = \"fast\"";
        assert_eq!(chosen(two).unwrap(), ["/dev/sdb", "/dev/sda"]);
        for (rules, why) in [
            (
                "[[disk]]",
                "rule 1 fits more than one disk:\n  /dev/sda: 100 GiB, model Fast SSD 870, serial",
            ),
            ("[[disk]]\nat_least = \"3TB\"", "rule 1 fits no disk"),
            ("[[disk]]\nserial = \"S-/dev/sdc\"", "rule 1 fits no disk"),
            ("[[disk]]\nwwn = \"0x5\"", "rule 1 fits no disk"),
            (
                "[[disk]]\nmodel = \"big\"\n[[disk]]\nserial = \"S-/dev/sdb\"",
                "and so does one before",
            ),
        ] {
            let said = chosen(rules).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn what_is_in_use_or_read_only_is_never_meant() {
        let answers = Answers::parse("image = \"lab\"\n[[disk]]").unwrap();
        let mut disks = vec![disk("/dev/sda", 9, "a", false), disk("/dev/sdb", 9, "b", false)];
        disks[0].read_only = true;
        assert_eq!(answers.choose(&disks).unwrap()[0].path, PathBuf::from("/dev/sdb"));
        disks[1].read_only = true;
        let why = answers.choose(&disks).unwrap_err();
        assert!(why.contains("/dev/sdb: 9 GiB, model b, serial S-/dev/sdb, read-only"), "{why}");
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let good = "image = \"lab\"\nthen = \"poweroff\"\ngrow = [\"vg0/root=rest\"]\n[[disk]]\nserial = \"X\"\n";
        assert_eq!(Answers::parse(good).unwrap().then, Then::Poweroff);
        for (from, to, why) in [
            ("image", "imege", "unknown field `imege`"),
            ("serial", "seriel", "line 5"),
            ("poweroff", "explode", "unknown variant `explode`"),
            ("lab", "a/b", "name"),
            ("=rest", "=much", "grow: vg0/root=much"),
            ("serial = \"X\"", "at_least = \"big\"", "is not a size"),
            ("[[disk]]\nserial = \"X\"", "disk = []", "add a table [[disk]]"),
            ("image", "countdown = 2\nimage", "from 5 to 3600"),
            ("image", "verify = \"maybe\"\nimage", "\"sample\""),
            ("\n[[disk]]\nserial = \"X\"\n", "", "missing field `disk`"),
        ] {
            let text = good.replacen(from, to, 1);
            let said = Answers::parse(&text).unwrap_err();
            assert!(said.contains(why), "{text}\n{said}");
        }
    }

    #[test]
    fn the_commands_are_what_a_person_would_type() {
        let answers = Answers::parse(
            "image = \"lab\"\ngrow = [\"none\"]\nuse_free = true\nonly_changed = true\n[[disk]]",
        )
        .unwrap();
        let targets = [("/dev/sda".to_owned(), "S1".to_owned())];
        assert_eq!(
            answers.restore(&targets).join(" "),
            "restore lab /dev/sda --grow=none --use-free --only-changed --verify=full --confirm=S1"
        );
        assert_eq!(Answers::repair(&targets, None).join(" "), "repair /dev/sda --confirm=S1");
        let named = "repair /dev/sda --hostname=pc-1 --confirm=S1";
        assert_eq!(Answers::repair(&targets, Some("pc-1")).join(" "), named);
    }
}
