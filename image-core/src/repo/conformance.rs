//! What every place for a repository must do, run on all of them.

use std::io::ErrorKind;
use std::sync::Arc;

use super::guest::Drafts;
use super::http::server::Server;
use super::read::{FileInfo, Read, is_missing};
use super::write::{Append, Session, Write};
use super::{Address, Http, ImageInfo, Local, Memory, Repository, sample};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::report::Quiet;
use crate::units::Bytes;

const MAX: Bytes = Bytes::mib(1);

/// Every way to read, with a way to write what is read there.
fn on_every_place(test: impl Fn(Arc<dyn Write>, Arc<dyn Read>)) {
    let folder = tempfile::tempdir().unwrap();
    let local = Arc::new(Local::new(folder.path().join("new/repository")));
    test(local.clone(), local);
    let memory = Arc::new(Memory::new());
    test(memory.clone(), memory);
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(folder.path(), |_| None);
    let address = Address::of(&server.address()).unwrap();
    test(Arc::new(Local::new(folder.path())), Arc::new(Http::new(&address).unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let local = Local::new(folder.path());
    let server = Server::new(folder.path(), |_| None);
    server.take(Drafts::new(Arc::new(local.clone())));
    let address = Address::of(&server.address()).unwrap();
    let written = Arc::new(Written(local, Http::new(&address).unwrap()));
    test(written.clone(), written);
}

/// What a server takes, but for its folders: a repository is made where it is kept.
struct Written(Local, Http);

impl Read for Written {
    fn location(&self) -> String {
        self.1.location()
    }

    fn get(&self, path: &str, max: Bytes) -> Result<Vec<u8>> {
        self.1.get(path, max)
    }

    fn range(&self, path: &str, range: Extent) -> Result<Vec<u8>> {
        self.1.range(path, range)
    }

    fn list(&self, folder: &str) -> Result<Vec<FileInfo>> {
        // Without the file that makes it a repository the list of a web server is not believed.
        if self.0.get("keiki", MAX).is_ok() { self.1.list(folder) } else { self.0.list(folder) }
    }
}

impl Write for Written {
    fn create(&self, path: &str) -> Result<Box<dyn Append>> {
        self.1.create(path)
    }

    fn reopen(&self, path: &str, length: Bytes) -> Result<Box<dyn Append>> {
        self.1.reopen(path, length)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.1.rename(from, to)
    }

    fn delete(&self, path: &str) -> Result<()> {
        self.1.delete(path)
    }

    fn make_folder(&self, folder: &str) -> Result<()> {
        assert!(matches!(self.1.make_folder(folder), Err(Error::Refused(_))));
        self.0.make_folder(folder)
    }

    fn flush_folder(&self, folder: &str) -> Result<()> {
        self.1.flush_folder(folder)
    }
}

fn with_folders(files: &Arc<dyn Write>) -> Session {
    for folder in ["", "tmp", "packs"] {
        files.make_folder(folder).unwrap();
        files.make_folder(folder).unwrap();
    }
    Session::new(Arc::clone(files))
}

fn kind(error: &Error) -> Option<ErrorKind> {
    match error {
        Error::Io { source, .. } => Some(source.kind()),
        _ => None,
    }
}

#[test]
fn files_are_put_whole_and_replaced() {
    on_every_place(|files, read| {
        let session = with_folders(&files);
        for bytes in [&b"first"[..], b"second one", b""] {
            session.put("packs/a", bytes).unwrap();
            assert_eq!(read.get("packs/a", MAX).unwrap(), bytes);
        }
        // Without this file no web server's list of folders is believed.
        session.put("keiki", b"x").unwrap();
        let names = |folder| -> Vec<(String, Bytes)> {
            read.list(folder).unwrap().into_iter().map(|file| (file.name, file.size)).collect()
        };
        assert_eq!(names("packs"), [("a".to_owned(), Bytes::ZERO)]);
        assert_eq!(names(""), [("keiki".to_owned(), Bytes::new(1))]);
        assert!(names("tmp").is_empty(), "no draft is left");
        assert!(names("nowhere").is_empty());
    });
}

#[test]
fn reads_are_exact_and_bounded() {
    on_every_place(|files, read| {
        with_folders(&files).put("packs/a", b"0123456789").unwrap();
        let range =
            |start, end| read.range("packs/a", Extent::new(Bytes::new(start), Bytes::new(end)));
        assert_eq!(range(3, 6).unwrap(), b"345");
        assert_eq!(range(0, 10).unwrap(), b"0123456789");
        assert_eq!(range(4, 4).unwrap(), b"");
        assert_eq!(range(9, 10).unwrap(), b"9");
        assert_eq!(kind(&range(10, 11).unwrap_err()), Some(ErrorKind::UnexpectedEof));
        assert_eq!(kind(&range(5, 11).unwrap_err()), Some(ErrorKind::UnexpectedEof));
        assert_eq!(kind(&range(0, u64::MAX).unwrap_err()), Some(ErrorKind::UnexpectedEof));
        assert_eq!(read.get("packs/a", Bytes::new(10)).unwrap().len(), 10);
        assert!(matches!(read.get("packs/a", Bytes::new(9)), Err(Error::Corrupt { .. })));
    });
}

#[test]
fn missing_files_are_not_found() {
    on_every_place(|files, read| {
        with_folders(&files);
        assert!(is_missing(&read.get("packs/a", MAX).unwrap_err()));
        assert!(is_missing(&read.range("packs/a", Extent::first(MAX)).unwrap_err()));
        assert!(is_missing(&read.range("packs/a", Extent::first(Bytes::ZERO)).unwrap_err()));
        assert!(is_missing(&files.delete("packs/a").unwrap_err()));
        assert!(is_missing(&files.rename("packs/a", "packs/b").unwrap_err()));
    });
}

#[test]
fn created_files_are_new() {
    on_every_place(|files, _| {
        let session = with_folders(&files);
        files.create("tmp/a").unwrap();
        assert_eq!(kind(&files.create("tmp/a").err().unwrap()), Some(ErrorKind::AlreadyExists));
        session.delete("tmp/a").unwrap();
        files.create("tmp/a").unwrap();
        let name = session.draft().map(drop).and_then(|()| files.list("tmp")).unwrap();
        assert_eq!(name.len(), 1, "a dropped draft is removed");
    });
}

#[test]
fn a_file_is_opened_again_and_cut_off() {
    on_every_place(|files, _| {
        with_folders(&files);
        let draft = "tmp/a";
        files.create(draft).unwrap().append(b"abcdef").unwrap();
        let opened = files.reopen(draft, Bytes::new(4));
        // A server goes on with a draft by itself, and says so.
        if matches!(opened, Err(Error::Refused(_))) {
            return;
        }
        opened.unwrap().append(b"X").unwrap();
        assert_eq!(files.get(draft, MAX).unwrap(), b"abcdX");
        let longer = files.reopen(draft, Bytes::new(6)).err().unwrap();
        assert_eq!(kind(&longer), Some(ErrorKind::UnexpectedEof));
        assert_eq!(files.get(draft, MAX).unwrap(), b"abcdX");
        let missing = files.reopen("tmp/b", Bytes::ZERO).err().unwrap();
        assert_eq!(kind(&missing), Some(ErrorKind::NotFound));
    });
}

#[test]
fn names_that_some_filesystem_would_change_are_refused() {
    on_every_place(|files, read| {
        with_folders(&files);
        for wrong in ["../a", "packs/A", "packs/a.", "packs/nul", ".."] {
            assert!(matches!(files.create(wrong), Err(Error::Refused(_))), "{wrong}");
            assert!(matches!(read.get(wrong, MAX), Err(Error::Refused(_))), "{wrong}");
        }
    });
}

#[test]
fn images_come_back_and_are_stored_once() {
    on_every_place(|files, read| {
        assert!(!Repository::exists(read.as_ref()).unwrap());
        assert!(matches!(Repository::open(files.clone()), Err(Error::Refused(_))));
        let repository = Repository::create(files.clone()).unwrap();
        assert!(matches!(Repository::create(files.clone()), Err(Error::Refused(_))));
        let data = sample::data(1, 40);
        let first = sample::save(&repository, "web", &data).unwrap();
        let packs = files.list("packs").unwrap().len();

        let mut changed = data.clone();
        changed[0] ^= 1;
        let repository = Repository::open(files.clone()).unwrap();
        let again = sample::save(&repository, "web", &data).unwrap();
        assert_eq!(files.list("packs").unwrap().len(), packs, "nothing new was stored");
        let second = sample::save(&repository, "web", &changed).unwrap();
        assert_eq!(again.record.root, first.record.root);
        assert_eq!(second.record.parent, Some(again.id));

        let reader = Repository::open_read_only(read.clone()).unwrap();
        assert_eq!(reader.resolve("WEB", &Quiet::default()).unwrap(), second);
        for (image, bytes) in [(&first, &data), (&second, &changed)] {
            let (restored, lost) = sample::restore(&reader, image).unwrap();
            assert!(&restored == bytes && lost.is_empty(), "{lost:?}");
        }
        assert!(sample::save(&reader, "web", &data).is_err(), "it can only be read");
        assert!(reader.remove(&[first]).is_err());
    });
}

#[test]
fn usage_tells_shared_from_unique() {
    let repository = sample::repository(Memory::new());
    let data = sample::data(1, 40);
    let mut changed = data.clone();
    changed[0] ^= 1;
    let images = [&data, &changed].map(|bytes| sample::save(&repository, "web", bytes).unwrap());
    let usage = repository.usage(&images, &Quiet::default()).unwrap().each;
    // 40 windows: one is zero; the first and the fourth are equal only in the image that was not changed. What
    // that has at its start is the base of the other's delta, and in both where the fourth is.
    let windows = |count| sample::WINDOW.checked_mul(count).unwrap();
    assert_eq!(usage[0].stored_bytes, windows(38));
    assert_eq!(usage[0].unique_bytes, windows(0));
    let delta = usage[1].unique_bytes;
    assert!(delta > Bytes::ZERO && delta < Bytes::kib(5), "{delta}");
    assert_eq!(usage[1].stored_bytes, windows(38) + delta);
    let one = repository.usage(&images[1..], &Quiet::default()).unwrap().each;
    assert_eq!(one, [usage[1]]);
    let both = repository.usage_together(&images, &Quiet::default()).unwrap().each;
    assert_eq!(both[0].unique_bytes, windows(38) + delta);
}

#[test]
fn a_base_counts_for_those_that_need_it() {
    let files = Memory::new();
    let repository = sample::repository(files);
    let data = sample::data(1, 2);
    let old = sample::save(&repository, "web", &data).unwrap();
    let new = sample::save(&repository, "web", &sample::changed(&data, 2, 0)).unwrap();
    let usage = |images: &[ImageInfo]| repository.usage(images, &Quiet::default()).unwrap().each;
    let all = usage(&[old.clone(), new.clone()]);
    assert_eq!(all[0].unique_bytes, Bytes::ZERO, "the first window is the base of the other's");
    repository.remove(&[old]).unwrap();
    let left = usage(&[new]);
    assert_eq!(left[0].stored_bytes, all[1].stored_bytes);
    assert_eq!(left[0].unique_bytes, left[0].stored_bytes);
    assert!(left[0].stored_bytes > sample::WINDOW.checked_mul(2).unwrap());
}

#[test]
fn removed_images_leave_orphans() {
    let files = Memory::new();
    let repository = sample::repository(files.clone());
    let keep = sample::save(&repository, "keep", &sample::data(1, 8)).unwrap();
    let gone = sample::save(&repository, "gone", &sample::data(2, 8)).unwrap();
    repository.remove(std::slice::from_ref(&gone)).unwrap();
    assert!(repository.resolve("gone", &Quiet::default()).is_err());
    let report = repository.check(Default::default(), &Quiet::default()).unwrap();
    assert!(report.damaged.is_empty() && report.rebuilt.is_empty(), "{report:?}");
    let folders: Vec<_> =
        report.orphans.iter().map(|path| path.split('/').next().unwrap()).collect();
    assert_eq!(folders, ["locations", "packs", "roots", "tables"], "{report:?}");
    assert!(sample::restore(&repository, &keep).unwrap().1.is_empty());
}
