//! What can go wrong around the program.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use image_core::exec::Call;
use keiki_tests::faults::{Fault, Faulty, How, Op};
use keiki_tests::scenes::{Scene, Stage};
use keiki_tests::tool;
use rustix::io::Errno;
use rustix::process::Signal;

/// One thing that goes wrong, at one place.
#[derive(Debug)]
pub struct Trouble {
    what: &'static str,
    /// How the path begins; also the place as people read it.
    place: &'static str,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// These calls fail: from some call on so many of them.
    Calls(&'static [Op], Fate, u64),
    /// These bytes cannot be read, for ever.
    BadSectors(std::ops::Range<u64>),
    /// Whoever makes some call gets a signal.
    Signal(Signal),
    /// Standard output, as bash makes it, goes nowhere.
    Output(&'static str),
    /// This machine's clock is another: faketime(1) shifts it.
    Clock(&'static str),
    /// The clock of whoever keeps the files is ahead by so many days, or behind.
    ClockThere(i64),
}

/// [`How`], as a constant.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Fails(Errno),
    NoSpace,
    Half,
    Ends,
}

use Fate::{Ends, Fails, Half, NoSpace};
use Op::{Create, Flush, FlushFolder, List, Look, Open, OpenToWrite, Read, Resize, Write};

const ALWAYS: u64 = u64::MAX;
const FLUSHES: &[Op] = &[Flush, FlushFolder];
const DENIED: &[Op] = &[Open, OpenToWrite, Create, List];

const fn calls(
    what: &'static str,
    place: &'static str,
    on: &'static [Op],
    fate: Fate,
    times: u64,
) -> Trouble {
    Trouble { what, place, kind: Kind::Calls(on, fate, times) }
}

const fn other(what: &'static str, kind: Kind) -> Trouble {
    Trouble { what, place: "", kind }
}

/// In the noise of the source's second partition.
const BAD: std::ops::Range<u64> = 5 << 20..(5 << 20) + 2048;

/// Every trouble, in the order of the table.
pub const TROUBLES: [Trouble; 41] = [
    calls("no space", "repo", &[Write, Resize, Create], NoSpace, ALWAYS),
    calls("no space", "target", &[Write, Resize], NoSpace, ALWAYS),
    Trouble { what: "bad sectors", place: "source", kind: Kind::BadSectors(BAD) },
    calls("EIO on read, once", "source", &[Read], Fails(Errno::IO), 1),
    calls("EIO on read", "source", &[Read], Fails(Errno::IO), ALWAYS),
    calls("EIO on read", "repo", &[Read], Fails(Errno::IO), ALWAYS),
    calls("EIO on read, once", "repo", &[Read], Fails(Errno::IO), 1),
    calls("EIO on read", "target", &[Read], Fails(Errno::IO), ALWAYS),
    calls("EIO on write, once", "repo", &[Write], Fails(Errno::IO), 1),
    calls("EIO on write, once", "target", &[Write], Fails(Errno::IO), 1),
    calls("EIO on flush, once", "repo", FLUSHES, Fails(Errno::IO), 1),
    calls("EIO on flush, once", "target", FLUSHES, Fails(Errno::IO), 1),
    calls("EIO on rename, once", "repo", &[Op::Rename], Fails(Errno::IO), 1),
    calls("EIO on rename, once", "target", &[Op::Rename], Fails(Errno::IO), 1),
    calls("EIO on removal, once", "repo", &[Op::Remove], Fails(Errno::IO), 1),
    calls("EIO on removal, once", "target", &[Op::Remove], Fails(Errno::IO), 1),
    calls("EIO on listing, once", "repo", &[List], Fails(Errno::IO), 1),
    calls("EIO on listing, once", "target", &[List], Fails(Errno::IO), 1),
    calls("short reads", "source", &[Read], Half, ALWAYS),
    calls("short reads", "repo", &[Read], Half, ALWAYS),
    calls("short reads", "target", &[Read], Half, ALWAYS),
    calls("short writes", "repo", &[Write], Half, ALWAYS),
    calls("short writes", "target", &[Write], Half, ALWAYS),
    calls("cut short", "source", &[Read], Ends, ALWAYS),
    calls("cut short", "repo", &[Read], Ends, ALWAYS),
    calls("cut short", "target", &[Read], Ends, ALWAYS),
    calls("vanished", "source", &[Look, Open], Fails(Errno::NOENT), ALWAYS),
    calls("vanished", "repo/packs/", &[Look, Open], Fails(Errno::NOENT), ALWAYS),
    calls("vanished", "target", &[Look, OpenToWrite, Open], Fails(Errno::NOENT), ALWAYS),
    calls("read-only", "repo", &Op::CHANGES, Fails(Errno::ROFS), ALWAYS),
    calls("read-only", "target", &Op::CHANGES, Fails(Errno::ROFS), ALWAYS),
    calls("no permission", "source", DENIED, Fails(Errno::ACCESS), ALWAYS),
    calls("no permission", "repo", DENIED, Fails(Errno::ACCESS), ALWAYS),
    calls("no permission", "target", DENIED, Fails(Errno::ACCESS), ALWAYS),
    // The reader of the pipe is gone.
    other("stdout closed", Kind::Output("exec 3> >(exec true); wait $!; exec >&3 3>&-")),
    other("stdout full", Kind::Output("exec >/dev/full")),
    other("SIGINT", Kind::Signal(Signal::INT)),
    other("SIGTERM", Kind::Signal(Signal::TERM)),
    other("clock a year back", Kind::Clock("-365d")),
    other("clock a year ahead", Kind::Clock("+365d")),
    Trouble { what: "clock a year ahead", place: "repo", kind: Kind::ClockThere(365) },
];

impl Trouble {
    /// As people read it.
    pub fn name(&self) -> String {
        let place = match self.place {
            "repo" => "repository",
            "repo/packs/" => "packs",
            place => place,
        };
        let gap = if place.is_empty() { "" } else { ", " };
        format!("{}{gap}{place}", self.what)
    }

    fn fault(&self) -> Option<Fault> {
        let (on, how, times): (&[Op], How, u64) = match &self.kind {
            Kind::Calls(on, fate, times) => {
                let how = match fate {
                    Fails(error) => How::Fails(*error),
                    NoSpace => How::NoSpace,
                    Half => How::Half,
                    Ends => How::Ends,
                };
                (on, how, *times)
            }
            Kind::BadSectors(bytes) => {
                let fault = Fault::new(&[Read], self.place, How::Fails(Errno::IO));
                return Some(fault.at(bytes.clone()));
            }
            Kind::Signal(signal) => (&Op::ALL, How::Signals(*signal), 1),
            _ => return None,
        };
        Some(Fault { times, ..Fault::new(on, self.place, how) })
    }

    /// Whether it matters which call is hit.
    pub fn has_points(&self) -> bool {
        let always = matches!(self.kind, Kind::Calls(_, Half, _) | Kind::BadSectors(_));
        !always && self.fault().is_some()
    }

    /// Whether the verb cannot have done what was asked for.
    pub fn never_well(&self) -> bool {
        matches!(self.kind, Kind::Output(_))
    }

    /// How many calls of an undisturbed `scene` it may hit.
    pub fn calls(&self, scene: Scene) -> Result<u64> {
        let Some(fault) = self.fault() else { return Ok(1) };
        let stage = Stage::new()?;
        let faulty = Faulty::new(stage.folder())?;
        faulty.fail(vec![fault.between(ALWAYS, 0)]);
        let outcome = tool::outcome(&scene.call(faulty.folder()))?;
        ensure!(outcome.code == Some(0), "{}: {}", scene.name, outcome.talk());
        faulty.met().first().copied().context("no fault")
    }

    /// It begins, `after` so many calls.
    pub fn begin(&self, faulty: &Faulty, after: u64) {
        if let Some(fault) = self.fault() {
            let times = fault.times;
            faulty.fail(vec![fault.between(after, times)]);
        }
        if let Kind::ClockThere(days) = self.kind {
            let shift = Duration::from_secs(days.unsigned_abs() * 86_400);
            let (ahead, behind) =
                if days > 0 { (shift, Duration::ZERO) } else { (Duration::ZERO, shift) };
            faulty.shift_clock(ahead, behind);
        }
    }

    /// It is over.
    pub fn end(&self, faulty: &Faulty) {
        faulty.fail(Vec::new());
    }

    /// The verb's call; killed where it takes a minute.
    pub fn call(&self, scene: Scene, folder: &Path) -> Call {
        let bounded = "exec timeout --signal=KILL 60 \"$@\"";
        match self.kind {
            Kind::Output(redirected) => scene.within(folder, &format!("{redirected}; {bounded}")),
            Kind::Clock(shift) => {
                let shifted = format!("exec timeout --signal=KILL 60 faketime -f {shift} \"$@\"");
                scene
                    .within(folder, &shifted)
                    .env("NO_FAKE_STAT", "1")
                    .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            }
            _ => scene.within(folder, bounded),
        }
    }
}
