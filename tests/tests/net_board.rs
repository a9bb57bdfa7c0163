//! The board in a real browser, while machines are let in and restored: what it shows changes by itself.

#![allow(clippy::print_stdout, reason = "a test says where its pictures are")]

use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use image_core::exec::real::Machine;
use keiki_tests::browser::Browser;
use keiki_tests::site::{self, World, make_disk};
use keiki_tests::{fixtures, network, volumes};
use serde_json::json;

/// How long a page may take to show what happened; six times what it takes on a quiet machine, and more.
const PATIENCE: Duration = Duration::from_secs(60);

/// Several times as long as the page needs to ask again.
const WHILE: Duration = Duration::from_secs(4);

/// Keys (WebDriver, section 15.4.2).
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";

/// Screens of a desk and of a telephone.
const SCREENS: [(&str, u32, u32); 2] = [("wide", 1280, 800), ("narrow", 390, 844)];

/// What is shown, on both screens, in the folder of fixtures.
fn pictures(browser: &Browser, what: &str) -> Result<()> {
    let folder = fixtures::folder()?.join("pictures");
    std::fs::create_dir_all(&folder)?;
    for (screen, width, height) in SCREENS {
        browser.size(width, height)?;
        let room = browser.run("return [document.body.scrollWidth, innerWidth]", &json!([]))?;
        ensure!(
            room[0].as_u64() <= room[1].as_u64(),
            "{screen}: it is wider than the screen: {room}"
        );
        let out: PathBuf = folder.join(format!("board-{what}-{screen}.png"));
        browser.picture(&out)?;
        println!("{}", out.display());
    }
    Ok(())
}

/// Presses a button in the row with this text, whichever row that is now.
fn press(browser: &Browser, row: &str, button: &str) -> Result<()> {
    let script = "const row = [...document.querySelectorAll('#machines tr')].find(one => one.innerText.includes(arguments[0]));\
                  const button = [...row.querySelectorAll('button')].find(one => one.textContent === arguments[1]);\
                  button.click()";
    browser.run(script, &json!([row, button])).map(drop)
}

/// Lets a machine in, by the question that its button asks.
fn let_in(browser: &Browser, row: &str, hostname: &str) -> Result<()> {
    press(browser, row, "Restore")?;
    browser.wait("#ask[open]", PATIENCE, |text| text.contains("What is on its disk is lost"))?;
    if hostname.is_empty() {
        return browser.click(&browser.first("#yes")?);
    }
    browser.write(&browser.first("#hostname")?, hostname)?;
    pictures(browser, "asks")?;
    browser.write(&browser.active()?, ENTER)
}

/// Nothing comes of a question that is cancelled.
fn cancels(browser: &Browser, row: &str) -> Result<()> {
    press(browser, row, "Restore")?;
    browser.wait("#ask[open]", PATIENCE, |text| text.contains("What is on its disk is lost"))?;
    browser.click(&browser.first("#ask .cancel")?)?;
    browser.wait("#ask[open]", PATIENCE, str::is_empty)?;
    let waits = browser.text("#sum")?;
    ensure!(waits == "2 wait for your word", "{waits}");
    Ok(())
}

/// An administrator with a page, and two machines that are started.
#[test]
fn net_an_administrator_lets_machines_in_and_watches_them() -> Result<()> {
    let world = World::new(2, &["--rate", "20"])?;
    let browser = Browser::new()?;
    // Without the token it asks for it, and takes it.
    browser.open("http://10.77.0.1/board")?;
    browser.wait("#who[open]", PATIENCE, |text| text.contains("The token of this site"))?;
    pictures(&browser, "token")?;
    browser.write(&browser.first("#token")?, world.site.token())?;
    browser.click(&browser.first("#who button")?)?;
    browser.wait("#image", PATIENCE, |text| text.contains("lab@"))?;
    browser.open("about:blank")?;
    browser.open(&world.site.board)?;
    // It would be gone after a reload.
    browser.run("window.isTheSame = true", &json!([]))?;
    browser.wait("#machines", PATIENCE, |text| text.contains("No machine has asked"))?;
    pictures(&browser, "empty")?;

    let key = world.site.key.as_str();
    let agents = [world.agent(0, key)?, world.agent(1, key)?];
    browser.wait("#machines", PATIENCE, |text| text.matches("waits for your word").count() == 2)?;
    browser.wait("#all", PATIENCE, |text| text.contains("Restore all 2"))?;
    pictures(&browser, "waiting")?;
    cancels(&browser, "10.77.0.100")?;
    let_in(&browser, "10.77.0.100", "pc-first")?;
    browser.wait("#machines", PATIENCE, |text| text.contains("pc-first"))?;
    let_in(&browser, "10.77.0.101", "")?;
    browser.wait("#sum", PATIENCE, |text| text.contains("2 at work"))?;
    browser.wait("#machines", PATIENCE, |text| {
        [" %", "writing", "iB/s", " left"].iter().all(|part| text.contains(part))
    })?;
    browser.wait("#image", PATIENCE, |text| text.contains("MiB/s to 2 machines"))?;
    let session = &world.site.status()?["sent"][0];
    let pace = session["pace_bytes_per_second"].as_u64().context("pace")?;
    ensure!((600_000..=2_500_000).contains(&pace), "{session}");
    let rate = session["bytes_per_second"].as_u64().context("rate")?;
    ensure!((500_000..3_000_000).contains(&rate), "{session}");
    pictures(&browser, "running")?;
    browser.wait("#machines", PATIENCE, |text| text.matches("has lab@").count() == 2)?;
    browser.wait("#sum", PATIENCE, |text| text.contains("2 restored"))?;
    pictures(&browser, "done")?;
    let session = &world.site.status()?["sent"][0];
    let [passes, sent, pass] =
        ["passes", "sent_bytes", "pass_bytes"].map(|name| session[name].as_f64().unwrap_or(0.0));
    // The second may have begun when the first had a part of it.
    ensure!((1.0..2.1).contains(&passes) && (sent / pass - passes).abs() < 0.001, "{session}");
    let metrics = world.site.ask("metrics", world.site.token(), None)?.1;
    ensure!(metrics.contains("keiki_pace_bytes_per_second{image=\"lab@"), "{metrics}");
    world.site.conforms()?;
    let is_same = browser.run("return window.isTheSame === true", &json!([]))?;
    ensure!(is_same == true, "it was loaded again");
    for (agent, (number, code)) in agents.into_iter().zip([(0, 6), (1, 0)]) {
        // There is no system in it that could get a name.
        let (ended, said) = site::end(agent)?;
        ensure!(ended == Some(code) && world.is_restored(number)?, "{ended:?} {said}");
    }
    Ok(())
}

/// Has the one machine saved by this name.
fn save(browser: &Browser, name: &str) -> Result<()> {
    press(browser, "10.77.0.100", "Save")?;
    browser.wait("#keep[open]", PATIENCE, |text| text.contains("Nothing on it is changed"))?;
    browser.write(&browser.first("#name")?, name)?;
    pictures(browser, "saves")?;
    browser.click(&browser.first("#keepyes")?)
}

/// Somebody at a machine asks that it is saved; the administrator says no, and yes the next time.
#[test]
fn net_an_administrator_answers_who_asks_to_be_saved() -> Result<()> {
    let world = World::new(1, &[])?;
    make_disk(&world.bench, &world.target(0), "golden")?;
    let browser = Browser::new()?;
    browser.open(&world.site.board)?;
    let asks = || {
        let agent = Machine.spawn(&world.asking(0, "golden")?)?;
        browser.wait("#machines", PATIENCE, |text| text.contains("asks to be saved as golden"))?;
        Ok::<_, anyhow::Error>(agent)
    };

    let refused = asks()?;
    press(&browser, "10.77.0.100", "Say no")?;
    let (code, said) = site::end(refused)?;
    ensure!(code == Some(1) && said.contains("somebody at the server said no"), "{code:?} {said}");
    browser.wait("#machines", PATIENCE, |text| !text.contains("asks to be saved"))?;

    let agreed = asks()?;
    press(&browser, "10.77.0.100", "Save")?;
    browser.wait("#keep[open]", PATIENCE, |text| text.contains("Nothing on it is changed"))?;
    // The name is there that it asked for.
    browser.write(&browser.first("#name")?, ENTER)?;
    let (code, said) = site::end(agreed)?;
    ensure!(code == Some(0) && said.contains("It is saved as golden"), "{code:?} {said}");
    browser.wait("#machines", PATIENCE, |text| text.contains("it was saved as golden"))?;
    let images = world.bench.run("images")?;
    ensure!(images["images"].as_array().is_some_and(|all| all.len() == 2), "{images}");
    Ok(())
}

/// Whoever works by the keyboard stays where he is, and what he has selected or typed stays too, whatever the page learns meanwhile.
#[test]
fn net_the_keyboard_stays_where_it_is() -> Result<()> {
    let world = World::new(2, &[])?;
    let browser = Browser::new()?;
    browser.open(&world.site.board)?;
    let key = world.site.key.as_str();
    let mut agents = vec![world.agent(1, key)?];
    browser.wait("#machines", PATIENCE, |text| text.contains("waits for your word"))?;
    let ask = |script: &str| browser.run(script, &json!([]));
    let is_at = "return document.activeElement.textContent === 'Restore'";
    for _ in 0..9 {
        if ask(is_at)? == true {
            break;
        }
        browser.write(&browser.active()?, TAB)?;
    }
    ensure!(ask(is_at)? == true, "the button cannot be reached by the keyboard");
    ask(
        "window.typed = document.activeElement; getSelection().selectAllChildren(document.querySelector('.tag'))",
    )?;
    let selected = ask("return String(getSelection())")?;
    // Another machine comes, and stands before it.
    agents.push(world.agent(0, key)?);
    browser.wait("#machines", PATIENCE, |text| text.matches("waits for your word").count() == 2)?;
    thread::sleep(WHILE);
    let first = browser.text("#machines tr:first-child")?;
    ensure!(first.contains("10.77.0.100"), "{first}");
    ensure!(ask("return document.activeElement === window.typed")? == true, "the focus is lost");
    ensure!(ask("return String(getSelection())")? == selected, "the selection is lost");
    browser.write(&browser.active()?, ENTER)?;
    browser.wait("#ask[open]", PATIENCE, |text| text.contains("What is on its disk is lost"))?;
    browser.write(&browser.first("#hostname")?, "pc-typed")?;
    thread::sleep(WHILE);
    let typed = "const name = document.querySelector('#hostname'); return document.activeElement === name && name.value";
    ensure!(ask(typed)? == "pc-typed", "the question is another one");
    browser.write(&browser.first("#yes")?, ENTER)?;
    browser.wait("#machines", PATIENCE, |text| text.contains("pc-typed"))?;
    drop(agents);
    Ok(())
}

/// An administrator puts machines into a group, and has it restored at a time that he chooses.
#[test]
fn net_an_administrator_restores_a_group_later() -> Result<()> {
    let world = World::new(3, &[])?;
    let browser = Browser::new()?;
    browser.open(&world.site.board)?;
    let key = world.site.key.as_str();
    let _agents = (0..3).map(|number| world.agent(number, key)).collect::<Result<Vec<_>>>()?;
    let waiting =
        |count: usize| move |text: &str| text.matches("waits for your word").count() == count;
    browser.wait("#machines", PATIENCE, waiting(3))?;
    for row in ["10.77.0.100", "10.77.0.101"] {
        let script = "const row = [...document.querySelectorAll('#machines tr')].find(one => one.innerText.includes(arguments[0]));\
                      row.querySelector('input').click()";
        browser.run(script, &json!([row]))?;
    }
    browser.wait("#count", PATIENCE, |text| text == "2 chosen")?;
    let click = |css: &str| browser.click(&browser.first(css)?);
    click("#put")?;
    browser.write(&browser.first("#into")?, "room-1")?;
    pictures(&browser, "group")?;
    click("#putyes")?;
    browser.wait("#machines", PATIENCE, |text| text.matches("room-1").count() == 2)?;
    browser.run(
        "const list = document.querySelector('#group'); list.value = 'room-1'; list.onchange()",
        &json!([]),
    )?;
    browser.wait("#machines", PATIENCE, waiting(2))?;

    let restore_at = |time: &str| {
        click("#grestore")?;
        browser.wait("#ask[open]", PATIENCE, |text| text.contains("its 2 machines is lost"))?;
        browser.run("document.querySelector('#when').value = arguments[0]", &json!([time]))?;
        pictures(&browser, "later")?;
        click("#yes")
    };
    restore_at("2020-11-23T02:00")?;
    browser.wait("#note", PATIENCE, |text| text.contains("is in the past"))?;
    restore_at("2036-11-23T02:00")?;
    let scheduled = |count: usize| {
        move |text: &str| {
            text.matches("waits for its time").count() == count
                && text.matches("is restored Nov 23, 2036").count() == count
        }
    };
    browser.wait("#machines", PATIENCE, scheduled(2))?;
    browser.wait("#sum", PATIENCE, |text| text == "2 wait for their time")?;
    pictures(&browser, "scheduled")?;
    press(&browser, "10.77.0.100", "Take back")?;
    browser.wait("#machines", PATIENCE, scheduled(1))?;
    let told = world.site.status()?;
    let machines = told["machines"].as_array().context("machines")?;
    let mut later = machines.iter().filter_map(|one| one["later"].as_str());
    let at = later.next().context("none is restored later")?;
    ensure!(at.starts_with("2036-11-23T02:00:00") && later.next().is_none(), "{told}");
    Ok(())
}

/// What a test does with a page that takes input.
#[test]
fn net_a_browser_types_and_clicks() -> Result<()> {
    network::own()?;
    let browser = Browser::new()?;
    browser.open(
        "data:text/html,<input><button onclick='document.querySelector(`p`).textContent = \
         document.querySelector(`input`).value'>x</button><p>nothing",
    )?;
    let [input, button] = ["input", "button"].map(|css| browser.first(css));
    browser.write(&input?, "typed")?;
    ensure!(browser.text("p")? == "nothing");
    browser.click(&button?)?;
    browser.wait("p", PATIENCE, |text| text == "typed").context("it was clicked")?;
    ensure!(browser.first("table").is_err(), "there is none");
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    ensure!(browser.open(&format!("http://{nobody}/")).is_err(), "nobody listens there");
    Ok(())
}

/// A machine that somebody has set up is saved from the page, and waits again.
#[test]
fn net_an_administrator_saves_a_machine() -> Result<()> {
    let world = World::new(1, &[])?;
    make_disk(&world.bench, &world.target(0), "golden")?;
    let browser = Browser::new()?;
    browser.open(&world.site.board)?;
    let agent = world.agent(0, &world.site.key)?;
    browser.wait("#machines", PATIENCE, |text| text.contains("waits for your word"))?;
    save(&browser, "not a name")?;
    browser.wait("#note", PATIENCE, |text| text.contains("no name of an image"))?;
    save(&browser, "golden")?;
    browser.wait("#sum", PATIENCE, |text| text.contains("1 at work"))?;
    browser.wait("#machines", PATIENCE, |text| text.contains("it was saved as golden"))?;
    pictures(&browser, "saved")?;
    let (ended, said) = site::end(agent)?;
    ensure!(ended == Some(0), "{ended:?} {said}");
    // The next question has it among the images.
    let began = Instant::now();
    while !browser.run("return images.join(' ')", &json!([]))?.to_string().contains("golden@") {
        ensure!(began.elapsed() < PATIENCE, "it cannot be chosen");
        thread::sleep(Duration::from_millis(300));
    }
    Ok(())
}

/// An administrator chooses another image than the one that is sent, and the machine has that one in the end; asked again, it is chosen.
#[test]
fn net_an_administrator_chooses_another_image() -> Result<()> {
    let world = World::new(1, &[])?;
    let other = world.bench.path("disk-other");
    make_disk(&world.bench, &other, "other")?;
    world.bench.save("other", std::slice::from_ref(&other))?;
    let browser = Browser::new()?;
    browser.open(&world.site.board)?;
    let agent = world.agent(0, &world.site.key)?;
    browser.wait("#machines", PATIENCE, |text| text.contains("waits for your word"))?;
    let chosen = || -> Result<String> {
        let chosen = browser.run("return document.querySelector('#which').value", &json!([]))?;
        Ok(chosen.as_str().unwrap_or_default().to_owned())
    };
    let began = Instant::now();
    while !browser.run("return images.join(' ')", &json!([]))?.to_string().contains("other@") {
        ensure!(began.elapsed() < PATIENCE, "it cannot be chosen");
        thread::sleep(Duration::from_millis(300));
    }
    press(&browser, "10.77.0.100", "Restore")?;
    browser.wait("#ask[open]", PATIENCE, |text| text.contains("What is on its disk is lost"))?;
    ensure!(chosen()?.starts_with("lab@"), "{}", chosen()?);
    // A list goes to what is typed.
    browser.write(&browser.first("#which")?, "other")?;
    ensure!(chosen()?.starts_with("other@"), "{}", chosen()?);
    pictures(&browser, "chooses")?;
    browser.click(&browser.first("#yes")?)?;
    browser.wait("#machines", PATIENCE, |text| text.contains("has other@"))?;
    let (code, said) = site::end(agent)?;
    ensure!(code == Some(0) && said.contains("The image other@"), "{code:?} {said}");
    let [source, target] = [[other], [world.target(0)]];
    volumes::expect_same(&volumes::trees(&source)?, &volumes::trees(&target)?)?;
    press(&browser, "10.77.0.100", "Restore again")?;
    browser.wait("#ask[open]", PATIENCE, |text| text.contains("It was restored already"))?;
    ensure!(chosen()?.starts_with("other@"), "{}", chosen()?);
    Ok(())
}
