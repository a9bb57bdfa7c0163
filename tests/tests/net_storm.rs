//! `keiki serve` in a storm: a thousand clients of TFTP and a thousand of HTTP at once, most of which do not behave, while malformed packets
//! come as fast as they can be sent, and a machine is restored by multicast.

#![allow(clippy::print_stdout, reason = "a test says how long things took")]

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use image_core::exec::real::Machine;
use image_core::units::Bytes;
use keiki_tests::network::{self, Neighbour};
use keiki_tests::room::insider::Session;
use keiki_tests::room::{REPO, Room};
use keiki_tests::storm::{self, Fetch, Process};
use keiki_tests::{bench, call, fixtures, keiki, run, serving, sparse, tool};

/// What the server may take, in KiB.
const MEMORY: u64 = 300 << 10;
/// Threads that it may have.
const THREADS: u64 = 64;

/// Clients and their work, and what was found wrong.
struct Work<'s, 'e> {
    scope: &'s Scope<'s, 'e>,
    wrong: &'s Mutex<Vec<String>>,
}

impl<'s> Work<'s, '_> {
    /// Begins some work; thousands of threads take no more memory than they need.
    fn begin(&self, what: &'static str, work: impl FnOnce() -> Result<()> + Send + 's) {
        let wrong = self.wrong;
        let work = move || {
            if let Err(error) = work() {
                let mut wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner);
                wrong.push(format!("{what}: {error:#}"));
            }
        };
        let thread = thread::Builder::new().stack_size(512 << 10);
        thread.spawn_scoped(self.scope, work).map(drop).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The address that a DHCP client gets at that machine.
fn address(machine: &Neighbour) -> Result<String> {
    let asks =
        call!("busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "20", "-s", "/bin/true");
    let outcome = tool::outcome(&machine.call(&asks))?;
    let said = format!("{}{}", outcome.text(), outcome.talk());
    let lease = said.split("lease of ").nth(1).and_then(|rest| rest.split_whitespace().next());
    Ok(lease.with_context(|| said.clone())?.to_owned())
}

/// What a client that knows nothing of the server's files gets.
fn fetched(machine: &Neighbour, folder: &Path, name: &str) -> Result<Vec<u8>> {
    let out = folder.join("fetched");
    machine.run(&call!("curl", "-sS", "--fail", "-o", &out, format!("http://10.77.0.1/{name}")))?;
    Ok(fs::read(out)?)
}

/// How long packets come as fast as they can be sent.
const FLOOD: Duration = Duration::from_secs(8);

/// So many clients of each protocol; those that do nothing stay for so long at least.
fn storm(clients: usize, lasts: Duration) -> Result<()> {
    serving::prepare()?;
    let _alone = fixtures::exclusive("storm")?;
    let room = Room::new(48)?;
    let id = room.id()?;
    network::own()?;
    network::cable()?;
    let machine = Neighbour::new()?;
    machine.address(200)?;
    // As service managers start programs: with few descriptors, of which there may be more.
    let options = ["--dhcp-range", "10.77.0.50-10.77.0.99", "--image", "lab", "--rate", "200"];
    let work = tempfile::tempdir()?;
    let serve = serving::call("br0", &options)?
        .env("KEIKI_REPO", room.repo())
        .env("KEIKI_STATE", work.path().join("state"));
    let mut few = call!("prlimit", "--nofile=1024:20000", &serve.program);
    (few.env, few.args) = (serve.env.clone(), [few.args, serve.args].concat());
    let mut server = Machine.spawn(&few)?;
    while !server.answer()?.contains("Ctrl-C ends this") {}
    let process = Process(server.id());
    let lines = thread::spawn(move || {
        while server.answer().is_ok_and(|line| !line.is_empty()) {}
        server.finish(Duration::from_secs(60))
    });

    let kernel = fetched(&machine, work.path(), "boot/vmlinuz")?;
    let loader = fetched(&machine, work.path(), "shimx64.efi")?;
    let pack = fs::read_dir(room.repo().join("packs"))?.next().context("a pack")??;
    let bytes = fs::read(pack.path())?;
    let name = format!("repo/packs/{}", pack.file_name().to_string_lossy());
    let files = [
        Fetch { name: "boot/vmlinuz", bytes: &kernel },
        Fetch { name: &name, bytes: &bytes },
        Fetch { name: "shimx64.efi", bytes: &loader },
    ];
    let (own, began) = (address(&machine)?, process.descriptors()?);
    println!("before: {} MiB, {began} descriptors", process.status("VmHWM")? >> 10);

    blow(&machine, files, &id, (clients, lasts, process))?;

    let until = Instant::now() + Duration::from_secs(60);
    while process.descriptors()? > began {
        ensure!(Instant::now() < until, "{} descriptors", process.descriptors()?);
        thread::sleep(Duration::from_millis(100));
    }
    ensure!(address(&machine)? == own, "it had {own}");
    let (memory, threads) = (process.status("VmHWM")?, process.status("Threads")?);
    println!("after: {} MiB, {threads} threads", memory >> 10);
    ensure!(fetched(&machine, work.path(), "boot/vmlinuz")? == kernel);
    ensure!(fetched(&machine, work.path(), "board")?.starts_with(b"<!DOCTYPE"));
    ensure!(memory < MEMORY, "{memory} KiB");
    run!("kill", "-INT", process.0.to_string())?;
    let end = lines.join().map_err(|_| anyhow!("a thread panicked"))??;
    ensure!(end.success(), "{:?}: {}", end.code, end.talk());
    Ok(())
}

/// All of them at once; returns when all that behave have what they wanted, and the others are gone.
fn blow(
    machine: &Neighbour,
    [kernel, pack, loader]: [Fetch<'_>; 3],
    id: &str,
    (clients, lasts, process): (usize, Duration, Process),
) -> Result<()> {
    let (wrong, ends, calm) =
        (Mutex::new(Vec::new()), AtomicBool::new(false), AtomicBool::new(false));
    let (left, slowest) = (AtomicUsize::new(0), Mutex::new(Duration::ZERO));
    let began = Instant::now();
    let good = |took: Result<Duration>| {
        let mut slowest = slowest.lock().unwrap_or_else(PoisonError::into_inner);
        *slowest = took?.max(*slowest);
        Ok(())
    };
    thread::scope(|scope| {
        let work = Work { scope, wrong: &wrong };
        let (ends, calm, left, good) = (&ends, &calm, &left, &good);
        let all = scope.spawn(move || {
            machine.enter()?;
            let session = Session::joined(id)?;
            left.store(clients / 5 * 2 + clients / 2 + 1, Ordering::Relaxed);
            work.begin("restore", move || {
                let restored = restore(machine);
                left.fetch_sub(1, Ordering::Relaxed);
                restored
            });
            let say = |what, sent: Result<u64>| sent.map(|sent| println!("{sent} of {what}"));
            work.begin("DHCP", move || say("DHCP", storm::dhcp(calm)));
            work.begin("TFTP", move || say("TFTP", storm::tftp(calm)));
            work.begin("HTTP", move || say("HTTP", storm::http(calm)));
            work.begin("status", move || say("multicast", storm::multicast(&session, calm)));
            work.begin("join", move || say("numbers of a session", storm::joins(id, calm)));
            work.begin("calm", move || {
                thread::sleep(FLOOD);
                calm.store(true, Ordering::Relaxed);
                Ok(())
            });
            for number in 0..clients {
                work.begin("HTTP", move || match number % 5 {
                    0 => storm::silence(ends),
                    1 => storm::slow_head(number % 2 * 300_000, ends),
                    2 => {
                        let file = if number % 2 == 0 { kernel } else { pack };
                        file.http_slowly(number / 5 % 4 * 2000, ends)
                    }
                    _ => {
                        let file = match number % 40 {
                            3 => pack,
                            4 | 8 | 13 | 14 => kernel,
                            _ => loader,
                        };
                        let took = file.http();
                        left.fetch_sub(1, Ordering::Relaxed);
                        good(took)
                    }
                });
                work.begin("TFTP", move || match number % 2 {
                    0 => kernel.tftp_and_silence(ends),
                    _ => {
                        let took = loader.tftp();
                        left.fetch_sub(1, Ordering::Relaxed);
                        good(took)
                    }
                });
            }
            Ok::<_, anyhow::Error>(())
        });
        // Slow readers stay, some of them with a file of the repository.
        let began_all = all.join().map_err(|_| anyhow!("a thread panicked"))?;
        let watched =
            began_all.and_then(|()| watch(process, left, (began, lasts), clients * 3 / 10));
        ends.store(true, Ordering::Relaxed);
        watched
    })?;
    let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{:.0?} in all", began.elapsed());
    ensure!(wrong.is_empty(), "{} clients: {:?}", wrong.len(), wrong.get(..wrong.len().min(9)));
    println!(
        "the slowest of those that behaved took {:.1?}",
        slowest.into_inner().unwrap_or_default()
    );
    Ok(())
}

/// Looks at the server as long as somebody is `left` who behaves, and so long at least; then it is to have fewer than `few` descriptors,
/// where that was long enough for it to have enough of the others.
fn watch(
    process: Process,
    left: &AtomicUsize,
    (began, lasts): (Instant, Duration),
    few: usize,
) -> Result<()> {
    let (mut threads, mut most, mut open) = (0, 0, 0);
    while left.load(Ordering::Relaxed) > 0 || began.elapsed() < lasts {
        thread::sleep(Duration::from_millis(100));
        threads = process.status("Threads")?.max(threads);
        open = process.descriptors()?;
        most = open.max(most);
    }
    println!("at most {threads} threads and {most} descriptors; {open} in the end");
    ensure!(threads <= THREADS && (lasts == Duration::ZERO || open < few));
    Ok(())
}

/// Restores the image on the machine by multicast.
fn restore(machine: &Neighbour) -> Result<()> {
    let work = tempfile::tempdir()?;
    let mut restore = keiki!("--progress", "none", "--repo", REPO);
    let disk = work.path().join("disk");
    sparse::create(&disk, Bytes::mib(100))?;
    let words = bench::restore("lab", &[disk], "");
    restore.args.extend(words.split_whitespace().map(Into::into));
    let began = Instant::now();
    let end = Machine.spawn(&machine.call(&restore))?.finish(Duration::from_secs(90))?;
    println!("restored in {:.1?}; {}", began.elapsed(), end.talk());
    ensure!(end.success(), "{:?}: {}", end.code, end.talk());
    Ok(())
}

#[test]
fn net_a_storm_of_clients_and_malformed_packets() -> Result<()> {
    storm(1000, Duration::ZERO)
}

mod only_all {
    use super::*;

    /// Long enough for the server to have enough of those that do nothing.
    #[test]
    fn net_a_storm_that_does_not_end() -> Result<()> {
        storm(1000, Duration::from_secs(150))
    }
}
