//! Promise: verbs at the same time are as if they came one after the other, and nobody waits without an end: not for a
//! process that was stopped, and not for a file that never ends.

use crate::lab::host::binary;
use crate::lab::leftovers::Baseline;
use crate::lab::probe::assert_reaches;
use crate::lab::race::both;
use crate::lab::run::Output;
use crate::lab::still::Still;
use crate::lab::*;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// A host that is prepared, or is not, can be served either way.
#[track_caller]
fn serves(host: &Host, ns: &Ns, what: &str) {
    host.portslice(["attach", "x", "--pid", &ns.pid().to_string(), "--ports", "31000"]).ok();
    let echo = Echo::start(ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), 31_000));
    assert_reaches(what, &host.peer, Proto::Udp, SocketAddr::new(HOST4, 31_000));
    drop(echo);
    host.portslice(["detach", "x"]).ok();
}

#[test]
fn setup_and_its_undoing_at_once_leave_a_whole_host() {
    let host = Host::with("lock-undo").unprepared().build();
    let (before, ns) = (Baseline::of(&host.ns), Ns::net_only("after the race"));
    for round in 0..if long() { 100u64 } else { 20 } {
        let nap = Duration::from_micros((round % 20) * 700);
        if round % 2 == 0 {
            host.portslice(["setup"]).ok();
        }
        let (undo, setup) = both(
            || host.portslice(["setup", "--undo"]),
            || {
                std::thread::sleep(nap);
                host.portslice(["setup"])
            },
        );
        let what = format!("round {round}: undo {:?}, setup {:?}", undo.code, setup.code);
        assert!(undo.code == Some(0) && setup.code == Some(0), "{what}: {undo}\n{setup}");
        let there = host.state_dir().join("host.json").exists();
        let sysctls = [host.ns.sysctl("ipv4/conf/lo/accept_local"), host.ns.sysctl("ipv4.ip_local_reserved_ports")];
        if there {
            assert!(!sysctls[1].is_empty(), "{what}: recorded, and {sysctls:?}");
            serves(&host, &ns, &what);
        } else {
            assert_eq!(sysctls, ["0", ""], "{what}: not recorded, and not as before");
        }
        host.portslice(["setup", "--undo"]).ok();
        if round % 10 == 9 || !there {
            let left = before.compare(&host.ns, &host.state_dir());
            assert!(left.is_empty(), "{what}, undone: left behind:\n  {}", left.join("\n  "));
        }
        assert!(!host.state_dir().exists(), "{what}, undone: {:?} is still there", host.state_dir());
    }
}

/// What an attach knew of the host when it began is older than what another one wrote meanwhile.
#[test]
fn older_facts_do_not_overwrite_newer_ones() {
    let host = Host::new("lock-facts");
    let (slow, quick) = (Ns::net_only("slow"), Ns::net_only("quick"));
    let slow_pid = slow.pid().to_string();
    let far = Echo::start(&host.peer, Proto::Tcp, SocketAddr::new(FAR4, 20_000));
    host.peer.ip("addr add 10.77.0.9/24 dev wire");
    // held back where the data path is opened, which is after the facts were read
    let (attached, ()) = both(
        || {
            let delay = "delay_enter=2500ms:when=1";
            kill::injected(&host, "statfs", delay, &["portslice", "attach", "slow", "--pid", &slow_pid], "")
        },
        || {
            std::thread::sleep(Duration::from_millis(1200));
            // the gateway moves, and nobody answers for the old one any more
            host.ns.ip("route replace default via 10.77.0.9 dev eth0\nneigh flush dev eth0");
            host.peer.ip("addr del 10.77.0.1/24 dev wire\naddr add 10.77.0.9/24 dev wire");
            host.portslice(["attach", "quick", "--pid", &quick.pid().to_string()]).ok();
            assert_reaches("by the new gateway", &quick, Proto::Tcp, far.at);
        },
    );
    attached.ok();
    host.ns.ip("neigh flush dev eth0");
    for ns in [&quick, &slow] {
        assert_reaches("after the older attach went on", ns, Proto::Tcp, far.at);
    }
    host.portslice(["detach", "slow"]).ok();
    host.portslice(["detach", "quick"]).ok();
    host.ns.ip("route replace default via 10.77.0.1 dev eth0");
}

/// A process that holds the ledger's lock and has been stopped.
struct Stopped(Child);

impl Stopped {
    fn on(host: &Host) -> Stopped {
        let lock = host.state_dir().join("lock");
        let mut command = host.command(["flock", &lock.to_string_lossy(), "cat"]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("flock");
        let pid = child.id().to_string();
        let held =
            || std::fs::read_to_string("/proc/locks").is_ok_and(|t| t.lines().any(|l| l.contains(&format!(" {pid} "))));
        assert!(wait::eventually(held), "flock does not hold the lock");
        // SAFETY: a child of ours.
        unsafe { libc::kill(child.id() as i32, libc::SIGSTOP) };
        Stopped(child)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // its own child ends with the pipe
        self.0.stdin.take();
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_stopped_holder_of_the_lock_is_named_after_ten_seconds() {
    let host = Host::new("lock-held");
    let one = host.bare("one", &["--ports", "31000"]);
    let (still, spare) = (Still::of(&host), Ns::net_only("spare"));
    let holder = Stopped::on(&host);
    let (name, pid) = (format!("process {} (flock)", holder.0.id()), spare.pid().to_string());
    let verbs: [&[&str]; 5] = [
        &["attach", "two", "--pid", &pid],
        &["detach", "one"],
        &["set", "one", "--egress-rate", "8mbit"],
        &["setup"],
        &["setup", "--undo"],
    ];
    let mut waiting: Vec<Output> = Vec::new();
    std::thread::scope(|s| {
        let host = &host;
        let all: Vec<_> = verbs.iter().map(|args| s.spawn(move || host.portslice(*args))).collect();
        waiting.extend(all.into_iter().map(|thread| thread.join().expect("a verb that ends")));
    });
    for out in &waiting {
        assert_eq!(out.code, Some(7), "`{}`: {out}", out.line);
        assert!(out.stderr.contains(&name), "`{}` should name {name}: {out}", out.line);
        assert_eq!(out.stderr.lines().count(), 1, "`{}`: {out}", out.line);
        assert!((9..15).contains(&out.took.as_secs()), "`{}` took {:?}", out.line, out.took);
    }
    // what needs no decision goes on
    host.portslice(["stats", "one"]).ok();
    drop(holder);
    still.check("after the wait");
    one.detach();
}

fn fifo(path: PathBuf) -> PathBuf {
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    path
}

/// Refused in one line that names the file, at once.
#[track_caller]
fn refused_at_once(what: &str, out: &Output, path: &Path) {
    assert!(out.code.is_some_and(|code| code != 0), "{what}: {out}");
    assert_eq!(out.stderr.lines().count(), 1, "{what}: {out}");
    assert!(out.stderr.contains(&*path.to_string_lossy()), "{what}: should name {}: {out}", path.display());
    assert!(out.took < Duration::from_secs(5), "{what}: took {:?}", out.took);
}

/// Runs a verb that may hang, and says so before the harness loses its patience.
fn bounded(host: &Host, args: &[&str], input: &str, more: Option<(&str, &Path)>) -> Output {
    let program = binary(args[0].as_ref()).to_string_lossy().into_owned();
    let mut command = host.command([&["timeout", "5", &program], &args[1..]].concat());
    command.envs(more);
    run::run_with_input(&mut command, Some(input), Duration::from_secs(20))
}

#[test]
fn a_fifo_is_refused_at_once_wherever_a_file_is_expected() {
    let host = Host::new("lock-fifo");
    let (still, spare) = (Still::of(&host), Ns::net_only("spare"));
    let dir = host.dir.join("bundle");
    std::fs::create_dir(&dir).expect("bundle");
    let [bundle, config, netns] = ["bundle/config.json", "fifo.toml", "netns"].map(|name| fifo(host.dir.join(name)));

    let state = format!(
        r#"{{"ociVersion":"1.0.2","id":"x","status":"creating","pid":{},"bundle":"{}"}}"#,
        spare.pid(),
        dir.display()
    );
    refused_at_once("the bundle", &bounded(&host, &["portslice-prestart"], &state, None), &bundle);
    let by_env = bounded(&host, &["portslice", "list"], "", Some(("PORTSLICE_CONFIG", &config)));
    refused_at_once("the configuration", &by_env, &config);
    let by_option = bounded(&host, &["portslice", "--config", &config.to_string_lossy(), "gc"], "", None);
    refused_at_once("the configuration", &by_option, &config);
    let attach = ["portslice", "attach", "x", "--netns", &netns.to_string_lossy()];
    refused_at_once("the namespace", &bounded(&host, &attach, "", None), &netns);
    still.check("after all");
    still::assert_bare("after all", &spare);
}

#[test]
fn a_namespace_of_another_kind_is_refused_in_words() {
    let host = Host::new("lock-kind");
    let still = Still::of(&host);
    for kind in ["mnt", "uts", "pid", "cgroup"] {
        let path = format!("/proc/self/ns/{kind}");
        let out = host.portslice(["attach", "x", "--netns", &path]);
        refused_at_once(kind, &out, Path::new(&path));
        assert!(out.stderr.contains("not a network namespace"), "{kind}: {out}");
        assert!(!out.stderr.contains("os error"), "{kind}: a bare errno: {out}");
        still.check(kind);
    }
}

#[test]
fn a_foreign_byte_in_the_journal_spoils_its_own_line_alone() {
    use std::io::Write;
    let host = Host::new("lock-journal");
    let journal = host.state_dir().join("finished");
    for id in ["first", "second"] {
        host.bare(id, &[]).detach();
        let mut file = std::fs::OpenOptions::new().append(true).open(&journal).expect("journal");
        file.write_all(b"\xff\xfe\x80 no line of ours\n").expect("journal");
    }
    let out = host.portslice(["stats", "--finished", "--json"]).ok();
    let ids: Vec<String> =
        out.json().as_array().unwrap().iter().map(|one| one["container_id"].as_str().unwrap().into()).collect();
    assert_eq!(ids, ["first", "second"]);
    let table = host.portslice(["stats", "--finished"]).ok();
    assert!(table.stdout.contains("first") && table.stdout.contains("second"), "{table}");
}

/// A detach decides that the slice ends with its only member, and another one joins before it ends.
#[test]
fn a_slice_that_is_joined_while_it_is_to_end_goes_on() {
    let host = Host::new("lock-joined");
    let ns = Ns::net_only("pod");
    let pid = ns.pid().to_string();
    host.portslice(["attach", "one", "--pid", &pid, "--ports", "31000"]).ok();
    let (detach, ()) = both(
        || kill::injected(&host, "flock", "delay_enter=1500ms:when=2", &["portslice", "detach", "one"], ""),
        || {
            std::thread::sleep(Duration::from_millis(700));
            host.portslice(["attach", "two", "--pid", &pid, "--ports", "31001"]).ok();
        },
    );
    detach.ok();
    let _echo = Echo::start(&ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 31_001));
    assert_reaches("joined in time", &host.peer, Proto::Tcp, SocketAddr::new(HOST4, 31_001));
    let members: Vec<_> = host.list().iter().map(|slice| slice["members"].clone()).collect();
    assert!(members.len() == 1 && members[0].to_string().contains("two"), "{members:?}");
    assert!(!members[0].to_string().contains("\"id\":\"one\""), "{members:?}");
    host.portslice(["detach", "two"]).ok();
    assert_eq!(host.ids(), [""; 0]);
    still::assert_bare("both detached", &ns);
}
