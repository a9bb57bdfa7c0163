//! Used maps of real ext filesystems, judged by e2fsck, by their files and by dumpe2fs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::exec::Call;
use image_core::extent::{Extent, ExtentSet};
use image_core::fs::{Filesystem, GrowthTool, State, ext};
use image_core::units::Bytes;
use keiki_tests::loops::{Loop, Mount};
use keiki_tests::tree::Tree;
use keiki_tests::{pulled, run, tool, truth};
use tempfile::TempDir;

/// A filesystem in a file, in a folder of its own.
struct Image {
    folder: TempDir,
}

impl Image {
    /// `mke2fs` with `options` in a file of `size`, filled with files; some of them deleted again.
    fn new(options: &str, size: Bytes) -> Result<Self> {
        let image = Self { folder: TempDir::new()? };
        File::create(image.path())?.set_len(size.get())?;
        let files = image.folder.path().join("files");
        populate(&files)?;
        let words = ["-q", "-F", "-L", "truth", "-M", "/srv", "-d"];
        let mut call = Call::new("mke2fs", options.split_whitespace().chain(words));
        call.args.extend([files.into(), image.path().into()]);
        tool::run(&call)?;
        let delete = (0..40).step_by(3).map(|n| format!("rm /many/{n}\n")).collect::<String>();
        let delete = delete + "rm /large\n";
        tool::run(&Call::new("debugfs", ["-w", "-f", "-"]).stdin(delete).with(&image.path()))?;
        Ok(image)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn open(&self) -> Result<Box<dyn Filesystem>> {
        ext::probe(&truth::source(&self.path())?)?.context("no ext")
    }

    /// Everything that can be asked of a map: see the module.
    fn check(&self) -> Result<()> {
        let filesystem = self.open()?;
        assert_eq!(filesystem.state()?, State::Clean);
        let used = filesystem.used()?;
        self.compare_identity(&*filesystem)?;
        let size = Bytes::new(fs::metadata(self.path())?.len());
        let expected = dumpe2fs(&self.path())?.rounded_out(Bytes::BLOCK, size);
        ensure!(used == expected, "not what dumpe2fs says: {}", difference(&used, &expected));
        let files = dump(&self.path())?;
        ensure!(files.len() > 30, "only {} files", files.len());
        truth::check(&self.path(), &used, |target| {
            run!("e2fsck", "-fn", target)?;
            files.expect(&dump(target)?)
        })
    }

    fn compare_identity(&self, filesystem: &dyn Filesystem) -> Result<()> {
        let identity = filesystem.identity();
        for (tag, value) in [
            ("TYPE", Some(identity.content.to_owned())),
            ("LABEL", identity.label.clone()),
            ("UUID", identity.uuid.clone()),
            ("BLOCK_SIZE", Some(identity.block_size.get().to_string())),
        ] {
            let says = run!("blkid", "-p", "-s", tag, "-o", "value", self.path())?;
            assert_eq!(value.as_deref(), Some(says.trim()), "{tag}");
        }
        assert_eq!(identity.last_mounted.as_deref(), Some("/srv"));
        Ok(())
    }
}

trait With {
    fn with(self, path: &Path) -> Self;
}

impl With for Call {
    /// The same call with a path as its last argument.
    fn with(mut self, path: &Path) -> Self {
        self.args.push(path.into());
        self
    }
}

/// Small, large, sparse and deep files, whose content tells their place.
fn populate(folder: &Path) -> Result<()> {
    let content = |name: &str, length: usize| {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    };
    fs::create_dir_all(folder.join("many"))?;
    fs::create_dir_all(folder.join("deep/er/and/deeper"))?;
    for n in 0..40 {
        let name = n.to_string();
        fs::write(folder.join("many").join(&name), content(&name, 700 * (n + 1)))?;
    }
    fs::write(folder.join("large"), content("large", 2 << 20))?;
    fs::write(folder.join("kept"), content("kept", (3 << 20) + 1))?;
    fs::write(folder.join("deep/er/and/deeper/file"), content("file", 5000))?;
    fs::write(folder.join("empty"), [])?;
    let sparse = File::create(folder.join("sparse"))?;
    sparse.set_len(8 << 20)?;
    std::os::unix::fs::FileExt::write_all_at(&sparse, &content("sparse", 9000), 5 << 20)?;
    std::os::unix::fs::symlink("kept", folder.join("link"))?;
    Ok(())
}

/// Every file of the filesystem in `image`.
fn dump(image: &Path) -> Result<Tree> {
    let folder = TempDir::new()?;
    let command = format!("rdump / {}", folder.path().display());
    let said = tool::outcome(&Call::new("debugfs", ["-R", &command]).with(image))?;
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    ensure!(said.lines().all(|line| line.starts_with("debugfs 1.")), "{said}");
    Tree::of(folder.path())
}

/// What is not in the lists of free blocks that dumpe2fs prints, and the first 4 KiB.
fn dumpe2fs(image: &Path) -> Result<ExtentSet> {
    let text = run!("dumpe2fs", image)?;
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    let blocks = field("Block count:").context("block count")?;
    let size = field("Block size:").context("block size")?;
    let bytes = |block: u64| Bytes::new(block * size);
    // With bigalloc the list names the first block of each cluster.
    let cluster = field("Cluster size:").unwrap_or(size) / size;
    let mut free = ExtentSet::new();
    let (_, groups) = text.split_once("\nGroup 0: ").context("group 0")?;
    let lists = groups.lines().filter_map(|line| line.trim().strip_prefix("Free blocks: "));
    for range in lists.flat_map(|list| list.split(", ")).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let end = (last.parse::<u64>()? + cluster).min(blocks);
        free.insert(Extent::new(bytes(first.parse()?), bytes(end)));
    }
    ensure!(!free.is_empty(), "nothing is free?");
    let start = ExtentSet::from(Extent::first(Bytes::BLOCK));
    Ok(free.missing_in(Extent::first(bytes(blocks))).union(&start))
}

fn difference(used: &ExtentSet, expected: &ExtentSet) -> String {
    let list = |set: ExtentSet| set.iter().take(5).map(|e| format!(" {e}")).collect::<String>();
    format!("too much{}, missing{}", list(used.subtract(expected)), list(expected.subtract(used)))
}

/// One test for each way to make an ext filesystem.
macro_rules! variants {
    ($($name:ident: $options:expr, $size:expr;)*) => {$(
        #[test]
        fn $name() -> Result<()> {
            Image::new($options, $size)?.check()
        }
    )*};
}

variants! {
    ext2: "-t ext2", Bytes::mib(64);
    ext2_of_revision_0: "-t ext2 -r 0 -b 1024 -O none", Bytes::mib(64);
    ext3: "-t ext3 -b 4096 -g 4096", Bytes::mib(64);
    ext4_with_blocks_of_1_kib: "-t ext4 -b 1024", Bytes::mib(64);
    ext4_with_blocks_of_2_kib: "-t ext4 -b 2048", Bytes::mib(100);
    ext4_with_blocks_of_4_kib: "-t ext4 -b 4096", Bytes::mib(300);
    ext4_with_blocks_of_64_kib: "-t ext4 -b 65536", Bytes::mib(100);
    uninit_bg: "-t ext4 -b 1024 -O ^64bit,^metadata_csum,uninit_bg", Bytes::mib(64);
    uninit_bg_without_flex_bg: "-t ext4 -O ^64bit,^metadata_csum,uninit_bg,^flex_bg", Bytes::mib(64);
    uninit_bg_with_64bit: "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg", Bytes::mib(64);
    no_checksums_at_all: "-t ext4 -b 1024 -O ^metadata_csum", Bytes::mib(64);
    metadata_csum_without_64bit: "-t ext4 -b 1024 -O ^64bit", Bytes::mib(64);
    metadata_csum_without_flex_bg: "-t ext4 -b 1024 -O ^flex_bg", Bytes::mib(64);
    meta_bg: "-t ext4 -b 1024 -g 512 -O meta_bg,^resize_inode", Bytes::mib(64);
    meta_bg_without_64bit: "-t ext4 -b 1024 -g 256 -N 600 -O meta_bg,^resize_inode,^64bit", Bytes::mib(64);
    sparse_super2: "-t ext4 -b 1024 -O sparse_super2", Bytes::mib(64);
    sparse_super2_without_backups: "-t ext4 -b 1024 -O sparse_super2 -E num_backup_sb=0", Bytes::mib(64);
    no_sparse_super: "-t ext4 -b 1024 -O ^sparse_super,^resize_inode", Bytes::mib(64);
    no_resize_inode: "-t ext4 -b 1024 -O ^resize_inode", Bytes::mib(64);
    bigalloc: "-t ext4 -b 4096 -O bigalloc -C 65536", Bytes::mib(300);
    bigalloc_in_small_groups: "-t ext4 -b 4096 -O bigalloc -C 65536 -g 4096", Bytes::mib(300);
    bigalloc_with_blocks_of_1_kib: "-t ext4 -b 1024 -O bigalloc -C 16384", Bytes::mib(300);
    packed_meta_blocks: "-t ext4 -b 1024 -E packed_meta_blocks=1", Bytes::mib(64);
    large_flex_groups: "-t ext4 -b 1024 -G 64", Bytes::mib(200);
    odd_size_with_a_short_last_group: "-t ext4 -b 1024", Bytes::new((67 << 20) + 12_345);
    odd_size_of_ext2_in_4_kib_blocks: "-t ext2 -b 4096 -g 2048", Bytes::new((67 << 20) + 513);
}

#[test]
fn every_feature_that_mke2fs_knows() -> Result<()> {
    let options = "-t ext4 -b 4096 -g 4096 -I 512 -O quota,project,inline_data,casefold,encrypt,verity,\
        ea_inode,large_dir,mmp,orphan_file,fast_commit,metadata_csum_seed,stable_inodes";
    let image = Image::new(options, Bytes::mib(100))?;
    // mke2fs does not count the files that it copies into the quotas.
    let repair = tool::outcome(&Call::new("e2fsck", ["-fp"]).with(&image.path()))?;
    ensure!(matches!(repair.code, Some(0 | 1)), "{}", repair.talk());
    image.check()
}

/// Offline growth moves descriptors, uses up what was reserved for them, and adds groups.
#[test]
fn grown_filesystems() -> Result<()> {
    for options in [
        "-t ext4 -b 1024",
        "-t ext4 -b 1024 -O ^resize_inode",
        "-t ext4 -b 1024 -g 1024 -O meta_bg,^resize_inode",
        "-t ext4 -b 1024 -O sparse_super2",
        "-t ext4 -b 1024 -O orphan_file",
        "-t ext4 -b 1024 -O ^64bit,^metadata_csum,uninit_bg,^flex_bg",
    ] {
        let image = Image::new(options, Bytes::mib(33))?;
        assert_eq!(image.open()?.growth(), Some(GrowthTool::Resize2fs), "{options}");
        File::options().write(true).open(image.path())?.set_len(300 << 20)?;
        run!("e2fsck", "-fp", image.path())?;
        run!("resize2fs", image.path())?;
        assert!(image.open()?.identity().size > Bytes::mib(299));
        image.check().context(options)?;
    }
    Ok(())
}

/// The volume goes on behind the filesystem: nothing of that is used.
#[test]
fn a_volume_larger_than_its_filesystem() -> Result<()> {
    let image = Image::new("-t ext4 -b 1024", Bytes::mib(33))?;
    let used = image.open()?.used()?;
    File::options().write(true).open(image.path())?.set_len((40 << 20) + 100)?;
    assert_eq!(image.open()?.used()?, used);
    image.check()
}

/// Block numbers beyond 32 bits, a quarter of a million groups: seconds and few megabytes.
#[test]
fn eight_tebibytes() -> Result<()> {
    let folder = TempDir::new()?;
    let path = folder.path().join("image");
    File::create(&path)?.set_len(8300 << 30)?;
    let options = "-q -F -t ext4 -b 2048 -G 4096 -N 300000 -O ^resize_inode,^has_journal,sparse_super2,meta_bg
        -E lazy_itable_init=1,num_backup_sb=0";
    tool::run(&Call::new("mke2fs", options.split_whitespace()).with(&path))?;
    let used = ext::probe(&truth::source(&path)?)?.context("no ext")?.used()?;
    assert!(used.end() > Bytes::new(2048 << 32), "ends at {}", used.end());
    let expected = dumpe2fs(&path)?.rounded_out(Bytes::BLOCK, Bytes::MAX);
    ensure!(used == expected, "not what dumpe2fs says: {}", difference(&used, &expected));
    Ok(())
}

/// Bitmaps as the kernel leaves them, and the target mounted by the kernel.
#[test]
fn loop_after_churn() -> Result<()> {
    for options in [
        "-t ext2 -b 4096 -g 4096",
        "-t ext3 -b 1024",
        "-t ext4 -b 1024",
        "-t ext4 -b 4096 -g 4096 -O orphan_file,fast_commit",
        "-t ext4 -b 1024 -O ^64bit,^metadata_csum,uninit_bg",
        "-t ext4 -b 4096 -O bigalloc -C 65536 -g 4096",
        "-t ext4 -b 1024 -g 1024 -O meta_bg,^resize_inode",
    ] {
        let image = Image::new(options, Bytes::mib(200))?;
        let whole = Extent::first(Bytes::mib(200));
        let files = {
            let mount = Mount::new(&image.path(), whole, "rw")?;
            for round in 0..4 {
                populate(&mount.folder().join(format!("round{round}")))?;
            }
            fs::remove_dir_all(mount.folder().join("round1"))?;
            fs::remove_file(mount.folder().join("kept"))?;
            Tree::of(mount.folder())?
        };
        run!("tune2fs", "-M", "/srv", image.path())?;
        image.check().context(options)?;
        let used = image.open()?.used()?;
        truth::check(&image.path(), &used, |target| {
            files.expect(&Tree::of(Mount::new(target, whole, "ro")?.folder())?)
        })
        .context(options)?;
    }
    Ok(())
}

/// What a pulled plug leaves where the journal cannot tell what is in use.
#[test]
fn loop_what_cannot_be_replayed_is_refused() -> Result<()> {
    for (options, reason) in [
        ("-t ext4 -O fast_commit", "the journal is dirty and has fast commits"),
        ("-t ext2", "it was not unmounted cleanly (s_state)"),
    ] {
        let image = Image::new(options, Bytes::mib(64))?;
        pulled::pull(&image.path(), "rw", |folder| pulled::write(folder, "late", 1 << 20))?;
        let filesystem = image.open()?;
        assert_eq!(filesystem.state()?, State::Raw(reason.to_owned()), "{options}");
        assert_eq!(filesystem.used().unwrap_err().to_string(), reason, "{options}");
    }
    Ok(())
}

/// A journal on another device is saved as it is; its filesystem is mapped while that journal is clean.
#[test]
fn loop_external_journal() -> Result<()> {
    let journal = Image { folder: TempDir::new()? };
    File::create(journal.path())?.set_len(8 << 20)?;
    run!("mke2fs", "-q", "-F", "-O", "journal_dev", "-b", "1024", journal.path())?;
    let device = Loop::whole(&journal.path())?;
    let option = format!("-t ext4 -b 1024 -J device={}", device.device().display());
    let image = Image::new(&option, Bytes::mib(64))?;
    assert_eq!(image.open()?.state()?, State::Clean);
    assert!(image.open()?.used().is_ok());
    let jbd = journal.open()?;
    assert_eq!(jbd.identity().content, "jbd");
    let reason = "it is the journal of another filesystem";
    assert_eq!(jbd.state()?, State::Raw(reason.to_owned()));
    assert_eq!(jbd.used().unwrap_err().to_string(), reason);
    Ok(())
}
