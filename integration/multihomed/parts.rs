//! Rules that ask for a port choose the way of all parts of a datagram, though only its first one has the port.

use super::{BEYOND, at, two};
use crate::lab::probe::{self, Proto};
use crate::lab::*;
use std::net::SocketAddr;
use std::time::Duration;

/// The port that leads to the second card, which alone knows the way to who is beyond.
const LED: u16 = 4001;

const RULES: &str = "rule add ipproto 17 dport 4001 lookup 88\nrule add ipproto 6 dport 4001 lookup 88\n\
     route add default via 10.88.0.1 dev eth1 table 88\n\
     -6 rule add ipproto 17 dport 4001 lookup 88\n-6 rule add ipproto 6 dport 4001 lookup 88\n\
     -6 route add default via fd88::1 dev eth1 table 88";

#[test]
fn every_part_of_a_datagram_goes_where_its_port_leads() {
    let two = two("parts", RULES);
    let host = &two.scene.host;
    let limited = host.bare("l", &["--egress-rate", "50mbit", "--ingress-rate", "50mbit"]);
    for (beyond, own) in [(BEYOND[0], HOST4), (BEYOND[1], HOST6)] {
        for ns in [&host.ns, &two.scene.a.ns, &limited.ns] {
            for (proto, bytes) in [(Proto::Tcp, 32), (Proto::Udp, 32), (Proto::Udp, 8000)] {
                let ask = |port| {
                    let _echo = Echo::start(&two.second, proto, at(beyond, port));
                    // nor does it matter that the next hop has to be looked for
                    host.ns.ip("neigh flush dev eth1");
                    let from = Some(SocketAddr::new(own, 0));
                    probe::ask_with(ns, proto, from, at(beyond, port), bytes, Duration::from_millis(500)).0
                };
                let led = ask(LED);
                let what = format!("{}: {bytes} bytes by {proto:?} from {own} to {beyond}", ns.name);
                assert!(led.is_ok(), "{what}, port {LED}: {led:?}");
                assert!(!ask(LED + 1).is_ok(), "{what}: another port leads to the second card");
            }
        }
    }
}

#[test]
fn explain_names_the_device_that_a_port_leads_to() {
    let two = two("parts-explained", RULES);
    for (beyond, open, close) in [(BEYOND[0], "", ""), (BEYOND[1], "[", "]")] {
        for proto in ["tcp", "udp"] {
            for (port, device) in [(LED, "eth1"), (LED + 1, "eth0")] {
                let packet = format!("{proto} > {open}{beyond}{close}:{port}");
                let said = two.scene.host.portslice(["explain", &packet, "--from", &two.scene.a.id]).ok();
                assert!(said.stdout.contains(&format!("out of {device}")), "{packet}: {said}");
            }
        }
    }
}
