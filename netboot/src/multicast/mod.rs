//! Mass restore by multicast: one server sends an image to any number of machines at the time that one would need.
//!
//! The image is cut into *blocks*, each of which can be checked and written alone. The server sends them in the order of the
//! disk, again and again (a carousel), as long as somebody lacks one. A block is sent in *symbols*, and whoever lost some is
//! repaired by any others of that block: one parity symbol helps everybody who lost a symbol, whichever that was. Clients join at any
//! time, and nobody waits for anybody.
//!
//! - [`sender`] decides what is sent next, [`receiver`] what is kept. - [`symbols`] blocks in symbols and back.
//! - [`packet`] packets as bytes; [`status`] what a client says of itself. - [`blocks`] a set of blocks; [`rate`] how fast is sent.
//!
//! None of these has a socket or a clock: the same code runs in the simulator of the tests, with ten thousand clients.
//!
//! - [`server`] and [`client`] are around them, with sockets and threads; [`pace`] when they send; `members` who is in a session; `shelf` has blocks in memory, `unread` knows those that cannot be read; [`gather`] waits for those who come together; `querier` keeps switches from forgetting who listens.

pub mod blocks;
pub mod client;
pub mod gather;
mod members;
pub mod pace;
pub mod packet;
mod querier;
pub mod rate;
pub mod receiver;
pub mod sender;
pub mod server;
mod shelf;
pub mod status;
pub mod symbols;
mod unread;
