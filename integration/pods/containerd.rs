//! Pods that the real containerd makes when it is asked as Kubernetes asks it.

use super::*;
use crate::lab::containerd::{Containerd, Pod, Run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

const PORTS: &str = "31000,31010";

/// What a whole pod asks for. containerd hands it to the sandbox and to every container.
const OF_THE_POD: [(&str, &str); 3] =
    [("portslice/ports", PORTS), ("portslice/cpus", "0.5"), ("portslice/cpus-limit", "0.5")];

/// What one of its containers has instead.
const OF_B: [(&str, &str); 2] = [("portslice/cpus", "1.5"), ("portslice/cpus-limit", "1.5")];

/// Shares and quota that containerd gives a sandbox.
const OF_PAUSE: (&str, &str) = ("2", "-1");

/// The members of the only slice: what comes after the pod's name, and ports.
#[track_caller]
fn assert_members(what: &str, host: &Host, names: &[(&str, &str)]) {
    let wanted: Vec<_> =
        names.iter().map(|(name, ports)| member("containerd", &format!("prod/shop{name}"), ports)).collect();
    assert_eq!(members(&slice(what, host)), wanted, "{what}; log:\n{}", log(host));
}

#[track_caller]
fn assert_cpus(what: &str, pid: u32, (shares, quota): (&str, &str)) {
    assert_eq!(cpu_of(pid), (shares.into(), quota.into()), "{what}: CPUs");
}

/// Both answer, and each process has its own CPUs.
#[track_caller]
fn assert_both(what: &str, host: &Host, pod: &Pod<'_>, a: &Run<'_>, b: &Run<'_>) {
    assert_answers(what, host, "a", 31_000);
    assert_answers(what, host, "b", 31_010);
    assert_cpus(&format!("{what}, a"), a.pid, ("512", "50000"));
    assert_cpus(&format!("{what}, b"), b.pid, ("1536", "150000"));
    assert_cpus(&format!("{what}, sandbox"), pod.pid(), OF_PAUSE);
}

/// Nothing is left of the pod that was stopped: not ours, and not containerd's.
#[track_caller]
fn assert_ended(what: &str, host: &Host, containerd: &Containerd<'_>, pod: Pod<'_>) {
    pod.remove();
    assert_eq!((containerd.pods(), containerd.namespaces()), (vec![], vec![]), "{what}: sandboxes and namespaces");
    assert_gone(what, host);
}

fn a_pod(engines: Engines, program: &str) {
    let Some(host) = host_of(engines, &format!("containerd-{program}")) else { return };
    let containerd = host.containerd();
    let pod = containerd.pod(program, "shop", &OF_THE_POD);
    let start_a = || pod.start("a", &[], None, &serve("a", 31_000));
    let (a, b) = (start_a(), pod.start("b", &OF_B, None, &serve("b", 31_010)));

    let what = "two members and a sandbox";
    assert_both(what, &host, &pod, &a, &b);
    assert_members(what, &host, &[("", PORTS), ("/a", PORTS), ("/b", PORTS)]);
    let lease = slice(what, &host);
    assert_eq!(lease["ports"], PORTS, "{what}: {lease}");
    let names = json!({"container": "a", "pod": "shop", "namespace": "prod", "image": crate::lab::engine::IMAGE});
    assert_eq!(lease["members"][1]["names"], names, "{what}: {lease}");

    // As kubelet has it: the next attempt is started before the one that failed is removed.
    let what = "after the first failed and was started again";
    kill(Pid::from_raw(a.pid as i32), Signal::SIGKILL).expect("kill");
    assert!(eventually(|| members(&slice(what, &host)).len() == 2), "{what}: {:?}", host.list());
    assert_silent(what, &host, 31_000);
    assert_answers(what, &host, "b", 31_010);
    let again = start_a();
    a.remove();
    assert_both(what, &host, &pod, &again, &b);
    assert_members(what, &host, &[("", PORTS), ("/b", PORTS), ("/a", PORTS)]);
    let same = slice(what, &host);
    assert_eq!((&same["id"], &same["block"]), (&lease["id"], &lease["block"]), "{what}: the same slice: {same}");

    let what = "without the second";
    b.stop();
    b.remove();
    assert_silent(what, &host, 31_010);
    assert_answers(what, &host, "a", 31_000);
    assert_cpus(what, again.pid, ("512", "50000"));
    assert_members(what, &host, &[("", PORTS), ("/a", PORTS)]);

    again.stop();
    again.remove();
    assert_members("the sandbox alone", &host, &[("", PORTS)]);
    pod.stop();
    assert_eq!(host.ids(), [""; 0], "when the sandbox ended; log:\n{}", log(&host));
    assert_ended("the pod is gone", &host, &containerd, pod);
    assert_accounted(&host, &["prod/shop/a", "prod/shop/b", "prod/shop/a", "prod/shop"]);
}

#[test]
fn a_pod_under_runc() {
    a_pod(Engines::Installed, "runc");
}

#[test]
fn a_pod_under_crun() {
    a_pod(Engines::Installed, "crun");
}

#[test]
fn pods_of_containerd_1_7() {
    for program in ["runc", "crun"] {
        a_pod(Engines::Debian13, program);
    }
}

/// Only containers have the hooks, and Kubernetes has limits of its own. The pod is stopped while they run. Nobody tells us
/// that its sandbox ended.
fn containers_that_ask(program: &str) {
    let host = host(&format!("containers-{program}"));
    let containerd = host.containerd();
    let pod = containerd.pod(&format!("{program}-base"), "shop", &[]);
    let start_quiet = || pod.start("quiet", &[], Some((256, 25_000)), "exec sleep 1000");
    let early = start_quiet();
    assert_eq!(host.ids(), [""; 0], "nobody asked yet; log:\n{}", log(&host));
    let a = pod.start("a", &[("portslice/ports", "31000")], Some((512, 50_000)), &serve("a", 31_000));
    let of_b = [&[("portslice/ports", "31010")], &OF_B[..]].concat();
    let b = pod.start("b", &of_b, Some((256, 25_000)), &serve("b", 31_010));
    let late = start_quiet();

    let what = "containers that ask for themselves";
    assert_both(what, &host, &pod, &a, &b);
    assert_cpus("who asked for nothing before", early.pid, ("256", "25000"));
    assert_cpus("who asked for nothing afterwards", late.pid, ("256", "25000"));
    assert_members(what, &host, &[("/a", "31000"), ("/b", "31010"), ("/quiet", "")]);

    let what = "without the first";
    a.stop();
    a.remove();
    assert_silent(what, &host, 31_000);
    assert_answers(what, &host, "b", 31_010);
    assert_members(what, &host, &[("/b", "31010"), ("/quiet", "")]);

    pod.stop();
    assert_ended("stopped with all that ran in it", &host, &containerd, pod);
}

#[test]
fn containers_that_ask_for_themselves_under_runc() {
    containers_that_ask("runc");
}

#[test]
fn containers_that_ask_for_themselves_under_crun() {
    containers_that_ask("crun");
}

/// The slice outlives a sandbox that dies for as long as the pod's containers, and no longer: nothing joins such a pod.
#[test]
fn a_sandbox_that_dies_before_its_containers() {
    let host = host("containerd-pause");
    let containerd = host.containerd();
    for program in ["runc", "crun"] {
        let pod = containerd.pod(program, "shop", &OF_THE_POD);
        let a = pod.start("a", &[], None, &serve("a", 31_000));
        kill(Pid::from_raw(pod.pid() as i32), Signal::SIGKILL).expect("kill");
        assert!(eventually(|| members(&slice(program, &host)).len() == 1), "{program}: {:?}", host.list());
        assert_members(program, &host, &[("/a", PORTS)]);
        assert_answers(program, &host, "a", 31_000);
        a.stop();
        assert_eq!(host.ids(), [""; 0], "{program}: when the last container ended; log:\n{}", log(&host));
        pod.stop();
        assert_ended(program, &host, &containerd, pod);
    }
}

/// A pod that wants the ports of another does not start, and the other does not notice.
#[test]
fn a_pod_that_wants_the_ports_of_another() {
    let host = host("containerd-refused");
    let containerd = host.containerd();
    for program in ["runc", "crun"] {
        let pod = containerd.pod(program, "shop", &OF_THE_POD);
        let _a = pod.start("a", &[], None, &serve("a", 31_000));
        let namespaces = containerd.namespaces();
        let before = slice(program, &host);
        let refused = containerd.try_pod(program, "thief", &[("portslice/ports", "31000")]).err();
        let refused = refused.unwrap_or_else(|| panic!("{program}: two pods have port 31000: {:?}", host.list()));
        // crun does not say what hooks said.
        let told = if program == "runc" { refused } else { log(&host) };
        assert!(told.contains("31000") && told.contains(&pod.id), "{program}: port and owner are named: {told}");
        assert_eq!(slice(program, &host), before, "{program}");
        assert_eq!(containerd.namespaces(), namespaces, "{program}");
        assert_answers(program, &host, "a", 31_000);
        pod.stop();
        pod.remove();
        assert_eq!(host.ids(), [""; 0], "{program}: when the sandbox ended; log:\n{}", log(&host));
    }
}
