//! `keiki serve` with an image, as an administrator sees it: its page's answers, and what is decided there.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use image_core::exec::Call;
use image_core::exec::real::{Beside, Machine};
use image_core::extent::Extent;
use image_core::units::Bytes;
use netboot::event::Mac;
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::network::{self, HERE, Neighbour};
use crate::storm::Process;
use crate::{call, filesystem, keiki, run, schema, sparse, tool, volumes};

/// How long something may take; no figure, only the end of a test that hangs.
const PATIENCE: Duration = Duration::from_secs(900);

/// A server that runs, in the network of this thread.
#[derive(Debug)]
pub struct Site {
    state: PathBuf,
    server: Beside,
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
        let mut said = server.answer()?;
        if said.starts_with("making a new repository") {
            said = server.answer()?;
        }
        if !said.starts_with("Serving on") {
            anyhow::bail!("{said}{}", server.finish(PATIENCE)?.talk());
        }
        let mut site = Self { state, server, board: String::new(), key: String::new() };
        let told = site.status()?;
        let text = |name: &str| told[name].as_str().map(str::to_owned).context("no status");
        (site.board, site.key) = (text("board")?, text("site_key")?);
        Ok(site)
    }

    /// What the server takes.
    pub fn process(&self) -> Process {
        Process(self.server.id())
    }

    /// Ends it by Ctrl-C: its code and its words.
    ///
    /// # Errors
    /// It does not end.
    pub fn interrupt(self) -> Result<(Option<i32>, String)> {
        run!("kill", "-INT", self.server.id().to_string())?;
        end(self.server)
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

    /// Whether the answers are as the description says that they are.
    ///
    /// # Errors
    /// They are not.
    pub fn conforms(&self) -> Result<()> {
        let (status, description) = self.ask("api/openapi.json", "", None)?;
        ensure!(status == 200);
        let description: Value = serde_json::from_str(&description)?;
        let schema =
            json!({"$ref": "#/components/schemas/board", "components": description["components"]});
        let told = serde_json::from_str(&self.ask("api/machines", self.token(), None)?.1)?;
        if let Err(why) = jsonschema::validator_for(&schema)?.validate(&told) {
            anyhow::bail!("{why}: {told}");
        }
        schema::check("serve-status", &self.status()?)
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

/// Of each disk.
pub const SIZE: Bytes = Bytes::mib(24);

/// A repository with an image of one disk, and a server that sends it to machines that somebody lets in.
#[derive(Debug)]
pub struct World {
    /// The repository, and what machines are restored onto.
    pub bench: Bench,
    /// The server.
    pub site: Site,
    /// The machines.
    pub machines: Vec<Neighbour>,
}

/// The call that serves the image of a [`World`], with more options; by `--save` a repository of its own, without images.
pub fn serve(bench: &Bench, options: &[&str]) -> Call {
    let is_new = options.contains(&"--save");
    let repo = bench.path(if is_new { "new" } else { "repo" });
    let mut call = keiki!("--repo", repo, "--progress", "none", "serve", "--no-boot");
    call.args.extend(["--interface", "br0"].map(Into::into));
    if !is_new {
        call.args.extend(["--image", "lab"].map(Into::into));
    }
    call.args.extend(options.iter().map(Into::into));
    call
}

/// Makes a disk with a filesystem of this name, whose bytes no other one has.
///
/// # Errors
/// A tool fails.
pub fn make_disk(bench: &Bench, disk: &Path, name: &str) -> Result<()> {
    let (part, files) = (bench.path("part"), bench.path(&format!("files-{name}")));
    fs::create_dir(&files)?;
    let mut bytes = vec![0; 12 << 20];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    fs::write(files.join("file"), bytes)?;
    filesystem::ext4(&part, SIZE - Bytes::mib(2), [name, &filesystem::uuid()?], &files)?;
    sparse::create(disk, SIZE)?;
    run!("sgdisk", format!("-n1:2048:+{}K", (SIZE - Bytes::mib(2)).units(Bytes::KIB)), disk)?;
    sparse::copy(&part, Extent::first(SIZE - Bytes::mib(2)), disk, Bytes::MIB)?;
    Ok(())
}

impl World {
    /// A room with so many machines, which are off.
    ///
    /// # Errors
    /// A tool fails.
    pub fn new(machines: u8, options: &[&str]) -> Result<Self> {
        let bench = Bench::new()?;
        let disk = bench.path("disk");
        make_disk(&bench, &disk, "lab")?;
        bench.save("lab", std::slice::from_ref(&disk))?;
        let answers =
            "image = \"lab\"\ncountdown = 5\nrepair = false\nthen = \"menu\"\n\n[[disk]]\n";
        fs::write(bench.path("answers.toml"), answers)?;
        network::own()?;
        network::switch()?;
        let machines = (0..machines).map(|number| {
            let machine = Neighbour::plugged(&format!("port{number}"))?;
            machine.address(100 + number)?;
            Ok(machine)
        });
        let machines = machines.collect::<Result<_>>()?;
        let answers = bench.path("answers.toml").display().to_string();
        let rules = if options.contains(&"--unattended") { "" } else { "--answers" };
        let options = [options, &[rules, &answers][usize::from(rules.is_empty())..]].concat();
        let site = Site::start(serve(&bench, &options), bench.path("state"))?;
        Ok(Self { bench, site, machines })
    }

    /// The same room, after its server ended and was started again with other options.
    ///
    /// # Errors
    /// It does not start.
    pub fn again(self, options: &[&str]) -> Result<Self> {
        self.again_after(options, |_| Ok(()))
    }

    /// And after what happens while nobody is there.
    ///
    /// # Errors
    /// It does not start, or that failed.
    pub fn again_after(
        self,
        options: &[&str],
        gone: impl FnOnce(&Bench) -> Result<()>,
    ) -> Result<Self> {
        let Self { bench, site, machines } = self;
        drop(site);
        gone(&bench)?;
        let site = Site::start(serve(&bench, options), bench.path("state"))?;
        Ok(Self { bench, site, machines })
    }

    /// The disk of a machine.
    pub fn target(&self, number: usize) -> PathBuf {
        self.bench.path(&format!("target-{number}"))
    }

    /// Starts a machine: it offers its disk, and knows the site by this key.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn agent(&self, number: usize, key: &str) -> Result<Beside> {
        self.agent_of(number, (HERE, key))
    }

    /// The same, and that it was started from a server with this address.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn agent_of(&self, number: usize, site: (Ipv4Addr, &str)) -> Result<Beside> {
        Ok(Machine.spawn(&self.machines[number].call(&self.agent_call(number, site)?))?)
    }

    /// The same, where somebody at the machine asks that it is saved under a name.
    ///
    /// # Errors
    /// No disk can be made.
    pub fn asking(&self, number: usize, name: &str) -> Result<Call> {
        let mut call = self.agent_call(number, (HERE, &self.site.key))?;
        call.args.extend(["--save", name].map(Into::into));
        Ok(self.machines[number].call(&call))
    }

    /// The same, watched by strace, which writes calls of these names into files in a folder.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn traced(
        &self,
        number: usize,
        (key, calls): (&str, &str),
        folder: &Path,
    ) -> Result<Beside> {
        let call = self.agent_call(number, (HERE, key))?;
        fs::create_dir(folder)?;
        let calls = format!("trace={calls}");
        let mut traced = call!("strace", "-ff", "-y", "-e", calls, "-o", folder.join("thread"));
        traced.args.push(call.program);
        traced.args.extend(call.args);
        Ok(Machine.spawn(&self.machines[number].call(&traced))?)
    }

    fn agent_call(&self, number: usize, (server, key): (Ipv4Addr, &str)) -> Result<Call> {
        let target = self.target(number);
        if !target.exists() {
            sparse::create(&target, SIZE)?;
        }
        Ok(keiki!(
            "--progress",
            "none",
            "agent",
            format!("http://{server}"),
            "--site-key",
            key,
            "--disk",
            &target
        ))
    }

    /// The machine with this number, of those that are listed.
    ///
    /// # Errors
    /// It is not among them.
    pub fn machine(&self, machines: &[Value], number: usize) -> Result<Value> {
        let path = self.target(number).display().to_string();
        let is_it =
            |one: &&Value| one["disks"][0].as_str().is_some_and(|disk| disk.starts_with(&path));
        Ok(machines.iter().find(is_it).with_context(|| format!("{machines:?}"))?.clone())
    }

    /// Listens at a machine's adapter for the packet that wakes it: it has this address.
    ///
    /// # Errors
    /// `mac` is none.
    pub fn hears(&self, number: usize, mac: &str) -> Result<JoinHandle<Result<Vec<u8>>>> {
        let Mac(mac) = mac.parse().map_err(anyhow::Error::msg)?;
        self.machines[number].hears([vec![0xff; 6], mac.repeat(16)].concat(), PATIENCE)
    }

    /// Whether a machine has the files of the image; the other thing that it may have is nothing at all.
    ///
    /// # Errors
    /// It has something else.
    pub fn is_restored(&self, number: usize) -> Result<bool> {
        let bytes = fs::read(self.target(number))?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(false);
        }
        let [source, target] = [[self.bench.path("disk")], [self.target(number)]];
        volumes::expect_same(&volumes::trees(&source)?, &volumes::trees(&target)?)?;
        Ok(true)
    }
}

/// Waits for the end of a program: its code and its words.
///
/// # Errors
/// It does not end.
pub fn end(agent: Beside) -> Result<(Option<i32>, String)> {
    let ended = agent.finish(PATIENCE)?;
    Ok((ended.code, ended.text() + &ended.talk()))
}
