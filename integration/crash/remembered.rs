//! What is remembered may be damaged or mean something else by now: no verb acts on it unseen.

use super::assert_steered;
use crate::lab::probe::assert_reaches;
use crate::lab::wait::eventually;
use crate::lab::*;
use std::net::SocketAddr;

/// What a lease says of itself may be lost or damaged; whose a port is stands in the kernel.
#[test]
fn a_lease_that_cannot_be_read_counts_as_taken() {
    let host = Host::new("crash-damaged");
    let held: Vec<Container> = ["a", "b"].map(|id| host.bare(id, &["--ports", "auto:2"])).into();
    let file = host.state_dir().join("leases/a");
    let whole = std::fs::read(&file).expect("a lease");
    for damage in [None, Some(&b""[..]), Some(b"{}"), Some(b"\0\xff"), Some(&whole[..whole.len() / 2])] {
        match damage {
            None => std::fs::remove_file(&file).expect("a lease"),
            Some(bytes) => std::fs::write(&file, bytes).expect("a lease"),
        }
        for verb in [&["gc"][..], &["list"], &["stats"]] {
            host.portslice(verb).ok();
        }
        let new = host.bare("new", &["--ports", "auto:2"]);
        for old in &held {
            let apart = old.block.end() < new.block.start() || new.block.end() < old.block.start();
            assert!(apart, "{damage:?}: block {:?} was given out again", old.block);
            assert!(old.ports.iter().all(|p| !new.ports.contains(p)), "{damage:?}: {:?} again", old.ports);
        }
        let port = held[0].ports[0].to_string();
        let out = host.try_bare("thief", &["--ports", &port]).err().expect("a port of a");
        assert!(out.code == Some(4) && out.stderr.contains("container a"), "{damage:?}: {out}");
        let _echo = Echo::start(&held[0].ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), held[0].ports[0]));
        assert_reaches("a", &host.peer, Proto::Udp, SocketAddr::new(HOST4, held[0].ports[0]));
        let out = host.portslice(["fsck"]);
        assert!(out.code == Some(1) && out.stdout.contains("a: "), "{damage:?}: {out}");
        host.portslice(["fsck", "--rebuild"]).ok();
        assert_eq!(std::fs::read(&file).expect("a lease"), whole, "{damage:?}: restored byte for byte");
        assert_eq!(host.portslice(["fsck"]).ok().stdout, "", "{damage:?}: nothing differs any more");
        new.detach();
        new.kill();
        assert!(eventually(|| host.links().len() == 4), "{damage:?}: devices {:?}", host.links());
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
