//! The programs of a system that make its initramfs, run in it.

use std::path::Path;

use super::facts::Builder;
use crate::error::{Error, Result};
use crate::exec::{Call, Runner};
use crate::fixup::root::Root;

/// Read last of the files of its folder; gone again afterwards. initramfs.conf(5): `MODULES=most` is every driver that
/// a disk may need.
const EVERY_DRIVER: [&str; 2] = ["etc/initramfs-tools/conf.d/zzz-keiki", "MODULES=most\n"];

impl Builder {
    /// What is run.
    fn command(self) -> &'static [&'static str] {
        match self {
            Self::UpdateInitramfs => &["update-initramfs", "-u", "-k", "all"],
            Self::Dracut => &["dracut", "--force", "--no-hostonly", "--regenerate-all"],
            Self::Mkinitcpio => &["mkinitcpio", "-P"],
        }
    }

    /// The same as a person would type it.
    pub(super) fn line(self) -> String {
        self.command().join(" ")
    }
}

/// Makes every initramfs of the system on `folder` anew; why it could not be done, where the system's program says so.
///
/// # Errors
/// [`Error::Io`] where the filesystem cannot be written or nothing can be started.
pub(super) fn build(
    runner: &dyn Runner,
    builder: Builder,
    folder: &Path,
) -> Result<Option<String>> {
    let root = Root::of(folder)?;
    let [name, text] = EVERY_DRIVER;
    let forces = builder == Builder::UpdateInitramfs;
    if forces {
        root.remove(name)?;
        root.create(name, text.as_bytes())?;
    }
    let mut call = Call::new("chroot", [folder.as_os_str()]);
    call.args.extend(builder.command().iter().map(Into::into));
    // The rest of the environment is that of this machine.
    for (variable, value) in [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("TMPDIR", "/var/tmp"),
        ("SHELL", "/bin/sh"),
    ] {
        call = call.env(variable, value);
    }
    let outcome = runner.run(&call);
    if forces {
        root.remove(name)?;
    }
    let outcome = outcome?;
    if outcome.success() {
        return Ok(None);
    }
    let Error::Io { source, .. } = outcome.failure(&builder.line()) else {
        return Ok(Some(builder.line()));
    };
    Ok(Some(source.to_string()))
}
