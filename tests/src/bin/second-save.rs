//! Compares the second save of a large ext4 after a fiftieth of its files changed with borg, restic and casync:
//! stored bytes and CPU seconds (user and system, of all processes), in turn and three times, as ratios of one round.
//!
//! `second-save KEIKI [FOLDER]`: the program, and the folder whose files are in the filesystem (`/usr`).

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::units::Bytes;
use keiki_tests::measure::Spread;
use keiki_tests::{call, filesystem, fixtures, run, second_save, tool};
use tempfile::TempDir;

const USED: Bytes = Bytes::mib(1600);
const DISK: Bytes = Bytes::gib(4);

/// How often the second save is measured, all programs in turn.
const ROUNDS: usize = 3;

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
    for peer in &PEERS {
        peer.save(&keiki, work.path(), &old)?;
    }
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        say(&format!("round {round} of {ROUNDS}"))?;
        let costs = PEERS.iter().map(|peer| peer.save_again(&keiki, work.path(), &new));
        rounds.push(costs.collect::<Result<Vec<_>>>()?);
    }
    say("           CPU s of the second save                     keiki's part of it")?;
    say("          median     (least to most)     stored   CPU: median (least to most)   stored")?;
    let mut missed = Vec::new();
    let own =
        |round: &[Cost]| round.first().map_or((0.0, Bytes::ZERO), |own| (own.cpu, own.stored));
    let stored = |round: &[Cost], at: usize| round.get(at).map_or(Bytes::ZERO, |cost| cost.stored);
    let last = rounds.last().context("a round")?;
    for (at, peer) in PEERS.iter().enumerate() {
        let of = |cost: &dyn Fn(&[Cost], &Cost) -> f64| {
            Spread::of(rounds.iter().filter_map(|round| Some(cost(round, round.get(at)?))))
        };
        let seconds = of(&|_, cost| cost.cpu);
        let ratio = of(&|round, cost| own(round).0 / cost.cpu);
        let (bytes, name) = (stored(last, at), peer.name);
        let of_bytes = part(own(last).1, bytes);
        say(&format!(
            "{name:8} {seconds:>26} {:>10} {ratio:>26} {of_bytes:12.2}",
            bytes.to_string()
        ))?;
        if ratio.median > peer.cpu {
            missed.push(format!("{:.3} of {name}'s CPU time, not {}", ratio.median, peer.cpu));
        }
    }
    let own = Cost { cpu: own(last).0, stored: own(last).1 };
    let of_floor = part(own.stored, floor);
    say(&format!("keiki stores {of_floor:.2} of what the changed blocks take"))?;
    if of_floor > 1.2 {
        missed.push(format!("{of_floor:.2} of the changed blocks, not 1.2"));
    }
    ensure!(missed.is_empty(), "missed: {}", missed.join("; "));
    Ok(())
}

fn part(of: Bytes, all: Bytes) -> f64 {
    of.get() as f64 / all.get().max(1) as f64
}

impl Peer {
    /// A save of `image`, after which everything that the program keeps is as it was.
    fn save_again(&self, keiki: &Path, work: &Path, image: &Path) -> Result<Cost> {
        let [kept, aside] = ["", ".aside"].map(|end| work.join(format!("{}{end}", self.name)));
        run!("cp", "-a", &kept, &aside)?;
        let cost = self.save(keiki, work, image);
        fs::remove_dir_all(&kept)?;
        fs::rename(aside, kept)?;
        cost
    }

    fn save(&self, keiki: &Path, work: &Path, image: &Path) -> Result<Cost> {
        let kept = work.join(self.name);
        fs::create_dir_all(&kept)?;
        let [store, log, cache, base] =
            ["store.castr", "log", "cache", "base"].map(|what| kept.join(what));
        let time = work.join("time");
        let before = if store.exists() { second_save::size_of(&store)? } else { Bytes::ZERO };
        let script = format!("set -e -o pipefail\n{}", self.script);
        let call = call!("/usr/bin/time", "-f", "%U %S", "-o", &time, "bash", "-c", script)
            .env("keiki", keiki)
            .env("image", image)
            .env("store", &store)
            .env("log", log)
            .env("name", image.file_stem().context("a name")?)
            .env("RESTIC_PASSWORD", "none")
            .env("XDG_CACHE_HOME", cache)
            .env("BORG_BASE_DIR", base)
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
