//! The calls of a Mesos agent and of a Nomad client, as `tests/cni` has them from their sources, against a real kernel.

use super::*;
use std::path::Path;

/// A recorded call, for a namespace here.
fn recorded(name: &str, ns: &Ns) -> Attachment {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cni").join(name);
    let call: Value = serde_json::from_slice(&std::fs::read(path).expect("a vector")).expect("JSON");
    let env = |key: &str| call["env"][key].as_str().unwrap_or_default().to_owned();
    let (id, device, args) = (env("CNI_CONTAINERID"), env("CNI_IFNAME"), env("CNI_ARGS"));
    Attachment { id, netns: ns.path(), device, args, network: call["stdin"].clone() }
}

#[test]
fn a_nomad_client_gets_a_slice() {
    let host = Host::with("cni-nomad").judged("require").build();
    let ns = Ns::net_only("allocation");
    let call = recorded("nomad.json", &ns);
    let result = call.add(&host);
    let lease = host.list().remove(0);
    assert_eq!(lease["ports"], "31000-31003,31080,31090");
    assert_eq!(lease["members"][0]["name"], "default/web/frontend");
    assert_eq!(lease["members"][0]["engine"], "nomad");
    // What `cniToAllocNet` of Nomad looks for.
    assert_eq!(result["interfaces"][1]["sandbox"], json!(ns.path()));
    assert_eq!(result["ips"][0]["address"], "10.77.0.2/32");
    assert_works("Nomad's port", &host, &ns, 31_080);
    // `to = 8080`
    assert_eq!(lease["members"][0]["port_names"], "31090:8080");
    let limited = host.portslice(["show", &call.id, "--json"]).ok().json();
    assert!(limited["egress"].to_string().contains("20000000") || limited.to_string().contains("20mbit"), "{limited}");
    call.check(&host, &result).ok();
    call.with("prevResult", result).del(&host);
    assert_eq!(host.ids(), [""; 0]);
}

#[test]
fn a_mesos_agent_gets_a_slice() {
    let host = Host::with("cni-mesos").judged("require").build();
    let ns = Ns::net_only("executor");
    let call = recorded("mesos.json", &ns);
    let result = call.add(&host);
    let lease = host.list().remove(0);
    assert_eq!(lease["ports"], "31000,31500-31501");
    assert_eq!(lease["members"][0]["engine"], "mesos");
    // What the agent's `parseNetworkInfo` takes of a result: nothing else than this.
    assert_eq!(result["ip4"]["ip"], "10.77.0.2/32");
    assert_eq!(result["ip6"]["ip"], "fd77::2/128");
    assert_works("the task's port", &host, &ns, 31_500);
    assert_eq!(lease["members"][0]["port_names"], "31501:53/udp");
    let stats = host.portslice(["stats", "--json"]).ok().json();
    assert_eq!(stats[0]["executor_id"], "executor-1", "{stats}");
    call.del(&host);
    assert_eq!(host.ids(), [""; 0]);
}
