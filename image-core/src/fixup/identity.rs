//! A filesystem's own UUID: changed by its tools, after its files.
//!
//! ext is checked before and after by e2fsck, as tune2fs asks for. XFS was mounted before, for its files: that
//! replayed its log, which xfs_admin wants to be clean.

use std::path::Path;

use super::{References, Renewal, Renewed, files};
use crate::error::Result;
use crate::exec::{Call, Runner};
use crate::grow;
use crate::view::OpenView;

/// Rewrites the references in the filesystem's files, then changes its UUID.
pub(super) fn renew(
    runner: &dyn Runner,
    view: &OpenView,
    renewal: &Renewal,
    references: &References,
) -> Result<Renewed> {
    let path = view.path();
    if renewal.content == "xfs" {
        // Its source may be mounted here, under the same UUID.
        let renewed =
            view.mounted("xfs", "nouuid", false, |root| files::rewrite(root, references))?;
        let Some(uuid) = &renewal.uuid else { return Ok(renewed) };
        runner.check(&Call::new("xfs_admin", ["-U".as_ref(), uuid.as_ref(), path.as_os_str()]))?;
        // And it is sound under that.
        view.mounted("xfs", "", true, |_| Ok(()))?;
        return Ok(renewed);
    }
    grow::ext::check(runner, &path)?;
    let renewed = view.mounted("ext4", "", false, |root| files::rewrite(root, references))?;
    grow::ext::check(runner, &path)?;
    tune2fs(runner, renewal, &path)?;
    grow::ext::check(runner, &path)?;
    Ok(renewed)
}

fn tune2fs(runner: &dyn Runner, renewal: &Renewal, path: &Path) -> Result<()> {
    let mut call = Call::new("tune2fs", [""; 0]);
    if let Some(uuid) = &renewal.uuid {
        call.args.extend(["-U".into(), uuid.into()]);
    }
    let last_mounted = renewal.last_mounted.clone().unwrap_or_default();
    call.args.extend(["-M".into(), last_mounted.into(), path.into()]);
    runner.check(&call).map(drop)
}
