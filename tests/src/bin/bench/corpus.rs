//! What is saved: an ext4, a small FAT, a whole disk, an ext4 of which some files changed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::loops::{Loop, Mount};
use keiki_tests::measure::used_bytes;
use keiki_tests::second_save::{self, Corpus, Random};
use keiki_tests::vg::{Segment, Vg};
use keiki_tests::{filesystem, fixtures, run, sparse, table};
use tempfile::TempDir;

/// What a case works on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// `$image` with an ext4, also as the device `$loop`; its used bytes in `$used`.
    Ext4,
    /// `$image` with a FAT32.
    Fat,
    /// `$image` with a GPT; its filesystems as the devices `$esp`, `$boot`, `$root`, `$home`.
    Disk,
    /// `$old` with an ext4; the same in `$image` after some files changed; the changed blocks in `$blocks`.
    Changed,
}

/// A source; its devices and files go when it is dropped.
pub struct Made {
    pub variables: Vec<(&'static str, PathBuf)>,
    _loops: Vec<Loop>,
    pub folder: TempDir,
}

/// Where files come from, and how large everything is.
pub struct Maker {
    pub from: PathBuf,
    /// All sizes are divided by it.
    pub divisor: u64,
}

impl Source {
    pub const ALL: [Self; 4] = [Self::Ext4, Self::Fat, Self::Disk, Self::Changed];
}

impl Maker {
    pub fn make(&self, source: Source) -> Result<Made> {
        let folder = TempDir::new_in(fixtures::folder()?)?;
        let image = folder.path().join("disk.img");
        let (mut variables, mut loops) = (vec![("image", image.clone())], Vec::new());
        match source {
            Source::Ext4 => {
                let used = folder.path().join("used");
                self.ext4(&image, 6144, 2500)?;
                used_bytes(&image, &used)?;
                loops.push(Loop::whole(&image)?);
                variables.extend([("loop", device(&loops[0])), ("used", used)]);
            }
            Source::Fat => self.fat32(&image, 512, 230)?,
            Source::Disk => {
                loops = self.disk(&image)?;
                variables.extend(
                    ["esp", "boot", "root", "home"].into_iter().zip(loops.iter().map(device)),
                );
            }
            Source::Changed => {
                let [old, blocks] = ["old.img", "blocks"].map(|name| folder.path().join(name));
                self.ext4(&old, 4096, 1600)?;
                run!("cp", "--sparse=always", &old, &image)?;
                filesystem::filled(&image, |folder| second_save::change(folder, 3).map(drop))?;
                second_save::changed_blocks(&old, &image, &blocks)?;
                variables.extend([("old", old), ("blocks", blocks)]);
            }
        }
        Ok(Made { variables, _loops: loops, folder })
    }

    fn mib(&self, count: u64) -> Bytes {
        Bytes::mib(count / self.divisor)
    }

    fn ext4(&self, image: &Path, size: u64, used: u64) -> Result<()> {
        let fill = |folder: &Path| Corpus::of(&self.from)?.copy(folder, self.mib(used));
        second_save::ext4(image, self.mib(size), fill)
    }

    /// With so many files of 1 MiB.
    fn fat32(&self, image: &Path, size: u64, files: u64) -> Result<()> {
        let folder = TempDir::new_in(fixtures::folder()?)?;
        let mut random = Random::new(7);
        let mut all = Vec::new();
        for number in 0..files / self.divisor {
            let (name, path) = (format!("F{number}"), folder.path().join(number.to_string()));
            fs::write(&path, random.content(1 << 20))?;
            all.push((name, path));
        }
        let all: Vec<_> = all.iter().map(|(name, path)| (name.as_str(), path.as_path())).collect();
        filesystem::fat32(image, self.mib(size), ["SMALL", "12345678"], &all)
    }

    /// A GPT with an EFI system partition, an ext4 `/boot`, and a volume group with an ext4 root and an XFS home: in the
    /// order of the devices on them. Each logical volume is one segment, so that a loop device shows it.
    fn disk(&self, path: &Path) -> Result<Vec<Loop>> {
        sparse::create(path, self.mib(8192))?;
        let [esp, boot] = [512, 512].map(|count| format!("+{}M", count / self.divisor));
        let [esp, boot] =
            [("1:2048:", esp), ("2:0:", boot)].map(|(at, size)| format!("{at}{size}"));
        run!("sgdisk", "-n", esp, "-t1:ef00", "-n", boot, "-t2:8300", "-n3:0:0", "-t3:8e00", path)?;
        let parts = table::partitions(path)?;
        let [esp, boot, pv] = parts.as_slice() else { anyhow::bail!("{parts:?}") };

        let vg = Vg::create("vg0", &[(path.to_owned(), *pv)])?;
        vg.add("root", self.mib(3584), None)?;
        vg.add("home", self.mib(3072), None)?;
        let mut segments = vg.segments()?;
        let mut only = |lv: &str| -> Result<Extent> {
            let segments = segments.remove(lv).context("no such volume")?;
            let [Segment { extent, .. }] = segments.as_slice() else {
                anyhow::bail!("{lv} is not contiguous")
            };
            Ok(*extent)
        };
        let (root, home) = (only("root")?, only("home")?);
        drop(vg);

        let image = path.with_extension("esp");
        self.fat32(&image, 512, 64)?;
        ensure!(fs::metadata(&image)?.len() == esp.len().get(), "another size of the ESP");
        sparse::copy(&image, Extent::first(esp.len()), path, esp.start)?;
        fs::remove_file(image)?;
        let mut corpus = Corpus::of(&self.from)?;
        let mut fill = |extent: Extent, make: &[&str], used| -> Result<()> {
            let device = Loop::part(path, extent)?;
            let [program, options @ ..] = make else { anyhow::bail!("no program") };
            let mut call = keiki_tests::call!(*program);
            call.args.extend(options.iter().map(Into::into));
            call.args.push(device.device().into());
            keiki_tests::tool::run(&call)?;
            drop(device);
            let mount = Mount::new(path, extent, "rw")?;
            self.live_in(mount.folder(), &mut corpus, self.mib(used))
        };
        fill(*boot, &["mke2fs", "-q", "-F", "-t", "ext4"], 128)?;
        fill(root, &["mke2fs", "-q", "-F", "-t", "ext4"], 1600)?;
        fill(home, &["mkfs.xfs", "-q", "-f"], 1200)?;
        [*esp, *boot, root, home].into_iter().map(|extent| Loop::part(path, extent)).collect()
    }

    /// Copies files, and leaves others in free space that were deleted: two for five that stay, as on disks in use.
    fn live_in(&self, folder: &Path, corpus: &mut Corpus, used: Bytes) -> Result<()> {
        let old = folder.join("old");
        fs::create_dir(&old)?;
        Corpus::of(&self.from)?.copy(&old, Bytes::new(used.get() / 5 * 2))?;
        // Or nothing of it would ever reach the disk.
        run!("sync", "-f", folder)?;
        corpus.copy(folder, used)?;
        fs::remove_dir_all(old)?;
        Ok(())
    }
}

fn device(device: &Loop) -> PathBuf {
    device.device().to_owned()
}
