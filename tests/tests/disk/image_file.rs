//! A sparse file to write tables and signatures into, and the tools that judge it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use image_core::disk::table::Table;
use image_core::error::{Error, Result};
use image_core::exec::real::Machine;
use image_core::exec::{Call, Outcome, Runner};
use image_core::io::BlockSource;
use image_core::units::Bytes;
use tempfile::TempDir;

/// A file of a size, deleted with this value.
pub struct ImageFile {
    folder: TempDir,
    file: File,
    sector: Bytes,
}

impl ImageFile {
    /// Zeros, counted in `sector`s.
    pub fn new(size: Bytes, sector: Bytes) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create_new(folder.path().join("disk")).unwrap();
        file.set_len(size.get()).unwrap();
        let file = File::options().read(true).write(true).open(folder.path().join("disk")).unwrap();
        Self { folder, file, sector }
    }

    /// The table's image on zeros.
    pub fn with_table(table: &Table, size: Bytes, sector: Bytes) -> Self {
        let file = Self::new(size, sector);
        let image = table.image(size, sector).unwrap();
        for (at, bytes) in [image.backup, image.primary, image.ebr, vec![image.mbr_sector]].concat()
        {
            file.write(at, &bytes);
        }
        file
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    pub fn write(&self, at: Bytes, bytes: &[u8]) {
        self.file.write_all_at(bytes, at.get()).unwrap();
    }

    /// Runs a tool; its arguments in words, `FILE` standing for the path.
    pub fn tool(&self, line: &str) -> Outcome {
        tool(line, &self.path())
    }

    /// Runs a tool that must succeed, and returns what it printed.
    pub fn check(&self, line: &str) -> String {
        let outcome = self.tool(line);
        assert!(outcome.success(), "{line}: {}", outcome.talk());
        outcome.text()
    }
}

/// Runs a tool on `file`, which stands for `FILE` in `line`.
pub fn tool(line: &str, file: &Path) -> Outcome {
    let mut words = line.split(' ').map(|word| match word {
        "FILE" => file.as_os_str().to_owned(),
        // Names with spaces are not needed; an empty argument is.
        "''" => String::new().into(),
        word => word.into(),
    });
    let program = words.next().unwrap();
    let name = program.to_string_lossy();
    assert!(Machine.find(&name).is_some(), "{name} is not installed: scripts/install brings it");
    Machine.run(&Call::new(program, words)).unwrap()
}

impl BlockSource for ImageFile {
    fn name(&self) -> String {
        "disk".to_owned()
    }
    fn size(&self) -> Bytes {
        Bytes::new(self.file.metadata().unwrap().len())
    }
    fn sector_size(&self) -> Bytes {
        self.sector
    }
    fn read_at(&self, offset: Bytes, buffer: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(buffer, offset.get())
            .map_err(|source| Error::io_at("disk", "read", offset, source))
    }
}
