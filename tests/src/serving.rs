//! `keiki serve`, at the cable of [`network`].

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use image_core::exec::Call;
use image_core::exec::real::{Beside, Machine};

use crate::{fixtures, keiki, tool};

/// Fetches and builds what machines boot, outside of the test's network: in it there is no internet. What takes long is kept
/// with the fixtures; once for each build.
///
/// # Errors
/// `keiki serve --prepare` fails; the first time it needs a Debian mirror.
pub fn prepare() -> Result<()> {
    let program = fs::read(crate::binary::keiki())?;
    let name = format!("served-{}", &blake3::hash(&program).to_hex()[..16]);
    let make = |out: &Path| {
        let call = keiki!("--json", "serve", "--prepare")
            .env("XDG_CACHE_HOME", fixtures::folder()?.join("packages"));
        // Two at once would download the same.
        let _alone = fixtures::exclusive("packages")?;
        let made = tool::run(&call)?;
        Ok(fs::write(out, made)?)
    };
    fixtures::once(&name, make).map(drop)
}

/// The call that serves at an interface, with more options.
///
/// # Errors
/// There is no folder for fixtures.
pub fn call(interface: &str, options: &[&str]) -> Result<Call> {
    let mut call = keiki!("--progress", "none", "serve", "--interface", interface)
        .env("XDG_CACHE_HOME", fixtures::folder()?.join("packages"));
    call.args.extend(options.iter().map(Into::into));
    Ok(call)
}

/// Serves at an interface of this thread's network, with more options, until it is dropped; what happens are the lines
/// of its answers.
///
/// # Errors
/// It does not begin to.
pub fn serve(interface: &str, options: &[&str]) -> Result<Beside> {
    let call = call(interface, options)?;
    let _alone = fixtures::exclusive("packages")?;
    let mut server = Machine.spawn(&call)?;
    let said = server.answer()?;
    if !said.starts_with("Serving on") {
        let end = server.finish(Duration::from_secs(20))?;
        bail!("keiki serve: {said}{}", end.talk());
    }
    // What else is to be known stands between the first line and the last.
    while !server.answer()?.contains("Ctrl-C ends this") {}
    Ok(server)
}
