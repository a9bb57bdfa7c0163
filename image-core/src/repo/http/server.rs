//! A web server for tests, of a folder: as the usual ones answer, and as bad ones do.

use std::fs;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::error::Result;
use crate::repo::guest::{self, Drafts, Guest};

/// What goes wrong with an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The connection is closed without one.
    Silent,
    /// It is closed after so many bytes of the content.
    Cut(usize),
    /// There is another status, and no content.
    Status(&'static str),
    /// The same with another header.
    Header(&'static str, String),
    /// The file is sent whole, whatever part was asked for.
    Whole,
    /// The part that was asked for, of a file that is said to be longer than it is.
    Longer,
    /// Half of the part that was asked for.
    Less,
    /// It takes so long.
    Late(Duration),
    /// It takes so long from one byte of the content to the next.
    Slow(Duration),
    /// Its length is not told: it ends with the connection.
    NoLength,
}

/// A request, as far as it matters here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub range: Option<(usize, usize)>,
    pub authorization: Option<String>,
    /// How many were made before.
    pub number: usize,
}

/// What takes files.
pub trait Takes: Send {
    fn append(&mut self, path: &str, at: u64, bytes: &[u8]) -> Result<()>;
    fn finish(&mut self, from: &str, to: &str) -> Result<()>;
    fn delete(&mut self, path: &str) -> Result<()>;
}

macro_rules! takes {
    ($($kind:ty),*) => {$(
        impl Takes for $kind {
            fn append(&mut self, path: &str, at: u64, bytes: &[u8]) -> Result<()> {
                self.append(path, at, bytes)
            }

            fn finish(&mut self, from: &str, to: &str) -> Result<()> {
                self.finish(from, to)
            }

            fn delete(&mut self, path: &str) -> Result<()> {
                self.delete(path)
            }
        }
    )*};
}

takes!(Drafts, Guest);

type Faults = dyn Fn(&Asked) -> Option<Fault> + Send + Sync;

struct Shared {
    root: PathBuf,
    faults: Box<Faults>,
    takes: Mutex<Option<Box<dyn Takes>>>,
    asked: Mutex<Vec<Asked>>,
    connections: AtomicUsize,
    ends: AtomicBool,
}

/// Serves until it is dropped.
pub struct Server {
    shared: Arc<Shared>,
    at: SocketAddr,
    listener: Option<JoinHandle<()>>,
}

impl Server {
    pub fn new(
        root: &Path,
        faults: impl Fn(&Asked) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            faults: Box::new(faults),
            takes: Mutex::default(),
            asked: Mutex::default(),
            connections: AtomicUsize::new(0),
            ends: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        let listen = move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if own.ends.load(Ordering::Relaxed) {
                    return;
                }
                own.connections.fetch_add(1, Ordering::Relaxed);
                let own = Arc::clone(&own);
                thread::spawn(move || own.serve(stream));
            }
        };
        Self { shared, at, listener: Some(thread::spawn(listen)) }
    }

    /// Takes files from now on.
    pub fn take(&self, takes: impl Takes + 'static) {
        *self.shared.takes.lock().unwrap() = Some(Box::new(takes));
    }

    pub fn address(&self) -> String {
        format!("http://{}/the%20folder", self.at)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.at));
        self.listener.take().map(JoinHandle::join);
    }
}

impl Shared {
    /// Answers one request after another, until the connection ends.
    fn serve(&self, mut stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(Ok(first)) = reader.by_ref().lines().next() {
            let lines = reader.by_ref().lines().map_while(Result::ok);
            let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let header = |name: &str| {
                let named = |line: &String| {
                    let (found, value) = line.split_once(": ")?;
                    found.eq_ignore_ascii_case(name).then(|| value.to_owned())
                };
                headers.iter().find_map(named)
            };
            let length = header("content-length").map_or(0, |length| length.parse().unwrap());
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let range = header("range").map(|range| {
                let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                (first.parse().unwrap(), last.parse::<usize>().unwrap() + 1)
            });
            let mut words = first.split(' ').map(str::to_owned);
            let (method, url) = (words.next().unwrap(), words.next().unwrap());
            let path = url.strip_prefix("/the%20folder/").unwrap().to_owned();
            let mut asked = self.asked.lock().unwrap();
            let (number, authorization) = (asked.len(), header("authorization"));
            asked.push(Asked { method, path, range, authorization, number });
            let one = asked.last().unwrap().clone();
            drop(asked);
            let goes_on = || match one.method.as_str() {
                "GET" | "HEAD" => self.answer(&mut stream, &one),
                _ => self.change(&mut stream, &one, &body),
            };
            if self.ends.load(Ordering::Relaxed) || !{ goes_on }() {
                return;
            }
        }
    }

    /// Takes a file or a piece of one, as [`super::write`] sends it; whether the connection goes on.
    fn change(&self, stream: &mut TcpStream, asked: &Asked, body: &[u8]) -> bool {
        let (path, wish) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        let mut takes = self.takes.lock().unwrap();
        let Some(takes) = takes.as_mut() else {
            return stream.write_all(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n").is_ok();
        };
        let done = match (asked.method.as_str(), wish.split_once('=')) {
            ("PUT", Some(("at", at))) => takes.append(path, at.parse().unwrap(), body),
            ("POST", Some(("to", to))) => takes.finish(path, to),
            ("DELETE", None) => takes.delete(path),
            other => panic!("{other:?}"),
        };
        let (status, said) = match done {
            Ok(()) => (200, "{}".to_owned()),
            Err(error) => {
                let words = serde_json::json!({"error": error.to_string()});
                (guest::status(&error), words.to_string())
            }
        };
        if (self.faults)(asked) == Some(Fault::Silent) {
            return false;
        }
        let length = said.len();
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{said}");
        stream.write_all(answer.as_bytes()).is_ok()
    }

    /// Whether the connection goes on.
    fn answer(&self, stream: &mut TcpStream, asked: &Asked) -> bool {
        let fault = (self.faults)(asked);
        let (mut status, mut content) = self.found(&asked.path);
        let mut headers = Vec::new();
        let size = content.len();
        match (&fault, asked.range) {
            (Some(Fault::Silent), _) => return false,
            (Some(Fault::Status(other)), _) => (status, content) = (*other, Vec::new()),
            (Some(Fault::Header(other, header)), _) => {
                (status, content) = (*other, Vec::new());
                headers.push(header.clone());
            }
            (Some(Fault::Whole), _) | (_, None) => {}
            (_, Some(_)) if status != "200 OK" => {}
            (_, Some((start, _))) if start >= size => {
                (status, content) = ("416 Range Not Satisfiable", Vec::new());
            }
            (fault, Some((start, end))) => {
                let end =
                    if *fault == Some(Fault::Less) { start.midpoint(end) } else { end.min(size) };
                let told = if *fault == Some(Fault::Longer) { size + asked.number } else { size };
                content = content[start..end].to_vec();
                status = "206 Partial Content";
                headers.push(format!("Content-Range: bytes {start}-{}/{told}", end - 1));
            }
        }
        let ends = matches!(fault, Some(Fault::Cut(_) | Fault::NoLength));
        if fault != Some(Fault::NoLength) {
            headers.push(format!("Content-Length: {}", content.len()));
        }
        if let Some(Fault::Cut(after)) = fault {
            content.truncate(after);
        }
        if asked.method == "HEAD" {
            content.clear();
        }
        let head = format!("HTTP/1.1 {status}\r\n{}\r\n\r\n", headers.join("\r\n"));
        match fault {
            Some(Fault::Late(time)) => thread::sleep(time),
            Some(Fault::Slow(time)) => {
                let sent = stream.write_all(head.as_bytes());
                return sent.is_ok()
                    && content.iter().all(|byte| {
                        thread::sleep(time);
                        stream.write_all(&[*byte]).is_ok()
                    });
            }
            _ => {}
        }
        stream.write_all(&[head.into_bytes(), content].concat()).is_ok() && !ends
    }

    fn found(&self, path: &str) -> (&'static str, Vec<u8>) {
        let full = self.root.join(path);
        if path.is_empty() || path.ends_with('/') {
            let Ok(entries) = fs::read_dir(&full) else { return ("404 Not Found", Vec::new()) };
            let link = |entry: fs::DirEntry| {
                let slash = if entry.path().is_dir() { "/" } else { "" };
                let name = entry.file_name().into_string().unwrap();
                format!("<a href=\"{name}{slash}\">{name}</a>\n")
            };
            let links: String = entries.map(|entry| link(entry.unwrap())).collect();
            return ("200 OK", format!("<a href=\"../\">up</a>\n{links}").into_bytes());
        }
        fs::read(&full).map_or(("404 Not Found", Vec::new()), |bytes| ("200 OK", bytes))
    }
}
