//! A simulated machine: the client's own code, with a port, a disk and a fate that are numbers.

use std::collections::VecDeque;

use fastrand::Rng;
use netboot::multicast::blocks::Blocks;
use netboot::multicast::receiver::Receiver;
use netboot::multicast::sender::Train;

use super::Scene;

/// Packets that a switch keeps for a port that is slower than what it gets: 128 KiB.
const QUEUE: f64 = 85.0;

/// A machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Which part of the packets it loses, one by one.
    pub loss: f64,
    /// And of which part of the trains a quarter at once, as where a switch drops everything for 2 ms.
    pub bursts: f64,
    /// Packets with a symbol that its port carries in a second; infinite where that is no limit.
    pub port: f64,
    /// Blocks that its disk takes in a second; infinite where that is no limit.
    pub disk: f64,
    /// When it joins, in seconds.
    pub joins: f64,
    /// When it falls silent for ever, in seconds.
    pub dies: Option<f64>,
    /// When it is started again, in seconds; what its disk had taken it still has.
    pub reboots: Option<f64>,
}

/// A machine that loses nothing, has no slow port or disk and joins at the start.
pub const SOUND: Machine = Machine {
    loss: 0.0,
    bursts: 0.0,
    port: f64::INFINITY,
    disk: f64::INFINITY,
    joins: 0.0,
    dies: None,
    reboots: None,
};

/// A train on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    pub train: Train,
    pub begins: f64,
    pub ends: f64,
}

pub struct Client {
    pub machine: Machine,
    /// Its number.
    pub slot: u16,
    pub receiver: Receiver,
    /// When it joined last.
    pub joined: Option<f64>,
    /// Whether it has left the session of all for the lane.
    pub is_slow: bool,
    /// When each block that is not written yet will be.
    disk: VecDeque<(f64, u32)>,
    pub written: Blocks,
    /// Packets that wait for its port, and when they were counted.
    port: (f64, f64),
    pub done: Option<f64>,
    /// When it speaks next, in nanoseconds.
    pub turn: u64,
}

impl Client {
    pub fn new(machine: &Machine, scene: &Scene, slot: u16, turn: u64) -> Self {
        Self {
            machine: machine.clone(),
            slot,
            receiver: Receiver::new(scene.symbols(), Blocks::none(scene.blocks), scene.room),
            joined: None,
            is_slow: false,
            disk: VecDeque::new(),
            written: Blocks::none(scene.blocks),
            port: (0.0, 0.0),
            done: None,
            turn,
        }
    }

    /// It is started again: what its disk has taken it still has.
    pub fn restart(&mut self, scene: &Scene) {
        self.disk.clear();
        (self.done, self.is_slow) = (None, false);
        self.receiver = Receiver::new(scene.symbols(), self.written.clone(), scene.room);
    }

    /// It leaves the session of all for the lane.
    pub fn leave(&mut self, scene: &Scene, now: f64) {
        (self.is_slow, self.joined) = (true, Some(now));
        self.receiver = Receiver::new(scene.symbols(), self.receiver.has().clone(), scene.room);
    }

    pub fn hears(&self, now: f64) -> bool {
        self.machine.joins <= now && self.machine.dies.is_none_or(|dies| now < dies)
    }

    pub fn is_waited_for(&self) -> bool {
        self.done.is_none() && self.machine.dies.is_none()
    }

    /// What its disk has taken by now.
    pub fn write(&mut self, now: f64) {
        while let Some((_, block)) = self.disk.pop_front_if(|(end, _)| *end <= now) {
            self.written.add(block);
            self.receiver.written();
        }
    }

    /// A train came to an end, of which it gets what is not lost; whether that is anything.
    pub fn take(&mut self, flight: Flight, rng: &mut Rng) -> bool {
        let Flight { train, ends, .. } = flight;
        self.write(ends);
        let all = self.rest(flight);
        let passed = self.pass(all, flight);
        let burst = if rng.f64() < self.machine.bursts { train.count / 4 } else { 0 };
        let left = passed.saturating_sub(burst);
        let came = left - lost(rng, left, self.machine.loss);
        if came == 0 {
            return false;
        }
        self.receiver.hear(train.last(), train.begun, u32::from(came));
        let opens = train.begins && self.receiver.is_early(train.block, u32::from(all));
        if !self.receiver.take(train.block, came, opens) {
            return true;
        }
        let free = self.disk.back().map_or(ends, |(end, _)| end.max(ends));
        let end = free + 1.0 / self.machine.disk;
        self.disk.push_back((end, train.block));
        if self.receiver.has().is_full() {
            self.done = Some(end);
        }
        true
    }

    /// How many packets of a train are sent after it came.
    fn rest(&self, flight: Flight) -> u16 {
        let count = flight.train.count;
        let rate = f64::from(count) / (flight.ends - flight.begins);
        let since = (flight.ends - self.joined.unwrap_or(flight.ends)) * rate;
        count.min(since.round() as u16)
    }

    /// How many of so many packets its port carries, and the queue before it takes.
    fn pass(&mut self, count: u16, flight: Flight) -> u16 {
        let rate = self.machine.port;
        if rate.is_infinite() {
            return count;
        }
        let (waited, since) = self.port;
        let waits = (waited - rate * (flight.begins - since)).max(0.0) + f64::from(count)
            - rate * (flight.ends - flight.begins);
        self.port = (waits.clamp(0.0, QUEUE), flight.ends);
        count.saturating_sub((waits - QUEUE).max(0.0).ceil() as u16)
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
