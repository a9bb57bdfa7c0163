//! The hidden verb: serves a volume to a filesystem's own tools or the kernel, as a child of another verb.

use std::io::BufReader;
use std::path::Path;

use anyhow::Context;
use image_core::exec::Call;

use crate::exit::Exit;
use crate::output;

/// What starts it.
///
/// # Errors
/// This program's own file is not to be found.
pub fn server() -> anyhow::Result<Call> {
    let program = std::env::current_exe().context("cannot find this program itself")?;
    Ok(Call::new(program, ["__serve-view"]))
}

/// Serves until it is unmounted; the exit code tells the parent whether everything became durable.
pub fn run(mountpoint: &Path) -> Exit {
    let orders = BufReader::new(std::io::stdin());
    match image_core::view::serve(orders, std::io::stdout(), mountpoint) {
        Ok(()) => Exit::Done,
        Err(error) => {
            output::talk(&error.to_string());
            Exit::Failed
        }
    }
}
