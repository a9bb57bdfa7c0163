//! A browser that nobody sees: Chromium, driven through chromedriver by the WebDriver protocol (W3C, <https://www.w3.org/TR/webdriver2>).
//!
//! It runs where its thread is: in the network of a test it sees only that. Both programs end when it is dropped.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image_core::exec::real::{Beside, Machine};
use serde_json::{Value, json};
use tempfile::TempDir;
use ureq::Agent;

use crate::call;

/// How long programs may take to start, and an answer to come.
const PATIENCE: Duration = Duration::from_secs(120);

/// The name of an element's id in answers (section 12 of the protocol).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one page.
#[derive(Debug)]
pub struct Browser {
    agent: Agent,
    /// The address of its session.
    session: String,
    _driver: Beside,
    /// What it keeps for itself.
    _profile: TempDir,
}

/// A part of the page that is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Element(String);

impl Browser {
    /// Starts it.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn new() -> Result<Self> {
        let profile = TempDir::new()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let driver =
            call!("chromedriver", format!("--port={port}"), "--silent").env("HOME", profile.path());
        let driver = Machine
            .spawn(&driver)
            .context("scripts/install installs the browser that tests use")?;
        let config = Agent::config_builder().timeout_global(Some(PATIENCE));
        let agent: Agent = config.http_status_as_error(false).build().into();
        let mut browser = Self {
            agent,
            session: format!("http://127.0.0.1:{port}/session"),
            _driver: driver,
            _profile: profile,
        };
        let folder = format!("--user-data-dir={}", browser._profile.path().display());
        // Root, and systems without user namespaces, have no sandbox; what is shown is our own page.
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            &folder,
        ];
        let options = json!({"args": args});
        let wanted = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}});
        let began = Instant::now();
        let made = loop {
            match browser.post("", &wanted) {
                Err(_) if began.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(100)),
                made => break made?,
            }
        };
        let id = made["sessionId"].as_str().context("a session")?;
        browser.session = format!("{}/{id}", browser.session);
        Ok(browser)
    }

    /// Shows a page.
    ///
    /// # Errors
    /// There is none at this address.
    pub fn open(&self, url: &str) -> Result<()> {
        self.post("/url", &json!({"url": url})).map(drop)
    }

    /// Makes the page so many pixels wide and high, as a screen of that size would.
    ///
    /// # Errors
    /// The browser ended.
    pub fn size(&self, width: u32, height: u32) -> Result<()> {
        // A window is never narrower than 500 pixels; a screen may be.
        let screen = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        let command = json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": screen});
        self.post("/goog/cdp/execute", &command).map(drop)
    }

    /// All that a CSS selector finds.
    ///
    /// # Errors
    /// It is no selector.
    pub fn find(&self, css: &str) -> Result<Vec<Element>> {
        let found = self.post("/elements", &json!({"using": "css selector", "value": css}))?;
        let found = found.as_array().context("elements")?.iter();
        found.map(|one| Ok(Element(one[ELEMENT].as_str().context("an element")?.into()))).collect()
    }

    /// The first that a CSS selector finds.
    ///
    /// # Errors
    /// There is none.
    pub fn first(&self, css: &str) -> Result<Element> {
        self.find(css)?.into_iter().next().with_context(|| format!("no {css}"))
    }

    /// The one that keys go to.
    ///
    /// # Errors
    /// The browser ended.
    pub fn active(&self) -> Result<Element> {
        let found =
            self.answer(self.agent.get(format!("{}/element/active", self.session)).call()?)?;
        Ok(Element(found[ELEMENT].as_str().context("an element")?.into()))
    }

    /// What can be read of all that a CSS selector finds, each on lines of its own; nothing of what went away meanwhile.
    ///
    /// # Errors
    /// It is no selector.
    pub fn text(&self, css: &str) -> Result<String> {
        let script =
            "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join('\\n')";
        let said = self.run(script, &json!([css]))?;
        Ok(said.as_str().unwrap_or_default().to_owned())
    }

    /// What a function's body in JavaScript returns.
    ///
    /// # Errors
    /// It fails.
    pub fn run(&self, script: &str, arguments: &Value) -> Result<Value> {
        self.post("/execute/sync", &json!({"script": script, "args": arguments}))
    }

    /// Presses an element.
    ///
    /// # Errors
    /// It is not there any more, or covered.
    pub fn click(&self, element: &Element) -> Result<()> {
        self.post(&format!("/element/{}/click", element.0), &json!({})).map(drop)
    }

    /// Types into an element.
    ///
    /// # Errors
    /// Nothing can be typed there.
    pub fn write(&self, element: &Element, text: &str) -> Result<()> {
        self.post(&format!("/element/{}/value", element.0), &json!({"text": text})).map(drop)
    }

    /// Waits until what a CSS selector finds reads so that `is` holds; that text.
    ///
    /// # Errors
    /// It does not in this time.
    pub fn wait(&self, css: &str, most: Duration, is: impl Fn(&str) -> bool) -> Result<String> {
        let began = Instant::now();
        loop {
            let text = self.text(css)?;
            if is(&text) {
                return Ok(text);
            }
            if began.elapsed() > most {
                bail!("after {most:?} {css} reads: {text}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What is shown, as a PNG in a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn picture(&self, out: &Path) -> Result<()> {
        let shown = self.answer(self.agent.get(format!("{}/screenshot", self.session)).call()?)?;
        let bytes = STANDARD.decode(shown.as_str().context("a picture")?)?;
        fs::write(out, bytes).with_context(|| out.display().to_string())
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.agent.post(format!("{}{path}", self.session));
        let request = request.header("content-type", "application/json");
        self.answer(request.send(serde_json::to_vec(body)?)?)
    }

    /// The value of an answer, or what it says went wrong.
    fn answer(&self, mut answer: ureq::http::Response<ureq::Body>) -> Result<Value> {
        let told = answer.body_mut().with_config().limit(64 << 20).read_to_vec()?;
        let mut told: Value = serde_json::from_slice(&told)?;
        let value = told["value"].take();
        if !answer.status().is_success() {
            bail!("{}: {}", value["error"], value["message"]);
        }
        Ok(value)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser, and then is ended itself. Where it does not answer, the browser notices that it is gone.
        drop(self.agent.delete(&self.session).call());
    }
}
