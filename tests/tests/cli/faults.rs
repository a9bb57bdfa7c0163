//! Full disks, killed and interrupted programs, sources that cannot be read.

use std::fs::{self, File};
use std::io::{Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use image_core::exec::Outcome;
use image_core::exec::real::Machine;
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::loops::{Loop, Mount};
use keiki_tests::{call, filesystem, run, sparse};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::world::{World, assert_no_table, bash, noise, program, small_disk};

const PATIENCE: Duration = Duration::from_secs(120);

/// A filesystem of its own, of `size`, with blocks of 1 KiB and nothing kept back.
fn small_filesystem(world: &World, size: Bytes) -> Mount {
    let image = world.path("filesystem");
    sparse::create(&image, size).unwrap();
    run!("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-m", "0", "-N", "512", &image).unwrap();
    Mount::new(&image, Extent::first(size), "rw").unwrap()
}

/// Fills the filesystem with the file `ballast` until `left` blocks of 1 KiB are left.
fn fill(folder: &Path, left: u64) {
    let path = folder.join("ballast");
    drop(fs::remove_file(&path));
    rustix::fs::sync();
    let mut file = File::create(&path).unwrap();
    let block = [1; 1024];
    while file.write_all(&block).is_ok() {}
    file.sync_all().ok();
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(left * 1024)).unwrap();
    file.sync_all().unwrap();
}

/// A source that looks as if it took nothing: the windows that the estimate looks at compress to nothing.
fn deceptive_source(path: &Path, mib: u64) {
    let mut file = File::create(path).unwrap();
    for window in 0..mib {
        // It looks at the first, the second, and then every other one.
        let is_seen = window == 0 || window % 2 == 1;
        let bytes = if is_seen { vec![7; 1 << 20] } else { noise(window, 1 << 20) };
        file.write_all(&bytes).unwrap();
    }
}

#[test]
fn loop_a_repository_that_fills_up_has_no_image_and_the_next_save_goes_on() {
    let world = World::empty();
    let mount = small_filesystem(&world, Bytes::mib(48));
    let (repo, source) = (mount.folder().join("repo"), world.text("source.img"));
    let repo = repo.to_str().unwrap();
    deceptive_source(Path::new(&source), 128);
    let args = ["--repo", repo, "save", &source, "--name", "large"];
    world.says(1, &args, &["there is no new image", "No space left on device", repo]);
    let error = world.json(1, &args);
    assert_eq!(error["error"]["kind"], "io");
    world.says(0, &["--repo", repo, "images"], &["no images yet"]);
    assert_eq!(fs::read_dir(mount.folder().join("repo/tmp")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(mount.folder().join("repo/locks")).unwrap().count(), 0);
    world.ends(0, &["--repo", repo, "check", "--read-data"]);
}

#[test]
fn loop_wherever_the_space_ends_an_image_is_there_or_it_is_not() {
    let world = World::empty();
    let mount = small_filesystem(&world, Bytes::mib(8));
    let (repo, source) = (mount.folder().join("repo"), world.text("source.img"));
    let repo = repo.to_str().unwrap();
    let save = |name: &str| {
        [
            "--repo".to_owned(),
            repo.into(),
            "save".into(),
            source.clone(),
            "--name".into(),
            name.into(),
        ]
    };
    let listed = || {
        let list = world.json(0, &["images", "--repo", repo]);
        let list = list["images"].as_array().unwrap().clone();
        list.into_iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    fs::write(&source, noise(0, 4096)).unwrap();
    let first = save("first");
    world.ends(0, &first.each_ref().map(String::as_str));
    let (mut failed, mut succeeded, mut went_on) = (0, 0, 0);
    for left in 0..24 {
        fs::write(&source, noise(left + 1, 4096)).unwrap();
        fill(mount.folder(), left);
        let (before, name) = (listed(), format!("n{left}"));
        let args = save(&name);
        let args = args.each_ref().map(String::as_str);
        let outcome = world.run(&args);
        let now = listed();
        if outcome.success() {
            succeeded += 1;
            assert!(now.contains(&name), "{left}: {now:?}");
        } else {
            failed += 1;
            // The estimate refuses when it sees that there is not enough.
            assert!(matches!(outcome.code, Some(1 | 3)), "{left}: {}", outcome.talk());
            assert_eq!(now, before, "{left}: {}", outcome.talk());
            fs::remove_file(mount.folder().join("ballast")).unwrap();
            world.ends(0, &["--repo", repo, "check"]);
            let again = world.json(0, &[&args[2..], &args[..2]].concat());
            went_on += u32::from(again["new_chunks"] == 0);
        }
        drop(fs::remove_file(mount.folder().join("ballast")));
        world.ends(0, &["--repo", repo, "verify", &name]);
        world.ends(0, &["--repo", repo, "rm", &name]);
    }
    // The walk met every kind of end: before anything, behind the pack, and none.
    assert!(failed > 3 && succeeded > 0 && went_on > 0, "{failed} {succeeded} {went_on}");
}

#[test]
fn loop_a_target_file_that_cannot_grow_is_a_failure_without_a_table() {
    let world = World::saved();
    let mount = small_filesystem(&world, Bytes::mib(8));
    // Its size is no problem, it is sparse; its data is.
    fill(mount.folder(), 2000);
    let target = mount.folder().join("target.img");
    let path = target.to_str().unwrap();
    world.says(
        1,
        &["restore", "small", path],
        &["No space left on device", path, "cannot be used"],
    );
    assert_no_table(&target);
    fs::remove_file(mount.folder().join("ballast")).unwrap();
    world.ends(0, &["restore", "small", path, "--confirm", path]);
}

/// Starts keiki with a pipe as standard error that is full but for `lines`: it stops at the next line that
/// it writes. Then `meanwhile` happens, the pipe is emptied, and it goes on.
fn stopped_after(
    world: &World,
    args: &[&str],
    lines: &[String],
    meanwhile: impl FnOnce(Pid),
) -> Outcome {
    let (mut reader, mut writer) = pipe().unwrap();
    let room: usize = lines.iter().map(|line| line.len() + 1).sum::<usize>() + 10;
    let full = (64 << 10) - room;
    writer.write_all(&vec![b' '; full]).unwrap();
    let stderr = format!("/proc/{}/fd/{}", std::process::id(), writer.as_raw_fd());
    let script = "echo $$; exec 2>\"$1\"; shift; exec \"$@\"";
    let mut call = call!("bash", "-c", script, "bash", stderr, program());
    call.args.extend(args.iter().map(Into::into));
    let mut keiki = Machine.spawn(&call.env("KEIKI_REPO", world.path("repo"))).unwrap();
    let pid = Pid::from_raw(keiki.answer().unwrap().trim().parse().unwrap()).unwrap();
    let began = Instant::now();
    let wanted = u64::try_from(full + room - 10).unwrap();
    // The lines are there, and it waits for room for another.
    let wait = format!("/proc/{}/wchan", pid.as_raw_pid());
    while rustix::io::ioctl_fionread(&reader).unwrap() < wanted
        || !fs::read_to_string(&wait).unwrap().contains("pipe_write")
    {
        assert!(began.elapsed() < PATIENCE, "it did not get as far as {lines:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    meanwhile(pid);
    drop(writer);
    let drain = std::thread::spawn(move || {
        let mut talk = Vec::new();
        reader.read_to_end(&mut talk).unwrap();
        talk
    });
    let mut outcome = keiki.finish(PATIENCE).unwrap();
    outcome.stderr = drain.join().unwrap().trim_ascii_start().to_vec();
    outcome
}

fn send(signal: Signal) -> impl FnOnce(Pid) {
    move |pid| kill_process(pid, signal).unwrap()
}

/// The lines that mark the beginning of stages, as jsonl.
fn stages(outcome: &Outcome) -> Vec<String> {
    let lines = String::from_utf8(outcome.stderr.clone()).unwrap();
    let begins =
        |line: &&str| serde_json::from_str::<Value>(line).is_ok_and(|line| line["bytes"] == 0);
    lines.lines().filter(begins).map(str::to_owned).collect()
}

#[test]
fn an_interrupted_restore_leaves_no_table() {
    let world = World::saved();
    let target = world.path("target.img");
    let path = target.to_str().unwrap();
    let args = ["-q", "restore", "small", path, "--progress", "jsonl"];
    let lines = stages(&world.ends(0, &args));
    assert!(lines.len() >= 4, "{lines:?}");
    // Stopped at the beginning of writing, of reading back, of growing, of the tables.
    for count in 1..lines.len() {
        for signal in [Signal::INT, Signal::TERM] {
            fs::remove_file(&target).unwrap();
            let outcome = stopped_after(&world, &args, &lines[..count], send(signal));
            assert_eq!(outcome.code, Some(130), "{count}: {}", outcome.talk());
            assert!(outcome.talk().contains("cannot be used"), "{}", outcome.talk());
            assert_no_table(&target);
        }
    }
    let json = [&args[..], &["--json", "--confirm", path]].concat();
    let outcome = stopped_after(&world, &json, &lines[..2], send(Signal::INT));
    let error: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    crate::schemas::check("error", &error);
    world.ends(0, &["restore", "small", path, "--confirm", path]);
}

/// The lines of a save's progress before the one that says that it reads.
fn lines_before_reading(world: &World, disk: &str) -> Vec<String> {
    let args = ["-q", "save", disk, "--name", "other", "--progress", "jsonl"];
    let lines = stages(&world.ends(0, &args));
    let reading = lines.iter().position(|line| line.contains("\"save\"")).unwrap();
    lines[..reading].to_vec()
}

#[test]
fn an_interrupted_save_leaves_no_image() {
    let world = World::saved();
    let disk = world.text("disk.img");
    let lines = lines_before_reading(&world, &disk);
    let source = world.text("source.img");
    fs::write(&source, noise(8, 32 << 20)).unwrap();
    let args = ["-q", "save", &source, "--name", "new", "--progress", "jsonl"];
    let before = world.images();
    for signal in [Signal::INT, Signal::TERM] {
        let outcome = stopped_after(&world, &args, &lines, send(signal));
        assert_eq!(outcome.code, Some(130), "{}", outcome.talk());
        assert!(outcome.talk().contains("there is no new image"), "{}", outcome.talk());
        assert_eq!(world.images(), before);
        assert_nothing_is_left(&world);
    }
    world.ends(0, &args);
}

#[test]
fn an_interrupted_copy_leaves_no_image() {
    let world = World::saved();
    let other = world.text("other");
    let args = ["-q", "copy", "small", "--to", &other, "--progress", "jsonl"];
    let lines = stages(&world.ends(0, &args));
    assert!(lines.last().unwrap().contains("\"copy\""), "{lines:?}");
    for count in 1..=lines.len() {
        for signal in [Signal::INT, Signal::TERM] {
            fs::remove_dir_all(&other).unwrap();
            let outcome = stopped_after(&world, &args, &lines[..count], send(signal));
            if count < lines.len() {
                assert_eq!(outcome.code, Some(130), "{count}: {}", outcome.talk());
                world.says(0, &["--repo", &other, "images"], &["no images yet"]);
            }
            assert_nothing_is_left(&world);
        }
    }
    world.ends(0, &args);
    world.ends(0, &["--repo", &other, "verify", "small"]);
}

#[track_caller]
fn assert_nothing_is_left(world: &World) {
    assert_eq!([world.files("tmp"), world.files("locks")], [Vec::<String>::new(), Vec::new()]);
}

#[test]
fn a_killed_save_leaves_nothing_that_looks_like_an_image() {
    let world = World::saved();
    let source = world.text("source.img");
    fs::write(&source, noise(8, 96 << 20)).unwrap();
    let mut killed = 0;
    for delay in ["0.03", "0.06", "0.1", "0.15", "0.2", "0.3", "0.4"] {
        let before = world.images();
        let name = format!("after-{delay}");
        let script =
            format!("timeout --signal=KILL {delay} $keiki save {source} --name {name}; exit $?");
        let outcome = bash(&world, &script);
        let is_listed = world.images().contains(&name);
        match outcome.code {
            // On a quick machine the longer ones end in time.
            Some(0) => assert!(is_listed, "{delay}"),
            code => {
                assert_eq!(code, Some(137), "{delay}: {}", outcome.talk());
                killed += 1;
                // It may end between the record and the exit code: then the image is whole.
                if is_listed {
                    world.ends(0, &["verify", &name]);
                } else {
                    assert_eq!(world.images(), before, "{delay}");
                }
            }
        }
    }
    assert!(killed > 0);
    // Locks and drafts are what is left; all go with the next save.
    world.ends(0, &["save", &source, "--name", "at-last"]);
    assert_nothing_is_left(&world);
    world.ends(0, &["verify", "at-last"]);
    world.ends(0, &["check", "--read-data", "--rebuild"]);
}

#[test]
fn two_saves_at_once_are_both_fine() {
    let world = World::saved();
    let (one, two) = (world.text("one.img"), world.text("two.img"));
    fs::write(&one, noise(1, 24 << 20)).unwrap();
    fs::write(&two, [noise(1, 12 << 20), noise(2, 12 << 20)].concat()).unwrap();
    let script = format!(
        "$keiki save {one} --name one & a=$!; $keiki save {two} --name two & b=$!; wait $a && wait $b"
    );
    let outcome = bash(&world, &script);
    assert_eq!(outcome.code, Some(0), "{}", outcome.talk());
    for image in ["one", "two", "small"] {
        world.ends(0, &["verify", image]);
    }
    let checked = world.json(0, &["check", "--read-data"]);
    assert_eq!(checked["damaged"], serde_json::json!([]));
}

#[test]
fn loop_a_repository_on_a_read_only_filesystem_can_be_read() {
    let world = World::empty();
    small_disk(&world.path("disk.img"));
    let image = world.path("filesystem");
    let size = Bytes::mib(64);
    let empty = TempDir::new().unwrap();
    filesystem::ext4(&image, size, ["", &filesystem::uuid().unwrap()], empty.path()).unwrap();
    let disk = world.text("disk.img");
    filesystem::filled(&image, |folder| {
        let repo = folder.join("repo");
        world.ends(0, &["--repo", repo.to_str().unwrap(), "save", &disk, "--name", "small"]);
        Ok(())
    })
    .unwrap();
    let mount = Mount::new(&image, Extent::first(size), "ro").unwrap();
    let repo = mount.folder().join("repo");
    let repo = repo.to_str().unwrap();
    let target = world.text("target.img");
    for args in [
        vec!["images"],
        vec!["show", "small"],
        vec!["verify", "small"],
        vec!["restore", "small", &target],
    ] {
        world.ends(0, &[&["--repo", repo], &args[..]].concat());
    }
    world.says(
        0,
        &["--repo", repo, "check"],
        &["warning: the repository can only be read", "sound"],
    );
    for args in
        [vec!["save", &disk, "--name", "x"], vec!["rm", "small"], vec!["check", "--rebuild"]]
    {
        world.says(1, &[&["--repo", repo], &args[..]].concat(), &["Read-only file system", repo]);
    }
}

#[test]
fn loop_a_source_that_cannot_be_read_gives_no_image() {
    let world = World::saved();
    let lines = lines_before_reading(&world, &world.text("disk.img"));
    let source = world.path("source.img");
    fs::write(&source, noise(6, 32 << 20)).unwrap();
    let device = Loop::whole(&source).unwrap();
    let node = device.device().to_str().unwrap();
    // What is behind the end of the file under a loop device cannot be read: nothing, as of a disk that is gone.
    let break_it = |_| {
        File::options().write(true).open(&source).unwrap().set_len(0).unwrap();
        run!("blockdev", "--flushbufs", node).unwrap();
    };
    let before = world.images();
    let args = ["-q", "save", node, "--name", "broken", "--progress", "jsonl"];
    let outcome = stopped_after(&world, &args, &lines, break_it);
    assert_eq!(outcome.code, Some(1), "{}", outcome.talk());
    let talk = outcome.talk();
    for word in ["there is no new image", node, "it fails as a whole"] {
        assert_eq!(talk.matches(word).count(), 1, "{word:?} in: {talk}");
    }
    assert_eq!(world.images(), before);
    assert_nothing_is_left(&world);
    // Still broken when it is looked at: the same.
    assert_eq!(world.json(1, &args[1..5])["error"]["kind"], "io");
    fs::write(&source, noise(6, 32 << 20)).unwrap();
    run!("blockdev", "--flushbufs", node).unwrap();
    world.ends(0, &["save", node, "--name", "mended"]);
    world.ends(0, &["verify", "mended"]);
    world.ends(0, &["check", "--read-data"]);
}
