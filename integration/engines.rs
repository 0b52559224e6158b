//! Promise: whichever engine runs a container, and by whichever door it came to its slice: nothing is left however it ends; what
//! the engine starts again has block and ports as before; and what else a person asks of the engine works, or is refused in one
//! line.

mod docker;
mod podman;

use crate::lab::run::Output;
use crate::lab::wait::eventually;
use crate::lab::*;
use crate::shim::{assert_gone, assert_works, log};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::os::unix::fs::MetadataExt;

/// An engine whose client is called as Docker's is, and one way to a slice.
struct Door<'a> {
    /// What it is called when a test fails.
    what: String,
    host: &'a Host,
    /// Starts a container that has this port, and sleeps. Further options may name another network.
    start: &'a dyn Fn(&str, u16, &[&str]) -> Output,
    /// Starts one that asks for nothing, with these options: whatever keeps that from starting is none of ours.
    plain: &'a dyn Fn(&str, &[&str]) -> Output,
    /// Any other command of the client.
    call: &'a dyn Fn(&[&str]) -> Output,
    /// The command that ends and removes a container at once, but for its name.
    rm: &'a [&'a str],
}

impl Door<'_> {
    /// The first process of a container; 0 while it has none.
    fn pid(&self, name: &str) -> u32 {
        let out = (self.call)(&["inspect", "--format", "{{.State.Pid}}", name]);
        out.stdout.trim().parse().unwrap_or(0)
    }

    /// Ends and removes a container, if it is there.
    fn try_remove(&self, name: &str) -> Output {
        (self.call)(&[self.rm, &[name]].concat())
    }

    /// Ends and removes a container. Podman finds files of one in use for a moment while its own clean-up of that runs.
    #[track_caller]
    fn remove(&self, name: &str) {
        let mut out = self.try_remove(name);
        let busy = |out: &Output| out.stderr.contains("device or resource busy");
        eventually(|| {
            if busy(&out) {
                out = self.try_remove(name);
            }
            !busy(&out)
        });
        out.ok();
    }

    /// The lease of a container that runs, and answers at its port.
    #[track_caller]
    fn working(&self, how: &str, name: &str, port: u16) -> Value {
        let (what, pid) = (format!("{}, {how}", self.what), self.pid(name));
        let netns = std::fs::metadata(format!("/proc/{pid}/ns/net")).map(|namespace| namespace.ino());
        let netns = netns.unwrap_or_else(|e| panic!("{what}: {name}, process {pid}: {e}"));
        let all = self.host.list();
        let lease = all.iter().find(|lease| lease["netns_id"]["ino"] == netns).cloned();
        let lease = lease.unwrap_or_else(|| panic!("{what}: {name} has no slice: {all:?}; log:\n{}", log(self.host)));
        assert_works(&what, self.host, pid, port, &lease);
        lease
    }
}

/// However a container ends, its slice is gone at once, without anybody having to ask.
fn ends(door: &Door<'_>) {
    let ways: [(&str, &[&str]); 4] = [
        ("stopped", &["stop", "--time", "0", "web"]),
        ("killed by the engine", &["kill", "web"]),
        ("kill -9", &[]),
        ("removed", &["rm"]),
    ];
    for (how, words) in ways {
        (door.start)("web", 31_000, &[]).ok();
        door.working(how, "web", 31_000);
        match words {
            [] => kill(Pid::from_raw(door.pid("web") as i32), Signal::SIGKILL).expect("kill"),
            ["rm"] => door.remove("web"),
            words => drop((door.call)(words).ok()),
        }
        assert_gone(&format!("{}, {how}", door.what), door.host);
        door.try_remove("web");
    }
}

/// A container that has its slice, and whose program is not there: crun calls no poststop then, so what is left of it may be
/// gc's, or the next container's.
fn fails(door: &Door<'_>) {
    let what = format!("{}, a failed create", door.what);
    for reclaim in ["gc", "another container"] {
        let out = (door.start)("web", 31_000, &["--entrypoint", "/nonexistent"]);
        assert!(out.code.is_some_and(|code| code != 0), "{what}: {out}");
        door.try_remove("web");
        if reclaim == "gc" {
            door.host.portslice(["gc"]).ok();
            assert_gone(&what, door.host);
        }
    }
    (door.start)("again", 31_000, &[]).ok();
    door.working("after a failed create", "again", 31_000);
    door.remove("again");
    assert_gone(&what, door.host);
}

/// What its engine starts again has the block and the ports that it had.
fn restarts(door: &Door<'_>) {
    let same = |how: &str, before: &Value| {
        let now = door.working(how, "web", 31_000);
        assert_eq!((&now["block"], &now["ports"]), (&before["block"], &before["ports"]), "{}, {how}", door.what);
    };
    (door.start)("web", 31_000, &["--restart=always"]).ok();
    let first = door.working("at first", "web", 31_000);
    let old = door.pid("web");
    kill(Pid::from_raw(old as i32), Signal::SIGKILL).expect("kill");
    assert!(eventually(|| ![0, old].contains(&door.pid("web"))), "{}: it is not restarted", door.what);
    same("restarted by its policy", &first);
    (door.call)(&["restart", "--time", "0", "web"]).ok();
    same("restarted", &first);
    door.remove("web");
    assert_gone(&door.what, door.host);
}

/// What changes a container otherwise changes nothing here. A machine on which the engine itself cannot do it is passed over.
fn works_with(door: &Door<'_>, options: &[&[&str]]) {
    for options in options {
        let how = format!("{options:?}");
        let out = (door.start)("web", 31_000, options);
        if out.code != Some(0) {
            door.try_remove("web");
            let plain = (door.plain)("plain", options);
            door.try_remove("plain");
            assert_ne!(plain.code, Some(0), "{}, {how}: without a request it starts: {out}", door.what);
            println!("skipped: {}, {how}: {}", door.what, plain.stderr.trim());
            continue;
        }
        door.working(&how, "web", 31_000);
        door.remove("web");
        assert_gone(&format!("{}, {how}", door.what), door.host);
    }
}

/// The host's network is refused, in one line: in what the engine says, or where its runtime hides that, in the log.
fn refuses_the_hosts_network(door: &Door<'_>) {
    const SAYS: &str = "no network namespace of its own";
    let out = (door.start)("hosted", 31_000, &["--network=host"]);
    assert!(out.code.is_some_and(|code| code != 0), "{}: {out}", door.what);
    let told = out.stderr.matches(SAYS).count() == 1 || log(door.host).matches(SAYS).count() == 1;
    assert!(told, "{}: {out}\nlog:\n{}", door.what, log(door.host));
    door.try_remove("hosted");
    assert_gone(&door.what, door.host);
}

/// A container in the namespace of another has a port of its own, until it ends.
fn joins(door: &Door<'_>) {
    (door.start)("first", 31_000, &[]).ok();
    (door.start)("second", 31_001, &["--network=container:first"]).ok();
    for (name, port) in [("first", 31_000), ("second", 31_001)] {
        let lease = door.working("joined", name, port);
        assert_eq!(lease["members"].as_array().map(Vec::len), Some(2), "{}: {lease}", door.what);
    }
    door.remove("second");
    let lease = door.working("the other one ended", "first", 31_000);
    assert_eq!(lease["members"].as_array().map(Vec::len), Some(1), "{}: {lease}", door.what);
    door.remove("first");
    assert_gone(&door.what, door.host);
}

/// One whose network another shares is restarted: it gets a namespace of its own, and the other stays in the one that was.
fn restarts_beside(door: &Door<'_>) {
    (door.start)("first", 31_000, &[]).ok();
    (door.start)("second", 31_001, &["--network=container:first"]).ok();
    (door.call)(&["restart", "--time", "0", "first"]).ok();
    door.working("restarted", "first", 31_000);
    door.working("beside one that was restarted", "second", 31_001);
    door.remove("second");
    door.working("the other one ended", "first", 31_000);
    door.remove("first");
    assert_gone(&door.what, door.host);
}
