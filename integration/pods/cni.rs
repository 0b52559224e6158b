//! Pods and containers that real engines attach by our CNI plugin.

use super::*;
use crate::lab::containerd::{Containerd, Pod};
use crate::shim::{Shimmed, assert_known};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const OF_THE_POD: [(&str, &str); 1] = [("portslice/ports", "31000,31010")];

/// A peer asks both, and each connects out from the slice's block and finds the peer.
#[track_caller]
fn assert_both(what: &str, host: &Host, pid: u32) {
    assert_answers(what, host, "a", 31_000);
    assert_answers(what, host, "b", 31_010);
    let ns = Ns::of_pid(what, pid);
    let block = &slice(what, host)["block"];
    let (begin, end) = (block["begin"].as_u64().expect("begin") as u16, block["end"].as_u64().expect("end") as u16);
    for to in [FAR4, FAR6] {
        let echo = Echo::start(&host.peer, Proto::Tcp, SocketAddr::new(to, 20_000));
        let seen = probe::assert_reaches(what, &ns, Proto::Tcp, echo.at);
        assert!((begin..=end).contains(&seen.port()), "{what}: seen as {seen}, block {block}");
    }
}

/// Two containers in a pod; it is stopped while they run. With hooks beside CNI, containers are members of their own.
fn a_pod(engines: Engines, handler: &str, names: &[(&str, &str)]) {
    let Some(host) = host_of(engines, &format!("cni-{handler}")) else { return };
    a_pod_of(&host, &host.containerd_with_cni(), handler, names, || ());
}

/// The same with the shim beside CNI, which tells programs what they have, and alters bundles in nothing else.
fn a_pod_with_the_shim(engines: Engines) {
    let Some(host) = host_of(engines, "cni-shim") else { return };
    let shimmed = Shimmed::on(host, "runc", "");
    let containerd = shimmed.host.containerd_with_cni_and(&shimmed.runtime);
    a_pod_of(&shimmed.host, &containerd, "shim", &EACH, || shimmed.assert_bundle("cri"));
}

fn a_pod_of(host: &Host, containerd: &Containerd<'_>, handler: &str, names: &[(&str, &str)], started: impl Fn()) {
    let pod = containerd.pod(handler, "shop", &OF_THE_POD);
    let a = pod.start("a", &[("portslice/ports", "31000")], None, &serve("a", 31_000));
    let _b = pod.start("b", &[("portslice/ports", "31010")], None, &serve("b", 31_010));
    started();
    assert_both(handler, host, pod.pid());
    let lease = slice(handler, host);
    assert_eq!(lease["id"], pod.id, "{handler}: the slice is the sandbox's");
    let wanted: Vec<_> = names.iter().map(|(name, ports)| member("containerd", name, ports)).collect();
    assert_eq!(members(&lease), wanted, "{handler}; log:\n{}", log(host));
    assert_known(handler, host, "prod/shop");
    let told = a.exec("ip -oneline address show eth0; busybox tr '\\0' '\\n' </proc/1/environ");
    assert!(told.contains("10.77.0.2/32") && told.contains("fd77::2/128"), "{handler}: {told}");
    assert_eq!(told.contains("PORT0=31000"), handler == "shim", "{handler}: {told}");
    // Later versions tell the plugin of the pod's cgroup.
    let by_processes = lease["members"][0]["cgroups"].is_null();
    if by_processes {
        assert_used(handler, host, if names.len() == 1 { &[3] } else { &[1, 1, 1] });
    }

    kill(Pid::from_raw(a.pid as i32), Signal::SIGKILL).expect("kill");
    assert!(eventually(|| asks(host, HOST4, 31_000).is_err()), "{handler}: a was killed");
    assert_answers(handler, host, "b", 31_010);
    if by_processes {
        assert_used(handler, host, if names.len() == 1 { &[2] } else { &[1, 1] });
    }
    pod.stop();
    assert_eq!(host.ids(), [""; 0], "{handler}: when the pod was stopped; log:\n{}", log(host));
    pod.remove();
    assert_eq!((containerd.pods(), containerd.namespaces()), (vec![], vec![]), "{handler}");
    assert_gone(handler, host);
}

/// What each member uses. A pod has what runs in its namespace and is no member of its own, found by the processes there where
/// the plugin is told of no cgroup.
#[track_caller]
fn assert_used(what: &str, host: &Host, processes: &[u64]) {
    let used = || {
        let all = host.portslice(["stats", "--json"]).ok().json();
        all.as_array().expect("an array").iter().map(|one| one["statistics"].clone()).collect::<Vec<Value>>()
    };
    let counted = || used().iter().map(|of| of["processes"].as_u64().unwrap_or(0)).collect::<Vec<_>>();
    assert!(eventually(|| counted() == processes), "{what}: processes {:?}, not {processes:?}", counted());
    for of in used() {
        let told = of["mem_rss_bytes"].as_u64() > Some(0) && of["cpus_system_time_secs"].is_number();
        assert!(told, "{what}: memory and CPU of each: {of}");
    }
}

/// The pod alone is a member where nobody tells us of its containers.
const ALONE: [(&str, &str); 1] = [("prod/shop", "31000,31010")];

/// What is a member where somebody does.
const EACH: [(&str, &str); 3] = [("prod/shop", "31000,31010"), ("prod/shop/a", "31000"), ("prod/shop/b", "31010")];

#[test]
fn a_pod_by_cni_alone_under_runc() {
    a_pod(Engines::Installed, "runc-plain", &ALONE);
}

#[test]
fn a_pod_by_cni_alone_under_crun() {
    a_pod(Engines::Installed, "crun-plain", &ALONE);
}

#[test]
fn a_pod_by_cni_and_hooks() {
    a_pod(Engines::Installed, "runc", &EACH);
}

#[test]
fn a_pod_by_cni_and_shim() {
    a_pod_with_the_shim(Engines::Installed);
}

#[test]
fn pods_of_containerd_1_7_by_cni() {
    for (handler, names) in [("runc-plain", &ALONE[..]), ("crun-plain", &ALONE), ("runc", &EACH)] {
        a_pod(Engines::Debian13, handler, names);
    }
    a_pod_with_the_shim(Engines::Debian13);
}

/// A pod serves on while containerd is killed and comes back, and is ended by the next one, its sandbox as well if that died.
fn killed(engines: Engines) {
    let Some(host) = host_of(engines, "cni-killed") else { return };
    let containerd = host.containerd_with_cni();
    let pod = containerd.pod("runc-plain", "shop", &OF_THE_POD);
    let _a = pod.start("a", &[], None, &serve("a", 31_000));
    let before = slice("before", &host);
    containerd.killed();
    assert_answers("the daemon was killed", &host, "a", 31_000);
    assert_eq!(slice("the daemon was killed", &host), before);
    kill(Pid::from_raw(pod.pid() as i32), Signal::SIGKILL).expect("kill");
    containerd.killed();
    pod.stop();
    pod.remove();
    assert_eq!((containerd.pods(), containerd.namespaces()), (vec![], vec![]));
    assert_gone("after the second time", &host);
}

#[test]
fn a_daemon_that_is_killed_has_its_pods_when_it_comes_back() {
    killed(Engines::Installed);
}

#[test]
fn a_daemon_of_containerd_1_7_that_is_killed_has_its_pods_when_it_comes_back() {
    killed(Engines::Debian13);
}

/// The refusal is in what containerd answers, and nothing is left of the pod that did not start.
fn refused(engines: Engines) {
    let Some(host) = host_of(engines, "cni-refused") else { return };
    let containerd = host.containerd_with_cni();
    let pod: Pod<'_> = containerd.pod("runc-plain", "shop", &OF_THE_POD);
    let _a = pod.start("a", &[], None, &serve("a", 31_000));
    let before = (slice("first", &host), containerd.namespaces());
    for (asked, told) in [
        (("portslice/ports", "31000"), format!("port 31000 is leased to container {}", pod.id)),
        (("portslice/prots", "31001"), "did you mean ports?".to_owned()),
        (("portslice/ephemeral-ports", "16384"), "a block of".to_owned()),
    ] {
        let refused = containerd.try_pod("runc-plain", "thief", &[asked]).err();
        // containerd prints it as a Go string
        let refused = refused.unwrap_or_else(|| panic!("{asked:?} was granted")).replace('\\', "");
        assert!(refused.contains(&told) || refused.contains("has no free block"), "{asked:?}: {refused}");
        assert_eq!((slice("first", &host), containerd.namespaces()), before, "{asked:?}");
    }
    assert_answers("after refusals", &host, "a", 31_000);
    pod.stop();
    pod.remove();
    assert_eq!(host.ids(), [""; 0]);
}

#[test]
fn a_pod_that_is_refused_by_cni() {
    refused(Engines::Installed);
}

#[test]
fn a_pod_of_containerd_1_7_that_is_refused_by_cni() {
    refused(Engines::Debian13);
}

/// Podman's CNI backend: `--network`, `-p`, names, restart, kill, and a refusal that the user sees.
#[test]
fn podman_by_cni() {
    let host = host("cni-podman");
    let podman = host.podman_with_cni();
    let run = |name: &str, port: &str| {
        let published = format!("{port}:{port}");
        podman.run(name, &["--network", "portslice", "-p", &published], &serve(name, port.parse().expect("port")))
    };
    run("a", "31000").ok();
    run("b", "31010").ok();
    for (name, port) in [("a", 31_000), ("b", 31_010)] {
        assert_answers("podman by CNI", &host, name, port);
    }
    let names: Vec<_> = host.list().iter().flat_map(members).collect();
    assert_eq!(names, [member("podman", "a", "31000"), member("podman", "b", "31010")]);
    let refused = run("thief", "31000");
    assert!(refused.stderr.contains("port 31000 is leased to container"), "{refused}");
    podman.call(&["rm", "--force", "thief"]).ok();

    podman.call(&["restart", "--time", "0", "a"]).ok();
    assert_answers("after a restart", &host, "a", 31_000);
    let pid = podman.pid("b");
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("kill");
    assert!(eventually(|| host.list().len() == 1), "after kill -9: {:?}", host.list());
    podman.call(&["stop", "--time", "0", "a"]).ok();
    assert!(eventually(|| host.list().is_empty()), "after stop: {:?}", host.list());
    assert!(eventually(|| host.links() == ["eth0", "lo"]), "{:?}", host.links());
}
