//! Buffers whose start is aligned to 4 KiB, as O_DIRECT asks for, and a pool that bounds their number.

use std::ops::{Deref, DerefMut, Range};

use crossbeam_channel::{Receiver, Sender, bounded};

const ALIGNMENT: usize = 4096;

/// Bytes of a fixed number, aligned to 4 KiB in memory.
#[derive(Default, Debug)]
pub struct AlignedBuf {
    // Longer than asked for, so that an aligned start lies in it. Never grows, so it never moves.
    memory: Vec<u8>,
    aligned: Range<usize>,
    home: Option<Sender<Vec<u8>>>,
}

impl AlignedBuf {
    /// `length` zeros.
    pub fn zeroed(length: usize) -> Self {
        Self::within(vec![0; length.saturating_add(ALIGNMENT)], length, None)
    }

    fn within(memory: Vec<u8>, length: usize, home: Option<Sender<Vec<u8>>>) -> Self {
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, aligned: start..start + length, home }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.aligned.clone()]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.aligned.clone()]
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            // Fails only when the pool is gone; then the memory is freed.
            drop(home.try_send(std::mem::take(&mut self.memory)));
        }
    }
}

/// A fixed number of buffers of one length, shared by threads: who finds none free waits.
///
/// A buffer comes back to the pool when it is dropped. Only fresh buffers are zeros.
#[derive(Debug)]
pub struct Pool {
    length: usize,
    free: Receiver<Vec<u8>>,
    home: Sender<Vec<u8>>,
}

impl Pool {
    /// `count` buffers of `length` bytes; their memory is touched when they are first used.
    pub fn new(count: usize, length: usize) -> Self {
        let (home, free) = bounded(count);
        for _ in 0..count {
            drop(home.try_send(vec![0; length.saturating_add(ALIGNMENT)]));
        }
        Self { length, free, home }
    }

    /// A free buffer, with what its last user left in it; waits until there is one.
    pub fn take(&self) -> AlignedBuf {
        match self.free.recv() {
            Ok(memory) => AlignedBuf::within(memory, self.length, Some(self.home.clone())),
            // Cannot be: this pool holds the other end.
            Err(_) => AlignedBuf::zeroed(self.length),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn buffers_are_aligned_zeroed_and_come_back() {
        let pool = Pool::new(2, 5000);
        let (mut one, two) = (pool.take(), pool.take());
        for buffer in [&one, &two] {
            assert_eq!(buffer.as_ptr().align_offset(ALIGNMENT), 0);
            assert_eq!(**buffer, [0; 5000]);
        }
        one.fill(7);
        std::thread::scope(|scope| {
            let third = scope.spawn(|| pool.take());
            std::thread::sleep(Duration::from_millis(20));
            assert!(!third.is_finished(), "a third buffer of two");
            drop(one);
            assert_eq!(*third.join().unwrap(), [7; 5000]);
        });
    }

    #[test]
    fn a_buffer_outlives_its_pool() {
        let buffer = Pool::new(1, 10).take();
        assert_eq!(*buffer, [0; 10]);
    }
}
