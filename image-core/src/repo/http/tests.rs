//! What comes of a repository behind web servers that are not as they should be.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::server::{Asked, Fault, Server};
use super::{Address, Http, ORDERED};
use crate::error::Error;
use crate::extent::Extent;
use crate::repo::index::is_damage;
use crate::repo::read::{Read, is_missing};
use crate::repo::{CheckOptions, ImageInfo, Local, PruneOptions, Repository, sample};
use crate::report::Quiet;
use crate::units::Bytes;

const MAX: Bytes = Bytes::mib(1);
const PAUSE: &[Duration] = &[Duration::from_millis(1); 3];

fn at(server: &Server) -> Http {
    let mut http = Http::new(&Address::of(&server.address()).unwrap()).unwrap();
    http.pauses = PAUSE;
    http
}

fn range(start: u64, end: u64) -> Extent {
    Extent::new(Bytes::new(start), Bytes::new(end))
}

/// A folder with the file `a` of 100 bytes, each its position, and the file that makes a repository.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), (0..100).collect::<Vec<u8>>()).unwrap();
    std::fs::write(folder.path().join("keiki"), "x").unwrap();
    folder
}

/// What an error of the way there says; damage is none.
#[track_caller]
fn why<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let error = result.unwrap_err();
    assert!(matches!(&error, Error::Io { .. }) && !is_damage(&error), "{error}");
    let url = error.subject().replace("order:***@", "");
    assert!(url.starts_with("http://127.0.0.1:"), "{error}");
    error.to_string()
}

#[test]
fn what_came_before_a_connection_broke_is_kept() {
    let folder = folder();
    let cuts = |asked: &Asked| (1..3).contains(&asked.number).then_some(Fault::Cut(30));
    let server = Server::new(folder.path(), cuts);
    let http = at(&server);
    http.get("keiki", MAX).unwrap();
    assert_eq!(http.range("a", range(10, 90)).unwrap(), (10..90).collect::<Vec<u8>>());
    let ranges: Vec<_> = server.asked().iter().filter_map(|asked| asked.range).collect();
    assert_eq!(ranges, [(10, 90), (40, 90), (70, 90)]);
}

#[test]
fn a_file_that_was_cut_off_is_read_again() {
    let folder = folder();
    let server = Server::new(folder.path(), |asked| (asked.number == 1).then_some(Fault::Cut(99)));
    let http = at(&server);
    http.get("keiki", MAX).unwrap();
    assert_eq!(http.get("a", MAX).unwrap().len(), 100);
    assert_eq!(server.asked().len(), 3);
}

#[test]
fn one_connection_serves_many_requests() {
    let folder = folder();
    let server = Server::new(folder.path(), |_| None);
    let http = at(&server);
    for at in 0..50 {
        assert_eq!(http.range("a", range(at, at + 1)).unwrap(), [u8::try_from(at).unwrap()]);
    }
    assert_eq!(http.get("a", MAX).unwrap().len(), 100);
    assert_eq!((server.connections(), server.asked().len()), (1, 51));
}

#[test]
fn a_connection_that_always_breaks_is_no_damage() {
    let folder = folder();
    for (fault, word) in [
        (Fault::Silent, "(tried 4 times)"),
        (Fault::Cut(0), "(tried 4 times)"),
        (Fault::Status("503 Service Unavailable"), "503 Service Unavailable (tried 4 times)"),
    ] {
        let server =
            Server::new(folder.path(), move |asked| (asked.number > 0).then(|| fault.clone()));
        let http = at(&server);
        http.get("keiki", MAX).unwrap();
        for said in [why(http.range("a", range(3, 100))), why(http.get("a", MAX))] {
            assert!(said.contains(word) && said.contains("/the%20folder/a: cannot read"), "{said}");
        }
    }
}

#[test]
fn a_server_that_never_answered_is_not_asked_again() {
    let folder = folder();
    let server = Server::new(folder.path(), |_| Some(Fault::Silent));
    let said = why(at(&server).get("keiki", MAX));
    assert!(!said.contains("tried") && server.asked().len() == 1, "{said}");
    let http = at(&server);
    drop(server);
    let said = why(http.get("keiki", MAX));
    assert!(said.contains("Connection refused"), "{said}");
}

/// Its computer may start again just when the first file is read.
#[test]
fn a_server_that_gave_an_order_is_asked_again_until_it_is_there() {
    let folder = folder();
    let server = Server::new(folder.path(), |_| None);
    let address = Address::of(&server.address()).unwrap().with_login(ORDERED, "a/b");
    drop(server);
    let mut http = Http::new(&address).unwrap();
    assert!(http.absence >= Duration::from_secs(600));
    (http.pauses, http.absence) = (PAUSE, Duration::from_millis(300));
    let began = Instant::now();
    let said = why(http.get("keiki", MAX));
    assert!(said.contains("Connection refused") && said.contains("tried"), "{said}");
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
}

#[test]
fn a_slow_server_is_waited_for_and_a_silent_one_is_not() {
    let folder = folder();
    let patient = |server: &Server| {
        let address = Address::of(&server.address()).unwrap();
        let mut http = Http::with_patience(&address, Duration::from_millis(200)).unwrap();
        http.pauses = PAUSE;
        http
    };
    let server = Server::new(folder.path(), |_| Some(Fault::Slow(Duration::from_millis(5))));
    assert_eq!(patient(&server).get("a", MAX).unwrap().len(), 100, "half a second in all");
    let late = |asked: &Asked| (asked.number > 0).then_some(Fault::Late(Duration::from_secs(5)));
    let server = Server::new(folder.path(), late);
    let http = patient(&server);
    http.get("keiki", MAX).unwrap();
    let said = why(http.range("a", range(0, 1)));
    assert!(said.contains("did not answer in time (tried 4 times)"), "{said}");
}

#[test]
fn what_a_server_says_is_told() {
    let folder = folder();
    let range_of = |fault: Fault| {
        let server = Server::new(folder.path(), move |_| Some(fault.clone()));
        why(at(&server).range("a", range(3, 50)))
    };
    for (fault, word) in [
        (Fault::Status("401 Unauthorized"), "http://USER:PASSWORD@HOST/PATH"),
        (Fault::Status("403 Forbidden"), "the server says 403 Forbidden"),
        (Fault::Status("400 Bad Request"), "the server says 400 Bad Request"),
        (Fault::Whole, "sends whole files only"),
        (Fault::Less, "changed while it was read"),
        (
            Fault::Header("206 Partial Content", "Content-Range: bytes 4-49/100".into()),
            "another part",
        ),
        (
            Fault::Header("206 Partial Content", "Content-Range: pages 3-49/100".into()),
            "another part",
        ),
        (
            Fault::Header("206 Partial Content", "Content-Range: bytes 3-49/9".into()),
            "another part",
        ),
        (
            Fault::Header("302 Found", "Location: /the%20folder/a".into()),
            "from one address to another",
        ),
        (Fault::Header("302 Found", "Location: http://localhost:1/a".into()), "refused"),
    ] {
        let said = range_of(fault.clone());
        assert!(said.contains(word), "{fault:?}: {said}");
        assert!(said.contains("cannot read 47 bytes at byte 3"), "{said}");
    }
    let server = Server::new(folder.path(), |_| Some(Fault::NoLength));
    assert!(why(at(&server).get("a", MAX)).contains("does not say how long its answer is"));
    assert!(why(at(&server).size("a")).contains("does not say how long it is"));
    let server = Server::new(folder.path(), |_| Some(Fault::Status("410 Gone")));
    assert!(is_missing(&at(&server).get("a", MAX).unwrap_err()));
}

#[test]
fn a_file_that_changes_its_length_is_an_error() {
    let folder = folder();
    let changing = |asked: &Asked| match asked.number {
        0 => Some(Fault::Cut(30)),
        _ => Some(Fault::Longer),
    };
    let server = Server::new(folder.path(), changing);
    let said = why(at(&server).range("a", range(0, 100)));
    assert!(said.contains("changed while it was read"), "{said}");
    // One that became shorter is damaged.
    let server = Server::new(folder.path(), |_| None);
    let error = at(&server).range("a", range(50, 101)).unwrap_err();
    assert!(
        matches!(&error, Error::Io { source, .. } if source.kind() == ErrorKind::UnexpectedEof),
        "{error}"
    );
}

#[test]
fn a_redirect_on_the_same_server_is_followed_with_the_password() {
    let folder = folder();
    let moved = |asked: &Asked| {
        (asked.path == "old").then(|| Fault::Header("301 Moved Permanently", "Location: a".into()))
    };
    let server = Server::new(folder.path(), moved);
    let address = server.address().replace("http://", "http://anna:geheim@");
    let http = Http::new(&Address::of(&address).unwrap()).unwrap();
    assert_eq!(http.range("old", range(7, 9)).unwrap(), [7, 8]);
    let asked = server.asked();
    assert_eq!(asked.iter().map(|asked| asked.path.as_str()).collect::<Vec<_>>(), ["old", "a"]);
    let login = Some("Basic YW5uYTpnZWhlaW0=");
    assert!(asked.iter().all(|asked| asked.authorization.as_deref() == login), "{asked:?}");
    let said = http.get("b", MAX).unwrap_err().to_string();
    assert!(said.contains("http://anna:***@127.0.0.1:") && !said.contains("geheim"), "{said}");
    let tls = format!("Location: {}", server.address().replace("http:", "https:"));
    let to_tls = move |_: &Asked| Some(Fault::Header("302 Found", tls.clone()));
    let said = why(at(&Server::new(folder.path(), to_tls)).get("a", MAX));
    assert!(said.contains("https, which is not supported"), "{said}");
    // Another server gets neither the password nor our trust.
    let other = Server::new(folder.path(), |_| None);
    let to = other.address().replace("127.0.0.1", "localhost");
    let away = move |_: &Asked| Some(Fault::Header("302 Found", format!("Location: {to}/a")));
    let server = Server::new(folder.path(), away);
    let address = server.address().replace("http://", "http://anna:geheim@");
    let http = Http::new(&Address::of(&address).unwrap()).unwrap();
    assert!(http.get("a", MAX).unwrap_err().to_string().contains("to another one, localhost"));
    assert_eq!(
        other.asked().iter().map(|asked| asked.authorization.clone()).collect::<Vec<_>>(),
        [None]
    );
}

/// A repository with two images of which the older one shares nothing with the newer one.
fn repository(folder: &tempfile::TempDir) -> (Repository, [ImageInfo; 2]) {
    let repository = Repository::create(Arc::new(Local::new(folder.path()))).unwrap();
    let images = [("old", 1), ("new", 2)]
        .map(|(name, seed)| sample::save(&repository, name, &sample::data(seed, 40)).unwrap());
    (repository, images)
}

fn read_only(server: &Server) -> Repository {
    Repository::open_read_only(Arc::new(at(server))).unwrap()
}

#[test]
fn a_repository_is_read_and_checked_but_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let (local, images) = repository(&folder);
    let before = Local::new(folder.path()).list("locks").unwrap();
    let server = Server::new(folder.path(), |_| None);
    let http = read_only(&server);
    assert_eq!(http.images().unwrap().intact, local.images().unwrap().intact);
    for (image, seed) in images.iter().zip([1, 2]) {
        let (bytes, lost) = sample::restore(&http, image).unwrap();
        assert!(bytes == sample::data(seed, 40) && lost.is_empty(), "{lost:?}");
    }
    let options = CheckOptions { read_data: true, rebuild: false };
    let report = http.check(options, &Quiet::default()).unwrap();
    assert!(report.damaged.is_empty() && report.orphans.is_empty(), "{report:?}");
    assert_eq!((report.images, report.packs), (2, 2));
    let refused = [
        http.remove(&images).err(),
        http.prune(PruneOptions::default(), &Quiet::default()).err(),
        http.saver(&Quiet::default()).err(),
        http.check(CheckOptions { rebuild: true, ..options }, &Quiet::default()).err(),
    ];
    for error in refused {
        assert!(error.unwrap().to_string().contains("can only be read"));
    }
    assert_eq!(Local::new(folder.path()).list("locks").unwrap(), before);
    assert!(server.asked().iter().all(|asked| ["GET", "HEAD"].contains(&asked.method.as_str())));
}

#[test]
fn where_folders_are_not_listed_the_catalog_tells_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let (local, images) = repository(&folder);
    let is_page = |asked: &Asked| asked.path.is_empty() || asked.path.ends_with('/');
    for status in ["403 Forbidden", "404 Not Found", "200 OK"] {
        let server = Server::new(folder.path(), move |asked| {
            is_page(asked).then_some(Fault::Status(status))
        });
        let http = read_only(&server);
        assert_eq!(http.images().unwrap().intact, local.images().unwrap().intact);
        assert!(sample::restore(&http, &images[1]).unwrap().1.is_empty());
        let said = why(http.check(CheckOptions::default(), &Quiet::default()));
        assert!(said.contains("does not list folders; switch that on: `autoindex on`"), "{said}");
        assert_eq!(
            server.asked().iter().filter(|asked| is_page(asked)).count(),
            1,
            "once is enough"
        );
    }
    // Of the folders below only.
    let server = Server::new(folder.path(), |asked| {
        asked.path.ends_with('/').then_some(Fault::Status("403 Forbidden"))
    });
    assert!(
        why(read_only(&server).images()).contains("images: cannot list: the server does not list")
    );
    std::fs::remove_file(folder.path().join("catalog")).unwrap();
    let server = Server::new(folder.path(), move |asked| {
        is_page(asked).then_some(Fault::Status("403 Forbidden"))
    });
    let said = why(read_only(&server).images());
    assert!(said.contains("the catalog that stands in for that is of no use"), "{said}");
    assert!(said.contains("Options +Indexes"), "{said}");
}

#[test]
fn what_is_pruned_meanwhile_is_lost_and_never_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let (local, [old, new]) = repository(&folder);
    let server = Server::new(folder.path(), |_| None);
    let http = read_only(&server);
    let root = http.root(&old).unwrap();
    local.remove(std::slice::from_ref(&old)).unwrap();
    local.prune(PruneOptions::default(), &Quiet::default()).unwrap();
    // For a day all of it is in the trash.
    let (bytes, lost) = sample::restore(&http, &old).unwrap();
    assert!(bytes == sample::data(1, 40) && lost.is_empty(), "{lost:?}");
    local.prune(PruneOptions { now: true, dry_run: false }, &Quiet::default()).unwrap();
    let error = sample::restore(&http, &old).unwrap_err();
    assert!(is_missing(&error), "{error}");
    let mut feed = http.feed(root.window).unwrap();
    let id = crate::image::hash::ChunkId::of(&sample::data(1, 40)[..root.window.index().unwrap()]);
    let segment = root.segments().next().unwrap().2;
    let wanted = crate::repo::WantSet::new(segment, [id]);
    match crate::repo::ChunkFeed::next(&mut feed, &wanted).unwrap().unwrap() {
        crate::repo::Delivery::Lost(lost) => assert!(lost.why.contains("in no pack"), "{lost:?}"),
        other => panic!("{other:?}"),
    }
    assert!(sample::restore(&http, &new).unwrap().1.is_empty());
}
