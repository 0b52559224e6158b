//! CNI's protocol: calls as runtimes make them, results and errors as the specification has them. `tests/cni` has the vectors.

use portslice::face::cni::ask::{Asked, asked};
use portslice::face::cni::decode::{Environment, Network, VERSIONS};
use portslice::face::cni::failure::Failure;
use portslice::face::cni::result::{Attached, result};
use portslice::net::route::InnerRoute;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn vectors(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cni").join(name);
    serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).expect("JSON")
}

/// What a call asks for.
fn ask(call: &Value) -> Result<Asked, Failure> {
    let environment = Environment::read(|name| call["env"][name].as_str().map(str::to_owned))?;
    let network = Network::parse(call["stdin"].to_string().as_bytes())?;
    network.check(environment.command)?;
    asked(environment.container.clone().expect("an id"), &environment, &network)
}

/// The plugin as a process, on a machine of which it knows nothing. Returns its exit code and what it printed.
fn called(env: &Value, stdin: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portslice-cni"));
    let state = std::env::temp_dir().join(format!("portslice-cni-{}-nothing", std::process::id()));
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/portslice.toml");
    command.env_clear().env("PORTSLICE_STATE_DIR", &state).env("PORTSLICE_CONFIG", config);
    command.envs(env.as_object().expect("variables").iter().map(|(key, value)| (key, value.as_str().expect("text"))));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("portslice-cni");
    // One that refuses its environment reads nothing.
    let _ = child.stdin.take().expect("stdin").write_all(stdin.as_bytes());
    let out = child.wait_with_output().expect("portslice-cni");
    assert!(!state.exists(), "it made {}", state.display());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (out.status.code(), text(out.stdout), text(out.stderr))
}

/// Every value that a vector names, and nothing asked for where it names none.
#[test]
fn calls_ask_for_what_they_say() {
    for name in ["containerd.json", "kubernetes.json", "podman.json", "nomad.json", "mesos.json", "arguments.json"] {
        let call = vectors(name);
        let Asked { request, published_at } = ask(&call).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let attachment = request.attachment.clone().expect("an attachment");
        let rate = |limit: portslice::rate::Limit| limit.rate.map(|rate| rate.to_string());
        let found = json!({
            "id": request.id.as_str(),
            "ports": request.ports.to_string(),
            "egress": rate(request.egress),
            "ingress": rate(request.ingress),
            "name": request.name,
            "cgroup": request.cgroup,
            "ephemeral_ports": request.ephemeral_ports.map(|size| size.get()),
            "open_ports": request.open_ports.as_ref().map(|open| open.to_string()),
            "host_loopback": request.host_loopback,
            "cpus": request.cpus.map(|cpus| cpus.to_string()),
            "executor_id": request.labels.executor_id,
            "source": request.labels.source,
            "published_at": if published_at.is_empty() { Value::Null } else { json!(published_at) },
            "network": attachment.network,
            "device": attachment.device,
        });
        for (key, found) in found.as_object().expect("an object") {
            let wanted = match (key.as_str(), call["request"].get(key)) {
                ("id" | "network" | "device", None) => continue,
                (_, wanted) => wanted.cloned().unwrap_or(Value::Null),
            };
            let same = match (key.as_str(), &wanted) {
                // Rates are compared as rates: they are shown in more than one unit.
                ("egress" | "ingress", Value::String(text)) => {
                    let limit = if key == "egress" { request.egress } else { request.ingress };
                    text.parse().ok() == limit.rate
                }
                _ => *found == wanted,
            };
            assert!(same, "{name}, {key}: {found}, should be {wanted}");
        }
        if let Some(engine) = call["request"].get("engine") {
            assert_eq!(json!(request.engine), *engine, "{name}");
        }
        assert!(request.sandbox && request.joins_namespace, "{name}");
    }
}

/// Tens of thousands of ports, each by itself and once a protocol, in whatever order: a set of ranges.
#[test]
fn thousands_of_port_mappings_are_a_few_ranges() {
    let mapping = |port: u32, protocol: &str| json!({"hostPort": port, "containerPort": port, "protocol": protocol});
    let even = (20_000..30_000).filter(|port| port % 2 == 0);
    let odd = (20_000..30_000).rev().filter(|port| port % 2 == 1);
    let mappings: Vec<Value> = even.chain(odd).flat_map(|p| [mapping(p, "tcp"), mapping(p, "udp")]).collect();
    let mut call = vectors("podman.json");
    call["stdin"]["runtimeConfig"]["portMappings"] = json!(mappings);
    call["stdin"]["runtimeConfig"]["portMappings"].as_array_mut().expect("mappings").push(mapping(31_000, "tcp"));
    let asked = ask(&call).expect("granted");
    assert_eq!(asked.request.ports.to_string(), "20000-29999,31000");
}

#[test]
fn results_have_the_shape_of_their_version() {
    let wanted = vectors("results.json");
    let addresses = ["10.77.0.2", "10.77.0.3", "fd77::2"].map(|ip| ip.parse().expect("an address"));
    let route = |destination: &str, prefix: u8, metric: u32, mtu: u32| InnerRoute {
        destination: destination.parse().expect("an address"),
        prefix,
        source: None,
        metric,
        mtu,
        kind: Default::default(),
    };
    let routes = [route("0.0.0.0", 0, 0, 1500), route("10.77.0.0", 24, 0, 1500), route("::", 0, 1024, 1400)];
    let attached = Attached {
        outer: ("portslice7".into(), [2, 0, 1, 2, 0, 7]),
        inner: ("eth0", [0x52, 0x54, 0, 0x12, 0x34, 0x56]),
        mtu: 65_535,
        sandbox: "/run/netns/c1",
        addresses: &addresses,
        routes: &routes,
    };
    let network = |version: &str, more: Value| {
        let mut network = json!({"cniVersion": version, "name": "n", "dns": {"nameservers": ["192.0.2.1"]}});
        network.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        Network::parse(network.to_string().as_bytes()).expect("a network")
    };
    for version in VERSIONS {
        let alone = result(&attached, &network(version, json!({})));
        assert_eq!(alone, wanted[version], "{version}");
        // The Mesos agent reads ip4, ip6 and dns, and ignores everything else.
        let to_mesos = result(&attached, &network(version, json!({"args": {"org.apache.mesos": {}}})));
        for key in ["ip4", "ip6", "dns"] {
            assert_eq!(to_mesos[key], wanted["0.2.0"][key], "{version} to Mesos");
        }
        if version < "0.3.0" {
            continue;
        }
        let before = json!({"cniVersion": version, "interfaces": [{"name": "br0", "x": 1}],
            "ips": [{"address": "192.0.2.7/24", "interface": 0}], "routes": null, "other": {"kept": true},
            "dns": {"search": ["example"]}});
        let network = network(version, json!({"prevResult": before, "dns": {}}));
        let chained = result(&attached, &network);
        assert_eq!(chained["interfaces"][0], before["interfaces"][0], "{version}");
        assert_eq!(chained["ips"][0], before["ips"][0], "{version}");
        assert_eq!((&chained["dns"], &chained["other"]), (&before["dns"], &before["other"]), "{version}");
        for (n, ip) in chained["ips"].as_array().expect("ips").iter().enumerate().skip(1) {
            assert_eq!(ip["interface"], 2, "{version}: address {n} is of the container's end");
        }
        assert_eq!(chained["routes"], wanted[version]["routes"], "{version}");
    }
}

/// Code, line, and the version that the caller speaks; the same line on standard error; nothing is made.
#[test]
fn errors_have_the_codes_of_the_specification() {
    let all = vectors("errors.json");
    for case in all.as_array().expect("cases") {
        let about = &case["about"];
        let stdin = case["stdin"].as_str().map_or_else(|| case["stdin"].to_string(), str::to_owned);
        let (code, stdout, stderr) = called(&case["env"], &stdin);
        assert_eq!(code, Some(1), "{about}: {stdout}{stderr}");
        let error: Value = serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{about}: {e}: {stdout}"));
        assert_eq!(error["code"], case["code"], "{about}: {error}");
        assert_eq!(error["cniVersion"], case["cniVersion"], "{about}: {error}");
        let line = error["msg"].as_str().expect("a line");
        assert!(line.contains(case["msg"].as_str().expect("text")), "{about}: {line}");
        assert_eq!(stderr, format!("portslice-cni: {line}\n"), "{about}");
        let keys: Vec<&String> = error.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["cniVersion", "code", "msg"], "{about}");
    }
    // What is beyond any configuration is not read to its end.
    let long = format!("{{\"x\": \"{}\"}}", "x".repeat(33 << 20));
    let env = json!({"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0"});
    let (_, stdout, _) = called(&env, &long);
    assert!(stdout.contains("longer than 32 MiB"), "{stdout}");
}

/// Also to whoever only probes, with nothing or with placeholders (as libcni and Podman do).
#[test]
fn version_is_answered_to_anybody() {
    let dummies = json!({"CNI_COMMAND": "VERSION", "CNI_CONTAINERID": "", "CNI_NETNS": "dummy", "CNI_IFNAME": "dummy",
        "CNI_ARGS": "", "CNI_PATH": "dummy"});
    let bare = json!({"CNI_COMMAND": "VERSION"});
    let known = VERSIONS.map(|version| (format!("{{\"cniVersion\": \"{version}\"}}"), version));
    let odd = ["", "{}", "dummy", "{\"cniVersion\": \"9.9.9\"}"].map(|stdin| (stdin.to_owned(), "1.1.0"));
    for (stdin, version) in known.into_iter().chain(odd) {
        for env in [&dummies, &bare] {
            let (code, stdout, stderr) = called(env, &stdin);
            assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdin}");
            let answer: Value = serde_json::from_str(&stdout).expect("JSON");
            assert_eq!(answer, json!({"cniVersion": version, "supportedVersions": VERSIONS}), "{stdin}");
        }
    }
}

/// A DEL that comes again, or for what never was, says nothing and succeeds: with every version, and with less and less of
/// what ADD was told.
#[test]
fn del_of_nothing_succeeds() {
    for version in VERSIONS {
        let full = json!({"cniVersion": version, "name": "portslice", "type": "portslice",
            "prevResult": {"cniVersion": version, "interfaces": [], "ips": []}});
        let bare = json!({"cniVersion": version, "name": "portslice", "type": "portslice"});
        for (stdin, netns) in [(&full, "/run/netns/none"), (&bare, "/run/netns/none"), (&bare, "")] {
            let env = json!({"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": netns});
            let done = called(&env, &stdin.to_string());
            assert_eq!(done, (Some(0), String::new(), String::new()), "{version}, {stdin}");
        }
    }
}

/// What is shipped is a list that every runtime takes, of a type that is the name of the plugin.
#[test]
fn the_shipped_list_is_one() {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/cni/10-portslice.conflist");
    let list: Value = serde_json::from_slice(&std::fs::read(path).expect("the list")).expect("JSON");
    assert!(VERSIONS.contains(&list["cniVersion"].as_str().expect("a version")));
    let plugin = &list["plugins"][0];
    assert_eq!((&plugin["type"], &list["name"]), (&json!("portslice"), &json!("portslice")));
    let capabilities: Vec<&String> = plugin["capabilities"].as_object().expect("capabilities").keys().collect();
    assert_eq!(capabilities, ["portMappings", "bandwidth", "cgroupPath", "io.kubernetes.cri.pod-annotations"]);
}
