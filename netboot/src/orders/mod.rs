//! Who is restored, and by whose word: machines say what they are, and do what an order says that the site's key signed.
//!
//! Answers: `POST` to [`PATH`], and what a person decides. Refuses: to let a machine be restored that nobody asked for, twice, or
//! that is not certainly the one which was meant.
//!
//! - `machine` what a machine says of itself. - `talk` what it says and is told. - `order` what it is to do, and the site's key.
//! - `moment` when somebody wants something. - `list` the machines that are known: pure, without clock and sockets. - `site` the list with its file, and its answers.
//! - `starts` what boot loaders are told of who was restored. - `door` who may fetch where not everybody may.

pub mod door;
pub mod list;
pub mod machine;
pub mod moment;
pub mod order;
pub mod site;
pub mod starts;
pub mod talk;

/// The name to which machines post.
pub const PATH: &str = "agent";
