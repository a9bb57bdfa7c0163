//! A repository behind a web server, which is only read; but `keiki serve` takes images from who has its order.
//!
//! Answers: files, parts and lists of them from any server that sends parts of files (RFC 9110, section 14) and lists
//! folders; where it does not list them, images and packs from the catalog. Refuses: servers that send whole files
//! only, TLS, and answers of unknown length. A connection that breaks is made again, a few times; what came before is
//! kept. Nothing here is damage but a file that is missing, too long or too short: the way to the server is none.
//!
//! - `address.rs` the address as it is typed · `connect.rs` the way to the server · `transfer.rs` one answer, and the
//!   next attempt · `listing.rs` the page of a folder · `write.rs` what an order lets one write

mod address;
mod connect;
mod listing;
#[cfg(test)]
pub(super) mod server;
#[cfg(test)]
mod tests;
mod transfer;
mod write;

use std::cmp;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use ureq::config::RedirectAuthHeaders;
use ureq::http::header::{AUTHORIZATION, CACHE_CONTROL, RANGE};
use ureq::http::request::Builder;
use ureq::http::{Method, Request, Response, StatusCode, Uri};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::{Agent, AsSendBody, Body, ResponseExt};

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::repo::HEADER;
use crate::repo::catalog::Catalog;
use crate::repo::read::{FileInfo, Read, check_path, is_missing, too_long};
use crate::units::Bytes;
use connect::Soon;
use transfer::{
    ABSENCE, Failure, LONG_PAUSES, PAUSES, accepted, append, length, part, retried, whole,
};

pub use address::{Address, ORDERED};
pub use listing::names as listed_names;

/// Until there is a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Until a server begins to answer, and from one piece of an answer to the next.
const SILENCE: Duration = Duration::from_secs(30);
/// The largest page of a folder that is taken: about 100,000 files.
const MAX_PAGE: Bytes = Bytes::mib(64);
/// No file is longer (docs/FORMAT.md), and servers need not understand larger numbers.
const LONGEST: Bytes = Bytes::new(1 << 60);

/// How lists of folders are switched on, for messages.
const HOW_TO_LIST: &str = "switch that on: `autoindex on` (nginx), `Options +Indexes` (Apache), \
                           `dir-listing.activate = \"enable\"` (lighttpd), `file_server browse` (Caddy)";

/// A folder on a web server; clones share what is known of it.
#[derive(Clone)]
pub struct Http {
    address: Address,
    /// Its URL with a slash at the end.
    url: String,
    host: Option<String>,
    authorization: Option<String>,
    agent: Agent,
    pauses: &'static [Duration],
    absence: Duration,
    /// Whether the server ever did: a mistyped address is not tried again and again.
    answered: Arc<AtomicBool>,
    lists: Arc<OnceLock<bool>>,
}

/// What a server says to the wish for a folder's page.
enum Page {
    Names(Vec<String>),
    Missing,
    Forbidden,
}

impl Http {
    /// The folder at `address`; nobody is asked yet.
    ///
    /// # Errors
    /// `Refused` where the address is none.
    pub fn new(address: &Address) -> Result<Self> {
        Self::with_patience(address, SILENCE)
    }

    fn with_patience(address: &Address, silence: Duration) -> Result<Self> {
        let url = address.folder()?;
        let config = Agent::config_builder()
            // 404 is an answer like any other.
            .http_status_as_error(false)
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(silence))
            .timeout_per_write(Some(silence))
            .max_redirects(3)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            // A proxy of the whole house would keep every pack that passes.
            .proxy(None)
            .user_agent(concat!("keiki/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            address: address.clone(),
            host: url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)),
            authorization: address.authorization(),
            url,
            agent: Agent::with_parts(config, Soon::default(), DefaultResolver::default()),
            pauses: if address.is_written() { LONG_PAUSES } else { PAUSES },
            absence: if address.is_written() { ABSENCE } else { Duration::ZERO },
            // Who gave an order is there, or was a moment ago.
            answered: Arc::new(AtomicBool::new(address.is_written())),
            lists: Arc::default(),
        })
    }

    /// Any answer of the server.
    fn ask(
        &self,
        method: Method,
        path: &str,
        range: Option<Extent>,
    ) -> Result<Response<Body>, Failure> {
        let request = self.request(method, path);
        let request = match range {
            Some(range) => {
                let last = range.end.saturating_sub(Bytes::new(1)).get();
                request.header(RANGE, format!("bytes={}-{last}", range.start.get()))
            }
            // What is read in parts never changes; a page or the catalog may have.
            None => request.header(CACHE_CONTROL, "no-cache"),
        };
        self.run(request.body(()).map_err(ureq::Error::from)?)
    }

    /// A request from who this is.
    fn request(&self, method: Method, path: &str) -> Builder {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        match &self.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization),
            None => request,
        }
    }

    /// Any answer of the server to a request.
    fn run(&self, request: Request<impl AsSendBody>) -> Result<Response<Body>, Failure> {
        let response = self.agent.run(request)?;
        self.answered.store(true, Ordering::Relaxed);
        if response.get_uri().host() != self.host.as_deref() {
            let host = response.get_uri().host().unwrap_or_default();
            return Err(Failure::told(format!("the server sends us to another one, {host}")));
        }
        Ok(response)
    }

    /// Makes an attempt after another; errors name the file.
    fn tried<T>(
        &self,
        path: &str,
        (action, at): (&str, Option<Bytes>),
        attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T> {
        let answered = || self.answered.load(Ordering::Relaxed);
        retried((self.pauses, self.absence), answered, attempt).map_err(|failure| {
            let io = |source| {
                let subject = format!("{}/{path}", self.location());
                Error::Io { subject, action: action.to_owned(), offset: at, source }
            };
            match failure {
                Failure::Passing(why) | Failure::Absent(why) => io(io::Error::other(why)),
                Failure::Told(source) => io(source),
                Failure::Other(error) => error,
            }
        })
    }

    fn size(&self, path: &str) -> Result<Bytes> {
        self.tried(path, ("look up its size", None), || {
            let response = accepted(self.ask(Method::HEAD, path, None)?)?;
            length(&response).ok_or_else(|| Failure::told("the server does not say how long it is"))
        })
    }

    fn page(&self, folder: &str) -> Result<Page> {
        let path = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        self.tried(&path, ("list", None), || {
            let response = self.ask(Method::GET, &path, None)?;
            match response.status() {
                StatusCode::NOT_FOUND => return Ok(Page::Missing),
                StatusCode::FORBIDDEN => return Ok(Page::Forbidden),
                _ => {}
            }
            let page = whole(accepted(response)?, MAX_PAGE)?;
            let page = page.ok_or_else(|| {
                Failure::told(format!("the page of this folder is larger than {MAX_PAGE}"))
            })?;
            Ok(Page::Names(listed_names(&page)))
        })
    }

    /// Whether the server lists folders: then the page of the repository's own names the file that makes it one.
    fn lists(&self) -> Result<bool> {
        if let Some(lists) = self.lists.get() {
            return Ok(*lists);
        }
        let page = self.page("")?;
        let lists = matches!(page, Page::Names(names) if names.iter().any(|name| name == HEADER));
        Ok(*self.lists.get_or_init(|| lists))
    }

    /// The names in a folder.
    fn names(&self, folder: &str) -> Result<Vec<String>> {
        if self.lists()? {
            return match self.page(folder)? {
                Page::Names(names) => Ok(names),
                Page::Missing => Ok(Vec::new()),
                Page::Forbidden => Err(self.unlisted(folder, "")),
            };
        }
        if folder == "trash" {
            // Whatever is there cannot be found, and nothing that an image needs should be.
            return Ok(Vec::new());
        }
        let catalog = Catalog::read(self).map_err(|error| {
            self.unlisted(
                folder,
                &format!(", and the catalog that stands in for that is of no use ({error})"),
            )
        })?;
        catalog.names(folder).ok_or_else(|| self.unlisted(folder, ""))
    }

    fn unlisted(&self, folder: &str, besides: &str) -> Error {
        let why = format!("the server does not list folders{besides}; {HOW_TO_LIST}");
        Error::io(format!("{}/{folder}", self.location()), "list", io::Error::other(why))
    }
}

impl Read for Http {
    fn location(&self) -> String {
        self.address.to_string().trim_end_matches('/').to_owned()
    }

    fn get(&self, path: &str, max: Bytes) -> Result<Vec<u8>> {
        check_path(path)?;
        self.tried(path, ("read", None), || {
            let response = accepted(self.ask(Method::GET, path, None)?)?;
            let length = length(&response);
            let longer = || {
                let size = length.unwrap_or_else(|| max.saturating_add(Bytes::new(1)));
                Failure::Other(too_long(path, size, max))
            };
            whole(response, max)?.ok_or_else(longer)
        })
    }

    fn range(&self, path: &str, range: Extent) -> Result<Vec<u8>> {
        check_path(path)?;
        let action = format!("read {} bytes", range.len().get());
        let what = (action.as_str(), Some(range.start));
        let early = || Failure::Told(io::ErrorKind::UnexpectedEof.into());
        let another = || Failure::told("the server sent another part than was asked for");
        // HTTP has no empty ranges.
        if range.is_empty() || range.end > LONGEST {
            let size = self.size(path)?;
            let fits = range.end <= size;
            return self.tried(path, what, || if fits { Ok(Vec::new()) } else { Err(early()) });
        }
        let mut bytes = Vec::new();
        let mut size = None;
        self.tried(path, what, || {
            let rest = Extent::new(range.start + Bytes::of(&bytes), range.end);
            let response = accepted(self.ask(Method::GET, path, Some(rest))?)?;
            if response.status() == StatusCode::OK {
                return Err(Failure::told(
                    "the server sends whole files only, as that of Python does; nginx, Apache, lighttpd and Caddy \
                     send parts of files",
                ));
            }
            let (sent, total) = part(&response).ok_or_else(another)?;
            if sent.start != rest.start {
                return Err(another());
            }
            if total == Some(sent.end) && sent.end < rest.end {
                return Err(early());
            }
            if sent.end != rest.end || (size.is_some() && size != total) {
                return Err(Failure::told("the file changed while it was read"));
            }
            size = total;
            bytes.reserve_exact(rest.len().index().unwrap_or_default());
            append(response, rest.len(), &mut bytes)?;
            match Bytes::of(&bytes).cmp(&range.len()) {
                cmp::Ordering::Less => Err(Failure::Passing("the answer ended early".into())),
                cmp::Ordering::Equal => Ok(()),
                cmp::Ordering::Greater => Err(another()),
            }
        })?;
        Ok(bytes)
    }

    /// One request for each file: pages tell lengths rounded, or not at all. Times are those of nobody: only who
    /// writes asks for them, of locks and of the trash.
    fn list(&self, folder: &str) -> Result<Vec<FileInfo>> {
        if !folder.is_empty() {
            check_path(folder)?;
        }
        let path = |name: &str| match folder {
            "" => name.to_owned(),
            folder => format!("{folder}/{name}"),
        };
        let info = |name: String| match self.size(&path(&name)) {
            // Removed since.
            Err(error) if is_missing(&error) => None,
            other => {
                Some(other.map(|size| FileInfo { name, size, modified: SystemTime::UNIX_EPOCH }))
            }
        };
        self.names(folder)?.into_par_iter().filter_map(info).collect()
    }
}
