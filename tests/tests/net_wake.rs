//! A machine that is switched off hears the packet that wakes it, as its adapter does: from every frame that comes.

use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use keiki_tests::network::{self, Neighbour};
use netboot::event::Mac;
use netboot::{interface, wake};

#[test]
fn net_a_machine_that_is_off_hears_that_it_is_woken() -> Result<()> {
    network::own()?;
    network::cable()?;
    // It has no address, as a machine that is off.
    let machine = Neighbour::new()?;
    let mac = Mac([0x52, 0x54, 0, 0x77, 0, 9]);
    let expected = [vec![0xff; 6], mac.0.repeat(16)].concat();
    let heard = machine.hears(expected, Duration::from_secs(20))?;
    let here = interface::choose(Some("br0"))?;
    // A cable that was just plugged in carries nothing for a moment.
    while !heard.is_finished() {
        wake::send(&here, mac)?;
        thread::sleep(Duration::from_millis(200));
    }
    let frame = heard.join().map_err(|_| anyhow!("a thread panicked"))??;
    let (to, protocol) = (frame.get(..6), frame.get(12..14));
    ensure!(to == Some(&[0xff; 6]) && protocol == Some(&[8, 0]), "{frame:x?}");
    ensure!(frame.get(36..38) == Some(&[0, 9]), "the port of {frame:x?}");
    Ok(())
}
