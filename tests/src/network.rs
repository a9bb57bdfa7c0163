//! A network of the test's own, with a cable to an emulated machine and a DHCP server (dnsmasq). Whatever the thread starts
//! from then on is in it; it ends with the thread. A [`Neighbour`] is another machine at the same cable.

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use image_core::exec::Call;
use image_core::exec::real::{Beside, Machine};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{call, run, tool};

/// This side's address in the network that [`cable`] makes.
pub const HERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// This side's address in the network of the [`second_switch`].
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);

/// The address of a [`Neighbour`] that hands out addresses.
pub const THERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// All protocols (linux/if_ether.h), as the kernel wants it.
const ALL: i32 = 0x0003_u16.to_be() as i32;

/// QEMU's options for a network adapter at the other end of [`cable`], without firmware of its own: UEFI has a driver.
pub const ADAPTER: &str = "-netdev tap,id=net,ifname=tap0,script=no,downscript=no \
                           -device virtio-net-pci,netdev=net,bootindex=0,romfile=";

/// Moves this thread into a network that is new and has nothing but its loopback.
///
/// # Errors
/// The caller is not root.
pub fn own() -> Result<()> {
    let mut holder = Machine.spawn(&call!("unshare", "--net", "sh", "-c", "echo $$; exec cat"))?;
    let pid = holder.answer()?;
    enter(pid.trim())?;
    run!("ip", "link", "set", "lo", "up")?;
    Ok(())
}

/// Moves this thread into the network of a process.
fn enter(pid: &str) -> Result<()> {
    let network = File::open(Path::new("/proc").join(pid).join("ns/net"))
        .context("a network namespace takes root")?;
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// Adds the interface `tap0` with the address [`HERE`] to the network of this thread.
///
/// # Errors
/// The kernel makes none.
pub fn cable() -> Result<()> {
    run!("ip", "tuntap", "add", "tap0", "mode", "tap")?;
    run!("ip", "addr", "add", format!("{HERE}/24"), "dev", "tap0")?;
    run!("ip", "link", "set", "tap0", "up")?;
    Ok(())
}

/// Adds a switch, `br0`, with the address [`HERE`] to the network of this thread.
///
/// # Errors
/// The kernel makes none.
pub fn switch() -> Result<()> {
    bridge("br0", HERE)?;
    run!("ip", "route", "add", "224.0.0.0/4", "dev", "br0")?;
    Ok(())
}

fn bridge(name: &str, address: Ipv4Addr) -> Result<()> {
    run!("ip", "link", "add", name, "type", "bridge", "forward_delay", "0")?;
    run!("ip", "link", "set", name, "gso_max_segs", "1")?;
    run!("ip", "addr", "add", format!("{address}/24"), "brd", "+", "dev", name)?;
    run!("ip", "link", "set", name, "up")?;
    Ok(())
}

/// Adds a second switch beside the [`switch`], `br1`, with the address [`FAR`]: another network.
///
/// # Errors
/// The kernel makes none.
pub fn second_switch() -> Result<()> {
    bridge("br1", FAR)
}

/// Asks at the [`switch`] who listens to groups, once (RFC 2236, section 2).
///
/// # Errors
/// The caller is not root.
pub fn asks_who_listens() -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(2)))?;
    socket.set_multicast_if_v4(&HERE)?;
    let question = [0x11, 100, !0x11, !100, 0, 0, 0, 0];
    socket.send_to(&question, &SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 1), 0).into())?;
    Ok(())
}

/// Plugs the cable of another emulated machine, `tap` with this number, into the [`switch`].
///
/// # Errors
/// The kernel makes none.
pub fn plug(number: u8) -> Result<()> {
    let name = format!("tap{number}");
    run!("ip", "tuntap", "add", &name, "mode", "tap")?;
    run!("ip", "link", "set", &name, "master", "br0", "up")?;
    Ok(())
}

/// Hands out addresses at the cable, with more of dnsmasq's options, until it is dropped.
///
/// # Errors
/// It is not installed.
pub fn dhcp(options: &[&str]) -> Result<Beside> {
    start(&dnsmasq("tap0", options))
}

fn start(call: &Call) -> Result<Beside> {
    Machine.spawn(call).context("scripts/install installs the DHCP server that tests use")
}

fn dnsmasq(interface: &str, options: &[&str]) -> Call {
    let mut call = call!(
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--port=0",
        format!("--interface={interface}"),
        "--bind-interfaces",
        "--no-ping",
        "--leasefile-ro",
        "--user=root",
        "--log-facility=-",
        "--pid-file",
        "--dhcp-range=10.77.0.50,10.77.0.99,1h"
    );
    call.args.extend(options.iter().map(Into::into));
    call
}

/// Another machine at the [`cable`]: its network has the adapter `eth0`.
#[derive(Debug)]
pub struct Neighbour {
    _holder: Beside,
    pid: String,
}

impl Neighbour {
    /// Plugs it in. The cable then ends in a bridge, `br0`, which has this side's address.
    ///
    /// # Errors
    /// The kernel makes no bridge.
    pub fn new() -> Result<Self> {
        run!("ip", "addr", "flush", "dev", "tap0")?;
        switch()?;
        run!("ip", "link", "set", "tap0", "master", "br0", "up")?;
        Self::plugged("veth0")
    }

    /// Plugs it into the [`switch`], whose port gets this name.
    ///
    /// # Errors
    /// There is no switch.
    pub fn plugged(port: &str) -> Result<Self> {
        let mut holder =
            Machine.spawn(&call!("unshare", "--net", "sh", "-c", "echo $$; exec cat"))?;
        let pid = holder.answer()?.trim().to_owned();
        run!("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", &pid)?;
        // Loss is to hit packets one by one, as on a cable.
        run!("ip", "link", "set", port, "master", "br0", "gso_max_segs", "1", "up")?;
        let neighbour = Self { _holder: holder, pid };
        neighbour.run(&call!("ip", "link", "set", "eth0", "gso_max_segs", "1", "up"))?;
        Ok(neighbour)
    }

    /// Plugs it, with this port, into the [`second_switch`] instead, with the address of this number there.
    ///
    /// # Errors
    /// There is none.
    pub fn moved(&self, port: &str, number: u8) -> Result<()> {
        run!("ip", "link", "set", port, "master", "br1")?;
        self.run(&call!("ip", "addr", "flush", "dev", "eth0"))?;
        let address = format!("10.78.0.{number}/24");
        self.run(&call!("ip", "addr", "add", address, "brd", "+", "dev", "eth0"))?;
        let anywhere = call!("ip", "route", "replace", "224.0.0.0/4", "dev", "eth0");
        self.run(&anywhere).map(drop)
    }

    /// Gives it the address with this number in the network, and a way for multicast.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn address(&self, number: u8) -> Result<()> {
        self.run(&call!("ip", "link", "set", "lo", "up"))?;
        let address = format!("10.77.0.{number}/24");
        self.run(&call!("ip", "addr", "add", address, "brd", "+", "dev", "eth0"))?;
        let anywhere = call!("ip", "route", "add", "224.0.0.0/4", "dev", "eth0");
        self.run(&anywhere).map(drop)
    }

    /// Loses so many of a thousand packets that come.
    ///
    /// # Errors
    /// nft is not installed.
    pub fn lose(&self, of_a_thousand: u32) -> Result<()> {
        let rule = format!(
            "table inet lossy {{ chain in {{ type filter hook prerouting priority raw; \
             numgen random mod 1000 < {of_a_thousand} drop; }}; }}"
        );
        self.run(&call!("nft", rule)).map(drop)
    }

    /// Lets no multicast come to it any more.
    ///
    /// # Errors
    /// nft is not installed.
    pub fn hears_no_multicast(&self) -> Result<()> {
        let rule = "table inet none { chain in { type filter hook prerouting priority raw; ip daddr 224.0.0.0/4 drop; }; }";
        self.run(&call!("nft", rule)).map(drop)
    }

    /// Moves this thread, and with it the threads that it starts, into its network.
    ///
    /// # Errors
    /// The caller is not root.
    pub fn enter(&self) -> Result<()> {
        enter(&self.pid)
    }

    /// Listens, as its adapter does while it is off, from now on: the first frame that ends so, of any that come.
    ///
    /// # Errors
    /// The caller is not root.
    pub fn hears(
        &self,
        ending: Vec<u8>,
        patience: Duration,
    ) -> Result<JoinHandle<Result<Vec<u8>>>> {
        let (pid, (ready, is_ready)) = (self.pid.clone(), channel());
        let heard = thread::spawn(move || {
            enter(&pid)?;
            let mut socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ALL)))?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            ready.send(())?;
            let (began, mut frame) = (Instant::now(), [0; 2048]);
            while began.elapsed() < patience {
                let length = socket.read(&mut frame).unwrap_or(0);
                let frame = frame.get(..length).unwrap_or_default();
                if frame.ends_with(&ending) {
                    return Ok(frame.to_vec());
                }
            }
            bail!("nothing came");
        });
        is_ready.recv().context("it does not listen")?;
        Ok(heard)
    }

    /// The same call, in its network.
    pub fn call(&self, call: &Call) -> Call {
        let mut inside = call!("nsenter", "--net", "--target", &self.pid, &call.program);
        inside.args.extend(call.args.iter().cloned());
        inside
    }

    /// Runs a program in its network; what it printed.
    ///
    /// # Errors
    /// Any end but exit code 0.
    pub fn run(&self, call: &Call) -> Result<String> {
        tool::run(&self.call(call))
    }

    /// Whether it is given an address, and the words of the client, which asks twice and changes nothing.
    ///
    /// # Errors
    /// There is no client.
    pub fn asks_for_an_address(&self) -> Result<(bool, String)> {
        let asks = "udhcpc -i eth0 -f -n -q -t 2 -T 1 -s /bin/true";
        let mut call = call!("busybox");
        call.args.extend(asks.split(' ').map(Into::into));
        let outcome = tool::outcome(&self.call(&call))?;
        Ok((outcome.success(), outcome.text() + &outcome.talk()))
    }

    /// Lets it hand out addresses, as [`dhcp`] does.
    ///
    /// # Errors
    /// It is not installed.
    pub fn dhcp(&self, options: &[&str]) -> Result<Beside> {
        self.run(&call!("ip", "addr", "add", format!("{THERE}/24"), "dev", "eth0"))?;
        start(&self.call(&dnsmasq("eth0", options)))
    }
}
