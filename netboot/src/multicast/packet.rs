//! The packets of a session as bytes: docs/PROTOCOL.md. Everything in them is big endian.

use std::time::Duration;

use super::status::Status;
use super::symbols::SYMBOL;

const MAGIC: [u8; 2] = *b"Kk";
const VERSION: u8 = 1;
const HEAD: usize = 16;
/// Bytes at the end of each packet by which those who are in the session know that it comes from one of them.
const TAG: usize = 8;
const BEGINS: u16 = 1 << 15;

/// The longest packet: a symbol with what stands around it.
pub const LONGEST: usize = HEAD + 8 + SYMBOL + TAG;

/// The key of a session, which whoever joins gets.
pub type Key = [u8; 32];

/// A packet.
#[derive(Clone, PartialEq, Debug)]
pub struct Packet<'a> {
    /// Which session it belongs to.
    pub session: u32,
    /// Its number. In a report: the last one that the client has seen.
    pub sequence: u32,
    /// How many blocks were begun. In a report: up to how many the client has room for.
    pub begun: u32,
    /// What it says.
    pub body: Body<'a>,
}

/// What a packet says.
#[derive(Clone, PartialEq, Debug)]
pub enum Body<'a> {
    /// A symbol of a block.
    Data {
        /// The block.
        block: u32,
        /// Which symbol of it.
        symbol: u16,
        /// Symbols of it that follow at once.
        left: u16,
        /// Whether they are for everybody, and not only for those who have some.
        begins: bool,
        /// The symbol.
        bytes: &'a [u8],
    },
    /// Nothing new was sent, or not for a while; clients are to speak once in this period.
    Plan(Duration),
    /// What the client with that number says of itself; `seen` and `until` stand in the packet's head.
    Status(u16, Status),
    /// The client with that number has what it wants, or wants nothing any more.
    Leave(u16),
}

impl Packet<'_> {
    /// The packet as bytes, with its tag.
    pub fn to_bytes(&self, key: &Key) -> Vec<u8> {
        let mut out = Vec::with_capacity(LONGEST);
        out.extend(MAGIC);
        out.push(VERSION);
        out.push(match self.body {
            Body::Data { .. } => 1,
            Body::Plan(_) => 2,
            Body::Status(..) => 3,
            Body::Leave(_) => 4,
        });
        for number in [self.session, self.sequence, self.begun] {
            out.extend(number.to_be_bytes());
        }
        match &self.body {
            Body::Data { block, symbol, left, begins, bytes } => {
                out.extend(block.to_be_bytes());
                out.extend(symbol.to_be_bytes());
                let flag = if *begins { BEGINS } else { 0 };
                out.extend(((left & !BEGINS) | flag).to_be_bytes());
                out.extend(*bytes);
            }
            Body::Plan(period) => {
                let millis = u32::try_from(period.as_millis()).unwrap_or(u32::MAX);
                out.extend(millis.to_be_bytes());
            }
            Body::Status(slot, status) => {
                out.extend(slot.to_be_bytes());
                let loss = (status.loss.clamp(0.0, 1.0) * f32::from(u16::MAX)).round();
                out.extend((loss as u16).to_be_bytes());
                out.extend(status.page.to_be_bytes());
                let counts = [status.words.len(), status.deficits.len()];
                out.extend(counts.map(|count| u8::try_from(count).unwrap_or(u8::MAX)));
                status.words.iter().take(255).for_each(|word| out.extend(word.to_be_bytes()));
                for (block, deficit) in status.deficits.iter().take(255) {
                    out.extend(block.to_be_bytes());
                    out.extend(deficit.to_be_bytes());
                }
            }
            Body::Leave(slot) => out.extend(slot.to_be_bytes()),
        }
        let tag = tag(&out, key);
        out.extend(tag);
        out
    }
}

impl<'a> Packet<'a> {
    /// What `bytes` say; `None` for what is no packet of somebody who has the key.
    pub fn from_bytes(bytes: &'a [u8], key: &Key) -> Option<Self> {
        let (said, found) = bytes.split_last_chunk::<TAG>()?;
        if said.len() < HEAD || tag(said, key) != *found {
            return None;
        }
        let mut rest = Rest(said);
        if rest.take::<2>()? != MAGIC || rest.take::<1>()? != [VERSION] {
            return None;
        }
        let [kind] = rest.take()?;
        let [session, sequence, begun] = [rest.u32()?, rest.u32()?, rest.u32()?];
        let body = match kind {
            1 => {
                let (block, symbol, left) = (rest.u32()?, rest.u16()?, rest.u16()?);
                let bytes = std::mem::take(&mut rest.0);
                if bytes.len() != SYMBOL {
                    return None;
                }
                Body::Data {
                    block,
                    symbol,
                    left: left & !BEGINS,
                    begins: left & BEGINS != 0,
                    bytes,
                }
            }
            2 => Body::Plan(Duration::from_millis(u64::from(rest.u32()?))),
            3 => {
                let slot = rest.u16()?;
                let loss = f32::from(rest.u16()?) / f32::from(u16::MAX);
                let page = rest.u32()?;
                let [words, deficits] = rest.take()?;
                let words = (0..words)
                    .map(|_| rest.take().map(u64::from_be_bytes))
                    .collect::<Option<_>>()?;
                let deficits = (0..deficits)
                    .map(|_| Some((rest.u32()?, rest.u16()?)))
                    .collect::<Option<_>>()?;
                let status = Status { seen: sequence, until: begun, loss, page, words, deficits };
                Body::Status(slot, status)
            }
            4 => Body::Leave(rest.u16()?),
            _ => return None,
        };
        rest.0.is_empty().then_some(Self { session, sequence, begun, body })
    }
}

fn tag(said: &[u8], key: &Key) -> [u8; TAG] {
    let hash = blake3::keyed_hash(key, said);
    hash.as_bytes().first_chunk().copied().unwrap_or_default()
}

/// The bytes that were not read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets() -> Vec<Packet<'static>> {
        let head = |body| Packet { session: 7, sequence: 0x01020304, begun: 9, body };
        let status = Status {
            seen: 0x01020304,
            until: 9,
            loss: 1.0,
            page: 64,
            words: vec![1, u64::MAX],
            deficits: vec![(3, 4), (u32::MAX, u16::MAX)],
        };
        vec![
            head(Body::Data { block: 1, symbol: 2, left: 3, begins: true, bytes: &[5; SYMBOL] }),
            head(Body::Data { block: 1, symbol: 2, left: 3, begins: false, bytes: &[5; SYMBOL] }),
            head(Body::Plan(Duration::from_millis(250))),
            head(Body::Status(12, status)),
            head(Body::Leave(12)),
        ]
    }

    proptest::proptest! {
        /// Whoever has the key may send any bytes: they are refused, or say what would be written the same.
        #[test]
        fn any_bytes_are_refused_or_read(kind in 0_u8..6, body in proptest::collection::vec(0_u8.., 0..600)) {
            let key = [3; 32];
            let mut bytes = [&MAGIC[..], &[VERSION, kind], &body].concat();
            let tag = tag(&bytes, &key);
            bytes.extend(tag);
            if let Some(packet) = Packet::from_bytes(&bytes, &key) {
                proptest::prop_assert_eq!(packet.to_bytes(&key), bytes);
            }
        }
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let key = [3; 32];
        for packet in packets() {
            let bytes = packet.to_bytes(&key);
            assert!(bytes.len() <= LONGEST, "{packet:?}");
            assert_eq!(Packet::from_bytes(&bytes, &key), Some(packet));
            assert_eq!(Packet::from_bytes(&bytes, &[4; 32]), None);
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                assert_eq!(Packet::from_bytes(&changed, &key), None, "byte {at}");
                assert_eq!(Packet::from_bytes(&bytes[..at], &key), None, "{at} bytes");
            }
        }
    }
}
