//! Changes that are refused leave everything as it was.

use crate::lab::still::Still;
use crate::lab::*;
use std::net::SocketAddr;

/// The options, the exit code, and what is said.
const BAD: [(&[&str], i32, &[&str]); 20] = [
    (&["--egress-rate", "300"], 2, &["--egress-rate", "no unit"]),
    (&["--egress-rate=-1mbit"], 2, &["--egress-rate", "negative"]),
    (&["--ingress-rate", "fast"], 2, &["--ingress-rate", "fast"]),
    (&["--colour", "blue"], 2, &["--colour"]),
    (&["--egress-rat", "1mbit"], 2, &["--egress-rate"]),
    (&["--egress-rate"], 2, &["--egress-rate"]),
    (&["--egress-rate", "10mbit", "--egress-ceil", "5mbit"], 2, &["5mbit", "10mbit"]),
    // the rate that it has already
    (&["--egress-ceil", "5mbit"], 2, &["5mbit", "10mbit"]),
    (&["--ingress-burst", "100B"], 2, &["--ingress-burst", "1600B"]),
    (&["--cpus", "many"], 2, &["--cpus"]),
    (&["--ports", "+80"], 2, &["80", "31000-31999"]),
    (&["--ports", "+33000"], 2, &["33000"]),
    (&["--ports", "+31900"], 4, &["31900", "other"]),
    (&["--ports", "31000,31900"], 4, &["31900", "other"]),
    (&["--ports", "+31500"], 4, &["31500"]),
    // good and bad together: all or nothing
    (&["--egress-rate", "20mbit", "--ingress-rate", "300"], 2, &["--ingress-rate"]),
    (&["--egress-rate", "20mbit", "--ports", "+31900"], 4, &["31900", "other"]),
    (&["--egress-rate", "0B", "--ingress-rate", "20mbit", "--ports", "+31001,+31500"], 4, &["31500"]),
    (&["--ports", "+31001,-31000,+31900", "--limit-local", "false"], 4, &["31900"]),
    (&["--limit-local", "perhaps", "--egress-rate", "1mbit"], 2, &["perhaps"]),
];

#[test]
fn a_change_that_is_refused_changes_nothing() {
    let host = Host::new("change-refused");
    let container = host.bare("c", &["--ports", "31000", "--egress-rate", "10mbit", "--ingress-rate", "10mbit"]);
    let _other = host.bare("other", &["--ports", "31900"]);
    let _held = Echo::start(&host.ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 31_500));
    let settings = || {
        let mut shown = container.show();
        for counters in ["statistics", "drops"] {
            shown.as_object_mut().expect("show --json").remove(counters);
        }
        shown
    };
    let (still, queues, shown) = (Still::of(&host), limit::queues_and_filters(&host), settings());
    let unchanged = |what: &str| {
        still.check(what);
        assert_eq!(settings(), shown, "{what}: show --json");
        assert_eq!(limit::queues_and_filters(&host), queues, "{what}: qdiscs, classes and filters");
    };
    for (args, code, says) in BAD {
        let out = container.set(args).refused(code, says[0]);
        assert!(says.iter().all(|text| out.stderr.contains(text)), "{args:?}: should say {says:?}: {out}");
        unchanged(&format!("{args:?}"));
    }
    for (args, code, says) in [
        (&["set", "nobody", "--egress-rate", "1mbit"][..], 6, "nobody"),
        (&["set", "c"], 2, "nothing to change"),
        (&["set", "c", "--json"], 2, "nothing to change"),
        (&["set", "c", "--force"], 2, "nothing to change"),
        (&["set"], 2, "ID"),
        (&["set", "../c", "--egress-rate", "1mbit"], 2, "../c"),
        // given once, at attach
        (&["set", "c", "--ephemeral-ports", "2048"], 2, "--ephemeral-ports"),
    ] {
        host.portslice(args).refused(code, says);
        unchanged(&format!("{args:?}"));
    }
    still.check_all("after all refusals");
}

/// Nobody is there any more, though nobody said so.
#[test]
fn a_container_that_died_is_not_changed() {
    let host = Host::new("change-dead");
    let container = host.bare("c", &["--ports", "31000", "--egress-rate", "10mbit"]);
    let class = container.class();
    container.kill();
    let out = container.set(&["--egress-rate", "20mbit", "--ports", "+31001"]);
    assert!(out.code.is_some_and(|code| code != 0), "a dead container was changed: {out}");
    assert_eq!(out.stderr.lines().count(), 1, "{out}");
    host.portslice(["gc"]).ok();
    assert_eq!(host.ids(), [""; 0], "leases after gc");
    assert!(!limit::classes(&host.ns, limit::SHAPER).contains_key(&class), "its class");
    // and its ports are free
    host.bare("next", &["--ports", "31000-31001"]);
}
