//! The host's loopback, where a container was not given it.

use super::HOST_PORT;
use crate::lab::frame;
use crate::lab::probe::{BOTH, assert_reaches, assert_refused};
use crate::lab::tap::{self, Tap};
use crate::lab::*;
use std::net::SocketAddr;
use std::time::Duration;

#[test]
fn without_host_loopback_the_hosts_own_loopback_is_closed() {
    let host = Host::new("iso-loopback");
    let a = host.bare("a", &["--ports", "31000-31009", "--host-loopback", "false"]);
    let open = host.bare("open", &["--ports", "31010-31019"]);
    for proto in BOTH {
        for (address, loopback) in [(HOST4, LO4), (HOST6, LO6)] {
            let wild = Echo::start(&host.ns, proto, SocketAddr::new(probe::any(address), HOST_PORT));
            let private = Echo::start(&host.ns, proto, SocketAddr::new(loopback, HOST_PORT + 1));
            for port in [HOST_PORT, HOST_PORT + 1] {
                assert_refused("host-loopback is off", &a.ns, proto, SocketAddr::new(loopback, port));
                assert_reaches("host-loopback is on", &open.ns, proto, SocketAddr::new(loopback, port));
            }
            assert_reaches("the host's address stays open", &a.ns, proto, SocketAddr::new(address, HOST_PORT));
            assert_eq!(
                (wild.served(), private.served()),
                (2, 1),
                "{proto:?} {loopback}: served by (wildcard, loopback) listeners"
            );
            let _own = Echo::start(&a.ns, proto, SocketAddr::new(probe::any(address), a.ports[0]));
            assert_reaches("A's own loopback", &a.ns, proto, SocketAddr::new(loopback, a.ports[0]));
        }
    }
}

#[test]
fn without_host_loopback_a_forged_loopback_frame_is_counted() {
    let host = Host::new("iso-loopback-raw");
    let a = host.bare("a", &["--ports", "31000-31009", "--host-loopback", "false"]);
    let mac = tap::mac_of(&a.ns, "eth0");
    let to = tap::mac_of(&host.ns, "eth0");
    for loopback in [LO4, LO6] {
        let (marker, before) = (frame::marker(), a.drops("host_loopback"));
        let tap = Tap::on(&host.ns, "lo");
        let packet = frame::udp_packet((loopback, *a.block.start()), (loopback, HOST_PORT), &marker);
        tap::inject(&a.ns, "eth0", &frame::ethernet(to, mac, frame::ethertype(loopback), &packet));
        std::thread::sleep(Duration::from_millis(60));
        tap.assert_without(&format!("a frame from {loopback} to the host's {loopback}"), &marker);
        assert_eq!(a.drops("host_loopback"), before + 1, "{loopback}: {}", a.show()["drops"]);
    }
}
