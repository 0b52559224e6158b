//! Promise: Podman's networks of the driver `portslice` give a container its slice, with the ports that it publishes, and
//! take the slice back. The plugin is called with what Podman 5.4 wrote on its stdin (tests/netavark).

mod debian13;

use crate::lab::host::binary;
use crate::lab::probe::{Stranger, assert_reaches};
use crate::lab::run::{self, Output};
use crate::lab::still::{Still, assert_bare};
use crate::lab::wait::eventually;
use crate::lab::*;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener, UdpSocket};

const CONTAINER: &str = include_str!("../tests/netavark/container.json");
const POD: &str = include_str!("../tests/netavark/pod.json");

fn recorded(text: &str) -> Value {
    serde_json::from_str(text).expect("a recorded document")
}

/// A second container, which was not published.
fn second() -> Value {
    let mut call = recorded(CONTAINER);
    call["container_id"] = json!("b".repeat(64));
    call["container_name"] = json!("b");
    call["port_mappings"] = json!(null);
    call["network_options"]["options"] = json!({"ports": "31010"});
    call
}

fn call(host: &Host, verb: &str, ns: &Ns, input: &Value) -> Output {
    let program = binary("portslice-netavark".as_ref());
    host.fed(&[program.into(), verb.into(), ns.path().into()], input.to_string())
}

#[track_caller]
fn failed(out: &Output, says: &[&str]) {
    let answer = out.json();
    let line = answer["error"].as_str().unwrap_or_else(|| panic!("no error: {out}"));
    assert!(out.code == Some(1) && out.stderr.is_empty() && !line.contains('\n'), "{out}");
    for text in says {
        assert!(line.contains(text), "should say {text:?}: {out}");
    }
}

/// The peer reaches a server in the namespace at this port, by both families, and is seen as itself.
#[track_caller]
fn answers(host: &Host, ns: &Ns, port: u16) {
    for (address, peer) in [(HOST4, PEER4), (HOST6, PEER6)] {
        for proto in [Proto::Tcp, Proto::Udp] {
            let at = SocketAddr::new(address, port);
            let _echo = Echo::start(ns, proto, at);
            let local = assert_reaches("from the peer", &host.peer, proto, at);
            assert_eq!(local.ip(), peer, "{proto:?} {at}");
        }
    }
}

#[test]
fn two_containers_answer_the_peer() {
    let host = Host::new("netavark");
    let (a, b) = (Ns::net_only("a"), Ns::net_only("b"));
    let status = call(&host, "setup", &a, &recorded(CONTAINER)).ok().json();
    call(&host, "setup", &b, &second()).ok();

    let subnets = json!([{"ipnet": "10.77.0.2/32"}, {"ipnet": "fd77::2/128"}]);
    assert_eq!(status["interfaces"]["eth0"]["subnets"], subnets, "{status}");
    let told = status["interfaces"]["eth0"]["mac_address"].as_str().expect("a MAC address");
    assert!(a.read("ip link show eth0").contains(told), "{status}");

    for port in [31_000, 31_005, 31_600, 31_612] {
        answers(&host, &a, port);
    }
    answers(&host, &b, 31_010);
    let leases = host.list();
    let of = |name: &str| leases.iter().find(|l| l["members"][0]["name"] == name).cloned().expect("a lease");
    assert_eq!(of("a")["ports"], "31000-31001,31005,31600,31610-31612");
    assert_eq!((&of("b")["members"][0]["engine"], &of("b")["ports"]), (&json!("podman"), &json!("31010")));
    // It connects out from its block.
    let echo = Echo::start(&host.peer, Proto::Tcp, SocketAddr::new(PEER4, 20_000));
    let local = assert_reaches("from a", &a, Proto::Tcp, echo.at).port();
    let (begin, end) = (of("a")["block"]["begin"].as_u64().unwrap(), of("a")["block"]["end"].as_u64().unwrap());
    assert!((begin..=end).contains(&u64::from(local)), "{local} is not in {begin}-{end}");

    // Again: the same answer, and nothing changes. Teardown takes it back, twice.
    let before = host.list();
    assert_eq!(call(&host, "setup", &a, &recorded(CONTAINER)).ok().json(), status);
    assert_eq!(host.list(), before);
    for (ns, input) in [(&a, recorded(CONTAINER)), (&b, second())] {
        for _ in 0..2 {
            assert_eq!(call(&host, "teardown", ns, &input).ok().stdout, "");
        }
        assert_bare("after teardown", ns);
    }
    assert_eq!(host.ids(), [""; 0], "after both");
    assert!(eventually(|| host.links() == ["eth0", "lo"]), "after both: {:?}", host.links());
    // A restart: another namespace, the same ports.
    let again = Ns::net_only("again");
    call(&host, "setup", &again, &recorded(CONTAINER)).ok();
    answers(&host, &again, 31_600);
    call(&host, "teardown", &again, &recorded(CONTAINER)).ok();
}

/// As by CNI: what Podman calls it, whatever the uplink's name is.
#[test]
fn the_device_is_called_as_podman_wants() {
    let (host, ns) = (Host::new("netavark-named"), Ns::net_only("a"));
    let mut input = recorded(CONTAINER);
    input["network_options"]["interface_name"] = json!("web0");
    let status = call(&host, "setup", &ns, &input).ok().json();
    let told = status["interfaces"]["web0"]["mac_address"].as_str().unwrap_or_else(|| panic!("{status}"));
    assert!(ns.read("ip link show web0").contains(told), "{status}");
    answers(&host, &ns, 31_600);
    assert_eq!(call(&host, "setup", &ns, &input).ok().json(), status, "again");
    call(&host, "teardown", &ns, &input).ok();
    assert_bare("after teardown", &ns);
}

/// Podman tears a network down when the namespace may be gone already, and a late call may meet the container's next one.
#[test]
fn teardown_ends_only_what_is_in_that_namespace() {
    let host = Host::new("netavark-late");
    let (old, new) = (Ns::net_only("old"), Ns::net_only("new"));
    let input = recorded(POD);
    call(&host, "setup", &old, &input).ok();
    call(&host, "teardown", &old, &input).ok();
    call(&host, "setup", &new, &input).ok();
    call(&host, "teardown", &old, &input).ok();
    answers(&host, &new, 31_701);
    let path = new.path();
    new.kill();
    let program = binary("portslice-netavark".as_ref());
    host.fed(&[program.into(), "teardown".into(), path.into()], input.to_string()).ok();
    assert_eq!(host.ids(), [""; 0], "when the namespace is gone");
}

#[test]
fn a_refused_setup_leaves_nothing() {
    let host = Host::new("netavark-refused");
    let one = Ns::net_only("one");
    call(&host, "setup", &one, &recorded(CONTAINER)).ok();
    let (still, spare) = (Still::of(&host), Ns::net_only("spare"));
    let mut other = recorded(CONTAINER);
    other["container_id"] = json!("c".repeat(64));
    failed(&call(&host, "setup", &spare, &other), &["port 31000 is leased to", "a0fd48bfd3d1"]);
    let change = |pointer: &str, value: Value| {
        let mut call = second();
        *call.pointer_mut(pointer).expect("a field") = value;
        call
    };
    let published = json!([{"container_port": 80, "host_ip": "", "host_port": 8080, "protocol": "tcp", "range": 1}]);
    for (input, says) in [
        (change("/port_mappings", published), "asks for port names, which are given at bind(), but"),
        (change("/network_options/options", json!({"ports": "80"})), "ports 80 cannot be assigned"),
        (change("/network_options/options", json!({"prots": "80"})), "did you mean ports?"),
        (change("/network_options/options", json!({"ephemeral-ports": "16384+1"})), "ephemeral-ports"),
        (change("/network_options/static_ips", json!(["10.77.0.9"])), "10.77.0.9"),
    ] {
        failed(&call(&host, "setup", &spare, &input), &[says]);
        assert_bare(says, &spare);
    }
    // Another network is in the namespace already.
    spare.ip("link add eth0 type veth peer name other");
    failed(&call(&host, "setup", &spare, &second()), &["eth0"]);
    still.check_all("after the refusals");
    call(&host, "teardown", &one, &recorded(CONTAINER)).ok();
}

/// Podman itself holds what it publishes. Whoever else does is in the way.
#[test]
fn the_callers_placeholder_is_not_in_use() {
    let host = Host::new("netavark-held");
    let ns = Ns::net_only("one");
    let at = |port: u16| SocketAddr::from(([0, 0, 0, 0], port));
    let held = host.inside(|| (TcpListener::bind(at(31_600)).expect("TCP"), UdpSocket::bind(at(31_610)).expect("UDP")));
    call(&host, "setup", &ns, &recorded(CONTAINER)).ok();
    answers(&host, &ns, 31_600);
    answers(&host, &ns, 31_610);
    call(&host, "teardown", &ns, &recorded(CONTAINER)).ok();
    drop(held);

    let still = Still::of(&host);
    let other = Stranger::at(&host.ns, 31_600);
    failed(&call(&host, "setup", &ns, &recorded(CONTAINER)), &["port 31600 is in use by process", "busybox", "TCP"]);
    still.check("refused");
    drop(other);
    // The command line descends from the same process, and no engine holds a port for it.
    let held = host.inside(|| TcpListener::bind(at(31_600)).expect("TCP"));
    let out = host.portslice(["attach", "x", "--netns", &ns.path().to_string_lossy(), "--ports", "31600"]);
    out.refused(4, "port 31600 is in use by process");
    drop(held);
}

/// A host that nobody prepared is prepared by the command beside the plugin, also where the plugin is installed under the
/// name of the driver, which is the command's.
#[test]
fn the_first_container_prepares_the_host() {
    let host = Host::with("netavark-unprepared").unprepared().build();
    let plugins = host.dir.join("plugins");
    std::fs::create_dir(&plugins).expect("plugins");
    run::copy_program(&binary("portslice-netavark".as_ref()), &plugins.join("portslice"));
    let config = format!("ports = \"31000-31999\"\ncommand = {:?}\n", binary("portslice".as_ref()));
    let ns = Ns::net_only("one");
    std::fs::write(host.config_file(), config).expect("config");
    let setup = |verb: &str| {
        let words = [plugins.join("portslice").into(), verb.into(), ns.path().into()];
        host.fed(&words, recorded(CONTAINER).to_string())
    };
    setup("setup").ok();
    answers(&host, &ns, 31_600);
    setup("teardown").ok();
    host.portslice(["setup", "--undo"]).ok();
    // Without the key it is the installed command, never the plugin itself.
    std::fs::write(host.config_file(), "ports = \"31000-31999\"\n").expect("config");
    let installed = std::path::Path::new("/usr/bin/portslice").exists();
    let out = setup("setup");
    if installed {
        out.ok();
        setup("teardown").ok();
    } else {
        failed(&out, &["cannot prepare the host by /usr/bin/portslice"]);
    }
}
