//! Addresses, and the names of boot files.
//!
//! Answers: machines that boot from the network, beside another DHCP server or alone. Refuses: packets of anything but
//! Ethernet, and to answer a client that does not boot unless addresses are handed out here.
//!
//! - `packet` bytes. - [`answer`] a request and what we know become a reply, or silence; no sockets. - [`leases`] who has
//!   which address. - [`kept`] the same in a file. - [`probe`] whether another server answers, and who is there. - `server` sockets.
//!
//! RFC 2131 (DHCP), RFC 2132 (options), RFC 4578 (options of PXE), and Intel's Preboot Execution Environment
//! Specification 2.1, in short PXE.

pub mod answer;
pub mod kept;
pub mod leases;
pub mod packet;
pub mod probe;
pub(crate) mod server;
