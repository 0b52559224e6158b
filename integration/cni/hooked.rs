//! Hooks beside CNI: both speak of one slice, and only the network's end is the slice's end.

use super::*;

/// The state of a pod's sandbox or container, whose bundle says which of the two it is.
fn state(host: &Host, id: &str, pid: u32, kind: &str, more: &[(&str, &str)]) -> String {
    let annotations = [&[("io.kubernetes.cri.container-type", kind)], more].concat();
    let mut state: Value = serde_json::from_str(&hook::creating(id, pid, &annotations)).expect("JSON");
    let bundle = host.dir.join(id);
    std::fs::create_dir_all(&bundle).expect("bundle");
    let linux = json!({"namespaces": [{"type": "network", "path": "/x"}]});
    let config = json!({"annotations": state["annotations"], "linux": linux});
    std::fs::write(bundle.join("config.json"), config.to_string()).expect("config.json");
    state["bundle"] = json!(bundle);
    state.to_string()
}

/// What its poststop is told.
fn stopped(host: &Host, id: &str) -> String {
    json!({"ociVersion": "1.0.2", "id": id, "status": "stopped", "bundle": host.dir.join(id)}).to_string()
}

fn members(host: &Host) -> Vec<(String, String)> {
    let text = |member: &Value, key: &str| member[key].as_str().unwrap_or_default().to_owned();
    let all = host.list();
    assert_eq!(all.len(), 1, "one slice: {all:?}");
    all[0]["members"].as_array().expect("members").iter().map(|m| (text(m, "id"), text(m, "ports"))).collect()
}

fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
    wanted.iter().map(|(id, ports)| ((*id).to_owned(), (*ports).to_owned())).collect()
}

/// As containerd does it: ADD, then the hooks of the sandbox and of containers in its namespace; poststop of each before DEL.
#[test]
fn hooks_of_a_pod_find_the_slice_that_cni_made() {
    let host = Host::new("cni-hooks");
    let ns = Ns::net_only("pod");
    let mapping = json!([{"hostPort": 31_005, "containerPort": 31_005, "protocol": "tcp"}]);
    let mut attachment =
        Attachment::new("pod", &ns.path()).annotated(&[("portslice/ports", "31000"), ("portslice/cpus", "0.5")]);
    attachment.network["runtimeConfig"]["portMappings"] = mapping;
    attachment.args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=shop;K8S_POD_INFRA_CONTAINER_ID=pod".into();
    let result = attachment.add(&host);
    assert_eq!(host.list()[0]["members"][0]["name"], "prod/shop");
    let of_pod = [("portslice/ports", "31000"), ("portslice/cpus", "0.5")];
    host.hook("portslice-prestart", state(&host, "pod", ns.pid(), "sandbox", &of_pod)).ok();
    assert_eq!(members(&host), pairs(&[("pod", "31000,31005")]));
    host.hook("portslice-prestart", state(&host, "a", ns.pid(), "container", &[("portslice/ports", "31001")])).ok();
    assert_eq!(members(&host), pairs(&[("pod", "31000,31005"), ("a", "31001")]));
    assert_works("by CNI", &host, &ns, 31_005);
    assert_works("by a hook", &host, &ns, 31_001);
    attachment.check(&host, &result).ok();
    host.hook("portslice-poststop", stopped(&host, "a")).ok();
    host.hook("portslice-poststop", stopped(&host, "pod")).ok();
    assert_eq!(members(&host), pairs(&[("pod", "31000,31005")]), "the network ends with DEL");
    attachment.del(&host);
    assert_eq!(host.ids(), [""; 0]);
}

/// The network goes, and everybody's with it: a poststop that never came keeps nothing.
#[test]
fn del_ends_the_slice_of_members_that_nobody_ended() {
    let host = Host::new("cni-hooks-late");
    let ns = Ns::net_only("pod");
    let attachment = Attachment::new("pod", &ns.path()).annotated(&PORTS);
    attachment.add(&host);
    host.hook("portslice-prestart", state(&host, "a", ns.pid(), "container", &[("portslice/ports", "31000")])).ok();
    attachment.del(&host);
    assert_eq!(host.ids(), [""; 0]);
    host.hook("portslice-poststop", stopped(&host, "a")).ok();
    host.hook("portslice-poststop", stopped(&host, "pod")).ok();
    still::assert_bare("after DEL", &ns);
}

/// As Podman does it: the container that CNI attached has hooks of its own, which know its process and its CPUs.
#[test]
fn a_hook_brings_the_process_of_what_cni_attached() {
    let host = Host::new("cni-hooks-process");
    let ns = Ns::net_only("container");
    let mapping = json!([{"hostPort": 31_005, "containerPort": 31_005, "protocol": "tcp"}]);
    let attachment = Attachment::new("web", &ns.path()).with("runtimeConfig", json!({"portMappings": mapping}));
    attachment.add(&host);
    let asked = [("portslice/ports", "31000"), ("portslice/executor-id", "e1")];
    host.prestart("web", ns.pid(), &asked).ok();
    assert_eq!(members(&host), pairs(&[("web", "31000,31005")]));
    let lease = host.list().remove(0);
    assert_eq!(lease["members"][0]["pid"], ns.pid());
    host.prestart("web", ns.pid(), &asked).ok();
    assert_eq!(host.list()[0], lease, "once more is nothing new");
    assert_works("by the hook", &host, &ns, 31_000);
    assert_works("by CNI", &host, &ns, 31_005);
    host.poststop("web").ok();
    assert_eq!(host.ids(), ["web"], "the network ends with DEL");
    attachment.del(&host);
    assert_eq!(host.ids(), [""; 0]);
}
