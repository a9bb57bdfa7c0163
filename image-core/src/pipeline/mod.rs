//! The road of the bytes: from a volume to chunks, and from chunks to a volume.
//!
//! Answers: bounded memory, all cores busy, results in order. A failure in any thread ends all of them and
//! is the caller's error.
//!
//! Saving: [`estimate`] samples what it will take, [`read`] cuts volumes into windows, [`pack`] hashes and
//! compresses (by [`encode`]) each in one worker and hands them on in order. Restoring: [`fetch`] asks a feed for the chunks
//! of one table segment, [`write`] puts them onto a volume and reads them back.

pub mod encode;
pub mod estimate;
pub mod fetch;
pub mod pack;
pub mod read;
pub mod write;
