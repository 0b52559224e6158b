//! What the server may do: no more than two capabilities, and each of them for a reason.

use super::client::Server;
use crate::lab::host::binary;
use crate::lab::run::copy_program;
use crate::lab::*;
use serde_json::Value;
use std::ffi::OsStr;
use std::path::PathBuf;

const NOBODY: &str = "65534";
/// As in the unit file, which the test compares.
const NEEDED: [&str; 2] = ["sys_admin", "sys_ptrace"];

/// A server that runs as `user` with these capabilities alone, and may never have others.
fn with<'h>(host: &'h Host, user: &str, capabilities: &[&str]) -> Server<'h> {
    // the build's directory need not be open to everybody
    let copy: PathBuf = host.dir.join("portslice");
    copy_program(&binary(OsStr::new("portslice")), &copy);
    open_to_all(&host.dir, 0o711);
    open_to_all(&host.config_file(), 0o644);
    let set: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    let set = format!("-all{set}");
    let mut argv: Vec<String> =
        ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--no-new-privs"].map(String::from).to_vec();
    for kind in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
        argv.push(format!("{kind}={set}"));
    }
    argv.push(copy.to_string_lossy().into_owned());
    argv.extend(["-v", "serve", "--listen", "127.0.0.1:0"].map(String::from));
    Server::launch(host, host.command(argv))
}

fn open_to_all(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode");
}

/// A host with everything that has to be read: devices, limits, namespaces found by process and by name.
fn host(name: &str) -> (Host, [Container; 2]) {
    let config = "ports = \"31000-31999\"\nsnmp_statistics = true\nsocket_statistics_details = true\n";
    let host = Host::with(name).config(config).build();
    let limits = ["--egress-rate", "10mbit", "--ingress-rate", "10mbit"];
    let containers = [host.bare("by-process", &limits), host.bare_named("by-name", &[])];
    (host, containers)
}

fn all(server: &Server) -> Value {
    let answer = server.ask("/monitor/statistics");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Names of the statistics of each container.
fn names(all: &Value) -> Vec<Vec<String>> {
    let keys = |one: &Value| one["statistics"].as_object().expect("statistics").keys().cloned().collect();
    all.as_array().expect("an array").iter().map(keys).collect()
}

#[test]
fn two_capabilities_suffice() {
    let (host, _containers) = host("serve-power");
    let told = names(&host.portslice(["stats", "--json"]).ok().json());
    assert_eq!(told.len(), 2);
    for name in ["net_snmp_statistics", "net_ephemeral_ports_in_use", "net_tx_errors", "net_tcp_active_connections"] {
        assert!(told.iter().all(|names| names.iter().any(|n| n == name)), "{name}: {told:?}");
    }
    for (user, capabilities) in [("0", &NEEDED[..]), (NOBODY, &["sys_admin", "sys_ptrace", "dac_override"])] {
        let server = with(&host, user, capabilities);
        assert_eq!(names(&all(&server)), told, "as user {user} with {capabilities:?}: {}", server.said());
        assert_eq!(server.ask("/healthz").status, 200);
        assert_eq!(server.ask("/metrics").status, 200);
        server.end();
    }
}

#[test]
fn each_of_them_is_needed() {
    let (host, _containers) = host("serve-less-power");
    let told = names(&host.portslice(["stats", "--json"]).ok().json());
    for (without, sign) in [("sys_admin", "not permitted"), ("sys_ptrace", "by-process: ")] {
        let rest: Vec<&str> = NEEDED.into_iter().filter(|name| *name != without).collect();
        let server = with(&host, "0", &rest);
        let answer = server.ask("/monitor/statistics");
        let complete = answer.status == 200 && names(&answer.json()) == told;
        assert!(!complete, "{without} is not needed");
        // it says so, and goes on
        let said = server.said() + &answer.body;
        assert!(said.to_lowercase().contains(sign), "without {without}: {said}");
        assert!([200, 503].contains(&server.ask("/metrics").status));
        server.end();
    }
}

#[test]
fn the_unit_gives_these() {
    let unit = include_str!("../../config/portslice.service");
    for key in ["CapabilityBoundingSet", "AmbientCapabilities"] {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let mut given: Vec<String> = line
            .unwrap_or_else(|| panic!("no {key}"))
            .split(' ')
            .map(|name| name.strip_prefix("CAP_").expect("a capability").to_lowercase())
            .collect();
        given.sort();
        let mut needed = NEEDED.map(String::from);
        needed.sort();
        assert_eq!(given, needed, "{key}");
    }
}
