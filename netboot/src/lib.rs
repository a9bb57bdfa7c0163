//! Boot services in one process: what a machine asks for between its power button and its kernel.
//!
//! Answers: requests of PXE and HTTP boot firmware and of the boot loaders behind it, on one interface, by DHCP or beside
//! another DHCP server (proxyDHCP), TFTP and HTTP, all from the same [`files::Files`]. Refuses: to write what no order asked for, to serve
//! what is not in there, and to hand out addresses where another server does.
//!
//! - [`dhcp`] addresses and names of boot files. - [`tftp`], [`http`] the files. - [`files`] what there is to be fetched.
//! - [`multicast`] one image for many machines at once. - [`room`] an image in it. - [`orders`] who is restored, by whose word. [`board`] what is known of machines, to be watched and decided. [`secret`] what nobody may guess. - [`interface`] where to serve. [`check`] what is wrong there. - [`event`] what is told about clients. - `rate` how fast something grows. - [`server`] all of it, running.
//! - [`wake`] machines that are switched off.
//!
//! Each protocol keeps what it decides apart from its sockets: packets are bytes, decisions take the time as input.

pub mod board;
pub mod check;
pub mod dhcp;
pub mod event;
pub mod files;
pub mod http;
pub mod interface;
pub mod multicast;
pub mod orders;
mod rate;
pub mod room;
pub mod secret;
pub mod server;
pub mod tftp;
pub mod wake;
