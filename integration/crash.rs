//! Promise: a verb killed at any step leaves nothing that the next one does not finish or take back, and verbs may race.

use crate::lab::leftovers::Baseline;
use crate::lab::probe::assert_reaches;
use crate::lab::still::{assert_bare, released};
use crate::lab::wait::eventually;
use crate::lab::*;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

const PORT: u16 = 31_000;

/// The system calls that change something, and how many of each kind are left out between two kills.
type Steps = [(&'static str, usize)];

/// Runs a command under strace, which does `inject` to its system calls of a kind.
fn injected(host: &Host, call: &str, inject: &str, argv: &[&str], input: &str) -> run::Output {
    let program = host::binary(argv[0].as_ref());
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{inject}"));
    let strace = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", &trace, "-e", &inject].map(OsString::from);
    let rest = argv[1..].iter().map(OsString::from);
    host.fed(&strace.into_iter().chain([program.into()]).chain(rest).collect::<Vec<_>>(), input)
}

/// Runs a command that is killed when it makes its nth system call of a kind; false when it ended before that by itself.
/// The signal comes when the call is entered, so the call itself is not made.
fn killed(host: &Host, call: &str, n: usize, argv: &[&str], input: &str) -> bool {
    let out = injected(host, call, &format!("signal=SIGKILL:when={n}"), argv, input);
    assert!(matches!(out.code, None | Some(0)), "{argv:?}, killed at {call} {n}: {out}");
    out.code.is_none()
}

/// Kills `run` at every step and calls `then` after each time, until it ends by itself. Returns how often it was killed.
fn at_every_step(steps: &Steps, mut run: impl FnMut(&str, usize) -> bool, mut then: impl FnMut(&str, usize)) -> usize {
    let mut kills = 0;
    for (call, stride) in steps {
        for n in (1..).step_by(*stride) {
            let died = run(call, n);
            then(&format!("killed at {call} {n}"), kills);
            if !died {
                break;
            }
            kills += 1;
            assert!(n < 500, "{call} never ends");
        }
    }
    kills
}

/// A UDP server on the host's own port: reached only when nothing is steered there any more.
#[track_caller]
fn assert_not_steered(host: &Host, what: &str) {
    let echo = Echo::start(&host.ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), PORT));
    assert_reaches(&format!("{what}: the host's own {PORT}"), &host.peer, Proto::Udp, SocketAddr::new(HOST4, PORT));
    assert_eq!(echo.served(), 1, "{what}: who answered");
    drop(echo);
    released(&host.ns, PORT);
}

#[track_caller]
fn assert_steered(host: &Host, ns: &Ns, what: &str) {
    let echo = Echo::start(ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), PORT));
    assert_reaches(what, &host.peer, Proto::Udp, SocketAddr::new(HOST4, PORT));
    assert_eq!(echo.served(), 1, "{what}: who answered");
}

/// A container that must not notice anything.
struct Neighbour {
    container: Container,
    echo: Echo,
}

impl Neighbour {
    fn on(host: &Host) -> Neighbour {
        let container = host.bare("neighbour", &["--ports", "31999"]);
        let echo = Echo::start(&container.ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), 31_999));
        Neighbour { container, echo }
    }

    #[track_caller]
    fn check(&self, host: &Host, what: &str) {
        let served = self.echo.served();
        assert_reaches(&format!("{what}: the neighbour"), &host.peer, Proto::Udp, SocketAddr::new(HOST4, 31_999));
        assert_eq!(self.echo.served(), served + 1, "{what}: who answered");
        let known = host.list().into_iter().find(|l| l["id"] == "neighbour");
        assert_eq!(known.as_ref(), Some(&self.container.lease), "{what}: the neighbour's lease");
    }
}

const ATTACH: &Steps =
    &[("sendto", 1), ("bpf", 1), ("rename", 1), ("write", 1), ("setns", 1), ("flock", 1), ("exit_group", 1)];

fn attach_killed(name: &str, argv: impl Fn(&Ns) -> (Vec<String>, String)) {
    let host = Host::new(name);
    let neighbour = Neighbour::on(&host);
    let ns = std::cell::RefCell::new(Ns::net_only("killed"));
    let kills = at_every_step(
        ATTACH,
        |call, n| {
            let (argv, input) = argv(&ns.borrow());
            killed(&host, call, n, &argv.iter().map(String::as_str).collect::<Vec<_>>(), &input)
        },
        |what, kills| {
            // a runtime takes the container down with its failed hook; the command line's namespace lives on
            let dies = kills % 2 == 0;
            if dies {
                ns.replace(Ns::net_only(&format!("after: {what}")));
                let reclaimed = || {
                    host.portslice(["gc"]).ok();
                    host.ids() == ["neighbour"]
                };
                assert!(eventually(reclaimed), "{what}: gc leaves {:?}", host.ids());
                assert_not_steered(&host, &format!("{what}, gc"));
            } else if kills % 4 == 1 {
                host.portslice(["gc"]).ok();
            }
            let now = ns.borrow();
            let pid = now.pid().to_string();
            host.portslice(["attach", "x", "--pid", &pid, "--ports", &PORT.to_string()]).ok();
            assert_steered(&host, &now, &format!("{what}, attached again"));
            neighbour.check(&host, what);
            host.portslice(["detach", "x"]).ok();
            assert_bare(&format!("{what}, detached"), &now);
            assert_not_steered(&host, &format!("{what}, detached"));
            assert_eq!(host.ids(), ["neighbour"], "{what}: leases");
        },
    );
    println!("{name}: {kills} kills");
    assert!(kills > 30, "only {kills} steps were found: is strace's injection at work?");
    let ours = || host.links().iter().filter(|l| l.starts_with("portslice")).count() == 1;
    assert!(eventually(ours), "devices: {:?}", host.links());
}

#[test]
fn a_prestart_hook_killed_at_every_step() {
    attach_killed("crash-prestart", |ns| {
        let state = hook::creating("x", ns.pid(), &[("portslice/ports", &PORT.to_string())]);
        (vec!["portslice-prestart".into()], state)
    });
}

#[test]
fn an_attach_killed_at_every_step() {
    attach_killed("crash-attach", |ns| {
        let (pid, port) = (ns.pid().to_string(), PORT.to_string());
        (["portslice", "attach", "x", "--pid", &pid, "--ports", &port].map(String::from).into(), String::new())
    });
}

#[test]
fn a_poststop_hook_killed_at_every_step() {
    const DETACH: &Steps =
        &[("sendto", 1), ("bpf", 1), ("rename", 1), ("write", 1), ("unlink", 1), ("setns", 1), ("flock", 1)];
    let host = Host::new("crash-poststop");
    let neighbour = Neighbour::on(&host);
    let ns = Ns::net_only("killed");
    let attach = || host.prestart("x", ns.pid(), &[("portslice/ports", &PORT.to_string())]).ok();
    let kills = at_every_step(
        DETACH,
        |call, n| {
            attach();
            killed(&host, call, n, &["portslice-poststop"], &hook::stopped("x"))
        },
        |what, kills| {
            match kills % 3 {
                0 => {
                    host.poststop("x").ok();
                }
                1 => {
                    // whether it was killed before or after it began, gc leaves a whole container or none
                    host.portslice(["gc"]).ok();
                    if host.ids() == ["neighbour", "x"] {
                        assert_steered(&host, &ns, what);
                        host.poststop("x").ok();
                    }
                }
                _ => {
                    attach();
                    assert_steered(&host, &ns, &format!("{what}, attached again"));
                    host.poststop("x").ok();
                }
            }
            assert_eq!(host.ids(), ["neighbour"], "{what}: leases");
            assert_not_steered(&host, what);
            assert_bare(what, &ns);
            neighbour.check(&host, what);
        },
    );
    println!("crash-poststop: {kills} kills");
    assert!(kills > 10, "only {kills} steps were found");
}

const PREPARE: &Steps =
    &[("sendto", 3), ("bpf", 3), ("rename", 1), ("write", 1), ("mkdir", 1), ("mount", 1), ("flock", 1), ("unlink", 1)];

/// The host works: a container is attached, reached, and detached.
#[track_caller]
fn assert_works(host: &Host, ns: &Ns, what: &str) {
    host.prestart("x", ns.pid(), &[("portslice/ports", &PORT.to_string())]).ok();
    assert_steered(host, ns, what);
    host.poststop("x").ok();
}

#[track_caller]
fn assert_as_before(host: &Host, before: &Baseline, what: &str) {
    let left = before.compare(&host.ns, &host.state_dir());
    assert!(left.is_empty(), "{what}: left behind:\n  {}", left.join("\n  "));
    assert!(!host.state_dir().exists(), "{what}: {:?} is still there", host.state_dir());
}

#[test]
fn a_setup_killed_at_every_step() {
    let host = Host::with("crash-setup").unprepared().build();
    let before = Baseline::of(&host.ns);
    let ns = Ns::net_only("after a killed setup");
    let kills = at_every_step(
        PREPARE,
        |call, n| killed(&host, call, n, &["portslice", "setup"], ""),
        |what, kills| {
            match kills % 3 {
                0 => {
                    host.portslice(["setup"]).ok();
                    assert_works(&host, &ns, what);
                }
                // the first attach prepares the host as well
                1 => assert_works(&host, &ns, what),
                _ => {}
            }
            host.portslice(["setup", "--undo"]).ok();
            assert_as_before(&host, &before, what);
        },
    );
    println!("crash-setup: {kills} kills");
    assert!(kills > 20, "only {kills} steps were found");
}

#[test]
fn an_undo_killed_at_every_step() {
    const UNDO: &Steps =
        &[("unlink", 1), ("write", 1), ("rename", 1), ("umount2", 1), ("rmdir", 1), ("unlinkat", 1), ("flock", 1)];
    let host = Host::with("crash-undo").unprepared().build();
    let before = Baseline::of(&host.ns);
    let ns = Ns::net_only("after a killed undo");
    let kills = at_every_step(
        UNDO,
        |call, n| {
            host.portslice(["setup"]).ok();
            killed(&host, call, n, &["portslice", "setup", "--undo"], "")
        },
        |what, kills| {
            match kills % 3 {
                0 => {}
                // somebody changes their mind
                1 => {
                    host.portslice(["setup"]).ok();
                    assert_works(&host, &ns, &format!("{what}, set up again"));
                }
                // or a container comes first
                _ => assert_works(&host, &ns, &format!("{what}, attached again")),
            }
            host.portslice(["setup", "--undo"]).ok();
            assert_as_before(&host, &before, what);
        },
    );
    println!("crash-undo: {kills} kills");
    assert!(kills > 6, "only {kills} steps were found");
}

// ---- races

/// Runs two closures at the same time.
fn both<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B) -> (A, B) {
    std::thread::scope(|s| {
        let a = s.spawn(a);
        let b = b();
        (a.join().expect("the other one"), b)
    })
}

#[test]
fn two_attaches_of_one_id() {
    let host = Host::new("race-attach");
    let (one, two) = (Ns::net_only("one"), Ns::net_only("two"));
    for round in 0..30 {
        let other = if round % 2 == 0 { &one } else { &two };
        let (a, b) = both(
            || host.prestart("x", one.pid(), &[("portslice/ports", "31000")]),
            || host.prestart("x", other.pid(), &[("portslice/ports", "31000")]),
        );
        let codes = [a.code, b.code];
        let fine = match round % 2 {
            0 => [[Some(0), Some(0)], [Some(0), Some(7)], [Some(7), Some(0)]].contains(&codes),
            _ => [[Some(0), Some(7)], [Some(7), Some(0)]].contains(&codes),
        };
        assert!(fine, "round {round}: {a}\n{b}");
        assert_eq!(host.ids(), ["x"], "round {round}");
        let (winner, loser) = if a.code == Some(0) { (&one, other) } else { (other, &one) };
        assert_steered(&host, winner, &format!("round {round}"));
        assert_eq!(host.links().len(), 3, "round {round}: {:?}", host.links());
        if winner.pid() != loser.pid() {
            assert_bare(&format!("round {round}: who lost"), loser);
        }
        host.poststop("x").ok();
        assert_bare(&format!("round {round}: after detach"), winner);
    }
}

#[test]
fn attach_and_detach_of_one_id() {
    let host = Host::new("race-detach");
    let ns = Ns::net_only("raced");
    let attach = || host.prestart("x", ns.pid(), &[("portslice/ports", "31000")]);
    for round in 0..40 {
        // half of the time it is attached already
        if round % 2 == 0 {
            attach().ok();
        }
        let nap = Duration::from_micros(round * 150);
        let (a, d) = both(attach, || {
            std::thread::sleep(nap);
            host.poststop("x")
        });
        assert!(matches!((a.code, d.code), (Some(0 | 7), Some(0 | 7))), "round {round}: {a}\n{d}");
        if host.ids() == ["x"] {
            assert_steered(&host, &ns, &format!("round {round}: leased after {:?} {:?}", a.code, d.code));
            host.poststop("x").ok();
        }
        assert_not_steered(&host, &format!("round {round}"));
        assert_bare(&format!("round {round}"), &ns);
        assert_eq!((host.ids().len(), host.links().len()), (0, 2), "round {round}: {:?}", host.links());
    }
}

#[test]
fn gc_while_containers_come() {
    let config = "ports = \"31000-31999\"\nephemeral_ports_per_container = 16\n";
    let host = Host::with("race-gc").config(config).build();
    let namespaces: Vec<Ns> = (0..60).map(|n| Ns::net_only(&format!("c{n}"))).collect();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::SeqCst) {
                    let out = host.portslice(["gc"]);
                    assert!(out.code == Some(0) && out.stdout.is_empty(), "gc took a live container: {out}");
                }
            });
        }
        for (n, ns) in namespaces.iter().enumerate() {
            host.prestart(&format!("c{n}"), ns.pid(), &[("portslice/ports", "auto:1")]).ok();
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    assert_eq!(host.ids().len(), namespaces.len(), "leases: {:?}", host.ids());
    assert_eq!(host.links().len(), namespaces.len() + 2, "devices");
    for (n, ns) in namespaces.iter().enumerate() {
        host.poststop(&format!("c{n}")).ok();
        assert_bare("after detach", ns);
    }
}

#[test]
fn setup_and_undo_while_containers_come() {
    let host = Host::new("race-setup");
    let ns = Ns::net_only("raced");
    for round in 0..40 {
        let nap = Duration::from_micros(round * 150);
        let (a, u) = both(
            || host.prestart("x", ns.pid(), &[("portslice/ports", "31000")]),
            || {
                std::thread::sleep(nap);
                host.portslice(["setup", "--undo"])
            },
        );
        // either the container was first, and undo says so, or undo was, and the container sets the host up again
        assert!(matches!(u.code, Some(0 | 7)), "round {round}: {u}");
        assert!(a.code.is_some_and(|c| c != 0) != (host.ids() == ["x"]), "round {round}: {a}\n{u}");
        if a.code == Some(0) {
            assert_steered(&host, &ns, &format!("round {round}: undo said {:?}", u.code));
        }
        host.poststop("x").ok();
        assert_bare(&format!("round {round}"), &ns);
        host.portslice(["setup"]).ok();
    }
    assert!(!Path::new("/etc/sysctl.d/50-portslice.conf").exists(), "a simulated host changed the machine's /etc");
}

/// What a verb knew when it began may be different when its turn comes: strace holds it back before it takes the lock.
#[test]
fn an_undo_that_is_overtaken_by_an_attach() {
    let host = Host::new("overtaken-undo");
    let ns = Ns::net_only("overtaking");
    for lock in 1..=3 {
        let inject = format!("delay_enter=500ms:when={lock}");
        let (undo, ()) = both(
            || injected(&host, "flock", &inject, &["portslice", "setup", "--undo"], ""),
            || {
                std::thread::sleep(Duration::from_millis(200));
                host.prestart("x", ns.pid(), &[("portslice/ports", "31000")]).ok();
            },
        );
        // it sees the container, or it was over before and the container set the host up again
        assert!(matches!(undo.code, Some(0 | 7)), "held back at lock {lock}: {undo}");
        assert_eq!(host.ids(), ["x"], "held back at lock {lock}: {undo}");
        assert_steered(&host, &ns, &format!("held back at lock {lock}, undo said {:?}", undo.code));
        host.poststop("x").ok();
    }
}

#[test]
fn an_attach_that_is_overtaken_by_an_undo() {
    let host = Host::new("overtaken-attach");
    let ns = Ns::net_only("overtaken");
    let state = hook::creating("x", ns.pid(), &[("portslice/ports", "31000")]);
    for again in [false, true] {
        let (attach, ()) = both(
            || injected(&host, "flock", "delay_enter=500ms:when=1", &["portslice-prestart"], &state),
            || {
                std::thread::sleep(Duration::from_millis(200));
                host.portslice(["setup", "--undo"]).ok();
                if again {
                    host.portslice(["setup"]).ok();
                }
            },
        );
        // it may say so, or make it work: nothing in between
        if attach.code == Some(0) {
            assert_eq!(host.ids(), ["x"], "set up again: {again}");
            assert_steered(&host, &ns, &format!("set up again: {again}"));
            host.poststop("x").ok();
        } else {
            assert_eq!(host.ids(), [""; 0], "set up again: {again}");
            assert_eq!(attach.stderr.lines().count(), 1, "set up again: {again}: {attach}");
        }
        assert_bare(&format!("set up again: {again}"), &ns);
        host.prestart("x", ns.pid(), &[("portslice/ports", "31000")]).ok();
        assert_steered(&host, &ns, "attached once more");
        host.poststop("x").ok();
    }
}

#[test]
fn two_containers_want_one_port() {
    let host = Host::new("race-port");
    let (one, two) = (Ns::net_only("one"), Ns::net_only("two"));
    for round in 0..20 {
        let ask = |id: &str, ns: &Ns| host.prestart(id, ns.pid(), &[("portslice/ports", "31000")]);
        let (a, b) = both(|| ask("a", &one), || ask("b", &two));
        let mut codes = [a.code, b.code];
        codes.sort();
        assert_eq!(codes, [Some(0), Some(4)], "round {round}: {a}\n{b}");
        let (winner, id) = if a.code == Some(0) { (&one, "a") } else { (&two, "b") };
        assert_eq!(host.ids(), [id], "round {round}");
        assert_steered(&host, winner, &format!("round {round}"));
        host.poststop(id).ok();
    }
}

#[test]
fn the_first_containers_of_a_boot_come_together() {
    let host = Host::with("race-first").unprepared().build();
    let namespaces: Vec<Ns> = (0..8).map(|n| Ns::net_only(&format!("c{n}"))).collect();
    for round in 0..5 {
        std::thread::scope(|s| {
            for (n, ns) in namespaces.iter().enumerate() {
                let host = &host;
                s.spawn(move || host.prestart(&format!("c{n}"), ns.pid(), &[("portslice/ports", "auto:1")]).ok());
            }
        });
        assert_eq!(host.ids().len(), namespaces.len(), "round {round}: {:?}", host.ids());
        for lease in host.list() {
            let n: usize = lease["id"].as_str().unwrap()[1..].parse().unwrap();
            let port = container::ports_of(lease["ports"].as_str().unwrap())[0];
            let _echo = Echo::start(&namespaces[n], Proto::Udp, SocketAddr::new(probe::any(HOST4), port));
            assert_reaches(&format!("round {round}: c{n}"), &host.peer, Proto::Udp, SocketAddr::new(HOST4, port));
            host.poststop(&format!("c{n}")).ok();
        }
        host.portslice(["setup", "--undo"]).ok();
    }
}

#[test]
fn a_damaged_index_is_rebuilt() {
    let host = Host::new("crash-index");
    let held: Vec<Container> = ["a", "b"].map(|id| host.bare(id, &["--ports", "auto:2"])).into();
    let index = host.state_dir().join("index");
    for damage in [None, Some(""), Some("portslice-index 1 0 0 0"), Some("\0\u{1}"), Some("portslice-index 9 1 1 1\n")]
    {
        match damage {
            None => std::fs::remove_file(&index).expect("index"),
            Some(text) => std::fs::write(&index, text).expect("index"),
        }
        let new = host.bare("new", &["--ports", "auto:2"]);
        for old in &held {
            assert!(
                old.block.end() < new.block.start() || new.block.end() < old.block.start(),
                "index {damage:?}: block {:?} was given out again",
                old.block
            );
            assert!(old.ports.iter().all(|p| !new.ports.contains(p)), "index {damage:?}: {:?} again", old.ports);
        }
        assert_eq!(host.ids(), ["a", "b", "new"], "index {damage:?}");
        new.detach();
        new.kill();
        assert!(eventually(|| host.links().len() == 4), "index {damage:?}: devices {:?}", host.links());
    }
}

/// A number the kernel gives out again must not make a verb take one namespace for another.
#[test]
fn a_late_poststop_does_not_touch_the_next_tenant() {
    let host = Host::new("crash-late");
    let inode = |ns: &Ns| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(ns.path()).expect("namespace"));
    let first = Ns::net_only("first");
    host.prestart("first", first.pid(), &[]).ok();
    let number = inode(&first);
    first.kill();
    assert!(eventually(|| host.links() == ["eth0", "lo"]), "devices {:?}", host.links());
    let mut others = Vec::new();
    let next = loop {
        let ns = Ns::net_only("next");
        if inode(&ns) == number {
            break ns;
        }
        others.push(ns);
        if others.len() > 300 {
            // others run at the same time and may have been given the number
            println!("the namespace's number was not given out again: nothing was tested");
            return;
        }
    };
    host.prestart("next", next.pid(), &[("portslice/ports", "31000")]).ok();
    let echo = Echo::start(&host.ns, Proto::Tcp, SocketAddr::new(LO4, 20_000));
    for (what, end) in [("poststop", true), ("gc", false)] {
        if end {
            host.poststop("first").ok();
        } else {
            host.portslice(["gc"]).ok();
        }
        assert_eq!(host.ids(), ["next"], "{what}");
        assert_steered(&host, &next, what);
        assert_reaches(&format!("{what}: the host's loopback"), &next, Proto::Tcp, echo.at);
    }
}
