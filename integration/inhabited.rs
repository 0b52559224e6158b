//! Promise: what a container uses is told also of one whose processes nobody named, by those that live in its namespace.

use crate::lab::bundle::{Bundle, Network, Running, Runtime};
use crate::lab::wait::eventually;
use crate::lab::*;
use serde_json::{Value, json};

/// The statistics of one member.
#[track_caller]
fn statistics(host: &Host, id: &str) -> Value {
    let all = host.portslice(["stats", id, "--json"]).ok().json();
    all[0]["statistics"].clone()
}

/// A container of a real runtime in the namespace, which has no hooks.
fn start<'r>(host: &Host, runtime: &'r Runtime<'_>, pod: &Container, name: &str, program: &str) -> Running<'r> {
    let bundle = Bundle::new(host, name, &["sh", "-c", program]).network(Network::Path(&pod.ns.path()));
    runtime.start(&bundle)
}

#[test]
fn a_namespace_attached_by_path_has_what_runs_in_it() {
    let host = Host::new("inhabited");
    let runtime = host.runtime("runc");
    let pod = host.bare_named("pod", &[]);
    // who holds the namespace has no cgroup of his own: he is counted, and what the whole host uses is not
    let empty = statistics(&host, "pod");
    assert_eq!((&empty["processes"], &empty["threads"]), (&1.into(), &1.into()), "{empty}");
    assert!(empty["mem_total_bytes"].is_null() && empty["cpus_user_time_secs"].is_null(), "{empty}");

    let a = start(&host, &runtime, &pod, "a", "sleep 1000 & exec sleep 1000");
    let one = statistics(&host, "pod");
    assert!(eventually(|| statistics(&host, "pod")["processes"] == 2), "one container: {one}");
    assert!(one["mem_total_bytes"].as_u64() > Some(0) && one["cpus_system_time_secs"].is_number(), "{one}");
    let b = start(&host, &runtime, &pod, "b", "exec sleep 1000");
    assert!(eventually(|| statistics(&host, "pod")["processes"] == 3), "both: {}", statistics(&host, "pod"));
    let both = statistics(&host, "pod");
    assert!(both["mem_rss_bytes"].as_u64() > Some(0) && both["cpus_nr_periods"].is_number(), "{both}");

    // a member with cgroups of its own is counted there, and not a second time
    let bundle = Bundle::new(&host, "c", &["sleep", "1000"]).network(Network::Path(&pod.ns.path())).sliced();
    let c = runtime.start(&bundle.annotation("portslice/ports", "31000"));
    let of_c = statistics(&host, &c.id);
    assert_eq!((&of_c["processes"], &statistics(&host, "pod")["processes"]), (&1.into(), &3.into()), "{of_c}");

    a.delete().ok();
    assert!(eventually(|| statistics(&host, "pod")["processes"] == 1), "b alone: {}", statistics(&host, "pod"));
    let shown = host.portslice(["show", "pod", "--json"]).ok().json();
    assert_eq!(shown["statistics"]["processes"], 1, "{shown}");
    b.delete().ok();
    c.delete().ok();
    pod.detach().ok();
}

/// containerd 1.7 names a pod's cgroup when it asks for the network, which is before anything makes that cgroup.
#[test]
fn a_pod_whose_cgroup_comes_later_has_what_runs_in_it() {
    let host = Host::new("inhabited-later");
    let runtime = host.runtime("runc");
    let ns = Ns::net_only("pod");
    let named = json!({"cgroupPath": format!("/{}-pod", host.tag)});
    let pod = cni::Attachment::new("pod", &ns.path()).with("runtimeConfig", named);
    pod.add(&host);
    let bundle = Bundle::new(&host, "a", &["sleep", "1000"]).network(Network::Path(&ns.path()));
    let a = runtime.start(&bundle);
    let seen = || statistics(&host, "pod");
    assert!(eventually(|| seen()["processes"] == 1 && seen()["mem_total_bytes"].is_number()), "{}", seen());
    a.delete().ok();
    pod.del(&host);
}
