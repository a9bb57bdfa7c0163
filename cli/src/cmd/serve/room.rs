//! The image that `keiki serve` sends.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use image_core::error::Error;
use image_core::repo::{ImageInfo, Local, Repository};
use image_core::units::Bytes;
use live_iso::net;
use netboot::files::Files;
use netboot::interface::Interface;
use netboot::multicast::server::Pace;
use netboot::orders::door::Door;
use netboot::orders::site::Site;
use netboot::room::guests::Guests;
use netboot::room::server::Room;

use super::super::{location, open_or_create, repository};
use crate::args::Global;
use crate::args::serve::Serve;
use crate::exit::Exit;
use crate::network::REPOSITORY;
use crate::output::{self, progress::Progress};

/// What the cable carries, where nothing else is known; machines seldom have faster ones.
const USUAL: u64 = 1000;

/// Who is silent for so long is switched off, or has another number by now.
const SILENT: Duration = Duration::from_secs(15);

/// How often it is told how far the machines are.
const TOLD: Duration = Duration::from_secs(10);

/// Where clients find the repository of the server with this address.
pub fn url(server: Ipv4Addr) -> String {
    format!("http://{server}/{REPOSITORY}")
}

/// The image that is sent.
pub struct Sending {
    /// Its name.
    pub name: String,
    /// The room.
    pub room: Arc<Room>,
    told: Instant,
    is_told: bool,
}

/// What machines may be saved into and restored from.
pub struct Found {
    /// The repository.
    pub repo: Repository,
    /// The image that is to be sent, where one is.
    pub image: Option<ImageInfo>,
    folder: PathBuf,
}

/// Looks for the repository, and the image that was named; none where machines only boot.
///
/// # Errors
/// There is no such image, or the repository is on another server.
pub fn find(global: &Global, args: &Serve, progress: &Progress) -> Result<Option<Found>> {
    if args.image.is_none() && !args.save {
        return Ok(None);
    }
    let folder = location(global)?.folder().map(PathBuf::from).ok_or_else(|| {
        Error::refused("images are served from a repository that is a folder of this machine; copy them: keiki copy")
    })?;
    let repo = match args.save {
        true => open_or_create(&folder, global.quiet, progress)?,
        false => repository(global)?,
    };
    let image = args.image.as_ref().map(|name| repo.resolve(name, progress)).transpose()?;
    Ok(Some(Found { repo, image, folder }))
}

impl Found {
    /// Refuses a folder that everybody could read who can read the repository.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn keeps_out(&self, state: &Path) -> Result<()> {
        // What is not there yet lies in what is.
        let state = std::path::absolute(state)?;
        let there = state.ancestors().find_map(|folder| fs::canonicalize(folder).ok());
        let repo = fs::canonicalize(&self.folder)?;
        if there.is_some_and(|folder| folder.starts_with(&repo)) {
            let (state, repo) = (state.display(), repo.display());
            return Err(Error::refused(format!(
                "the key of the site would be kept in {state}, which everybody can read who can read the repository {repo}: name \
                 another folder with --state"
            ))
            .into());
        }
        Ok(())
    }

    /// Lets machines save there by orders of `site`, and others fetch only with its code where it is private; the code.
    ///
    /// # Errors
    /// The code cannot be kept.
    pub fn guard(
        &self,
        args: &Serve,
        site: &Arc<Site>,
        files: &mut Files,
    ) -> Result<Option<String>> {
        let local = Arc::new(Local::new(&self.folder));
        files.add_takes(REPOSITORY, Arc::new(Guests::new(local, site.clone())));
        if !args.private {
            return Ok(None);
        }
        let door = Door::open(&args.state, Arc::clone(site))?;
        let code = door.code().to_owned();
        files.add_door(REPOSITORY, Arc::new(door));
        Ok(Some(code))
    }

    /// Adds the repository to what is served, and opens the room of the image that is sent.
    ///
    /// # Errors
    /// The image is damaged.
    pub fn send(
        &self,
        way: (Ipv4Addr, &Pace),
        files: &mut Files,
        progress: &Progress,
    ) -> Result<Option<Sending>> {
        files.add_folder(REPOSITORY, &self.folder)?;
        let Some(image) = &self.image else { return Ok(None) };
        let root = self.repo.root(image)?;
        let room = Arc::new(Room::open(&self.repo, (image.id, &root), way, progress)?);
        files.add_answers(REPOSITORY, room.clone());
        // With its id: machines that come later get the same, whatever is saved meanwhile.
        let name = output::image(image);
        Ok(Some(Sending { name, room, told: Instant::now(), is_told: false }))
    }
}

/// Sends what the first stage of machines fetches, where they boot from here; how much that is.
///
/// # Errors
/// A port is taken.
pub fn send_system(way: (Ipv4Addr, &Pace), files: &mut Files) -> Result<Bytes> {
    let Some(system) = files.stored(&net::system()).map(|file| file.bytes.clone()) else {
        return Ok(Bytes::ZERO);
    };
    let size = Bytes::of(&system);
    files.add_answers(net::FOLDER, Arc::new(Room::of_file(system, way)?));
    Ok(size)
}

/// How fast may be sent by multicast.
pub fn pace(args: &Serve, interface: &Interface) -> Pace {
    let rate = args.rate.unwrap_or_else(|| speed(interface) * 95 / 100);
    Pace::new(rate.saturating_mul(1_000_000 / 8))
}

/// What the interface carries, in Mbit/s; at most what machines usually have.
fn speed(interface: &Interface) -> u64 {
    let told = fs::read_to_string(format!("/sys/class/net/{}/speed", interface.name));
    let speed = told.ok().and_then(|told| told.trim().parse().ok()).filter(|speed| *speed > 0);
    speed.unwrap_or(USUAL).min(USUAL)
}

impl Sending {
    /// How a machine restores it.
    pub fn how(&self, interface: &Interface) -> String {
        format!("keiki --repo {} restore {} DISK", url(interface.address), self.name)
    }

    /// What the program ends with: some machines got nothing of what could not be read.
    pub fn exit(&self) -> Exit {
        if self.room.server().sent().unreadable > 0 { Exit::Damaged } else { Exit::Done }
    }

    /// Says how far the machines are, now and then, where there are any and it is `shown`.
    ///
    /// # Errors
    /// Standard output is closed; nothing is sent any more.
    pub fn tell(&mut self, shown: bool) -> Result<()> {
        if self.room.server().has_ended() {
            bail!("nothing is sent any more: a part of this program failed, and said why");
        }
        if self.told.elapsed() < TOLD || !shown {
            return Ok(());
        }
        self.told = Instant::now();
        let (mut clients, all) = (self.room.server().clients(), self.room.blocks());
        clients.retain(|client| client.silent < SILENT);
        let Some(least) = clients.iter().map(|client| client.blocks).min() else {
            if std::mem::take(&mut self.is_told) {
                output::say(&format!("{}: nobody waits for it any more", self.name))?;
            }
            return Ok(());
        };
        self.is_told = true;
        let percent = u64::from(least) * 100 / u64::from(all.max(1));
        let sent = self.room.server().sent();
        let mut line = format!(
            "{}: sent to {}; the last of them has {percent} %; {} sent in all",
            self.name,
            if clients.len() == 1 {
                "one machine".to_owned()
            } else {
                format!("{} machines", clients.len())
            },
            Bytes::new(sent.bytes()),
        );
        if sent.unreadable > 0 {
            line += &format!("; {} blocks CANNOT BE READ: keiki check", sent.unreadable);
        }
        output::say(&line)
    }
}
