//! The way to the server: what the machine says, and what it is told.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use netboot::orders::PATH;
use netboot::orders::machine::Machine;
use netboot::orders::talk::{Doing, Said, Told};
use ureq::Agent;

use super::{PERIOD, works};
use crate::output::progress::Watch;

/// The longest answer, in bytes: an order with its answer file.
const LONGEST: u64 = 1 << 20;

/// The way to a server.
pub struct Line {
    agent: Agent,
    url: String,
}

impl Line {
    /// The way to the server `http://ADDRESS`.
    pub fn new(server: &str) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(10)))
            .http_status_as_error(false)
            // A connection that is kept takes a place that others need.
            .max_idle_connections(0)
            .proxy(None);
        Self { agent: config.build().into(), url: format!("{server}/{PATH}") }
    }

    /// Says something, and returns what the server answers.
    ///
    /// # Errors
    /// In words: there is no answer, or none that is understood.
    pub fn say(&self, machine: &Machine, nonce: &str, doing: Doing) -> Result<Told, String> {
        let said = Said { machine: machine.clone(), nonce: nonce.to_owned(), doing };
        let text = serde_json::to_vec(&said).map_err(|error| error.to_string())?;
        let mut answer =
            self.agent.post(&self.url).send(&text).map_err(|error| error.to_string())?;
        let bytes = answer
            .body_mut()
            .with_config()
            .limit(LONGEST)
            .read_to_vec()
            .map_err(|error| error.to_string())?;
        if !answer.status().is_success() {
            return Err(format!("it says {}", answer.status()));
        }
        serde_json::from_slice(&bytes).map_err(|error| format!("it says something else: {error}"))
    }

    /// Says how it ended, until the server knows it or that takes too long.
    pub fn last(&self, machine: &Machine, nonce: &str, doing: &Doing, most: Duration) {
        let began = Instant::now();
        while self.say(machine, nonce, doing.clone()) != Ok(Told::Known) && began.elapsed() < most {
            thread::sleep(PERIOD);
        }
    }

    /// Does `work`, and says meanwhile how far it is; the server can stop it.
    pub fn while_telling<T>(
        &self,
        machine: &Machine,
        nonce: &str,
        watch: &Watch,
        work: impl FnOnce() -> T,
    ) -> T {
        thread::scope(|scope| {
            let (end, ended) = mpsc::channel::<()>();
            scope.spawn(move || {
                while ended.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                    if self.say(machine, nonce, works(watch)) == Ok(Told::Stop) {
                        watch.interrupt(true);
                    }
                }
            });
            let done = work();
            drop(end);
            done
        })
    }
}
