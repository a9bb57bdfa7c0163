//! The hidden verb: serves a volume of a restore target to a filesystem tool, as a child of `restore`.

use std::io::BufReader;
use std::path::Path;

use crate::exit::Exit;
use crate::output;

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
