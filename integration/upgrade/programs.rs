//! Other programs under running containers, and back.

use super::*;
use crate::lab::bulk::Running;
use crate::lab::kill::injected;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Runs `during` while a container comes and goes, attached by `build`; returns how often it came.
fn while_attaching(host: &Host, build: &Build, port: u16, during: impl FnOnce()) -> u32 {
    let (over, count) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                let (ns, id) = (Ns::net_only("comes and goes"), format!("x{port}"));
                let (pid, port) = (ns.pid().to_string(), port.to_string());
                build.run(host, &["attach", &id, "--pid", &pid, "--ports", &port]).ok();
                build.run(host, &["detach", &id]).ok();
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(during));
        over.store(true, Ordering::SeqCst);
        done.unwrap_or_else(|e| std::panic::resume_unwind(e));
    });
    count.into_inner()
}

#[test]
fn are_replaced_under_connections_and_attaches_in_both_directions() {
    let (this, other) = (Build::this(), Build::other());
    let host = Host::new("upgrade");
    let mut busy = Busy::on(&host, if long() { 50 } else { 4 });
    let stream = Running::start(&host.peer, &busy.containers[0].ns, SocketAddr::new(HOST4, 31_000));
    let before = (ids(&host, "prog"), ids(&host, "map"));
    for (round, build) in [("to the other version", &other), ("back", &this), ("and there again", &other)] {
        let came = while_attaching(&host, build, 31_100, || {
            for _ in 0..3 {
                build.setup(&host);
                busy.lives(round);
            }
        });
        assert!(came > 0, "{round}: nobody was attached meanwhile");
        assert_eq!(stale(&host, &busy.containers), [] as [String; 0], "{round}");
        busy.lives(round);
        busy.reached(&host, round);
        busy.lost_nothing(&host, build, round);
    }
    assert!(stream.finish() > 0);
    assert_eq!(ids(&host, "map"), before.1, "the maps are the same");
    let new = |(now, then): (&(String, u64), &(String, u64))| now.0 == then.0 && now.1 != then.1;
    assert!(ids(&host, "prog").iter().zip(&before.0).all(new), "every program is another one");
    other.setup(&host);
    this.setup(&host);
}

#[test]
fn of_two_versions_that_start_containers_at_once_none_refuses() {
    let (this, other) = (Build::this(), Build::other());
    let host = Host::new("upgrade-both");
    let mut busy = Busy::on(&host, 2);
    while_attaching(&host, &this, 31_100, || {
        while_attaching(&host, &other, 31_101, || {
            for build in [&other, &this, &other] {
                build.setup(&host);
                busy.lives("two versions at once");
            }
        });
    });
    other.setup(&host);
    assert_eq!(stale(&host, &busy.containers), [] as [String; 0]);
    busy.lost_nothing(&host, &other, "two versions at once");
    this.setup(&host);
}

#[test]
fn that_the_kernel_refuses_leave_those_that_work() {
    let (this, other) = (Build::this(), Build::other());
    let host = Host::new("upgrade-refused");
    let mut busy = Busy::on(&host, 1);
    let before = (ids(&host, "prog"), ids(&host, "map"), ids(&host, "link"));
    let program = other.0.to_string_lossy().into_owned();
    let mut refused = 0;
    // Some of its calls are made in vain by any version: what the kernel can do is found out by trying.
    for n in (1..400).step_by(23) {
        let out = injected(&host, "bpf", &format!("error=ENOMEM:when={n}"), &[&program, "setup"], "");
        refused += usize::from(out.code != Some(0));
        busy.lives(&format!("refused at {n}"));
        let attached = host.bare("new", &["--ports", "31100"]);
        attached.detach();
        if out.code != Some(0) {
            assert_eq!((ids(&host, "map"), ids(&host, "link")), (before.1.clone(), before.2.clone()), "refused at {n}");
        }
        this.setup(&host);
    }
    assert!(refused > 3, "only {refused} were refused");
    other.setup(&host);
    assert_eq!(stale(&host, &busy.containers), [] as [String; 0]);
    busy.lost_nothing(&host, &other, "refused");
    this.setup(&host);
}

#[test]
fn are_replaced_by_the_next_setup_when_one_is_killed() {
    let (this, other) = (Build::this(), Build::other());
    let host = Host::new("upgrade-killed");
    let mut busy = Busy::on(&host, 1);
    let program = other.0.to_string_lossy().into_owned();
    let mut killed = 0;
    for n in (1..40).step_by(2) {
        let out = injected(&host, "rename,renameat2", &format!("signal=SIGKILL:when={n}"), &[&program, "setup"], "");
        busy.lives(&format!("killed at {n}"));
        other.setup(&host);
        assert_eq!(stale(&host, &busy.containers), [] as [String; 0], "killed at {n}");
        busy.lives(&format!("killed at {n}, then finished"));
        this.setup(&host);
        if out.code == Some(0) {
            break;
        }
        killed += 1;
    }
    assert!(killed > 4, "killed only {killed} times");
    busy.lost_nothing(&host, &this, "killed");
}
