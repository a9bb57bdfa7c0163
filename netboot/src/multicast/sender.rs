//! What the server sends next: a carousel of blocks in the order of the disk, and parity for those who lost symbols.
//!
//! Nobody is waited for: a client that is slow, dead or late only changes what is still worth sending. Time is input, and
//! nothing here knows a socket.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::blocks::Blocks;
use super::status::Status;
use super::symbols::parity;

/// How many reports are taken in a second, and how often a client speaks at most.
const REPORTS: u32 = 8000;
const SHORTEST_PERIOD: Duration = Duration::from_millis(50);
/// A client that is silent for so many periods no longer counts, but for so long at least, and so long at most: until then
/// blocks that it lacks wait for its report, and those who come late wait for these blocks.
const SILENT: u32 = 20;
const LEAST_SILENT: Duration = Duration::from_secs(1);
const MOST_SILENT: Duration = Duration::from_secs(10);
/// After so long it is forgotten: it has to join again.
const GONE: Duration = Duration::from_secs(600);
/// Feedback periods from the last symbol of a block until what it still lacks is decided on.
const PATIENCE: f64 = 1.2;
/// But so long at most: where there are more clients than can speak in that time, those who did speak for the others.
const MOST_PATIENCE: Duration = Duration::from_millis(200);
/// How often half as long again is waited for some who have not spoken since.
const GRACE: u32 = 2;
/// A client that loses more than this, and far more than the others, is helped late: when there is nothing else to do, or most wait for that.
const MUCH_LOSS: f32 = 0.08;
/// What so many times as many lack is worth more than the next block.
const MANY: u32 = 8;

/// Symbols of one block, sent one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Train {
    /// The block.
    pub block: u32,
    /// The first symbol; those from the number of source symbols on are parity.
    pub first: u16,
    /// How many symbols; behind the last parity symbol comes the first source symbol again.
    pub count: u16,
    /// Whether it is for everybody, so that it is worth to begin with the block; otherwise it is for those who have a part of it.
    pub begins: bool,
    /// Sequence number of the first packet.
    pub sequence: u32,
    /// How many times a block was begun before this one, and with it.
    pub begun: u32,
}

impl Train {
    /// The sequence number of its last packet.
    pub fn last(&self) -> u32 {
        self.sequence.wrapping_add(u32::from(self.count)).wrapping_sub(1)
    }
}

/// A client as the server sees it.
#[derive(Clone, PartialEq, Debug)]
pub struct Seen {
    /// Its number.
    pub slot: u16,
    /// Where it spoke from, where that is known.
    pub address: Option<Ipv4Addr>,
    /// Blocks that it has.
    pub blocks: u32,
    /// Which part of the packets it loses.
    pub loss: f32,
    /// How long ago it spoke.
    pub silent: Duration,
    /// For how many blocks it has memory in which none waits for its disk, where it said so.
    pub spare: Option<f32>,
    /// Whether it is in a lane.
    pub is_slow: bool,
}

/// What to do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Send this.
    Send(Train),
    /// Nothing until then, unless somebody speaks.
    Wait(Duration),
    /// Nobody lacks anything.
    Idle,
}

#[derive(Debug)]
struct Peer {
    has: Blocks,
    heard: Duration,
    /// The last packet that it had seen when it spoke.
    seen: u32,
    /// Symbols that it lacks of the blocks that it has a part of.
    deficits: BTreeMap<u32, u16>,
    /// None until something was sent since it joined.
    loss: Option<f32>,
    /// Up to which block that is begun it has room.
    until: u32,
    spare: Option<f32>,
    is_counted: bool,
}

impl Peer {
    fn loss(&self) -> f32 {
        self.loss.unwrap_or_default()
    }

    /// Whether it can begin with one that is begun as the `next`.
    fn has_room(&self, next: u32) -> bool {
        self.until.wrapping_sub(next) < u32::MAX / 2
    }
}

#[derive(Debug)]
struct Repair {
    /// The last packet of it.
    last: u32,
    due: Duration,
    /// How often it was put off.
    waited: u32,
    /// Whether parity was sent already.
    is_repaired: bool,
}

/// The state of a session.
#[derive(Debug)]
pub struct Sender {
    symbols: Vec<u16>,
    peers: BTreeMap<u16, Peer>,
    /// The next symbol of each block. Any `k` different ones make it whole, so they come in turn, source and parity.
    symbol: Vec<u32>,
    /// How many of those that count lack a block.
    lacking: Vec<u32>,
    /// Those blocks, without the ones under repair.
    wanted: BTreeSet<u32>,
    cursor: u32,
    repairs: BTreeMap<u32, Repair>,
    due: BTreeSet<(Duration, u32)>,
    sequence: u32,
    begun: u32,
    usual_loss: f32,
    common_loss: f32,
    /// How many symbols the blocks lacked of late that came first.
    usual_need: f32,
    /// Blocks that cannot be had now, and are sent to nobody.
    gone: BTreeSet<u32>,
}

impl Sender {
    /// A session of blocks with so many source symbols each.
    pub fn new(symbols: Vec<u16>) -> Self {
        let blocks = symbols.len();
        Self {
            symbols,
            peers: BTreeMap::new(),
            lacking: vec![0; blocks],
            symbol: vec![0; blocks],
            wanted: BTreeSet::new(),
            cursor: 0,
            repairs: BTreeMap::new(),
            due: BTreeSet::new(),
            sequence: 0,
            begun: 0,
            usual_loss: 0.0,
            common_loss: 0.0,
            usual_need: 0.0,
            gone: BTreeSet::new(),
        }
    }

    /// The number of the last packet.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// How many times a block was begun.
    pub fn begun(&self) -> u32 {
        self.begun
    }

    /// Clients are to speak once in this time.
    pub fn period(&self) -> Duration {
        let clients = u32::try_from(self.peers.len()).unwrap_or(u32::MAX);
        (Duration::from_secs(1) * clients / REPORTS).max(SHORTEST_PERIOD)
    }

    /// Blocks that will be wanted soon if nothing happens, the next one first.
    pub fn ahead(&self, most: usize) -> Vec<u32> {
        let behind = self.wanted.range(self.cursor..);
        behind.chain(self.wanted.range(..self.cursor)).take(most).copied().collect()
    }

    /// A block cannot be had: it is sent to nobody, and nobody is waited for who lacks it.
    pub fn withdraw(&mut self, block: u32) {
        self.gone.insert(block);
        self.wanted.remove(&block);
        if let Some(repair) = self.repairs.remove(&block) {
            self.due.remove(&(repair.due, block));
        }
    }

    /// A block that was withdrawn can be had again.
    pub fn restore(&mut self, block: u32) {
        let is_lacking = self.lacking.get(block as usize).is_some_and(|count| *count > 0);
        if self.gone.remove(&block) && is_lacking {
            self.wanted.insert(block);
        }
    }

    /// Nothing of the train that was given last was sent: the next one has its numbers, or clients would take them for lost.
    pub fn unsent(&mut self, train: Train) {
        self.sequence = train.sequence.wrapping_sub(1);
        self.begun = train.begun.wrapping_sub(u32::from(train.begins));
    }

    /// What is known of the clients.
    pub fn clients(&self, now: Duration) -> Vec<Seen> {
        let seen = |(slot, peer): (&u16, &Peer)| Seen {
            slot: *slot,
            address: None,
            blocks: peer.has.count(),
            loss: peer.loss(),
            silent: now.saturating_sub(peer.heard),
            spare: peer.spare,
            is_slow: false,
        };
        self.peers.iter().map(seen).collect()
    }

    /// Number of blocks.
    pub fn blocks(&self) -> u32 {
        u32::try_from(self.symbols.len()).unwrap_or(u32::MAX)
    }

    /// Whether there is such a client.
    pub fn has(&self, slot: u16) -> bool {
        self.peers.contains_key(&slot)
    }

    /// A client has come, or come again, with what it has and room for so many blocks.
    pub fn join(&mut self, slot: u16, has: Blocks, room: u32, now: Duration) {
        self.leave(slot);
        let peer = Peer {
            has,
            heard: now,
            seen: self.sequence,
            deficits: BTreeMap::new(),
            loss: None,
            until: self.begun.saturating_add(room),
            spare: None,
            is_counted: false,
        };
        self.peers.insert(slot, peer);
        self.count(slot, true);
    }

    /// A client is gone; how many blocks it had.
    pub fn leave(&mut self, slot: u16) -> Option<u32> {
        self.count(slot, false);
        self.peers.remove(&slot).map(|peer| peer.has.count())
    }

    /// Lets a client count, or no longer.
    fn count(&mut self, slot: u16, counts: bool) {
        let blocks = self.blocks();
        let Some(peer) = self.peers.get_mut(&slot).filter(|peer| peer.is_counted != counts) else {
            return;
        };
        peer.is_counted = counts;
        let lacks: Vec<u32> = (0..blocks).filter(|block| !peer.has.has(*block)).collect();
        for block in lacks {
            self.lack(block, counts);
        }
    }

    fn lack(&mut self, block: u32, more: bool) {
        let Some(count) = self.lacking.get_mut(block as usize) else { return };
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        match *count {
            0 => {
                self.wanted.remove(&block);
            }
            // Who lacks what others lack too changes nothing: a room of machines that join is not to stand still for it.
            1 if more && !self.repairs.contains_key(&block) && !self.gone.contains(&block) => {
                self.wanted.insert(block);
            }
            _ => {}
        }
    }

    /// A client spoke.
    pub fn hear(&mut self, slot: u16, status: &Status, now: Duration) {
        let Some(peer) = self.peers.get_mut(&slot) else { return };
        peer.heard = now;
        // A report that was overtaken says nothing new.
        if status.seen.wrapping_sub(peer.seen) > u32::MAX / 2 {
            return;
        }
        if status.seen != peer.seen {
            let before = peer.loss.unwrap_or(status.loss);
            peer.loss = Some(before * 0.75 + status.loss * 0.25);
        }
        peer.seen = status.seen;
        peer.until = status.until;
        let free = status.until.saturating_sub(self.begun);
        let spare = free as f32 + status.deficits.len() as f32;
        peer.spare = Some(peer.spare.map_or(spare, |before| before * 0.75 + spare * 0.25));
        peer.deficits = status.deficits.iter().copied().collect();
        let mut news = Vec::new();
        let first = u64::from(status.page).saturating_mul(64);
        for (word, first) in status.words.iter().zip((first..).step_by(64)) {
            for bit in 0..64 {
                let Ok(block) = u32::try_from(first + bit) else { break };
                if word >> bit & 1 == 1 {
                    if peer.has.add(block) {
                        news.push((block, false));
                    }
                } else if peer.has.remove(block) {
                    news.push((block, true));
                }
            }
        }
        if peer.is_counted {
            news.into_iter().for_each(|(block, lacks)| self.lack(block, lacks));
        } else {
            self.count(slot, true);
        }
    }

    /// Whether nobody lacks anything that can be had.
    pub fn is_idle(&self) -> bool {
        self.wanted.is_empty() && self.repairs.is_empty()
    }

    /// What to send now.
    pub fn next(&mut self, now: Duration) -> Next {
        self.forget_silent(now);
        if let Some(train) = self.repair(now, self.is_late_first()) {
            return Next::Send(train);
        }
        if let Some(train) = self.guess(now).or_else(|| self.begin(now)) {
            return Next::Send(train);
        }
        if let Some(train) = self.repair(now, true) {
            return Next::Send(train);
        }
        if self.is_idle() {
            return Next::Idle;
        }
        let period = self.period() / 2;
        let due = self.due.first().map_or(now + period, |(due, _)| *due);
        Next::Wait(due.max(now + Duration::from_millis(1)).min(now + period))
    }

    fn forget_silent(&mut self, now: Duration) {
        let silent = (self.period() * SILENT).clamp(LEAST_SILENT, MOST_SILENT);
        let is_silent = |peer: &Peer| peer.is_counted && peer.heard + silent < now;
        let silent: Vec<u16> =
            self.peers.iter().filter(|(_, peer)| is_silent(peer)).map(|(slot, _)| *slot).collect();
        silent.into_iter().for_each(|slot| self.count(slot, false));
        self.peers.retain(|_, peer| peer.is_counted || peer.heard + GONE > now);
    }

    /// Parity for the block that is due first, if anybody needs it. `late` is for those who lose much more than others.
    fn repair(&mut self, now: Duration, late: bool) -> Option<Train> {
        let due: Vec<u32> =
            self.due.iter().take_while(|(due, _)| *due <= now).map(|(_, block)| *block).collect();
        for block in due {
            let repair = self.repairs.get(&block)?;
            let need = self.need(block, repair);
            // Who is silent for long counts no longer; who loses much loses reports, too, and the others do not wait for it.
            let silent = match need.usual.most {
                0 => need.usual.silent + need.unusual.silent,
                _ => need.usual.silent,
            };
            let is_known = need.usual.most > 0 || need.unusual.most > 0;
            let speak_for_others = self.patience() == MOST_PATIENCE;
            if silent > 0 && (repair.waited < GRACE && !speak_for_others || !is_known) {
                self.put_off(block, now + self.patience().mul_f64(0.4));
                continue;
            }
            let is_first = !repair.is_repaired;
            let Lacks { mut most, loss, .. } = match (need.usual.most, need.unusual.most) {
                (0, 0) => {
                    if is_first {
                        self.learn(0);
                    }
                    self.close(block);
                    continue;
                }
                (0, _) if late => {
                    return self.more(block, need.unusual.most, need.unusual.loss, now);
                }
                (0, _) => continue,
                _ => need.usual,
            };
            if silent > 0 {
                // The most that one of very many lacks is about that much more than the most of some of them.
                most = most.saturating_add((f32::from(most).sqrt() / 2.0) as u16);
            }
            if is_first {
                self.learn(most);
            }
            return self.more(block, most, loss, now);
        }
        None
    }

    /// A block that was sent once lacks so many symbols.
    fn learn(&mut self, need: u16) {
        self.usual_need = self.usual_need * 0.8 + f32::from(need) * 0.2;
    }

    /// Parity for a block before all have told what they lack of it, where far fewer lack the next one, or none is left: those who
    /// are nearly done need not wait until their reports are due. It is as much as was needed of the others of late, and what this
    /// one may need more.
    fn guess(&mut self, now: Duration) -> Option<Train> {
        if self.usual_need < 0.5 {
            return None;
        }
        let lacking = |block: u32| self.lacking.get(block as usize).copied().unwrap_or(0);
        let next = self.ahead(1).first().map_or(0, |block| lacking(*block));
        let is_open = |block: u32, repair: &Repair| {
            !repair.is_repaired && repair.due > now && lacking(block) > next.saturating_mul(MANY)
        };
        let (block, _) = self.repairs.iter().find(|(block, repair)| is_open(**block, repair))?;
        let most = self.usual_need + self.usual_need.sqrt();
        self.more(*block, most.ceil() as u16, self.usual_loss, now)
    }

    fn need(&self, block: u32, repair: &Repair) -> Need {
        let mut need = Need::default();
        let limit = self.limit();
        for peer in self.peers.values().filter(|peer| peer.is_counted && !peer.has.has(block)) {
            let lacks = if peer.loss() > limit { &mut need.unusual } else { &mut need.usual };
            if peer.seen.wrapping_sub(repair.last) > u32::MAX / 2 {
                lacks.silent += 1;
            } else if let Some(deficit) = peer.deficits.get(&block) {
                lacks.most = lacks.most.max(*deficit);
                lacks.loss = lacks.loss.max(peer.loss());
            }
        }
        need
    }

    /// Who loses more is helped late.
    fn limit(&self) -> f32 {
        MUCH_LOSS.max(3.0 * self.common_loss)
    }

    fn patience(&self) -> Duration {
        self.period().mul_f64(PATIENCE).min(MOST_PATIENCE)
    }

    fn put_off(&mut self, block: u32, to: Duration) {
        if let Some(repair) = self.repairs.get_mut(&block) {
            self.due.remove(&(repair.due, block));
            repair.due = to;
            repair.waited += 1;
            self.due.insert((to, block));
        }
    }

    fn close(&mut self, block: u32) {
        if let Some(repair) = self.repairs.remove(&block) {
            self.due.remove(&(repair.due, block));
        }
        let is_lacking = self.lacking.get(block as usize).is_some_and(|count| *count > 0);
        if is_lacking && !self.gone.contains(&block) {
            self.wanted.insert(block);
        }
    }

    fn more(&mut self, block: u32, deficit: u16, loss: f32, now: Duration) -> Option<Train> {
        let wanted = (f32::from(deficit) / (1.0 - loss.min(0.5))).ceil() as u32;
        self.train(block, wanted, false, now)
    }

    /// Those who take something of what is begun next, and whether they can begin with it.
    fn takers(&self, next: u32) -> impl Iterator<Item = (&Peer, bool)> {
        self.peers
            .values()
            .filter(|peer| peer.is_counted && !peer.has.is_full())
            .map(move |peer| (peer, peer.has_room(next)))
            .filter(|(peer, has_room)| *has_room || !peer.deficits.is_empty())
    }

    /// Whether late repairs come first: what few begin now is sent again to those who have no room until they are helped, where these
    /// are the most.
    fn is_late_first(&self) -> bool {
        let limit = self.limit();
        let (mut free, mut stuck) = (0, 0);
        for (peer, has_room) in self.takers(self.begun.wrapping_add(1)) {
            free += u32::from(has_room);
            stuck += u32::from(!has_room && peer.loss() > limit);
        }
        stuck > free
    }

    /// The next block of the carousel that somebody lacks who has room.
    fn begin(&mut self, now: Duration) -> Option<Train> {
        let next = self.begun.wrapping_add(1);
        let counted: Vec<(&Peer, bool)> = self.takers(next).collect();
        let takes = |block: &u32| {
            let takes = |(peer, has_room): &(&Peer, bool)| {
                !peer.has.has(*block) && (*has_room || peer.deficits.contains_key(block))
            };
            counted.iter().any(takes)
        };
        let around = self.wanted.range(self.cursor..).chain(self.wanted.range(..self.cursor));
        let block = around.copied().find(takes)?;
        self.begun = next;
        self.cursor = block + 1;
        self.wanted.remove(&block);
        let k = u32::from(*self.symbols.get(block as usize)?);
        self.repairs.insert(block, Repair { last: 0, due: now, waited: 0, is_repaired: false });
        // Source symbols cost nobody any work.
        if !self.peers.values().any(|peer| peer.deficits.contains_key(&block)) {
            *self.symbol.get_mut(block as usize)? = 0;
        }
        self.train(block, k, true, now)
    }

    fn train(&mut self, block: u32, count: u32, begins: bool, now: Duration) -> Option<Train> {
        let k = *self.symbols.get(block as usize)?;
        let all = u32::from(k) + u32::from(parity(k));
        let next = self.symbol.get_mut(block as usize)?;
        let first = *next;
        let count = count.clamp(1, all);
        *next = (first + count) % all;
        let sequence = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count);
        let due = now + self.patience();
        let repair = self.repairs.get_mut(&block)?;
        self.due.remove(&(repair.due, block));
        (repair.last, repair.due, repair.waited) = (self.sequence, due, 0);
        repair.is_repaired = !begins;
        self.due.insert((due, block));
        let [first, count] = [first, count].map(|number| u16::try_from(number).unwrap_or(u16::MAX));
        Some(Train { block, first, count, begins, sequence, begun: self.begun })
    }

    /// Learns what loss is usual. To be called now and then.
    pub fn look_at_losses(&mut self) {
        let mut losses: Vec<f32> = self
            .peers
            .values()
            .filter(|peer| peer.is_counted)
            .filter_map(|peer| peer.loss)
            .collect();
        losses.sort_by(f32::total_cmp);
        // Of half of them: the others may be few, and one of them on a bad cable.
        self.usual_loss = losses.get(losses.len().saturating_sub(1) / 2).copied().unwrap_or(0.0);
        self.common_loss = losses.get(losses.len() / 10).copied().unwrap_or(0.0);
    }

    /// What half of the clients lose at most.
    pub fn usual_loss(&self) -> f32 {
        self.usual_loss
    }

    /// What nine of ten lose at least: its cause is on the way of all.
    pub fn common_loss(&self) -> f32 {
        self.common_loss
    }
}

/// What clients lack of a block: those that lose what is usual, and those that lose far more.
#[derive(Default)]
struct Need {
    usual: Lacks,
    unusual: Lacks,
}

#[derive(Default)]
struct Lacks {
    /// The most symbols that one of them lacks, and the most loss of such a client.
    most: u16,
    loss: f32,
    /// How many of those who lack it have not spoken since its last symbol.
    silent: u32,
}

#[cfg(test)]
mod tests;
