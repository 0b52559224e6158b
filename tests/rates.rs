//! Where a limit comes from: the formula with Mesos' own numbers, every precedence, every refusal.

use portslice::cpus::Cpus;
use portslice::error::Result;
use portslice::rate::{Direction, Limit, Machine, PerCpu, Policy, Rate, Shape, Size};
use proptest::prelude::*;

fn rate(text: &str) -> Rate {
    text.parse().unwrap()
}

fn size(text: &str) -> Size {
    text.parse().unwrap()
}

fn cpus(text: &str) -> Option<Cpus> {
    (!text.is_empty()).then(|| text.parse().unwrap())
}

/// The policy of a configuration that says nothing.
fn policy(direction: Direction) -> Policy {
    Policy {
        direction,
        per_container: Rate::UNLIMITED,
        per_cpu: PerCpu::Off,
        minimum: rate("125000B"),
        maximum: Rate::UNLIMITED,
        ceil: Rate::UNLIMITED,
        burst: None,
    }
}

fn asked(rate: &str, ceil: &str, burst: &str) -> Limit {
    let given = |text: &str| (!text.is_empty()).then(|| self::rate(text));
    Limit { rate: given(rate), ceil: given(ceil), burst: (!burst.is_empty()).then(|| size(burst)) }
}

const NO_MACHINE: Machine = Machine { link: None, cpus: 0 };

fn machine(link: &str, cpus: u32) -> Machine {
    Machine { link: Some(rate(link)), cpus }
}

/// The rate of a container that asks for nothing.
fn given(policy: &Policy, cpus: &str, machine: &Machine) -> Option<Rate> {
    let shape = policy.shape(&Limit::default(), self::cpus(cpus), machine).unwrap();
    shape.map(|shape| shape.rate)
}

fn refusal(result: Result<Option<Shape>>) -> (String, u8) {
    let error = result.unwrap_err();
    let line = error.to_string();
    assert!(!line.contains(char::is_control), "{line}");
    (line, error.exit_code())
}

/// ScaleEgressWithCPU, ...Large, ...AutoConfig and their ingress twins, with their numbers.
#[test]
fn mesos_own_cases_come_out() {
    for direction in Direction::BOTH {
        let small = Policy {
            per_cpu: PerCpu::Rate(rate("1000B")),
            minimum: rate("2000B"),
            maximum: rate("4000B"),
            ..policy(direction)
        };
        for (cpus, bytes) in [("1", 2000), ("3.1", 3000), ("5", 4000), ("0.5", 2000), ("2.999", 2000), ("4", 4000)] {
            let rate = given(&small, cpus, &NO_MACHINE).unwrap();
            assert_eq!(rate.bytes_per_second(), bytes, "{direction} {cpus}");
        }
        let large =
            Policy { per_cpu: PerCpu::Auto, minimum: rate("5gbit"), maximum: rate("90gbit"), ..policy(direction) };
        let host = machine("100gbit", 64);
        for (cpus, bits) in [
            ("30", 30 * 1_562_500_000),
            ("1", 5_000_000_000),
            ("3.5", 5_000_000_000),
            ("4", 6_250_000_000),
            ("60", 90_000_000_000),
            ("64", 90_000_000_000),
        ] {
            assert_eq!(given(&large, cpus, &host), Some(Rate::from_bits_per_second(bits)), "{direction} {cpus}");
        }
        let auto = Policy { per_cpu: PerCpu::Auto, ..policy(direction) };
        assert_eq!(given(&auto, "1", &machine("10000mbit", 10)), Some(rate("1000mbit")));
        assert_eq!(given(&auto, "2.5", &machine("10gbit", 10)), Some(rate("2000mbit")));
        // Only whole bits: 10 Gbit/s for 3 CPUs.
        assert_eq!(given(&auto, "3", &machine("10gbit", 3)), Some(Rate::from_bits_per_second(9_999_999_999)));
    }
}

#[test]
fn the_first_that_says_something_decides() {
    let (fixed, each) = (rate("7mbit"), PerCpu::Rate(rate("3mbit")));
    for direction in Direction::BOTH {
        let plain = policy(direction);
        for (per_container, per_cpu, asked_rate, cpus, expected) in [
            (Rate::UNLIMITED, PerCpu::Off, "", "", None),
            (Rate::UNLIMITED, PerCpu::Off, "", "4", None),
            (fixed, PerCpu::Off, "", "", Some("7mbit")),
            (fixed, PerCpu::Off, "", "4", Some("7mbit")),
            (fixed, each, "", "4", Some("12mbit")),
            (fixed, each, "", "", Some("7mbit")),
            (fixed, PerCpu::Auto, "", "", Some("7mbit")),
            (Rate::UNLIMITED, each, "", "4", Some("12mbit")),
            (Rate::UNLIMITED, each, "", "0.9", Some("1mbit")),
            // CPUs that are unknown count as none.
            (Rate::UNLIMITED, each, "", "", Some("1mbit")),
            (Rate::UNLIMITED, PerCpu::Auto, "", "", Some("1mbit")),
            // What is asked stands above everything, the bounds of the others included.
            (fixed, each, "300mbit", "4", Some("300mbit")),
            (fixed, each, "8kbit", "4", Some("8kbit")),
            (fixed, PerCpu::Auto, "300mbit", "4", Some("300mbit")),
            (fixed, each, "0B", "4", None),
            (fixed, PerCpu::Off, "0mbit", "", None),
            (Rate::UNLIMITED, PerCpu::Off, "2mbit", "", Some("2mbit")),
        ] {
            let policy = Policy { per_container, per_cpu, maximum: rate("50mbit"), ..plain };
            let shape = policy.shape(&asked(asked_rate, "", ""), self::cpus(cpus), &NO_MACHINE).unwrap();
            let expected = expected.map(rate);
            assert_eq!(shape.map(|shape| shape.rate), expected, "{per_container} {per_cpu:?} {asked_rate} {cpus}");
        }
        // The bounds are for what scales: a fixed rate below the minimum stays.
        let slow = Policy { per_container: rate("8kbit"), ..plain };
        assert_eq!(given(&slow, "4", &NO_MACHINE), Some(rate("8kbit")));
    }
}

#[test]
fn auto_is_refused_where_the_host_does_not_say() {
    for direction in Direction::BOTH {
        let auto = Policy { per_cpu: PerCpu::Auto, ..policy(direction) };
        for (host, words) in [
            (NO_MACHINE, "the uplink does not tell its speed; set link_speed in the configuration"),
            (Machine { link: Some(Rate::UNLIMITED), cpus: 4 }, "set link_speed"),
            (machine("10gbit", 0), "the number of CPUs is unknown; set cpus in the configuration"),
        ] {
            let (line, code) = refusal(auto.shape(&Limit::default(), cpus("2"), &host));
            assert!(line.starts_with(&format!("{direction}_rate_per_cpu = \"auto\": ")), "{line}");
            assert!(line.contains(words) && code == 5, "{line}");
        }
        assert!(auto.needs_link());
        assert!(!policy(direction).needs_link());
    }
}

#[test]
fn what_leaves_the_range_of_rates_is_refused_by_the_key() {
    for direction in Direction::BOTH {
        let host = machine("100tbit", 1);
        for (per_cpu, cpus, words) in [
            (PerCpu::Rate(rate("100tbit")), "2", "(200 Tbit/s) is above every link"),
            (PerCpu::Rate(rate("100tbit")), "100000", "(10000000 Tbit/s) is above every link"),
            (PerCpu::Rate(Rate::from_bits_per_second(u64::MAX)), "2", "for each of 2 CPUs is more than 64 bits hold"),
            (PerCpu::Auto, "2", "is above every link"),
        ] {
            let policy = Policy { per_cpu, ..policy(direction) };
            let (line, code) = refusal(policy.shape(&Limit::default(), self::cpus(cpus), &host));
            assert!(line.starts_with(&format!("{direction}_rate_per_cpu: ")) && line.contains(words), "{line}");
            assert_eq!(code, 2);
            let capped = Policy { maximum: rate("100gbit"), ..policy };
            assert_eq!(given(&capped, cpus, &host), Some(rate("100gbit")));
        }
        let floorless = Policy { minimum: Rate::UNLIMITED, per_cpu: PerCpu::Rate(rate("1mbit")), ..policy(direction) };
        for cpus in ["", "0.5"] {
            let (line, _) = refusal(floorless.shape(&Limit::default(), self::cpus(cpus), &NO_MACHINE));
            assert!(line.contains("it comes to 0B, which would be no limit"), "{line}");
        }
    }
}

#[test]
fn a_ceil_is_asked_for_or_configured_above_the_rate() {
    let fixed = Policy { per_container: rate("2mbit"), ..policy(Direction::Egress) };
    for (configured, asked_rate, asked_ceil, expected) in [
        ("0B", "", "", "2mbit"),
        ("5mbit", "", "", "5mbit"),
        ("2mbit", "", "", "2mbit"),
        ("1mbit", "", "", "2mbit"),
        ("5mbit", "9mbit", "", "9mbit"),
        ("5mbit", "", "3mbit", "3mbit"),
        ("0B", "", "2mbit", "2mbit"),
        ("0B", "9mbit", "10mbit", "10mbit"),
    ] {
        let policy = Policy { ceil: rate(configured), ..fixed };
        let shape = policy.shape(&asked(asked_rate, asked_ceil, ""), None, &NO_MACHINE).unwrap().unwrap();
        assert_eq!(shape.ceil, rate(expected), "{configured} {asked_rate} {asked_ceil}");
    }
    let (line, code) = refusal(fixed.shape(&asked("", "1mbit", ""), None, &NO_MACHINE));
    assert_eq!(code, 2);
    assert!(line.starts_with("egress-ceil: the ceil 1mbit is below the rate 2mbit"), "{line}");
    for (limit, words) in [
        (asked("2mbit", "1mbit", ""), "asked egress limit: the ceil"),
        (asked("2mbit", "0B", ""), "a ceil of 0B is no limit at all; leave the ceil out, or give a rate of 0B"),
        (asked("1bit", "", ""), "asked egress limit: 1bit is below the slowest"),
    ] {
        let (line, _) = refusal(fixed.shape(&limit, None, &NO_MACHINE));
        assert!(line.contains(words), "{line}");
    }
}

#[test]
fn a_burst_is_asked_for_or_configured_or_ten_milliseconds() {
    for (rate_text, configured, asked_burst, bytes) in [
        ("8kbit", "", "", 1600),
        ("24kbit", "", "", 1600),
        ("25kbit", "", "", 3028),
        ("1mbit", "", "", 3028),
        ("10mbit", "", "", 12_500),
        ("300mbit", "", "", 375_000),
        ("10gbit", "", "", 12_500_000),
        ("100tbit", "", "", 4 << 30),
        ("10mbit", "1MB", "", 1 << 20),
        ("10mbit", "1600B", "", 1600),
        ("10mbit", "1MB", "2KB", 2048),
        ("8kbit", "", "60000B", 60_000),
        // A configured burst is cut to what a minute carries.
        ("8kbit", "1MB", "", 60_000),
    ] {
        let burst = (!configured.is_empty()).then(|| size(configured));
        for direction in Direction::BOTH {
            let policy = Policy { burst, ..policy(direction) };
            let shape = policy.shape(&asked(rate_text, "", asked_burst), None, &NO_MACHINE).unwrap().unwrap();
            assert_eq!(shape.burst.bytes(), bytes, "{rate_text} {configured} {asked_burst}");
        }
    }
    let slow = Policy { per_container: rate("8kbit"), ..policy(Direction::Ingress) };
    let (line, code) = refusal(slow.shape(&asked("", "", "64KB"), None, &NO_MACHINE));
    assert!(line.starts_with("ingress-burst: a burst of 64KB is more than a minute at the rate 8kbit;"), "{line}");
    assert_eq!(code, 2);
}

#[test]
fn a_ceil_or_burst_without_a_rate_limits_nothing() {
    for direction in Direction::BOTH {
        for (limit, part) in
            [(asked("", "1mbit", ""), "ceil"), (asked("", "", "64KB"), "burst"), (asked("", "1mbit", "64KB"), "ceil")]
        {
            let (line, code) = refusal(policy(direction).shape(&limit, cpus("2"), &NO_MACHINE));
            let start = format!("{direction}-{part}: there is no {direction} rate that it could exceed");
            assert!(line.starts_with(&start) && code == 2, "{line}");
        }
        let (line, _) = refusal(policy(direction).shape(&asked("0B", "", "64KB"), None, &NO_MACHINE));
        assert!(line.contains("a burst of 64KB limits nothing at a rate of 0B"), "{line}");
        // The configuration's ceil and burst wait for a rate.
        let waiting = Policy { ceil: rate("1gbit"), burst: Some(size("1MB")), ..policy(direction) };
        assert_eq!(waiting.shape(&Limit::default(), None, &NO_MACHINE).unwrap(), None);
    }
}

#[test]
fn the_text_of_a_rate_per_cpu_and_of_a_shape_comes_back() {
    for (text, per_cpu, json) in [
        ("0B", PerCpu::Off, "\"0B\""),
        ("0gbit", PerCpu::Off, "\"0B\""),
        ("auto", PerCpu::Auto, "\"auto\""),
        ("1kb", PerCpu::Rate(rate("1KB")), "\"1KB\""),
    ] {
        assert_eq!(text.parse::<PerCpu>().unwrap(), per_cpu);
        assert_eq!(serde_json::to_string(&per_cpu).unwrap(), json);
        assert_eq!(serde_json::from_str::<PerCpu>(json).unwrap(), per_cpu);
    }
    assert!("Auto".parse::<PerCpu>().unwrap_err().to_string().contains("write 37500KB, 300mbit or auto"));
    let shape = policy(Direction::Egress).shape(&asked("37500KB", "", ""), None, &NO_MACHINE).unwrap().unwrap();
    let json = serde_json::to_string(&shape).unwrap();
    assert_eq!(json, r#"{"rate":"37500KB","ceil":"37500KB","burst":"375KB"}"#);
    assert_eq!(serde_json::from_str::<Shape>(&json).unwrap(), shape);
}

fn rates() -> impl Strategy<Value = Rate> {
    (8_000u64..100_000_000_000_000).prop_map(Rate::from_bits_per_second)
}

fn counts() -> impl Strategy<Value = Cpus> {
    (1u64..=100_000_000).prop_filter_map("in range", Cpus::from_thousandths)
}

proptest! {
    #[test]
    fn what_scales_stays_in_its_bounds_and_never_shrinks(
        each in rates(), auto in any::<bool>(), ends in (rates(), rates()), ceil in rates(), host in 1u32..1000,
        (fewer, more) in (counts(), counts()).prop_map(|(a, b)| (a.min(b), a.max(b))),
        ingress in any::<bool>(), limit in proptest::option::of(1600u64..60_000),
    ) {
        let direction = if ingress { Direction::Ingress } else { Direction::Egress };
        let (minimum, maximum) = if ends.1.is_below(ends.0) { (ends.1, ends.0) } else { ends };
        let per_cpu = if auto { PerCpu::Auto } else { PerCpu::Rate(each) };
        let policy = Policy { per_cpu, minimum, maximum, ceil, burst: limit.map(Size::from_bytes), ..policy(direction) };
        let host = Machine { link: Some(each), cpus: host };
        let of = |cpus| policy.shape(&Limit::default(), cpus, &host).unwrap().unwrap();
        let (low, high, unknown) = (of(Some(fewer)), of(Some(more)), of(None));
        prop_assert!(!high.rate.is_below(low.rate) && !high.ceil.is_below(low.ceil));
        prop_assert!(high.burst >= low.burst);
        prop_assert_eq!(unknown.rate, minimum);
        for shape in [low, high, unknown] {
            prop_assert!(!shape.rate.is_below(minimum) && !maximum.is_below(shape.rate));
            prop_assert!(!shape.ceil.is_below(shape.rate) && !shape.ceil.is_unlimited());
            prop_assert!(shape.burst.bytes() >= limit.unwrap_or(3028));
            prop_assert!(shape.burst <= Limit::largest_burst(Some(shape.rate)));
        }
    }

    #[test]
    fn whatever_is_asked_the_shape_can_be_enforced_or_one_line_says_why(
        parts in (proptest::option::of(0u64..=u64::MAX), proptest::option::of(any::<u64>()), proptest::option::of(any::<u64>())),
        shifts in (0u32..64, 0u32..64, 0u32..64), fixed in rates(),
    ) {
        let limit = Limit {
            rate: parts.0.map(|bits| Rate::from_bits_per_second(bits >> shifts.0)),
            ceil: parts.1.map(|bits| Rate::from_bits_per_second(bits >> shifts.1)),
            burst: parts.2.map(|bytes| Size::from_bytes(bytes >> shifts.2)),
        };
        match (Policy { per_container: fixed, ..policy(Direction::Egress) }).shape(&limit, None, &NO_MACHINE) {
            Ok(None) => prop_assert_eq!(limit.rate, Some(Rate::UNLIMITED)),
            Ok(Some(shape)) => {
                prop_assert_eq!(shape.rate, limit.rate.unwrap_or(fixed));
                prop_assert_eq!(shape.ceil, limit.ceil.unwrap_or(shape.rate));
                prop_assert!(!shape.ceil.is_below(shape.rate) && shape.rate.out_of_bounds().is_none());
                prop_assert!(shape.burst.out_of_bounds(Some(shape.rate)).is_none());
            }
            Err(error) => prop_assert!(!error.to_string().contains(char::is_control), "{}", error),
        }
    }
}
