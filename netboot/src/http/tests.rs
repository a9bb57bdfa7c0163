//! Requests as they come, on the loopback.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Runtime;

use super::{LIMITS, Limits, bind, serve_within};
use crate::event::{Event, Events, What};
use crate::files::{Answers, Change, Closed, Door, Files, Made, Question, Takes};

struct Server {
    at: SocketAddr,
    events: Receiver<Event>,
    _runtime: Runtime,
}

impl Server {
    fn new(files: Files) -> Self {
        Self::within(LIMITS, files)
    }

    fn within(limits: Limits, files: Files) -> Self {
        let listener = bind(Ipv4Addr::LOCALHOST, 0).unwrap();
        let at = listener.local_addr().unwrap();
        let (tell, events) = sync_channel(1000);
        let runtime = serve_within(listener, Arc::new(files), Events(tell), limits).unwrap();
        Self { at, events, _runtime: runtime }
    }

    /// Sends bytes and reads until the end: the lines before the empty one, and what follows.
    fn send(&self, request: &[u8]) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(request).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(bytes.len());
        let head = String::from_utf8_lossy(&bytes[..end]);
        assert!(!head.contains("\ncontent-length"), "GRUB knows it with capitals only: {head}");
        (head.to_lowercase(), bytes.get(end + 4..).unwrap_or_default().to_vec())
    }

    fn ask(&self, line: &str, headers: &[&str]) -> (String, Vec<u8>) {
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let request = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        self.send(request.as_bytes())
    }
}

fn has(head: &str, line: &str) -> bool {
    head.lines().any(|one| one == line)
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap()
}

#[test]
fn files_in_memory_whole_and_in_parts() {
    let mut files = Files::default();
    files.add("boot/vmlinuz", "0123456789");
    let server = Server::new(files);
    let (head, body) = server.ask("GET //boot/vmlinuz", &[]);
    assert!(has(&head, "http/1.1 200 ok") && has(&head, "content-length: 10"), "{head}");
    assert_eq!(body, b"0123456789");
    let tag = header(&head, "etag");
    // GRUB asks for the size first; old firmware speaks 1.0.
    let (head, body) = server.ask("HEAD /boot/vmlinuz", &["Range: bytes=0-3"]);
    assert!(has(&head, "http/1.1 200 ok") && has(&head, "content-length: 10"), "{head}");
    assert_eq!(body, b"");
    let (head, body) = server.send(b"GET /boot/vmlinuz HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("http/1.0 200 ok") && has(&head, "content-length: 10"), "{head}");
    assert_eq!(body, b"0123456789");
    let (head, body) = server.ask("GET /boot/vmlinuz", &["Range: bytes=2-4"]);
    assert!(has(&head, "http/1.1 206 partial content"), "{head}");
    assert!(has(&head, "content-range: bytes 2-4/10") && has(&head, "content-length: 3"), "{head}");
    assert_eq!(body, b"234");
    let (head, body) = server.ask("GET /boot/vmlinuz", &["Range: bytes=10-"]);
    assert!(has(&head, "http/1.1 416 range not satisfiable"), "{head}");
    assert!(has(&head, "content-range: bytes */10") && body.is_empty(), "{head}");
    let other = ["Range: bytes=2-4", "If-Range: \"other\""];
    assert_eq!(server.ask("GET /boot/vmlinuz", &other).1, b"0123456789");
    let (head, body) = server.ask("GET /boot/vmlinuz", &[&format!("If-None-Match: {tag}")]);
    assert!(has(&head, "http/1.1 304 not modified") && body.is_empty(), "{head}");
    let told: Vec<What> = server.events.try_iter().map(|event| event.what).collect();
    assert_eq!(told[0], What::Fetched("HTTP", "boot/vmlinuz".to_owned(), 10));
    assert_eq!(told.len(), 3, "neither sizes nor later parts are told: {told:?}");
}

#[test]
fn a_folder_of_this_machine_is_read_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let served = folder.path().join("served");
    fs::create_dir_all(served.join("packs")).unwrap();
    let content: Vec<u8> = (0..700_000_u32).map(|n| (n / 5) as u8).collect();
    fs::write(served.join("packs/a b"), &content).unwrap();
    fs::write(folder.path().join("secret"), "secret").unwrap();
    let mut files = Files::default();
    files.add_folder("repo", &served).unwrap();
    let server = Server::new(files);
    let (head, body) = server.ask("GET /repo/packs/a%20b", &[]);
    assert!(has(&head, "content-length: 700000") && body == content, "{head}");
    let (head, body) = server.ask("GET /repo/packs/a%20b", &["Range: bytes=300000-600000"]);
    assert!(has(&head, "content-range: bytes 300000-600000/700000"), "{head}");
    assert_eq!(body, content[300_000..=600_000]);
    let (head, body) = server.ask("GET /repo/", &[]);
    let page = String::from_utf8(body).unwrap();
    assert!(page.contains("<a href=\"packs/\">") && has(&head, "http/1.1 200 ok"), "{head}{page}");
    let page = String::from_utf8(server.ask("GET /repo/packs/", &[]).1).unwrap();
    assert!(page.contains("<a href=\"a%20b\">"), "{page}");
    let (head, _) = server.ask("GET /repo/packs", &[]);
    assert!(has(&head, "location: packs/"), "{head}");
    for path in ["/repo/../secret", "/repo/%2e%2e/secret", "/repo/none", "/", "/served/", "/%ff"] {
        let (head, body) = server.ask(&format!("GET {path}"), &[]);
        assert!(has(&head, "http/1.1 404 not found") && body.is_empty(), "{path}: {head}");
    }
    for method in ["PUT", "POST", "DELETE", "OPTIONS", "MKCOL"] {
        let (head, _) = server.ask(&format!("{method} /repo/packs/a%20b"), &[]);
        assert!(has(&head, "http/1.1 405 method not allowed"), "{method}: {head}");
    }
    assert_eq!(server.events.try_iter().count(), 0);
    assert_eq!(fs::read(served.join("packs/a b")).unwrap(), content);
}

#[test]
fn nonsense_ends_its_own_connection_only() {
    let mut files = Files::default();
    files.add("x", "y");
    let server = Server::new(files);
    let long = [b"GET /", &[b'a'; 600_000][..], b" HTTP/1.1\r\n\r\n"].concat();
    for request in [
        &b"\0\0\0"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET x HTTP/1.1\r\n\r\n",
        &long,
    ] {
        let mut stream = TcpStream::connect(server.at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // It may hang up while we still talk.
        drop(stream.write_all(request).and_then(|()| stream.shutdown(std::net::Shutdown::Write)));
        let mut said = Vec::new();
        drop(stream.read_to_end(&mut said));
        assert!(!said.starts_with(b"HTTP/1.1 2"), "{:?}", String::from_utf8_lossy(&said));
        assert_eq!(server.ask("GET /x", &[]).1, b"y");
    }
}

#[test]
fn who_comes_when_all_places_are_taken_waits_for_one() {
    let mut files = Files::default();
    files.add("x", "y");
    let server = Server::within(Limits { connections: 2, ..LIMITS }, files);
    let mut silent: Vec<_> = (0..2).map(|_| TcpStream::connect(server.at).unwrap()).collect();
    let mut third = TcpStream::connect(server.at).unwrap();
    third.write_all(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    third.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(third.read(&mut [0]).is_err(), "it was answered");
    silent.pop();
    third.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut said = Vec::new();
    third.read_to_end(&mut said).unwrap();
    assert!(said.ends_with(b"\r\n\r\ny"));
}

/// Nobody keeps the only place for longer than patience lasts: not who says nothing, not who does not end his request, not who
/// reads nothing of what he asked for.
#[test]
fn who_does_nothing_loses_its_place() {
    let mut files = Files::default();
    files.add("x", "y");
    files.add("large", vec![7; 64 << 20]);
    let limits = Limits { connections: 1, patience: Duration::from_secs(1) };
    let server = Server::within(limits, files);
    for request in ["", "GET /large HTTP/1.1\r\nHost: ", "GET /large HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut stream = TcpStream::connect(server.at).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        assert_eq!(server.ask("GET /x", &[]).1, b"y", "{request}");
    }
    // Who reads slowly is no such one.
    let mut stream = TcpStream::connect(server.at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let (mut piece, mut got) = (vec![0; 2 << 20], 0);
    for at in 0.. {
        match stream.read(&mut piece).unwrap() {
            0 => break,
            count => got += count,
        }
        if at < 16 {
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    assert!(got > 64 << 20, "{got}");
}

/// Answers to one name.
#[derive(Debug)]
struct Time;

impl Answers for Time {
    fn answer(&self, question: &Question<'_>) -> Option<Made> {
        (question.name == "time").then(|| Made::new("text/plain", "noon"))
    }
}

#[test]
fn the_head_of_an_answer_is_that_of_the_answer() {
    let mut files = Files::default();
    files.add_answers("api", Arc::new(Time));
    let server = Server::new(files);
    let (head, body) = server.ask("GET /api/time", &[]);
    let (only, nothing) = server.ask("HEAD /api/time", &[]);
    assert!(has(&head, "http/1.1 200 ok") && has(&head, "content-length: 4"), "{head}");
    let lines = |head: &str| {
        head.lines().filter(|line| !line.starts_with("date")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        (lines(&only), nothing.as_slice(), body.as_slice()),
        (lines(&head), &b""[..], &b"noon"[..])
    );
    for line in ["GET /api/date", "HEAD /api/date"] {
        assert!(server.ask(line, &[]).0.starts_with("http/1.1 404"), "{line}");
    }
}

/// Takes files from who knows the word, and gives what is before it to nobody else.
#[derive(Debug, Default)]
struct Guests(Mutex<Vec<String>>);

impl Takes for Guests {
    fn knows(&self, secret: &str) -> bool {
        secret == "word"
    }

    fn take(&self, secret: &str, name: &str, change: Change<'_>) -> Made {
        assert_eq!(secret, "word");
        self.0.lock().unwrap().push(format!("{name} {change:?}"));
        Made::json(&"taken")
    }
}

impl Door for Guests {
    fn open(&self, secret: Option<&str>, _: Option<Ipv4Addr>) -> Result<(), Closed> {
        match secret {
            Some("word") => Ok(()),
            Some("late") => Err(Closed::Later),
            _ => Err(Closed::Unknown),
        }
    }
}

#[test]
fn files_are_taken_from_who_may_and_given_to_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "x").unwrap();
    let guests = Arc::new(Guests::default());
    let mut files = Files::default();
    files.add("boot/vmlinuz", "y");
    files.add_folder("repo", folder.path()).unwrap();
    files.add_door("repo", guests.clone());
    files.add_takes("repo", guests.clone());
    let server = Server::new(files);
    // "order:word", "order:wrong", ":late".
    let [word, wrong, late] = ["b3JkZXI6d29yZA==", "b3JkZXI6d3Jvbmc=", "OmxhdGU="]
        .map(|login| format!("Authorization: Basic {login}"));
    let status = |line: &str, headers: &[&str]| {
        let (head, _) = server.ask(line, headers);
        head.split(' ').nth(1).unwrap().to_owned()
    };
    for (login, told) in [
        (word.as_str(), "200"),
        ("Authorization: Bearer word", "200"),
        (&wrong, "401"),
        (&late, "403"),
        ("X: y", "401"),
    ] {
        for path in ["/repo/a", "//repo/./a", "/repo/", "/re%70o/a"] {
            assert_eq!(status(&format!("GET {path}"), &[login]), told, "{path} {login}");
            assert_eq!(status(&format!("HEAD {path}"), &[login]), told, "{path} {login}");
        }
        assert_eq!(status("GET /boot/vmlinuz", &[login]), "200");
    }
    assert!(has(&server.ask("GET /repo/a", &[]).0, "www-authenticate: basic realm=\"keiki\""));
    for line in ["PUT /repo/tmp/a?at=0", "POST /repo/tmp/a?to=b", "DELETE /repo/a"] {
        for login in [wrong.as_str(), &late, "X: y"] {
            assert_eq!(status(line, &[login]), "401", "{line}");
        }
        assert_eq!(status(line, &[&word]), "200", "{line}");
    }
    for line in [
        "PUT /repo/tmp/a",
        "PUT /repo/tmp/a?at=x",
        "PUT /repo/tmp/a?to=b",
        "POST /repo/tmp/a?at=0",
        "DELETE /repo/a?at=0",
    ] {
        assert_eq!(status(line, &[&word]), "400", "{line}");
    }
    for line in
        ["PUT /boot/vmlinuz?at=0", "PUT /repo/../a?at=0", "DELETE /repo/%2e%2e/a", "POST /repo/a"]
    {
        assert_eq!(status(line, &[&word]), "405", "{line}");
    }
    let sends = |length: usize, sent: usize| {
        let head = format!(
            "PUT /repo/tmp/a?at=7 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{word}\r\nContent-Length: {length}\r\n\r\n"
        );
        let mut stream = TcpStream::connect(server.at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // It may hang up while we still talk.
        drop(stream.write_all(&[head.as_bytes(), &vec![b'z'; sent]].concat()));
        let mut said = Vec::new();
        drop(stream.shutdown(std::net::Shutdown::Write));
        drop(stream.read_to_end(&mut said));
        String::from_utf8_lossy(&said).into_owned()
    };
    assert!(sends(1 << 20, 1 << 20).starts_with("HTTP/1.1 200"));
    assert!(!sends((1 << 20) + 1, (1 << 20) + 1).starts_with("HTTP/1.1 2"));
    assert!(!sends(9, 8).starts_with("HTTP/1.1 2"), "a piece that was cut off is none");
    let taken = guests.0.lock().unwrap();
    let names: Vec<&str> = taken.iter().map(|one| one.get(..25).unwrap_or(one)).collect();
    assert_eq!(
        names,
        [
            "tmp/a Append { at: 0, byte",
            "tmp/a Finish { to: \"b\" }",
            "a Delete",
            "tmp/a Append { at: 7, byte"
        ]
        .map(|name| name.get(..25).unwrap_or(name))
    );
}
