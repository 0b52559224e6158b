//! Promise: what Mesos' port_mapping isolator guarantees, under the names its own tests have (MESOS: port_mapping_tests.cpp).

use crate::lab::probe::{assert_reaches, assert_refused};
use crate::lab::wait::eventually;
use crate::lab::*;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// The fixture's numbers: ephemeral ports, ports, and the two halves of the latter.
const CONFIG: &str = "ephemeral_ports = \"30001-30999\"\nephemeral_ports_per_container = 16\nports = \"31000-32000\"\n";
const CONTAINER1_PORTS: &str = "31000-31499";
const CONTAINER2_PORTS: &str = "31500-32000";
const VALID_PORT: u16 = 31_001;
const INVALID_PORT: u16 = 32_502;
/// Long enough for every reply that is going to come.
const WINDOW: Duration = Duration::from_millis(300);

fn host(name: &str) -> Host {
    Host::with(name).config(CONFIG).build()
}

/// Container 1 listens on both ports; `client` reaches the valid one by both addresses, the invalid one by neither.
fn only_the_valid_port(name: &str, proto: Proto, from_container: bool) {
    let host = host(name);
    let one = host.bare("container1", &["--ports", CONTAINER1_PORTS]);
    let two = host.bare("container2", &["--ports", CONTAINER2_PORTS]);
    let client = if from_container { &two.ns } else { &host.ns };
    let valid = Echo::start(&one.ns, proto, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), VALID_PORT));
    let invalid = Echo::start(&one.ns, proto, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), INVALID_PORT));
    for address in [LO4, HOST4] {
        assert_reaches("the valid port", client, proto, SocketAddr::new(address, VALID_PORT));
        assert_refused("the invalid port", client, proto, SocketAddr::new(address, INVALID_PORT));
    }
    assert_eq!((valid.served(), invalid.served()), (2, 0), "served on (valid, invalid)");
}

#[test]
fn container_to_container_tcp() {
    only_the_valid_port("mesos-c2c-tcp", Proto::Tcp, true);
}

#[test]
fn container_to_container_udp() {
    only_the_valid_port("mesos-c2c-udp", Proto::Udp, true);
}

#[test]
fn host_to_container_tcp() {
    only_the_valid_port("mesos-h2c-tcp", Proto::Tcp, false);
}

#[test]
fn host_to_container_udp() {
    only_the_valid_port("mesos-h2c-udp", Proto::Udp, false);
}

#[test]
fn container_icmp_external() {
    let host = host("mesos-icmp-external");
    let one = host.bare("container1", &["--ports", CONTAINER1_PORTS]);
    for name_server in [PEER4, FAR4] {
        assert_eq!(icmp::ping(&one.ns, name_server, 1, WINDOW), [1], "ping {name_server}");
    }
}

#[test]
fn container_icmp_internal() {
    let host = host("mesos-icmp-internal");
    let one = host.bare("container1", &["--ports", CONTAINER1_PORTS]);
    for own in [LO4, HOST4] {
        assert_eq!(icmp::ping(&one.ns, own, 1, WINDOW), [1], "ping {own}");
    }
}

/// In Mesos an arping from a container is answered. Here a container's device knows no ARP at all: the host resolves for it, so
/// the request goes unanswered, the container reaches its neighbours all the same, and the world gets one answer instead of N + 1.
#[test]
fn container_arp_external() {
    let host = host("mesos-arp-external");
    let one = host.bare("container1", &["--ports", CONTAINER1_PORTS]);
    let (own, gateway) = (Ipv4Addr::new(10, 77, 0, 2), Ipv4Addr::new(10, 77, 0, 1));
    assert_eq!(tap::arp_replies(&one.ns, "eth0", own, gateway, WINDOW), 0, "replies to the container's ARP request");
    let echo = Echo::start(&host.peer, Proto::Tcp, SocketAddr::new(PEER4, 20_000));
    assert_reaches("without ARP of its own", &one.ns, Proto::Tcp, echo.at);
    assert_eq!(tap::arp_replies(&host.peer, "wire", gateway, own, WINDOW), 1, "replies to the peer's ARP request");
}

#[test]
fn dns() {
    let host = host("mesos-dns");
    let one = host.bare("container1", &["--ports", CONTAINER1_PORTS]);
    let _server = crate::lab::dns::Server::start(&host.peer, PEER4);
    assert_eq!(crate::lab::dns::resolve(&one.ns, PEER4).expect("an answer"), crate::lab::dns::ANSWER);
}

/// 30001-30999 holds exactly one aligned block of 512: 30208-30719.
const ONE_BLOCK: &str =
    "ephemeral_ports = \"30001-30999\"\nephemeral_ports_per_container = 512\nports = \"31000-32000\"\n";

#[test]
fn too_many_containers() {
    let host = Host::with("mesos-too-many").config(ONE_BLOCK).build();
    let one = host.bare("container1", &["--ports", CONTAINER1_PORTS]);
    assert_eq!(one.block, 30_208..=30_719, "the only aligned block of 512");
    let refusal =
        host.try_bare("container2", &["--ports", CONTAINER2_PORTS]).err().expect("a second block of 512 cannot exist");
    let refusal = refusal.refused(3, "30001-30999");
    assert!(refusal.stderr.contains("container1"), "the refusal names who holds the pool: {refusal}");
    assert_eq!(host.ids(), ["container1"], "a refused container leaves no lease");
    one.detach();
    let two = host.bare("container2", &["--ports", CONTAINER2_PORTS]);
    assert_eq!(two.block, 30_208..=30_719, "the block that became free");
}

#[test]
fn cleanup_not_isolated() {
    let host = Host::with("mesos-not-isolated").config(ONE_BLOCK).build();
    let gone = Ns::net_only("a namespace that dies before it is wired");
    let path = gone.path();
    gone.kill();
    for (how, name) in [("--netns", path.to_string_lossy().into_owned()), ("--pid", gone.pid().to_string())] {
        let out = host.portslice(["attach", "container1", "--ports", CONTAINER1_PORTS, how, &name]);
        out.refused(6, &name);
    }
    assert!(host.ids().is_empty(), "leases after a failed attach: {:?}", host.ids());
    let two = host.bare("container2", &["--ports", CONTAINER1_PORTS]);
    assert_eq!(two.block, 30_208..=30_719, "the only block, returned by the failed attach");
}

#[test]
fn clean_up_orphan() {
    let host = host("mesos-orphan");
    let before = host.links();
    let one = host.bare("container1", &["--ports", CONTAINER1_PORTS]);
    let two = host.bare_named("container2", &["--ports", CONTAINER2_PORTS]);
    one.kill();
    two.kill();
    host.portslice(["gc"]).ok();
    assert!(host.ids().is_empty(), "leases after gc: {:?}", host.ids());
    assert!(eventually(|| host.links() == before), "devices after gc: {:?}, before: {before:?}", host.links());
    let again = host.bare("container3", &["--ports", CONTAINER1_PORTS]);
    let _echo = Echo::start(&again.ns, Proto::Tcp, SocketAddr::new(HOST4, VALID_PORT));
    assert_reaches("the reclaimed port", &host.peer, Proto::Tcp, SocketAddr::new(HOST4, VALID_PORT));
}

#[test]
fn recover_mixed_containers() {
    let host = host("mesos-mixed");
    let names = ["alive1", "dead1", "alive2", "dead2"];
    let all = names.map(|n| host.bare(n, &["--ports", "auto:2"]));
    assert_eq!(host.ids().len(), 4);
    all.iter().filter(|c| c.id.starts_with("dead")).for_each(Container::kill);
    for round in 0..2 {
        host.portslice(["gc"]).ok();
        assert_eq!(host.ids(), ["alive1", "alive2"], "leases after gc, round {round}");
        for c in all.iter().filter(|c| c.id.starts_with("alive")) {
            let _echo = Echo::start(&c.ns, Proto::Tcp, SocketAddr::new(HOST4, c.ports[0]));
            assert_reaches(&c.id, &host.peer, Proto::Tcp, SocketAddr::new(HOST4, c.ports[0]));
            host.portslice(["stats", &c.id, "--json"]).ok();
        }
    }
}

#[test]
fn recover_mixed_known_and_unknown_orphans() {
    let host = host("mesos-unknown");
    host.ns.ip("link add foreign type veth peer name stranger"); // somebody else's device, not ours to touch
    let by_pid = host.bare("orphan-by-pid", &["--ports", "auto:1"]);
    let by_path = host.bare_named("orphan-by-path", &["--ports", "auto:1"]);
    let alive = host.bare_named("alive", &["--ports", "auto:1"]);
    by_pid.kill();
    by_path.kill();
    host.portslice(["gc"]).ok();
    assert_eq!(host.ids(), ["alive"], "leases after gc");
    for foreign in ["foreign", "stranger"] {
        assert!(host.links().iter().any(|l| l == foreign), "gc removed {foreign}");
    }
    let _echo = Echo::start(&alive.ns, Proto::Udp, SocketAddr::new(HOST4, alive.ports[0]));
    assert_reaches("the survivor", &host.peer, Proto::Udp, SocketAddr::new(HOST4, alive.ports[0]));
    for id in ["orphan-by-pid", "orphan-by-path"] {
        host.portslice(["detach", id]).ok();
    }
    host.ns.ip("link del foreign");
}
