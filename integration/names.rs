//! Promise: people find a container by what they call it, and are told what became of it. Machines find exactly what they
//! name.

use crate::lab::probe::assert_reaches;
use crate::lab::*;
use serde_json::json;
use std::net::SocketAddr;

const IDS: [&str; 3] = [
    "2cd9af1bc5970000000000000000000000000000000000000000000000000001",
    "2cd9af1bc5980000000000000000000000000000000000000000000000000002",
    "77aa00000000000000000000000000000000000000000000000000000000003f",
];

/// A container as an engine starts it, which tells its name.
fn start(host: &Host, id: &str, name: &str) -> Ns {
    let ns = Ns::net_only(name);
    let state = json!({
        "ociVersion": "1.0.2", "id": id, "status": "creating", "pid": ns.pid(), "bundle": "/",
        "annotations": {
            "io.kubernetes.cri.container-name": name,
            "io.kubernetes.cri.sandbox-name": "shop",
            "io.kubernetes.cri.sandbox-namespace": "prod",
            "portslice/ephemeral-ports": "64",
        },
    });
    host.hook("portslice-prestart", state.to_string()).ok();
    ns
}

#[test]
fn a_container_is_found_by_id_name_and_unique_beginning() {
    let host = Host::new("names");
    let _all = [start(&host, IDS[0], "web"), start(&host, IDS[1], "worker"), start(&host, IDS[2], "store")];
    for (text, id) in [
        (IDS[0], IDS[0]),
        ("2cd9af1bc597", IDS[0]),
        ("2cd9af1bc598", IDS[1]),
        ("7", IDS[2]),
        ("prod/shop/web", IDS[0]),
        ("prod/shop/store", IDS[2]),
        ("prod/shop/s", IDS[2]),
    ] {
        let shown = host.portslice(["show", text, "--json"]).ok().json();
        assert!(shown.to_string().contains(id), "show {text}: {shown}");
        let stats = host.portslice(["stats", text, "--json"]).ok().json();
        assert_eq!(stats.as_array().map(Vec::len), Some(1), "stats {text}: {stats}");
        assert_eq!(stats[0]["container_id"], id, "stats {text}");
    }
    host.portslice(["set", "prod/shop/web", "--egress-rate", "80mbit"]).ok();
    let shown = host.portslice(["show", IDS[0], "--json"]).ok().json();
    assert!(shown["asked"]["egress"].to_string().contains("80mbit"), "set by name: {}", shown["asked"]);
    host.portslice(["detach", "2cd9af1bc598"]).ok();
    host.portslice(["detach", "prod/shop/store"]).ok();
    assert_eq!(host.ids(), [IDS[0]]);
}

/// What a script has in a variable that is not set.
#[test]
fn nothing_is_no_beginning() {
    let host = Host::new("names-nothing");
    let _only = host.bare("only", &[]);
    for verb in ["detach", "show", "explain", "stats"] {
        let out = host.portslice([verb, ""]);
        assert!(out.code == Some(2) && out.stderr.contains("give an id or a name"), "{verb}: {out}");
    }
    assert_eq!(host.ids(), ["only"]);
    assert_eq!(host.portslice(["detach", "on"]).ok().stdout, "detached only\n", "who abbreviates is told");
    assert!(host.ids().is_empty());
}

/// A container that runs is not hidden by what became of its record.
#[test]
fn one_whose_lease_cannot_be_read_is_told_of() {
    let host = Host::new("names-unreadable");
    let a = host.bare("a", &["--ports", "31000"]);
    let path = host.state_dir().join("leases/a");
    let lease = std::fs::read(&path).expect("its lease");
    std::fs::write(&path, "garbage").expect("damage");
    for verb in ["list", "stats"] {
        let out = host.portslice([verb]).ok();
        assert!(
            out.stderr.contains("leases/a cannot be read") && out.stderr.contains("fsck --rebuild"),
            "{verb}: {out}"
        );
    }
    host.portslice(["show", "a"]).refused(1, "leases/a cannot be read");
    std::fs::write(&path, lease).expect("as before");
    drop(a);
}

#[test]
fn a_beginning_of_several_is_refused_with_the_candidates() {
    let host = Host::new("names-several");
    let _all = [start(&host, IDS[0], "web"), start(&host, IDS[1], "worker")];
    for text in ["2cd9", "prod/shop/w"] {
        for args in [vec!["show", text], vec!["stats", text], vec!["detach", text], vec!["set", text, "--cpus", "1"]] {
            let out = host.portslice(&args);
            assert_eq!(out.code, Some(2), "{args:?}: {out}");
            assert_eq!(out.stderr.lines().count(), 1, "{args:?}: {out}");
            assert!(IDS[..2].iter().all(|id| out.stderr.contains(id)), "{args:?}: should name both: {out}");
        }
    }
    for text in ["nothing", "prod/shop/none"] {
        let out = host.portslice(["show", text]);
        assert_eq!(out.code, Some(6), "{out}");
    }
    assert_eq!(host.ids(), IDS[..2]);
}

#[test]
fn hooks_match_exactly() {
    let host = Host::new("names-hooks");
    let ns = start(&host, IDS[0], "web");
    for other in ["2cd9af1bc597", "2", "web", "shop"] {
        host.poststop(other).ok();
        assert_eq!(host.ids(), [IDS[0]], "poststop of {other}");
    }
    // a container whose id is the beginning of another's is another
    let short = Ns::net_only("short");
    host.prestart("2cd9af1bc597", short.pid(), &[("portslice/ephemeral-ports", "64")]).ok();
    assert_eq!(host.ids().len(), 2);
    let shown = host.portslice(["show", "2cd9af1bc597", "--json"]).ok().json();
    assert_eq!(shown["id"], "2cd9af1bc597", "an id comes before a beginning");
    host.poststop("2cd9af1bc597").ok();
    assert_eq!(host.ids(), [IDS[0]]);
    drop(ns);
}

#[test]
fn a_container_that_ended_without_a_word_is_shown_as_gone() {
    let host = Host::new("names-gone");
    let (gone, here) = (host.bare("gone", &["--ports", "31000"]), host.bare("here", &["--ports", "31001"]));
    gone.kill();
    let stage = |id: &str| host.list().into_iter().find(|l| l["id"] == id).expect(id)["stage"].clone();
    assert_eq!((stage("gone"), stage("here")), (json!("gone"), json!("attached")), "list --json");
    let table = host.portslice(["list"]).ok().stdout;
    let row = |id: &str| table.lines().find(|line| line.starts_with(id)).expect("its row").to_owned();
    assert!(row("gone").contains("GONE") && row("here").contains("attached"), "list:\n{table}");
    assert_eq!(host.portslice(["show", "gone", "--json"]).ok().json()["stage"], "gone", "show --json");
    let shown = host.portslice(["show", "gone"]).ok().stdout;
    let stage = shown.lines().find(|line| line.starts_with("stage")).expect("stage");
    assert!(stage.to_lowercase().contains("gone"), "show: {stage}");
    let _echo = Echo::start(&here.ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 31_001));
    assert_reaches("P->here", &host.peer, Proto::Tcp, SocketAddr::new(HOST4, 31_001));
    host.portslice(["gc"]).ok();
    assert_eq!(host.ids(), ["here"]);
}

/// Whatever containers are called and have, on a terminal and through a pipe; and rates are said as they were asked.
#[test]
fn tables_fit_80_columns() {
    let host = Host::new("names-tables");
    let long = "frontend-of-the-shop-with-a-name-that-is-as-long-as-names-may-be";
    let _all = [start(&host, IDS[0], long), start(&host, IDS[1], "w")];
    let ports: Vec<String> = (0..20).map(|n| (31_000 + 2 * n).to_string()).collect();
    let id = format!("an.id-{}", "that-is-long-".repeat(8));
    let _third = host.bare(&id, &["--ports", &ports.join(","), "--egress-rate", "20mbit", "--ingress-rate", "2500KB"]);
    for args in
        [&["list"][..], &["stats"], &["stats", "--all"], &["top", "--count", "1"], &["show", IDS[0]], &["show", IDS[1]]]
    {
        let out = host.portslice(args).ok();
        // what `show` tells of one container is told whole, and one word cannot be broken
        let breakable = |line: &&str| args[0] != "show" || line.split_whitespace().count() > 2;
        let wide: Vec<&str> = out.stdout.lines().filter(|line| line.chars().count() > 80).filter(breakable).collect();
        assert!(wide.is_empty() && !out.stdout.is_empty(), "{args:?}: {wide:#?}");
    }
    let shown = host.portslice(["show", &id]).ok().stdout;
    let of = |key: &str| shown.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key}: {shown}"));
    assert!(of("egress").contains(" 20mbit") && !of("egress").contains("2500000B"), "{shown}");
    assert!(of("ingress").contains("2500KB/s (20.48 Mbit/s), burst 25KB"), "{shown}");
    host.portslice(["detach", IDS[1]]).ok();
    let finished = host.portslice(["stats", "--finished"]).ok();
    assert!(finished.stdout.lines().all(|line| line.chars().count() <= 80), "{finished}");
}
