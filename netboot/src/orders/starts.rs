//! What GRUB of a machine with BIOS is told before its menu: who was restored starts from its own disk, and this firmware cannot be
//! told to.

use std::sync::Arc;

use super::site::Site;
use crate::dhcp::answer::Restored;
use crate::files::{Answers, Made, Question};
use crate::secret::unhex;

/// Commands of GRUB. A disk that does not start is no reason to stand still: the menu is next.
const FROM_DISK: &str = "echo 'This machine was restored, and starts from its own disk.'\n\
                         set root=(hd0)\n\
                         chainloader +1\n\
                         boot\n";

/// Answers to the adapter and the UUID (SMBIOS) of a machine: `52:54:00:12:34:56/`, and 32 digits with hyphens, or nothing.
#[derive(Debug)]
pub struct Starts(pub Arc<Site>);

impl Answers for Starts {
    fn answer(&self, question: &Question<'_>) -> Option<Made> {
        let (mac, uuid) = question.name.split_once('/').unwrap_or((question.name, ""));
        let uuid = unhex(&uuid.replace('-', ""));
        let is_restored = self.0.is_restored(mac.parse().ok()?, uuid.as_ref());
        Some(Made::new("text/plain", if is_restored { FROM_DISK } else { "" }))
    }
}
