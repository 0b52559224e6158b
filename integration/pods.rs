//! Promise: containers that share a network namespace share its slice, and each has its own ports and CPUs.

mod cni;
mod containerd;

use crate::lab::bundle::{Bundle, Network, Running, Runtime};
use crate::lab::podman::Podman;
use crate::lab::wait::eventually;
use crate::lab::*;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

/// A host with a log file, since engines hide what hooks say.
pub fn host(name: &str) -> Host {
    host_of(Engines::Installed, name).expect("installed engines")
}

/// The same with these engines, if they are there.
pub fn host_of(engines: Engines, name: &str) -> Option<Host> {
    let host = engines.host(name)?;
    let log = host.dir.join("portslice.log");
    let config = format!("ports = \"31000-31999\"\nlog_file = \"{}\"\n", log.display());
    std::fs::write(host.config_file(), config).expect("config");
    Some(host)
}

fn log(host: &Host) -> String {
    std::fs::read_to_string(host.dir.join("portslice.log")).unwrap_or_default()
}

/// A web server that says who it is, on a port of both families.
pub fn serve(who: &str, port: u16) -> String {
    format!("mkdir -p /tmp/{who}; echo {who} > /tmp/{who}/who; exec httpd -f -p [::]:{port} -h /tmp/{who}")
}

/// Asks such a server from the peer.
fn asks(host: &Host, by: IpAddr, port: u16) -> Result<String, String> {
    host.peer.inside(|| {
        let patience = Duration::from_secs(2);
        let to = SocketAddr::new(by, port);
        let mut stream = TcpStream::connect_timeout(&to, patience).map_err(|e| format!("connect: {e}"))?;
        stream.set_read_timeout(Some(patience)).expect("timeout");
        stream.write_all(b"GET /who HTTP/1.0\r\n\r\n").map_err(|e| format!("send: {e}"))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(|e| format!("receive: {e}"))?;
        Ok(answer.lines().last().unwrap_or_default().to_string())
    })
}

/// What Podman came to, with what the hooks said where it failed.
#[track_caller]
fn started(host: &Host, out: run::Output) {
    assert!(out.code == Some(0), "{out}; log:\n{}", log(host));
}

#[track_caller]
pub fn assert_answers(what: &str, host: &Host, who: &str, port: u16) {
    for by in [HOST4, HOST6] {
        let mut said = Err(String::new());
        let done = eventually(|| {
            said = asks(host, by, port);
            said.as_deref() == Ok(who)
        });
        assert!(done, "{what}: {who} at {by} port {port}: {said:?}; log:\n{}", log(host));
    }
}

#[track_caller]
fn assert_silent(what: &str, host: &Host, port: u16) {
    for by in [HOST4, HOST6] {
        let said = asks(host, by, port);
        assert!(said.is_err(), "{what}: {by} port {port} answered {said:?}");
    }
}

/// Shares and quota in the CPU cgroup of a process, which is found without asking portslice.
#[track_caller]
fn cpu_of(pid: u32) -> (String, String) {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("a process");
    let group = groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        controllers.split(',').any(|c| c == "cpu").then(|| path.to_string())
    });
    let group = format!("/sys/fs/cgroup/cpu{}", group.unwrap_or_else(|| panic!("no CPU cgroup: {groups}")));
    let read = |name: &str| {
        let path = format!("{group}/{name}");
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_string()
    };
    (read("cpu.shares"), read("cpu.cfs_quota_us"))
}

/// Engine, name and ports of each member of a slice.
fn members(lease: &Value) -> Vec<(String, String, String)> {
    let text = |member: &Value, key: &str| member[key].as_str().unwrap_or("-").to_string();
    let all = lease["members"].as_array().unwrap_or_else(|| panic!("{lease}")).iter();
    all.map(|member| (text(member, "engine"), text(member, "name"), text(member, "ports"))).collect()
}

fn member(engine: &str, name: &str, ports: &str) -> (String, String, String) {
    (engine.to_string(), name.to_string(), ports.to_string())
}

/// The only slice.
#[track_caller]
fn slice(what: &str, host: &Host) -> Value {
    let mut all = host.list();
    assert_eq!(all.len(), 1, "{what}: one slice: {all:?}; log:\n{}", log(host));
    all.remove(0)
}

/// One entry a member, each with the slice and its own CPUs, and the network's counters in the first alone.
#[track_caller]
fn assert_counted(what: &str, host: &Host, slice: &Value, limits: &[f64]) {
    let entries = host.portslice(["stats", "--json"]).ok().json();
    let entries = entries.as_array().unwrap_or_else(|| panic!("{what}: {entries}"));
    let ids = |list: &[Value], key: &str| list.iter().map(|e| e[key].to_string()).collect::<Vec<_>>();
    let members = slice["members"].as_array().expect("members");
    assert_eq!(ids(entries, "container_id"), ids(members, "id"), "{what}: {entries:?}");
    for (n, entry) in entries.iter().enumerate() {
        assert_eq!(entry["slice"], slice["id"], "{what}: {entry}");
        let statistics = entry["statistics"].as_object().expect("statistics");
        let net = statistics.keys().any(|key| key.starts_with("net_"));
        assert_eq!(net, n == 0, "{what}: counters of the network in entry {n}: {entry}");
        assert!(statistics.contains_key("mem_rss_bytes"), "{what}: memory of each: {entry}");
        assert_eq!(statistics["cpus_limit"].as_f64(), Some(limits[n]), "{what}: {entry}");
    }
}

/// What people see of the pod's members `a` and `b`: lines that fit a terminal, names, and counters of both.
#[track_caller]
fn assert_readable(host: &Host) {
    let lines = |args: &[&str]| {
        let out = host.portslice(args).ok();
        let fits = out.stdout.lines().all(|line| line.chars().count() <= 80);
        assert!(fits, "{args:?}: lines of more than 80 characters: {out}");
        out.stdout.lines().map(|l| l.split_whitespace().map(String::from).collect()).collect::<Vec<Vec<String>>>()
    };
    let list = lines(&["list"]);
    assert_eq!((&list[1][1], &list[2][1]), (&"a".into(), &"b".into()), "list: {list:?}");
    assert_eq!((&list[2][3], &list[2][5]), (&"\"".into(), &"\"".into()), "list: {list:?}");
    let stats = lines(&["stats"]);
    assert_eq!(stats.iter().map(|l| l[0].as_str()).collect::<Vec<_>>(), ["CONTAINER", "a", "b", "total"]);
    assert_eq!((&stats[1][1..], &*stats[2][1]), (&stats[3][1..], "\""), "stats: {stats:?}");
    for name in ["a", "b"] {
        let show = lines(&["show", name]);
        let value = |key: &str| show.iter().find(|line| line[0] == key).map(|line| line[1..].join(" "));
        assert_eq!(value("name").as_deref(), Some(name), "show {name}: {show:?}");
        assert!(value("slice").is_some_and(|s| s.ends_with("(2 members: a, b)")), "show {name}: {show:?}");
        assert!(value("received").is_some_and(|s| s.contains("packets")), "show {name}: {show:?}");
    }
    lines(&["stats", "b"]);
    lines(&["stats", "--all"]);
    lines(&["top", "--count", "1"]);
}

/// Nothing of portslice is left, at once or when the kernel has removed the namespace; `gc` may have to be asked then.
#[track_caller]
fn assert_gone(what: &str, host: &Host) {
    assert!(eventually(|| host.links() == ["eth0", "lo"]), "{what}: devices {:?}", host.links());
    if !host.list().is_empty() {
        host.portslice(["gc"]).ok();
    }
    assert_eq!(host.ids(), [""; 0], "{what}: leases; log:\n{}", log(host));
    assert!(!log(host).contains(" ERROR "), "{what}: the log says an error:\n{}", log(host));
}

const A: [&str; 6] = [
    "--annotation",
    "portslice/ports=31000",
    "--annotation",
    "portslice/cpus=0.5",
    "--annotation",
    "portslice/cpus-limit=0.5",
];
const B: [&str; 6] = [
    "--annotation",
    "portslice/ports=31010",
    "--annotation",
    "portslice/cpus=1.5",
    "--annotation",
    "portslice/cpus-limit=1.5",
];

#[track_caller]
fn assert_both(what: &str, host: &Host, podman: &Podman<'_>) {
    assert_answers(what, host, "a", 31_000);
    assert_answers(what, host, "b", 31_010);
    assert_eq!(cpu_of(podman.pid("a")), ("512".into(), "50000".into()), "{what}: CPUs of a");
    assert_eq!(cpu_of(podman.pid("b")), ("1536".into(), "150000".into()), "{what}: CPUs of b");
}

#[test]
fn a_pod_of_podman() {
    let host = host("podman-pod");
    let podman = host.podman();
    podman.pod("shop");
    started(&host, podman.run("a", &[&["--pod", "shop"], &A[..]].concat(), &serve("a", 31_000)));
    started(&host, podman.run("b", &[&["--pod", "shop"], &B[..]].concat(), &serve("b", 31_010)));

    let what = "two members";
    assert_both(what, &host, &podman);
    let lease = slice(what, &host);
    assert_eq!(members(&lease), [member("podman", "a", "31000"), member("podman", "b", "31010")], "{what}: {lease}");
    assert_counted(what, &host, &lease, &[0.5, 1.5]);
    assert_readable(&host);

    let what = "after a restart of the first";
    podman.call(&["restart", "--time", "0", "a"]).ok();
    assert_both(what, &host, &podman);
    let again = slice(what, &host);
    assert_eq!((&again["id"], &again["block"]), (&lease["id"], &lease["block"]), "{what}: the same slice: {again}");
    assert_eq!(members(&again), [member("podman", "b", "31010"), member("podman", "a", "31000")], "{what}: {again}");
    assert_counted(what, &host, &again, &[1.5, 0.5]);

    let what = "without the second";
    podman.call(&["rm", "--force", "--time", "0", "b"]).ok();
    assert_silent(what, &host, 31_010);
    assert_answers(what, &host, "a", 31_000);
    assert_eq!(members(&slice(what, &host)), [member("podman", "a", "31000")], "{what}");

    podman.call(&["pod", "rm", "--force", "--time", "0", "shop"]).ok();
    assert_eq!(host.ids(), [""; 0], "when the infra container ended; log:\n{}", log(&host));
    assert_gone("the pod is gone", &host);
    assert_accounted(&host, &["a", "b", "a"]);
}

/// The journal has these members, and the last one alone the counters of the network, so that sums hold.
#[track_caller]
fn assert_accounted(host: &Host, names: &[&str]) {
    let all = host.portslice(["stats", "--finished", "--json"]).ok().json();
    let all = all.as_array().unwrap_or_else(|| panic!("{all}"));
    let told: Vec<&str> = all.iter().map(|one| one["name"].as_str().unwrap_or("-")).collect();
    assert_eq!(told, names, "stats --finished: {all:?}");
    for (n, one) in all.iter().enumerate() {
        let received = one["statistics"]["net_rx_packets"].as_u64();
        assert_eq!(received.is_some_and(|n| n > 0), n + 1 == all.len(), "stats --finished, entry {n}: {one}");
    }
}

/// Who asks for nothing gets nothing, in a pod as elsewhere.
#[test]
fn a_pod_of_podman_that_asks_for_nothing() {
    let host = host("podman-untouched");
    let podman = host.podman();
    podman.pod("shop");
    started(&host, podman.run("a", &["--pod", "shop"], "exec sleep 1000"));
    assert_eq!(host.ids(), [""; 0], "leases; log:\n{}", log(&host));
    assert_eq!(podman.call(&["exec", "a", "ls", "/sys/class/net"]).ok().stdout.trim(), "lo");
    podman.call(&["pod", "rm", "--force", "--time", "0", "shop"]).ok();
    assert_eq!(log(&host), "", "what the hooks said");
}

/// Plain containers: one makes the namespace, another joins it.
#[test]
fn a_container_of_podman_in_the_namespace_of_another() {
    let host = host("podman-container");
    let podman = host.podman();
    for first_asks in [true, false] {
        let what = if first_asks { "the first asks" } else { "the first asks for nothing" };
        let first: &[&str] = if first_asks { &A } else { &[] };
        started(&host, podman.run("a", &[&["--network", "none"], first].concat(), &serve("a", 31_000)));
        started(&host, podman.run("b", &[&["--network", "container:a"], &B[..]].concat(), &serve("b", 31_010)));
        if first_asks {
            assert_both(what, &host, &podman);
            assert_counted(what, &host, &slice(what, &host), &[0.5, 1.5]);
        } else {
            assert_answers(what, &host, "b", 31_010);
            assert_silent(what, &host, 31_000);
        }
        podman.call(&["rm", "--force", "--time", "0", "b"]).ok();
        assert_silent(what, &host, 31_010);
        if first_asks {
            assert_answers(what, &host, "a", 31_000);
        }
        podman.call(&["rm", "--force", "--time", "0", "a"]).ok();
        assert_gone(what, &host);
    }
}

// ---- a pod whose sandbox is not told of at its start; that of a real containerd is in pods/containerd.rs

/// Starts a container of such a pod, with the annotations that containerd gives it, its own and the pod's.
fn container<'r>(host: &Host, runtime: &'r Runtime<'r>, sandbox: &Running<'_>, name: &str, line: &str) -> Running<'r> {
    let path = format!("/proc/{}/ns/net", sandbox.pid);
    let bundle = Bundle::new(host, name, &["sh", "-c", line]).sliced().network(Network::Path(path.as_ref()));
    let bundle = [
        ("io.kubernetes.cri.container-type", "container"),
        ("io.kubernetes.cri.container-name", name),
        ("io.kubernetes.cri.sandbox-id", &sandbox.id),
        ("io.kubernetes.cri.sandbox-name", "shop"),
        ("io.kubernetes.cri.sandbox-namespace", "prod"),
        ("portslice/ports", "31000"),
    ]
    .iter()
    .fold(bundle, |bundle, (key, value)| bundle.annotation(key, value));
    let running = runtime.start(&bundle.edit(|c| c["root"]["readonly"] = false.into()));
    assert!(!log(host).contains(" ERROR "), "{}: the log says an error:\n{}", running.id, log(host));
    running
}

/// A sandbox of which only the end is told, as Podman does with its infra containers: the slice ends with it, although the
/// kernel takes its device away later.
#[test]
fn a_sandbox_that_is_no_member() {
    for program in ["runc", "crun"] {
        let host = host(&format!("infra-{program}"));
        let runtime = host.runtime(program);
        for round in 1..=3 {
            let sandbox = Bundle::new(&host, "infra", &["sleep", "1000"]).hook("poststop", "portslice-poststop");
            let sandbox = runtime.start(&sandbox);
            let a = container(&host, &runtime, &sandbox, "a", &serve("a", 31_000));
            let what = &format!("{program}, round {round}");
            assert_answers(what, &host, "a", 31_000);
            a.delete().ok();
            assert_eq!(members(&slice(what, &host)), [], "{what}: the namespace lives, and so does its slice");
            sandbox.delete().ok();
            assert_eq!(host.ids(), [""; 0], "{what}: the sandbox ended; log:\n{}", log(&host));
            assert_gone(what, &host);
        }
    }
}
