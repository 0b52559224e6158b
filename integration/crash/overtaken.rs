//! A verb that waits for its turn finds another host than when it began.

use super::assert_steered;
use crate::lab::kill::injected;
use crate::lab::race::both;
use crate::lab::still::assert_bare;
use crate::lab::*;
use std::time::Duration;

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

/// What stood in a namespace is looked at before the lock: the slice that had it then may have ended, and put its settings back.
#[test]
fn an_attach_that_is_overtaken_by_the_end_of_the_slice_before() {
    let host = Host::new("overtaken-slice");
    let ns = Ns::net_only("overtaken");
    let fresh = ns.sysctl("ipv4.tcp_tw_reuse");
    host.prestart("before", ns.pid(), &[]).ok();
    let state = hook::creating("after", ns.pid(), &[("portslice/ports", "31000")]);
    let (attach, ()) = both(
        || injected(&host, "flock", "delay_enter=500ms:when=1", &["portslice-prestart"], &state),
        || {
            std::thread::sleep(Duration::from_millis(200));
            host.portslice(["detach", "before"]).ok();
        },
    );
    attach.ok();
    let found = host.portslice(["fsck"]);
    assert_eq!((found.code, found.stdout.as_str()), (Some(0), ""), "{found}");
    host.portslice(["detach", "after"]).ok();
    assert_eq!(ns.sysctl("ipv4.tcp_tw_reuse"), fresh);
}
