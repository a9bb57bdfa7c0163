//! Compares the second save of a large ext4 after a fiftieth of its files changed with borg, restic and casync:
//! stored bytes and CPU seconds (user and system, of all processes), in one run, as ratios.
//!
//! `second-save KEIKI [FOLDER]`: the program, and the folder whose files are in the filesystem (`/usr`).

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::units::Bytes;
use keiki_tests::{call, filesystem, fixtures, run, second_save, tool};
use tempfile::TempDir;

const USED: Bytes = Bytes::mib(1600);
const DISK: Bytes = Bytes::gib(4);

/// What one of the programs took for a save.
struct Cost {
    cpu: f64,
    stored: Bytes,
}

/// A program that stores images, and the most that our CPU seconds may be of its own.
struct Peer {
    name: &'static str,
    /// For bash: `$image` is what is saved, `$store` where to.
    script: &'static str,
    cpu: f64,
}

/// What saves only used blocks for those that take a stream.
const PEERS: [Peer; 4] = [
    Peer {
        name: "keiki",
        script: r#""$keiki" --repo "$store" --progress none -q save "$image" --name disk"#,
        cpu: 1.0,
    },
    Peer {
        name: "borg",
        script: r#"[ -d "$store" ] || borg init -e none "$store"
            partclone.ext4 -L "$log" -c -a0 -s "$image" -o - 2> /dev/null |
            borg create --compression zstd,3 "$store::$name" -"#,
        cpu: 0.30,
    },
    Peer {
        name: "restic",
        script: r#"[ -d "$store" ] || restic init -q -r "$store"
            partclone.ext4 -L "$log" -c -a0 -s "$image" -o - 2> /dev/null |
            restic backup -q -r "$store" --stdin --stdin-filename disk"#,
        cpu: 0.20,
    },
    Peer {
        name: "casync",
        script: r#"casync make --store "$store" "$log.caibx" "$image" > /dev/null"#,
        cpu: 0.07,
    },
];

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let keiki = fs::canonicalize(args.next().context("which program?")?)?;
    let from = args.next().unwrap_or_else(|| "/usr".into());
    let work = TempDir::new_in(fixtures::folder()?)?;
    let [old, new] = ["old.img", "new.img"].map(|name| work.path().join(name));
    say(&format!("making an ext4 with {USED} of the files in {}", from.display()))?;
    second_save::ext4(&old, DISK, |folder| second_save::copy(&from, folder, USED))?;
    run!("cp", "--sparse=always", &old, &new)?;
    let mut changed = 0;
    filesystem::filled(&new, |folder| {
        changed = second_save::change(folder, 3)?;
        Ok(())
    })?;
    let floor = second_save::changed_blocks(&old, &new, work.path())?;
    say(&format!("{changed} files changed; their 4 KiB blocks take {floor} by zstd -3"))?;
    say("             first save           second save       keiki's part of it")?;
    say("           CPU s     stored      CPU s     stored      CPU   stored")?;
    let first: Vec<Cost> =
        PEERS.iter().map(|peer| peer.save(&keiki, work.path(), &old)).collect::<Result<_>>()?;
    let second: Vec<Cost> =
        PEERS.iter().map(|peer| peer.save(&keiki, work.path(), &new)).collect::<Result<_>>()?;
    let own = second.first().context("keiki is the first")?;
    let part = |of: Bytes, all: Bytes| of.get() as f64 / all.get().max(1) as f64;
    let mut missed = Vec::new();
    for ((peer, first), second) in PEERS.iter().zip(&first).zip(&second) {
        let (cpu, bytes) = (own.cpu / second.cpu, part(own.stored, second.stored));
        say(&format!(
            "{:8} {:7.1} {:>10} {:10.1} {:>10} {cpu:8.2} {bytes:8.2}",
            peer.name,
            first.cpu,
            first.stored.to_string(),
            second.cpu,
            second.stored.to_string()
        ))?;
        if cpu > peer.cpu {
            missed.push(format!("{cpu:.2} of {}'s CPU time, not {}", peer.name, peer.cpu));
        }
    }
    let of_floor = part(own.stored, floor);
    say(&format!("keiki stores {of_floor:.2} of what the changed blocks take"))?;
    if of_floor > 1.2 {
        missed.push(format!("{of_floor:.2} of the changed blocks, not 1.2"));
    }
    ensure!(missed.is_empty(), "missed: {}", missed.join("; "));
    Ok(())
}

impl Peer {
    fn save(&self, keiki: &Path, work: &Path, image: &Path) -> Result<Cost> {
        let [store, log, time] =
            ["store", "log", "time"].map(|what| work.join(format!("{}.{what}", self.name)));
        let before = if store.exists() { second_save::size_of(&store)? } else { Bytes::ZERO };
        let script = format!("set -e -o pipefail\n{}", self.script);
        let call = call!("/usr/bin/time", "-f", "%U %S", "-o", &time, "bash", "-c", script)
            .env("keiki", keiki)
            .env("image", image)
            .env("store", &store)
            .env("log", log)
            .env("name", image.file_stem().context("a name")?)
            .env("RESTIC_PASSWORD", "none")
            .env("XDG_CACHE_HOME", work.join("cache"))
            .env("BORG_BASE_DIR", work.join("borg"))
            .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
        tool::run(&call)?;
        let text = fs::read_to_string(time)?;
        let seconds = text.split_whitespace().map(str::parse::<f64>);
        let cpu = seconds.sum::<Result<f64, _>>()?;
        Ok(Cost { cpu, stored: second_save::size_of(&store)?.saturating_sub(before) })
    }
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
