//! Containers whose engine does not know of portslice: they ask, and have nothing.

use super::{assert_clean, found};
use crate::lab::wait::eventually;
use crate::lab::*;
use serde_json::json;
use std::time::Duration;

#[test]
fn a_container_that_nobody_heard_is_found_and_registering_mends_it() {
    let host = Host::new("doctor-unheard");
    let podman = host.podman_as_installed();
    podman.at_the_usual_place();
    podman.run("quiet", &["--network", "none"], "sleep 1000").ok();
    assert_clean(&host);
    podman.run("asks", &["--network", "none", "--annotation", "portslice/ports=31000"], "sleep 1000").ok();
    let id = podman.inspect("asks")["Id"].as_str().expect("an id").to_owned();
    let finding = found(&host, "engines", "fail", &[&id[..12], "podman asks for a slice and has none"]);
    assert_eq!(finding["remedy"], "portslice setup podman", "{finding:#}");
    podman.setup(&[]).ok();
    let finding = found(&host, "engines", "fail", &[&id[..12]]);
    assert_eq!(finding["remedy"], json!(null), "it is registered: {finding:#}");
    podman.call(&["restart", "--time", "0", "asks"]).ok();
    assert_clean(&host);
    assert_eq!(host.ids(), [id.as_str()]);
    podman.call(&["rm", "--force", "--time", "0", "asks"]).ok();
    assert!(eventually(|| host.ids().is_empty()), "{:?}", host.list());
}

#[test]
fn a_thousand_containers_that_ask_for_nothing_are_looked_at_in_a_moment() {
    let host = Host::new("doctor-quiet");
    let padding: Vec<String> = (0..400).map(|n| format!("a mount, a capability or a system call {n}")).collect();
    let spec = json!({"annotations": {"io.kubernetes.cri.container-name": "web"}, "linux": padding}).to_string();
    let task = host.ns.root("/run/containerd/io.containerd.runtime.v2.task/k8s.io");
    for n in 0..1000 {
        let bundle = task.join(format!("c{n}"));
        std::fs::create_dir_all(&bundle).expect("a bundle");
        std::fs::write(bundle.join("config.json"), &spec).expect("config.json");
        std::fs::write(bundle.join("init.pid"), std::process::id().to_string()).expect("init.pid");
    }
    assert_clean(&host);
    let mut took: Vec<Duration> = (0..10).map(|_| host.portslice(["doctor"]).ok().took).collect();
    took.sort();
    println!("doctor with a thousand bundles of {} bytes: {took:?}", spec.len());
    assert!(took[0] <= Duration::from_millis(300), "doctor took {took:?}");
}
