//! Compares saves and restores of a large ext4 and a small FAT with partclone, fsarchiver and dd, in one run and in
//! turn, and with what zstd and BLAKE3 alone take for the same bytes. Prints Markdown tables.
//!
//! `bench KEIKI [FOLDER]`: the program, and the folder whose files are in the filesystem (`/usr`).
//! `bench --floor LEVEL FILE`: compresses and hashes the file on all cores, and does nothing else.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result};
use image_core::units::Bytes;
use keiki_tests::loops::Loop;
use keiki_tests::measure::{Stand, Way, table, used_bytes};
use keiki_tests::second_save::{self, Random};
use keiki_tests::{filesystem, fixtures};
use tempfile::TempDir;

const USED: Bytes = Bytes::mib(2500);
const DISK: Bytes = Bytes::gib(6);
const ROUNDS: usize = 3;
const WINDOW: usize = 1 << 20;

const SAVES: [Way; 6] = [
    Way {
        name: "keiki save",
        script: r#""$keiki" --repo "$out" --progress none -q save "$image" --name disk"#,
    },
    Way {
        name: "partclone \\| zstd -3 -T0",
        script: r#"partclone.ext4 -L /dev/null -c -s "$image" -o - 2> /dev/null | zstd -q -3 -T0 > "$out/image""#,
    },
    Way {
        name: "partclone -a0 \\| zstd -3 -T0",
        script: r#"partclone.ext4 -L /dev/null -c -a0 -s "$image" -o - 2> /dev/null | zstd -q -3 -T0 > "$out/image""#,
    },
    Way {
        name: "fsarchiver -Z3 -j2",
        script: r#"fsarchiver savefs -Z3 -j2 "$out/image" "$loop" > /dev/null 2>&1"#,
    },
    Way {
        name: "zstd -3 -T0 of the whole disk",
        script: r#"zstd -q -3 -T0 < "$image" > "$out/image""#,
    },
    Way { name: "floor: zstd -3 and BLAKE3 alone", script: r#""$bench" --floor 3 "$used""# },
];

const FAST_SAVES: [Way; 2] = [
    Way {
        name: "keiki save --level 1",
        script: r#""$keiki" --repo "$out" --progress none -q save "$image" --name disk --level 1"#,
    },
    Way {
        name: "partclone -a0 \\| zstd -1 -T0",
        script: r#"partclone.ext4 -L /dev/null -c -a0 -s "$image" -o - 2> /dev/null | zstd -q -1 -T0 > "$out/image""#,
    },
];

const RESTORES: [Way; 6] = [
    Way {
        name: "keiki restore --verify none",
        script: r#""$keiki" --repo "$saved/repo" --progress none -q restore disk "$out/disk" --keep-ids --verify none < /dev/null"#,
    },
    Way {
        name: "partclone.restore",
        script: r#"truncate -s "$(stat -c %s "$image")" "$out/disk"
            zstd -dcq "$saved/checked" | partclone.restore -q -C -W -s - -O "$out/disk" -L /dev/null 2> /dev/null"#,
    },
    Way {
        name: "partclone.restore of -a0",
        script: r#"truncate -s "$(stat -c %s "$image")" "$out/disk"
            zstd -dcq "$saved/plain" | partclone.restore -q -C -W -s - -O "$out/disk" -L /dev/null 2> /dev/null"#,
    },
    Way {
        name: "partclone.restore of -a0, then sync",
        script: r#"truncate -s "$(stat -c %s "$image")" "$out/disk"
            zstd -dcq "$saved/plain" | partclone.restore -q -C -W -s - -O "$out/disk" -L /dev/null 2> /dev/null
            sync "$out/disk""#,
    },
    Way {
        name: "keiki restore, all read back",
        script: r#""$keiki" --repo "$saved/repo" --progress none -q restore disk "$out/disk" --keep-ids < /dev/null"#,
    },
    Way {
        name: "zstd -dc \\| dd conv=sparse, whole disk",
        script: r#"zstd -dcq "$saved/whole" | dd of="$out/disk" bs=1M conv=sparse iflag=fullblock status=none"#,
    },
];

const SMALL_SAVES: [Way; 2] = [
    Way {
        name: "keiki save",
        script: r#""$keiki" --repo "$out" --progress none -q save "$fat" --name disk"#,
    },
    Way {
        name: "partclone -a0 \\| zstd -3 -T0",
        script: r#"partclone.fat32 -L /dev/null -c -a0 -s "$fat" -o - 2> /dev/null | zstd -q -3 -T0 > "$out/image""#,
    },
];

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let first = args.next().context("which program?")?;
    if first.as_os_str() == "--floor" {
        let level =
            args.next().and_then(|level| level.to_str()?.parse().ok()).context("a level")?;
        return floor(level, &args.next().context("a file")?);
    }
    let keiki = fs::canonicalize(first)?;
    let from = args.next().unwrap_or_else(|| "/usr".into());
    let work = TempDir::new_in(fixtures::folder()?)?;
    let [image, fat, used, saved] =
        ["ext4.img", "fat.img", "used", "saved"].map(|name| work.path().join(name));
    second_save::ext4(&image, DISK, |folder| second_save::copy(&from, folder, USED))?;
    small(&fat)?;
    used_bytes(&image, &used)?;
    let device = Loop::whole(&image)?;
    let variables = vec![
        ("keiki", keiki),
        ("bench", std::env::current_exe()?),
        ("loop", device.device().to_owned()),
        ("image", image),
        ("fat", fat),
        ("used", used),
        ("saved", saved.clone()),
    ];
    let stand = Stand { out: work.path().join("out"), variables };
    compare(&stand, "Save an ext4", &SAVES)?;
    compare(&stand, "Save it fast", &FAST_SAVES)?;
    compare(&stand, "Save a small FAT", &SMALL_SAVES)?;
    fs::create_dir(&saved)?;
    stand.run(
        r#""$keiki" --repo "$saved/repo" --progress none -q save "$image" --name disk
        partclone.ext4 -L /dev/null -c -s "$image" -o - 2> /dev/null | zstd -q -3 -T0 > "$saved/checked"
        partclone.ext4 -L /dev/null -c -a0 -s "$image" -o - 2> /dev/null | zstd -q -3 -T0 > "$saved/plain"
        zstd -q -3 -T0 < "$image" > "$saved/whole"
        cat "$saved"/repo/packs/* > /dev/null"#,
    )?;
    compare(&stand, "Restore the ext4 into a file", &RESTORES)
}

fn compare(stand: &Stand, title: &str, ways: &[Way]) -> Result<()> {
    let rounds = stand.compare(ways, ROUNDS)?;
    let mut out = std::io::stdout();
    Ok(writeln!(out, "## {title}\n\n{}", table(ways, &rounds))?)
}

/// A FAT32 of 512 MiB with 230 files of 1 MiB.
fn small(fat: &Path) -> Result<()> {
    let folder = TempDir::new_in(fixtures::folder()?)?;
    let mut random = Random::new(7);
    let mut files = Vec::new();
    for number in 0..230 {
        let (name, path) = (format!("F{number}"), folder.path().join(number.to_string()));
        fs::write(&path, random.content(1 << 20))?;
        files.push((name, path));
    }
    let files: Vec<_> = files.iter().map(|(name, path)| (name.as_str(), path.as_path())).collect();
    filesystem::fat32(fat, Bytes::mib(512), ["SMALL", "12345678"], &files)
}

/// What nobody can do without: each window compressed and hashed.
fn floor(level: i32, path: &Path) -> Result<()> {
    let file = File::open(path)?;
    let (size, next) = (file.metadata()?.len(), AtomicU64::new(0));
    thread::scope(|scope| {
        let work = || -> Result<()> {
            let mut encoder = zstd::bulk::Compressor::new(level)?;
            let mut window = vec![0; WINDOW];
            let mut stored = Vec::with_capacity(zstd::zstd_safe::compress_bound(WINDOW));
            loop {
                let at = next.fetch_add(u64::try_from(WINDOW)?, Ordering::Relaxed);
                let length = usize::try_from(size.saturating_sub(at))?.min(WINDOW);
                let Some(part) = window.get_mut(..length).filter(|part| !part.is_empty()) else {
                    return Ok(());
                };
                file.read_exact_at(part, at)?;
                std::hint::black_box(blake3::hash(part));
                stored.clear();
                encoder.compress_to_buffer(part, &mut stored)?;
                std::hint::black_box(stored.len());
            }
        };
        let cores = thread::available_parallelism()?.get();
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|one| one.join().unwrap_or_else(|_| anyhow::bail!("a panic")))
    })
}
