//! The board in a real browser, while machines are restored: what it shows changes by itself, from the first machine to the last block.

#![allow(clippy::print_stdout, reason = "a test says where its pictures are")]

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use keiki_tests::browser::Browser;
use keiki_tests::room::{Client, Room};
use keiki_tests::{fixtures, network};
use serde_json::json;

/// How long a page may take to show what happened; six times what it takes on a quiet machine, and more.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// How far the machines are, in percent, as the page says it.
fn percents(text: &str) -> Vec<u32> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn watch() -> Result<()> {
    let browser = Browser::new()?;
    browser.open("http://10.77.0.1/board")?;
    // It would be gone after a reload.
    browser.run("window.isTheSame = true", &json!([]))?;
    browser.wait("#image", PATIENCE, |text| text.contains("lab"))?;
    browser.wait("#machines", PATIENCE, |text| text.contains("No machine has asked"))?;
    pictures(&browser, "empty")?;

    browser.wait("#machines", PATIENCE, |text| text.contains("gets the image"))?;
    let mut seen = Vec::new();
    let began = std::time::Instant::now();
    loop {
        let text = browser.text("#machines tr td:nth-child(4)")?;
        let now = percents(&text);
        let most = now.iter().max().copied().unwrap_or(0);
        if seen.last().is_none_or(|last| *last != most) {
            seen.push(most);
            if (20..100).contains(&most) && seen.iter().filter(|one| **one >= 20).count() == 1 {
                pictures(&browser, "running")?;
            }
        }
        if now.len() == 3 && now.iter().all(|one| *one == 100) {
            break;
        }
        ensure!(began.elapsed() < PATIENCE, "{text}");
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure!(seen.is_sorted() && seen.len() > 3, "{seen:?}");
    browser
        .wait("#machines", PATIENCE, |text| text.matches("has all of the image").count() == 3)?;
    pictures(&browser, "done")?;
    let text = browser.text("#machines")?;
    for address in ["10.77.0.100", "10.77.0.101", "10.77.0.102"] {
        ensure!(text.contains(address), "{text}");
    }
    let is_same = browser.run("return window.isTheSame === true", &json!([]))?;
    ensure!(is_same == true, "it was loaded again");
    Ok(())
}

#[test]
fn net_the_board_shows_a_room_from_its_begin_to_its_end() -> Result<()> {
    // So late that the page is seen without them.
    let client = Client { late: 8000, ..Client::default() };
    let clients = [client, client, Client { late: 9000, lost: 30, ..client }];
    let outcome = Room::new(48)?.play_watched(60, &clients, &watch)?;
    ensure!(outcome.times.iter().all(Option::is_some), "{outcome:?}");
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
