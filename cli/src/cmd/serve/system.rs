//! What machines boot from here: made once, and told by each network where to go on.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use bytes::Bytes;
use image_core::exec::real::Machine;
use image_core::report::{Report, Stage};
use live_iso::boot::{Boot, Settings};
use live_iso::tree::Tree;
use live_iso::{net, packages};
use netboot::files::Files;
use netboot::orders::site::Site;
use tempfile::TempDir;

use super::room;
use crate::args::iso::Packages;
use crate::args::serve::Serve;
use crate::cmd::iso::{cache, tree, unless_interrupted};
use crate::output::progress::Progress;

/// What a person does who has no internet here.
const FETCHED: &str = "what machines boot is fetched from the distribution. Where there is no internet, run \
                       `keiki serve --prepare` before, as the same user where there is; it is kept";

/// What machines boot.
pub struct System {
    tree: Tree,
    grub: Tree,
    boot: Boot,
    settings: Settings,
    /// What was made last by each name: most of it is the same in all networks, and in memory once.
    made: BTreeMap<String, Bytes>,
    _work: TempDir,
}

impl System {
    /// Makes it; machines wait for the word of `site`, where there is one.
    ///
    /// # Errors
    /// A tool fails, a package is missing, there is no internet.
    pub fn make(args: &Serve, site: Option<&Site>, progress: &Progress) -> Result<Self> {
        unless_interrupted(Self::made(args, site, progress), progress)
    }

    fn made(args: &Serve, site: Option<&Site>, progress: &Progress) -> Result<Self> {
        let made = tree(args.packages, args.system.keymap.as_deref(), progress);
        let made = made.map_err(|error| match args.packages {
            Packages::Download => error.context(FETCHED),
            _ => error,
        });
        let tree = made?.context("no packages")?;
        let cache = cache()?;
        let grub = packages::network_grub(&Machine, &tree, &cache, progress)?;
        progress.checkpoint()?;
        progress.stage(Stage::Build, None);
        let keiki = std::env::current_exe().context("cannot find this program's own file")?;
        let work = tempfile::tempdir().context("cannot write to the folder for temporary files")?;
        let profile = (&tree, args.system.profile.into());
        let boot = Boot::make(&Machine, profile, &keiki, &cache, work.path(), progress)?;
        let settings = Settings {
            keymap: args.system.keymap.clone(),
            console: args.system.console,
            site: site.map(Site::public),
            ..Settings::default()
        };
        Ok(Self { tree, grub, boot, settings, made: BTreeMap::new(), _work: work })
    }

    /// What machines fetch from the server with this address.
    ///
    /// # Errors
    /// A tool fails.
    pub fn files(&mut self, server: Ipv4Addr, progress: &Progress) -> Result<Files> {
        let url = self.settings.site.is_some().then(|| room::url(server));
        let settings = Settings { server: url, ..self.settings.clone() };
        let trees = (&self.tree, &self.grub);
        let mut files = Files::default();
        for (name, bytes) in
            net::files(&Machine, trees, &self.boot, &settings, &server.to_string())?
        {
            let same = self.made.get(&name).filter(|same| **same == bytes).cloned();
            let bytes = same.unwrap_or_else(|| bytes.into());
            files.add(&name, bytes.clone());
            self.made.insert(name, bytes);
        }
        progress.checkpoint()?;
        Ok(files)
    }
}
