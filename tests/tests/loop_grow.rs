//! Filesystems grown by their own tools on targets full of garbage (root, loop devices, FUSE; packages
//! e2fsprogs and xfsprogs).
//!
//! What is checked every time: the files, the filesystem's own checker, every byte of the targets outside
//! of the volume, and that neither a mount nor a loop device stays behind.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, and so do the functions it shares"
)]

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use image_core::error::{Error, Result};
use image_core::exec::real::Machine;
use image_core::exec::{Call, Outcome, Runner};
use image_core::fs::GrowthTool;
use image_core::grow::{GrowOutcome, Growth, check, grow};
use image_core::units::Bytes;
use image_core::view::{Layout, Need, OpenView, Piece, Place, View, Volume};
use keiki_tests::binary::keiki;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// One test at a time: they look for what others would leave behind.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn server() -> Call {
    Call::new(keiki(), ["__serve-view"])
}

fn run<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> Outcome {
    Machine.check(&Call::new(program, args)).unwrap()
}

/// Bytes that are never zero and differ from sector to sector.
fn garbage(at: u64, length: u64) -> Vec<u8> {
    (at..at + length).map(|i| u8::try_from((i / 512 * 31 + i % 251) % 255 + 1).unwrap()).collect()
}

/// A target file of `mib` MiB of garbage.
fn target(folder: &TempDir, name: &str, mib: u64) -> PathBuf {
    let path = folder.path().join(name);
    let file = File::create(&path).unwrap();
    for at in 0..mib {
        file.write_all_at(&garbage(at * MIB, MIB), at * MIB).unwrap();
    }
    path
}

fn place(path: &Path, offset: u64) -> Place {
    Place { path: path.to_owned(), offset: Bytes::new(offset) }
}

fn one_piece(path: &Path, offset: u64, length: u64) -> Layout {
    Layout::new(vec![Piece::linear(Bytes::ZERO, Bytes::new(length), place(path, offset))]).unwrap()
}

/// 200 MiB and one sector in two files: 30 MiB, 90 MiB, 40 MiB striped over both, 40 MiB.
fn pieces(a: &Path, b: &Path) -> Layout {
    let linear = |at, length, place| Piece::linear(Bytes::mib(at), length, place);
    let striped = Piece {
        volume_offset: Bytes::mib(120),
        length: Bytes::mib(40),
        stripe_size: Bytes::kib(64),
        places: vec![place(a, 40 * MIB), place(b, 100 * MIB)],
    };
    Layout::new(vec![
        linear(0, Bytes::mib(30), place(a, 5 * MIB)),
        linear(30, Bytes::mib(90), place(b, 5 * MIB)),
        striped,
        linear(160, Bytes::mib(40) + Bytes::new(512), place(a, 65 * MIB)),
    ])
    .unwrap()
}

/// What the target at `path` holds besides the volume on `layout`.
fn outside(path: &Path, layout: &Layout) -> blake3::Hash {
    let mut bytes = std::fs::read(path).unwrap();
    let pieces: Vec<Piece> = layout.clone().into();
    for piece in pieces {
        let share = piece.length.get() / u64::try_from(piece.places.len()).unwrap();
        for place in piece.places.iter().filter(|place| place.path == path) {
            let start = place.offset.index().unwrap();
            bytes[start..start + usize::try_from(share).unwrap()].fill(0);
        }
    }
    blake3::hash(&bytes)
}

/// The files of every sample filesystem.
fn files() -> impl Iterator<Item = (String, Vec<u8>)> {
    (0..40).map(|i| (format!("file-{i}"), garbage(i * 977, i * i * 700)))
}

/// A filesystem of `mib` MiB with [`files`] in it, at the start of the volume on `layout`.
fn fill(layout: &Layout, tool: GrowthTool, block: u32, mib: u64) {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    File::create(&image).unwrap().set_len(mib * MIB).unwrap();
    let (kind, block) = match tool {
        GrowthTool::XfsGrowfs => ("xfs", format!("-bsize={block}")),
        _ => ("ext4", format!("-b{block}")),
    };
    let path = image.to_str().unwrap();
    match tool {
        GrowthTool::XfsGrowfs => run("mkfs.xfs", ["--unsupported", "-q", &block, path]),
        _ => run("mkfs.ext4", ["-q", &block, path]),
    };
    let whole = one_piece(&image, 0, mib * MIB);
    let view = OpenView::open(&whole, View::Loop, &server()).unwrap();
    view.mounted(kind, "", false, |folder| {
        for (name, bytes) in files() {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        Ok(())
    })
    .unwrap();
    view.close().unwrap();
    let volume = Volume::open(layout).unwrap();
    let image = std::fs::read(&image).unwrap();
    for (i, window) in image.chunks(1 << 20).enumerate() {
        volume.write_at(Bytes::mib(i.try_into().unwrap()), window).unwrap();
    }
    volume.flush().unwrap();
}

/// The filesystem's own checker finds nothing, and the files are what they were.
fn judge(layout: &Layout, tool: GrowthTool) {
    let view = View::of(layout, Need::Mount, true);
    let view = OpenView::open(layout, view, &server()).unwrap();
    let path = view.path();
    let kind = match tool {
        GrowthTool::XfsGrowfs => {
            run("xfs_repair", [OsStr::new("-n"), path.as_os_str()]);
            "xfs"
        }
        _ => {
            run("e2fsck", [OsStr::new("-fn"), path.as_os_str()]);
            "ext4"
        }
    };
    view.mounted(kind, "", true, |folder| {
        for (name, bytes) in files() {
            assert!(std::fs::read(folder.join(&name)).unwrap() == bytes, "{name} differs");
        }
        Ok(())
    })
    .unwrap();
    view.close().unwrap();
}

/// Neither mounts nor loop devices of this process's views, nor loops on the test's own files.
fn nothing_left(folder: &TempDir) {
    let scratch = format!("keiki-{}-", std::process::id());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&scratch), "{mounts}");
    let loops = run("losetup", ["--list", "--noheadings", "--output=NAME,BACK-FILE"]).text();
    let folder = folder.path().to_str().unwrap();
    assert!(!loops.contains(&scratch) && !loops.contains(folder), "{loops}");
    for entry in std::fs::read_dir(std::env::temp_dir()).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(!name.to_string_lossy().starts_with(&scratch), "{name:?} is left");
    }
}

fn growth(tool: GrowthTool, layout: Layout) -> Growth {
    Growth { volume: "vg0/root".to_owned(), tool, layout }
}

/// Fills the volume on `layout` with a filesystem of `from` MiB, grows it, and judges.
fn grows(folder: &TempDir, tool: GrowthTool, block: u32, from: u64, layout: Layout) {
    let pieces: Vec<Piece> = layout.clone().into();
    let targets: Vec<&Path> =
        pieces.iter().flat_map(|piece| &piece.places).map(|place| place.path.as_path()).collect();
    let seen = || targets.iter().map(|path| outside(path, &layout)).collect::<Vec<_>>();
    let before = seen();
    fill(&layout, tool, block, from);
    let growth = growth(tool, layout.clone());
    assert_eq!(check(&Machine, std::slice::from_ref(&growth)), []);
    let size = layout.size().align_down(Bytes::from(block));
    let outcome = grow(&Machine, &server(), &growth).unwrap();
    assert_eq!(outcome, GrowOutcome::Grown { from: Bytes::mib(from), to: size });
    assert!(before == seen(), "bytes outside of the volume changed");
    judge(&layout, tool);
    let again = grow(&Machine, &server(), &growth).unwrap();
    assert_eq!(again, GrowOutcome::Unchanged);
    nothing_left(folder);
}

#[test]
fn loop_ext4_grows_inside_a_file() {
    let _alone = alone();
    for block in [1024, 4096] {
        let folder = tempfile::tempdir().unwrap();
        let disk = target(&folder, "disk", 260);
        let layout = one_piece(&disk, 33 * MIB + 512, 200 * MIB);
        grows(&folder, GrowthTool::Resize2fs, block, 64, layout);
    }
}

#[test]
fn loop_xfs_grows_inside_a_file() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let disk = target(&folder, "disk", 260);
    let layout = one_piece(&disk, 33 * MIB, 200 * MIB);
    grows(&folder, GrowthTool::XfsGrowfs, 4096, 64, layout);
}

#[test]
fn loop_ext4_grows_over_pieces() {
    let _alone = alone();
    for block in [1024, 4096] {
        let folder = tempfile::tempdir().unwrap();
        let layout = pieces(&target(&folder, "a", 120), &target(&folder, "b", 130));
        grows(&folder, GrowthTool::Resize2fs, block, 64, layout);
    }
}

#[test]
fn loop_xfs_grows_over_pieces() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let layout = pieces(&target(&folder, "a", 120), &target(&folder, "b", 130));
    grows(&folder, GrowthTool::XfsGrowfs, 4096, 64, layout);
}

/// A loop device that stands for a disk; detached when dropped.
struct Disk(PathBuf);

impl Disk {
    fn new(file: &Path, sector: u32) -> Self {
        let sector = format!("--sector-size={sector}");
        let made = run("losetup", ["--find", "--show", &sector, file.to_str().unwrap()]);
        Self(PathBuf::from(made.text().trim()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("losetup", [OsStr::new("--detach"), self.0.as_os_str()]);
    }
}

#[test]
fn loop_both_grow_on_a_claimed_disk() {
    let _alone = alone();
    for (sector, tool) in [
        (512, GrowthTool::Resize2fs),
        (4096, GrowthTool::Resize2fs),
        (512, GrowthTool::XfsGrowfs),
        (4096, GrowthTool::XfsGrowfs),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = target(&folder, "disk", 260);
        let on_file = one_piece(&file, 33 * MIB, 200 * MIB);
        let before = outside(&file, &on_file);
        let disk = Disk::new(&file, sector);
        const O_EXCL: i32 = 0o200;
        let mut claim = File::options();
        let claim = claim.read(true).write(true).custom_flags(O_EXCL).open(&disk.0).unwrap();
        let layout = one_piece(&disk.0, 33 * MIB, 200 * MIB);
        fill(&layout, tool, 4096, 64);
        let grown = grow(&Machine, &server(), &growth(tool, layout.clone())).unwrap();
        assert_eq!(grown, GrowOutcome::Grown { from: Bytes::mib(64), to: Bytes::mib(200) });
        judge(&layout, tool);
        drop((claim, disk));
        assert!(before == outside(&file, &on_file), "bytes outside of the volume changed");
        nothing_left(&folder);
    }
}

/// The machine, which does something `before` it starts one program.
struct Before<F> {
    program: &'static str,
    before: F,
}

impl<F: Fn() + Send + Sync> Runner for Before<F> {
    fn run(&self, call: &Call) -> Result<Outcome> {
        if call.program == self.program {
            (self.before)();
        }
        Machine.run(call)
    }
    fn find(&self, program: &str) -> Option<PathBuf> {
        Machine.find(program)
    }
}

#[test]
fn loop_damage_is_told_apart_and_not_grown() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let disk = target(&folder, "disk", 220);
    let layout = one_piece(&disk, 10 * MIB, 200 * MIB);
    fill(&layout, GrowthTool::Resize2fs, 4096, 64);
    let image = disk.to_str().unwrap();
    // The root folder's inode becomes a file.
    run(
        "debugfs",
        ["-w", "-R", "set_inode_field <2> mode 0100644", &format!("{image}?offset={}", 10 * MIB)],
    );
    let never = Before { program: "resize2fs", before: || panic!("a damaged filesystem is grown") };
    let error = grow(&never, &server(), &growth(GrowthTool::Resize2fs, layout)).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("vg0/root: ext filesystem") && text.contains("exit code 4"), "{text}");
    nothing_left(&folder);
}

#[test]
fn loop_no_filesystem_is_damage_too() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let layout = one_piece(&target(&folder, "disk", 16), MIB, 8 * MIB);
    for tool in [GrowthTool::Resize2fs, GrowthTool::XfsGrowfs] {
        let error = grow(&Machine, &server(), &growth(tool, layout.clone())).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    }
    nothing_left(&folder);
}

/// Kills the one process that serves a view for this test.
fn kill_server() {
    let scratch = format!("/keiki-{}-", std::process::id());
    for entry in std::fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        if line.contains("__serve-view") && line.contains(&scratch) {
            let pid = path.file_name().unwrap();
            run("kill", [OsStr::new("-KILL"), pid]);
            return;
        }
    }
    panic!("no server runs");
}

#[test]
fn loop_a_killed_server_is_an_error_and_leaves_nothing() {
    let _alone = alone();
    for (tool, program) in
        [(GrowthTool::Resize2fs, "resize2fs"), (GrowthTool::XfsGrowfs, "xfs_growfs")]
    {
        let folder = tempfile::tempdir().unwrap();
        let layout = pieces(&target(&folder, "a", 120), &target(&folder, "b", 130));
        fill(&layout, tool, 4096, 64);
        let killer = Before { program, before: kill_server };
        let error = grow(&killer, &server(), &growth(tool, layout)).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        nothing_left(&folder);
    }
}

#[test]
fn loop_a_server_killed_after_the_last_write_is_an_error() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let layout = pieces(&target(&folder, "a", 120), &target(&folder, "b", 130));
    let view = OpenView::open(&layout, View::Fuse, &server()).unwrap();
    std::fs::write(view.path(), "fine").unwrap_err(); // it cannot be cut off
    let file = File::options().write(true).open(view.path()).unwrap();
    file.write_all_at(b"fine", 0).unwrap();
    drop(file);
    kill_server();
    assert!(view.close().unwrap_err().to_string().contains("a signal"));
    nothing_left(&folder);
}

/// A lost write is told twice: to the tool, which may not care, and when the view is closed.
#[test]
fn loop_a_lost_write_is_told_when_the_view_closes() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small");
    std::fs::create_dir(&small).unwrap();
    run("mount", ["-t", "tmpfs", "-o", "size=2m", "none", small.to_str().unwrap()]);
    let sparse = small.join("sparse");
    File::create(&sparse).unwrap().set_len(64 * MIB).unwrap();
    let view = OpenView::open(&one_piece(&sparse, 0, 64 * MIB), View::Fuse, &server()).unwrap();
    let file = File::options().write(true).open(view.path()).unwrap();
    file.write_all_at(&garbage(0, 8 * MIB), 0).unwrap_err();
    drop(file);
    let closed = view.close().map(drop);
    run("umount", [&small]);
    assert!(closed.unwrap_err().to_string().contains("No space left on device"));
    nothing_left(&folder);
}

#[test]
fn loop_a_view_that_cannot_start_says_why() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let layout = one_piece(&target(&folder, "disk", 1), 0, MIB);
    let broken = Call::new("false", [] as [&str; 0]);
    let error = OpenView::open(&layout, View::Fuse, &broken).unwrap_err();
    assert!(error.to_string().contains("exit code 1"), "{error}");
    nothing_left(&folder);
}

/// Runs the ignored test `name` of this program in a process of its own, as `user`, in `folder`.
fn another_process(name: &str, user: &str, folder: &Path) -> Call {
    let test = std::env::current_exe().unwrap();
    let ids = [format!("--reuid={user}"), "--clear-groups".to_owned(), "--".to_owned()];
    let args = ids.iter().map(OsStr::new).chain([test.as_os_str()]);
    let rest = ["--ignored", "--exact", "--nocapture", name].map(OsStr::new);
    Call::new("setpriv", args.chain(rest))
        .env("KEIKI_TEST_FOLDER", folder)
        .env("KEIKI_TEST_BINARY", keiki())
}

/// In such a process: its folder, and the server that the first process built.
fn in_another_process() -> (PathBuf, Call) {
    let path = |name| PathBuf::from(std::env::var_os(name).unwrap());
    (path("KEIKI_TEST_FOLDER"), Call::new(path("KEIKI_TEST_BINARY"), ["__serve-view"]))
}

#[test]
fn loop_ext4_in_a_file_grows_without_root() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let disk = target(&folder, "disk", 220);
    let layout = one_piece(&disk, 10 * MIB, 200 * MIB);
    let before = outside(&disk, &layout);
    fill(&layout, GrowthTool::Resize2fs, 4096, 64);
    run("chown", ["-R", "nobody", folder.path().to_str().unwrap()]);
    let call = another_process("as_nobody", "nobody", folder.path());
    Machine.check(&call).unwrap();
    assert!(before == outside(&disk, &layout), "bytes outside of the volume changed");
    judge(&layout, GrowthTool::Resize2fs);
    nothing_left(&folder);
}

#[test]
#[ignore = "started by loop_ext4_in_a_file_grows_without_root"]
fn as_nobody() {
    let (folder, server) = in_another_process();
    let layout = one_piece(&folder.join("disk"), 10 * MIB, 200 * MIB);
    let growth = growth(GrowthTool::Resize2fs, layout.clone());
    assert_eq!(check(&Machine, std::slice::from_ref(&growth)), []);
    let grown = grow(&Machine, &server, &growth).unwrap();
    assert_eq!(grown, GrowOutcome::Grown { from: Bytes::mib(64), to: Bytes::mib(200) });
    let xfs = self::growth(GrowthTool::XfsGrowfs, layout);
    let found: Vec<String> = check(&Machine, &[xfs]).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["vg0/root cannot be grown: only root may mount it"]);
}

#[test]
fn loop_a_killed_program_leaves_no_mount_and_no_loop() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let layout = pieces(&target(&folder, "a", 120), &target(&folder, "b", 130));
    fill(&layout, GrowthTool::XfsGrowfs, 4096, 64);
    let mut child =
        Machine.spawn(&another_process("mounts_and_waits", "root", folder.path())).unwrap();
    let scratch = loop {
        let line = child.answer().unwrap();
        assert!(!line.is_empty(), "it ended early");
        if let Some((_, scratch)) = line.trim().split_once("mounted by ") {
            break format!("keiki-{scratch}-");
        }
    };
    let held = || {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let loops = run("losetup", ["--list", "--noheadings", "--output=BACK-FILE"]).text();
        mounts.contains(&scratch) || loops.contains(&scratch)
    };
    assert!(held(), "the view is not seen at all");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let seen = mounts.lines().any(|line| line.contains(&scratch) && line.contains(" xfs "));
    assert!(!seen, "its private mount is seen: {mounts}");
    drop(child);
    let start = std::time::Instant::now();
    while held() {
        assert!(start.elapsed().as_secs() < 20, "still there after its program was killed");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // Empty folders are all that it leaves.
    for entry in std::fs::read_dir(std::env::temp_dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with(&scratch) {
            std::fs::remove_dir(path).unwrap();
        }
    }
    nothing_left(&folder);
}

#[test]
#[ignore = "started by loop_a_killed_program_leaves_no_mount_and_no_loop"]
fn mounts_and_waits() {
    let (folder, server) = in_another_process();
    let layout = pieces(&folder.join("a"), &folder.join("b"));
    let view = OpenView::open(&layout, View::LoopOnFuse, &server).unwrap();
    let wait = |folder: &Path| -> Result<()> {
        std::fs::write(folder.join("new"), garbage(0, MIB)).unwrap();
        println!("mounted by {}", std::process::id());
        loop {
            std::thread::park();
        }
    };
    view.mounted("xfs", "nouuid", false, wait).unwrap();
}

/// A machine without filesystem tools.
struct Bare;

impl Runner for Bare {
    fn run(&self, call: &Call) -> Result<Outcome> {
        panic!("{} is started before the first write", call.line())
    }
    fn find(&self, _: &str) -> Option<PathBuf> {
        None
    }
}

#[test]
fn missing_tools_are_found_before_anything_is_written() {
    let layout = one_piece(Path::new("/nowhere"), 0, MIB);
    let growths =
        [GrowthTool::Resize2fs, GrowthTool::XfsGrowfs].map(|tool| growth(tool, layout.clone()));
    let found: Vec<String> = check(&Bare, &growths).iter().map(ToString::to_string).collect();
    for (tool, package) in
        [("e2fsck", "e2fsprogs"), ("resize2fs", "e2fsprogs"), ("xfs_growfs", "xfsprogs")]
    {
        let line = format!("vg0/root cannot be grown: {tool} is not installed (package {package})");
        assert!(found.contains(&line), "{line} is not in {found:?}");
    }
}

#[test]
fn the_simplest_view_is_chosen() {
    let one = one_piece(Path::new("a"), 0, MIB);
    let many = pieces(Path::new("a"), Path::new("b"));
    for (layout, need, root, view) in [
        (&one, Need::Path, true, View::Loop),
        (&one, Need::Path, false, View::Fuse),
        (&one, Need::Mount, true, View::Loop),
        (&many, Need::Path, true, View::Fuse),
        (&many, Need::Mount, true, View::LoopOnFuse),
    ] {
        assert_eq!(View::of(layout, need, root), view, "{layout:?} {need:?} {root}");
    }
}
