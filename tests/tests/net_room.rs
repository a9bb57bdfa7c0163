//! Many machines are restored at once from `keiki serve`: real processes, each in its own network at one switch.

#![allow(clippy::print_stdout, reason = "a test says how long things took")]

use anyhow::{Result, ensure};
use keiki_tests::room::{Client, Room};

#[test]
fn net_a_room_with_loss_a_latecomer_and_one_that_is_killed() -> Result<()> {
    let mut clients = [Client { lost: 10, ..Client::default() }; 8];
    clients[4].late = 2000;
    clients[5].killed = Some(1500);
    clients[6] = Client { killed: Some(2000), comes_again: true, ..clients[6] };
    clients[7].larger = 64;
    let outcome = Room::new(32)?.play(100, &clients)?;
    println!("{outcome:.2?}");
    let done = outcome.times.iter().flatten().count();
    ensure!(done == 7, "{done}");
    Ok(())
}
