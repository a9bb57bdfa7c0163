//! A machine in a temporary folder: `sys` and `proc` as a test wants them.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The folder that stands for `/`.
pub struct Tree(TempDir);

/// One device of it.
pub struct FakeDevice(PathBuf);

impl Tree {
    /// No devices, no mounts, no swap.
    pub fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(tree.0.path().join("sys/class/block")).unwrap();
        tree.write("proc/self/mountinfo", "");
        tree.write("proc/swaps", "Filename Type Size Used Priority\n");
        tree
    }

    /// The root.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The folder of sysfs.
    pub fn sys(&self) -> PathBuf {
        self.0.path().join("sys")
    }

    /// Writes a file, with its folders.
    pub fn write(&self, path: &str, text: &str) {
        write(&self.0.path().join(path), text);
    }

    /// A disk of `sectors` x 512 bytes.
    pub fn disk(&self, name: &str, number: &str, sectors: u64) -> FakeDevice {
        self.device(&format!("devices/{name}"), number, sectors)
    }

    /// A partition, named as the kernel does it: `sdx1`, `md7p1`.
    pub fn partition(&self, disk: &str, index: u32, number: &str, start: u64, sectors: u64) {
        let between = if disk.ends_with(|char: char| char.is_ascii_digit()) { "p" } else { "" };
        self.device(&format!("devices/{disk}/{disk}{between}{index}"), number, sectors)
            .attribute("partition", &format!("{index}\n"))
            .attribute("start", &format!("{start}\n"));
    }

    /// Puts the device `upper` on `lower`.
    pub fn stack(&self, upper: &str, lower: &str) {
        self.write(&format!("sys/class/block/{lower}/holders/{upper}"), "");
        self.write(&format!("sys/class/block/{upper}/slaves/{lower}"), "");
    }

    fn device(&self, folder: &str, number: &str, sectors: u64) -> FakeDevice {
        let folder = self.sys().join(folder);
        let device = FakeDevice(folder.clone());
        device.attribute("dev", &format!("{number}\n")).attribute("size", &format!("{sectors}\n"));
        let link = self.sys().join("class/block").join(folder.file_name().unwrap());
        std::os::unix::fs::symlink(folder, link).unwrap();
        device
    }
}

impl FakeDevice {
    /// Writes one attribute.
    pub fn attribute(&self, name: &str, text: &str) -> &Self {
        write(&self.0.join(name), text);
        self
    }
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}
