//! Who is in a session: the numbers that were given, and where those who use them speak from. Time is input.
//!
//! A number is given to everybody who asks, and costs next to nothing. Only who speaks with it is a client. An address has
//! [`OF_ADDRESS`] of them at most, and all of them take so much memory at most: where there are more, the one that has been silent for the
//! longest time is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::blocks::Blocks;
use super::gather::Gather;
use super::sender::{Next, Seen, Sender};
use super::status::Status;

/// A machine is one client, and for a while two where it begins again.
const OF_ADDRESS: usize = 16;
/// What a client takes beside the set of its blocks, in bytes.
const CLIENT: usize = 4 << 10;
/// So many are remembered that have left.
const LEFT: usize = 1 << 14;

/// Everybody in a session, with what is sent to them.
#[derive(Debug)]
pub struct Members {
    /// What is sent.
    pub sender: Sender,
    gather: Gather,
    /// What all clients may take, in bytes.
    memory: usize,
    /// The number that is given next.
    number: u16,
    /// Numbers that were given, and that nobody has spoken with.
    given: BTreeSet<u16>,
    /// Where clients speak from.
    addresses: BTreeMap<u16, Ipv4Addr>,
    /// Those that have left, with the blocks that they had.
    left: BTreeMap<Ipv4Addr, u32>,
}

impl Members {
    /// Nobody is in the session, and all who come may take so many bytes.
    pub fn new(sender: Sender, memory: usize) -> Self {
        Self {
            sender,
            gather: Gather::default(),
            number: 0,
            memory,
            given: BTreeSet::new(),
            addresses: BTreeMap::new(),
            left: BTreeMap::new(),
        }
    }

    /// Somebody is about to join.
    pub fn expect(&mut self, now: Duration) {
        self.gather.expect(now, self.sender.is_idle());
    }

    /// What to send now.
    pub fn next(&mut self, now: Duration) -> Next {
        self.gather.next(now, &mut self.sender)
    }

    /// A number for whoever asks. After 65,536 of them one that nobody speaks with is given again.
    pub fn give(&mut self, now: Duration) -> u16 {
        self.expect(now);
        // There are far fewer clients than numbers.
        while self.sender.has(self.number) {
            self.number = self.number.wrapping_add(1);
        }
        let slot = self.number;
        self.number = slot.wrapping_add(1);
        self.given.insert(slot);
        slot
    }

    /// Somebody spoke. A number belongs to the address that spoke with it first.
    pub fn hear(&mut self, slot: u16, status: &Status, from: Ipv4Addr, now: Duration) {
        if !self.sender.has(slot) {
            if !self.given.remove(&slot) {
                return;
            }
            self.admit(slot, from, now);
            self.addresses.insert(slot, from);
        }
        if self.addresses.get(&slot) == Some(&from) {
            self.left.remove(&from);
            self.sender.hear(slot, status, now);
        }
    }

    /// Lets a client in, in place of another one where there are too many.
    fn admit(&mut self, slot: u16, from: Ipv4Addr, now: Duration) {
        self.addresses.retain(|slot, _| self.sender.has(*slot));
        let of_address = self.clients(now).into_iter().filter(|seen| seen.address == Some(from));
        self.make_room(of_address.collect(), OF_ADDRESS);
        self.make_room(self.clients(now), self.most());
        self.expect(now);
        self.sender.join(slot, Blocks::none(self.sender.blocks()), 0, now);
    }

    /// How many clients there are at most.
    fn most(&self) -> usize {
        self.memory / (CLIENT + self.sender.blocks() as usize / 8)
    }

    /// Forgets one of `some`, where these are `most` already.
    fn make_room(&mut self, some: Vec<Seen>, most: usize) {
        if some.len() >= most
            && let Some(oldest) = some.into_iter().max_by_key(|seen| seen.silent)
        {
            self.sender.leave(oldest.slot);
            self.addresses.remove(&oldest.slot);
        }
    }

    /// The client with this number, at this address, has left.
    pub fn leave(&mut self, slot: u16, from: Ipv4Addr) {
        if self.addresses.get(&slot) != Some(&from) {
            return;
        }
        self.addresses.remove(&slot);
        let Some(has) = self.sender.leave(slot) else { return };
        if self.left.len() < LEFT || self.left.contains_key(&from) {
            self.left.insert(from, has);
        }
    }

    /// What is known of the clients.
    pub fn clients(&self, now: Duration) -> Vec<Seen> {
        let mut clients = self.sender.clients(now);
        for client in &mut clients {
            client.address = self.addresses.get(&client.slot).copied();
        }
        clients
    }

    /// Those that have left, and how many blocks each had.
    pub fn left(&self) -> &BTreeMap<Ipv4Addr, u32> {
        &self.left
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn members(blocks: usize) -> Members {
        Members::new(Sender::new(vec![10; blocks]), 64 << 20)
    }

    fn status() -> Status {
        Status { seen: 0, until: 8, loss: 0.0, page: 0, words: vec![1], deficits: Vec::new() }
    }

    /// One after another asks and speaks, each from the address that `from` says.
    fn join(members: &mut Members, count: u32, from: impl Fn(u32) -> u32) {
        for at in 0..count {
            let slot = members.give(Duration::ZERO);
            let now = Duration::from_millis(u64::from(at));
            members.hear(slot, &status(), Ipv4Addr::from(from(at)), now);
        }
    }

    /// Slots and addresses of all clients.
    fn known(members: &Members) -> Vec<(u16, u32)> {
        let clients = members.clients(Duration::from_secs(100)).into_iter();
        clients.map(|seen| (seen.slot, seen.address.unwrap().into())).collect()
    }

    #[test]
    fn who_asks_and_says_nothing_costs_nothing() {
        let mut members = members(1 << 20);
        join(&mut members, 1, |_| 7);
        for _ in 0..200_000 {
            assert_ne!(members.give(Duration::ZERO), 0, "that one is used");
        }
        assert_eq!(known(&members), [(0, 7)]);
        assert!(members.given.len() <= 1 << 16);
        // The last of them still gets in.
        let slot = members.give(Duration::ZERO);
        members.hear(slot, &status(), Ipv4Addr::from(8), Duration::ZERO);
        assert_eq!(known(&members).len(), 2);
    }

    #[test]
    fn nobody_speaks_with_a_number_that_was_not_given() {
        let mut members = members(2);
        members.hear(5, &status(), Ipv4Addr::from(1), Duration::ZERO);
        members.leave(5, Ipv4Addr::from(1));
        assert!(known(&members).is_empty() && members.left().is_empty());
    }

    #[test]
    fn nobody_speaks_for_a_client_of_another_address() {
        let mut members = members(2);
        join(&mut members, 1, |_| 7);
        let all = Status { words: vec![3], ..status() };
        members.hear(0, &all, Ipv4Addr::from(8), Duration::from_secs(1));
        members.leave(0, Ipv4Addr::from(8));
        let clients = members.clients(Duration::from_secs(1));
        let [seen] = clients.as_slice() else { panic!("{clients:?}") };
        assert_eq!((seen.blocks, seen.silent), (1, Duration::from_secs(1)));
        members.hear(0, &all, Ipv4Addr::from(7), Duration::from_secs(1));
        members.leave(0, Ipv4Addr::from(7));
        assert_eq!((known(&members), members.left()), (vec![], &[(7.into(), 2)].into()));
    }

    #[test]
    fn an_address_has_only_so_many_clients() {
        let mut members = members(3);
        join(&mut members, 3, |at| at);
        join(&mut members, 100, |_| 9);
        let (own, others): (Vec<_>, Vec<_>) =
            known(&members).into_iter().partition(|one| one.1 == 9);
        assert_eq!(others, [(0, 0), (1, 1), (2, 2)]);
        // Those that spoke last.
        let expected: BTreeSet<u16> = (103 - 16..103).collect();
        assert_eq!(own.into_iter().map(|one| one.0).collect::<BTreeSet<_>>(), expected);
    }

    #[test]
    fn all_clients_together_take_only_so_much() {
        let mut members = members(1 << 20);
        let most = members.most();
        assert_eq!(most, (64 << 20) / ((4 << 10) + (128 << 10)));
        join(&mut members, most as u32 + 20, |at| at);
        let known = known(&members);
        assert_eq!(known.len(), most);
        assert_eq!(known.first(), Some(&(20, 20)), "those that were silent for the longest time");
    }

    #[test]
    fn who_has_left_is_remembered_within_bounds() {
        let mut members = members(1);
        for at in 0..20_000 {
            let slot = members.give(Duration::ZERO);
            members.hear(slot, &status(), Ipv4Addr::from(at), Duration::ZERO);
            members.leave(slot, Ipv4Addr::from(at));
        }
        assert!(known(&members).is_empty());
        assert_eq!(members.left().len(), 1 << 14);
        let slot = members.give(Duration::ZERO);
        members.hear(slot, &status(), Ipv4Addr::from(3), Duration::ZERO);
        assert!(!members.left().contains_key(&Ipv4Addr::from(3)), "it has come again");
    }
}
