//! A web server on the loopback, the one that is used most (Apache), and a wire to it that breaks.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use image_core::exec::real::{Beside, Machine};
use tempfile::TempDir;

use crate::call;

/// A server that sends parts of files and lists folders, unless its settings say otherwise. Ends when dropped.
#[derive(Debug)]
pub struct Web {
    at: SocketAddr,
    _folder: TempDir,
    _server: Beside,
}

impl Web {
    /// Serves `root`, with `settings` of Apache for it.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn new(root: &Path, settings: &str) -> Result<Self> {
        Self::at(Ipv4Addr::LOCALHOST, root, settings)
    }

    /// The same, at another of this machine's addresses.
    ///
    /// # Errors
    /// As [`Web::new`].
    pub fn at(address: Ipv4Addr, root: &Path, settings: &str) -> Result<Self> {
        let folder = TempDir::new()?;
        let at = TcpListener::bind((address, 0))?.local_addr()?;
        let (work, root) = (folder.path().display(), root.display());
        let module = |name: &str| {
            format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n")
        };
        let modules: String = ["mpm_event", "authz_core", "autoindex"].map(module).concat();
        let settings = format!(
            "{modules}Listen {at}\nServerName localhost\nServerRoot {work}\nDefaultRuntimeDir {work}\n\
             PidFile {work}/pid\nErrorLog {work}/log\nDocumentRoot {root}\n\
             <Directory {root}>\nOptions Indexes\n{settings}\n</Directory>\n"
        );
        let path = folder.path().join("conf");
        fs::write(&path, settings)?;
        // One process, in which it stays.
        let server = Machine
            .spawn(&call!("apache2", "-X", "-f", &path))
            .context("scripts/install installs the web server that tests use")?;
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(at).is_err() {
            if Instant::now() > end {
                let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
                bail!("the web server does not answer: {log}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { at, _folder: folder, _server: server })
    }

    /// The address of a folder below its root.
    pub fn address(&self, path: &str) -> String {
        format!("http://{}/{path}", self.at)
    }
}

/// Another address of a server, which is gone for good once so many bytes came through it.
#[derive(Debug)]
pub struct Wire {
    at: SocketAddr,
    ends: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Wire {
    /// To `web`, until `most` bytes of answers have come through.
    ///
    /// # Errors
    /// There is no free port.
    pub fn new(web: &Web, most: usize) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (at, to) = (listener.local_addr()?, web.at);
        let (left, ends) = (Arc::new(AtomicUsize::new(most)), Arc::new(AtomicBool::new(false)));
        let over = Arc::clone(&ends);
        let listen = move || {
            for client in listener.incoming().map_while(Result::ok) {
                // Dropping the listener refuses all others.
                let Ok(server) = TcpStream::connect(to) else { return };
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let (left, over) = (Arc::clone(&left), Arc::clone(&over));
                thread::spawn(move || carry(&client, &server, (&left, &over), at));
            }
        };
        Ok(Self { at, ends, listener: Some(thread::spawn(listen)) })
    }

    /// The address of a folder of the server, by this way.
    pub fn address(&self, path: &str) -> String {
        format!("http://{}/{path}", self.at)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.at));
        drop(self.listener.take().map(JoinHandle::join));
    }
}

/// Carries requests and answers until one side ends, or no byte is left.
fn carry(
    mut client: &TcpStream,
    mut server: &TcpStream,
    (left, over): (&AtomicUsize, &AtomicBool),
    at: SocketAddr,
) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut requests: (&TcpStream, &TcpStream) = (client, server);
            drop(std::io::copy(&mut requests.0, &mut requests.1));
            drop(server.shutdown(Shutdown::Both));
        });
        let mut buffer = [0; 16 << 10];
        while let Ok(count @ 1..) = server.read(&mut buffer) {
            let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                Some(left.saturating_sub(count))
            });
            let count = count.min(before.unwrap_or(0));
            let sent = buffer.get(..count).map(|bytes| client.write_all(bytes));
            if !matches!(sent, Some(Ok(()))) || left.load(Ordering::Relaxed) == 0 {
                break;
            }
        }
        drop(client.shutdown(Shutdown::Both));
        drop(server.shutdown(Shutdown::Both));
    });
    if left.load(Ordering::Relaxed) == 0 && !over.swap(true, Ordering::Relaxed) {
        drop(TcpStream::connect(at));
    }
}
