//! What is remembered may be damaged or mean something else by now: no verb acts on it unseen.

use super::assert_steered;
use crate::lab::probe::assert_reaches;
use crate::lab::wait::eventually;
use crate::lab::*;
use std::net::SocketAddr;

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
