//! Promise: under a real runtime the hooks give a container its slice before it runs and take it back when it is deleted.

use crate::lab::bundle::{Bundle, Network, Runtime};
use crate::lab::probe::assert_reaches;
use crate::lab::still::{Still, assert_bare};
use crate::lab::wait::eventually;
use crate::lab::*;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

const PEER_PORT: u16 = 20_000;
const CONFIG: &str = "ports = \"31000-31999\"\n";

/// A host with a log file, since crun hides what a hook says.
fn host(name: &str) -> Host {
    let host = Host::with(name).config(CONFIG).build();
    std::fs::write(host.config_file(), format!("{CONFIG}log_file = \"{}\"\n", log_file(&host))).expect("config");
    host
}

fn log_file(host: &Host) -> String {
    host.dir.join("portslice.log").to_string_lossy().into_owned()
}

fn log(host: &Host) -> String {
    std::fs::read_to_string(log_file(host)).unwrap_or_default()
}

/// The lease of a container, as `list --json` has it.
#[track_caller]
fn lease(host: &Host, id: &str) -> Value {
    host.list().into_iter().find(|l| l["id"] == id).unwrap_or_else(|| panic!("{id} is not in list --json"))
}

fn block(lease: &Value) -> std::ops::RangeInclusive<u64> {
    lease["block"]["begin"].as_u64().expect("begin")..=lease["block"]["end"].as_u64().expect("end")
}

/// A runtime command whose container keeps the standard streams: they go to a file, which is returned when it failed.
fn quietly(runtime: &Runtime, bundle: &Bundle, args: &[&str]) -> Result<(), String> {
    let path = bundle.dir.join("output");
    let file = std::fs::File::create(&path).expect("output");
    let mut command = runtime.command(args);
    command.stdin(Stdio::null()).stdout(file.try_clone().expect("output")).stderr(file);
    let status = command.status().expect("runtime");
    if status.success() {
        Ok(())
    } else {
        Err(format!("{status}: {}", std::fs::read_to_string(path).unwrap_or_default()))
    }
}

/// A web server in the root file system that answers whom it sees.
fn serving(host: &Host, name: &str) -> Bundle {
    let command = "httpd -p 0.0.0.0:31000 -h /www && httpd -p [::]:31001 -h /www && exec sleep 1000";
    let bundle = Bundle::new(host, name, &["sh", "-c", command]);
    let cgi = host.dir.join("rootfs/www/cgi-bin");
    std::fs::create_dir_all(&cgi).expect("www");
    let who = cgi.join("who");
    if !who.exists() {
        let script = "#!/bin/sh\necho 'Content-Type: text/plain'\necho\necho \"$REMOTE_ADDR $REMOTE_PORT\"\n";
        std::fs::write(&who, script).expect("cgi");
        std::fs::set_permissions(&who, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("cgi");
    }
    bundle
}

/// Asks that server from a namespace: our own address, and whom it says it saw.
fn asks(ns: &Ns, to: SocketAddr) -> Result<(SocketAddr, String), String> {
    ns.inside(|| {
        let patience = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&to, patience).map_err(|e| format!("connect: {e}"))?;
        stream.set_read_timeout(Some(patience)).expect("timeout");
        stream.write_all(b"GET /cgi-bin/who HTTP/1.0\r\n\r\n").map_err(|e| format!("send: {e}"))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(|e| format!("receive: {e}"))?;
        Ok((stream.local_addr().expect("address"), answer.lines().last().unwrap_or_default().to_string()))
    })
}

/// Asserts that the server inside is reached by the host's address and sees who really asks.
#[track_caller]
fn assert_served(what: &str, ns: &Ns, by: IpAddr, port: u16) {
    let to = SocketAddr::new(by, port);
    let mut answer = Err(String::new());
    assert!(
        eventually(|| {
            answer = asks(ns, to);
            answer.is_ok()
        }),
        "{what}: {to} from {}: {answer:?}",
        ns.name
    );
    let (own, seen) = answer.unwrap();
    let (ip, seen_port) = seen.rsplit_once(' ').unwrap_or_else(|| panic!("{what}: the server said {seen:?}"));
    let ip: IpAddr = ip.trim_matches(['[', ']']).parse().unwrap_or_else(|_| panic!("{what}: the server saw {seen:?}"));
    assert_eq!((ip, seen_port), (own.ip(), own.port().to_string().as_str()), "{what}: {to}: whom the server saw");
}

// ---- create, start, exec, exit, delete

fn lives(program: &str, list: &str) {
    let host = host(&format!("{program}-{list}"));
    let _peers = [PEER4, PEER6].map(|at| Echo::start(&host.peer, Proto::Tcp, SocketAddr::new(at, PEER_PORT)));
    let runtime = host.runtime(program);
    let bundle = serving(&host, "web").hook(list, "portslice-prestart").hook("poststop", "portslice-poststop");
    let bundle = bundle.annotation("portslice/ports", "31000-31001").annotation("other/key", "\u{1b}[2J");
    let dir = bundle.dir.to_string_lossy().into_owned();

    quietly(&runtime, &bundle, &["create", "--bundle", &dir, "--pid-file", &format!("{dir}/pid"), &bundle.id])
        .unwrap_or_else(|e| panic!("{program} create: {e}\n{}", log(&host)));
    let created = lease(&host, &bundle.id);
    let pid = std::fs::read_to_string(bundle.dir.join("pid")).expect("pid");
    assert_eq!(created["stage"], "attached", "{program}: after create: {created}");
    assert_eq!(created["pid"].to_string(), pid.trim(), "{program}: whose namespace it is: {created}");
    assert_eq!(created["ports"], "31000-31001", "{program}: {created}");
    let block = block(&created);

    quietly(&runtime, &bundle, &["start", &bundle.id]).unwrap_or_else(|e| panic!("{program} start: {e}"));
    for (client, by, port) in [
        (&host.peer, HOST4, 31_000),
        (&host.peer, HOST6, 31_001),
        (&host.ns, HOST4, 31_000),
        (&host.ns, LO4, 31_000),
        (&host.ns, LO6, 31_001),
    ] {
        assert_served(program, client, by, port);
    }

    let inside = |line: &str| runtime.call(&["exec", &bundle.id, "sh", "-c", line]);
    let range = inside("cat /proc/sys/net/ipv4/ip_local_port_range").ok().stdout;
    let range: Vec<u64> = range.split_whitespace().map(|n| n.parse().expect("a port")).collect();
    assert_eq!(range, [*block.start(), *block.end()], "{program}: ip_local_port_range inside");
    let addresses = inside("ip -o addr").ok().stdout;
    for address in [HOST4, HOST6] {
        assert!(addresses.contains(&address.to_string()), "{program}: no {address} inside:\n{addresses}");
    }
    for peer in [PEER4, PEER6] {
        let out = inside(&format!("echo hello | nc -w 2 {peer} {PEER_PORT}")).ok();
        let seen: SocketAddr = out.stdout.split_whitespace().next().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
            panic!("{program}: the peer answered nothing: {out}");
        });
        assert!([HOST4, HOST6].contains(&seen.ip()), "{program}: the peer saw {seen}");
        assert!(block.contains(&u64::from(seen.port())), "{program}: the peer saw {seen}, the block is {block:?}");
    }
    assert!(inside("exit 7").code == Some(7), "{program}: exec's exit code");
    assert_eq!(lease(&host, &bundle.id), created, "{program}: the lease of a running container");

    runtime.call(&["kill", &bundle.id, "KILL"]).ok();
    let stopped = || runtime.call(&["state", &bundle.id]).stdout.contains("\"stopped\"");
    assert!(eventually(stopped), "{program}: killed, and not stopped");
    runtime.call(&["delete", &bundle.id]).ok();
    assert_nothing_leased(&host, &format!("{program} delete"));
    assert!(!log(&host).contains(" ERROR "), "{program}: the log says an error:\n{}", log(&host));
}

#[test]
fn runc_prestart() {
    lives("runc", "prestart");
}

#[test]
fn runc_create_runtime() {
    lives("runc", "createRuntime");
}

#[test]
fn crun_prestart() {
    lives("crun", "prestart");
}

#[test]
fn crun_create_runtime() {
    lives("crun", "createRuntime");
}

// ---- run in the foreground, failures

fn in_both(name: &str, test: impl Fn(&Host, &Runtime, &str)) {
    for program in ["runc", "crun"] {
        let host = host(&format!("{program}-{name}"));
        test(&host, &host.runtime(program), program);
    }
}

#[track_caller]
fn assert_nothing_leased(host: &Host, what: &str) {
    assert_eq!(host.ids(), [""; 0], "{what}: leases; log:\n{}", log(host));
    assert!(eventually(|| host.links() == ["eth0", "lo"]), "{what}: devices {:?}", host.links());
}

#[test]
fn run_in_the_foreground() {
    in_both("run", |host, runtime, program| {
        let _peer = Echo::start(&host.peer, Proto::Tcp, SocketAddr::new(PEER4, PEER_PORT));
        let bundle = Bundle::new(host, "run", &["sh", "-c", "echo hello | nc -w 2 10.77.0.1 20000; exit 3"]).sliced();
        for round in 1..=2 {
            let out = runtime.run(&bundle);
            assert!(out.code == Some(3), "{program} run, round {round}: the program's own exit code: {out}");
            assert!(out.stdout.starts_with("10.77.0.2:"), "{program} run, round {round}: the peer saw: {out}");
            assert_nothing_leased(host, &format!("{program} run, round {round}"));
        }
    });
}

/// What may be left when a runtime does not call poststop is reclaimed by gc and by the same container coming back.
fn fails_after_the_hook(what: &str, name: &str, change: impl Fn(Bundle) -> Bundle) {
    in_both(name, |host, runtime, program| {
        let what = format!("{program}, {what}");
        let bundle = || Bundle::new(host, "fails", &["sleep", "1000"]).sliced().annotation("portslice/ports", "31000");
        for reclaim in ["gc", "the same id"] {
            let out = runtime.run(&change(bundle()));
            assert!(out.code != Some(0), "{what}: {out}");
            // crun may die of SIGPIPE, as it goes on telling a process that it has killed: then its container is there still
            if out.code.is_none() {
                runtime.call(&["delete", "--force", &bundle().id]);
            }
            if program == "runc" {
                assert_eq!(host.ids(), [""; 0], "{what}: runc calls poststop");
            }
            assert!(eventually(|| host.links() == ["eth0", "lo"]), "{what}: devices {:?}", host.links());
            if reclaim == "gc" {
                host.portslice(["gc"]).ok();
                assert_nothing_leased(host, &what);
            }
            let again = runtime.start(&bundle());
            assert_eq!(lease(host, &again.id)["ports"], "31000", "{what}: started again after {reclaim}");
            again.delete().ok();
            assert_nothing_leased(host, &format!("{what}: deleted after {reclaim}"));
        }
    });
}

#[test]
fn a_command_that_cannot_be_executed() {
    fails_after_the_hook("no such command", "no-command", |b| {
        b.edit(|c| c["process"]["args"] = json!(["/nonexistent"]))
    });
}

#[test]
fn a_later_hook_that_fails() {
    fails_after_the_hook("a later prestart hook fails", "later-prestart", |b| b.hook("prestart", "/bin/false"));
    fails_after_the_hook("a createContainer hook fails", "later-create", |b| b.hook("createContainer", "/bin/false"));
}

#[test]
fn poststop_twice_and_for_nobody() {
    let host = host("poststop");
    let quiet = |what: &str, out: run::Output| {
        let out = out.ok();
        assert!(out.stdout.is_empty() && out.stderr.is_empty(), "{what}: should be silent: {out}");
    };
    quiet("an unknown id", host.poststop("nobody"));
    let ns = Ns::net_only("poststop");
    quiet("prestart", host.prestart("somebody", ns.pid(), &[("portslice/ports", "31000")]));
    for round in 1..=3 {
        quiet(&format!("poststop, round {round}"), host.poststop("somebody"));
        assert_bare(&format!("poststop, round {round}"), &ns);
    }
    quiet(
        "crun's pid 0",
        host.hook("portslice-poststop", json!({"id": "x", "pid": 0, "status": "stopped"}).to_string()),
    );
    // late: the namespace is gone, and so is its device
    quiet("prestart", host.prestart("late", ns.pid(), &[]));
    ns.kill();
    assert!(eventually(|| host.links() == ["eth0", "lo"]), "devices {:?}", host.links());
    quiet("a late poststop", host.poststop("late"));
    assert_nothing_leased(&host, "after all");
    let unprepared = Host::with("poststop-unprepared").unprepared().build();
    quiet("a host that was never prepared", unprepared.poststop("nobody"));
    assert!(!unprepared.state_dir().exists(), "poststop for an unknown id made {:?}", unprepared.state_dir());
}

// ---- network namespaces

#[track_caller]
fn assert_not_started(
    host: &Host,
    runtime: &Runtime,
    program: &str,
    bundle: &Bundle,
    code: Option<i32>,
    says: &[&str],
) {
    let what = format!("{program}, {}", bundle.id);
    let still = Still::of(host);
    let before = log(host);
    let out = runtime.run(bundle);
    assert!(out.code.is_some_and(|c| c != 0), "{what}: should not start: {out}");
    assert!(!out.stdout.contains("started"), "{what}: the program ran: {out}");
    still.check_all(&what);
    let logged = log(host)[before.len()..].to_string();
    // poststop, which runc calls, has nothing to say
    assert_eq!(logged.lines().count(), 1, "{what}: the log should have one line:\n{logged}");
    for text in says {
        assert!(logged.contains(text), "{what}: the log should say {text:?}:\n{logged}");
        if program == "runc" {
            assert!(out.stderr.contains(text), "{what}: runc should show {text:?}: {out}");
        }
    }
    if let (Some(code), "runc") = (code, program) {
        assert!(out.stderr.contains(&format!("exit status {code}")), "{what}: the hook's exit code: {out}");
        assert_eq!(out.stderr.matches("portslice-prestart: ").count(), 1, "{what}: said once: {out}");
    }
    let state = runtime.call(&["state", &bundle.id]);
    assert!(state.code != Some(0), "{what}: the runtime still knows it: {state}");
}

#[test]
fn a_container_in_the_hosts_namespace() {
    in_both("host-net", |host, runtime, program| {
        let path = host.ns.path();
        for (name, network) in [("without", Network::Host), ("by-path", Network::Path(&path))] {
            let bundle = Bundle::new(host, name, &["echo", "started"]).sliced().network(network);
            let says = ["no network namespace of its own", "--network none", &bundle.id];
            assert_not_started(host, runtime, program, &bundle, Some(5), &says);
        }
    });
}

#[test]
fn annotations_that_are_refused() {
    in_both("annotations", |host, runtime, program| {
        let _holder = host.bare("holder", &["--ports", "31100"]);
        for (name, key, value, code, says) in [
            ("misspelt", "portslice/prots", "31000", 2, "did you mean ports"),
            ("underscore", "portslice/ephemeral_ports", "1024", 2, "did you mean ephemeral-ports"),
            ("unknown", "portslice/colour", "blue", 2, "unknown key"),
            ("outside", "portslice/ports", "80", 2, "31000-31999"),
            ("taken", "portslice/ports", "31100", 4, "holder"),
            ("size", "portslice/ephemeral-ports", "1000", 2, "power of two"),
            ("large", "portslice/ephemeral-ports", "32768", 2, "16384"),
            ("flag", "portslice/host-loopback", "perhaps", 2, "perhaps"),
        ] {
            let bundle = Bundle::new(host, name, &["echo", "started"]).sliced().annotation(key, value);
            assert_not_started(host, runtime, program, &bundle, Some(code), &[says]);
        }
    });
}

#[test]
fn annotations_that_are_granted() {
    in_both("granted", |host, runtime, program| {
        let echo = Echo::start(&host.ns, Proto::Tcp, SocketAddr::new(LO4, PEER_PORT));
        for (loopback, reached) in [("true", true), ("false", false)] {
            let bundle = Bundle::new(host, loopback, &["sleep", "1000"]).sliced();
            let bundle = bundle.annotation("portslice/ports", "31000-31002,31100,auto:2");
            let bundle = bundle.annotation("portslice/ephemeral-ports", "2048");
            let running_bundle = bundle.annotation("portslice/host-loopback", loopback);
            let running = runtime.start(&running_bundle);
            let lease = lease(host, &running.id);
            let (ports, block) = (container::ports_of(lease["ports"].as_str().expect("ports")), block(&lease));
            assert_eq!(ports.len(), 6, "{program}: {lease}");
            assert!([31_000, 31_001, 31_002, 31_100].iter().all(|p| ports.contains(p)), "{program}: {lease}");
            assert_eq!((block.end() - block.start() + 1, block.start() % 2048), (2048, 0), "{program}: {lease}");
            let served = echo.served();
            let out = running.exec(&["sh", "-c", "echo hello | nc -w 1 127.0.0.1 20000"]);
            let what = format!("{program}: the host's loopback with host-loopback = {loopback}");
            assert_eq!((out.stdout.contains("hello"), echo.served() > served), (reached, reached), "{what}: {out}");
            running.delete().ok();
            assert_nothing_leased(host, program);
        }
    });
}

#[test]
fn a_namespace_prepared_beforehand() {
    in_both("path", |host, runtime, program| {
        let ns = Ns::net_only("prepared beforehand");
        ns.ip("link set lo down");
        for round in 1..=2 {
            let what = format!("{program}, round {round}");
            let bundle = serving(host, "web").sliced().network(Network::Path(&ns.path()));
            let running = runtime.start(&bundle.annotation("portslice/ports", "31000-31001"));
            assert_served(&what, &host.peer, HOST4, 31_000);
            assert_served(&what, &host.peer, HOST6, 31_001);
            running.exec(&["nc", "-w", "1", "127.0.0.1", "31000", "-e", "true"]).ok();
            running.delete().ok();
            // the namespace is somebody else's and lives on: its slice waits for the next container, ports and all
            let left = host.list();
            assert_eq!(left.len(), 1, "{what}: {left:?}");
            assert_eq!(left[0]["members"].as_array().map(Vec::len), Some(0), "{what}: {left:?}");
            assert_eq!(left[0]["ports"], "31000-31001", "{what}: {left:?}");
            let other = host.try_bare("other", &["--ports", "31000"]).err().expect("a port of the slice");
            assert_eq!(other.code, Some(4), "{what}: {other}");
        }
        host.portslice(["detach", host.ids()[0].as_str()]).ok();
        assert_nothing_leased(host, program);
        assert_bare(program, &ns);
        // nothing is steered there any more
        let _echo = Echo::start(&host.ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 31_000));
        assert_reaches("the host's own 31000", &host.peer, Proto::Tcp, SocketAddr::new(HOST4, 31_000));
    });
}

#[test]
fn sysctls_of_the_bundle() {
    in_both("sysctl", |host, runtime, program| {
        let bundle = Bundle::new(host, "sysctl", &["sleep", "1000"]).sliced();
        let wanted = json!({"net.ipv4.tcp_keepalive_time": "77", "net.ipv4.ip_unprivileged_port_start": "80",
            "net.core.somaxconn": "99"});
        let bundle = bundle.edit(|c| c["linux"]["sysctl"] = wanted.clone());
        let running = runtime.start(&bundle);
        for (key, value) in wanted.as_object().unwrap() {
            let file = format!("/proc/sys/{}", key.replace('.', "/"));
            let seen = running.exec(&["cat", &file]).ok().stdout;
            assert_eq!(seen.trim(), value.as_str().unwrap(), "{program}: {key} of the bundle");
        }
        let block = block(&lease(host, &running.id));
        let range = running.exec(&["cat", "/proc/sys/net/ipv4/ip_local_port_range"]).ok().stdout;
        let range: Vec<u64> = range.split_whitespace().map(|n| n.parse().unwrap()).collect();
        assert_eq!(range, [*block.start(), *block.end()], "{program}: ip_local_port_range");
        running.delete().ok();
        assert_nothing_leased(host, program);
    });
}

#[test]
fn containers_that_die_and_come_back() {
    in_both("again", |host, runtime, program| {
        let bundle = serving(host, "web").sliced().annotation("portslice/ports", "31000-31001");
        let mut first = None;
        for round in 1..=3 {
            let running = runtime.start(&bundle);
            assert_served(&format!("{program}, round {round}"), &host.peer, HOST4, 31_000);
            let block = block(&lease(host, &running.id));
            assert_eq!(*first.get_or_insert(block.clone()), block, "{program}, round {round}: the block it had before");
            running.delete().ok();
            assert_nothing_leased(host, &format!("{program}, round {round}"));
        }
    });
}
