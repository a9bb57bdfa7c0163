//! A room of simulated machines that are restored by multicast: the server's and the clients' own code, with a network, disks
//! and a clock that are numbers.
//!
//! Symbols are not sent one by one but by the train: what of it a client loses is drawn for all of it. So ten thousand
//! clients take seconds.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use netboot::multicast::blocks::Blocks;
use netboot::multicast::gather::Gather;
use netboot::multicast::receiver::{Receiver, URGENT};
use netboot::multicast::sender::{Next, Sender, Train};
use netboot::multicast::symbols;

/// How often the server says what it has sent where it sends nothing, in seconds.
const PLAN: f64 = 0.05;
/// A client that has everything speaks so often, in seconds.
const KEEP_ALIVE: f64 = 2.0;
/// Seconds after which a scene is taken for one that does not end.
const ENDLESS: f64 = 3600.0;

/// A machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Which part of the packets it loses, one by one.
    pub loss: f64,
    /// And of which part of the trains a quarter at once, as where a switch drops everything for 2 ms.
    pub bursts: f64,
    /// Blocks that its disk takes in a second; infinite where that is no limit.
    pub disk: f64,
    /// When it joins, in seconds.
    pub joins: f64,
    /// When it falls silent for ever, in seconds.
    pub dies: Option<f64>,
    /// When it is started again, in seconds; what its disk had taken it still has.
    pub reboots: Option<f64>,
}

/// A machine that loses nothing, has no slow disk and joins at the start.
pub const SOUND: Machine =
    Machine { loss: 0.0, bursts: 0.0, disk: f64::INFINITY, joins: 0.0, dies: None, reboots: None };

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
    /// An image of so many MiB at 1 Gbit/s; packets have 1,514 bytes, with 24 more between them on the wire.
    pub fn gigabit(blocks: u32) -> Self {
        Self { blocks, rate: 1e9 / 8.0 / 1538.0, room: 256, seed: 7, gathers: false }
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
        match room.gather.next(Duration::from_secs_f64(room.now), &mut room.sender) {
            Next::Send(train) => room.send(train),
            Next::Wait(until) => room.pass(until.as_secs_f64()),
            Next::Idle => room.pass(room.now + PLAN),
        }
    }
    let ideal = scene.ideal();
    let times = room.clients.iter().map(|c| Some((c.done? - c.machine.joins) / ideal));
    Outcome {
        sent: room.sent / (scene.rate * ideal),
        times: times.collect(),
        reports: room.reports / room.now,
    }
}

struct Client {
    machine: Machine,
    receiver: Receiver,
    has_joined: bool,
    /// When each block that is not written yet will be.
    disk: VecDeque<(f64, u32)>,
    written: Blocks,
    done: Option<f64>,
    /// When it speaks next, in nanoseconds.
    turn: u64,
}

impl Client {
    fn hears(&self, now: f64) -> bool {
        self.machine.joins <= now && self.machine.dies.is_none_or(|dies| now < dies)
    }

    /// How many packets of a train of `count` that ends now are sent after it came.
    fn rest(&self, count: u16, now: f64, rate: f64) -> u16 {
        if self.has_joined { count } else { count.min(((now - self.machine.joins) * rate) as u16) }
    }

    fn is_waited_for(&self) -> bool {
        self.done.is_none() && self.machine.dies.is_none()
    }

    /// What its disk has taken by now.
    fn write(&mut self, now: f64) {
        while let Some((_, block)) = self.disk.pop_front_if(|(end, _)| *end <= now) {
            self.written.add(block);
            self.receiver.written();
        }
    }

    fn take(&mut self, train: Train, (all, came): (u16, u16), now: f64) {
        let opens = train.begins && self.receiver.is_early(train.block, u32::from(all));
        if !self.receiver.take(train.block, came, opens) {
            return;
        }
        let free = self.disk.back().map_or(now, |(end, _)| end.max(now));
        let end = free + 1.0 / self.machine.disk;
        self.disk.push_back((end, train.block));
        if self.receiver.has().is_full() {
            self.done = Some(end);
        }
    }
}

struct Room<'a> {
    scene: &'a Scene,
    symbols: Vec<u16>,
    sender: Sender,
    gather: Gather,
    clients: Vec<Client>,
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
        let symbols = vec![symbols::source(1 << 20); scene.blocks as usize];
        let client = |machine: &Machine| Client {
            machine: machine.clone(),
            receiver: Receiver::new(symbols.clone(), Blocks::none(scene.blocks), scene.room),
            has_joined: false,
            disk: VecDeque::new(),
            written: Blocks::none(scene.blocks),
            done: None,
            turn: nanos(machine.joins),
        };
        let turns = machines.iter().enumerate().map(|(at, m)| Reverse((nanos(m.joins), at)));
        Self {
            scene,
            sender: Sender::new(symbols.clone()),
            gather: Gather::default(),
            clients: machines.iter().map(client).collect(),
            turns: turns.collect(),
            symbols,
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
            let Some(client) = self.clients.get_mut(number) else { continue };
            // It spoke meanwhile.
            if client.turn != turn {
                continue;
            }
            let at = Duration::from_nanos(turn);
            let now = at.as_secs_f64();
            let period = self.sender.period().as_secs_f64();
            let slot = u16::try_from(number).unwrap_or(u16::MAX);
            let restarts = client.machine.reboots.take_if(|when| *when <= now);
            client.write(now);
            let wait = if !client.has_joined || restarts.is_some() {
                client.has_joined = true;
                if restarts.is_some() {
                    client.disk.clear();
                    client.done = None;
                    let (symbols, has) = (self.symbols.clone(), client.written.clone());
                    client.receiver = Receiver::new(symbols, has, self.scene.room);
                }
                if self.scene.gathers {
                    self.gather.expect(at, self.sender.is_idle());
                }
                self.sender.join(slot, client.written.clone(), self.scene.room, at);
                period * self.rng.f64()
            } else if client.hears(now) {
                let status = client.receiver.status();
                self.reports += 1.0;
                if self.rng.f64() >= client.machine.loss {
                    self.sender.hear(slot, &status, at);
                }
                // It fetches the rest, elsewhere.
                if client.receiver.loses_most() {
                    self.sender.leave(slot);
                    client.machine.dies = Some(now);
                }
                if client.done.is_some() { period.max(KEEP_ALIVE) } else { period }
            } else {
                continue;
            };
            client.turn = turn + nanos(wait).max(1);
            self.turns.push(Reverse((client.turn, number)));
        }
    }

    /// What the server says at times, besides blocks.
    fn plan(&mut self) {
        if self.now < self.plan {
            return;
        }
        self.plan = self.now + PLAN;
        self.sender.look_at_losses();
        for client in self.clients.iter_mut().filter(|client| client.hears(self.now)) {
            if self.rng.f64() >= client.machine.loss {
                client.receiver.hear(self.sender.sequence(), self.sender.begun(), 0);
            }
        }
    }

    fn send(&mut self, train: Train) {
        self.sent += f64::from(train.count);
        self.now += f64::from(train.count) / self.scene.rate;
        for (number, client) in self.clients.iter_mut().enumerate() {
            if !client.hears(self.now) || client.done.is_some() {
                continue;
            }
            client.write(self.now);
            let burst = if self.rng.f64() < client.machine.bursts { train.count / 4 } else { 0 };
            let all = client.rest(train.count, self.now, self.scene.rate);
            let left = all.saturating_sub(burst);
            let came = left - lost(&mut self.rng, left, client.machine.loss);
            client.receiver.hear(train.last(), train.begun, u32::from(came));
            client.take(train, (all, came), self.now);
            if !train.begins && client.receiver.has_part(train.block) {
                let soon = nanos(self.now + URGENT.as_secs_f64() * self.rng.f64());
                if soon < client.turn {
                    client.turn = soon;
                    self.turns.push(Reverse((soon, number)));
                }
            }
        }
    }

    /// Lets time pass until `until`, or until somebody speaks.
    fn pass(&mut self, until: f64) {
        let next = self.turns.peek().map_or(until, |Reverse((at, _))| *at as f64 / 1e9);
        self.now = until.min(next).min(self.plan).max(self.now + 1e-6);
    }
}

/// How many of `count` packets are lost, each with probability `p`.
fn lost(rng: &mut Rng, count: u16, p: f64) -> u16 {
    if p <= 0.0 {
        return 0;
    }
    // From one that is lost to the next: a geometric distribution.
    let (mut at, mut lost) = (0.0, 0);
    loop {
        at += ((1.0 - rng.f64()).ln() / (1.0 - p).ln()).floor() + 1.0;
        if at > f64::from(count) {
            return lost;
        }
        lost += 1;
    }
}
