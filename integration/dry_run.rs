//! Promise: `--dry-run` prints exactly the steps that the run which follows performs, and changes nothing.

use crate::lab::still::Still;
use crate::lab::*;

/// The steps that a run with -v tells of, in order.
fn performed(out: &run::Output) -> Vec<String> {
    let told = |line: &str| line.split_once("portslice::slice::run] ").map(|(_, step)| step.trim().to_string());
    out.stderr.lines().filter_map(told).collect()
}

/// Runs a verb dry, then in earnest, and compares step by step. Returns the steps.
#[track_caller]
fn same(host: &Host, args: &[&str]) -> Vec<String> {
    let dry: Vec<&str> = args.iter().copied().chain(["--dry-run"]).collect();
    let still = host.state_dir().exists().then(|| Still::of(host));
    let links = host.links();
    let out = host.portslice(&dry).ok();
    let planned: Vec<String> = match out.stdout.as_str() {
        "nothing to do\n" => Vec::new(),
        would => would.lines().map(|line| line.strip_prefix("would ").unwrap_or(line).to_string()).collect(),
    };
    if matches!(args[0], "attach" | "set" | "gc") {
        let json: Vec<&str> = dry.iter().copied().chain(["--json"]).collect();
        assert_eq!(host.portslice(&json).ok().json(), serde_json::json!(planned), "{json:?}");
    }
    assert_eq!(host.links(), links, "{dry:?}: devices");
    if let Some(still) = still {
        still.check_all(&format!("{dry:?}"));
    }
    let verbose: Vec<&str> = ["-v"].into_iter().chain(args.iter().copied()).collect();
    let steps = performed(&host.portslice(&verbose).ok());
    assert_eq!(planned, steps, "{args:?}: what was printed, and what was performed");
    steps
}

#[test]
fn of_setup_and_undo() {
    let host = Host::with("dry-setup").unprepared().build();
    let steps = same(&host, &["setup"]);
    for part in ["reserve ports", "accept_local", "BPF file system", "program from_wire on eth0"] {
        assert!(steps.iter().any(|step| step.contains(part)), "{part}: {steps:?}");
    }
    assert_eq!(same(&host, &["setup"]), [""; 0], "a prepared host needs nothing");
    host.ns.set_sysctl("ipv4/conf/lo/accept_local", "0");
    let steps = same(&host, &["setup"]);
    assert_eq!(steps, ["set net.ipv4.conf.lo.accept_local = 1"]);
    let dry = host.portslice(["setup", "--undo", "--dry-run"]).ok();
    let steps = performed(&host.portslice(["-v", "setup", "--undo"]).ok());
    // it also looks for what only a killed run leaves, and says nothing of that
    let planned: Vec<String> = dry.stdout.lines().map(|line| line.replacen("would ", "", 1)).collect();
    assert!(planned.len() > 5 && planned.iter().all(|step| steps.contains(step)), "{planned:?}, performed {steps:?}");
    assert_eq!(host.portslice(["setup", "--undo", "--dry-run"]).ok().stdout, "nothing to do\n");
}

#[test]
fn of_the_verbs_of_a_container() {
    let host = Host::new("dry-verbs");
    let (one, other) = (Ns::net_only("one"), Ns::net_only("other"));
    let (pid, second) = (one.pid().to_string(), other.pid().to_string());
    let attach = ["attach", "a", "--pid", &pid, "--ports", "31000", "--ingress-rate", "20mbit"];
    let steps = same(&host, &attach);
    assert!(steps.last().is_some_and(|step| step.contains("31000") && step.contains("slot 1")), "{steps:?}");
    assert_eq!(same(&host, &attach), [""; 0], "what is attached needs nothing");

    let steps = same(&host, &["attach", "b", "--pid", &pid, "--ports", "31001"]);
    assert_eq!(steps, ["steer ports 31001 of slot 1"], "a member that joins");
    same(&host, &["set", "a", "--ports", "+31002", "--ingress-rate", "40mbit"]);
    assert_eq!(same(&host, &["set", "a", "--ports", "31000,31002", "--ingress-rate", "40mbit"]), [""; 0]);
    let again = host.portslice(["set", "a", "--ingress-rate", "40mbit"]).ok();
    assert_eq!(again.stdout, "nothing to do\n", "it has that already");
    same(&host, &["set", "a", "--ports", "none", "--ingress-rate", "0B"]);
    same(&host, &["set", "a", "--ports", "31000,31002"]);
    let steps = same(&host, &["detach", "a"]);
    assert_eq!(steps, ["withdraw ports 31000,31002 of slot 1"], "a member that leaves");

    same(&host, &["attach", "c", "--pid", &second, "--ports", "31100"]);
    other.kill();
    assert!(wait::eventually(|| host.links().iter().filter(|l| l.starts_with("portslice")).count() == 1));
    let steps = same(&host, &["gc"]);
    assert!(steps.first().is_some_and(|step| step.contains("31100")), "{steps:?}");
    assert_eq!(same(&host, &["gc"]), [""; 0]);
    same(&host, &["detach", "b"]);
    assert_eq!(same(&host, &["detach", "nobody"]), [""; 0]);
}

#[test]
fn of_a_rebuild() {
    let host = Host::new("dry-rebuild");
    let _container = host.bare("a", &["--ports", "31000"]);
    std::fs::remove_file(host.state_dir().join("leases/a")).expect("a lease");
    let dry = host.portslice(["fsck", "--rebuild", "--dry-run"]);
    assert!(dry.code == Some(1) && !host.state_dir().join("leases/a").exists(), "{dry}");
    let done = host.portslice(["fsck", "--rebuild"]).ok();
    let of = |out: &run::Output| out.stdout.lines().map(|l| l.split(": ").next().unwrap_or("").to_string()).collect();
    let (planned, mended): (Vec<String>, Vec<String>) = (of(&dry), of(&done));
    assert_eq!(planned, mended, "{dry}\n{done}");
}
