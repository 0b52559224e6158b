//! What is asked for -> what is written, with Mesos' own numbers.

use portslice::cpu::values::PERIOD;
use portslice::cpu::{Asked, CpuLimit, Policy, Quota, Settings, Version, settings};
use portslice::cpus::Cpus;
use proptest::prelude::*;

const PLAIN: Policy = Policy { enable_cfs: false, revocable_cpu_low_priority: true };
const CFS: Policy = Policy { enable_cfs: true, ..PLAIN };
const EQUAL: Policy = Policy { enable_cfs: false, revocable_cpu_low_priority: false };

/// "" asks for nothing; a trailing r makes the CPUs revocable.
fn asked(cpus: &str, limit: &str) -> Asked {
    let (cpus, revocable) = cpus.strip_suffix('r').map_or((cpus, false), |cpus| (cpus, true));
    let given = |text: &str| (!text.is_empty()).then(|| text.to_string());
    Asked {
        cpus: given(cpus).map(|cpus| cpus.parse().unwrap()),
        limit: given(limit).map(|limit| limit.parse().unwrap()),
        revocable,
    }
}

/// As they stand in the files: weight, then the quota or -1; `-` for what is not touched.
fn shown(settings: &Settings) -> String {
    let weight = settings.weight.map_or("-".into(), |weight| weight.to_string());
    let quota = match settings.quota {
        None => "-".into(),
        Some(Quota::Unlimited) => "-1".into(),
        Some(Quota::Micros(quota)) => quota.to_string(),
    };
    format!("{weight} {quota}")
}

#[test]
fn mesos_own_examples_come_out() {
    for (cpus, limit, policy, v1, v2) in [
        ("0.5", "", CFS, "512 50000", "50 50000"),
        ("0.001", "", CFS, "2 1000", "1 1000"),
        ("100.5", "", CFS, "102912 10050000", "10000 10050000"),
        ("0.5", "", PLAIN, "512 -", "50 -"),
        ("1", "2", PLAIN, "1024 200000", "100 200000"),
        ("1", "0.5", CFS, "1024 50000", "100 50000"),
        ("1", "inf", CFS, "1024 -1", "100 -1"),
        ("1", "inf", PLAIN, "1024 -1", "100 -1"),
        ("", "2", PLAIN, "- 200000", "- 200000"),
        ("", "inf", PLAIN, "- -1", "- -1"),
        ("", "", CFS, "- -", "- -"),
        ("0.35", "", CFS, "358 35000", "35 35000"),
        // in floating point this weight would be 28
        ("0.29", "", CFS, "296 29000", "29 29000"),
        ("2r", "", PLAIN, "20 -", "2 -"),
        ("0.5r", "", CFS, "5 50000", "1 50000"),
        ("2r", "", EQUAL, "2048 -", "200 -"),
        ("256", "", PLAIN, "262144 -", "10000 -"),
        ("257", "", PLAIN, "262144 -", "10000 -"),
        ("100", "", PLAIN, "102400 -", "10000 -"),
        ("0.01", "", CFS, "10 1000", "1 1000"),
    ] {
        for (version, expected) in [(Version::V1, v1), (Version::V2, v2)] {
            let settings = settings(&asked(cpus, limit), &policy, version);
            assert_eq!(shown(&settings), expected, "{cpus:?} {limit:?} {policy:?} {version:?}");
            assert_eq!(settings.is_empty(), cpus.is_empty() && limit.is_empty());
        }
    }
}

#[test]
fn what_the_kernel_does_not_take_is_told() {
    for (cpus, policy, version, notes) in [
        ("256", PLAIN, Version::V1, vec![]),
        ("100", CFS, Version::V2, vec![]),
        ("0.01", CFS, Version::V1, vec![]),
        (
            "256.001",
            PLAIN,
            Version::V1,
            vec!["256.001 CPUs make cpu.shares 262145, but the most the kernel takes is 262144"],
        ),
        ("100.5", CFS, Version::V2, vec!["100.5 CPUs make cpu.weight 10050, but the most the kernel takes is 10000"]),
        (
            "0.001",
            CFS,
            Version::V1,
            vec![
                "0.001 CPUs make cpu.shares 1, but the least the kernel takes is 2",
                "0.001 CPUs make cpu.cfs_quota_us 100 microseconds, but the least the kernel takes is 1000",
            ],
        ),
        (
            "0.005r",
            CFS,
            Version::V2,
            vec!["make cpu.weight 0, but the least", "make cpu.max 500 microseconds, but the least"],
        ),
    ] {
        let told = settings(&asked(cpus, ""), &policy, version).notes;
        assert_eq!(told.len(), notes.len(), "{cpus} {told:?}");
        for (told, words) in told.iter().zip(notes) {
            assert!(told.contains(words) && !told.contains('\n'), "{told}");
        }
    }
}

#[test]
fn a_limit_is_a_number_or_inf() {
    assert_eq!("inf".parse(), Ok(CpuLimit::Infinite));
    assert_eq!(" inf ".parse(), Ok(CpuLimit::Infinite));
    assert_eq!("1.5".parse(), Ok(CpuLimit::Cpus("1.5".parse().unwrap())));
    for limit in ["inf", "1.5"] {
        let json = serde_json::to_string(&limit.parse::<CpuLimit>().unwrap()).unwrap();
        assert_eq!(json, format!("\"{limit}\""));
        assert_eq!(serde_json::from_str::<CpuLimit>(&json).unwrap().to_string(), limit);
    }
    for bad in ["", "INF", "infinity", "-inf", "0", "-1", "1,5"] {
        assert!(bad.parse::<CpuLimit>().is_err(), "{bad}");
    }
}

proptest! {
    /// Never outside of what the kernel takes, never less for more, and told whenever it is not what the formula says.
    #[test]
    fn settings_are_within_bounds(a in 1..=100_000_000u64, b in 1..=100_000_000u64, revocable: bool, cfs: bool) {
        let policy = Policy { enable_cfs: cfs, ..PLAIN };
        for (version, scale, bounds) in
            [(Version::V1, [1024, 10], 2..=262_144), (Version::V2, [100, 1], 1..=10_000)]
        {
            let of = |thousandths: u64| {
                let asked = Asked { cpus: Cpus::from_thousandths(thousandths), limit: None, revocable };
                settings(&asked, &policy, version)
            };
            let (less, more) = (of(a.min(b)), of(a.max(b)));
            prop_assert!(bounds.contains(&less.weight.unwrap()) && bounds.contains(&more.weight.unwrap()));
            prop_assert!(less.weight <= more.weight);
            let exact = scale[usize::from(revocable)] * a.max(b) / 1000;
            let told = more.notes.iter().any(|note| note.contains("cpu.shares") || note.contains("cpu.weight"));
            prop_assert_eq!(told, more.weight != Some(exact));
            match more.quota {
                // 2^44 us: MAX_BW
                Some(Quota::Micros(quota)) => prop_assert!(cfs && (1000..1 << 44).contains(&quota)),
                quota => prop_assert!(!cfs && quota.is_none()),
            }
        }
        prop_assert_eq!(PERIOD, 100_000);
    }
}
