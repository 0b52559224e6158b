//! Where a limit comes from, how it is shown, and what cannot be meant.

use super::*;
use crate::lab::limit::{MBIT, bits};
use crate::lab::still::{Still, assert_bare};
use serde_json::Value;

/// Mesos' own numbers (ScaleEgressWithCPU): 1000 bytes a second for a CPU, at least 2000, at most 4000.
const PER_CPU: &str = "ports = \"31000-31999\"\n\
    egress_rate_per_cpu = \"1000B\"\nminimum_egress_rate_limit = \"2000B\"\nmaximum_egress_rate_limit = \"4000B\"\n\
    ingress_rate_per_cpu = \"1mbit\"\n";

#[test]
fn limits_follow_cpus() {
    let host = Host::with("limit-cpus").config(PER_CPU).build();
    let rows = [("1", 16_000, MBIT), ("3.1", 24_000, 3 * MBIT), ("5", 32_000, 5 * MBIT), ("100.5", 32_000, 100 * MBIT)];
    for (n, (cpus, egress, ingress)) in rows.into_iter().enumerate() {
        let container = host.bare(&format!("c{n}"), &["--cpus", cpus]);
        assert_eq!(container.in_force(cpus), [Some(egress), Some(ingress)], "{cpus} cpus");
        container.set(&["--cpus", "2"]).ok();
        assert_eq!(container.in_force("2 cpus"), [Some(16_000), Some(2 * MBIT)]);
        // asked is asked, whatever the CPUs say
        container.set(&["--egress-rate", "1mbit"]).ok();
        assert_eq!(container.in_force("asked"), [Some(MBIT), Some(2 * MBIT)]);
        let shown = container.show();
        assert_eq!(bits(&shown["asked"]["egress"]["rate"]), Some(MBIT), "asked: {shown}");
        assert_eq!(bits(&shown["configured"]["egress"]["rate"]), Some(16_000), "configured: {shown}");
        assert_eq!(bits(&shown["asked"]["ingress"]["rate"]), None, "asked: {shown}");
        container.set(&["--egress-rate", "default"]).ok();
        assert_eq!(container.in_force("default"), [Some(16_000), Some(2 * MBIT)]);
    }
    let small = host.bare("small", &["--cpus", "0.35"]);
    assert_eq!(small.shown()[0], Some(16_000), "no whole CPU: the minimum");
}

#[test]
fn limits_follow_the_link() {
    const AUTO: &str = "ports = \"31000-31999\"\negress_rate_per_cpu = \"auto\"\ncpus = 10\n";
    const GBIT: u64 = 1000 * MBIT;
    // ScaleEgressWithCPULarge: 64 CPUs share a hundred gigabits
    let large = "egress_rate_per_cpu = \"auto\"\nlink_speed = \"100gbit\"\ncpus = 64\n\
        minimum_egress_rate_limit = \"5gbit\"\nmaximum_egress_rate_limit = \"90gbit\"\n";
    let linear = 30 * (100 * GBIT / 64);
    for (name, config, rows) in [
        ("as-configured", format!("{AUTO}link_speed = \"40gbit\"\n"), &[("1", 4 * GBIT), ("3", 12 * GBIT)][..]),
        // the lab's uplink says ten gigabits
        ("as-the-device-says", AUTO.to_string(), &[("1", GBIT), ("7.9", 7 * GBIT)]),
        ("large", large.to_string(), &[("30", linear), ("1", 5 * GBIT), ("60", 90 * GBIT)]),
    ] {
        let host = Host::with(&format!("limit-link-{name}")).config(&config).build();
        for (n, (cpus, rate)) in rows.iter().enumerate() {
            let container = host.bare(&format!("c{n}"), &["--cpus", cpus]);
            let [egress, ingress] = container.shown();
            let egress = egress.unwrap_or_else(|| panic!("{name}, {cpus} CPUs: no limit: {}", container.show()));
            // a share that does not come out even may be cut to whole bytes
            assert!(egress.abs_diff(*rate) <= 30 * 8, "{name}, {cpus} CPUs: {egress} bit/s, should be {rate}");
            assert_eq!(ingress, None, "{name}, {cpus} CPUs");
        }
    }
}

#[test]
fn a_link_without_a_speed_gives_no_automatic_limit() {
    let config = "uplink = \"mute\"\negress_rate_per_cpu = \"auto\"\ncpus = 10\n";
    let host = Host::with("limit-link-mute").config(config).unprepared().build();
    host.ns.ip("link add mute type ifb\naddr add 10.99.0.2/24 dev mute\nlink set mute up");
    let speed = std::fs::read_to_string(host.ns.root("/sys/class/net/mute/speed"));
    assert!(speed.as_ref().map_or(true, |s| s.trim() == "-1"), "an ifb says how fast it is: {speed:?}");
    let spare = Ns::net_only("refused");
    let still = Still::of(&host);
    let out = host.portslice(["attach", "x", "--pid", &spare.pid().to_string(), "--cpus", "2"]);
    assert!(out.code.is_some_and(|code| [2, 5].contains(&code)), "auto without a link speed: {out}");
    for text in ["egress_rate_per_cpu", "link_speed"] {
        assert!(out.stderr.contains(text), "auto without a link speed should say {text}: {out}");
    }
    assert_eq!(out.stderr.lines().count(), 1, "auto without a link speed: {out}");
    still.check("auto without a link speed");
    assert_bare("auto without a link speed", &spare);
    host.ns.ip("link del mute");
}

#[test]
fn limits_of_the_configuration() {
    let config = "ports = \"31000-31999\"\n\
        egress_rate_limit_per_container = \"37500KB\"\negress_ceil_limit = \"75000KB\"\negress_burst = \"512KB\"\n\
        ingress_rate_limit_per_container = \"10mbit\"\n";
    let host = Host::with("limit-config").config(config).build();
    let plain = host.bare("plain", &[]);
    assert_eq!(plain.in_force("configured"), [Some(307_200_000), Some(10 * MBIT)]);
    let shown = plain.show();
    let egress = |key: &str| bits(&shown["egress"][key]);
    assert_eq!((egress("ceil"), egress("burst")), (Some(614_400_000), Some(512 * 1024 * 8)), "{shown}");
    assert_eq!(shown["asked"]["egress"]["rate"], Value::Null, "{shown}");
    assert_eq!(shown["egress_placed"], "host", "{shown}");
    assert_eq!(shown["limit_local"], true, "{shown}");
    let text = host.portslice(["show", "plain"]).ok().stdout;
    assert!(text.contains("37500KB") && text.contains("307.2 Mbit/s"), "both units: {text}");
    // what is asked stands above it, unlimited included
    let free = host.bare("free", &["--egress-rate", "0B"]);
    assert_eq!(free.shown(), [None, Some(10 * MBIT)], "asked for no limit: {}", free.show());
    assert_eq!(free.shaped_egress(), None);
    let own = host.bare("own", &["--egress-rate", "1mbit", "--egress-ceil", "2mbit", "--ingress-rate", "3mbit"]);
    assert_eq!(own.in_force("asked"), [Some(MBIT), Some(3 * MBIT)]);
    // a hook asks with annotations
    let ns = Ns::net_only("by hook");
    host.prestart("hook", ns.pid(), &[("portslice/egress-rate", "4mbit"), ("portslice/cpus", "0.5")]).ok();
    let shown = host.portslice(["show", "hook", "--json"]).ok().json();
    assert_eq!(bits(&shown["egress"]["rate"]), Some(4 * MBIT), "{shown}");
    assert_eq!(shown["egress_placed"], "host", "a namespace that somebody else made: {shown}");
}

/// A ceil above the rate: what the burst allows may go faster, and never faster than the ceil.
#[test]
fn a_ceil_is_the_most() {
    let host = Host::new("limit-ceil");
    let args = ["--egress-rate", "10mbit", "--egress-ceil", "20mbit", "--egress-burst", "256KB"];
    let container = host.bare("c", &args);
    let stream = flow::Plan::new(Carrier::Udp, &container.ns, &host.peer, SocketAddr::new(PEER4, 20_000)).start();
    let window = Duration::from_secs(1);
    let began = stream.began();
    std::thread::sleep(Duration::from_millis(2200));
    for second in 0..2 {
        let got = stream.bytes(began + window * second, window);
        let most = limit::most(20 * MBIT, window, stream.carrier.packet()) + 256.0 * 1024.0;
        println!("second {second} at 10 to 20 Mbit/s: {:.2} Mbit/s", got * 8.0 / 1e6);
        assert!(got <= most, "second {second}: {got:.0} bytes through a ceil of 20 Mbit/s");
        assert!(got >= 0.85 * 10e6 / 8.0, "second {second}: {got:.0} bytes at a rate of 10 Mbit/s");
    }
}

/// What cannot be meant: the options, and what the refusal names.
const BAD: [(&[&str], &[&str]); 17] = [
    (&["--egress-rate", "300"], &["--egress-rate", "300", "no unit", "mbit"]),
    (&["--ingress-rate", "300"], &["--ingress-rate", "no unit"]),
    (&["--egress-rate=-5mbit"], &["--egress-rate", "negative"]),
    (&["--egress-rate", "fast"], &["--egress-rate", "fast"]),
    (&["--egress-rate", ""], &["--egress-rate"]),
    (&["--egress-rate", "10mbps"], &["--egress-rate", "10mbps", "unit"]),
    (&["--egress-rate", "1.5bit"], &["--egress-rate", "whole"]),
    (&["--egress-rate", "99999999999999999999tbit"], &["--egress-rate", "too large"]),
    (&["--ingress-rate", "18446744073709551615bit"], &["--ingress-rate", "18446744073709551615"]),
    (&["--egress-rate", "10mbit", "--egress-ceil", "5mbit"], &["--egress-ceil", "5mbit", "10mbit"]),
    (&["--ingress-rate", "10mbit", "--ingress-ceil", "9999kbit"], &["--ingress-ceil", "10mbit"]),
    (&["--egress-rate", "10mbit", "--egress-burst", "100B"], &["--egress-burst", "100B", "1600B"]),
    (&["--ingress-burst", "64kbit"], &["--ingress-burst", "KB"]),
    (&["--cpus", "many"], &["--cpus", "many"]),
    (&["--cpus=-1"], &["--cpus"]),
    (&["--cpus", "1e400"], &["--cpus"]),
    (&["--limit-local", "perhaps"], &["--limit-local", "perhaps"]),
];

#[test]
fn limits_that_cannot_be_meant() {
    let host = Host::new("limit-bad");
    // one limited container, so that what limits share is there already
    let _limited = host.bare("limited", &["--egress-rate", "10mbit", "--ingress-rate", "10mbit"]);
    let (spare, still, before) = (Ns::net_only("refused"), Still::of(&host), limit::queues_and_filters(&host));
    let pid = spare.pid().to_string();
    for (args, says) in BAD {
        let annotations: Vec<(String, &str)> = pairs(args);
        let annotated = annotations.iter().map(|(key, value)| (key.as_str(), *value)).collect::<Vec<_>>();
        let by_option = host.portslice([&["attach", "x", "--pid", &pid], args].concat());
        let by_hook = host.prestart("x", spare.pid(), &annotated);
        for (out, says) in [(by_option, says.to_vec()), (by_hook, says[1..].to_vec())] {
            let what = format!("{args:?}, `{}`", out.line);
            assert_eq!(out.code, Some(2), "{what}: {out}");
            assert_eq!(out.stderr.lines().count(), 1, "{what}: one line: {out}");
            for text in says {
                assert!(out.stderr.contains(text), "{what}: should say {text:?}: {out}");
            }
        }
        still.check(&format!("{args:?}"));
        assert_bare(&format!("{args:?}"), &spare);
    }
    still.check_all("after all refusals");
    assert_eq!(limit::queues_and_filters(&host), before, "qdiscs, classes and filters after all refusals");
}

/// Options as the annotations of the same name.
fn pairs<'a>(args: &[&'a str]) -> Vec<(String, &'a str)> {
    let joined = args.iter().flat_map(|a| a.split('=')).collect::<Vec<_>>();
    joined.chunks(2).map(|c| (c[0].replace("--", "portslice/"), c[1])).collect()
}

/// What a config file must not say about limits, and what is said about it.
const BAD_CONFIGS: [(&str, &[&str]); 10] = [
    ("egress_rate_limit_per_container = \"1000\"", &["egress_rate_limit_per_container", "no unit"]),
    (
        "minimum_egress_rate_limit = \"2mbit\"\nmaximum_egress_rate_limit = \"1mbit\"",
        &["_egress_rate_limit", "(1mbit)", "(2mbit)"],
    ),
    ("minimum_ingress_rate_limit = \"2mbit\"\nmaximum_ingress_rate_limit = \"1mbit\"", &["_ingress_rate_limit"]),
    ("egress_rate_per_cpu = \"automatic\"", &["egress_rate_per_cpu", "auto"]),
    ("egress_rate_per_cpu = 5", &["egress_rate_per_cpu"]),
    ("minimum_egress_rate_limit = \"0B\"\negress_rate_per_cpu = \"1mbit\"", &["minimum_egress_rate_limit"]),
    ("egress_burst = \"10B\"", &["egress_burst", "1600B"]),
    ("link_speed = \"10\"", &["link_speed", "no unit"]),
    ("cpus = -1", &["cpus"]),
    ("limit_local = \"yes\"", &["limit_local"]),
];

#[test]
fn a_config_whose_limits_cannot_be_meant() {
    let host = Host::with("limit-bad-config").unprepared().build();
    let spare = Ns::net_only("refused");
    for (text, says) in BAD_CONFIGS {
        std::fs::write(host.config_file(), text).expect("config");
        for out in
            [host.portslice(["attach", "x", "--pid", &spare.pid().to_string()]), host.prestart("x", spare.pid(), &[])]
        {
            let what = format!("{text:?}, `{}`", out.line);
            assert_eq!(out.code, Some(2), "{what}: {out}");
            assert_eq!(out.stderr.lines().count(), 1, "{what}: one line: {out}");
            for text in says {
                assert!(out.stderr.contains(text), "{what}: should say {text:?}: {out}");
            }
        }
    }
    std::fs::write(host.config_file(), "").expect("config");
    assert!(!host.state_dir().exists(), "a refused config made {:?}", host.state_dir());
    assert_bare("after all", &spare);
}
