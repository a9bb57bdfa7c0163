//! A window's chunk in its stored form: as a delta of what the window was before, or in full.

use crate::error::Result;
use crate::image::codec::{Codec, Decoder, Encoder};
use crate::image::delta;
use crate::image::hash::ChunkId;
use crate::repo::Parent;
use crate::report::Report;
use crate::units::Bytes;

/// What one worker needs to store chunks: contexts and the bytes of one base.
pub struct ChunkEncoder<'a> {
    window: Bytes,
    encoder: Encoder,
    decoder: Decoder,
    parent: Option<&'a Parent>,
    base: Vec<u8>,
    report: &'a dyn Report,
}

impl<'a> ChunkEncoder<'a> {
    /// For zstd `level`; without a parent there are no deltas.
    pub fn new(
        window: Bytes,
        level: i32,
        parent: Option<&'a Parent>,
        report: &'a dyn Report,
    ) -> Result<Self> {
        let (encoder, decoder) = (Encoder::new(level)?, Decoder::new(window)?);
        Ok(Self { window, encoder, decoder, parent, base: Vec::new(), report })
    }

    /// Puts the stored form of window `place` (volume and number) into `stored`; how, and against which base.
    pub fn encode(
        &mut self,
        place: (usize, u64),
        plain: &[u8],
        stored: &mut Vec<u8>,
    ) -> Result<(Codec, Option<ChunkId>)> {
        let base = self
            .parent
            .and_then(|parent| parent.read(place, &mut self.decoder, &mut self.base, self.report));
        if let Some(base) = base {
            let (id, stored_len) = (base.id, base.stored_len);
            let base = delta::Base { id, plain: &self.base, stored_len };
            if let Some(codec) = self.encoder.encode_delta(self.window, &base, plain, stored)? {
                return Ok((codec, Some(id)));
            }
        }
        Ok((self.encoder.encode(plain, stored)?, None))
    }
}
