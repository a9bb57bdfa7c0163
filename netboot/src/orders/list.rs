//! The machines that a site knows, and what each is told. Pure: who calls has the clock, the sockets and the file.
//!
//! - `bounds` how much is known, and what of that is written down. - `letters` by which people know machines.
//! - `decided` what a person decides. - `later` what he decides for later. - `group` which machines belong together.
//! - `saves` whose disks become an image. - `starts` who starts from its own disk. - `waking` who is switched on.

mod bounds;
mod decided;
mod group;
mod later;
mod letters;
mod saves;
mod starts;
mod waking;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::group::Group;
use self::later::Later;
pub use self::later::Wish;
pub use self::saves::Request;
use self::waking::Waking;
use super::machine::{Disk, Machine};
use super::order::Order;
use super::talk::{Doing, Said};
use crate::rate::Rate;
use crate::secret::{hex, random};

/// Two that say to be one machine within this time are two.
const TOGETHER: Duration = Duration::from_secs(20);
/// What a machine says of itself that is longer is not kept.
const LONGEST: usize = 400;
/// For so long an order may be begun, in seconds: a countdown, and a person who thinks.
const VALID: u64 = 3600;
/// What a machine is told that nobody let in.
const ASKED: &str = "somebody has to say that it may be restored";
/// What one is told that somebody let in, and that is perhaps not the one which he saw.
const OTHERS: &str = "it has other disks than when it was let in; is it the same machine?";

/// What is decided by who has the images.
pub trait Policy: Send + Sync + std::fmt::Debug {
    /// What `machine` gets when it gets `image`, or what is sent where that is none.
    ///
    /// # Errors
    /// It cannot get it, and why, in words: there is no such image, or no disk fits the rules, or several do.
    fn choose(&self, machine: &Machine, image: Option<&str>) -> Result<Choice, String>;

    /// What of `machine` is saved: a choice without an image.
    ///
    /// # Errors
    /// As [`Policy::choose`].
    fn disks(&self, machine: &Machine) -> Result<Choice, String>;

    /// What is known of a machine beforehand, where somebody has written that down.
    fn expected(&self, machine: &Machine) -> Option<Expected>;

    /// The name of a machine that nobody named, which is not one of those that are `taken`.
    fn name(&self, taken: &dyn Fn(&str) -> bool) -> Option<String>;

    /// The groups that are written down, of machines that were heard of or not.
    fn groups(&self) -> BTreeSet<&Group>;

    /// Whether every machine is restored without a person's word.
    fn everyone(&self) -> bool;

    /// The images that a person can choose from.
    fn images(&self) -> Vec<String>;
}

/// A line of somebody's list of machines.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Expected {
    /// The name that it gets.
    pub hostname: Option<String>,
    /// The image, where it is not the one that is sent.
    pub image: Option<String>,
    /// The group that it is in, where nobody has put it into another one.
    pub group: Option<Group>,
    /// Whether it is restored without a person's word.
    pub is_called: bool,
}

/// What a machine gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    /// See [`Order::image`].
    pub image: String,
    /// See [`Order::disks`].
    pub disks: Vec<Disk>,
    /// See [`Order::answers`].
    pub answers: String,
}

/// What is to become of a machine.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing, until somebody says so.
    Waits,
    /// Somebody has said so, and it gets its order when it asks.
    Called,
    /// It has its order.
    Works,
    /// It was restored, and starts from its own disk.
    Done {
        /// The image that it got.
        image: String,
        /// What a person still has to do, if anything.
        remains: Option<String>,
    },
    /// It could not be restored; it waits.
    Failed {
        /// In words.
        why: String,
    },
}

/// A machine, and what is known of it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Known {
    /// What it said last of itself.
    pub machine: Machine,
    /// What is to become of it.
    pub state: State,
    /// Its deployments, this one included.
    pub number: u64,
    /// The name that it gets.
    pub hostname: Option<String>,
    /// The image that it gets, where somebody chose one.
    pub image: Option<String>,
    /// The group that somebody has put it into.
    put: Option<Group>,
    /// The one that is written down for it.
    #[serde(skip)]
    listed: Option<Group>,
    /// What was said for later.
    later: Option<Later>,
    /// What it was told to take and where, once it was.
    pub told: Option<(String, Vec<Disk>)>,
    /// The nonce that its order is for: nobody else's word of how it goes counts.
    ordered: Option<String>,
    /// What that order lets it do at the server, as long as it is at work.
    grant: Option<String>,
    /// The name under which its disks are saved, where it is called or at work for that.
    save: Option<String>,
    /// What somebody at it asked for, until it is saved, or somebody here says no.
    request: Option<Request>,
    /// Why it waits, where that is not for a person's first word.
    pub held: Option<String>,
    /// What it said since this program runs.
    #[serde(skip)]
    pub now: Option<Now>,
    /// Whether anybody or any rule ever decided something of it. What nobody knows is not written down.
    #[serde(skip, default = "bounds::yes")]
    is_decided: bool,
}

/// What a machine said last.
#[derive(Clone, PartialEq, Debug)]
pub struct Now {
    /// Where from.
    pub address: Ipv4Addr,
    /// When.
    pub at: Duration,
    /// What it does.
    pub doing: Doing,
    /// How fast.
    pub rate: Rate,
    nonce: String,
}

/// What a machine is told, before it is signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// To wait, and what for.
    Wait(String),
    /// What to do.
    Do(Box<Order>),
    /// That it was heard.
    Known,
    /// To stop.
    Stop,
    /// To start from its disk: it has this image.
    Start(String),
}

/// All machines, by their ids.
#[derive(Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
pub struct List {
    #[serde(serialize_with = "bounds::decided")]
    machines: BTreeMap<String, Known>,
    /// Who is to be switched on.
    #[serde(skip)]
    waking: Waking,
    /// Whether it is another one than was written down.
    #[serde(skip)]
    changed: bool,
}

impl List {
    /// The machine besides this one that has a name, or gets it: its id.
    pub fn named(&self, name: &str, besides: &str) -> Option<&String> {
        let is_it = |(id, known): &(&String, &Known)| {
            *id != besides && known.name().is_some_and(|own| own == name)
        };
        self.machines.iter().find(is_it).map(|(id, _)| id)
    }

    /// The machine with this id.
    pub fn machine(&self, id: &str) -> Option<&Known> {
        self.machines.get(id)
    }

    /// The machines, by their ids.
    pub fn machines(&self) -> impl Iterator<Item = (&String, &Known)> {
        self.machines.iter()
    }

    /// Whether something changed that has to outlive this program, since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// It could not be written down.
    pub(super) fn changed(&mut self) {
        self.changed = true;
    }

    /// A machine says something, at the time `now`; what it is told.
    pub fn hear(
        &mut self,
        said: Said,
        address: Ipv4Addr,
        now: Duration,
        policy: &dyn Policy,
    ) -> Decision {
        let id = said.machine.id();
        if !self.has_room(&id, &said, now) {
            return Decision::Wait("this site knows too many machines".to_owned());
        }
        let changed = self.changed;
        let decision = self.heard(&id, said, (address, now), policy);
        // What is not written down is none.
        if self.machines.get(&id).is_some_and(|known| !known.is_decided) {
            self.changed = changed;
        }
        match decision {
            Decision::Wait(why) => Decision::Wait(self.with_letters(&id, why)),
            decision => decision,
        }
    }

    fn heard(
        &mut self,
        id: &str,
        said: Said,
        (address, now): (Ipv4Addr, Duration),
        policy: &dyn Policy,
    ) -> Decision {
        let new = || Known::new(said.machine.clone(), policy);
        self.changed |= !self.machines.contains_key(id);
        let known = self.machines.entry(id.to_owned()).or_insert_with(new);
        let other = known
            .now
            .as_ref()
            .filter(|before| before.nonce != said.nonce && before.address != address);
        if other.is_some_and(|before| now.saturating_sub(before.at) < TOGETHER) {
            let why = "two machines say that they are this one; switch one of them off".to_owned();
            self.changed = true;
            // Neither of them begins; one that works already goes on.
            if known.state == State::Called {
                known.state = State::Waits;
            }
            known.held = Some(why.clone());
            return Decision::Wait(why);
        }
        let is_new = known.now.as_ref().is_none_or(|before| before.nonce != said.nonce);
        let is_ordered = known.ordered.as_ref() == Some(&said.nonce);
        let doing = said.doing.shortened();
        let rate = known.rate(&said.nonce, &doing, now);
        let nonce = said.nonce.clone();
        known.now = Some(Now { address, at: now, doing: doing.clone(), rate, nonce });
        // Who asks to be saved shows the disks for that only.
        let before = match doing {
            Doing::Asks { .. } | Doing::AsksNoMore => known.machine.clone(),
            _ => std::mem::replace(&mut known.machine, said.machine.clone()),
        };
        self.changed |= before != known.machine;
        let works = known.state == State::Works;
        match doing {
            Doing::Waits => {
                self.changed |= known.asks().is_some();
                known.request = known.request.take().filter(|_| known.is_agreed());
                return self.asked(id, &said.nonce, is_new.then_some(&before), policy);
            }
            Doing::Asks { name } => {
                let request = Request { name, disks: said.machine.disks };
                return self.requested(id, (&said.nonce, is_new), request, policy);
            }
            Doing::AsksNoMore => self.not_requested(id),
            // Again and again, until it says that it has ended.
            Doing::Works { .. } if is_ordered && !works => return Decision::Stop,
            doing if is_ordered && works && known.save.is_some() => self.saved(id, doing),
            Doing::Done { remains } if is_ordered && works => {
                let image = known.told.as_ref().map_or("", |(image, _)| image).to_owned();
                self.is(id, State::Done { image, remains });
            }
            Doing::Failed { why } if is_ordered && works => self.is(id, State::Failed { why }),
            // Whoever says it has no order of ours, or one that is used up.
            Doing::Works { .. } | Doing::Done { .. } | Doing::Failed { .. } => {}
        }
        Decision::Known
    }

    fn is(&mut self, id: &str, state: State) {
        if let Some(known) = self.machines.get_mut(id).filter(|known| known.state != state) {
            known.state = state;
            known.held = None;
            self.changed = true;
        }
    }

    /// A machine asks what to do; `before` is what it said of itself before it started again.
    fn asked(
        &mut self,
        id: &str,
        nonce: &str,
        before: Option<&Machine>,
        policy: &dyn Policy,
    ) -> Decision {
        let Some(known) = self.machines.get(id) else { return Decision::Known };
        match &known.state {
            State::Done { image: has, .. } => {
                let disks = known.told.as_ref().map_or(&[][..], |(_, disks)| disks);
                if before.is_some() && !known.machine.has(disks) {
                    self.is(id, State::Waits);
                    return self.held(
                        id,
                        "it was restored, and has other disks now; is it the same machine?",
                    );
                }
                let gets = || policy.choose(&known.machine, known.image.as_deref());
                let may = policy.everyone() && known.later.is_none();
                if !(may && gets().is_ok_and(|choice| choice.image != *has)) {
                    return Decision::Start(has.clone());
                }
                self.call(id, None, None);
            }
            State::Waits => {
                if let Some(why) = known.not_now().filter(|_| known.held.is_none()) {
                    let choice = policy.choose(&known.machine, known.image.as_deref());
                    let had = before.zip(choice.ok()).is_none_or(|(had, is)| had.has(&is.disks));
                    return if had { Decision::Wait(why) } else { self.held(id, OTHERS) };
                }
                let expected = policy.expected(&known.machine).unwrap_or_default();
                if !(expected.is_called || policy.everyone()) || known.held.is_some() {
                    let why = || ASKED.to_owned();
                    return Decision::Wait(known.held.clone().unwrap_or_else(why));
                }
                if let Some(why) = self.doubt(id, &expected) {
                    return self.held(id, why);
                }
                self.call(id, expected.hostname, expected.image);
            }
            State::Failed { why } => return Decision::Wait(format!("it was not restored: {why}")),
            State::Called | State::Works => {}
        }
        let Some(known) = self.machines.get(id) else { return Decision::Known };
        let choice = match known.save {
            Some(_) => policy.disks(&known.offered()),
            None => policy.choose(&known.machine, known.image.as_deref()),
        };
        let choice = match choice {
            Ok(choice) => choice,
            Err(why) => return self.held(id, &why),
        };
        let all =
            |disks: &[Disk]| choice.disks.iter().all(|disk| disks.iter().any(|one| one.is(disk)));
        let are_others = match (&known.state, &known.told, before) {
            (State::Works, Some((_, told)), _) => !all(told),
            (_, _, Some(before)) => !all(&before.disks),
            _ => false,
        };
        if are_others {
            self.is(id, State::Waits);
            return self.held(id, OTHERS);
        }
        self.ordered(id, nonce, choice, policy)
    }

    /// Why a machine that nobody was asked about may be one that was restored already.
    fn doubt(&self, id: &str, expected: &Expected) -> Option<&'static str> {
        let machine = &self.machines.get(id)?.machine;
        let has = |disk: &Disk| disk.is_named() && machine.disks.iter().any(|own| own.is(disk));
        let had =
            |known: &Known| known.told.as_ref().is_some_and(|(_, disks)| disks.iter().any(has));
        if self.machines.iter().any(|(other, known)| other != id && had(known)) {
            return Some("one of its disks was restored in another machine; is it the same one?");
        }
        let other = expected.hostname.as_ref().and_then(|name| self.named(name, id));
        other.map(|_| "another machine has the name that it would get")
    }

    fn held(&mut self, id: &str, why: &str) -> Decision {
        if let Some(known) = self.machines.get_mut(id) {
            self.changed |= known.held.as_deref() != Some(why);
            known.held = Some(why.to_owned());
        }
        Decision::Wait(why.to_owned())
    }

    fn ordered(&mut self, id: &str, nonce: &str, choice: Choice, policy: &dyn Policy) -> Decision {
        let taken = |name: &str| self.named(name, id).is_some();
        let Some(known) = self.machines.get(id) else { return Decision::Known };
        let (named, save) = (known.hostname.clone(), known.save.clone());
        let is_restored = save.is_none();
        let named = named.or_else(|| policy.name(&taken).filter(|_| is_restored));
        let grant = match random::<16>() {
            Ok(bytes) => hex(&bytes),
            Err(error) => return self.held(id, &error.to_string()),
        };
        let Some(known) = self.machines.get_mut(id) else { return Decision::Known };
        self.changed = true;
        known.hostname.clone_from(&named);
        if is_restored {
            known.told = Some((choice.image.clone(), choice.disks.clone()));
        }
        (known.ordered, known.state, known.held) = (Some(nonce.to_owned()), State::Works, None);
        known.later = None;
        known.grant = Some(grant.clone());
        Decision::Do(Box::new(Order {
            machine: id.to_owned(),
            nonce: nonce.to_owned(),
            seconds: VALID,
            number: known.number,
            image: if is_restored { choice.image } else { String::new() },
            disks: choice.disks,
            answers: choice.answers,
            hostname: named.filter(|_| is_restored),
            save,
            grant,
        }))
    }
}

impl Known {
    fn new(machine: Machine, policy: &dyn Policy) -> Self {
        let expected = policy.expected(&machine);
        let Expected { hostname, group: listed, .. } = expected.clone().unwrap_or_default();
        Self {
            machine,
            state: State::Waits,
            // One that was forgotten and comes again has no number that it had before.
            number: fastrand::u64(..1 << 40),
            hostname,
            image: None,
            put: None,
            listed,
            later: None,
            told: None,
            ordered: None,
            grant: None,
            save: None,
            request: None,
            held: None,
            now: None,
            is_decided: expected.is_some(),
        }
    }

    /// How fast it does what it does, where it begins with `doing` or goes on with it.
    fn rate(&self, nonce: &str, doing: &Doing, now: Duration) -> Rate {
        let Doing::Works { stage, done, .. } = doing else { return Rate::default() };
        let is_on = |before: &&Now| {
            let is_same = matches!(&before.doing, Doing::Works { stage: had, .. } if had == stage);
            is_same && before.nonce == nonce
        };
        let mut rate =
            self.now.as_ref().filter(is_on).map_or_else(Rate::default, |on| on.rate.clone());
        rate.note(*done, now);
        rate
    }
}

impl Machine {
    fn has(&self, disks: &[Disk]) -> bool {
        disks.iter().all(|disk| self.disks.iter().any(|own| own.is(disk)))
    }
}

impl Doing {
    /// With no more words than a person reads, and nothing that moves a cursor.
    fn shortened(self) -> Self {
        let seen = |letter: char| if letter.is_control() { ' ' } else { letter };
        let short = |text: String| text.chars().take(LONGEST).map(seen).collect();
        match self {
            Self::Waits | Self::Asks { .. } | Self::AsksNoMore => self,
            Self::Works { stage, done, total, note } => {
                Self::Works { stage: short(stage), done, total, note: note.map(short) }
            }
            Self::Done { remains } => Self::Done { remains: remains.map(short) },
            Self::Failed { why } => Self::Failed { why: short(why) },
        }
    }
}

#[cfg(test)]
mod tests;
