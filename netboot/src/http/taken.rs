//! Files that come: piece by piece, from who has a grant (docs/PROTOCOL.md).

use std::sync::Arc;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, StatusCode};
use tokio::sync::Semaphore;

use super::answer::{Answer, Asked, PATIENCE, made_now, said};
use crate::files::{Change, Made, Takes};

/// The longest piece, in bytes.
const PIECE: usize = 1 << 20;

/// So many pieces are in memory at once; who comes then waits.
static PIECES: Semaphore = Semaphore::const_new(32);

/// Takes what is sent, if who sends it may.
pub(super) async fn answer(
    asked: &Asked,
    body: Incoming,
    (takes, name): (Arc<dyn Takes>, String),
) -> Answer {
    let made = taken(asked, body, takes.as_ref(), &name).await;
    made_now(made).unwrap_or_else(|_| said(StatusCode::INTERNAL_SERVER_ERROR))
}

async fn taken(asked: &Asked, body: Incoming, takes: &dyn Takes, name: &str) -> Made {
    let secret = asked.secret().unwrap_or_default();
    // It looks into its list of machines, and may remove what one left.
    if !tokio::task::block_in_place(|| takes.knows(&secret)) {
        return Made::said(401, "the server has no such order at work");
    }
    let Ok(_place) = PIECES.acquire().await else { return Made::said(503, "the server ends") };
    let read = tokio::time::timeout(PATIENCE, Limited::new(body, PIECE).collect()).await;
    let Ok(Ok(read)) = read else { return Made::said(413, "the piece is too long, or too slow") };
    let bytes = read.to_bytes();
    let wish = asked.query().split_once('=');
    let change = match (asked.method(), wish) {
        (&Method::PUT, Some(("at", at))) => match at.parse() {
            Ok(at) => Change::Append { at, bytes: &bytes },
            Err(_) => return Made::said(400, "at is no number"),
        },
        (&Method::POST, Some(("to", to))) => Change::Finish { to },
        (&Method::DELETE, None) => Change::Delete,
        _ => return Made::said(400, "neither a piece nor its place"),
    };
    tokio::task::block_in_place(|| takes.take(&secret, name, change))
}
