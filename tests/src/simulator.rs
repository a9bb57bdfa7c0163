//! A room of simulated machines that are restored by multicast: the server's and the clients' own code, with a network, disks
//! and a clock that are numbers.
//!
//! Symbols are not sent one by one but by the train: what of it a client loses is drawn for all of it. So ten thousand
//! clients take seconds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use fastrand::Rng;
use netboot::multicast::gather::Gather;
use netboot::multicast::rate::Rate;
use netboot::multicast::receiver::URGENT;
use netboot::multicast::sender::{Next, Sender};
use netboot::multicast::symbols;

mod client;

use client::{Client, Flight};
pub use client::{Machine, SOUND};

/// How often the server says what it has sent, in seconds.
const PLAN: f64 = 0.05;
/// Seconds after which a scene is taken for one that does not end.
const ENDLESS: f64 = 3600.0;
/// Bytes of a packet with a symbol and 24 more between them on the wire.
const WIRE: f64 = 1538.0;

/// An image and a network.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Blocks of 1 MiB of the image.
    pub blocks: u32,
    /// Packets with a symbol that the network carries in a second.
    pub rate: f64,
    /// Blocks for which a client has memory.
    pub room: u32,
    /// What is drawn depends on it alone.
    pub seed: u64,
    /// Whether the first block waits for those who come together, as it does in a server.
    pub gathers: bool,
}

impl Scene {
    /// An image of so many MiB at 1 Gbit/s.
    pub fn gigabit(blocks: u32) -> Self {
        Self { blocks, rate: 1e9 / 8.0 / WIRE, room: 64, seed: 7, gathers: false }
    }

    /// How many symbols each block has.
    fn symbols(&self) -> Vec<u16> {
        vec![symbols::source(1 << 20); self.blocks as usize]
    }

    /// Seconds that the image takes where nothing is lost.
    pub fn ideal(&self) -> f64 {
        f64::from(self.blocks) * f64::from(symbols::source(1 << 20)) / self.rate
    }
}

/// What became of a scene.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Symbols that were sent, of those that the image has.
    pub sent: f64,
    /// For each machine the time from when it joined until its disk had everything, in ideal times; none where it never had.
    pub times: Vec<Option<f64>>,
    /// Reports of clients in a second.
    pub reports: f64,
}

impl Outcome {
    /// Median, 99th of hundred and worst of the times of some machines; infinite where one never was done.
    pub fn times(&self, machines: std::ops::Range<usize>) -> [f64; 3] {
        let some = self.times.get(machines).unwrap_or_default();
        let mut some: Vec<f64> = some.iter().map(|time| time.unwrap_or(f64::INFINITY)).collect();
        some.sort_by(f64::total_cmp);
        let last = some.len().saturating_sub(1);
        [last / 2, last * 99 / 100, last].map(|at| some.get(at).copied().unwrap_or(f64::INFINITY))
    }
}

/// Plays a scene until every machine that lives has everything.
pub fn play(scene: &Scene, machines: &[Machine]) -> Outcome {
    let mut room = Room::new(scene, machines);
    while room.now < ENDLESS && room.clients.iter().any(Client::is_waited_for) {
        room.speak();
        room.plan();
        room.begin();
        room.pass();
    }
    let ideal = scene.ideal();
    let times = room.clients.iter().map(|c| Some((c.done? - c.machine.joins) / ideal));
    Outcome {
        sent: room.sent / (scene.rate * ideal),
        times: times.collect(),
        reports: room.reports / room.now,
    }
}

/// A session of the server.
struct Session {
    sender: Sender,
    gather: Gather,
    rate: Rate,
    /// What is on the wire; otherwise when it is asked again.
    flight: Option<Flight>,
    wakes: f64,
}

impl Session {
    fn new(scene: &Scene, rate: Rate) -> Self {
        let (sender, gather) = (Sender::new(scene.symbols()), Gather::default());
        Self { sender, gather, rate, flight: None, wakes: 0.0 }
    }

    /// Packets of a second.
    fn speed(&self) -> f64 {
        self.rate.get() as f64 / WIRE
    }
}

struct Room<'a> {
    scene: &'a Scene,
    all: Session,
    lane: Session,
    clients: Vec<Client>,
    next_slot: usize,
    /// Who speaks when: nanoseconds, client.
    turns: BinaryHeap<Reverse<(u64, usize)>>,
    now: f64,
    plan: f64,
    sent: f64,
    reports: f64,
    rng: Rng,
}

/// Seconds in nanoseconds.
fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

impl<'a> Room<'a> {
    fn new(scene: &'a Scene, machines: &[Machine]) -> Self {
        let clients =
            (0..).zip(machines).map(|(slot, m)| Client::new(m, scene, slot, nanos(m.joins)));
        let turns = machines.iter().enumerate().map(|(at, m)| Reverse((nanos(m.joins), at)));
        let cable = (scene.rate * WIRE).round() as u64;
        Self {
            scene,
            all: Session::new(scene, Rate::session(cable)),
            lane: Session::new(scene, Rate::lane(cable)),
            clients: clients.collect(),
            next_slot: machines.len(),
            turns: turns.collect(),
            now: 0.0,
            plan: 0.0,
            sent: 0.0,
            reports: 0.0,
            rng: Rng::with_seed(scene.seed),
        }
    }

    /// Lets those speak whose turn it is.
    fn speak(&mut self) {
        while let Some(Reverse((turn, number))) = self.turns.peek().copied() {
            if turn > nanos(self.now) {
                return;
            }
            self.turns.pop();
            // Otherwise it spoke meanwhile.
            if self.clients.get(number).is_some_and(|client| client.turn == turn)
                && let Some(wait) = self.turn(number, Duration::from_nanos(turn))
                && let Some(client) = self.clients.get_mut(number)
            {
                client.turn = turn + nanos(wait).max(1);
                self.turns.push(Reverse((client.turn, number)));
            }
        }
    }

    /// A client speaks, and does so again after so many seconds; never, where it is dead.
    fn turn(&mut self, number: usize, at: Duration) -> Option<f64> {
        let client = self.clients.get_mut(number)?;
        let now = at.as_secs_f64();
        let restarts = client.machine.reboots.take_if(|when| *when <= now).is_some();
        client.write(now);
        if client.joined.is_none() || restarts {
            client.joined = Some(now);
            if restarts {
                // Nobody knows that it is the same one.
                client.slot = u16::try_from(self.next_slot).unwrap_or(u16::MAX);
                self.next_slot += 1;
                client.restart(self.scene);
            }
            if self.scene.gathers {
                self.all.gather.expect(at, self.all.sender.is_idle());
            }
            self.all.sender.join(client.slot, client.written.clone(), self.scene.room, at);
            return Some(self.all.sender.period().as_secs_f64() * self.rng.f64());
        }
        if !client.hears(now) {
            return None;
        }
        let session = if client.is_slow { &mut self.lane } else { &mut self.all };
        let status = client.receiver.status(at);
        self.reports += 1.0;
        if self.rng.f64() >= client.machine.loss {
            session.sender.hear(client.slot, &status, at);
        }
        if client.receiver.has().is_full() {
            session.sender.leave(client.slot);
            return None;
        }
        if client.receiver.loses_most() {
            session.sender.leave(client.slot);
            if client.is_slow {
                // It fetches the rest, elsewhere.
                client.machine.dies = Some(now);
            } else {
                client.leave(self.scene, now);
                let has = client.receiver.has().clone();
                self.lane.gather.expect(at, self.lane.sender.is_idle());
                self.lane.sender.join(client.slot, has, self.scene.room, at);
            }
        }
        let session = if client.is_slow { &self.lane } else { &self.all };
        Some(session.sender.period().as_secs_f64())
    }

    /// What the server says at times, besides blocks.
    fn plan(&mut self) {
        if self.now < self.plan {
            return;
        }
        self.plan = self.now + PLAN;
        let at = Duration::from_secs_f64(self.now);
        for session in [&mut self.all, &mut self.lane] {
            session.sender.look_at_losses();
            let losses = (session.sender.usual_loss(), session.sender.common_loss());
            session.rate.hear(losses, at);
        }
        for client in self.clients.iter_mut().filter(|client| client.hears(self.now)) {
            let session = if client.is_slow { &self.lane } else { &self.all };
            // What is on the wire did not come yet.
            if session.flight.is_none() && self.rng.f64() >= client.machine.loss {
                client.receiver.hear(session.sender.sequence(), session.sender.begun(), 0);
            }
        }
    }

    /// Each session begins what is to be sent next, where nothing of it is on the wire. They share the cable.
    fn begin(&mut self) {
        let (now, at) = (self.now, Duration::from_secs_f64(self.now));
        let mut taken = 0.0;
        for session in [&mut self.lane, &mut self.all] {
            let speed = session.speed().min(self.scene.rate - taken);
            if session.flight.is_none() {
                match session.gather.next(at, &mut session.sender) {
                    Next::Send(train) => {
                        self.sent += f64::from(train.count);
                        let ends = now + f64::from(train.count) / speed;
                        session.flight = Some(Flight { train, begins: now, ends });
                    }
                    Next::Wait(until) => session.wakes = until.as_secs_f64(),
                    Next::Idle => session.wakes = now + PLAN,
                }
            }
            if session.flight.is_some() {
                taken += speed;
            }
        }
    }

    /// Lets time pass until something happens.
    fn pass(&mut self) {
        // In the middle of that nanosecond: a number of seconds is not exact.
        let turn = self.turns.peek().map(|Reverse((at, _))| (*at as f64 + 0.5) / 1e9);
        let sessions = [&self.all, &self.lane];
        let next = sessions.map(|one| one.flight.map_or(one.wakes, |flight| flight.ends));
        self.now = next.into_iter().chain(turn).fold(self.plan, f64::min).max(self.now);
        for is_slow in [false, true] {
            let session = if is_slow { &mut self.lane } else { &mut self.all };
            if let Some(flight) = session.flight.take_if(|flight| flight.ends <= self.now) {
                self.arrive(flight, is_slow);
            }
        }
    }

    fn arrive(&mut self, flight: Flight, is_slow: bool) {
        for (number, client) in self.clients.iter_mut().enumerate() {
            let is_there = client.hears(flight.ends) && client.done.is_none();
            if !is_there || client.is_slow != is_slow {
                continue;
            }
            let came = client.take(flight, &mut self.rng);
            if came && !flight.train.begins && client.receiver.has_part(flight.train.block) {
                let soon = nanos(flight.ends + URGENT.as_secs_f64() * self.rng.f64());
                if soon < client.turn {
                    client.turn = soon;
                    self.turns.push(Reverse((soon, number)));
                }
            }
        }
    }
}
