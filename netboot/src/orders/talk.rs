//! What a machine says, and what it is told.

use serde::{Deserialize, Serialize};

use super::machine::{Machine, is_text};
use super::order::Signed;

/// What a machine says, every few seconds.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Said {
    /// What it is.
    pub machine: Machine,
    /// Another one each time that it starts: nobody guesses it, and an order is for one of them.
    pub nonce: String,
    /// What it does.
    pub doing: Doing,
}

impl Said {
    /// Whether a machine could say it.
    pub(super) fn is_sound(&self) -> bool {
        let asks = match &self.doing {
            Doing::Asks { name } => is_image_name(name),
            _ => true,
        };
        is_text(&self.nonce) && self.machine.is_sound() && asks
    }
}

/// Whether an image may be called so (docs/FORMAT.md).
pub fn is_image_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(fits)
}

/// What a machine does.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Doing {
    /// It waits to be told.
    Waits,
    /// Somebody there asks that it is saved; it takes no other order.
    Asks {
        /// The name of the image.
        name: String,
    },
    /// He asks no more.
    AsksNoMore,
    /// It carries out its order.
    Works {
        /// In words.
        stage: String,
        /// Bytes of this stage.
        done: u64,
        /// Of so many, where that is known.
        total: Option<u64>,
        /// What it noticed of that, such as why it fetches what others hear.
        #[serde(default)]
        note: Option<String>,
    },
    /// It has carried it out.
    Done {
        /// What a person still has to do, if anything.
        remains: Option<String>,
    },
    /// It could not, and why.
    Failed {
        /// In words.
        why: String,
    },
}

/// What a machine is told.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Told {
    /// To wait, and what for.
    Wait {
        /// In words.
        why: String,
    },
    /// What it is to do.
    Do {
        /// The order; whoever carries it out looks at its signature first.
        order: Signed,
    },
    /// That what it says is known: it goes on, or ends.
    Known,
    /// To stop what it does, or to ask no more.
    Stop,
    /// That it was restored before: it starts from its own disk.
    Start {
        /// The image.
        image: String,
    },
}
