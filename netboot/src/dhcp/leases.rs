//! Who has which address. Time is given, in seconds since any beginning.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::event::Mac;

/// For how long an address is given, in seconds: restores take hours, and whoever works renews it.
pub const LEASE: u32 = 4 * 60 * 60;

/// For how long an address is kept for whom it was offered to.
const OFFER: u64 = 60;

/// For how long an address is not offered after a client found it in use (RFC 2131, section 4.3.3).
const DECLINED: u64 = 10 * 60;

/// A range has no more addresses: all leases are written down again with each one that is given.
const MOST: u32 = 1 << 16;

/// The first and the last address that are handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// The first one.
    pub first: Ipv4Addr,
    /// The last one, not before the first.
    pub last: Ipv4Addr,
}

impl FromStr for Range {
    type Err = String;

    /// `FIRST-LAST`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not like 192.168.5.100-192.168.5.199");
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let parse = |text: &str| text.trim().parse::<Ipv4Addr>().map_err(|_| wrong());
        let range = Self { first: parse(first)?, last: parse(last)? };
        if range.first > range.last {
            return Err(format!("{text:?} ends before it begins"));
        }
        if u32::from(range.last) - u32::from(range.first) >= MOST {
            return Err(format!("{text:?} has more than {MOST} addresses"));
        }
        Ok(range)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
struct Lease {
    /// None where a client said that the address is in use.
    mac: Option<Mac>,
    until: u64,
}

/// The addresses of a range, and whose they are.
#[derive(Debug)]
pub struct Leases {
    range: Range,
    own: Ipv4Addr,
    given: BTreeMap<Ipv4Addr, Lease>,
    /// Whether something is to be written down: more than an offer, which is over soon.
    is_changed: bool,
    /// Whether the last client that was new got none.
    is_full: bool,
}

impl Leases {
    /// All of `range` is free, apart from `own`.
    pub fn new(range: Range, own: Ipv4Addr) -> Self {
        let given = BTreeMap::from([(own, Lease { mac: None, until: u64::MAX })]);
        Self { range, own, given, is_changed: false, is_full: false }
    }

    /// Takes over what [`Self::changed`] told, by the same clock. A lease that lasts longer than a new one would ends with that.
    pub(super) fn take_over(&mut self, told: &[u8], now: u64) -> serde_json::Result<()> {
        let told: BTreeMap<Ipv4Addr, Lease> = serde_json::from_slice(told)?;
        for (address, Lease { mac, until }) in told {
            if self.has(address) {
                let until = until.min(now + u64::from(LEASE));
                self.given.insert(address, Lease { mac, until });
            }
        }
        Ok(())
    }

    /// Somebody is at an address: it is left to him for a while.
    pub fn found(&mut self, address: Ipv4Addr, mac: Mac, now: u64) {
        if self.has(address) {
            self.keep(address, mac, now + u64::from(LEASE));
        }
    }

    /// All leases, where some are to be written down.
    pub(super) fn changed(&self) -> Option<Vec<u8>> {
        let all = || {
            let others = self.given.iter().filter(|(address, _)| **address != self.own);
            serde_json::to_vec(&others.collect::<BTreeMap<_, _>>()).ok()
        };
        self.is_changed.then(all).flatten()
    }

    /// They are written down.
    pub(super) fn are_kept(&mut self) {
        self.is_changed = false;
    }

    /// Whether an address may be given to somebody.
    fn has(&self, address: Ipv4Addr) -> bool {
        (self.range.first..=self.range.last).contains(&address) && address != self.own
    }

    /// The address for a client, kept for it for a minute: the one that it had, or one that nobody had, or the one that
    /// has been unused for the longest time; none where all are taken.
    pub fn offer(&mut self, mac: Mac, now: u64) -> Option<Ipv4Addr> {
        let of =
            |(address, lease): (&Ipv4Addr, &Lease)| (lease.mac == Some(mac)).then_some(*address);
        if let Some(address) = self.given.iter().find_map(of) {
            self.keep(address, mac, now + OFFER);
            return Some(address);
        }
        let unused = || {
            let mut all = u32::from(self.range.first)..=u32::from(self.range.last);
            all.find_map(|n| Some(Ipv4Addr::from(n)).filter(|n| !self.given.contains_key(n)))
        };
        let over = || {
            let over = self.given.iter().filter(|(_, lease)| lease.until <= now);
            over.min_by_key(|(_, lease)| lease.until).map(|(address, _)| *address)
        };
        let address = unused().or_else(over);
        self.is_full = address.is_none();
        self.keep(address?, mac, now + OFFER);
        address
    }

    /// What is told when a client is the first for which there is no address; none where there are some.
    pub(super) fn full(&self) -> Option<String> {
        let range = self.range;
        let hours = LEASE / 3600;
        self.is_full.then(|| {
            format!(
                "all addresses of {range} are taken, and new machines get none; begin again with a longer --dhcp-range, or wait: one \
                 that nobody uses is free after {hours} hours"
            )
        })
    }

    /// Gives a client the address that it asks for, for [`LEASE`]; whether it may have it.
    pub fn take(&mut self, mac: Mac, address: Ipv4Addr, now: u64) -> bool {
        let is_ours = self.has(address);
        // Whoever had it before we were started goes on with it.
        let is_free = self.given.get(&address).is_none_or(|lease| lease.mac == Some(mac));
        if is_ours && is_free {
            self.given.retain(|other, lease| *other == address || lease.mac != Some(mac));
            self.keep(address, mac, now + u64::from(LEASE));
            self.is_changed = true;
        }
        is_ours && is_free
    }

    /// A client found its address in use by somebody else.
    pub fn decline(&mut self, mac: Mac, address: Ipv4Addr, now: u64) {
        if let Some(lease) = self.given.get_mut(&address).filter(|lease| lease.mac == Some(mac)) {
            *lease = Lease { mac: None, until: now + DECLINED };
            self.is_changed = true;
        }
    }

    /// A client needs no address any more; it gets the same one when it comes back.
    pub fn release(&mut self, mac: Mac, now: u64) {
        for lease in self.given.values_mut().filter(|lease| lease.mac == Some(mac)) {
            lease.until = now;
            self.is_changed = true;
        }
    }

    fn keep(&mut self, address: Ipv4Addr, mac: Mac, until: u64) {
        let lease = self.given.entry(address).or_insert(Lease { mac: Some(mac), until });
        let until = if lease.mac == Some(mac) { until.max(lease.until) } else { until };
        *lease = Lease { mac: Some(mac), until };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};

    use super::{LEASE, Leases};
    use crate::event::Mac;

    fn mac(number: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, number])
    }

    fn at(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, number)
    }

    fn three() -> Leases {
        Leases::new("10.0.0.1-10.0.0.3".parse().unwrap(), at(2))
    }

    #[test]
    fn ranges_are_typed_as_first_and_last() {
        for wrong in
            ["", "10.0.0.1", "10.0.0.9-10.0.0.1", "10.0.0.1-", "10.0.0.1-9", "10.0.0.0-10.1.0.0"]
        {
            assert!(wrong.parse::<super::Range>().is_err(), "{wrong}");
        }
        assert_eq!(
            "10.0.0.1-10.0.0.3".parse::<super::Range>().unwrap().to_string(),
            "10.0.0.1-10.0.0.3"
        );
    }

    #[test]
    fn a_client_keeps_its_address_and_an_old_one_is_given_again() {
        let mut leases = three();
        assert_eq!(leases.offer(mac(1), 0), Some(at(1)));
        assert_eq!(leases.offer(mac(1), 1), Some(at(1)));
        assert!(leases.take(mac(1), at(1), 2));
        assert_eq!(leases.offer(mac(2), 3), Some(at(3)), "2 is our own");
        assert_eq!(leases.full(), None);
        assert_eq!(leases.offer(mac(3), 4), None, "all are taken");
        assert_eq!(leases.offer(mac(1), 4), Some(at(1)));
        let said = leases.full().unwrap();
        assert!(said.contains("10.0.0.1-10.0.0.3") && said.contains("4 hours"), "{said}");
        assert!(!leases.take(mac(3), at(3), 5) && !leases.take(mac(3), at(9), 5));
        // What was only offered is free after a minute, what was taken after its time.
        assert_eq!(leases.offer(mac(3), 64), Some(at(3)));
        assert_eq!(leases.full(), None);
        assert!(leases.take(mac(3), at(3), 65));
        assert_eq!(leases.offer(mac(2), 66), None);
        leases.release(mac(3), 70);
        assert_eq!(leases.offer(mac(2), 70), Some(at(3)));
        let later = 2 + u64::from(LEASE);
        assert_eq!(leases.offer(mac(4), later), Some(at(3)), "unused for longer");
        assert_eq!(leases.offer(mac(5), later), Some(at(1)));
    }

    #[test]
    fn an_address_in_use_is_left_alone_for_a_while() {
        let mut leases = three();
        assert_eq!(leases.offer(mac(1), 0), Some(at(1)));
        leases.decline(mac(2), at(1), 0);
        assert_eq!(leases.offer(mac(1), 0), Some(at(1)), "another client knows nothing of it");
        leases.decline(mac(1), at(1), 0);
        assert_eq!(leases.offer(mac(1), 1), Some(at(3)));
        assert_eq!(leases.offer(mac(2), 2), None);
        assert_eq!(leases.offer(mac(2), 600), Some(at(3)), "an offer that nobody took");
    }

    proptest! {
        /// Whatever clients do, in whatever order: none is given an address that another one holds, or ours.
        #[test]
        fn no_address_has_two_holders(
            steps in vec((0_u8..4, 0_u8..6, 0_u8..6, 0_u64..5000, any::<bool>()), 1..80),
        ) {
            let mut leases = three();
            let mut held: BTreeMap<Ipv4Addr, (Mac, u64)> = BTreeMap::new();
            let mut now = 0;
            for (what, who, which, later, own) in steps {
                now += later;
                let mac = mac(who);
                let mine = held.iter().find(|(_, (holder, _))| *holder == mac).map(|(at, _)| *at);
                match what {
                    0 => {
                        if let Some(address) = leases.offer(mac, now) {
                            let holder = held.get(&address).filter(|(_, until)| *until > now);
                            assert!(holder.is_none_or(|(holder, _)| *holder == mac));
                            assert_ne!(address, at(2));
                        }
                    }
                    1 => {
                        let wanted = mine.filter(|_| own).unwrap_or(at(which));
                        if leases.take(mac, wanted, now) {
                            let holder = held.get(&wanted).filter(|(_, until)| *until > now);
                            assert!(holder.is_none_or(|(holder, _)| *holder == mac));
                            assert!([at(1), at(3)].contains(&wanted));
                            held.retain(|_, (holder, _)| *holder != mac);
                            held.insert(wanted, (mac, now + u64::from(LEASE)));
                        }
                    }
                    2 => {
                        leases.release(mac, now);
                        held.retain(|_, (holder, _)| *holder != mac);
                    }
                    _ => {
                        if let Some(mine) = mine {
                            leases.decline(mac, mine, now);
                            held.remove(&mine);
                        }
                    }
                }
            }
        }
    }
}
