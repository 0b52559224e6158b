//! Ports that the host lacks, and ports that it uses although a container has them.

use super::{assert_clean, found, is_mended, mend};
use crate::lab::*;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};

/// A process that holds a socket of the host, and does nothing.
fn holder(host: &Host, socket: impl Into<OwnedFd>) -> Child {
    host.command(["sleep", "60"]).stdin(Stdio::from(socket.into())).spawn().expect("sleep")
}

#[test]
fn a_listener_on_a_port_of_a_container_is_named_with_its_process() {
    let host = Host::new("doctor-listener");
    let container = host.bare("box", &["--ports", "31000-31009"]);
    let at = SocketAddr::new(probe::any(HOST4), 31_005);
    // what listens inside has the port by right
    let _echo = Echo::start(&container.ns, Proto::Tcp, at);
    assert_clean(&host);
    let tcp = || holder(&host, host.inside(|| TcpListener::bind(at)).expect("a socket"));
    let udp = || holder(&host, host.inside(|| UdpSocket::bind(at)).expect("a socket"));
    for (protocol, start) in [("TCP", &tcp as &dyn Fn() -> Child), ("UDP", &udp)] {
        let mut process = start();
        let pid = process.id();
        let line = format!("process {pid} (sleep) has {protocol} port 31005 of container box open");
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
    is_mended(&host, "ports", "fail", &["would leave the host 500 ephemeral ports", "57000-57843"]);
    host.ns.set_sysctl("ipv4.ip_local_port_range", "40000 57343");
    is_mended(&host, "ports", "fail", &["would leave the host 0 ephemeral ports"]);
    host.ns.set_sysctl("ipv4.ip_local_port_range", "57344 60999");
}
