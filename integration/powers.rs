//! Promise: a container whose root has more than its own network is named, and refused where that is forbidden.

use crate::lab::bundle::Bundle;
use crate::lab::*;
use serde_json::json;

/// What `show` calls it.
const POWER: &str = "CAP_NET_ADMIN over the host's devices as well";

fn admin(host: &Host, name: &str) -> Bundle {
    Bundle::new(host, name, &["sleep", "1000"]).sliced().capabilities(&["CAP_NET_ADMIN", "CAP_KILL"])
}

/// Root of a user namespace of its own, whose root nobody is outside.
fn mapped(bundle: Bundle) -> Bundle {
    bundle.edit(|c| {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        c["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "user"}));
        (c["linux"]["uidMappings"], c["linux"]["gidMappings"]) = (map.clone(), map);
    })
}

#[test]
fn root_with_power_over_the_hosts_devices_is_named() {
    let host = Host::new("powers-named");
    let runc = host.runtime("runc");
    let plain = runc.start(&Bundle::new(&host, "plain", &["sleep", "1000"]).sliced().capabilities(&["CAP_KILL"]));
    let told = |id: &str| host.portslice(["show", id]).ok().stdout.contains(POWER);
    assert!(!told("plain"), "it has no such power");
    assert!(!host.portslice(["doctor"]).stdout.contains("powers"), "nothing to tell is told");
    let admin = runc.start(&admin(&host, "admin"));
    let path = host.bare("path", &["--ports", "31000"]);
    assert!(told("admin") && !told("plain"), "{}", host.portslice(["show", "admin"]));
    assert!(told("path"), "a process that was never confined: {}", host.portslice(["show", "path"]));
    let shown = host.portslice(["show", "admin", "--json"]).ok().json();
    assert_eq!(shown["net_admin"], true, "{shown}");
    let doctor = host.portslice(["doctor"]);
    assert!(doctor.stdout.contains("admin, path have CAP_NET_ADMIN over the host's devices as well"), "{doctor}");
    drop(path);
    admin.delete().ok();
    plain.delete().ok();
}

#[test]
fn root_with_power_over_the_hosts_devices_is_refused_where_that_is_forbidden() {
    let host = Host::with("powers-refused").config("refuse_net_admin = true\n").build();
    for program in ["runc", "crun"] {
        let runtime = host.runtime(program);
        let refused = runtime.run(&admin(&host, &format!("{program}-admin")));
        assert_ne!(refused.code, Some(0), "{refused}");
        let log = host.portslice(["list"]).ok().stdout;
        assert!(host.ids().is_empty(), "{program}: {log}");
        let named = runtime.start(&mapped(admin(&host, &format!("{program}-mapped"))));
        assert_eq!(host.ids().len(), 1, "in a user namespace of its own it has its own network alone");
        assert!(!host.portslice(["show", &named.id]).ok().stdout.contains(POWER), "{program}");
        named.delete().ok();
    }
    let _path = host.bare("path", &[]);
    let doctor = host.portslice(["doctor"]);
    assert!(doctor.stdout.contains("path has CAP_NET_ADMIN") && doctor.stdout.contains("refuse_net_admin"), "{doctor}");
}
