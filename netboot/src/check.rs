//! What is looked at before machines are served, and what a person does where it is wrong.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use image_core::error::{Error, Result};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};

use crate::interface::Interface;

/// Bytes that wait in the kernel: reports of a thousand machines, and what is sent faster than the interface takes it.
pub(crate) const BUFFER: usize = 1 << 20;

/// A group for this alone, beside those of sessions (RFC 2365: for this organisation only).
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 192, 255, 254);

/// A packet to oneself takes microseconds.
const MOMENT: Duration = Duration::from_millis(300);

/// Why multicast that is sent on an interface would not arrive, as far as this machine knows: what it sends there to itself has to come
/// back.
///
/// # Errors
/// [`Error::Refused`]: the interface sends none at all.
pub fn multicast(interface: &Interface) -> Result<Option<String>> {
    let name = &interface.name;
    if !interface.multicast {
        return Err(Error::refused(format!(
            "{name} sends no multicast; let it: ip link set dev {name} multicast on"
        )));
    }
    let comes = || {
        let ear = UdpSocket::bind((GROUP, 0))?;
        ear.join_multicast_v4(&GROUP, &interface.address)?;
        ear.set_read_timeout(Some(MOMENT))?;
        let mouth = UdpSocket::bind((interface.address, 0))?;
        socket2::SockRef::from(&mouth).set_multicast_if_v4(&interface.address)?;
        // It is for nobody else.
        mouth.set_multicast_ttl_v4(0)?;
        mouth.send_to(&[0], SocketAddrV4::new(GROUP, ear.local_addr()?.port()))?;
        Ok::<_, std::io::Error>(ear.recv(&mut [0]).is_ok())
    };
    let what = match comes() {
        Ok(true) => return Ok(None),
        Ok(false) => "does not come back".to_owned(),
        // As where a firewall refuses it.
        Err(error) => format!("is not sent ({error})"),
    };
    Ok(Some(format!(
        "multicast on {name} {what}: a firewall on this machine stops packets there, and machines will get nothing by multicast, or \
         nothing at all; see: nft list ruleset"
    )))
}

/// Lets so many bytes wait in the kernel each way, so that nothing gets lost here; only root may have more than the administrator's limit.
///
/// # Errors
/// The kernel refuses even less.
pub(crate) fn widen(socket: &impl AsFd, bytes: usize) -> std::io::Result<()> {
    let is_wide = setsockopt(socket, RcvBufForce, &bytes).is_ok()
        && setsockopt(socket, SndBufForce, &bytes).is_ok();
    if !is_wide {
        let socket = socket2::SockRef::from(socket);
        socket.set_recv_buffer_size(bytes)?;
        socket.set_send_buffer_size(bytes)?;
    }
    Ok(())
}

/// Why packets may get lost in this machine's kernel, where its buffers are smaller than is needed.
///
/// # Errors
/// [`Error::Io`].
pub fn buffers() -> Result<Option<String>> {
    let failed = |error| Error::io("the kernel's buffers for packets", "ask for", error);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    if setsockopt(&socket, RcvBufForce, &BUFFER).is_ok() {
        return Ok(None);
    }
    let small = ["rmem_max", "wmem_max"].into_iter().filter(|name| {
        let limit = fs::read_to_string(format!("/proc/sys/net/core/{name}"));
        limit.is_ok_and(|limit| limit.trim().parse().is_ok_and(|limit: usize| limit < BUFFER))
    });
    let mends: Vec<String> = small.map(|name| format!("net.core.{name}={BUFFER}")).collect();
    Ok((!mends.is_empty()).then(|| {
        format!(
            "the kernel's buffers for packets are small, and with many machines some get lost; as root: sysctl -w {}",
            mends.join(" ")
        )
    }))
}
