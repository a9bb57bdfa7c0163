//! Who was restored, and is told no boot file: its firmware goes on to its own disk.

use super::{List, Policy, State};

impl List {
    /// Whether the machine with this adapter, and this UUID where one is told, was restored and is to start by itself.
    pub fn starts_itself(&self, mac: &str, uuid: Option<&[u8; 16]>, policy: &dyn Policy) -> bool {
        self.machines.values().any(|known| {
            let machine = &known.machine;
            let is_it = match (uuid, machine.uuid.as_deref().and_then(raw)) {
                (Some(told), Some(own)) => *told == own || *told == swapped(own),
                _ => true,
            };
            let has = match &known.state {
                State::Done { image, .. } => image,
                _ => return false,
            };
            // Where everyone gets what is sent now, that may be another image than it has.
            let is_newer = || {
                let choice = policy.choose(machine, known.image.as_deref());
                policy.everyone()
                    && known.later.is_none()
                    && choice.is_ok_and(|choice| choice.image != *has)
            };
            is_it && machine.macs.iter().any(|own| own == mac) && !is_newer()
        })
    }
}

/// The bytes of a UUID.
fn raw(text: &str) -> Option<[u8; 16]> {
    crate::secret::unhex(&text.replace('-', ""))
}

/// As SMBIOS stores them, and most firmware tells them: the first three numbers are little-endian (section 7.2.1).
pub(super) fn swapped([a, b, c, d, e, f, g, h, rest @ ..]: [u8; 16]) -> [u8; 16] {
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}
