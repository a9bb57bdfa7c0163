//! The drivers between a disk and the processor, from `/sys/class/block` and `/sys/devices`.

use std::io;
use std::path::Path;

/// The loadable kernel modules that drive `device`, the disk first: `sd_mod`, `ahci`. Empty for a loop device, and
/// where the running kernel has them all in itself.
///
/// # Errors
/// [`io::Error`] where there is no such device.
pub fn modules(device: &Path) -> io::Result<Vec<String>> {
    let node = device.canonicalize()?;
    let name = node.strip_prefix("/dev").unwrap_or(&node).to_string_lossy().replace('/', "!");
    let place = Path::new("/sys/class/block").join(name).canonicalize()?;
    let mut modules = Vec::new();
    for folder in place.ancestors().take_while(|folder| folder.starts_with("/sys/devices/")) {
        let module = std::fs::canonicalize(folder.join("driver/module"));
        // Only a module that was loaded has a state.
        let loaded = module.ok().filter(|module| module.join("initstate").exists());
        let name = loaded.and_then(|module| Some(module.file_name()?.to_str()?.replace('-', "_")));
        modules.extend(name.filter(|name| !modules.contains(name)));
    }
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::modules;

    #[test]
    fn what_is_no_device_is_an_error() {
        assert!(modules(Path::new("/dev/null")).is_err());
        assert!(modules(Path::new("/nowhere")).is_err());
    }
}
