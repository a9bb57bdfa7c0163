//! What is typed: wrong words, names of images, help, and what is printed where.

use keiki_tests::tool;
use serde_json::Value;

use crate::world::{World, bash, small_disk};

const VERBS: [&str; 14] = [
    "inspect", "save", "images", "show", "verify", "restore", "clone", "copy", "repair", "rm",
    "prune", "check", "iso", "serve",
];

#[test]
fn mistakes_on_the_command_line_end_with_2() {
    let world = World::saved();
    let disk = world.text("disk.img");
    let long = "x".repeat(65);
    for (args, words) in [
        (vec!["frobnicate"], "frobnicate"),
        (vec!["save"], "--name"),
        (vec!["save", &disk], "--name"),
        (vec!["save", &disk, "--name", "a b"], "not an image name"),
        (vec!["save", &disk, "--name", ""], "--name"),
        (vec!["save", &disk, "--name", &long], "not an image name"),
        (vec!["save", &disk, "--name", "x", "--level", "99"], "99"),
        (vec!["show", "a/b"], "not an image name"),
        (vec!["show", "small@"], "nor a day like"),
        (vec!["show", "small@yesterday"], "nor a day like"),
        (vec!["restore", "small"], "name a target"),
        (vec!["restore", "small", "a.img", "b.img"], "b.img is one target too many"),
        (vec!["restore", "small", "a.img", "--map", "d7=b.img"], "no disk d7; there is d0"),
        (vec!["restore", "small", "a.img", "--size", "much"], "much"),
        (vec!["restore", "small", "a.img", "--grow", "1"], "--grow 1"),
        (vec!["repair", &disk, "--hostname", "lab_07"], "not a host name"),
        (vec!["images", "--frob"], "--frob"),
    ] {
        let talk = world.says(2, &args, &[words]);
        assert_eq!(world.run(&args).text(), "", "{args:?}: {talk}");
        let error = world.json(2, &args);
        assert_eq!(error["error"]["kind"], "usage", "{args:?}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(words) && !message.contains('\n'), "{message}");
    }
    let mut call = keiki_tests::keiki!("images", "--json");
    call.env.push(("KEIKI_REPO".into(), "".into()));
    let outcome = tool::outcome(&call).unwrap();
    assert_eq!(outcome.code, Some(2), "{}", outcome.talk());
    assert_eq!(world.run(&[]).code, Some(2));
    let help = world.run(&[]).talk();
    assert!(help.contains("Usage: keiki") && !help.contains("serve-view"), "{help}");
}

#[test]
fn mistakes_in_a_file_of_options_end_with_2() {
    let world = World::empty();
    let file = world.text("serve.toml");
    for (text, words) in [
        ("image = \"lab\"\nrats = 5\n", "serve.toml, line 2: rats"),
        ("image = \"lab\"\n\nrate = true\n", "serve.toml, line 3: rate"),
        ("image = \"lab\"\nrate = 0\n", "serve.toml, line 2: rate"),
    ] {
        std::fs::write(&file, text).unwrap();
        let args = ["serve", "--config", &file];
        world.says(2, &args, &[words]);
        assert_eq!(world.json(2, &args)["error"]["kind"], "usage");
    }
}

#[test]
fn images_are_named_in_three_ways() {
    let world = World::saved();
    let disk = world.text("disk.img");
    let ids: Vec<String> = (0..5)
        .map(|level| {
            let saved = world.json(0, &["save", &disk, "--name", &format!("n{level}")]);
            saved["id"].as_str().unwrap().to_owned()
        })
        .collect();
    let shown = |image: &str| world.json(0, &["show", image]);
    assert_eq!(shown("n3")["id"], ids[3]);
    assert_eq!(shown("N3")["id"], ids[3], "names that differ only by case are one");
    assert_eq!(shown(&format!("n3@{}", &ids[3][..9]))["id"], ids[3]);
    assert_eq!(shown(&format!("n3@{}", ids[3].to_uppercase()))["id"], ids[3]);
    let day = &shown("n3")["created"].as_str().unwrap()[..10].to_owned();
    assert_eq!(shown(&format!("n3@{day}"))["id"], ids[3]);
    world.says(3, &["show", "n3@1999-01-01"], &["there is no image n3@1999-01-01"]);
    world.says(3, &["show", &format!("n4@{}", ids[3])], &["there is no image"]);
    world.says(3, &["show", "smal"], &["there is no image smal", "small"]);
    world.says(3, &["verify", "entirely-else"], &["there is no image entirely-else"]);
    world.says(3, &["restore", "nope", "x.img"], &["there is no image nope"]);
}

#[test]
fn several_images_of_a_name_are_not_removed_by_accident() {
    let world = World::saved();
    let disk = world.text("disk.img");
    // More than there are first digits of ids: two begin alike.
    let save = |number: usize| {
        let saved = world.json(0, &["save", &disk, "--name", ["web", "WEB"][number % 2]]);
        saved["id"].as_str().unwrap().to_owned()
    };
    let ids: Vec<String> = (0..17).map(save).collect();
    let newest = world.json(0, &["show", "web"]);
    assert_eq!(newest["id"], ids[16]);
    assert_eq!(newest["parent"], ids[15]);
    let talk = world.says(3, &["rm", "web"], &["there are 17 images of that name", "--all"]);
    assert!(ids.iter().all(|id| talk.contains(&id[..12])), "{talk}");
    let digit = |id: &String| id.chars().next().unwrap();
    let mut digits: Vec<char> = ids.iter().map(digit).collect();
    digits.sort_unstable();
    let twice = digits.windows(2).find(|pair| pair[0] == pair[1]).unwrap()[0];
    world.says(3, &["rm", &format!("web@{twice}")], &["fits several images: ", "web@"]);
    let removed = world.json(0, &["rm", &format!("web@{}", &ids[3][..12])]);
    assert_eq!(removed["removed"], serde_json::json!([ids[3]]));
    assert_eq!(world.images().len(), 17);
    world.says(2, &["rm", "web@2026-01-01", "--all"], &["--all takes a name alone"]);
    assert_eq!(world.json(0, &["rm", "web", "--all"])["removed"].as_array().unwrap().len(), 16);
    assert_eq!(world.images(), ["small"]);
    world.says(3, &["rm", "web"], &["there is no image web"]);
}

/// Nothing is downloaded or written before everything is there that it takes.
#[test]
fn a_disc_is_not_begun_without_the_tools_for_it() {
    let world = World::empty();
    let disc = world.text("disc.iso");
    // The folders of administrators' programs are looked into in any case: depmod and mkfs.fat may be there.
    let call = world.call(&["iso", "--out", &disc]).env("PATH", world.text("nothing"));
    let outcome = tool::outcome(&call).unwrap();
    assert_eq!(outcome.code, Some(1), "{}", outcome.talk());
    for word in ["apt-get install --no-install-recommends", "xorriso", "mtools"] {
        assert!(outcome.talk().contains(word), "{}", outcome.talk());
    }
    assert!(outcome.talk().lines().count() == 1, "{}", outcome.talk());
    std::fs::write(&disc, "mine").unwrap();
    world.says(3, &["iso", "--out", &disc], &["exists already"]);
    assert_eq!(std::fs::read(&disc).unwrap(), b"mine");
    std::fs::remove_file(&disc).unwrap();
    assert_eq!(std::fs::read_dir(world.path("")).unwrap().count(), 0);
}

#[test]
fn help_fits_80_columns_and_has_an_example() {
    let world = World::empty();
    let pages = VERBS.iter().map(|verb| vec![*verb, "--help"]).chain([vec!["--help"]]);
    for page in pages {
        let help = world.ends(0, &page).text();
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{page:?}: {line}");
        }
        assert!(help.contains("Example") && help.contains("\n  keiki "), "{page:?}: {help}");
        assert!(!help.contains('\x1b'));
    }
    world.says(0, &["--version"], &["keiki "]);
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let world = World::empty();
    // script(1) gives it a terminal.
    let on_terminal = |environment: &str| {
        bash(&world, &format!("{environment} script -qec '$keiki frob' /dev/null")).talk()
    };
    assert!(on_terminal("TERM=xterm").contains("\x1b["));
    assert!(!on_terminal("TERM=xterm NO_COLOR=1").contains("\x1b["));
    assert!(!world.ends(2, &["frob"]).talk().contains("\x1b["));
}

#[test]
fn quiet_is_quiet_and_progress_is_as_asked() {
    let world = World::empty();
    let disk = world.text("disk.img");
    small_disk(world.path("disk.img").as_path());
    let target = world.text("target.img");
    let answers: [&[&str]; 4] = [
        &["-q", "verify", "small"],
        &["-q", "check"],
        &["-q", "restore", "small", &target],
        &["-q", "rm", "small"],
    ];
    let saved = world.ends(0, &["-q", "save", &disk, "--name", "small", "--gaps"]).talk();
    // That a volume is not understood is not news; the warnings of its contents would be.
    assert_eq!(saved, "");
    for args in answers {
        assert_eq!(world.ends(0, args).talk(), "", "{args:?}");
    }
    world.ends(0, &["save", &disk, "--name", "small"]);
    for verb in ["images", "show", "verify", "check"] {
        let image = ["small"];
        let rest: &[&str] = if matches!(verb, "show" | "verify") { &image } else { &[] };
        let outcome = world.ends(0, &[&[verb, "--progress", "none"], rest].concat());
        assert!(
            outcome.stderr.is_empty() && !outcome.stdout.is_empty(),
            "{verb}: {}",
            outcome.talk()
        );
    }
    let outcome = world.ends(0, &["verify", "small", "--progress", "jsonl"]);
    let lines: Vec<Value> = String::from_utf8(outcome.stderr)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(lines.iter().any(|line| line["stage"] == "check"), "{lines:?}");
    assert!(lines.iter().all(|line| line["bytes"].is_u64()), "{lines:?}");
    let script =
        "$keiki -q save \"$0\" --name other --json --progress jsonl --progress-fd 7 7>\"$1\"";
    let script = script.replace("$0", &disk).replace("$1", &world.text("lines"));
    let outcome = bash(&world, &script);
    assert!(outcome.stderr.is_empty(), "{}", outcome.talk());
    assert_eq!(serde_json::from_slice::<Value>(&outcome.stdout).unwrap()["image"], "other");
    for line in std::fs::read_to_string(world.path("lines")).unwrap().lines() {
        assert!(serde_json::from_str::<Value>(line).unwrap()["stage"].is_string());
    }
}

#[test]
fn what_prints_no_json_says_where_it_is() {
    let told = World::empty().json(2, &["agent"]);
    let words = told["error"]["message"].as_str().unwrap();
    assert!(words.contains("keiki serve status --json"), "{words}");
}

#[test]
fn what_cannot_be_printed_is_a_failure() {
    let world = World::saved();
    for verb in
        ["images", "show small", "verify small", "check", "--help", "inspect $0", "images --json"]
    {
        let verb = verb.replace("$0", &world.text("disk.img"));
        let full = bash(&world, &format!("$keiki {verb} > /dev/full"));
        assert_eq!(full.code, Some(1), "{verb}: {}", full.talk());
        // `true` has closed its end long before.
        let script = format!("{{ sleep 0.3; $keiki {verb}; }} | true; exit ${{PIPESTATUS[0]}}");
        let closed = bash(&world, &script);
        assert_eq!(closed.code, Some(1), "{verb}: {}", closed.talk());
    }
}
