//! The image that `keiki serve` sends.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use image_core::error::Error;
use image_core::repo::{ImageInfo, Local, Repository};
use image_core::report::Report;
use image_core::units::Bytes;
use live_iso::net;
use netboot::files::Files;
use netboot::interface::Interface;
use netboot::multicast::pace::Pace;
use netboot::orders::door::Door;
use netboot::orders::site::Site;
use netboot::room::guests::Guests;
use netboot::room::rooms::{Rooms, Sent};
use netboot::room::server::Room;

use super::super::{location, open_or_create, repository};
use super::link::Link;
use crate::args::Global;
use crate::args::serve::Serve;
use crate::exit::Exit;
use crate::network::REPOSITORY;
use crate::output::{self, progress::Progress};

/// What the cable carries, where nothing else is known; machines seldom have faster ones.
const USUAL: u64 = 1000;

/// How often it is told how far the machines are.
const TOLD: Duration = Duration::from_secs(10);

/// Where clients find the repository of the server with this address.
pub fn url(server: Ipv4Addr) -> String {
    format!("http://{server}/{REPOSITORY}")
}

/// The images that are sent.
pub struct Sending {
    /// The one that always is.
    image: Option<String>,
    /// The rooms in each network, which has the name of its interface.
    pub rooms: Vec<(String, Arc<Rooms>)>,
    told: Instant,
    /// Images of which it was told how far machines are.
    is_told: BTreeSet<String>,
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

    /// What lets machines save there by orders of `site`, and others fetch only with its code where it is private.
    ///
    /// # Errors
    /// The code cannot be kept.
    pub fn guard(&self, args: &Serve, site: &Arc<Site>) -> Result<Guard> {
        let local = Arc::new(Local::new(&self.folder));
        let guests = Arc::new(Guests::new(local, site.clone()));
        let door = args.private.then(|| Door::open(&args.state, Arc::clone(site)));
        Ok(Guard { guests, door: door.transpose()?.map(Arc::new) })
    }

    /// Rooms for its images in each network; the one that is always sent has its room from now on.
    ///
    /// # Errors
    /// The image is damaged.
    pub fn send(&self, links: &[Link], progress: &Progress) -> Result<Sending> {
        let mut all = Vec::new();
        for link in links {
            let rooms = Arc::new(Rooms::new(self.repo.clone(), link.way()));
            self.image.as_ref().map_or(Ok(()), |image| rooms.open(image, progress))?;
            all.push((link.interface.name.clone(), rooms));
        }
        // With its id: machines that come later get the same, whatever is saved meanwhile.
        let image = self.image.as_ref().map(output::image);
        Ok(Sending { image, rooms: all, told: Instant::now(), is_told: BTreeSet::new() })
    }

    /// Adds the repository to what is served in one of these networks, with its rooms there.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn add(&self, sending: &Sending, at: usize, files: &mut Files) -> Result<()> {
        files.add_folder(REPOSITORY, &self.folder)?;
        if let Some((_, rooms)) = sending.rooms.get(at) {
            files.add_answers(REPOSITORY, rooms.clone());
        }
        Ok(())
    }
}

/// Who may write into the repository, and read from it.
pub struct Guard {
    guests: Arc<Guests>,
    door: Option<Arc<Door>>,
}

impl Guard {
    /// What a person types, where it is private.
    pub fn code(&self) -> Option<&str> {
        self.door.as_ref().map(|door| door.code())
    }

    /// Guards the repository in what is served.
    pub fn add(&self, files: &mut Files) {
        files.add_takes(REPOSITORY, self.guests.clone());
        if let Some(door) = &self.door {
            files.add_door(REPOSITORY, door.clone());
        }
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

/// How fast may be sent by multicast, in bytes of a second.
pub fn rate(args: &Serve, interface: &Interface) -> u64 {
    let rate = args.rate.unwrap_or_else(|| speed(interface) * 95 / 100);
    rate.saturating_mul(1_000_000 / 8)
}

/// What the interface carries, in Mbit/s; at most what machines usually have.
fn speed(interface: &Interface) -> u64 {
    let told = fs::read_to_string(format!("/sys/class/net/{}/speed", interface.name));
    let speed = told.ok().and_then(|told| told.trim().parse().ok()).filter(|speed| *speed > 0);
    speed.unwrap_or(USUAL).min(USUAL)
}

impl Sending {
    /// How a machine restores the image that is always sent, where there is one.
    pub fn how(&self, interface: &Interface) -> Option<String> {
        let name = self.image.as_ref()?;
        Some(format!("keiki --repo {} restore {name} DISK", url(interface.address)))
    }

    fn all(&self) -> impl Iterator<Item = &Rooms> {
        self.rooms.iter().map(|(_, rooms)| rooms.as_ref())
    }

    /// What the program ends with: some machines got nothing of what could not be read.
    pub fn exit(&self) -> Exit {
        if self.all().any(|rooms| rooms.unreadable() > 0) { Exit::Damaged } else { Exit::Done }
    }

    /// The rooms that are open; images are told by network where there are several.
    fn sent(&self) -> Vec<Sent> {
        let is_one = self.rooms.len() == 1;
        let of = |(interface, rooms): &(String, Arc<Rooms>)| {
            let told = |(name, room)| match is_one {
                true => (name, room),
                false => (format!("{name} on {interface}"), room),
            };
            rooms.sent().into_iter().map(told).collect::<Vec<_>>()
        };
        self.rooms.iter().flat_map(of).collect()
    }

    /// Looks after the rooms. Says how far the machines are, now and then, where there are any and it is `shown`.
    ///
    /// # Errors
    /// Standard output is closed; nothing is sent any more.
    pub fn tell(&mut self, shown: bool, progress: &Progress) -> Result<()> {
        let news: BTreeSet<String> = self.all().flat_map(Rooms::news).collect();
        news.iter().for_each(|told| progress.warning(told));
        let sent = self.sent();
        if sent.iter().any(|(_, room)| room.has_ended()) {
            bail!("nothing is sent any more: a part of this program failed, and said why");
        }
        if self.told.elapsed() < TOLD {
            return Ok(());
        }
        self.told = Instant::now();
        self.all().for_each(|rooms| rooms.close_idle(self.told));
        if !shown {
            return Ok(());
        }
        for (name, room) in sent {
            match line(&name, &room) {
                Some(line) => {
                    self.is_told.insert(name);
                    output::say(&line)?;
                }
                None if self.is_told.remove(&name) => {
                    output::say(&format!("{name}: nobody waits for it any more"))?;
                }
                None => {}
            }
        }
        Ok(())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.all().for_each(Rooms::close);
    }
}

/// How far the machines in a room are; none where there are none.
fn line(name: &str, room: &Room) -> Option<String> {
    let clients = room.clients();
    let least = clients.iter().map(|client| client.blocks).min()?;
    let percent = u64::from(least) * 100 / u64::from(room.blocks().max(1));
    let machines = match clients.len() {
        1 => "one machine".to_owned(),
        count => format!("{count} machines"),
    };
    let sent = room.sent();
    let mut line = format!(
        "{name}: sent to {machines}; the last of them has {percent} %; {} sent in all",
        Bytes::new(sent.bytes()),
    );
    if sent.unreadable > 0 {
        line += &format!("; {} blocks CANNOT BE READ: keiki check", sent.unreadable);
    }
    Some(line)
}
