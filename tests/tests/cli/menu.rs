//! The menu, driven on a terminal of 80 columns and 24 lines.

use std::fs;
use std::time::Duration;

use expectrl::process::unix::WaitStatus;
use expectrl::session::OsSession;
use expectrl::{Eof, Expect, Regex};
use keiki_tests::run;

use crate::world::{World, flip, hash, program, small_disk};

const PATIENCE: Duration = Duration::from_secs(60);
const DOWN: &str = "\x1b[B";
const CLEAR: &str = "\x15";
const ESC: &str = "\x1b";
const CTRL_C: &str = "\x03";

/// The program on a terminal, and all that it wrote.
struct Screen {
    session: OsSession,
    written: String,
}

impl Screen {
    /// Opens the menu in the folder of `world`.
    fn open(world: &World, repository: bool) -> Self {
        let script = world.path("script");
        let repo = match repository {
            true => format!("export KEIKI_REPO={}", world.text("repo")),
            false => "unset KEIKI_REPO".to_owned(),
        };
        // The terminal's own settings, before and after; the number of the program, for signals.
        let text = format!(
            "cd {}\nstty rows 24 cols 80\nexport NO_COLOR=1 TERM=vt100 LC_ALL=C\n{repo}\n\
             before=$(stty -g)\nbash -c 'echo $$ > pid; exec {}'\ncode=$?\n\
             [ \"$(stty -g)\" = \"$before\" ] && same=yes || same=no\necho \"code=$code same=$same.\"\n",
            world.path("").display(),
            program()
        );
        fs::write(&script, text).unwrap();
        let mut session = expectrl::spawn(format!("bash {}", script.display())).unwrap();
        session.set_expect_timeout(Some(PATIENCE));
        Self { session, written: String::new() }
    }

    /// Waits for these words.
    #[track_caller]
    fn see(&mut self, words: &str) {
        match self.session.expect(words) {
            Ok(found) => {
                self.written.push_str(&String::from_utf8_lossy(found.before()));
                self.written.push_str(words);
            }
            Err(error) => {
                let rest =
                    self.session.expect(Regex("(?s).*")).map(|found| found.as_bytes().to_vec());
                let rest = String::from_utf8_lossy(&rest.unwrap_or_default()).into_owned();
                panic!("no {words:?}: {error}: {}{rest}", self.written)
            }
        }
    }

    fn keys(&mut self, keys: &str) {
        self.session.send(keys).unwrap();
    }

    /// The entry under the cursor, the next time that a list is drawn.
    #[track_caller]
    fn entry(&mut self) -> String {
        let found = self.session.expect(Regex(r"(?:\n|K)> ([^\r\n]+)")).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (before, all, entry) = (text(found.before()), text(&found[0]), text(&found[1]));
        self.written.push_str(&before);
        self.written.push_str(&all);
        entry
    }

    /// Chooses the entry that begins so, of the list below these words.
    #[track_caller]
    fn choose(&mut self, question: &str, entry: &str) {
        self.see(question);
        for _ in 0..30 {
            if self.entry().starts_with(entry) {
                self.keys("\r");
                return;
            }
            self.keys(DOWN);
        }
        panic!("no entry {entry}: {}", self.written);
    }

    /// Types a line when asked with these words.
    #[track_caller]
    fn line(&mut self, question: &str, line: &str) {
        self.see(question);
        self.keys(&format!("{CLEAR}{line}\r"));
    }

    /// Waits for the end: the exit code, and whether the terminal is as it was.
    #[track_caller]
    fn end(mut self) -> (String, String) {
        self.see("code=");
        let end = self.session.expect(".").unwrap();
        let end = String::from_utf8_lossy(end.before()).into_owned();
        drop(self.session.expect(Eof));
        let status = self.session.get_process().wait();
        assert!(matches!(status, Ok(WaitStatus::Exited(_, 0))), "{status:?}");
        (end, self.written)
    }
}

/// What was written, without the sequences that move the cursor, in lines.
fn lines(written: &str) -> Vec<String> {
    let (mut plain, mut rest) = (String::new(), written.chars());
    while let Some(char) = rest.next() {
        if char == '\u{1b}' {
            // CSI ... letter.
            let _ = rest.by_ref().skip(1).find(char::is_ascii_alphabetic);
        } else {
            plain.push(char);
        }
    }
    plain.split(['\r', '\n']).map(str::to_owned).collect()
}

/// Answers everything up to the question `stop` of saving and restoring; with wrong answers and going back.
fn save(screen: &mut Screen, world: &World) {
    screen.choose("What shall be done?", "Save a disk");
    screen.choose("where images are kept", "Another folder");
    screen.line("Folder", &world.text("nowhere/repo"));
    screen.see("There is no folder");
    screen.line("Folder", &world.text("repo"));
    screen.choose("Save which disk?", "An image file");
    screen.line("Image file", "nothing.img");
    screen.see("there is no disk, partition or file nothing.img");
    screen.line("Image file", "disk.img");
    // Back from the name to the source, and from there to the repository.
    screen.see("Name of the image");
    screen.keys(ESC);
    screen.choose("Save which disk?", "Back");
    screen.choose("where images are kept", "Another folder");
    screen.see("Folder");
    screen.keys("\r");
    screen.choose("Save which disk?", "An image file");
    screen.line("Image file", "disk.img");
    screen.line("Name of the image", "small disk");
    screen.see("is not an image name");
    screen.line("Name of the image", "small");
    screen.choose("Ready.", "Save now");
    screen.see("keiki --repo");
    screen.see("The image is complete");
}

#[test]
fn a_disk_is_saved_and_restored_by_the_menu() {
    let world = World::empty();
    small_disk(&world.path("disk.img"));
    let mut screen = Screen::open(&world, false);
    save(&mut screen, &world);
    assert_eq!(world.images(), ["small"]);

    // The repository is remembered. A new file, larger.
    screen.choose("What shall be done?", "Restore an image");
    screen.choose("Restore which image?", "small");
    screen.choose("All of it, or one volume?", "Everything");
    screen.choose("Where to", "An image file");
    screen.line("Image file", "no/folder.img");
    screen.see("There is no folder");
    screen.line("Image file", "new.img");
    screen.choose("How large", "Another size");
    screen.line("Size", "1MiB");
    screen.see("That is too small");
    screen.line("Size", "40MiB");
    screen.choose("Who gets the new space?", "By name");
    screen.choose("Which volume gets more?", "d0:1");
    screen.line("d0:1 gets", "much");
    screen.see("is not an amount");
    screen.line("d0:1 gets", "rest");
    screen.choose("Which volume gets more?", "That is all");
    screen.choose("Identifiers", "The same");
    screen.choose("Ready.", "Only show the plan");
    screen.see("+16 MiB");
    assert!(!world.path("new.img").exists());
    screen.choose("Ready.", "Restore now");
    screen.see("--size 40MiB --grow d0:1=rest");
    screen.see("Restored.");

    // Over a file that has something: a wrong confirmation, then the right one.
    fs::copy(world.path("disk.img"), world.path("old.img")).unwrap();
    let before = hash(&world.path("old.img"));
    screen.choose("What shall be done?", "Restore an image");
    screen.choose("Restore which image?", "small");
    screen.choose("All of it, or one volume?", "Everything");
    screen.choose("Where to", "An image file");
    screen.line("Image file", "old.img");
    screen.choose("Identifiers", "The same");
    screen.choose("Ready.", "Restore");
    screen.see("will be lost");
    screen.line("type that path", "yes");
    screen.see("Nothing was written");
    assert_eq!(hash(&world.path("old.img")), before);
    screen.choose("Ready.", "Restore");
    screen.line("type that path", "old.img");
    screen.see("Restored.");

    // From file to file; the source cannot be its own target.
    screen.choose("What shall be done?", "Clone a disk");
    screen.choose("Clone which disk?", "An image file");
    screen.line("Image file", "disk.img");
    screen.choose("Is that all?", "Go on with disk.img");
    screen.choose("Where to", "An image file");
    screen.line("Image file", "disk.img");
    screen.see("was chosen already");
    screen.line("Image file", "clone.img");
    screen.choose("How large", "24 MiB, as it was");
    // Back from there, and on again; what was chosen before stays chosen.
    screen.choose("Identifiers", "Back");
    screen.choose("Where to", "An image file");
    screen.line("Image file", "clone.img");
    screen.choose("How large", "24 MiB, as it was");
    screen.choose("Identifiers", "The same");
    screen.choose("Ready.", "Clone now");
    screen.see("keiki clone disk.img clone.img");
    screen.see("Cloned.");
    screen.choose("What shall be done?", "Quit");
    let (end, written) = screen.end();
    assert_eq!(end, "0 same=yes", "{written}");
    for line in lines(&written) {
        assert!(line.chars().count() <= 80, "too long for the terminal: {line:?}");
    }

    // The menu did what the command line does.
    let typed = ["--size", "40MiB", "--grow", "d0:1=rest"];
    world.ends(0, &[&["restore", "small", &world.text("typed.img")], &typed[..]].concat());
    let volumes = |name: &str| world.json(0, &["inspect", &world.text(name)])["volumes"].clone();
    assert_eq!(volumes("new.img"), volumes("typed.img"));
    // The first sector is another tool's: its protective entry has other figures for old BIOSes.
    for copy in ["old.img", "clone.img"] {
        run!("cmp", "--ignore-initial=512", world.path("disk.img"), world.path(copy)).unwrap();
    }
}

#[test]
fn damage_is_told_and_the_menu_goes_on() {
    let world = World::saved();
    let pack = world.files("packs").remove(0);
    flip(&world.path("repo").join(pack), 70_000);
    let mut screen = Screen::open(&world, true);
    screen.choose("What shall be done?", "Verify an image");
    screen.choose("Verify which image?", "small");
    screen.see("DAMAGED");
    screen.choose("What shall be done?", "Repository");
    screen.choose("Repository", "Remove an image");
    screen.choose("Remove which image?", "small");
    screen.choose("Really remove", "No, keep");
    screen.choose("Repository", "Prune");
    screen.see("everything in the repository is needed");
    screen.choose("Repository", "Back");
    // An arrow key whose bytes come one by one is no Esc.
    screen.see("What shall be done?");
    screen.entry();
    for byte in ["\x1b", "[", "B"] {
        screen.keys(byte);
        std::thread::sleep(Duration::from_millis(15));
    }
    assert_eq!(screen.entry(), "Quit");
    screen.keys("\r");
    assert_eq!(screen.end().0, "0 same=yes");
    assert_eq!(world.images(), ["small"]);
}

/// A question and its answer: an entry, or a line.
enum Step {
    Choose(&'static str, &'static str),
    Line(&'static str, &'static str),
}
use Step::{Choose, Line};

impl Step {
    fn question(&self) -> &'static str {
        match self {
            Choose(question, _) | Line(question, _) => question,
        }
    }
}

/// Every question of saving, restoring and cloning, in the order in which they come.
const WAYS: [&[Step]; 5] = [
    &[
        Choose("What shall be done?", "Save a disk"),
        Choose("Save which disk?", "An image file"),
        Line("Image file", "disk.img"),
        Line("Name of the image", "second"),
        Choose("Ready.", "Only"),
    ],
    &[
        Choose("What shall be done?", "Restore an image"),
        Choose("Restore which image?", "small"),
        Choose("All of it, or one volume?", "Everything"),
        Choose("Where to", "An image file"),
        Line("Image file", "new.img"),
        Choose("How large", "Another size"),
        Line("Size", "40MiB"),
        Choose("Who gets the new space?", "By name"),
        Choose("Which volume gets more?", "d0:1"),
        Line("d0:1 gets", "rest"),
        Choose("Which volume gets more?", "That is all"),
        Choose("Identifiers", "The same"),
        Choose("Ready.", "Only"),
    ],
    &[
        Choose("What shall be done?", "Clone a disk"),
        Choose("Clone which disk?", "An image file"),
        Line("Image file", "disk.img"),
        Choose("Is that all?", "Go on"),
        Choose("Where to", "An image file"),
        Line("Image file", "new.img"),
        Choose("How large", "24 MiB, as it was"),
        Choose("Identifiers", "The same"),
        Choose("Ready.", "Only"),
    ],
    &[
        Choose("What shall be done?", "Repository"),
        Choose("Repository", "Remove an image"),
        Choose("Remove which image?", "small"),
        Choose("Really remove", "No"),
    ],
    &[
        Choose("What shall be done?", "Repository"),
        Choose("Repository", "Choose another"),
        Choose("where images are kept", "Another folder"),
        Line("Folder", "elsewhere"),
    ],
];

/// Gives the answers to `steps`.
fn answer(screen: &mut Screen, steps: &[Step]) {
    for step in steps {
        match step {
            Choose(question, entry) => screen.choose(question, entry),
            Line(question, line) => screen.line(question, line),
        }
    }
}

#[test]
fn ctrl_c_at_every_question_leaves_the_terminal_as_it_was() {
    let world = World::saved();
    for way in WAYS {
        for (at, step) in way.iter().enumerate() {
            let mut screen = Screen::open(&world, true);
            answer(&mut screen, &way[..at]);
            screen.see(step.question());
            if matches!(step, Choose(..)) {
                screen.entry();
            }
            leave(screen, CTRL_C, step.question());
        }
    }
    assert!(!world.path("new.img").exists());
    assert_eq!(world.images(), ["small"]);
    // And at the confirmation, after some letters.
    fs::copy(world.path("disk.img"), world.path("new.img")).unwrap();
    let before = hash(&world.path("new.img"));
    let mut screen = Screen::open(&world, true);
    answer(&mut screen, &WAYS[1][..5]);
    answer(&mut screen, &[Choose("Identifiers", "The same"), Choose("Ready.", "Restore")]);
    screen.see("type that path");
    leave(screen, &format!("new{CTRL_C}"), "confirmation");
    assert_eq!(hash(&world.path("new.img")), before);
}

#[test]
fn sigterm_leaves_the_terminal_as_it_was() {
    let world = World::saved();
    for question in ["What shall be done?", "Image file"] {
        let mut screen = Screen::open(&world, true);
        if question == "Image file" {
            screen.choose("What shall be done?", "Save a disk");
            screen.choose("Save which disk?", "An image file");
        }
        screen.see(question);
        std::thread::sleep(Duration::from_millis(200));
        run!("kill", "-TERM", fs::read_to_string(world.path("pid")).unwrap().trim()).unwrap();
        leave(screen, "", question);
    }
}

/// Sends these keys: the program ends as one that was interrupted, and the cursor is there again.
#[track_caller]
fn leave(mut screen: Screen, keys: &str, question: &str) {
    screen.keys(keys);
    let (end, written) = screen.end();
    assert_eq!(end, "130 same=yes", "{question}: {written}");
    let (hidden, shown) = (written.rfind("\x1b[?25l"), written.rfind("\x1b[?25h"));
    assert!(shown > hidden || hidden.is_none(), "{question}: no cursor: {written:?}");
    assert!(!written.contains("\x1b[?1049h"), "{question}: another screen");
}
