//! `keiki serve` with an image, as an administrator sees it: its page's answers, and what is decided there.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use image_core::exec::Call;
use image_core::exec::real::{Beside, Machine};
use serde_json::Value;

use crate::network::HERE;
use crate::{call, keiki, tool};

/// How long something may take; no figure, only the end of a test that hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// A server that runs, in the network of this thread.
#[derive(Debug)]
pub struct Site {
    state: PathBuf,
    _server: Beside,
    /// The address of its page.
    pub board: String,
    /// Its public key.
    pub key: String,
}

impl Site {
    /// Starts `serve`, a call of `keiki serve`, with its state in this folder.
    ///
    /// # Errors
    /// It does not begin to serve.
    pub fn start(serve: Call, state: PathBuf) -> Result<Self> {
        let mut server = Machine.spawn(&serve.env("KEIKI_STATE", &state))?;
        let said = server.answer()?;
        if !said.starts_with("Serving on") {
            anyhow::bail!("{said}{}", server.finish(PATIENCE)?.talk());
        }
        let mut site = Self { state, _server: server, board: String::new(), key: String::new() };
        let told = site.status()?;
        let text = |name: &str| told[name].as_str().map(str::to_owned).context("no status");
        (site.board, site.key) = (text("board")?, text("site_key")?);
        Ok(site)
    }

    /// What `keiki serve status` says.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn status(&self) -> Result<Value> {
        let state = self.state.display().to_string();
        let status = keiki!("--json", "serve", "status", "--interface", "br0", "--state", state);
        Ok(serde_json::from_str(&tool::run(&status)?)?)
    }

    /// Without which nobody decides anything.
    pub fn token(&self) -> &str {
        self.board.split('#').nth(1).unwrap_or_default()
    }

    /// Asks for `path` with a token, posting something where that is given: the status and the answer.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn ask(&self, path: &str, token: &str, posted: Option<&str>) -> Result<(u16, String)> {
        let url = format!("http://{HERE}/{path}");
        let header = format!("Authorization: Bearer {token}");
        let mut curl = call!("curl", "-sS", "-m", "20", "-w", "\n%{http_code}", "-H", header, url);
        curl.args.extend(posted.into_iter().flat_map(|text| ["-d".into(), text.into()]));
        let said = tool::run(&curl)?;
        let (text, status) = said.trim_end().rsplit_once('\n').context("no status")?;
        Ok((status.parse()?, text.to_owned()))
    }

    /// Decides something.
    ///
    /// # Errors
    /// It is refused.
    pub fn post(&self, path: &str, wish: &str) -> Result<()> {
        let (status, said) = self.ask(path, self.token(), Some(wish))?;
        ensure!(status == 200, "{path}: {status}: {said}");
        Ok(())
    }

    /// Waits until the list of machines is as `wanted`; the list.
    ///
    /// # Errors
    /// It does not become so.
    pub fn until(&self, wanted: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
        let began = Instant::now();
        loop {
            let (_, said) = self.ask("api/machines", self.token(), None)?;
            let told: Value = serde_json::from_str(&said)?;
            let machines = told["machines"].as_array().context("machines")?.clone();
            if wanted(&machines) {
                return Ok(machines);
            }
            ensure!(began.elapsed() < PATIENCE, "{said}");
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

/// Whether there are so many machines, in this state.
pub fn are(count: usize, state: &str) -> impl Fn(&[Value]) -> bool {
    move |machines| machines.iter().filter(|one| one["state"] == state).count() == count
}
