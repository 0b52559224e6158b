//! Promise: where it is asked for, and only in place of what the kernel put there by itself, the uplink has a queue for each
//! container and one for the host.

use crate::lab::still::Still;
use crate::lab::*;
use std::net::SocketAddr;

const CONFIG: &str = "ports = \"31000-31999\"\negress_unique_flow_per_container = true\n";

fn root_of(host: &Host) -> String {
    settings::root_qdisc(&host.ns, "eth0")
}

/// Whether this kernel can do it at all; says so when it cannot.
fn possible(host: &Host) -> bool {
    let there = limit::has(host, "fq_codel");
    if !there {
        println!("{}: skipped: this kernel lacks the fq_codel qdisc", host.name);
    }
    there
}

#[test]
fn a_kernel_without_the_queue_is_refused_and_nothing_changes() {
    let host = Host::with("fair-without").config(CONFIG).unprepared().build();
    if limit::has(&host, "fq_codel") {
        return println!("{}: skipped: this kernel has the fq_codel qdisc", host.name);
    }
    let (before, root) = (host.links(), root_of(&host));
    // ports are reserved by then: a setup that is mended goes on from there, and one that is undone gives them back
    let out = host.portslice(["setup"]);
    assert_eq!(out.code, Some(5), "{out}");
    assert!(out.stderr.contains("egress_unique_flow_per_container") && out.stderr.contains("fq_codel"), "{out}");
    assert_eq!((host.links(), root_of(&host)), (before, root));
}

#[test]
fn a_queue_that_somebody_chose_stays() {
    let host = Host::with("fair-chosen").config(CONFIG).unprepared().build();
    if !possible(&host) {
        return;
    }
    host.run(["tc", "qdisc", "add", "dev", "eth0", "root", "handle", "5:", "htb"]).ok();
    let root = root_of(&host);
    let out = host.portslice(["setup"]);
    assert_eq!(out.code, Some(5), "{out}");
    assert!(out.stderr.contains("htb") && out.stderr.contains("eth0"), "{out}");
    assert_eq!(root_of(&host), root);
    host.run(["tc", "qdisc", "del", "dev", "eth0", "root"]).ok();
}

#[test]
fn each_container_and_the_host_have_a_queue_of_their_own() {
    let host = Host::with("fair").config(CONFIG).unprepared().build();
    if !possible(&host) {
        return;
    }
    let before = root_of(&host);
    host.portslice(["setup"]).ok();
    assert!(root_of(&host).starts_with("qdisc fq_codel 7073:"), "{}", root_of(&host));
    let still = Still::of(&host);
    host.portslice(["setup"]).ok();
    still.check("setup twice");

    let [one, two] = ["one", "two"].map(|id| host.bare(id, &[]));
    // the class a packet will be queued in is its priority; what the host sends is classified by the queue itself
    let mut counted = true;
    for (pref, slot) in [("1", 1), ("2", 2)] {
        let matched = format!("meta(priority eq 0x{:x})", 0x7073_0000 + slot);
        let rule =
            ["filter", "add", "dev", "eth0", "egress", "pref", pref, "protocol", "all", "basic", "match", &matched];
        host.run(["tc", "qdisc", "add", "dev", "eth0", "clsact"]);
        counted &= host.run(["tc"].iter().chain(&rule).chain(&["action", "gact", "pass"])).code == Some(0);
    }
    let _echo = Echo::start(&host.peer, Proto::Udp, SocketAddr::new(PEER4, 20_000));
    for (from, times) in [(&one.ns, 3), (&two.ns, 5), (&host.ns, 1)] {
        for _ in 0..times {
            probe::assert_reaches("fair", from, Proto::Udp, SocketAddr::new(PEER4, 20_000));
        }
    }
    if counted {
        for (pref, packets) in [("1", 3), ("2", 5)] {
            let shown = limit::tc(&host.ns, &["-s", "filter", "show", "dev", "eth0", "egress", "pref", pref]);
            assert!(shown.contains(&format!(" {packets} pkt")), "pref {pref}: {shown}");
        }
    } else {
        println!("fair: this kernel cannot match a packet's priority: only that everything still arrives was checked");
    }

    drop((one, two));
    host.ids().iter().for_each(|id| drop(host.portslice(["detach", id]).ok()));
    host.portslice(["setup", "--undo"]).ok();
    host.run(["tc", "qdisc", "del", "dev", "eth0", "clsact"]);
    assert_eq!(root_of(&host), before);
}
