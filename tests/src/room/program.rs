//! What brings an image to a room: keiki by multicast, and what is used for that today.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use image_core::exec::Call;
use image_core::exec::real::{Beside, Machine};

use super::{Client, Fate, Room};
use crate::network::{HERE, Neighbour};
use crate::web::Web;
use crate::{bench, call, keiki};

/// What brings the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// `keiki serve --image` and `keiki restore`.
    Keiki,
    /// `keiki restore` from a web server (Apache): each machine for itself.
    Http,
    /// udp-sender and udp-receiver, which FOG and Clonezilla use: a file, and nothing is restored.
    Udpcast,
    /// uftp and uftpd: a file, and nothing is restored.
    Uftp,
}

/// All of them, ours first.
pub const ALL: [Program; 4] = [Program::Keiki, Program::Udpcast, Program::Uftp, Program::Http];

/// What runs at the server's end until it is dropped.
#[derive(Debug)]
pub enum Server {
    /// A program.
    Runs(Beside),
    /// A web server, and the repository there.
    Serves(Web),
}

impl Program {
    /// Whether machines are restored, and not only a file is brought.
    pub fn restores(self) -> bool {
        matches!(self, Self::Keiki | Self::Http)
    }

    /// What runs before machines begin.
    pub(super) fn before(self, room: &Room, rate: u64) -> Result<Option<Server>> {
        match self {
            Self::Keiki => {
                let rate = (rate * 98 / 100).to_string();
                let mut serve = keiki!("--repo", room.repo(), "serve", "--interface", "br0")
                    .env("KEIKI_STATE", room.bench.path("state"));
                let options = ["--no-boot", "--image", "lab", "--rate", &rate];
                serve.args.extend(options.map(Into::into));
                let mut server = Machine.spawn(&serve)?;
                let said = server.answer()?;
                if !said.starts_with("Serving on") {
                    bail!("{said}{}", server.finish(super::PATIENCE)?.talk());
                }
                Ok(Some(Server::Runs(server)))
            }
            Self::Http => {
                Ok(Some(Server::Serves(Web::at(HERE, room.bench.path("").as_path(), "")?)))
            }
            Self::Udpcast | Self::Uftp => Ok(None),
        }
    }

    /// What runs once so many machines listen.
    pub(super) fn after(self, room: &Room, rate: u64, machines: usize) -> Result<Option<Server>> {
        let file = room.file();
        let call = match self {
            Self::Keiki | Self::Http => return Ok(None),
            Self::Udpcast => {
                let (machines, rate) = (machines.to_string(), format!("{}k", rate * 970));
                call!(
                    "udp-sender",
                    "--nokbd",
                    "--file",
                    &file,
                    "--interface",
                    "br0",
                    "--portbase",
                    "9000",
                    "--full-duplex",
                    "--min-receivers",
                    machines,
                    "--max-wait",
                    "20",
                    "--max-bitrate",
                    rate,
                    "--no-progress"
                )
            }
            Self::Uftp => {
                call!("uftp", "-I", "br0", "-R", (rate * 970).to_string(), "-L", "/dev/null", &file)
            }
        };
        Ok(Some(Server::Runs(Machine.spawn(&call)?)))
    }

    /// The call by which a machine gets what is brought.
    fn call(self, room: &Room, number: usize, server: Option<&Server>) -> Result<Call> {
        let target = room.target(number);
        let restore = |repo: &str| {
            let mut call = keiki!("--progress", "none", "--repo", repo);
            let words = bench::restore("lab", std::slice::from_ref(&target), "");
            call.args.extend(words.split_whitespace().map(Into::into));
            call
        };
        Ok(match (self, server) {
            (Self::Http, Some(Server::Serves(web))) => restore(&web.address("repo")),
            (Self::Keiki | Self::Http, _) => restore(super::REPO),
            (Self::Udpcast, _) => call!(
                "udp-receiver",
                "--nokbd",
                "--interface",
                "eth0",
                "--portbase",
                "9000",
                "--start-timeout",
                "60",
                "--receive-timeout",
                "30",
                "--file",
                &target
            ),
            (Self::Uftp, _) => {
                let folder = folder(&target);
                // What an earlier session left would look like the end of this one.
                if folder.exists() {
                    fs::remove_dir_all(&folder)?;
                }
                fs::create_dir_all(&folder)?;
                let script = folder.join("script");
                fs::write(&script, format!("#!/bin/sh\ntouch {}/done\n", folder.display()))?;
                crate::run!("chmod", "755", &script)?;
                call!("uftpd", "-d", "-I", "eth0", "-D", &folder, "-L", "/dev/null", "-s", &script)
            }
        })
    }

    /// Begins on a machine.
    pub(super) fn begin(
        self,
        room: &Room,
        (number, client): (usize, &Client),
        (machine, server): (&Neighbour, Option<&Server>),
    ) -> Result<Beside> {
        let call = machine.call(&self.call(room, number, server)?);
        let Some(Fate::Broken(mib)) = client.fate else { return Ok(Machine.spawn(&call)?) };
        // In units of 512 bytes; an error instead of a signal.
        let limit = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", mib * 2048);
        let mut limited = call!("sh", "-c", limit, "sh", call.program);
        limited.args.extend(call.args);
        Ok(Machine.spawn(&limited)?)
    }

    /// Waits until a machine has everything; whether it has, in this time.
    pub(super) fn end(
        self,
        room: &Room,
        (number, client): (usize, &Client),
        running: Beside,
        most: Duration,
    ) -> Result<bool> {
        let target = room.target(number);
        let began = Instant::now();
        match self {
            Self::Keiki | Self::Http => {
                let end = running.finish(most)?;
                ensure!(end.success(), "machine {number}: {}{}", end.text(), end.talk());
                // It would be as slow as without it.
                let fetched = end.talk().contains("fetched");
                ensure!(client.may_fetch || !fetched, "machine {number}: {}", end.talk());
                Ok(true)
            }
            Self::Udpcast => Ok(running.finish(most).is_ok_and(|end| end.success())),
            Self::Uftp => {
                let folder = folder(&target);
                while !folder.join("done").exists() {
                    if began.elapsed() > most {
                        return Ok(false);
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                drop(running);
                let name = room.file();
                let got = folder.join(name.file_name().unwrap_or_default());
                // The script also runs where the session ended without the file.
                Ok(fs::rename(got, &target).is_ok())
            }
        }
    }
}

/// Where uftpd puts what it gets.
fn folder(target: &Path) -> PathBuf {
    target.with_extension("uftp")
}
