//! Promise: nothing is ended, overwritten or given away before it is proved whose it is. Names, ids and directories prove
//! nothing.

mod killed;
mod lost;
mod unseen;

use crate::lab::probe::assert_reaches;
use crate::lab::run::Output;
use crate::lab::still::Still;
use crate::lab::*;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;

/// The state document of a hook, for a container of a bundle.
fn state(id: &str, status: &str, pid: Option<u32>, bundle: &Path, ports: Option<&str>) -> String {
    let mut document = json!({"ociVersion": "1.0.2", "id": id, "status": status, "bundle": bundle});
    if let Some(pid) = pid {
        document["pid"] = json!(pid);
    }
    if let Some(ports) = ports {
        document["annotations"] = json!({"portslice/ports": ports});
    }
    document.to_string()
}

/// A directory for a bundle, which need not hold one.
fn bundle(host: &Host, name: &str) -> std::path::PathBuf {
    let dir = host.dir.join(name);
    std::fs::create_dir_all(&dir).expect("bundle");
    dir
}

/// A container that somebody might harm: it answers on its port, and its lease is as it was.
struct Living {
    ns: Ns,
    id: String,
    port: u16,
    lease: Value,
    _echo: Echo,
}

impl Living {
    /// Attached by hook, of a bundle.
    fn of_bundle(host: &Host, id: &str, port: u16, bundle: &Path) -> Living {
        let ns = Ns::net_only(id);
        let creating = state(id, "creating", Some(ns.pid()), bundle, Some(&port.to_string()));
        host.hook("portslice-prestart", creating).ok();
        Living::known(host, id, ns, port)
    }

    fn known(host: &Host, id: &str, ns: Ns, port: u16) -> Living {
        let lease = host.list().into_iter().find(|l| l["id"] == id).expect("its lease");
        let echo = Echo::start(&ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), port));
        Living { ns, id: id.into(), port, lease, _echo: echo }
    }

    /// Attached by command.
    fn on(host: &Host, id: &str, port: u16) -> Living {
        let ns = Ns::net_only(id);
        host.portslice(["attach", id, "--pid", &ns.pid().to_string(), "--ports", &port.to_string()]).ok();
        Living::known(host, id, ns, port)
    }

    /// Reached from the wire and reaching it, whatever stands in files.
    #[track_caller]
    fn answers(&self, host: &Host, what: &str) {
        let what = format!("{what}: {}", self.id);
        assert_reaches(&what, &host.peer, Proto::Tcp, SocketAddr::new(HOST4, self.port));
        let peer = Echo::start(&host.peer, Proto::Tcp, SocketAddr::new(PEER4, 20_000));
        assert_reaches(&what, &self.ns, Proto::Tcp, peer.at);
    }

    #[track_caller]
    fn unharmed(&self, host: &Host, what: &str) {
        self.answers(host, what);
        let now = host.list().into_iter().find(|l| l["id"] == self.id.as_str());
        assert_eq!(now.as_ref(), Some(&self.lease), "{what}: the lease of {}", self.id);
    }
}

/// Refused because the host is served by somebody else, who is named.
#[track_caller]
fn refused_for(what: &str, out: &Output, first: &Path) {
    assert_eq!(out.code, Some(5), "{what}: {out}");
    assert_eq!(out.stderr.lines().count(), 1, "{what}: {out}");
    assert!(out.stderr.contains(&*first.to_string_lossy()), "{what}: should name {}: {out}", first.display());
}

#[test]
fn the_end_of_a_container_of_the_same_id_ends_only_that_one() {
    let host = Host::new("own-bundle");
    let (ours, theirs) = (bundle(&host, "ours"), bundle(&host, "theirs"));
    let living = Living::of_bundle(&host, "same", 31_000, &ours);
    // another runtime starts one of that id, is refused, and cleans up
    let other = Ns::net_only("the other");
    let creating = state("same", "creating", Some(other.pid()), &theirs, Some("31001"));
    let refused = host.hook("portslice-prestart", creating);
    assert_eq!(refused.code, Some(7), "a second container of the id: {refused}");
    still::assert_bare("the one that was refused", &other);
    for _ in 0..2 {
        host.hook("portslice-poststop", state("same", "stopped", None, &theirs, None)).ok();
        living.unharmed(&host, "the other's poststop");
    }
    // the right one, at last
    host.hook("portslice-poststop", state("same", "stopped", None, &ours, None)).ok();
    assert_eq!(host.ids(), [""; 0], "its own poststop");
}

#[test]
fn the_end_of_a_container_without_a_slice_ends_none_of_that_id() {
    let host = Host::new("own-no-slice");
    let (ours, theirs) = (bundle(&host, "ours"), bundle(&host, "theirs"));
    let by_hook = Living::of_bundle(&host, "same", 31_000, &ours);
    let by_hand = Living::on(&host, "hand", 31_001);
    for id in ["same", "hand"] {
        host.hook("portslice-poststop", state(id, "stopped", None, &theirs, None)).ok();
        by_hook.unharmed(&host, &format!("poststop of another {id}"));
        by_hand.unharmed(&host, &format!("poststop of another {id}"));
    }
}

#[test]
fn a_second_state_directory_touches_nothing_of_the_first() {
    let host = Host::new("own-second");
    // with a limit, so that the host has all kinds of devices
    let living = Living::on(&host, "one", 31_000);
    host.portslice(["set", "one", "--egress-rate", "80mbit"]).ok();
    let living = Living { lease: host.list().remove(0), ..living };
    let (still, spare) = (Still::of(&host), Ns::net_only("spare"));
    let (pid, second) = (spare.pid().to_string(), host.dir.join("second"));
    let second = second.to_string_lossy();
    for args in [
        vec!["setup"],
        vec!["attach", "two", "--pid", &pid],
        vec!["attach", "one", "--pid", &pid],
        vec!["gc"],
        vec!["detach", "one"],
        vec!["list"],
        vec!["setup", "--undo"],
    ] {
        let what = args.join(" ");
        let out = host.portslice([&["--state-dir", &second], &args[..]].concat());
        refused_for(&what, &out, &host.state_dir());
        still.check(&what);
        living.unharmed(&host, &what);
        still::assert_bare(&what, &spare);
    }
    for (hook, input) in [
        ("portslice-prestart", hook::creating("two", spare.pid(), &[])),
        ("portslice-prestart", hook::creating("one", spare.pid(), &[])),
        ("portslice-poststop", hook::stopped("one")),
    ] {
        let mut command = host.command([hook]);
        command.env("PORTSLICE_STATE_DIR", &*second);
        let out = run::run_with_input(&mut command, Some(&input), host::COMMAND_LIMIT);
        refused_for(hook, &out, &host.state_dir());
        living.unharmed(&host, hook);
    }
    assert!(!host.dir.join("second").exists(), "a refused verb made its state directory");
    still.check_all("after all");
}

#[test]
fn a_lost_state_directory_is_not_begun_anew_over_what_lives() {
    let host = Host::new("own-lost");
    let living = Living::on(&host, "one", 31_000);
    let (spare, record) = (Ns::net_only("spare"), host.state_dir().join("host.json"));
    let kept = std::fs::read(&record).expect("the host's record");
    std::fs::remove_file(&record).expect("the host's record");
    let pid = spare.pid().to_string();
    for args in [vec!["attach", "two", "--pid", &pid], vec!["gc"], vec!["detach", "one"], vec!["setup", "--undo"]] {
        let what = args.join(" ");
        let out = host.portslice(&args);
        refused_for(&what, &out, &host.state_dir());
        living.answers(&host, &what);
        assert!(host.state_dir().join("leases/one").exists(), "{what}: the lease was removed");
    }
    host.portslice(["fsck", "--rebuild"]);
    let now: Value = serde_json::from_slice(&std::fs::read(&record).expect("restored")).expect("JSON");
    assert_eq!(now, serde_json::from_slice::<Value>(&kept).expect("JSON"), "the record, restored");
    living.unharmed(&host, "restored");
}
