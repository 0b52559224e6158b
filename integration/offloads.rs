//! Promise: bytes arrive unchanged and are counted as on the wire, whatever devices do for the stack: segments cut or put together
//! by them or by it, checksums written by them or by it, large frames, limits.

use crate::lab::*;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// What is asked of a device, by its commands (uapi/linux/ethtool.h): ETHTOOL_SRXCSUM, STXCSUM, SSG, STSO, SGSO, SGRO.
const CHECKSUMS: [u32; 2] = [0x15, 0x17];
const SEGMENTS: [u32; 4] = [0x19, 0x1f, 0x24, 0x2c];
const PEERS_PORT: u16 = 5_001;

/// What devices do: cut and put together, write checksums.
#[derive(Clone, Copy, Debug)]
struct Offloads {
    segments: bool,
    checksums: bool,
}

impl Offloads {
    fn on(self, ns: &Ns, device: &str) {
        let wanted = SEGMENTS.map(|command| (command, self.segments)).into_iter();
        let wanted = wanted.chain(CHECKSUMS.map(|command| (command, self.checksums)));
        ns.inside(|| {
            let fd = sock::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).expect("socket");
            for (command, on) in wanted {
                let mut value = [command, u32::from(on)];
                // SAFETY: an all-zero ifreq is valid; the kernel reads the name and what ifru_data points to, which outlives the call.
                let rc = unsafe {
                    let mut request: libc::ifreq = std::mem::zeroed();
                    request.ifr_name.iter_mut().zip(device.bytes()).for_each(|(to, byte)| *to = byte as _);
                    request.ifr_ifru.ifru_data = (&raw mut value).cast();
                    libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request)
                };
                let e = std::io::Error::last_os_error();
                // a veth has no choice about checksums that arrive
                assert!(
                    rc == 0 || e.raw_os_error() == Some(libc::EOPNOTSUPP),
                    "{device}: ethtool {command:#x} {on}: {e}"
                );
            }
        });
    }
}

/// Bytes that a device sent and received, as its own counters say.
fn wire(ns: &Ns) -> [u64; 2] {
    ["tx", "rx"].map(|way| {
        let text = ns.read("ip -s -j link show dev wire");
        let shown: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        shown[0]["stats64"][way]["bytes"].as_u64().expect("bytes")
    })
}

fn counted(a: &Container) -> [u64; 2] {
    let shown = a.host().portslice(["stats", a.id.as_str(), "--json"]).ok().json();
    ["net_rx_bytes", "net_tx_bytes"].map(|name| shown[0]["statistics"][name].as_u64().expect(name))
}

fn every_way(mtu: u32, limits: &[&str]) {
    let host = Host::with(&format!("offloads-{mtu}")).mtu(mtu).build();
    host.altered();
    let a = host.bare("a", &[&["--ports", "31000-31009"], limits].concat());
    let size = if long() { 1 << 30 } else { 8 << 20 };
    let pair = a.device().expect("a pair");
    for (segments, checksums) in [(true, true), (false, true), (false, false)] {
        let offloads = Offloads { segments, checksums };
        let devices = [(&host.ns, "eth0"), (&host.ns, pair.as_str()), (&host.peer, "wire"), (&a.ns, "eth0")];
        devices.iter().for_each(|(ns, device)| offloads.on(ns, device));
        for (own, peer) in [(HOST4, PEER4), (HOST6, PEER6)] {
            let (wire_before, before) = (wire(&host.peer), counted(&a));
            bulk::transfer(&a.ns, &host.peer, SocketAddr::new(peer, PEERS_PORT), size, Duration::from_secs(60));
            bulk::transfer(&host.peer, &a.ns, SocketAddr::new(own, a.ports[0]), size, Duration::from_secs(60));
            let (wire_after, after) = settled(|| (wire(&host.peer), counted(&a)));
            let what = format!("MTU {mtu}, {limits:?}, {offloads:?}, {}", family(own));
            for way in 0..2 {
                let (wire, counted) = (wire_after[way] - wire_before[way], after[way] - before[way]);
                if segments {
                    // a device counts a packet that is cut later as one, without the headers of the segments
                    assert!(
                        counted >= wire && counted < wire + wire / 10,
                        "{what}: {counted} bytes counted, {wire} on the wire"
                    );
                } else {
                    // neighbours say a few words to each other as well
                    assert!(
                        counted <= wire && wire - counted < 2_000,
                        "{what}: {counted} bytes counted, {wire} on the wire"
                    );
                }
            }
        }
    }
}

fn family(of: IpAddr) -> &'static str {
    if of.is_ipv4() { "IPv4" } else { "IPv6" }
}

#[test]
fn frames_of_1500_bytes() {
    every_way(1500, &[]);
}

#[test]
fn frames_of_1500_bytes_with_limits() {
    every_way(1500, &["--egress-rate", "8gbit", "--ingress-rate", "8gbit"]);
}

#[test]
fn frames_of_9000_bytes() {
    every_way(9000, &[]);
}

#[test]
fn frames_of_9000_bytes_with_limits() {
    every_way(9000, &["--egress-rate", "8gbit", "--ingress-rate", "8gbit"]);
}

/// What is read once nothing is on its way any more: the last answers of a connection come after its data.
fn settled<T: PartialEq>(read: impl Fn() -> T) -> T {
    let mut last = read();
    for _ in 0..40 {
        std::thread::sleep(Duration::from_millis(25));
        let now = read();
        if now == last {
            break;
        }
        last = now;
    }
    last
}
