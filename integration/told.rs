//! Promise: verbs that change the host say what they changed, one line each, and say every error once.

use crate::lab::*;

#[test]
fn setup_and_undo_say_what_they_changed() {
    let host = Host::with("told-setup").unprepared().build();
    assert_eq!(host.portslice(["setup", "--undo"]).ok().stdout, "nothing to do\n");
    let (mut would, mut did) = (Vec::new(), Vec::new());
    let dry = host.portslice(["setup", "--dry-run"]).ok();
    would.extend(
        dry.stdout.lines().map(|line| line.strip_prefix("would ").unwrap_or_else(|| panic!("{dry}")).to_string()),
    );
    let out = host.portslice(["setup"]).ok();
    did.extend(out.stdout.lines().map(str::to_string));
    assert!(did.pop().is_some_and(|line| line.starts_with("ready on eth0 (10.77.0.2, ")), "{out}");
    assert_eq!(would.len(), did.len(), "{dry}{out}");
    for line in [
        "reserved ports 31000-31999,32768-57343 (net.ipv4.ip_local_reserved_ports)",
        "set net.ipv4.conf.lo.accept_local = 1",
        "mounted BPF file system on ",
        "loaded programs of version ",
        "attached program from_wire on eth0",
        "attached program from_lo on lo",
    ] {
        assert_eq!(did.iter().filter(|did| did.starts_with(line)).count(), 1, "{line}: {out}");
    }
    let again = host.portslice(["setup"]).ok();
    assert!(again.stdout.starts_with("nothing to do\nready on eth0 ") && again.stdout.lines().count() == 2, "{again}");
    assert_eq!(host.portslice(["setup", "--dry-run"]).ok().stdout, "nothing to do\n");
    host.ns.set_sysctl("ipv4/conf/lo/route_localnet", "0");
    assert_eq!(host.portslice(["setup", "--dry-run"]).ok().stdout, "would set net.ipv4.conf.lo.route_localnet = 1\n");
    let mended = host.portslice(["setup"]).ok();
    assert!(mended.stdout.starts_with("set net.ipv4.conf.lo.route_localnet = 1\nready on "), "{mended}");

    let dry = host.portslice(["setup", "--undo", "--dry-run"]).ok();
    let undone = host.portslice(["setup", "--undo"]).ok();
    assert_eq!(dry.stdout.lines().count(), undone.stdout.lines().count(), "{dry}{undone}");
    for line in [
        "released ports 31000-31999,32768-57343 ",
        "restored net.ipv4.conf.lo.accept_local",
        "removed BPF file system on ",
        "removed programs of version ",
        "removed program from_wire on ",
        "removed program from_lo on lo",
    ] {
        assert_eq!(undone.stdout.lines().filter(|did| did.starts_with(line)).count(), 1, "{line}: {undone}");
    }
    assert!(!undone.stdout.contains("portslice-limit"), "there were no such devices: {undone}");
    for args in [&["setup", "--undo"][..], &["setup", "--undo", "--dry-run"], &["gc"], &["gc", "--dry-run"]] {
        assert_eq!(host.portslice(args).ok().stdout, "nothing to do\n", "{args:?}");
    }
}

#[test]
fn gc_says_what_it_took_back() {
    let host = Host::new("told-gc");
    let (one, two) = (host.bare("one", &["--ports", "31000"]), host.bare("two", &[]));
    assert_eq!(host.portslice(["gc"]).ok().stdout, "nothing to do\n");
    let block = format!("{}-{}", one.block.start(), one.block.end());
    one.kill();
    assert!(wait::eventually(|| host.links().iter().filter(|link| link.starts_with("portslice")).count() == 1));
    let out = host.portslice(["gc"]).ok();
    assert_eq!(out.stdout, format!("removed slice of one: ports 31000,{block}\n"));
    assert_eq!(host.portslice(["gc", "--json"]).ok().json(), serde_json::json!([]));
    assert_eq!(host.portslice(["gc", "--dry-run", "--json"]).ok().json(), serde_json::json!([]), "of a dry run, too");
    two.kill();
    assert!(wait::eventually(|| host.links() == ["eth0", "lo"]));
    let out = host.portslice(["setup", "--undo"]).ok();
    assert!(out.stdout.starts_with("removed slice of two: ports "), "{out}");
}

#[test]
fn limits_are_shown_in_the_unit_that_was_asked() {
    let host = Host::new("told-units");
    let _container = host.bare("c", &["--egress-rate", "20mbit", "--ingress-rate", "2500KB"]);
    let out = host.portslice(["show", "c"]).ok();
    assert!(out.stdout.lines().all(|line| line.chars().count() <= 80), "{out}");
    // what does not fit into a line goes on in the next
    let told = out.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(told.contains("egress 20mbit, burst "), "{out}");
    assert!(told.contains("; asked 20mbit; configured unlimited"), "{out}");
    assert!(told.contains("ingress 2500KB/s (20.48 Mbit/s), burst "), "{out}");
    assert!(told.contains("; asked 2500KB/s (20.48 Mbit/s); "), "{out}");
}
