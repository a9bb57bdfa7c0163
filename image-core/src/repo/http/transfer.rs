//! One answer of a web server, and what is done where none comes.

use std::io::{self, Read as _};
use std::thread;
use std::time::{Duration, Instant};

use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderName, TRANSFER_ENCODING};
use ureq::http::{Response, StatusCode};
use ureq::{Body, Timeout};

use crate::error::Error;
use crate::extent::Extent;
use crate::units::Bytes;

/// How long is waited before a request is made again, where the server has answered before. Much longer and a person
/// would think that the program hangs; whatever is interrupted goes on when it is run again.
pub const PAUSES: &[Duration] = &[
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// The same where the server gave an order, for over two minutes: nobody waits here.
pub const LONG_PAUSES: &[Duration] = &{
    let mut pauses = [Duration::from_secs(8); 20];
    let (first, _) = pauses.split_at_mut(PAUSES.len());
    first.copy_from_slice(PAUSES);
    pauses
};

/// And so long where nobody is there at all: its computer may start again, or another take its place.
pub const ABSENCE: Duration = Duration::from_secs(600);

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// The connection broke, or the server has too much to do: it may go better the next time.
    Passing(String),
    /// There is no connection: nobody is there, who may come back.
    Absent(String),
    /// The server said no.
    Told(io::Error),
    /// The answer is of no use.
    Other(Error),
}

impl Failure {
    pub fn told(why: impl Into<String>) -> Self {
        Self::Told(io::Error::other(why.into()))
    }
}

impl From<ureq::Error> for Failure {
    fn from(error: ureq::Error) -> Self {
        match error {
            ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
                Self::Absent("the server does not answer".into())
            }
            ureq::Error::Timeout(_) => Self::Passing("the server did not answer in time".into()),
            ureq::Error::HostNotFound => Self::Absent("there is no machine of that name".into()),
            ureq::Error::Io(error) if is_absence(error.kind()) => Self::Absent(error.to_string()),
            // Not its kind: that this connection ended early does not mean that the file does.
            ureq::Error::Io(error) => Self::Passing(error.to_string()),
            ureq::Error::TooManyRedirects | ureq::Error::RedirectFailed => {
                Self::told("the server sends us from one address to another")
            }
            ureq::Error::Tls(_) | ureq::Error::TlsRequired => {
                Self::told("the server sends us to an address with https, which is not supported")
            }
            other => Self::Passing(other.to_string()),
        }
    }
}

fn is_absence(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(kind, ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

/// Tries until something comes, the server says no, or there are no more `pauses`; where nobody is there, for so long at least.
pub fn retried<T>(
    (pauses, absence): (&[Duration], Duration),
    has_answered: impl Fn() -> bool,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let began = Instant::now();
    let last = pauses.last();
    let mut pauses = pauses.iter();
    let mut tries = 1;
    loop {
        let (why, pause) = match attempt() {
            Err(Failure::Passing(why)) => (why, pauses.next()),
            Err(Failure::Absent(why)) => {
                let waits = began.elapsed() < absence;
                (why, pauses.next().or(last.filter(|_| waits)))
            }
            other => return other,
        };
        match pause.filter(|_| has_answered()) {
            Some(pause) => thread::sleep(*pause),
            None if tries == 1 => return Err(Failure::told(why)),
            None => return Err(Failure::told(format!("{why} (tried {tries} times)"))),
        }
        tries += 1;
    }
}

/// The answer, if it is the one with a file or a part of one.
pub fn accepted(response: Response<Body>) -> Result<Response<Body>, Failure> {
    let status = response.status();
    Err(match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(response),
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            Failure::Told(io::Error::new(io::ErrorKind::NotFound, "there is no such file"))
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            Failure::Told(io::Error::from(io::ErrorKind::UnexpectedEof))
        }
        StatusCode::UNAUTHORIZED => Failure::Told(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the server wants another user or password; name it as http://USER:PASSWORD@HOST/PATH",
        )),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Failure::Passing(says(status))
        }
        status if status.is_server_error() => Failure::Passing(says(status)),
        status => Failure::told(says(status)),
    })
}

fn says(status: StatusCode) -> String {
    format!("the server says {status}")
}

/// How long the server says a file is.
pub fn length(response: &Response<Body>) -> Option<Bytes> {
    header(response, CONTENT_LENGTH)?.parse().ok().map(Bytes::new)
}

fn header(response: &Response<Body>, name: HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}

/// All bytes of an answer; `None` where they are more than `max`.
pub fn whole(response: Response<Body>, max: Bytes) -> Result<Option<Vec<u8>>, Failure> {
    let length = length(&response);
    if length.is_some_and(|length| length > max) {
        return Ok(None);
    }
    // Otherwise an answer that was cut off would look like a whole one.
    if length.is_none() && header(&response, TRANSFER_ENCODING).is_none() {
        return Err(Failure::told("the server does not say how long its answer is"));
    }
    let mut bytes = Vec::with_capacity(length.and_then(Bytes::index).unwrap_or_default());
    append(response, max, &mut bytes)?;
    if length.is_some_and(|length| length != Bytes::of(&bytes)) {
        return Err(Failure::Passing("the answer ended early".into()));
    }
    Ok(Some(bytes).filter(|bytes| Bytes::of(bytes) <= max))
}

/// Appends the bytes of an answer, at most one more than expected; what came before it broke is there too.
///
/// Only a connection whose answer was read to its end is used again.
pub fn append(
    response: Response<Body>,
    expected: Bytes,
    bytes: &mut Vec<u8>,
) -> Result<(), Failure> {
    let most = expected.saturating_add(Bytes::new(1));
    let mut reader = response.into_body().into_reader().take(most.get());
    reader.read_to_end(bytes).map_err(|error| Failure::from(ureq::Error::from(error)))?;
    Ok(())
}

/// Which bytes of a file an answer has, and how long that file is, if the server knows (RFC 9110, section 14.4).
pub fn part(response: &Response<Body>) -> Option<(Extent, Option<Bytes>)> {
    let (range, total) =
        header(response, CONTENT_RANGE)?.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let start = Bytes::new(first.parse().ok()?);
    let end = Bytes::new(last.parse().ok()?).checked_add(Bytes::new(1))?;
    let total = if total == "*" { None } else { Some(Bytes::new(total.parse().ok()?)) };
    (start < end && total.is_none_or(|total| end <= total))
        .then(|| (Extent::new(start, end), total))
}
