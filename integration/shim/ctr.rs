//! containerd without Kubernetes: `ctr run --runc-binary`.

use super::engine::{Asked, FIRST, Shimmed, lease_of, refusals, run_page, two_containers};
use super::*;
use crate::lab::containerd::Containerd;
use crate::lab::engine::IMAGE;
use std::os::unix::fs::PermissionsExt;

fn with(engines: Engines, name: &str, program: &str, test: impl Fn(&str, &Shimmed, &Containerd<'_>, &Asked<'_>)) {
    let Some(host) = engines.host(name) else { return };
    let shimmed = Shimmed::on(host, program, "");
    let containerd = shimmed.host.containerd();
    let (parent, tag) = (containerd.for_ctr(), shimmed.host.tag.clone());
    let runtime = shimmed.runtime.to_string_lossy().into_owned();
    let id = |name: &str| format!("{tag}-{name}");
    let start = |name: &str, asks: &[(&str, &str)], options: &[&str], line: &str| {
        let cgroup = format!("{parent}/{name}");
        let annotations: Vec<String> = asks.iter().map(|(key, value)| format!("portslice/{key}={value}")).collect();
        let annotations = annotations.iter().flat_map(|annotation| ["--annotation", annotation.as_str()]);
        let mut args =
            vec!["run", "--detach", "--snapshotter", "native", "--runc-binary", &runtime, "--cgroup", &cgroup];
        args.extend(annotations);
        args.extend(options);
        let id = id(name);
        args.extend([IMAGE, &id, "sh", "-c", line]);
        containerd.ctr(&args)
    };
    let exec =
        |name: &str, line: &str| containerd.ctr(&["task", "exec", "--exec-id", "look", &id(name), "sh", "-c", line]);
    let pid = |name: &str| {
        let tasks = containerd.ctr(&["task", "list"]).ok().stdout;
        let id = id(name);
        let line = tasks.lines().find(|line| line.split_whitespace().next() == Some(&id));
        let pid = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        pid.unwrap_or_else(|| panic!("no task {id}:\n{tasks}"))
    };
    let remove = |name: &str| {
        let id = id(name);
        let _ = containerd.ctr(&["task", "delete", "--force", &id]);
        let _ = containerd.ctr(&["container", "delete", &id]);
    };
    let failing = ["--mount", "type=bind,src=/nowhere,dst=/tmp,options=rbind"];
    let engine = Asked { start: &start, exec: &exec, pid: &pid, remove: &remove, failing: &failing };
    test(program, &shimmed, &containerd, &engine);
}

fn containers(engines: Engines) {
    for program in ["runc", "crun"] {
        with(engines, &format!("ctr-{program}"), program, |what, shimmed, _, engine| {
            two_containers(&format!("ctr, {what}"), shimmed, engine);
            refusals(&format!("ctr, {what}"), shimmed, engine);
        });
    }
}

#[test]
fn containers_of_containerd() {
    containers(Engines::Installed);
}

#[test]
fn containers_of_containerd_1_7() {
    containers(Engines::Debian13);
}

fn otherwise(engines: Engines) {
    with(engines, "ctr-options", "runc", |what, shimmed, containerd, engine| {
        let host = &shimmed.host;
        // root of another user namespace is somebody else outside of it
        std::fs::set_permissions(&host.dir, PermissionsExt::from_mode(0o711)).expect("permissions");
        let ask = |options: &[&str]| (engine.start)("web", &[("ports", "31000")], options, "exec sleep 1000");
        for options in ["--privileged", "--read-only"] {
            let what = format!("{what}, {options}");
            ask(&[options]).ok();
            shimmed.assert_bundle(&what);
            assert_works(&what, host, (engine.pid)("web"), 31_000, &slice(&what, host));
            (engine.remove)("web");
            assert_gone(&what, host);
        }
        let out = ask(&["--net-host"]);
        assert_eq!(out.stderr.matches("no network namespace of its own").count(), 1, "{what}: {out}");
        (engine.remove)("web");
        assert_gone(what, host);
        // As the page says: ctr calls another runtime then, and the container is found.
        containerd.at_the_usual_place();
        ask(&["--uidmap=0:100000:2000", "--gidmap=0:100000:2000"]).ok();
        assert_eq!(host.ids(), [""; 0], "{what}: ctr calls the runtime that it is told of");
        let told = host.portslice(["doctor"]).stdout;
        assert!(told.contains("containerd asks for a slice and has none"), "{what}: {told}");
        (engine.remove)("web");
    });
}

#[test]
fn what_ctr_can_ask_for_otherwise() {
    otherwise(Engines::Installed);
}

#[test]
fn what_ctr_of_containerd_1_7_can_ask_for_otherwise() {
    otherwise(Engines::Debian13);
}

fn joined(engines: Engines) {
    with(engines, "ctr-joins", "runc", |what, shimmed, _, engine| {
        let host = &shimmed.host;
        let ns = Ns::net_only("joined");
        let path = format!("network:{}", ns.path().display());
        (engine.start)("first", &[("ports", "31000")], &["--with-ns", &path], "exec sleep 1000").ok();
        let lease = lease_of(what, host, (engine.pid)("first"));
        let said = (engine.exec)("first", FIRST).ok().stdout;
        assert_told(what, host, &said, &[31_000], &block_of(&lease));
        // The second one has its place in the slice, and is told of it.
        (engine.start)("second", &[("ports", "31001")], &["--with-ns", &path], "exec sleep 1000").ok();
        let members = slice(what, host)["members"].as_array().map(Vec::len);
        assert_eq!(members, Some(2), "{what}: {:?}", host.list());
        let said = (engine.exec)("second", FIRST).ok().stdout;
        assert_told(what, host, &said, &[31_001], &block_of(&lease));
        (engine.remove)("first");
        (engine.remove)("second");
        ns.kill();
        assert!(eventually(|| host.portslice(["gc"]).ok().code == Some(0) && host.ids().is_empty()), "{what}");
        assert_gone(what, host);
    });
}

#[test]
fn a_namespace_that_exists_already() {
    joined(Engines::Installed);
}

#[test]
fn a_namespace_that_exists_already_under_containerd_1_7() {
    joined(Engines::Debian13);
}

#[test]
fn the_page_says_what_works() {
    const PAGE: &str = include_str!("../../docs/engines/containerd.md");
    with(Engines::Installed, "ctr-page", "runc", |what, shimmed, containerd, _| {
        let options = format!("ctr run --cgroup {}/page ", containerd.for_ctr());
        let altered = |block: &str| block.replace("ctr run ", &options);
        run_page(shimmed, PAGE, &containerd.env(), altered, |_| assert_gone(what, &shimmed.host));
        assert!(log(&shimmed.host).contains("ports 31000-31001"), "{what}: {}", log(&shimmed.host));
    });
}
