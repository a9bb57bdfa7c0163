//! A machine that is switched off hears the packet that wakes it, as its adapter does: from every frame that comes.

use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use keiki_tests::network::{self, Neighbour};
use netboot::event::Mac;
use netboot::{interface, wake};
use socket2::{Domain, Protocol, Socket, Type};

/// All protocols (linux/if_ether.h), as the kernel wants it.
const ALL: i32 = 0x0003_u16.to_be() as i32;

#[test]
fn net_a_machine_that_is_off_hears_that_it_is_woken() -> Result<()> {
    network::own()?;
    network::cable()?;
    // It has no address, as a machine that is off.
    let machine = Neighbour::new()?;
    let mac = Mac([0x52, 0x54, 0, 0x77, 0, 9]);
    let expected = [vec![0xff; 6], mac.0.repeat(16)].concat();
    let frame = thread::scope(|scope| {
        let hears = scope.spawn(|| {
            machine.enter()?;
            let mut socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ALL)))?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            let (began, mut frame) = (Instant::now(), [0; 2048]);
            while began.elapsed() < Duration::from_secs(20) {
                let length = socket.read(&mut frame).unwrap_or(0);
                let frame = frame.get(..length).unwrap_or_default();
                if frame.ends_with(&expected) {
                    return Ok(Some(frame.to_vec()));
                }
            }
            Ok::<_, anyhow::Error>(None)
        });
        let here = interface::choose(Some("br0"))?;
        // A cable that was just plugged in carries nothing for a moment.
        while !hears.is_finished() {
            wake::send(&here, mac)?;
            thread::sleep(Duration::from_millis(200));
        }
        hears.join().map_err(|_| anyhow!("a thread panicked"))?
    })?;
    let frame = frame.context("nothing came")?;
    let (to, protocol) = (frame.get(..6), frame.get(12..14));
    ensure!(to == Some(&[0xff; 6]) && protocol == Some(&[8, 0]), "{frame:x?}");
    ensure!(frame.get(36..38) == Some(&[0, 9]), "the port of {frame:x?}");
    Ok(())
}
