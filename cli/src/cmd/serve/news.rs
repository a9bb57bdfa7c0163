//! What becomes of machines, told when it changes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use netboot::orders::list::{Known, State};
use netboot::orders::site::Site;

/// How often it is looked.
const PERIOD: Duration = Duration::from_secs(1);

/// What was told last of each machine.
pub struct News {
    told: BTreeMap<String, String>,
    next: Instant,
}

impl News {
    /// What is so now is known, but for failures: a machine may have told of one while the server began, or was not there.
    pub fn new(site: &Site) -> Self {
        let is_other = |known: &Known| !matches!(known.state, State::Failed { .. });
        Self { told: lines(site, is_other), next: Instant::now() }
    }

    /// A line for each machine of which something else is true than before.
    pub fn lines(&mut self, site: &Site) -> Vec<String> {
        if self.next > Instant::now() {
            return Vec::new();
        }
        self.next = Instant::now() + PERIOD;
        let before = std::mem::replace(&mut self.told, lines(site, |_| true));
        let is_new = |(id, line): &(&String, &String)| before.get(*id) != Some(*line);
        self.told.iter().filter(is_new).map(|(_, line)| line.clone()).collect()
    }
}

fn lines(site: &Site, is_meant: impl Fn(&Known) -> bool) -> BTreeMap<String, String> {
    site.look(|list, _| {
        let machines = list.machines().filter(|(_, known)| is_meant(known));
        machines.map(|(id, known)| (id.clone(), line(&list.tag(id), known))).collect()
    })
}

/// `BFDC (lab-01): is restored`.
fn line(tag: &str, known: &Known) -> String {
    let name = known.name().map(|name| format!(" ({name})")).unwrap_or_default();
    if let Some(request) = known.asks() {
        return format!("{tag}{name}: asks to be saved as {}", request.name);
    }
    let what = match &known.state {
        State::Waits => match &known.held {
            Some(why) => format!("waits: {why}"),
            None => "waits for your word".to_owned(),
        },
        State::Called => "may begin".to_owned(),
        State::Works => "has its order".to_owned(),
        State::Done { remains: None, .. } => "is done".to_owned(),
        State::Done { remains: Some(remains), .. } => format!("is done, but {remains}"),
        State::Failed { why } => format!("FAILED: {why}"),
    };
    format!("{tag}{name}: {what}")
}
