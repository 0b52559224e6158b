//! A resolver on the host's loopback, which containers that may not reach the host cannot ask.

use super::{assert_clean, is_mended, own_etc};
use crate::lab::*;

const STUB: &str = "nameserver 127.0.0.53\noptions edns0\n";

fn host_with(name: &str, resolv: &str) -> Host {
    let host = Host::with(name).config("ports = \"31000-31999\"\nhost_loopback = false\n").build();
    own_etc(&host);
    let script = format!("rm -f /etc/resolv.conf; printf '{resolv}' > /etc/resolv.conf");
    host.run(["sh", "-ec", &script]).ok();
    host
}

#[test]
fn a_stub_resolver_is_given_way_to_its_servers_or_containers_may_reach_it() {
    let host = host_with("doctor-resolver", STUB);
    let finding = is_mended(&host, "resolver", "warn", &["/etc/resolv.conf names the server 127.0.0.53"]);
    assert!(finding["remedy"].as_str().is_some_and(|command| command.contains("host_loopback = true")), "{finding:#}");

    let host = host_with("doctor-resolved", STUB);
    let script = "mkdir -p /run/systemd/resolve; echo nameserver 10.77.0.1 > /run/systemd/resolve/resolv.conf";
    host.run(["sh", "-ec", script]).ok();
    is_mended(&host, "resolver", "warn", &["127.0.0.53"]);
    assert_eq!(host.run(["cat", "/etc/resolv.conf"]).ok().stdout, "nameserver 10.77.0.1\n");
}

#[test]
fn a_resolver_elsewhere_is_as_it_should_be() {
    assert_clean(&host_with("doctor-resolver-far", "nameserver 10.77.0.1\n"));
    let host = host_with("doctor-resolver-open", STUB);
    std::fs::write(host.config_file(), "ports = \"31000-31999\"\n").expect("config");
    assert_clean(&host);
}
