//! Ports that the host lacks, and ports that it uses although a container has them.

use super::{assert_clean, found, is_mended, mend};
use crate::lab::wait::eventually;
use crate::lab::*;
use std::net::SocketAddr;
use std::process::{Child, Stdio};

/// A process of the host that listens.
fn listener(host: &Host, arguments: &[&str]) -> Child {
    let mut command = host.command([&["busybox", "nc"], arguments].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("busybox nc")
}

#[test]
fn a_listener_on_a_port_of_a_container_is_named_with_its_process() {
    let host = Host::new("doctor-listener");
    let container = host.bare("box", &["--ports", "31000-31009"]);
    let inside = SocketAddr::new(probe::any(HOST4), 31_005);
    // what listens inside has the port by right
    let _echo = Echo::start(&container.ns, Proto::Tcp, inside);
    assert_clean(&host);
    for (arguments, protocol) in [(["-l", "-p", "31005"].as_slice(), "TCP"), (&["-u", "-l", "-p", "31005"], "UDP")] {
        let mut process = listener(&host, arguments);
        let pid = process.id();
        let line = format!("process {pid} (busybox) has {protocol} port 31005 of container box open");
        let there = || host.portslice(["doctor"]).stdout.contains(&line);
        assert!(eventually(there), "{}", host.portslice(["doctor"]));
        let finding = found(&host, "ports", "fail", &[&line]);
        assert_eq!(finding["remedy"].as_str(), Some(format!("kill {pid}").as_str()));
        mend(&host, &finding);
        process.wait().expect("wait");
        assert_clean(&host);
    }
}

#[test]
fn a_host_with_few_ports_of_its_own_is_given_more() {
    let host = Host::new("doctor-few-ports");
    host.ns.set_sysctl("ipv4.ip_local_port_range", "57000 57843");
    is_mended(&host, "ports", "warn", &["57000-57843 the host keeps 500,"]);
    host.ns.set_sysctl("ipv4.ip_local_port_range", "40000 57343");
    is_mended(&host, "ports", "fail", &["40000-57343 the host keeps 0,"]);
    host.ns.set_sysctl("ipv4.ip_local_port_range", "57344 60999");
}
