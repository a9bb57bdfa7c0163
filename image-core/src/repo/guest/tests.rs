//! What a guest may do, over a real connection, and what he may not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::http::server::{Asked, Fault, Server};
use super::super::write::Session;
use super::super::{Address, Http, Local, Memory, ORDERED, Repository, sample};
use super::{Guest, prefix, status};
use crate::error::Error;
use crate::image::hash::{ChunkId, Hash};
use crate::image::header::seal;
use crate::image::pack::{Entry, PackBuilder};
use crate::repo::index::{PackFile, list_packs, pack_path, read_trailer};
use crate::repo::lock::{Lock, LockKind};
use crate::repo::{Read, Write, locations};
use crate::report::Quiet;
use crate::units::Bytes;

const GRANT: &str = "0123456789abcdef0123456789abcdef";

fn at(server: &Server) -> Arc<Http> {
    let address = Address::of(&server.address()).unwrap().with_login(ORDERED, GRANT);
    assert!(address.is_written());
    Arc::new(Http::new(&address).unwrap())
}

#[test]
fn a_guest_saves_what_it_was_asked_for_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let local = Arc::new(Local::new(folder.path()));
    let here = Repository::create(local.clone()).unwrap();
    let old = sample::save(&here, "web", &sample::data(1, 40)).unwrap();
    // Of some requests the answer is lost, after they were carried out.
    let lost = AtomicUsize::new(0);
    let faults = move |asked: &Asked| {
        let is_change = !["GET", "HEAD"].contains(&asked.method.as_str());
        let is_lost = is_change && lost.fetch_add(1, Ordering::Relaxed) % 7 == 3;
        is_lost.then_some(Fault::Silent)
    };
    let server = Server::new(folder.path(), faults);
    server.take(Guest::new(local.clone(), GRANT, "Web".parse().unwrap()));
    let there = Repository::open(at(&server)).unwrap();
    let data = sample::changed(&sample::data(1, 60), 2, 0);
    let image = sample::save(&there, "web", &data).unwrap();
    let (restored, damage) = sample::restore(&here, &image).unwrap();
    assert!(restored == data && damage.is_empty());
    assert_eq!(image.record.parent, Some(old.id));

    let why = sample::save(&there, "other", &data).unwrap_err();
    assert!(matches!(&why, Error::Refused(why) if why.contains("not other")), "{why}");
    assert!(here.remove(std::slice::from_ref(&image)).is_ok() && there.remove(&[image]).is_err());
    assert_eq!(here.images().unwrap().intact.len(), 1);
    for folder in ["tmp", "locks"] {
        assert!(local.list(folder).unwrap().is_empty(), "{folder}");
    }
    let report = here.check(Default::default(), &Quiet::default()).unwrap();
    assert!(report.damaged.is_empty() && report.removed.is_empty(), "{report:?}");
}

/// A guest with its lock, and the name of its session.
fn guest(files: &Memory) -> (Guest, String) {
    let mut guest = Guest::new(Arc::new(files.clone()), GRANT, "web".parse().unwrap());
    let session = format!("{}{}", prefix(GRANT), "0".repeat(16));
    let lock = Session::new(Arc::new(files.clone()));
    let held = Lock::take(&Arc::new(lock), LockKind::Shared).unwrap();
    let name = files.paths().into_iter().find(|path| path.starts_with("locks/")).unwrap();
    let bytes = files.get(&name, Bytes::kib(16)).unwrap();
    drop(held);
    let draft = format!("tmp/lock-{session}.0");
    guest.append(&draft, 0, &bytes).unwrap();
    guest.finish(&draft, &format!("locks/{session}.0")).unwrap();
    (guest, session)
}

#[test]
fn names_say_what_is_in_files() {
    let files = Memory::new();
    sample::save(&sample::repository(files.clone()), "web", &sample::data(1, 8)).unwrap();
    let before = files.paths();
    let (mut guest, session) = guest(&files);
    let mut number = 0;
    let mut put = |bytes: &[u8], to: &str| {
        number += 1;
        let draft = format!("tmp/{session}.{number}");
        guest.append(&draft, 0, bytes).unwrap();
        let done = guest.finish(&draft, to);
        drop(guest.delete(&draft));
        done
    };
    let of = |folder: &str| before.iter().find(|path| path.starts_with(folder)).unwrap().clone();
    for folder in ["roots/", "tables/", "locations/"] {
        let there = of(folder);
        let bytes = files.get(&there, Bytes::mib(1)).unwrap();
        assert!(matches!(put(b"other bytes", &there), Err(Error::Corrupt { .. })), "{there}");
        assert_eq!(files.get(&there, Bytes::mib(1)).unwrap(), bytes);
        put(&bytes, &there).unwrap();
    }
    // What says where chunks lie has to be true.
    let there = of("locations/");
    let segment = there.trim_start_matches("locations/").parse().unwrap();
    let bytes = files.get(&there, Bytes::mib(1)).unwrap();
    let true_places = locations::parse(segment, &bytes).unwrap();
    let mut moved = true_places.clone();
    moved[0].offset = moved[1].offset;
    let mut elsewhere = true_places;
    elsewhere[0].pack = Hash::of(b"no pack");
    for lie in [moved, elsewhere] {
        let lie = locations::encode(segment, &lie);
        assert!(matches!(put(&lie, &there), Err(Error::Refused(_))));
    }
    assert_eq!(files.get(&there, Bytes::mib(1)).unwrap(), bytes);
    // A record and a pack that are there stay as they are, and what does not say its name is neither.
    for folder in ["images/", "packs/"] {
        let there = of(folder);
        let bytes = files.get(&there, Bytes::mib(1)).unwrap();
        put(b"other bytes", &there).unwrap();
        assert_eq!(files.get(&there, Bytes::mib(1)).unwrap(), bytes);
    }
    let bytes = files.get(&of("packs/"), Bytes::mib(1)).unwrap();
    assert!(put(b"x", &format!("images/{}", Hash::of(b"x"))).is_err());
    assert!(put(&bytes, &format!("images/{}", Hash::of(b"y"))).is_err());
    assert!(put(&bytes, &format!("packs/{}", Hash::of(b"x"))).is_err());
    put(b"what is to be found here", "catalog").unwrap();
    assert!(!files.get("catalog", Bytes::mib(1)).unwrap().starts_with(b"what"));

    let hash = Hash::of(b"x").to_string();
    for to in [
        "keiki".to_owned(),
        "../x".to_owned(),
        "packs".to_owned(),
        format!("{hash}x"),
        format!("trash/2026-01-01.packs.{hash}"),
        format!("packs/{}", hash.to_uppercase()),
        format!("packs/../packs/{hash}"),
        format!("tables/{hash}/x"),
        format!("other/{hash}"),
        format!("locks/{session}"),
        "locks/00000000000000000000000000000000.0".to_owned(),
    ] {
        assert!(put(b"x", &to).is_err(), "{to}");
    }
    put(b"x", &format!("tables/{hash}")).unwrap();
    let exclusive = seal(br#"{"format":1,"must_understand_to_read":0,"must_understand_to_write":0,"host":"x","boot_id":null,"pid_namespace":null,"pid":1,"process_start":null,"kind":"exclusive","time":"2026-01-01T00:00:00Z"}"#.to_vec());
    let why = put(&exclusive, &format!("locks/{session}.9")).unwrap_err().to_string();
    assert!(why.contains("only save"), "{why}");
    let mut expected =
        [before, vec![format!("tables/{hash}"), format!("locks/{session}.0")]].concat();
    expected.sort();
    assert_eq!(files.paths(), expected);
}

#[test]
fn every_chunk_of_a_pack_is_looked_at() {
    let (files, _) = sample::generations();
    let packs = list_packs(&files).unwrap();
    let trailer = |pack: &PackFile| read_trailer(&files, *pack).unwrap().chunks;
    let with_deltas = |pack: &&PackFile| trailer(pack).iter().any(|(_, it)| it.base.is_some());
    let pack = *packs.iter().find(with_deltas).unwrap();
    let chunks = trailer(&pack);
    let place = pack_path(pack.name);
    let bytes = files.get(&place, Bytes::mib(8)).unwrap();
    files.delete(&place).unwrap();
    let (mut guest, session) = guest(&files);
    let before = files.paths();
    let draft = format!("tmp/{session}.1");
    let mut put = |bytes: &[u8], place: &str| {
        guest.append(&draft, 0, bytes).unwrap();
        let done = guest.finish(&draft, place);
        drop(guest.delete(&draft));
        done
    };
    let mut refused = |bytes: &[u8], place: &str, expected: &str| {
        let why = put(bytes, place).unwrap_err();
        assert!(matches!(&why, Error::Refused(why) if why.contains(expected)), "{why}");
        assert_eq!(status(&why), 403);
        assert_eq!(files.paths(), before);
    };
    // Of each chunk one byte is another one.
    for (at, entry) in &chunks {
        let mut bytes = bytes.clone();
        bytes[at.index().unwrap()] ^= 1;
        refused(&bytes, &place, &format!("chunk {}, hash of the stored bytes", entry.id));
    }
    // The trailer goes with the bytes, but the bytes with no chunk of that name.
    for wrong in 0..chunks.len() {
        let mut builder = PackBuilder::new();
        for (number, (_, entry)) in chunks.iter().enumerate() {
            let id = if number == wrong { ChunkId::of(b"other bytes") } else { entry.id };
            builder.put(&Entry { id, ..*entry }).unwrap();
        }
        let end = builder.data_len().index().unwrap();
        let (name, tail) = builder.finish();
        refused(&[&bytes[..end], &tail].concat(), &pack_path(name), "hash of the plain bytes");
    }
    // What its deltas are based on is not there.
    let base = chunks.iter().find_map(|(_, entry)| entry.base).unwrap();
    let of_base = |pack: &&PackFile| trailer(pack).iter().any(|(_, entry)| entry.id == base);
    let of_base = packs.iter().filter(|one| one.name != pack.name).find(of_base).unwrap();
    let of_base = pack_path(of_base.name);
    files.rename(&of_base, "trash/away").unwrap();
    let why = put(&bytes, &place).unwrap_err().to_string();
    assert!(why.contains(&format!("its base, chunk {base}, is in no intact pack")), "{why}");
    files.rename("trash/away", &of_base).unwrap();
    assert_eq!(files.paths(), before);

    put(&bytes, &place).unwrap();
    assert_eq!(files.get(&place, Bytes::mib(8)).unwrap(), bytes);
}

#[test]
fn what_belongs_to_others_is_not_touched() {
    let files = Memory::new();
    let repository = sample::repository(files.clone());
    let image = sample::save(&repository, "web", &sample::data(1, 8)).unwrap();
    let other = Arc::new(Session::new(Arc::new(files.clone())));
    let _lock = Lock::take(&other, LockKind::Shared).unwrap();
    let _draft = other.draft().unwrap();
    let (mut guest, session) = guest(&files);
    let before = files.paths();
    for path in &before {
        if path.contains(&session) {
            continue;
        }
        assert!(matches!(guest.delete(path), Err(Error::Refused(_))), "{path}");
        assert!(matches!(guest.append(path, 0, b"x"), Err(Error::Refused(_))), "{path}");
        assert!(matches!(guest.finish(path, "catalog"), Err(Error::Refused(_))), "{path}");
    }
    for draft in
        ["tmp/x", "tmp/../keiki", "x", &format!("tmp/{session}"), &format!("tmp/{session}.x")]
    {
        assert!(matches!(guest.append(draft, 0, b""), Err(Error::Refused(_))), "{draft}");
    }
    assert_eq!(files.paths(), before);
    // Not even by writing the same image once more.
    let mine = format!("tmp/{session}.1");
    let record = format!("images/{}", image.id);
    guest.append(&mine, 0, &image.record.encode().unwrap()).unwrap();
    guest.finish(&mine, &record).unwrap();
    assert!(matches!(guest.delete(&record), Err(Error::Refused(_))));
    assert_eq!(files.paths(), before);
    guest.append(&mine, 0, b"").unwrap();
    guest.leave().unwrap();
    assert!(!files.paths().iter().any(|path| path.contains(&session)));
    assert_eq!(files.paths().len(), before.len() - 1);
    // Whoever has no lock any more cannot say that something is an image.
    guest.append(&mine, 0, &image.record.encode().unwrap()).unwrap();
    let why = guest.finish(&mine, &format!("images/{}", image.id)).unwrap_err().to_string();
    assert!(why.contains("lock of this save is gone"), "{why}");
}

#[test]
fn pieces_may_come_twice_and_nothing_is_there_of_what_did_not_fit() {
    let files = Memory::new();
    sample::repository(files.clone());
    let (mut guest, session) = guest(&files);
    let draft = format!("tmp/{session}.1");
    for (at, bytes) in [(0, &b""[..]), (0, b"abc"), (0, b"abc"), (3, b"de"), (3, b"de")] {
        guest.append(&draft, at, bytes).unwrap();
    }
    for (at, bytes) in [(0, &b"abc"[..]), (4, b"x"), (6, b"x"), (0, b"")] {
        assert_eq!(status(&guest.append(&draft, at, bytes).unwrap_err()), 409, "{at}");
    }
    let table = format!("tables/{}", Hash::of(b"abcde"));
    guest.finish(&draft, &table).unwrap();
    guest.finish(&draft, &table).unwrap();
    assert_eq!(files.get(&table, Bytes::kib(1)).unwrap(), b"abcde");
    assert_eq!(status(&guest.append(&draft, 5, b"f").unwrap_err()), 404);

    guest.append(&draft, 0, b"").unwrap();
    files.fill_after(2);
    assert_eq!(status(&guest.append(&draft, 0, b"abc").unwrap_err()), 507);
    assert!(!files.paths().contains(&draft));
    assert_eq!(status(&guest.append(&draft, 3, b"d").unwrap_err()), 404);
}

#[test]
fn a_guest_goes_on_at_a_server_that_was_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let local = Arc::new(Local::new(folder.path()));
    Repository::create(local.clone()).unwrap();
    let memory = Memory::new();
    sample::repository(memory.clone());
    let lock = {
        let lock = Session::new(Arc::new(memory.clone()));
        let _held = Lock::take(&Arc::new(lock), LockKind::Shared).unwrap();
        let name = memory.paths().into_iter().find(|path| path.starts_with("locks/")).unwrap();
        memory.get(&name, Bytes::kib(16)).unwrap()
    };
    let places: [Arc<dyn Write>; 2] = [local, Arc::new(memory)];
    for files in places {
        // Another run for each request: of none of them anything is remembered.
        let guest = || Guest::new(files.clone(), GRANT, "web".parse().unwrap());
        let session = format!("{}{}", prefix(GRANT), "0".repeat(16));
        let draft = format!("tmp/lock-{session}.0");
        let place = format!("locks/{session}.0");
        guest().append(&draft, 0, b"").unwrap();
        guest().append(&draft, 0, &lock).unwrap();
        for _ in 0..2 {
            guest().finish(&draft, &place).unwrap();
        }
        let draft = format!("tmp/{session}.1");
        guest().append(&draft, 0, b"").unwrap();
        assert_eq!(status(&guest().append(&draft, 0, b"").unwrap_err()), 409);
        for (at, bytes) in [(0, &b"abc"[..]), (0, b"abc"), (3, b"de"), (3, b"de"), (5, b"f")] {
            guest().append(&draft, at, bytes).unwrap();
        }
        for at in [7, 99] {
            assert_eq!(status(&guest().append(&draft, at, b"x").unwrap_err()), 409, "{at}");
        }
        let table = format!("tables/{}", Hash::of(b"abcdef"));
        for _ in 0..2 {
            guest().finish(&draft, &table).unwrap();
        }
        assert_eq!(files.get(&table, Bytes::kib(1)).unwrap(), b"abcdef");
        assert_eq!(status(&guest().append(&draft, 6, b"g").unwrap_err()), 404);
        let other = format!("tables/{}", Hash::of(b"other"));
        assert_eq!(status(&guest().finish(&draft, &other).unwrap_err()), 404);
        assert!(files.list("tmp").unwrap().is_empty());
    }
}

#[test]
fn a_guest_waits_for_who_is_alone_here() {
    let files = Memory::new();
    sample::repository(files.clone());
    let other = Arc::new(Session::new(Arc::new(files.clone())));
    let lock = Lock::take(&other, LockKind::Exclusive).unwrap();
    let shared = files
        .get(
            &files.paths().into_iter().find(|path| path.starts_with("locks/")).unwrap(),
            Bytes::kib(16),
        )
        .unwrap();
    let text = String::from_utf8(shared).unwrap().replace("exclusive", "shared");
    let bytes = seal(text.lines().next().unwrap().as_bytes().to_vec());
    let mut guest = Guest::new(Arc::new(files.clone()), GRANT, "web".parse().unwrap());
    let session = format!("{}{}", prefix(GRANT), "0".repeat(16));
    let draft = format!("tmp/lock-{session}.0");
    guest.append(&draft, 0, &bytes).unwrap();
    let place = format!("locks/{session}.0");
    let why = guest.finish(&draft, &place).unwrap_err();
    assert!(status(&why) == 403 && why.to_string().contains("is in use by process"), "{why}");
    assert!(!files.paths().contains(&place));
    drop(lock);
}
