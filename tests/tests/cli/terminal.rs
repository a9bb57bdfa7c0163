//! The confirmation that a person types.

use std::fs;
use std::time::Duration;

use expectrl::{Eof, Expect};
use image_core::units::Bytes;
use keiki_tests::sparse;

use crate::world::{World, hash, program};

const PATIENCE: Duration = Duration::from_secs(60);

/// Restores onto `target.img` on a terminal and types `typed` when asked with the words `question`; the
/// exit code, and what was on the screen.
fn ask(world: &World, question: &str, typed: &str) -> (String, String) {
    let script = world.path("script");
    let (repo, target) = (world.text("repo"), world.text("target.img"));
    // The terminal's own settings, before and after.
    let text = format!(
        "before=$(stty -g)\n{} --repo {repo} restore small {target}\ncode=$?\n\
         [ \"$(stty -g)\" = \"$before\" ] && same=yes || same=no\necho \"code=$code same=$same.\"\n",
        program()
    );
    fs::write(&script, text).unwrap();
    let mut session = expectrl::spawn(format!("bash {}", script.display())).unwrap();
    session.set_expect_timeout(Some(PATIENCE));
    let asked = session.expect(question).unwrap();
    let mut screen = String::from_utf8_lossy(asked.before()).into_owned();
    session.send(typed).unwrap();
    let rest = session.expect("code=").unwrap();
    screen.push_str(&String::from_utf8_lossy(rest.before()));
    let end = session.expect(".").unwrap();
    let end = String::from_utf8_lossy(end.before()).into_owned();
    drop(session.expect(Eof));
    (end, screen)
}

#[test]
fn only_the_right_answer_overwrites() {
    let world = World::saved();
    let target = world.path("target.img");
    fs::copy(world.path("disk.img"), &target).unwrap();
    let before = hash(&target);
    let question = "type that path: ";
    for (typed, end) in [
        ("y\r", "3 same=yes"),
        ("\r", "3 same=yes"),
        ("target.img\r", "3 same=yes"),
        // Ctrl-C, alone and after some letters.
        ("\x03", "130 same=yes"),
        ("/wor\x03", "130 same=yes"),
    ] {
        let (ended, screen) = ask(&world, question, typed);
        assert_eq!(ended, end, "{typed:?}: {screen}");
        assert!(screen.contains("will be lost"), "{screen}");
        assert!(screen.contains("partition 1") && screen.contains("\"files\""), "{screen}");
        assert_eq!(hash(&target), before, "{typed:?}");
    }
    let (ended, screen) = ask(&world, question, &format!("{}\r", target.display()));
    assert_eq!(ended, "0 same=yes", "{screen}");
}

#[test]
fn a_blank_disk_needs_only_a_y() {
    let world = World::saved();
    let target = world.path("target.img");
    let question = "is blank. Type y to write to it: ";
    sparse::create(&target, Bytes::mib(24)).unwrap();
    let before = hash(&target);
    assert_eq!(ask(&world, question, "n\r").0, "3 same=yes");
    assert_eq!(hash(&target), before);
    let (ended, screen) = ask(&world, question, "y\r");
    assert_eq!(ended, "0 same=yes", "{screen}");
    assert_ne!(hash(&target), before);
}
