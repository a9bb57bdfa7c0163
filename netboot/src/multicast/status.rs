//! What a client says of itself.

/// A report.
#[derive(Clone, PartialEq, Debug)]
pub struct Status {
    /// The last packet that it has seen, of any kind.
    pub seen: u32,
    /// Up to which block that is begun it has room.
    pub until: u32,
    /// Which part of the packets since its last report did not come.
    pub loss: f32,
    /// The first word of `words` in the set of blocks that it has.
    pub page: u32,
    /// That part of the set.
    pub words: Vec<u64>,
    /// Symbols that it lacks, of blocks that it has a part of; the oldest first.
    pub deficits: Vec<(u32, u16)>,
}
