//! Starts the programs that tests need.

use anyhow::{Result, ensure};
use image_core::exec::real::Machine;
use image_core::exec::{Call, Outcome, Runner};

/// Runs a program to its end, with anything that an `OsString` can be made of as arguments; returns its
/// standard output. Any end but exit code 0 is an error that quotes what it said.
#[macro_export]
macro_rules! run {
    ($program:expr $(, $arg:expr)* $(,)?) => {
        $crate::tool::run(&$crate::call!($program $(, $arg)*))
    };
}

/// A [`Call`] of a program, with anything that an `OsString` can be made of as arguments.
#[macro_export]
macro_rules! call {
    ($program:expr $(, $arg:expr)* $(,)?) => {{
        let args: Vec<std::ffi::OsString> = vec![$(std::ffi::OsString::from($arg)),*];
        image_core::exec::Call::new($program, args)
    }};
}

/// Runs `call` to its end and returns its standard output.
///
/// # Errors
/// A missing program, or any end but exit code 0.
pub fn run(call: &Call) -> Result<String> {
    installed(call)?;
    Ok(Machine.check(call)?.text())
}

/// Runs `call` to its end, however it ends.
///
/// # Errors
/// A missing program.
pub fn outcome(call: &Call) -> Result<Outcome> {
    installed(call)?;
    Ok(Machine.run(call)?)
}

fn installed(call: &Call) -> Result<()> {
    let program = call.program.to_string_lossy();
    ensure!(
        Machine.find(&program).is_some(),
        "{program} is not installed; scripts/install installs what the tests need"
    );
    Ok(())
}
