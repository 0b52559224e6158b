//! Annotations as a container's author writes them, and as an attacker does.

use portslice::ports::PortSet;
use portslice::rate::Limit;
use portslice::request::ContainerId;
use portslice::request::{Change, Request};
use proptest::prelude::*;

fn id() -> ContainerId {
    "web-1".parse().unwrap()
}

#[test]
fn annotations_become_a_request() {
    let request = Request::from_annotations(
        id(),
        [
            ("org.example/ports", "nonsense"),
            ("portslice", "nonsense"),
            ("portslice/ports", "31000-31009, 31100, auto:2"),
            ("portslice/open-ports", "80+all"),
            ("portslice/ephemeral-ports", "2048"),
            ("portslice/egress-ceil", "600mbit"),
            ("portslice/egress-rate", "37500KB"),
            ("portslice/egress-burst", "64KB"),
            ("portslice/ingress-rate", "0B"),
            ("portslice/host-loopback", "false"),
            ("portslice/cpus", " 0.35"),
            ("portslice/limit-local", "false"),
            ("portslice/executor-id", "executor \u{e9}"),
            ("portslice/source", ""),
        ],
    )
    .unwrap();
    assert_eq!(request.ports.to_string(), "31000-31009,31100,auto:2");
    assert_eq!(request.open_ports.unwrap().set().to_string(), "80,1024-65535");
    assert_eq!(request.ephemeral_ports.map(u16::from), Some(2048));
    assert_eq!(request.egress.rate.unwrap().to_string(), "37500KB/s (307.2 Mbit/s)");
    assert_eq!(request.egress.ceil.unwrap().bits_per_second(), 600_000_000);
    assert_eq!(request.egress.burst.unwrap().bytes(), 65536);
    assert!(request.ingress.rate.unwrap().is_unlimited());
    assert_eq!(request.host_loopback, Some(false));
    assert_eq!(request.cpus.map(|cpus| cpus.thousandths()), Some(350));
    assert_eq!(request.limit_local, Some(false));
    assert!(!request.cannot_tamper);
    assert_eq!(request.labels.executor_id.as_deref(), Some("executor é"));
    assert_eq!(request.labels.source.as_deref(), Some(""));
    assert_eq!(request.labels.framework_id, None);
    assert_eq!(Request::from_annotations(id(), [("other", "x")]).unwrap(), Request::new(id()));
}

#[test]
fn hostile_annotations_are_refused_in_one_harmless_line() {
    let long = "1,".repeat(40_000);
    let many = "x".repeat(2000);
    let long_key = format!("portslice/{}", "\u{1b}".repeat(10_000));
    for (key, value, words) in [
        ("portslice/ports", "31000-30000", "write 30000-31000"),
        ("portslice/ports", "1\u{1b}[2J", "\"1\\u{1b}[2J\" is not a port"),
        ("portslice/ports", "31000\n31001", "\\n"),
        ("portslice/ports", "auto:0", "auto:1 to auto:65535"),
        ("portslice/ports", "auto:2,auto:2", "given twice"),
        ("portslice/ports", "auto:99999999999999999999", "auto:1 to auto:65535"),
        ("portslice/ports", &long, "at most 65536"),
        ("portslice/ports", &many, "is not a port"),
        ("portslice/open-ports", "auto:2", "\"auto:2\" is not a port or a range"),
        ("portslice/open-ports", "none,80", "none stands beside ports; write one of the two"),
        ("portslice/open-ports", "\u{1b}[2J", "\\u{1b}"),
        ("portslice/open-ports", &long, "at most 65536"),
        ("portslice/open_ports", "all", "did you mean open-ports?"),
        ("portslice/prots", "1", "did you mean ports?"),
        ("portslice/ephemeral_ports", "1024", "did you mean ephemeral-ports?"),
        ("portslice/", "1", "known are ports, "),
        (&long_key, "1", "unknown key"),
        ("portslice/a\nb", "1", "annotation \"portslice/a\\nb\": unknown key"),
        ("portslice/ephemeral-ports", "1000", "the nearest are 512 and 1024"),
        ("portslice/ephemeral-ports", "1e3", "is not a number of ports"),
        ("portslice/ephemeral-ports", "", "is not a number of ports"),
        ("portslice/egress-rate", "300", "has no unit"),
        ("portslice/egress-rate", "\u{202e}KB", "\\u{202e}KB"),
        ("portslice/egress-rate", "9999999999TB", "too large"),
        ("portslice/egress-burst", "1599B", "give at least 1600B"),
        ("portslice/egress-burst", "64kbit", "unknown unit"),
        ("portslice/host-loopback", "yes", "\"yes\" is neither true nor false"),
        ("portslice/host-loopback", "True", "neither true nor false"),
        ("portslice/executor-name", "a\u{7}b", "control character"),
        ("portslice/source", &many, "at most 1024 bytes"),
        ("portslice/egress-rate", "1bit", "below the slowest limit that holds; give at least 1000B/s (8 Kbit/s)"),
        ("portslice/egress-rate", "101tbit", "above every link; give at most 12207031250KB/s (100 Tbit/s), or 0B"),
        ("portslice/ingress-rate", "-1mbit", "is negative"),
        ("portslice/ingress-rate", "300mbps", "unknown unit"),
        ("portslice/ingress-ceil", "0B", "a ceil of 0B is no limit at all"),
        ("portslice/ingress-ceil", "1000TB", "above every link"),
        ("portslice/ingress-burst", "1B", "holds no full packet; give at least 1600B"),
        ("portslice/ingress-burst", "5GB", "is too large; give at most 4GB"),
        ("portslice/ingress-burst", "-64KB", "is negative"),
        ("portslice/cpus", "", "is not a number of CPUs; write a decimal number such as 0.35"),
        ("portslice/cpus", "0", "is no CPU at all"),
        ("portslice/cpus", "-0.5", "is negative"),
        ("portslice/cpus", "0.1234", "at most 3 decimals"),
        ("portslice/cpus", "1e9", "is not a number of CPUs"),
        ("portslice/cpus", "100001", "the largest is 100000"),
        ("portslice/cpus", &many, "is not a number of CPUs"),
        ("portslice/limit-local", "1", "\"1\" is neither true nor false"),
        ("portslice/limit_local", "true", "did you mean limit-local?"),
        ("portslice/egress-rate", "default", "does not begin with a number"),
    ] {
        let error = Request::from_annotations(id(), [(key, value)]).unwrap_err();
        let line = error.to_string();
        assert_eq!(error.exit_code(), 2);
        assert!(line.starts_with("annotation ") && line.contains(words), "{key}: {line}");
        assert!(!line.contains(char::is_control) && line.len() < 700, "{key}: {line}");
    }
}

#[test]
fn a_ceil_below_its_rate_is_refused_in_either_order() {
    for direction in ["egress", "ingress"] {
        let (rate, ceil) = (format!("portslice/{direction}-rate"), format!("portslice/{direction}-ceil"));
        for pairs in [[(&rate, "2mbit"), (&ceil, "1mbit")], [(&ceil, "1mbit"), (&rate, "0B")]] {
            let line = Request::from_annotations(id(), pairs).unwrap_err().to_string();
            assert!(line.contains("the ceil 1mbit is below the rate"), "{line}");
            assert!(line.contains(pairs[1].0.as_str()), "{line}");
        }
        assert!(Request::from_annotations(id(), [(&rate, "2mbit"), (&ceil, "2mbit")]).is_ok());
    }
}

#[test]
fn a_burst_fits_its_rate_in_either_order() {
    for (rate, burst, words) in [
        ("8kbit", "64KB", "a burst of 64KB is more than a minute at the rate 8kbit; give at most 60000B"),
        ("0B", "64KB", "a burst of 64KB limits nothing at a rate of 0B (unlimited)"),
    ] {
        let (rate, burst) = (("portslice/egress-rate", rate), ("portslice/egress-burst", burst));
        for pairs in [[rate, burst], [burst, rate]] {
            let line = Request::from_annotations(id(), pairs).unwrap_err().to_string();
            assert!(line.starts_with(&format!("annotation {}: ", pairs[1].0)) && line.contains(words), "{line}");
        }
    }
}

fn change(pairs: &[(&str, &str)]) -> Change {
    let mut change = Change::default();
    for (key, value) in pairs {
        change.set(key, value, &format!("--{key}")).unwrap();
    }
    change
}

#[test]
fn a_change_sets_takes_back_and_leaves() {
    let asked = Limit {
        rate: Some("1mbit".parse().unwrap()),
        ceil: Some("2mbit".parse().unwrap()),
        burst: Some("64KB".parse().unwrap()),
    };
    let changed = change(&[("egress-rate", "0B"), ("egress-ceil", "default"), ("ingress-burst", "default")]);
    assert_eq!(changed.egress.applied(&asked), Limit { rate: Some("0B".parse().unwrap()), ceil: None, ..asked });
    assert_eq!(changed.ingress.applied(&asked), Limit { burst: None, ..asked });
    assert_eq!((changed.cpus, changed.limit_local, &changed.ports), (None, None, &None));
    let changed = change(&[("cpus", "default"), ("limit-local", "default")]);
    assert_eq!((changed.cpus, changed.limit_local), (Some(None), Some(None)));
    assert_eq!(changed.egress.applied(&asked), asked);
    let changed = change(&[("cpus", "100.5"), ("limit-local", "false"), ("ingress-burst", "2KB")]);
    assert_eq!(changed.cpus, Some(Some("100.5".parse().unwrap())));
    assert_eq!(changed.limit_local, Some(Some(false)));
    assert_eq!(changed.ingress.applied(&asked).burst.map(|size| size.bytes()), Some(2048));
    assert!(change(&[]).is_empty() && !changed.is_empty() && !change(&[("cpus", "default")]).is_empty());
}

#[test]
fn ports_are_replaced_or_adjusted() {
    let now: PortSet = "31000-31009,31100".parse().unwrap();
    for (given, after) in [
        ("31200", "31200"),
        ("", ""),
        ("31000-31001,5", "5,31000-31001"),
        ("+31101", "31000-31009,31100-31101"),
        ("+31100", "31000-31009,31100"),
        ("-31005", "31000-31004,31006-31009,31100"),
        ("+31010-31020,-31100", "31000-31020"),
        (" -31000 - 31009 , +1 ", "1,31100"),
        ("-31000-31009,-31100", ""),
    ] {
        let change = change(&[("ports", given)]).ports.unwrap();
        assert_eq!(change.applied(&now, "ports").unwrap().to_string(), after, "{given}");
    }
    for (given, now, words) in [
        ("-31010", &now, "ports: 31010 cannot be removed; the container has 31000-31009,31100"),
        ("-31008-31011,+5", &now, "ports: 31010-31011 cannot be removed"),
        ("-80", &PortSet::empty(), "ports: 80 cannot be removed; the container has no ports"),
    ] {
        let error = change(&[("ports", given)]).ports.unwrap().applied(now, "ports").unwrap_err();
        assert!(error.to_string().starts_with(words) && error.exit_code() == 2, "{error}");
    }
}

#[test]
fn open_ports_are_replaced_adjusted_or_taken_back() {
    let now: PortSet = "8080,9000-9099".parse().unwrap();
    for (given, after) in [
        ("none", ""),
        ("", ""),
        ("all", "1024-65535"),
        ("80+443,all", "80,443,1024-65535"),
        ("9090", "9090"),
        ("+9100", "8080,9000-9100"),
        ("-8080,+80", "80,9000-9099"),
    ] {
        let change = change(&[("open-ports", given)]).open_ports.unwrap().unwrap();
        assert_eq!(change.applied(&now, "open-ports").unwrap().to_string(), after, "{given}");
    }
    assert_eq!(change(&[("open-ports", "default")]).open_ports, Some(None));
    let refused = |given, now: &PortSet| {
        let change = change(&[("open-ports", given)]).open_ports.unwrap().unwrap();
        change.applied(now, "open-ports").unwrap_err().to_string()
    };
    assert_eq!(refused("-80", &now), "open-ports: 80 cannot be removed; the container has 8080,9000-9099");
    assert_eq!(refused("-80", &PortSet::empty()), "open-ports: 80 cannot be removed; the container has no open ports");
}

#[test]
fn a_change_that_cannot_be_is_refused_in_one_line() {
    let long = "+1,".repeat(40_000);
    for (key, value, words) in [
        ("ports", "+31100,31101", "\"31101\" has no sign while another item has one"),
        ("ports", "31100,-31101", "\"31100\" has no sign while another item has one"),
        ("ports", "+31000-31009,-31005-31020", "31005-31009 is both added and removed"),
        ("ports", "+31100,", "empty item"),
        ("ports", "+", "empty item"),
        ("ports", "--5", "is not a port"),
        ("ports", "+-5", "is not a port"),
        ("ports", "+0", "outside 1-65535"),
        ("ports", "+9-8", "write 8-9"),
        ("ports", "auto:2", "\"auto:2\" cannot be given to a container that runs"),
        ("ports", "+5,+auto:1", "\"+auto:1\" cannot be given"),
        ("ports", "default", "ports have no default"),
        ("ports", "+1\u{1b}[2J", "\\u{1b}"),
        ("ports", &long, "at most 65536"),
        ("open-ports", "none,80", "none stands beside ports"),
        ("open-ports", "+80,all", "\"all\" has no sign while another item has one"),
        ("open-ports", "some", "besides, all and none are understood"),
        ("egress-rate", "fast", "does not begin with a number"),
        ("egress-rate", "1bit", "below the slowest"),
        ("egress-rate", "Default", "does not begin with a number"),
        ("ingress-ceil", "0B", "a ceil of 0B is no limit at all"),
        ("ingress-burst", "1KB", "holds no full packet"),
        ("cpus", "0", "is no CPU at all"),
        ("limit-local", "no", "neither true nor false"),
        ("ephemeral-ports", "2048", "fixed when a container is created"),
        ("host-loopback", "true", "fixed when a container is created"),
        ("executor-id", "x", "fixed when a container is created"),
        ("source", "default", "fixed when a container is created"),
        ("egres-rate", "1mbit", "did you mean egress-rate?"),
    ] {
        let mut change = Change::default();
        let error = change.set(key, value, &format!("--{key}")).unwrap_err();
        let line = error.to_string();
        assert_eq!(error.exit_code(), 2);
        assert!(line.starts_with(&format!("--{key}: ")) && line.contains(words), "{key} {value}: {line}");
        assert!(!line.contains(char::is_control) && line.len() < 700, "{key} {value}: {line}");
        assert!(change.is_empty(), "{key} {value}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_is_asked_the_answer_is_one_line(key in "portslice/(ports|egress-rate|source|\\PC{0,9})", value in "(?s).{0,60}") {
        if let Err(error) = Request::from_annotations(id(), [(key, value)]) {
            let line = error.to_string();
            prop_assert!(!line.contains(char::is_control), "{:?}", line);
        }
    }

    #[test]
    fn a_change_of_ports_does_what_it_says(
        now in proptest::collection::vec(1u16..40, 0..9),
        items in proptest::collection::vec((any::<bool>(), 1u16..40), 1..6),
    ) {
        let set = |ports: &[u16]| {
            ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",").parse::<PortSet>().unwrap()
        };
        let of = |add| items.iter().filter(|item| item.0 == add).map(|item| item.1).collect::<Vec<_>>();
        let (now, add, remove) = (set(&now), set(&of(true)), set(&of(false)));
        let sign = |add| if add { '+' } else { '-' };
        let text: Vec<String> = items.iter().map(|&(add, port)| format!("{}{port}", sign(add))).collect();
        let mut change = Change::default();
        let taken = change.set("ports", &text.join(","), "--ports");
        prop_assert_eq!(taken.is_ok(), add.first_overlap(&remove).is_none());
        if taken.is_ok() {
            let after = change.ports.unwrap().applied(&now, "ports");
            prop_assert_eq!(after.is_ok(), remove.is_subset(&now));
            if let Ok(after) = after {
                for port in 1..=65535u16 {
                    let expected = add.contains(port) || now.contains(port) && !remove.contains(port);
                    prop_assert_eq!(after.contains(port), expected, "{}", port);
                }
            }
        }
    }

    #[test]
    fn ids_never_leave_their_directory(text in "(?s).{0,20}|[./a-z]{0,4}") {
        if let Ok(id) = text.parse::<ContainerId>() {
            let path = std::path::Path::new("/run").join(id.as_str());
            prop_assert_eq!(path.parent(), Some(std::path::Path::new("/run")));
            prop_assert_eq!(path.file_name().and_then(|name| name.to_str()), Some(text.as_str()));
        }
    }
}
