//! Promise: the CDI devices portslice/net=PROFILE give a container its slice under the real Podman, alone and beside the hooks
//! that annotations call; the specification is one that engines accept.

mod docker;

use crate::lab::podman::Podman;
use crate::lab::probe::assert_reaches;
use crate::lab::wait::eventually;
use crate::lab::*;
use serde_json::{Value, json};
use std::net::SocketAddr;

const PROFILES: &str = "ports = \"31000-31999\"\n[profile.default]\nephemeral-ports = \"512\"\n\
                        [profile.web]\nports = \"auto:2\"\negress-rate = \"20mbit\"\n";

const SLEEP: &str = "exec sleep 1000";
const NET: [&str; 2] = ["--network", "none"];

/// A host on which `portslice cdi` was run.
fn host(name: &str) -> Host {
    let host = Host::with(name).config(PROFILES).build();
    install(&host);
    host
}

/// Installs the specification where engines look for those of a running host. `/run` is the host's own.
pub fn install(host: &Host) {
    let spec = host.portslice(["cdi"]).ok().stdout;
    let at = host.ns.root("/run/cdi");
    std::fs::create_dir_all(&at).expect("/run/cdi");
    std::fs::write(at.join("portslice.json"), spec).expect("the specification");
}

/// The slice of the container called `name`.
#[track_caller]
fn lease(host: &Host, name: &str) -> Value {
    let all = host.list();
    let found = all.iter().find(|lease| lease["members"][0]["name"] == name);
    found.unwrap_or_else(|| panic!("{name} has no slice: {all:?}")).clone()
}

/// The first of its ports, at which the peer reaches it by both families and protocols.
#[track_caller]
fn assert_answers(host: &Host, podman: &Podman<'_>, name: &str) {
    let ports = lease(host, name)["ports"].as_str().expect("ports").to_owned();
    let port = ports.split([',', '-']).next().and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{ports}"));
    let ns = Ns::of_pid(name, podman.pid(name));
    for (address, peer) in [(HOST4, PEER4), (HOST6, PEER6)] {
        for proto in [Proto::Tcp, Proto::Udp] {
            let at = SocketAddr::new(address, port);
            let _echo = Echo::start(&ns, proto, at);
            assert_eq!(assert_reaches(name, &host.peer, proto, at).ip(), peer);
        }
    }
}

/// Nothing of ours is left on the host.
#[track_caller]
pub fn assert_gone(host: &Host) {
    // The queue of limited containers stays with the host.
    let left = || host.links().into_iter().filter(|name| !["portslice-limit", "portslice-after"].contains(&&**name));
    assert!(eventually(|| host.ids().is_empty()), "leases {:?}", host.list());
    assert!(eventually(|| left().eq(["eth0", "lo"])), "devices {:?}", host.links());
}

#[test]
fn two_containers_with_a_device_answer_the_peer() {
    let host = host("cdi");
    let podman = host.podman();
    let web = [&NET[..], &["--device", "portslice/net=web"]].concat();
    podman.run("a", &web, SLEEP).ok();
    podman.run("b", &web, SLEEP).ok();
    for name in ["a", "b"] {
        assert_answers(&host, &podman, name);
        let lease = lease(&host, name);
        assert_eq!(lease["members"][0]["engine"], "podman", "{lease}");
        assert_eq!(lease["asked"]["egress"]["rate"], "20mbit", "{lease}");
    }
    assert_eq!(lease(&host, "a")["ports"], "31000-31001");
    assert_eq!(lease(&host, "b")["ports"], "31002-31003");
    podman.run("c", &[&NET[..], &["--device", "portslice/net=default"]].concat(), SLEEP).ok();
    let block = &lease(&host, "c")["block"];
    assert_eq!(
        block["end"].as_u64().unwrap() - block["begin"].as_u64().unwrap() + 1,
        512,
        "the default profile: {block}"
    );
    // The same block and ports after a restart, nothing after the end.
    let before = lease(&host, "a");
    podman.call(&["restart", "--time", "0", "a"]).ok();
    assert_eq!((&lease(&host, "a")["block"], &lease(&host, "a")["ports"]), (&before["block"], &before["ports"]));
    for name in ["a", "b", "c"] {
        podman.call(&["rm", "--force", "--time", "0", name]).ok();
    }
    assert_gone(&host);
}

/// Annotations stand above the profile key by key, whichever of the two registrations runs first, and both together are one.
#[test]
fn annotations_add_to_the_profile() {
    let host = host("cdi-annotations");
    let podman = host.podman();
    let options = ["--device", "portslice/net=web", "--annotation", "portslice/ports=31500-31501+31600"];
    podman.run("a", &[&NET[..], &options].concat(), SLEEP).ok();
    let a = lease(&host, "a");
    assert_eq!(a["ports"], "31500-31501,31600");
    assert_eq!(a["asked"]["egress"]["rate"], "20mbit", "{a}");
    assert_answers(&host, &podman, "a");
    let options = ["--device", "portslice/net=web", "--annotation", "portslice/source=here"];
    podman.run("b", &[&NET[..], &options].concat(), SLEEP).ok();
    assert_eq!(
        (&lease(&host, "b")["ports"], &lease(&host, "b")["labels"]["source"]),
        (&json!("31601-31602"), &json!("here"))
    );
    for name in ["a", "b"] {
        podman.call(&["rm", "--force", "--time", "0", name]).ok();
    }
    assert_gone(&host);
}

/// A pod's infra container carries the device; a member that joins asks by annotation.
#[test]
fn a_pod_with_a_device() {
    let host = host("cdi-pod");
    let podman = host.podman();
    podman.pod_with("shop", &["--device", "portslice/net=web"]);
    podman.run("a", &["--pod", "shop", "--annotation", "portslice/ports=31500"], SLEEP).ok();
    let all = host.list();
    assert_eq!((all.len(), &all[0]["ports"]), (1, &json!("31000-31001,31500")), "{all:?}");
    assert_eq!(all[0]["members"].as_array().map(Vec::len), Some(2), "{all:?}");
    podman.call(&["pod", "rm", "--force", "--time", "0", "shop"]).ok();
    assert_gone(&host);
}

#[test]
fn a_profile_that_is_not_configured_is_refused() {
    let host = host("cdi-unknown");
    let log = host.dir.join("portslice.log");
    std::fs::write(host.config_file(), format!("log_file = {:?}\n[profile.wep]\ncpus = \"1\"\n", log)).expect("config");
    let podman = host.podman();
    let out = podman.run("a", &[&NET[..], &["--device", "portslice/net=web"]].concat(), SLEEP);
    assert_ne!(out.code, Some(0), "{out}");
    let said = std::fs::read_to_string(&log).expect("log");
    assert!(said.contains("profile \"web\": unknown profile; did you mean wep?"), "{said}");
    podman.call(&["rm", "--force", "--time", "0", "a"]).ok();
    // Neither is a device for which there is no profile.
    install(&host);
    let out = podman.run("b", &[&NET[..], &["--device", "portslice/net=web"]].concat(), SLEEP);
    assert_ne!(out.code, Some(0), "{out}");
    assert!(out.stderr.contains("portslice/net=web"), "{out}");
    assert_gone(&host);
}
