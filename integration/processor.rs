//! Promise: a container gets the CPUs it asks for, no more than its limit, and what it used is accounted to it, with either
//! version of cgroups.

use crate::lab::bundle::{Bundle, Network, Running, Runtime};
use crate::lab::kill::{Steps, at_every_step, killed};
use crate::lab::*;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const BUSY: [&str; 3] = ["sh", "-c", "while :; do :; done"];

/// A sliced container that runs `args`, with annotations.
fn start<'r>(host: &Host, runtime: &'r Runtime<'r>, name: &str, args: &[&str], asked: &[(&str, &str)]) -> Running<'r> {
    let bundle = asked.iter().fold(Bundle::new(host, name, args).sliced(), |bundle, (key, value)| {
        bundle.annotation(&format!("portslice/{key}"), value)
    });
    runtime.start(&bundle)
}

#[track_caller]
fn statistics(host: &Host, id: &str) -> Value {
    host.portslice(["stats", id, "--json"]).ok().json()[0]["statistics"].clone()
}

/// User and system seconds.
#[track_caller]
fn used(host: &Host, id: &str) -> f64 {
    let all = statistics(host, id);
    let part = |name: &str| all[name].as_f64().unwrap_or_else(|| panic!("{name} of {id}: {all}"));
    part("cpus_user_time_secs") + part("cpus_system_time_secs")
}

/// CPUs that containers used on average over a while.
fn share(host: &Host, ids: &[&str], over: Duration) -> Vec<f64> {
    let (start, before) = (Instant::now(), ids.iter().map(|id| used(host, id)).collect::<Vec<_>>());
    std::thread::sleep(over);
    let after: Vec<f64> = ids.iter().map(|id| used(host, id)).collect();
    let seconds = start.elapsed().as_secs_f64();
    before.iter().zip(after).map(|(before, after)| (after - before) / seconds).collect()
}

/// A file of the cgroup in which a container has a controller, as the product found it.
#[track_caller]
fn file(host: &Host, id: &str, controller: &str, name: &str) -> String {
    let shown = host.portslice(["show", id, "--json"]).ok().json();
    let directory = shown["cgroups"][controller]["directory"].as_str().unwrap_or_else(|| panic!("{shown}"));
    let path: PathBuf = host.ns.root(directory).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_string()
}

/// Weight and quota in either version's files, as one text: "512 50000" or "50 50000 100000".
#[track_caller]
fn limits(host: &Host, id: &str) -> String {
    let shown = host.portslice(["show", id, "--json"]).ok().json();
    if shown["cgroups"]["cpu"]["version"] == "v2" {
        format!("{} {}", file(host, id, "cpu", "cpu.weight"), file(host, id, "cpu", "cpu.max"))
    } else {
        format!("{} {}", file(host, id, "cpu", "cpu.shares"), file(host, id, "cpu", "cpu.cfs_quota_us"))
    }
}

fn v2(host: &Host, id: &str) -> bool {
    host.portslice(["show", id, "--json"]).ok().json()["cgroups"]["cpu"]["version"] == "v2"
}

/// All on the first processor: only there do shares decide.
fn together(running: &[&Running<'_>]) {
    let mut first = CpuSet::new();
    first.set(0).expect("a processor");
    for one in running {
        sched_setaffinity(Pid::from_raw(one.pid as i32), &first).expect("affinity");
    }
}

#[test]
fn a_limit_holds_a_busy_container() {
    let host = Host::new("cpu-limit");
    let runtime = host.runtime("runc");
    let busy = start(&host, &runtime, "busy", &BUSY, &[("cpus", "0.5"), ("cpus-limit", "0.5")]);
    let throttled = |id: &str| statistics(&host, id)["cpus_nr_throttled"].as_u64().expect("throttled");
    let before = throttled(&busy.id);
    // others may keep it from its half, but not each time; nothing gives it more
    let held = (0..3).any(|_| {
        let [share] = share(&host, &[&busy.id], Duration::from_secs(5))[..] else { unreachable!() };
        println!("0.5 CPU: {share:.3}");
        assert!(share <= 0.525, "a limit of 0.5 CPU let {share} through");
        share >= 0.475
    });
    assert!(held, "a busy container with 0.5 CPU never got them");
    assert!(throttled(&busy.id) > before, "it was never throttled");
    let all = statistics(&host, &busy.id);
    assert_eq!((all["cpus_limit"].as_f64(), all["cpus_soft_limit"].as_f64()), (Some(0.5), Some(0.5)), "{all}");
    let shown = host.portslice(["show", &busy.id]).ok().stdout;
    assert!(shown.contains("0.5, limit 0.5; weight ") && shown.contains("; at most 50000 of 100000 us\n"), "{shown}");
    // live, up, and away again
    host.portslice(["set", &busy.id, "--cpus-limit", "inf", "--cpus", "1"]).ok();
    let expected = if v2(&host, &busy.id) { "100 max 100000" } else { "1024 -1" };
    assert_eq!(limits(&host, &busy.id), expected);
}

#[test]
fn shares_decide_who_gets_a_contended_processor() {
    let host = Host::new("cpu-shares");
    let runtime = host.runtime("runc");
    let one = start(&host, &runtime, "one", &BUSY, &[("cpus", "0.3")]);
    let three = start(&host, &runtime, "three", &BUSY, &[("cpus", "0.9")]);
    together(&[&one, &three]);
    let ratio = || {
        let [one, three] = share(&host, &[&one.id, &three.id], Duration::from_secs(4))[..] else { unreachable!() };
        println!("0.9 and 0.3 CPUs asked for: {three:.3} and {one:.3} used, {:.2} to 1", three / one);
        three / one
    };
    assert!((0..3).any(|_| (2.7..=3.3).contains(&ratio())), "0.9 to 0.3 CPUs is never 3 to 1");
    // one that may be taken away gives way
    host.portslice(["set", &three.id, "--cpus-revocable", "true"]).ok();
    let [one, three] = share(&host, &[&one.id, &three.id], Duration::from_secs(3))[..] else { unreachable!() };
    assert!(three < 0.15 * one, "a revocable container used {three:.3} CPUs beside one that used {one:.3}");
}

#[test]
fn what_is_asked_stands_in_the_cgroup_and_stays_there() {
    let host = Host::new("cpu-files");
    let (runtime, crun) = (host.runtime("runc"), host.runtime("crun"));
    let rows = [
        (&runtime, "half", "0.5", "0.5", "512 50000", "50 50000 100000"),
        (&crun, "half-crun", "0.5", "0.5", "512 50000", "50 50000 100000"),
        (&runtime, "least", "0.001", "0.001", "2 1000", "1 1000 100000"),
        (&runtime, "many", "100.5", "100.5", "102912 10050000", "10000 10050000 100000"),
        (&runtime, "free", "2", "inf", "2048 -1", "200 max 100000"),
    ];
    for (runtime, name, cpus, limit, v1_files, v2_files) in rows {
        let container = start(&host, runtime, name, &["sleep", "1000"], &[("cpus", cpus), ("cpus-limit", limit)]);
        let expected = if v2(&host, &container.id) { v2_files } else { v1_files };
        assert_eq!(limits(&host, &container.id), expected, "{name}");
        if name == "least" {
            // what the kernel does not take as asked is told
            let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            let told = |text: &str| words(text).contains("the least the kernel takes");
            let out = host.portslice(["set", &container.id, "--cpus", "0.002"]).ok();
            assert!(out.stderr.starts_with("portslice: warning: ") && told(&out.stderr), "{out}");
            assert!(told(&host.portslice(["show", &container.id]).ok().stdout));
        }
        if name.starts_with("half") {
            container.exec(&["true"]).ok();
            runtime.call(&["update", "--memory", "100000000", &container.id]).ok();
            assert_eq!(limits(&host, &container.id), expected, "after exec and update --memory");
            let memory = statistics(&host, &container.id)["mem_limit_bytes"].as_u64().expect("its limit");
            assert!((99_000_000..=100_000_000).contains(&memory), "mem_limit_bytes {memory}");
        }
    }
    // nothing asked: what the runtime set is left alone
    let bundle = Bundle::new(&host, "own", &["sleep", "1000"]).sliced().edit(|config| {
        config["linux"]["resources"]["cpu"] = serde_json::json!({"shares": 333, "quota": 70000, "period": 100000})
    });
    let own = runtime.start(&bundle);
    let before = limits(&host, &own.id);
    assert!(before.contains("70000"), "{before}");
    host.portslice(["set", &own.id, "--cpus", "2", "--cpus-limit", "1"]).ok();
    assert_ne!(limits(&host, &own.id), before);
    host.portslice(["set", &own.id, "--cpus", "default", "--cpus-limit", "default"]).ok();
    assert_eq!(limits(&host, &own.id), before, "what was there before is back");
}

#[test]
fn processes_and_threads_and_time_are_counted() {
    let host = Host::new("cpu-counts");
    let runtime = host.runtime("runc");
    let container = start(&host, &runtime, "c", &["sh", "-c", "sleep 1000 & sleep 1000 & wait"], &[]);
    let counts = |all: &Value| (all["processes"].as_u64(), all["threads"].as_u64());
    let grows_to = |n| wait::eventually(|| counts(&statistics(&host, &container.id)) == (Some(n), Some(n)));
    assert!(grows_to(3), "{}", statistics(&host, &container.id));
    let before = used(&host, &container.id);
    let out = container.exec(&["sh", "-c", "time -p sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'"]).ok();
    let told: f64 = out
        .stderr
        .lines()
        .filter_map(|l| l.strip_prefix("user ").or(l.strip_prefix("sys ")))
        .map(|s| s.trim().parse::<f64>().expect("seconds"))
        .sum();
    let grown = used(&host, &container.id) - before;
    assert!((grown - told).abs() < 0.1 + 0.1 * told, "the container's time grew by {grown}, the shell says {told}");
    nix::sys::signal::kill(Pid::from_raw(container.pid as i32), nix::sys::signal::Signal::SIGKILL).expect("kill");
    assert!(grows_to(0), "{}", statistics(&host, &container.id));
    // a bare namespace has no cgroup of its own: those fields are missing, the others are there
    let bare = host.bare("bare", &[]);
    let all = statistics(&host, &bare.id);
    assert_eq!((counts(&all), all["net_tx_packets"].as_u64()), ((None, None), Some(0)), "{all}");
}

#[test]
fn a_limit_that_nobody_could_hold_is_refused() {
    let host = Host::new("cpu-refused");
    let still = crate::lab::still::Still::of(&host);
    let out = host.try_bare("c", &["--cpus-limit", "0.5"]).err().expect("a refusal");
    assert_eq!((out.code, out.stderr.lines().count()), (Some(5), 1), "{out}");
    still.check("refused");
    for bad in [["--cpus", "-1"], ["--cpus", "0"], ["--cpus-limit", "none"], ["--cpus-revocable", "maybe"]] {
        let out = host.try_bare("c", &bad).err().expect("a refusal");
        assert_eq!((out.code, out.stderr.lines().count()), (Some(2), 1), "{bad:?}: {out}");
    }
    still.check("refused");
}

/// A bundle to whose CPU limits the runtime gave values of its own.
fn with_own_limits(host: &Host) -> Bundle {
    Bundle::new(host, "c", &["sleep", "1000"]).edit(|config| {
        config["linux"]["resources"]["cpu"] = serde_json::json!({"shares": 333, "quota": 70000, "period": 50000})
    })
}

/// Reads what stands in the CPU cgroup of an attached container, weight first.
fn cpu_files(host: &Host, id: &str) -> impl Fn() -> Vec<String> + use<> {
    let cgroup = host.portslice(["show", id, "--json"]).ok().json()["cgroups"]["cpu"].clone();
    let directory = host.ns.root(cgroup["directory"].as_str().expect("its directory"));
    let names: &[&str] = match cgroup["version"].as_str() {
        Some("v2") => &["cpu.weight", "cpu.max"],
        _ => &["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"],
    };
    move || {
        let read = |name: &&str| std::fs::read_to_string(directory.join(name)).expect("a file of the cgroup");
        names.iter().map(read).map(|text| text.trim().to_string()).collect()
    }
}

/// An engine's `--cpus 0.5` holds whatever share the container asks for here.
#[test]
fn a_limit_that_the_runtime_set_is_told() {
    let host = Host::new("cpu-engine");
    let runtime = host.runtime("runc");
    let told = |name: &str, resources: Value, asked: &[(&str, &str)]| {
        let bundle = Bundle::new(&host, name, &["sleep", "1000"]).sliced();
        let bundle = bundle.edit(|config| config["linux"]["resources"] = resources);
        let bundle = asked.iter().fold(bundle, |bundle, (key, value)| bundle.annotation(key, value));
        let container = runtime.start(&bundle);
        let limit = statistics(&host, &container.id)["cpus_limit"].as_f64();
        (limit, host.portslice(["show", &container.id]).ok().stdout)
    };
    let half = || serde_json::json!({"cpu": {"quota": 50_000, "period": 100_000}});
    for asked in [&[][..], &[("portslice/cpus", "1.5")]] {
        let (limit, shown) = told("half", half(), asked);
        assert_eq!(limit, Some(0.5), "{asked:?}: {shown}");
        assert!(shown.contains("; at most 0.5 by its runtime\n"), "{asked:?}: {shown}");
    }
    let (limit, shown) = told("other", half(), &[("portslice/cpus-limit", "0.25")]);
    assert_eq!(limit, Some(0.25), "{shown}");
    assert!(shown.contains("; at most 25000 of 100000 us\n") && !shown.contains("by its runtime"), "{shown}");
    let (limit, shown) = told("none", serde_json::json!({}), &[]);
    assert!(limit.is_none() && !shown.contains("by its runtime"), "{shown}");

    let probe = runtime.start(&Bundle::new(&host, "probe", &["sleep", "1000"]).sliced());
    if !v2(&host, &probe.id) {
        eprintln!("skipped: the CPU controller is in a v1 hierarchy, where a runtime refuses `unified`");
        return;
    }
    let (limit, shown) = told("unified", serde_json::json!({"unified": {"cpu.max": "20000 100000"}}), &[]);
    assert_eq!(limit, Some(0.2), "{shown}");
    assert!(shown.contains("0.2 by its bundle") && shown.contains("; at most 0.2 by its runtime\n"), "{shown}");
}

const ASKED: [&str; 4] = ["--cpus", "2", "--cpus-limit", "1.5"];

#[test]
fn what_is_asked_no_longer_is_as_the_runtime_set_it() {
    let host = Host::new("cpu-default");
    let runtime = host.runtime("runc");
    let running = runtime.start(&with_own_limits(&host));
    let id = running.id.as_str();
    host.portslice(["attach", id, "--pid", &running.pid.to_string()]).ok();
    let files = cpu_files(&host, id);
    let own = files();
    let set = |args: &[&str]| host.portslice([&["set", id], args].concat()).ok();
    set(&ASKED);
    let given = files();
    assert!(own[0] != given[0] && own[1] != given[1], "{own:?} and {given:?}");
    set(&["--cpus-limit", "default"]);
    assert_eq!(files(), [&given[..1], &own[1..]].concat(), "without a limit of ours");
    set(&["--cpus", "default"]);
    assert_eq!(files(), own, "with nothing of ours");
}

/// Whoever is killed on the way leaves behind what stood in the cgroup, or what the lease says.
#[test]
fn what_the_runtime_set_survives_a_kill_at_every_step() {
    const STEPS: &Steps = &[("write", 1), ("rename", 1), ("flock", 1), ("exit_group", 1)];
    let host = Host::new("cpu-killed");
    let runtime = host.runtime("runc");
    let running = runtime.start(&with_own_limits(&host));
    let (id, pid) = (running.id.as_str(), running.pid.to_string());
    let attach = ["attach", id, "--pid", &pid];
    host.portslice(attach).ok();
    let files = cpu_files(&host, id);
    let set = |args: &[&str]| host.portslice([&["set", id], args].concat()).ok();
    let own = files();
    set(&ASKED);
    let given = files();
    set(&["--cpus", "default", "--cpus-limit", "default"]);

    let whole = |what: &str| {
        let lease = host.portslice(["show", id, "--json"]).ok().json();
        let expected = if lease["asked"]["cpus"].is_null() { &own } else { &given };
        assert_eq!(&files(), expected, "{what}: {lease}");
    };
    let forth = [&["portslice", "set", id], &ASKED[..]].concat();
    let mut steps = at_every_step(
        STEPS,
        |call, n| killed(&host, call, n, &forth, ""),
        |what, _| {
            host.portslice(["gc"]).ok();
            whole(what);
            set(&["--cpus", "default", "--cpus-limit", "default"]);
            assert_eq!(files(), own, "{what}, set back");
        },
    );
    set(&ASKED);
    steps += at_every_step(
        STEPS,
        |call, n| killed(&host, call, n, &["portslice", "detach", id], ""),
        |what, _| {
            host.portslice(["gc"]).ok();
            host.portslice(["detach", id]).ok();
            assert_eq!(files(), own, "{what} of detach");
            host.portslice([&attach[..], &ASKED].concat()).ok();
            whole(what);
        },
    );
    host.portslice(["detach", id]).ok();
    steps += at_every_step(
        STEPS,
        |call, n| killed(&host, call, n, &[&["portslice"], &attach[..], &ASKED].concat(), ""),
        |what, _| {
            host.portslice(["gc"]).ok();
            if !host.ids().is_empty() {
                whole(what);
                host.portslice(["detach", id]).ok();
            }
            assert_eq!(files(), own, "{what} of attach");
        },
    );
    assert!(steps > 15, "only {steps} steps were found");
}

/// A namespace that outlives its container: what its cgroup had is nobody's any more, and everything else goes on.
#[test]
fn a_cgroup_that_went_is_in_nobodys_way() {
    let host = Host::new("cpu-gone");
    let runtime = host.runtime("runc");
    let ns = Ns::net_only("cpu-gone");
    let bundle = Bundle::new(&host, "c", &["sleep", "1000"]).network(Network::Path(&ns.path()));
    let running = runtime.start(&bundle);
    let (id, pid) = (running.id.clone(), running.pid.to_string());
    host.portslice(["attach", &id, "--pid", &pid, "--cpus", "2"]).ok();
    drop(running);
    let set = |args: &[&str]| host.portslice([&["set", &id], args].concat());
    set(&["--ingress-rate", "100mbit"]).ok();
    let still = crate::lab::still::Still::of(&host);
    let out = set(&["--cpus", "3"]);
    assert_eq!((out.code, out.stderr.lines().count()), (Some(6), 1), "{out}");
    still.check("a refused change");
    set(&["--cpus", "default"]).ok();
    host.portslice(["gc"]).ok();
    let all = statistics(&host, &id);
    assert!(all["net_rx_packets"].is_u64() && all["cpus_user_time_secs"].is_null(), "{all}");
    host.portslice(["detach", &id]).ok();
}

#[test]
fn what_others_set_meanwhile_stays() {
    let host = Host::new("cpu-others");
    let runtime = host.runtime("runc");
    let container = start(&host, &runtime, "c", &["sleep", "1000"], &[("cpus", "2"), ("cpus-limit", "1")]);
    runtime.call(&["update", "--cpu-share", "300", &container.id]).ok();
    let both = limits(&host, &container.id);
    let (weight, quota) = both.split_once(' ').expect("weight and quota");
    let shown = host.portslice(["show", &container.id, "--json"]).ok().json();
    let directory = host.ns.root(shown["cgroups"]["cpu"]["directory"].as_str().expect("its directory"));
    host.portslice(["detach", &container.id]).ok();
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).ok().map(|text| text.trim().to_string());
    let now = read("cpu.shares").or_else(|| read("cpu.weight")).expect("its weight");
    assert_eq!(now, weight, "set by runc update");
    assert_ne!(read("cpu.cfs_quota_us").or_else(|| read("cpu.max")).as_deref(), Some(quota), "set by us");
}
