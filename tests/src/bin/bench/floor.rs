//! What nobody can do without: each window compressed and hashed, on all cores.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::Result;

const WINDOW: usize = 1 << 20;

pub fn floor(level: i32, path: &Path) -> Result<()> {
    let file = File::open(path)?;
    let (size, next) = (file.metadata()?.len(), AtomicU64::new(0));
    thread::scope(|scope| {
        let work = || -> Result<()> {
            let mut encoder = zstd::bulk::Compressor::new(level)?;
            let mut window = vec![0; WINDOW];
            let mut stored = Vec::with_capacity(zstd::zstd_safe::compress_bound(WINDOW));
            loop {
                let at = next.fetch_add(u64::try_from(WINDOW)?, Ordering::Relaxed);
                let length = usize::try_from(size.saturating_sub(at))?.min(WINDOW);
                let Some(part) = window.get_mut(..length).filter(|part| !part.is_empty()) else {
                    return Ok(());
                };
                file.read_exact_at(part, at)?;
                std::hint::black_box(blake3::hash(part));
                stored.clear();
                encoder.compress_to_buffer(part, &mut stored)?;
                std::hint::black_box(stored.len());
            }
        };
        let cores = thread::available_parallelism()?.get();
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|one| one.join().unwrap_or_else(|_| anyhow::bail!("a panic")))
    })
}
