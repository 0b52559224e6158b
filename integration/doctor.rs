//! Promise: whatever is wrong with a host, doctor names it, says why it matters, and the command that it prints mends it. Of a
//! host that is as it should be it says one line.

mod asked;
mod boot;
mod firewall;
mod host;
mod managers;
mod ports;
mod resolver;
mod slices;

use crate::lab::*;
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

/// What is wrong, as doctor sees it. Its exit code says whether containers suffer.
#[track_caller]
fn findings(host: &Host) -> Vec<Value> {
    let out = host.portslice(["doctor", "--json"]);
    let all = out.json().as_array().unwrap_or_else(|| panic!("doctor --json is no array: {out}")).clone();
    let failed = all.iter().any(|finding| finding["verdict"] == "fail");
    assert_eq!(out.code, Some(if failed { 5 } else { 0 }), "{out}");
    assert_eq!(out.stderr, "", "{out}");
    all.into_iter().filter(|finding| finding["verdict"] != "ok").collect()
}

#[track_caller]
fn assert_clean(host: &Host) {
    let findings = findings(host);
    assert!(findings.is_empty(), "doctor finds fault with a host that is as it should be: {findings:#?}");
}

/// The only finding: its theme, its verdict, and parts of what was seen.
#[track_caller]
fn found(host: &Host, check: &str, verdict: &str, seen: &[&str]) -> Value {
    let all = findings(host);
    let [finding] = all.as_slice() else { panic!("one finding about {check} is expected: {all:#?}") };
    assert_eq!((finding["check"].as_str(), finding["verdict"].as_str()), (Some(check), Some(verdict)), "{finding:#}");
    let said = finding["seen"].as_str().unwrap_or_default();
    assert!(seen.iter().all(|part| said.contains(part)), "{seen:?} are expected in {said:?}");
    assert!(finding["why"].as_str().is_some_and(|why| !why.is_empty()), "{finding:#}");
    finding.clone()
}

/// Runs the command that a finding prints, as an operator would.
#[track_caller]
fn mend(host: &Host, finding: &Value) {
    let command = finding["remedy"].as_str().unwrap_or_else(|| panic!("no command mends it: {finding:#}"));
    println!("{}: {}\n    {command}", finding["check"], finding["seen"]);
    let portslice = crate::lab::host::binary("portslice".as_ref());
    let path = format!("{}:{}", portslice.parent().unwrap_or(Path::new("/")).display(), std::env::var("PATH").unwrap());
    run::run(host.command(["sh", "-ec", command]).env("PATH", path), Duration::from_secs(60)).ok();
}

/// Doctor names it, the command mends it, and nothing is left to say.
#[track_caller]
fn is_mended(host: &Host, check: &str, verdict: &str, seen: &[&str]) -> Value {
    let finding = found(host, check, verdict, seen);
    mend(host, &finding);
    assert_clean(host);
    finding
}

/// Doctor names it, maybe among what follows from it, and one `portslice sync` mends everything.
#[track_caller]
fn is_synced(host: &Host, seen: &[&str]) {
    let all = findings(host);
    let said: Vec<&str> = all.iter().filter_map(|finding| finding["seen"].as_str()).collect();
    assert!(seen.iter().all(|part| said.iter().any(|said| said.contains(part))), "{seen:?} are expected in {all:#?}");
    let alike = |f: &Value| f["remedy"] == "portslice sync" && f["verdict"] == "fail";
    assert!(all.iter().all(alike), "one command for all: {all:#?}");
    mend(host, &all[0]);
    assert_clean(host);
}

/// Gives the host an /etc of its own.
pub fn own_etc(host: &Host) {
    host.run(["sh", "-ec", "cp -a /etc /run/etc; mount --bind /run/etc /etc"]).ok();
}

/// A host, not prepared yet, that its files under /etc configure, as they do the machine's first namespace.
fn first_host(name: &str) -> Host {
    let host = Host::with(name).unprepared().build();
    own_etc(&host);
    let script = format!(
        "mount --bind /proc/{}/ns /proc/1/ns; \
         rm -rf /etc/systemd /etc/NetworkManager /etc/sysctl.d /etc/sysctl.conf; \
         mkdir -p /etc/systemd/network /etc/systemd/system /etc/NetworkManager/conf.d /etc/sysctl.d",
        host.ns.pid()
    );
    host.run(["sh", "-ec", &script]).ok();
    host
}

fn write(host: &Host, path: &str, text: &str) {
    host.run(["sh", "-ec", &format!("printf '{text}' > {path}")]).ok();
}

#[test]
fn a_clean_host_is_told_in_one_line() {
    let host = Host::with("doctor-clean").build();
    let _containers = [
        host.bare("a", &["--ports", "31000-31009"]),
        host.bare("b", &["--egress-rate", "8mbit", "--ingress-rate", "8mbit"]),
    ];
    assert_clean(&host);
    let out = host.portslice(["doctor"]).ok();
    assert_eq!(out.stdout.lines().count(), 1, "{out}");
    for part in ["ok ", "eth0 carries 10.77.0.2, fd77::2, MTU 1500", "pool 32768-57343 holds 24 blocks", "2 containers"]
    {
        assert!(out.stdout.contains(part), "{part}: {out}");
    }
    let out = host.portslice(["doctor", "-v"]).ok();
    assert!(out.stdout.lines().count() > 4 && out.stdout.lines().all(|line| line.starts_with("ok ")), "{out}");
    for part in ["kernel: has everything", "firewall: the host has none", "keeps 3656 ephemeral ports"] {
        assert!(out.stdout.contains(part), "{part}: {out}");
    }
}

#[test]
fn fifty_containers_are_looked_at_in_a_moment() {
    let config = "ports = \"31000-31999\"\nephemeral_ports_per_container = 256\n";
    let host = Host::with("doctor-fifty").config(config).build();
    let _containers: Vec<Container> =
        (0..50).map(|n| host.bare(&format!("c{n}"), &["--ports", &format!("{}", 31_000 + n)])).collect();
    assert_clean(&host);
    let mut took: Vec<Duration> = (0..10).map(|_| host.portslice(["doctor"]).ok().took).collect();
    took.sort();
    println!("doctor with 50 containers: {took:?}");
    // other tests want the processors as well
    assert!(took[0] <= Duration::from_millis(300), "doctor took {took:?}");
}

#[test]
fn a_caller_who_may_not_look_is_told_in_one_line() {
    const CAP_NET_ADMIN: libc::c_ulong = 12;
    let host = Host::new("doctor-nobody");
    let powerless = |arguments: &[&str]| {
        let mut command = host.command(["portslice"]);
        command.args(arguments);
        // SAFETY: one system call between fork and exec. What exec gives root is bounded by this set.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_CAPBSET_DROP, CAP_NET_ADMIN, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            })
        };
        run::run(&mut command, Duration::from_secs(60))
    };
    powerless(&["doctor", "--help"]).ok();
    let out = powerless(&["doctor"]).refused(5, "run it as root");
    assert!(out.stderr.contains("CAP_NET_ADMIN") && out.stdout.is_empty(), "{out}");
    powerless(&["doctor", "--json"]).refused(5, "run it as root");
}
