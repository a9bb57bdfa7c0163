//! A session of mass restore over real sockets: every client gets every block, whoever comes late or goes.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use keiki_tests::{network, run};
use netboot::multicast::blocks::Blocks;
use netboot::multicast::client::Listener;
use netboot::multicast::server::{Server, Source};
use netboot::multicast::symbols::SYMBOL;

/// Blocks of which each byte is known.
struct Known(u32);

impl Known {
    fn block(number: u32) -> Vec<u8> {
        // Lengths that are no multiple of anything.
        let mut bytes = vec![0; (1 << 20) - 1000 * number as usize % 5000 - 3];
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }
}

impl Source for Known {
    fn lengths(&self) -> Vec<u32> {
        (0..self.0).map(|block| Self::block(block).len() as u32).collect()
    }

    fn read(&self, block: u32) -> image_core::error::Result<Vec<u8>> {
        Ok(Self::block(block))
    }
}

/// One client: takes all blocks, but for those that it `has`; how long that took.
fn client(server: &Server, has: &[u32], room: u32) -> Result<Duration> {
    let began = Instant::now();
    let lengths = Known(BLOCKS).lengths();
    let mut blocks = Blocks::none(BLOCKS);
    for block in has {
        blocks.add(*block);
    }
    let listener = Listener::new(server.terms().clone())?;
    let client = listener.start(server.join(), lengths, blocks, room)?;
    for _ in has.len()..BLOCKS as usize {
        let came = client.next(Duration::from_secs(20))?;
        let (number, block) = came.ok_or_else(|| anyhow::anyhow!("nothing for 20 s"))?;
        ensure!(block.whole().as_deref() == Some(Known::block(number).as_slice()), "{number}");
        ensure!(!has.contains(&number), "{number} was not wanted");
        client.written();
    }
    Ok(began.elapsed())
}

const BLOCKS: u32 = 32;
/// 20 MB of a second: two cores have time for it.
const RATE: u64 = 20_000_000;

#[test]
fn net_every_client_gets_every_block() -> Result<()> {
    network::own()?;
    run!("ip", "route", "add", "239.0.0.0/8", "dev", "lo")?;
    let server = Server::start(Arc::new(Known(BLOCKS)), Ipv4Addr::LOCALHOST, RATE)?;
    let image: usize =
        Known(BLOCKS).lengths().iter().map(|len| (*len as usize).div_ceil(SYMBOL)).sum();
    let times = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|number| {
                let server = &server;
                scope.spawn(move || match number {
                    // This one comes when half is over.
                    6 => {
                        std::thread::sleep(Duration::from_millis(800));
                        client(server, &[], 16)
                    }
                    // This one has most already.
                    7 => client(server, &(0..BLOCKS - 2).collect::<Vec<_>>(), 16),
                    _ => client(server, &[], 16),
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    let sent = server.sent().packets as f64 / image as f64;
    println!("{sent:.3} of the image, {times:.2?}");
    ensure!(sent < 1.8, "{sent}");
    let began = Instant::now();
    while !server.clients().is_empty() {
        ensure!(began.elapsed() < Duration::from_secs(5), "{:?}", server.clients());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
