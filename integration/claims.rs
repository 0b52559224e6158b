//! Promise: an open port is had as on the host. Who binds a free one has it, is reached at it, and gives it back when Linux would;
//! whoever comes second is told.

mod bounds;
mod churn;
mod connections;
mod hosts;
mod leases;
mod looks;
mod offers;
mod ports;
mod tenures;
mod upgrades;

use crate::lab::probe::assert_reaches;
use crate::lab::*;
use portslice::ports::PortSet;
use portslice::steer::{Claims, Maps};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
const TCP: i32 = libc::SOCK_STREAM;
const UDP: i32 = libc::SOCK_DGRAM;

/// What containers of these tests may claim.
const OPEN: &str = "80,8000-8099";

fn host(name: &str) -> Host {
    Host::with(name).judged("require").build()
}

/// A container that may claim [`OPEN`].
fn open(host: &Host, id: &str) -> Container {
    host.bare(id, &["--open-ports", OPEN])
}

/// A bound socket of a namespace, with SO_REUSEADDR if `reuse`.
fn bound(ns: &Ns, kind: i32, at: IpAddr, port: u16, reuse: bool) -> io::Result<OwnedFd> {
    ns.inside(|| {
        let socket = sock::socket(sock::family(at), kind, 0)?;
        if reuse {
            sock::set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1i32)?;
        }
        sock::bind(&socket, SocketAddr::new(at, port)).map(|()| socket)
    })
}

/// A listening socket with SO_REUSEADDR, as servers have it.
#[track_caller]
fn listening(ns: &Ns, port: u16) -> OwnedFd {
    let listening = || bound(ns, TCP, ANY4, port, true).and_then(|socket| sock::listen(&socket).map(|()| socket));
    wait::success(listening).unwrap_or_else(|e| panic!("{}: {port}: {e}", ns.name))
}

/// Is a bind refused, as for a port that is in use?
#[track_caller]
fn refused(ns: &Ns, kind: i32, at: IpAddr, port: u16, why: &str) {
    let done = bound(ns, kind, at, port, false);
    let errno = done.as_ref().err().and_then(io::Error::raw_os_error);
    assert_eq!(errno, Some(libc::EADDRINUSE), "{}: {why}: {done:?}", ns.name);
}

/// A bind that goes well; what is left of a process that another test starts just now may have the port a moment longer.
#[track_caller]
fn succeeds(ns: &Ns, kind: i32, at: IpAddr, port: u16, why: &str) {
    assert!(wait::eventually(|| bound(ns, kind, at, port, false).is_ok()), "{}: {why}", ns.name);
}

/// The same, and the socket is kept.
#[track_caller]
fn gets(ns: &Ns, kind: i32, at: IpAddr, port: u16, reuse: bool) -> OwnedFd {
    wait::success(|| bound(ns, kind, at, port, reuse)).unwrap_or_else(|e| panic!("{}: {port}: {e}", ns.name))
}

/// A bind that goes well once a look finds that nobody has the port: what is left of a process that another test starts just
/// now may have it at the first look.
#[track_caller]
fn found_free(host: &Host, ns: &Ns, kind: i32, port: u16) {
    let free = || {
        host.portslice(["sync"]).ok();
        bound(ns, kind, ANY4, port, false).is_ok()
    };
    assert!(wait::eventually(free), "{}: {port}: nobody has it any more", ns.name);
}

fn maps(host: &Host) -> Maps {
    Maps::open(&host.ns.root(&portslice::plan::host::bpf_directory(&host.state_dir()).to_string_lossy())).expect("maps")
}

/// What a container holds.
fn claims(host: &Host, container: &Container) -> Claims {
    maps(host).claims(slot_of(host, &container.id))
}

fn slot_of(host: &Host, id: &str) -> u16 {
    let leases = host.list();
    let slot = leases.iter().find(|lease| lease["id"] == id).and_then(|lease| lease["slot"].as_u64());
    slot.unwrap_or_else(|| panic!("{id} has no slot: {leases:?}")) as u16
}

fn set(text: &str) -> PortSet {
    text.parse().expect("ports")
}
