//! A session of mass restore over real sockets: every client gets every block, whoever comes late or goes.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use image_core::error::Error;
use keiki_tests::{network, run};
use netboot::multicast::blocks::Blocks;
use netboot::multicast::client::Listener;
use netboot::multicast::pace::Pace;
use netboot::multicast::server::{IMAGE, Server, Source};
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

/// One client: takes all blocks, but for those that it `has`; how long that took from when it had joined.
fn client(server: &Server, has: &[u32], room: u32) -> Result<Duration> {
    let lengths = Known(BLOCKS).lengths();
    let mut blocks = Blocks::none(BLOCKS);
    for block in has {
        blocks.add(*block);
    }
    let listener = Listener::new(server.terms().clone())?;
    let began = Instant::now();
    let client = listener.start(server.join(), lengths, blocks, room)?;
    for _ in has.len()..BLOCKS as usize {
        let came = client.next(PATIENCE)?;
        let (number, block) = came.ok_or_else(|| anyhow::anyhow!("nothing came"))?;
        ensure!(block.whole().as_deref() == Some(Known::block(number).as_slice()), "{number}");
        ensure!(!has.contains(&number), "{number} was not wanted");
        client.written();
    }
    Ok(began.elapsed())
}

/// Waits for all clients; what each of them says.
fn ended<T>(clients: Vec<ScopedJoinHandle<'_, Result<T>>>) -> Result<Vec<T>> {
    let said = |client: ScopedJoinHandle<'_, Result<T>>| {
        client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?
    };
    clients.into_iter().map(said).collect()
}

const BLOCKS: u32 = 32;
/// How long nothing may come; no figure, only the end of a test that hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// 20 MB of a second: two cores have time for it.
const RATE: u64 = 20_000_000;

/// Symbols of all blocks.
fn image() -> usize {
    Known(BLOCKS).lengths().iter().map(|len| (*len as usize).div_ceil(SYMBOL)).sum()
}

#[test]
fn net_every_client_gets_every_block() -> Result<()> {
    network::own()?;
    run!("ip", "route", "add", "239.0.0.0/8", "dev", "lo")?;
    let server =
        Server::start(Arc::new(Known(BLOCKS)), (Ipv4Addr::LOCALHOST, IMAGE), &Pace::new(RATE))?;
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
        ended(clients)
    })?;
    let sent = server.sent().packets as f64 / image() as f64;
    println!("{sent:.3} of the image, {times:.2?}");
    ensure!(sent < 1.8, "{sent}");
    let began = Instant::now();
    while !server.clients().is_empty() {
        ensure!(began.elapsed() < Duration::from_secs(5), "{:?}", server.clients());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The same blocks, one of which takes long, and one of which cannot be read the first time.
struct Slow(AtomicBool);

impl Source for Slow {
    fn lengths(&self) -> Vec<u32> {
        Known(BLOCKS).lengths()
    }

    fn read(&self, block: u32) -> image_core::error::Result<Vec<u8>> {
        if block == 20 {
            std::thread::sleep(Duration::from_secs(4));
        }
        if block == 10 && !self.0.swap(true, Ordering::Relaxed) {
            return Err(Error::io("disk", "read", std::io::ErrorKind::Other.into()));
        }
        Known(BLOCKS).read(block)
    }
}

/// Who waits for a disk still speaks, and so nobody leaves; what cannot be read is no loss on the way.
#[test]
fn net_a_server_that_waits_for_its_disk_still_speaks() -> Result<()> {
    network::own()?;
    run!("ip", "route", "add", "239.0.0.0/8", "dev", "lo")?;
    let source = Arc::new(Slow(AtomicBool::new(false)));
    let server = Server::start(source, (Ipv4Addr::LOCALHOST, IMAGE), &Pace::new(RATE))?;
    let listener = Listener::new(server.terms().clone())?;
    let lengths = Known(BLOCKS).lengths();
    let client = listener.start(server.join(), lengths, Blocks::none(BLOCKS), BLOCKS)?;
    let (began, mut order, mut loss) = (Instant::now(), Vec::new(), 0.0_f32);
    while order.len() < BLOCKS as usize {
        ensure!(began.elapsed() < PATIENCE, "{order:?}");
        order.extend(client.next(Duration::from_millis(100))?.map(|(number, _)| number));
        ensure!(client.is_deaf_for() < Duration::from_secs(1), "{order:?}");
        loss = server.clients().iter().map(|seen| seen.loss).fold(loss, f32::max);
    }
    println!("{order:?}, {loss} lost, {:?}: {:?}", began.elapsed(), server.news());
    ensure!(order.iter().position(|one| *one == 10) > Some(10), "it was sent in its turn");
    ensure!(loss < 0.2 && server.sent().unreadable == 0, "{loss}");
    Ok(())
}

mod only_all {
    use keiki_tests::network::{HERE, Neighbour};
    use keiki_tests::simulator::{Machine, Outcome, SOUND, Scene, play};

    use super::*;

    /// What the cable carries in a second, in bytes: so little that two cores are no limit for 32 clients.
    const CABLE: u64 = 50_000_000 / 8;
    /// What a packet with a symbol takes of it, the gap behind it included.
    const PACKET: u64 = 1538;
    /// Blocks for which a client has memory.
    const ROOM: u32 = 64;

    /// A room by its name: how many clients there are, how many of a thousand packets they lose, and how many of them come how
    /// late, in milliseconds.
    const ROOMS: [(&str, usize, u32, (usize, u64)); 7] = [
        ("8", 8, 0, (0, 0)),
        ("16", 16, 0, (0, 0)),
        ("32", 32, 0, (0, 0)),
        ("8, 1 % lost", 8, 10, (0, 0)),
        ("8, 5 % lost", 8, 50, (0, 0)),
        ("32, 1 % lost", 32, 10, (0, 0)),
        ("8, 1 % lost, two come when half is over", 8, 10, (2, 3000)),
    ];

    /// What was sent, of the image, when each client had joined, and how long it took from then, in seconds.
    fn real(machines: &[Machine], lost: u32) -> Result<(f64, Vec<f64>, Vec<f64>)> {
        network::own()?;
        network::switch()?;
        let neighbours = (0..machines.len())
            .map(|number| {
                let neighbour = Neighbour::plugged(&format!("port{number}"))?;
                neighbour.address(u8::try_from(number + 100)?)?;
                if lost > 0 {
                    neighbour.lose(lost)?;
                }
                Ok(neighbour)
            })
            .collect::<Result<Vec<_>>>()?;
        let server = Server::start(Arc::new(Known(BLOCKS)), (HERE, IMAGE), &Pace::new(CABLE))?;
        let began = Instant::now();
        let ended = std::thread::scope(|scope| {
            let clients: Vec<_> = machines
                .iter()
                .zip(&neighbours)
                .map(|(machine, neighbour)| {
                    let server = &server;
                    scope.spawn(move || {
                        neighbour.enter()?;
                        std::thread::sleep(Duration::from_secs_f64(machine.joins));
                        let took = client(server, &[], ROOM)?;
                        Ok((took, began.elapsed()))
                    })
                })
                .collect();
            ended(clients)
        })?;
        let sent = server.sent().packets as f64 / image() as f64;
        let first = ended.iter().map(|(took, end)| *end - *took).min().unwrap_or_default();
        let one = |(took, end): &(Duration, Duration)| {
            ((*end - *took - first).as_secs_f64(), took.as_secs_f64())
        };
        let (joined, times) = ended.iter().map(one).unzip();
        Ok((sent, joined, times))
    }

    fn mean(of: impl ExactSizeIterator<Item = f64>) -> f64 {
        let count = of.len() as f64;
        of.sum::<f64>() / count
    }

    /// What is simulated is what happens: bytes within a hundredth, times within a twentieth.
    #[test]
    fn net_sessions_are_as_the_simulator_says() -> Result<()> {
        println!(
            "| clients | sent, simulated | real | time, simulated | real |\n|---|---|---|---|---|"
        );
        let mut wrong = Vec::new();
        for (name, count, lost, (late, joins)) in ROOMS {
            let machine = |at: usize| Machine {
                loss: f64::from(lost) / 1000.0,
                joins: if at + late < count { 0.0 } else { joins as f64 / 1000.0 },
                ..SOUND
            };
            let mut machines: Vec<Machine> = (0..count).map(machine).collect();
            let (really_sent, joined, times) = real(&machines, lost)?;
            // Threads do not begin at the same moment.
            for (machine, joined) in machines.iter_mut().zip(joined) {
                machine.joins = joined;
            }
            let rate = CABLE as f64 / PACKET as f64;
            let scene = |seed| Scene { blocks: BLOCKS, rate, room: ROOM, seed, gathers: true };
            let played: Vec<Outcome> = (0..9).map(|seed| play(&scene(seed), &machines)).collect();
            let sent = mean(played.iter().map(|outcome| outcome.sent));
            let one = |outcome: &Outcome| {
                mean(outcome.times.iter().map(|time| time.unwrap_or(f64::INFINITY)))
            };
            let time = mean(played.iter().map(one)) * scene(0).ideal();
            let really = mean(times.into_iter());
            println!("| {name} | {sent:.3} | {really_sent:.3} | {time:.2} s | {really:.2} s |");
            if (really_sent / sent - 1.0).abs() > 0.01 || (really / time - 1.0).abs() > 0.05 {
                wrong.push(name);
            }
        }
        ensure!(wrong.is_empty(), "{wrong:?}");
        Ok(())
    }
}
