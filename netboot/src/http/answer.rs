//! What a request is answered with.

use std::convert::Infallible;
use std::fs::Metadata;
use std::io;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_stream::StreamExt;
use tokio_util::io::ReaderStream;

use super::range::{self, Part};
use super::{page, taken};
use crate::event::{Event, Events, What};
use crate::files::{Closed, Files, Made, Question};

/// What is read of a file of this machine at once, in bytes.
const PIECE: usize = 32 << 10;

pub(super) type Answer = Response<BoxBody<Bytes, io::Error>>;

/// What a request asks for.
#[derive(Debug)]
pub(super) struct Asked {
    client: Option<Ipv4Addr>,
    method: Method,
    path: Option<String>,
    query: Option<String>,
    headers: HeaderMap,
}

/// The longest that is taken of what a client says, and for how long it may say it.
const LONGEST: usize = 64 << 10;
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

impl Asked {
    /// Takes it from a request; nothing of its body is read.
    pub fn of<B>(request: &Request<B>, client: Option<Ipv4Addr>) -> Self {
        let path = percent_decode_str(request.uri().path()).decode_utf8();
        Self {
            client,
            method: request.method().clone(),
            path: path.ok().map(|path| path.into_owned()),
            query: request.uri().query().map(str::to_owned),
            headers: request.headers().clone(),
        }
    }

    /// What it wants to know, where it says `posted`.
    fn question<'a>(&'a self, path: &'a str, posted: Option<&'a [u8]>) -> Question<'a> {
        let token =
            self.header(header::AUTHORIZATION).and_then(|text| text.strip_prefix("Bearer "));
        Question { name: path, posted, token, client: self.client }
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    /// What stands behind the `?`.
    pub(super) fn query(&self) -> &str {
        self.query.as_deref().unwrap_or_default()
    }

    /// Whether it wants to change a file.
    fn is_change(&self) -> bool {
        let is_named = self.method == Method::POST && self.query.is_some();
        is_named || [Method::PUT, Method::DELETE].contains(&self.method)
    }

    /// The secret that it knows: a token (RFC 6750), or a password, whoever the user is (RFC 7617).
    pub(super) fn secret(&self) -> Option<String> {
        let (scheme, rest) = self.header(header::AUTHORIZATION)?.split_once(' ')?;
        match scheme {
            "Bearer" => Some(rest.to_owned()),
            "Basic" => {
                let login = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
                login.split_once(':').map(|(_, password)| password.to_owned())
            }
            _ => None,
        }
    }

    fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether the header `name` lists the tag of a file.
    fn names(&self, name: HeaderName, tag: &str) -> bool {
        let tags = self.header(name).unwrap_or_default();
        tags.split(',').any(|one| one.trim().trim_start_matches("W/") == tag)
    }

    /// The part of a file that it wants. It may want one of that file only (section 13.1.5 of RFC 9110).
    fn part(&self, length: u64, tag: &str) -> Part {
        let is_of = self.header(header::IF_RANGE).is_none_or(|wanted| wanted == tag);
        let header = self.header(header::RANGE).filter(|_| is_of && self.method == Method::GET);
        range::asked(header, length)
    }
}

/// Answers a request; what goes wrong is an answer too.
pub(super) async fn answer(
    asked: Asked,
    body: Incoming,
    files: Arc<Files>,
    events: Events,
) -> Result<Answer, Infallible> {
    let path = asked.path.clone().unwrap_or_default();
    if asked.is_change()
        && let Some(taking) = files.taking(&path)
    {
        return Ok(taken::answer(&asked, body, taking).await);
    }
    if let Err(closed) = files.open(&path, asked.secret().as_deref(), asked.client) {
        return Ok(refused(closed));
    }
    if asked.method == Method::POST
        && let Some(answer) = posted(&asked, body, &files).await
    {
        return Ok(answer);
    }
    if ![Method::GET, Method::HEAD].contains(&asked.method) {
        let mut answer = said(StatusCode::METHOD_NOT_ALLOWED);
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(answer);
    }
    let answer = match files.stored(&path) {
        Some(file) => {
            let length = file.bytes.len();
            tell(&asked, &path, length, &events);
            let bytes = file.bytes.clone();
            let body = move |range: Range<u64>| async move {
                let at = |at| usize::try_from(at).unwrap_or(usize::MAX).min(length);
                Ok(whole(bytes.slice(at(range.start)..at(range.end))))
            };
            sent(&asked, length as u64, &format!("\"{}\"", file.tag), body).await
        }
        None => match answered(&asked, &path, None, &files) {
            Some(made) => made_now(made),
            None => opened(&asked, &path, files).await,
        },
    };
    Ok(answer.unwrap_or_else(|_| said(StatusCode::INTERNAL_SERVER_ERROR)))
}

/// The answer to what is posted; none where nobody listens to that.
async fn posted(asked: &Asked, body: Incoming, files: &Files) -> Option<Answer> {
    let path = asked.path.as_deref()?;
    let read = tokio::time::timeout(PATIENCE, Limited::new(body, LONGEST).collect()).await;
    let Ok(Ok(read)) = read else { return Some(said(StatusCode::PAYLOAD_TOO_LARGE)) };
    let made = answered(asked, path, Some(&read.to_bytes()), files)?;
    Some(made_now(made).unwrap_or_else(|_| said(StatusCode::INTERNAL_SERVER_ERROR)))
}

/// What answers make of it. What is decided is written to a disk, and who opens a room reads one. Of an answer to `HEAD` only
/// the head is sent.
fn answered(asked: &Asked, path: &str, posted: Option<&[u8]>, files: &Files) -> Option<Made> {
    tokio::task::block_in_place(|| files.answered(&asked.question(path, posted)))
}

/// Tells that a file in memory is fetched: once, also where it is fetched in parts.
fn tell(asked: &Asked, path: &str, length: usize, events: &Events) {
    let begins = asked.header(header::RANGE).is_none_or(|range| range.starts_with("bytes=0-"));
    if asked.method == Method::GET && begins {
        let what = What::Fetched("HTTP", path.trim_start_matches('/').to_owned(), length);
        events.tell(Event { address: asked.client, mac: None, kind: None, what });
    }
}

/// The answer for a file or folder of this machine.
async fn opened(asked: &Asked, path: &str, files: Arc<Files>) -> io::Result<Answer> {
    let name = path.to_owned();
    let look = move || {
        let file = files.opened(&name)?;
        let data = file.metadata().ok()?;
        let page = data.is_dir().then(|| page::list(&file.try_clone().ok()?.into()).ok()).flatten();
        Some((file, data, page))
    };
    let found = tokio::task::spawn_blocking(look).await.ok().flatten();
    let Some((file, data, page)) = found else { return Ok(said(StatusCode::NOT_FOUND)) };
    if data.is_file() {
        let body = |range: Range<u64>| async move {
            let mut file = tokio::fs::File::from_std(file);
            file.seek(io::SeekFrom::Start(range.start)).await?;
            let part = file.take(range.end - range.start);
            let pieces = ReaderStream::with_capacity(part, PIECE);
            Ok(StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed())
        };
        return sent(asked, data.len(), &tag(&data), body).await;
    }
    let Some(page) = page else { return Ok(said(StatusCode::NOT_FOUND)) };
    if !path.ends_with('/') {
        // Links of the page lead on from the folder.
        let mut answer = said(StatusCode::MOVED_PERMANENTLY);
        let last = path.rsplit('/').next().unwrap_or_default();
        let to = HeaderValue::try_from(format!("{last}/"));
        answer.headers_mut().insert(header::LOCATION, to.map_err(io::Error::other)?);
        return Ok(answer);
    }
    let mut answer = Answer::new(whole(if asked.method == Method::HEAD {
        Bytes::new()
    } else {
        page.clone().into()
    }));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_LENGTH, page.len().into());
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    Ok(answer)
}

/// The answer to who is not let in.
fn refused(closed: Closed) -> Answer {
    let made = match closed {
        Closed::Unknown => {
            Made::said(401, "this repository is private: its code, or the order of a machine")
        }
        Closed::Later => Made::said(403, "too many wrong codes were tried; wait a minute"),
    };
    let mut answer = made_now(made).unwrap_or_else(|_| said(StatusCode::INTERNAL_SERVER_ERROR));
    let realm = HeaderValue::from_static("Basic realm=\"keiki\"");
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
    answer
}

/// The answer that is another one the next time.
pub(super) fn made_now(Made { status, kind, bytes }: Made) -> io::Result<Answer> {
    let length = bytes.len();
    let mut answer = Answer::new(whole(bytes));
    *answer.status_mut() = StatusCode::from_u16(status).map_err(io::Error::other)?;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

/// A file that changes has another size or time.
fn tag(data: &Metadata) -> String {
    format!("\"{:x}-{:x}-{:x}\"", data.len(), data.mtime(), data.mtime_nsec())
}

/// The answer for a file of `length` bytes, whose bytes `body` gives.
async fn sent<F>(
    asked: &Asked,
    length: u64,
    tag: &str,
    body: impl FnOnce(Range<u64>) -> F,
) -> io::Result<Answer>
where
    F: Future<Output = io::Result<BoxBody<Bytes, io::Error>>>,
{
    let part = asked.part(length, tag);
    let (status, range) = match &part {
        _ if asked.names(header::IF_NONE_MATCH, tag) => (StatusCode::NOT_MODIFIED, 0..0),
        Part::Whole => (StatusCode::OK, 0..length),
        Part::Bytes(range) => (StatusCode::PARTIAL_CONTENT, range.clone()),
        Part::Beyond => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0),
    };
    let size = range.end - range.start;
    let bytes = if asked.method == Method::HEAD || size == 0 {
        whole(Bytes::new())
    } else {
        body(range.clone()).await?
    };
    let mut answer = Answer::new(bytes);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::ETAG, HeaderValue::try_from(tag).map_err(io::Error::other)?);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if status != StatusCode::NOT_MODIFIED {
        let kind = HeaderValue::from_static("application/octet-stream");
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(header::CONTENT_LENGTH, size.into());
    }
    let place = match part {
        Part::Bytes(range) => format!("bytes {}-{}/{length}", range.start, range.end - 1),
        Part::Beyond => format!("bytes */{length}"),
        Part::Whole => return Ok(answer),
    };
    let place = HeaderValue::try_from(place).map_err(io::Error::other)?;
    headers.insert(header::CONTENT_RANGE, place);
    Ok(answer)
}

fn whole(bytes: Bytes) -> BoxBody<Bytes, io::Error> {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// An answer that has no more to say than its status.
pub(super) fn said(status: StatusCode) -> Answer {
    let mut answer = Answer::new(whole(Bytes::new()));
    *answer.status_mut() = status;
    answer
}
