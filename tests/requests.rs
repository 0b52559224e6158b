//! Annotations as a container's author writes them, and as an attacker does.

use portslice::lease::ContainerId;
use portslice::request::Request;
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
            ("portslice/ephemeral-ports", "2048"),
            ("portslice/egress-ceil", "600mbit"),
            ("portslice/egress-rate", "37500KB"),
            ("portslice/egress-burst", "64KB"),
            ("portslice/ingress-rate", "0B"),
            ("portslice/host-loopback", "false"),
            ("portslice/executor-id", "executor \u{e9}"),
            ("portslice/source", ""),
        ],
    )
    .unwrap();
    assert_eq!(request.ports.to_string(), "31000-31009,31100,auto:2");
    assert_eq!(request.ephemeral_ports.map(u16::from), Some(2048));
    assert_eq!(request.egress.rate.unwrap().to_string(), "37500KB (307.2 Mbit/s)");
    assert_eq!(request.egress.ceil.unwrap().bits_per_second(), 600_000_000);
    assert_eq!(request.egress.burst.unwrap().bytes(), 65536);
    assert!(request.ingress.rate.unwrap().is_unlimited());
    assert_eq!(request.host_loopback, Some(false));
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
        ("portslice/cpus", "1", "unknown key"),
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
            assert!(line.contains("the ceil 125000B (1 Mbit/s) is below the rate"), "{line}");
            assert!(line.contains(pairs[1].0.as_str()), "{line}");
        }
        for fine in [[(&rate, "2mbit"), (&ceil, "2mbit")], [(&rate, "2mbit"), (&ceil, "0B")]] {
            assert!(Request::from_annotations(id(), fine).is_ok());
        }
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
    fn ids_never_leave_their_directory(text in "(?s).{0,20}|[./a-z]{0,4}") {
        if let Ok(id) = text.parse::<ContainerId>() {
            let path = std::path::Path::new("/run").join(id.as_str());
            prop_assert_eq!(path.parent(), Some(std::path::Path::new("/run")));
            prop_assert_eq!(path.file_name().and_then(|name| name.to_str()), Some(text.as_str()));
        }
    }
}
