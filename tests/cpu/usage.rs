//! What is read of a container's cgroups.

use portslice::cpu::{Asked, Bandwidth, Place, Policy, Version, settings};
use portslice::stats::cgroup::parse::{Stall, Waited, keyed, listed, stall, value};
use portslice::stats::cgroup::{Memory, Pressure, Usage, limits, read};
use proptest::prelude::*;
use serde_json::json;

use crate::tree::Tree;

fn usage(tree: &Tree) -> (Usage, Vec<String>) {
    let reading = read(&tree.place().unwrap(), true).unwrap();
    assert!(reading.notes.iter().all(|note| !note.contains('\n')), "{:?}", reading.notes);
    (reading.usage, reading.notes)
}

fn seconds(usage: &Usage) -> (Option<f64>, Option<f64>, Option<f64>) {
    (usage.cpus_user_time_secs, usage.cpus_system_time_secs, usage.cpus_throttled_time_secs)
}

fn counts(usage: &Usage) -> [Option<u64>; 4] {
    [usage.cpus_nr_periods, usage.cpus_nr_throttled, usage.processes, usage.threads]
}

#[test]
fn v1_has_mesos_names_and_units() {
    for tree in [Tree::v1_joined(), Tree::v1_split()] {
        let (usage, notes) = usage(&tree);
        assert_eq!(notes, [""; 0]);
        assert_eq!(
            serde_json::to_value(&usage).unwrap(),
            json!({
                "cpus_nr_periods": 40, "cpus_nr_throttled": 7, "cpus_throttled_time_secs": 1.5,
                "cpus_user_time_secs": 12.34, "cpus_system_time_secs": 0.66, "processes": 2, "threads": 3,
                "mem_rss_bytes": 8192, "mem_anon_bytes": 8192, "mem_cache_bytes": 4096, "mem_file_bytes": 4096,
                "mem_mapped_file_bytes": 12288, "mem_swap_bytes": 16384, "mem_unevictable_bytes": 20480,
                "mem_total_bytes": 24576, "mem_kmem_usage_bytes": 512, "mem_kmem_tcp_usage_bytes": 0,
                "mem_limit_bytes": 1048576,
            })
        );
    }
}

#[test]
fn v2_has_the_same_names_and_pressure() {
    let tree = Tree::v2("/box/web");
    let (usage, notes) = usage(&tree);
    assert_eq!(notes, [""; 0]);
    let waited = |avg10, avg60, total| json!({"avg10": avg10, "avg60": avg60, "avg300": 0.0, "total_secs": total});
    assert_eq!(
        serde_json::to_value(&usage).unwrap(),
        json!({
            "cpus_nr_periods": 9, "cpus_nr_throttled": 3, "cpus_throttled_time_secs": 4.5,
            "cpus_user_time_secs": 1.25, "cpus_system_time_secs": 0.75, "processes": 2, "threads": 3,
            "mem_rss_bytes": 8192, "mem_anon_bytes": 8192, "mem_cache_bytes": 4096, "mem_file_bytes": 4096,
            "mem_mapped_file_bytes": 512, "mem_swap_bytes": 0, "mem_unevictable_bytes": 256,
            "mem_total_bytes": 16384, "mem_kmem_usage_bytes": 2048, "mem_kmem_tcp_usage_bytes": 1024,
            "pressure": {
                "cpu": {"some": waited(1.5, 0.25, 2.5), "full": waited(0.0, 0.0, 0.5)},
                "memory": {"some": waited(1.5, 0.25, 2.5)},
            },
        })
    );
    tree.write("sys/fs/cgroup/box/web/memory.max", "1048576\n");
    tree.write("sys/fs/cgroup/box/web/memory.low", "4096\n");
    let memory = self::usage(&tree).0.memory;
    assert_eq!([memory.mem_limit_bytes, memory.mem_soft_limit_bytes], [Some(1 << 20), Some(4096)]);
    assert_eq!(read(&tree.place().unwrap(), false).unwrap().usage.processes, None);
}

/// Time and quota from v1, pressure from the v2 cgroup beside it, memory nowhere.
#[test]
fn hybrid_is_read_from_both() {
    let (usage, notes) = usage(&Tree::hybrid());
    assert_eq!(seconds(&usage), (Some(12.34), Some(0.66), Some(1.5)));
    assert!(usage.pressure.cpu.is_some() && usage.memory == Memory::default());
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("for memory"), "{notes:?}");
}

#[test]
fn a_source_that_fails_takes_only_its_own_fields_along() {
    let whole = usage(&Tree::v1_split()).0;
    let (acct, cpu, memory) =
        ("sys/fs/cgroup/cpuacct/box/web", "sys/fs/cgroup/cpu/box/web", "sys/fs/cgroup/memory/box/web");
    type Without = fn(&mut Usage);
    let cases: [(&str, &str, &str, Without); 9] = [
        (acct, "cpuacct.stat", "user 12", |u| (u.cpus_user_time_secs, u.cpus_system_time_secs) = (None, None)),
        (acct, "cpuacct.stat", "user -1\nsystem 2\n", |u| {
            (u.cpus_user_time_secs, u.cpus_system_time_secs) = (None, None);
        }),
        (cpu, "cpu.stat", "nr_periods many\nnr_throttled 1\n", |u| {
            (u.cpus_nr_periods, u.cpus_nr_throttled, u.cpus_throttled_time_secs) = (None, None, None);
        }),
        (cpu, "cgroup.procs", "1\nx\n", |u| (u.processes, u.threads) = (None, None)),
        (cpu, "tasks", "1 2\n", |u| (u.processes, u.threads) = (None, None)),
        (memory, "memory.usage_in_bytes", "99999999999999999999\n", |u| u.memory.mem_total_bytes = None),
        (memory, "memory.usage_in_bytes", "", |u| u.memory.mem_total_bytes = None),
        (memory, "memory.limit_in_bytes", "-1\n", |u| u.memory.mem_limit_bytes = None),
        (memory, "memory.stat", "total_rss x\n", |u| {
            let kept = (u.memory.mem_total_bytes, u.memory.mem_limit_bytes);
            let kmem = (u.memory.mem_kmem_usage_bytes, u.memory.mem_kmem_tcp_usage_bytes);
            u.memory = Memory::default();
            (u.memory.mem_total_bytes, u.memory.mem_limit_bytes) = kept;
            (u.memory.mem_kmem_usage_bytes, u.memory.mem_kmem_tcp_usage_bytes) = kmem;
        }),
    ];
    for (at, file, garbage, without) in cases {
        let tree = Tree::v1_split();
        tree.write(&format!("{at}/{file}"), garbage);
        let mut expected = whole.clone();
        without(&mut expected);
        let (got, notes) = usage(&tree);
        assert_eq!(got, expected, "{file} {garbage:?}");
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains(&format!("{file}: it does not hold what the kernel writes there")), "{notes:?}");
    }
    for (at, file, note) in
        [(acct, "cpuacct.stat", true), (cpu, "cpu.stat", true), (memory, "memory.limit_in_bytes", false)]
    {
        let tree = Tree::v1_split();
        tree.remove(&format!("{at}/{file}"));
        let notes = usage(&tree).1;
        assert_eq!(notes.iter().filter(|n| n.contains(file)).count(), usize::from(note), "{notes:?}");
    }
    // pressure is as optional as the kernel makes it, but not garbage
    let tree = Tree::v2("/box/web");
    for file in ["cpu.pressure", "memory.pressure"] {
        tree.remove(&format!("sys/fs/cgroup/box/web/{file}"));
    }
    tree.write("sys/fs/cgroup/box/web/io.pressure", "some avg10=x\n");
    let (got, notes) = usage(&tree);
    assert_eq!(got.pressure, Pressure::default());
    assert!(notes.len() == 1 && notes[0].contains("io.pressure"), "{notes:?}");
}

/// Not a row of zeros.
#[test]
fn a_cgroup_that_is_gone_is_an_error() {
    let tree = Tree::v1_split();
    let place = tree.place().unwrap();
    tree.remove("sys/fs/cgroup/memory/box/web");
    let reading = read(&place, true).unwrap();
    assert_eq!(reading.usage.memory, Memory::default());
    assert!(reading.notes[0].contains("cgroup/memory/box/web is gone"), "{:?}", reading.notes);
    assert_eq!(counts(&reading.usage), [Some(40), Some(7), Some(2), Some(3)]);

    tree.remove("sys/fs/cgroup/cpu/box/web");
    let reading = read(&place, true).unwrap();
    assert_eq!(counts(&reading.usage), [None; 4]);
    assert_eq!(seconds(&reading.usage), (Some(12.34), Some(0.66), None));

    tree.remove("sys/fs/cgroup/cpuacct/box/web");
    let error = read(&place, true).unwrap_err();
    assert_eq!((error.exit_code(), error.to_string().contains("box/web is gone")), (6, true), "{error}");
    assert_eq!(read(&Place::default(), true).unwrap_err().exit_code(), 5);
}

/// crun sets it on the cgroup of the processes, which is within the scope.
#[test]
fn the_least_memory_limit_counts() {
    let tree = Tree::v2("/machine.slice/libpod-1.scope/container");
    let scope = "sys/fs/cgroup/machine.slice/libpod-1.scope";
    tree.v2_files(scope);
    for (outer, inner, limit) in
        [("max", "max", None), ("max", "4096", Some(4096)), ("8192", "max", Some(8192)), ("8192", "4096", Some(4096))]
    {
        tree.write(&format!("{scope}/memory.max"), outer);
        tree.write(&format!("{scope}/container/memory.max"), inner);
        assert_eq!(usage(&tree).0.memory.mem_limit_bytes, limit, "{outer} and {inner}");
    }
}

/// A container with an init that has cgroups of its own for everything.
#[test]
fn processes_below_count_where_there_are_none_above() {
    let tree = Tree::v2("/box/web");
    let at = "sys/fs/cgroup/box/web";
    for (below, processes, threads) in [("init.scope", "1\n", "1\n"), ("system.slice/a.service", "7\n8\n", "7\n8\n9\n")]
    {
        tree.write(&format!("{at}/{below}/cgroup.procs"), processes);
        tree.write(&format!("{at}/{below}/cgroup.threads"), threads);
    }
    assert_eq!(counts(&usage(&tree).0)[2..], [Some(2), Some(3)], "its own only");
    for file in ["cgroup.procs", "cgroup.threads"] {
        tree.write(&format!("{at}/{file}"), "");
    }
    assert_eq!(counts(&usage(&tree).0)[2..], [Some(3), Some(4)]);
}

#[test]
fn limits_follow_mesos_rule() {
    let policy = |enable_cfs| Policy { enable_cfs, ..Policy::default() };
    let written = |asked: &Asked, enable_cfs| {
        let quota = settings(asked, &policy(enable_cfs), Version::V2).quota?;
        Some(Bandwidth { quota, period: 100_000 })
    };
    for (cpus, limit, cfs, expected) in [
        ("", "", true, (None, None)),
        ("2.5", "", false, (None, Some(2.5))),
        ("2.5", "", true, (Some(2.5), Some(2.5))),
        ("2.5", "4", false, (Some(4.0), Some(2.5))),
        ("2.5", "4", true, (Some(4.0), Some(2.5))),
        ("2.5", "inf", true, (Some(8.0), Some(2.5))),
        ("", "0.1", false, (Some(0.1), None)),
    ] {
        let asked = Asked {
            cpus: (!cpus.is_empty()).then(|| cpus.parse().unwrap()),
            limit: (!limit.is_empty()).then(|| limit.parse().unwrap()),
            revocable: false,
        };
        assert_eq!(limits(&asked, written(&asked, cfs), 8), expected, "{cpus} {limit} {cfs}");
        assert_eq!(limits(&asked, None, 8).0, None, "nothing holds it");
    }
}

#[test]
fn forms_are_exact() {
    assert_eq!(keyed("user 12\nsystem 3\n", "system"), Some(Some(3)));
    assert_eq!(keyed("user_usec 12\n", "user"), Some(None));
    for bad in ["user", "user  1", "user +1", "user 1 2", "user 1.0", "user 18446744073709551616"] {
        assert_ne!(keyed(bad, "user"), Some(Some(1)), "{bad}");
        assert_eq!(keyed(bad, "user").is_none(), bad != "user", "{bad}");
    }
    assert_eq!(value("max\n"), Some(None));
    assert_eq!(value("9223372036854771712\n"), Some(None));
    assert_eq!(value("9223372036852678655\n"), Some(Some(9_223_372_036_852_678_655)));
    assert_eq!(value("0\n"), Some(Some(0)));
    assert_eq!((value(""), value("1 2"), value("maximum"), value("-1")), (None, None, None, None));
    assert_eq!([listed(""), listed("1\n2\n2\n0\n")], [Some(0), Some(3)]);
    assert_eq!([listed("1\n\n2\n"), listed("1 2\n"), listed("-1\n")], [None; 3]);
    let line = |kind: &str| format!("{kind} avg10=100.00 avg60=0.01 avg300=2.00 total=1\n");
    let waited = Waited { avg10: 100.0, avg60: 0.01, avg300: 2.0, total_secs: 1e-6 };
    assert_eq!(stall(&line("some")), Some(Stall { some: waited, full: None }));
    assert_eq!(stall(&(line("some") + &line("full"))), Some(Stall { some: waited, full: Some(waited) }));
    for bad in [
        String::new(),
        line("full"),
        line("some") + &line("some"),
        "some avg10=1 avg300=1 avg60=1 total=1".into(),
        "some avg10=NaN avg60=1 avg300=1 total=1".into(),
        "some avg10=-1 avg60=1 avg300=1 total=1".into(),
        "some avg10=1 avg60=1 avg300=1 total=-1".into(),
        "some avg10=1 avg60=1 avg300=1".into(),
    ] {
        assert_eq!(stall(&bad), None, "{bad}");
    }
}

proptest! {
    /// Whatever stands in a file, nothing panics and no number comes out that is not in it.
    #[test]
    fn garbage_is_refused_or_read(text in "(?s).{0,80}", words in "((some|full|user|max|avg10=|total=|[0-9]{0,25}|-|\\.)[ \n]?){0,12}") {
        for text in [text, words] {
            if let Some(Some(number)) = keyed(&text, "user") {
                let line = text.lines().find(|line| line.starts_with("user ")).unwrap();
                prop_assert_eq!(line["user ".len()..].parse::<u64>().unwrap(), number);
            }
            if let Some(Some(number)) = value(&text) {
                prop_assert_eq!(text.trim_end().parse::<u64>().unwrap(), number);
            }
            if let Some(count) = listed(&text) {
                prop_assert!(count <= text.lines().count() as u64);
            }
            if let Some(stall) = stall(&text) {
                prop_assert!(stall.some.avg10 >= 0.0 && stall.some.total_secs >= 0.0);
            }
        }
    }

    /// And the same for what tells where a container is.
    #[test]
    fn a_strange_proc_is_no_panic(cgroup in "([0-9]:|cpu|,|:|/|\\.\\.|memory|x| |\n){0,20}", mounts in "(1 |/ |\\\\0|40| - |cgroup2? |rw|cpu|,|\n){0,30}") {
        let tree = Tree::new(&cgroup, "0::/\n", &[&mounts]);
        let place = tree.place().unwrap();
        prop_assert!(read(&place, true).is_err());
    }
}
