//! Editing bundles: what a slice needs is there afterwards, and nothing else differs, over generated bundles and over those
//! that real tools write. Those in `tests/bundles` are as `runc spec`, `crun spec` and `ctr oci spec` (containerd 1.6) wrote them,
//! and as engines handed them to the shim: the integration tests of `shim` and `pods::cni` keep them where the environment
//! variable PORTSLICE_BUNDLES says, with `integration/debian13` for the newer engines. A `pod` is a container of CRI; the
//! directories of the tests became `/srv/host`.

#[path = "../integration/shim/difference.rs"]
mod difference;

use std::collections::BTreeMap;

use difference::unintended;
use oci_spec::runtime::Spec;
use portslice::cpu::{Quota, Settings, Version};
use portslice::oci::Object;
use portslice::oci::asked::Asked;
use portslice::oci::bundle;
use portslice::oci::edit::{BLOCK, Edit, Granted, Hooks, edit};
use portslice::ports::{Block, BlockSize};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;

const REAL: [(&str, &str); 10] = [
    ("runc 1.1", include_str!("bundles/runc-1.1.json")),
    ("crun 1.8", include_str!("bundles/crun-1.8.json")),
    ("containerd 1.6", include_str!("bundles/containerd-1.6.json")),
    ("containerd 1.6, pod", include_str!("bundles/containerd-1.6-pod.json")),
    ("containerd 1.7", include_str!("bundles/containerd-1.7.json")),
    ("containerd 1.7, pod", include_str!("bundles/containerd-1.7-pod.json")),
    ("docker 20.10", include_str!("bundles/docker-20.10.json")),
    ("docker 26.1", include_str!("bundles/docker-26.1.json")),
    ("podman 4.3", include_str!("bundles/podman-4.3.json")),
    ("podman 5.4", include_str!("bundles/podman-5.4.json")),
];

fn block() -> Block {
    Block::new(32768, BlockSize::new(1024).unwrap()).unwrap()
}

fn everything(ports: &str, version: Version) -> Edit {
    Edit {
        annotations: vec![("egress-rate".into(), "1mbit".into())],
        hooks: Some(Hooks {
            directory: "/usr/libexec/portslice".into(),
            arguments: Vec::new(),
            environment: vec!["PORTSLICE_STATE_DIR=/run/portslice".into()],
        }),
        granted: Granted { block: Some(block()), set_range: true, ports: ports.parse().unwrap() },
        cpu: Some((Settings { weight: Some(512), quota: Some(Quota::Micros(50_000)), notes: Vec::new() }, version)),
        resolver: Some("/run/systemd/resolve/stub-resolv.conf".into()),
    }
}

/// Asserts that everything is there that was to be added.
fn assert_added(text: &[u8], had_process: bool, version: Version) {
    let spec = Object::parse(text).unwrap();
    let section = |path: &[&str]| path.iter().fold(spec.clone(), |at, key| at.get::<Object>(key).unwrap_or_default());
    let last = |object: Object, list: &str| object.list(list).unwrap().pop().map(|item| item.get().to_owned());
    let hooks = section(&["hooks"]);
    let attach = ["prestart", "createRuntime"]
        .iter()
        .any(|list| hooks.list(list).unwrap().iter().any(|hook| hook.get().contains("portslice-prestart")));
    assert!(attach && last(hooks, "poststop").unwrap().contains("portslice-poststop"));
    assert_eq!(section(&["annotations"]).get::<String>("portslice/egress-rate").as_deref(), Some("1mbit"));
    assert_eq!(
        section(&["linux", "sysctl"]).get::<String>("net.ipv4.ip_local_port_range").as_deref(),
        Some("32768 33791")
    );
    let cpu = section(&["linux", "resources", "cpu"]);
    assert_eq!((cpu.get::<i64>("quota"), cpu.get::<u64>("period")), (Some(50_000), Some(100_000)));
    match version {
        Version::V1 => assert_eq!(cpu.get::<u64>("shares"), Some(512)),
        Version::V2 => {
            assert_eq!(section(&["linux", "resources", "unified"]).get::<String>("cpu.weight").as_deref(), Some("512"))
        }
    }
    assert!(last(spec.clone(), "mounts").unwrap().contains("/etc/resolv.conf"));
    if had_process {
        let env = section(&["process"]).list("env").unwrap();
        let env: Vec<String> = env.iter().filter_map(|entry| serde_json::from_str(entry.get()).ok()).collect();
        assert_eq!(env.iter().filter(|entry| **entry == format!("{BLOCK}=32768-33791")).count(), 1, "{env:?}");
        for name in ["PORT0", "PORT1", "PORTS"] {
            assert!(env.iter().any(|entry| entry.starts_with(&format!("{name}="))), "{name} in {env:?}");
        }
    }
}

#[test]
fn what_real_tools_write_differs_only_where_it_is_meant_to() {
    for (tool, text) in REAL {
        for version in [Version::V1, Version::V2] {
            let wanted = everything("31000,31005", version);
            let edited = edit(text.as_bytes(), &wanted).unwrap();
            assert_eq!(unintended(text.as_bytes(), &edited), [""; 0], "{tool}");
            assert_added(&edited, true, version);
            // The reference for the format understands it, and finds what was added.
            let spec: Spec = serde_json::from_slice(&edited).unwrap_or_else(|e| panic!("{tool}: {e}"));
            let hooks = spec.hooks().as_ref().unwrap();
            assert!(hooks.create_runtime().as_ref().unwrap()[0].path().ends_with("portslice-prestart"), "{tool}");
            assert_eq!(hooks.create_runtime().as_ref().unwrap()[0].timeout(), Some(30), "{tool}");
            // And so do we.
            assert_eq!(bundle::parse(&edited).unwrap().port_range.as_deref(), Some("32768 33791"), "{tool}");
            let asked = Asked::read(&edited).unwrap().unwrap();
            assert!(asked.has_resolver && asked.earlier_block.as_deref() == Some("32768-33791"), "{tool}: {asked:?}");
            // Again: the same but for the mount, which is asked for only where there is none.
            let again = edit(&edited, &Edit { resolver: None, ..wanted }).unwrap();
            let value = |text: &[u8]| serde_json::from_slice::<Value>(text).unwrap();
            assert_eq!(value(&again), value(&edited), "{tool}: twice");
        }
    }
}

#[test]
fn hooks_go_behind_those_of_the_engine_and_never_twice() {
    let docker = r#"{"hooks":{"prestart":[{"path":"/proc/7/exe","args":["libnetwork-setkey"]}],"poststop":[{"path":"/bin/x"}]}}"#;
    let only = Edit {
        granted: Granted::default(),
        annotations: Vec::new(),
        cpu: None,
        resolver: None,
        ..everything("", Version::V1)
    };
    let edited: Value = serde_json::from_slice(&edit(docker.as_bytes(), &only).unwrap()).unwrap();
    let paths = |list: &str| -> Vec<String> {
        let list = edited["hooks"][list].as_array().cloned().unwrap_or_default();
        list.iter().map(|hook| hook["path"].as_str().unwrap_or("?").to_owned()).collect()
    };
    assert_eq!(paths("prestart"), ["/proc/7/exe"], "Docker's turns IPv6 off: ours comes later");
    assert_eq!(paths("createRuntime"), ["/usr/libexec/portslice/portslice-prestart"]);
    assert_eq!(paths("poststop"), ["/bin/x", "/usr/libexec/portslice/portslice-poststop"]);
    let registered = r#"{"hooks":{"prestart":[{"path":"/opt/portslice-prestart"}],"poststop":[{"path":"/opt/portslice-poststop"}]}}"#;
    assert_eq!(edit(registered.as_bytes(), &only).unwrap(), registered.as_bytes());
}

#[test]
fn many_ports_do_not_fill_the_environment() {
    let edited = edit(br#"{"process":{}}"#, &everything("20000-29999", Version::V1)).unwrap();
    let spec: Value = serde_json::from_slice(&edited).unwrap();
    let env: Vec<&str> = spec["process"]["env"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(env.len() < 300 && env.contains(&"PORT0=20000") && env.contains(&"PORTS=20000-29999"), "{}", env.len());
}

#[test]
fn what_is_no_bundle_is_refused_in_one_line() {
    for text in ["[]", "{", r#"{"hooks": 1}"#, r#"{"linux": []}"#, r#"{"process": {"env": {}}}"#, r#"{"mounts": "x"}"#]
    {
        let line = edit(text.as_bytes(), &everything("31000,31005", Version::V1)).unwrap_err().to_string();
        assert!(line.starts_with("the bundle's config.json: ") && !line.contains('\n'), "{text}: {line}");
    }
}

// ---- generated bundles, as text: of a number that no program has a type for, every digit is to stay

/// A value that we know nothing of.
fn anything() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        select(vec![
            "null",
            "true",
            "1e999",
            "-0",
            "1.10",
            "123456789012345678901234567890",
            "18446744073709551615",
            "-9223372036854775808",
            r#""caf\u00e9 \/ \ud83d\ude00""#,
            r#""""#,
            "[ ]",
            "{ }",
        ])
        .prop_map(str::to_owned),
        any::<i64>().prop_map(|n| n.to_string()),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(" , "))),
            object(vec![], 4, inner.boxed()),
        ]
    })
}

/// An object of some of these members, others that are unknown, in any order.
fn object(
    known: Vec<(&'static str, BoxedStrategy<String>)>,
    unknown: usize,
    of: BoxedStrategy<String>,
) -> BoxedStrategy<String> {
    let known: Vec<_> =
        known.into_iter().map(|(key, value)| (Just(key.to_owned()), prop::option::weighted(0.8, value))).collect();
    let unknown = vec(("x[a-z]{1,6}", of.prop_map(Some)), 0..=unknown);
    (known, unknown, vec(any::<Index>(), 16))
        .prop_map(|(known, unknown, order)| {
            let all: BTreeMap<String, Option<String>> = known.into_iter().chain(unknown).collect();
            let mut members: Vec<String> =
                all.into_iter().filter_map(|(key, value)| Some(format!("\"{key}\" : {}", value?))).collect();
            for (n, to) in order.iter().enumerate().take(members.len()) {
                let to = to.index(members.len());
                members.swap(n, to);
            }
            format!("{{ {} }}", members.join(",\n"))
        })
        .boxed()
}

fn or_null(strategy: BoxedStrategy<String>) -> BoxedStrategy<String> {
    prop_oneof![1 => Just("null".to_owned()), 5 => strategy].boxed()
}

fn texts(items: Vec<&'static str>) -> BoxedStrategy<String> {
    vec(select(items), 0..5).prop_map(|items| format!("[{}]", items.join(", "))).boxed()
}

fn spec() -> BoxedStrategy<String> {
    let any_value = || anything().boxed();
    let hook = || object(vec![("path", Just("\"/bin/hook\"".to_owned()).boxed())], 2, any_value());
    let hooks = || or_null(vec(hook(), 0..3).prop_map(|hooks| format!("[{}]", hooks.join(","))).boxed());
    let env = texts(vec!["\"PATH=/bin\"", "\"PORT0=80\"", "\"PORTS=x\"", "\"PORTX=1\"", "\"A=\\u0041\"", "\"broken\""]);
    let cpu = object(vec![("shares", Just("2".into()).boxed()), ("quota", Just("-1".into()).boxed())], 2, any_value());
    let unified = object(vec![("cpu.max", Just("\"max 100000\"".into()).boxed())], 1, any_value());
    let resources = object(vec![("cpu", or_null(cpu)), ("unified", or_null(unified))], 2, any_value());
    let sysctl = object(vec![("net.ipv4.ip_local_port_range", Just("\"1 2\"".into()).boxed())], 2, any_value());
    let linux = object(vec![("sysctl", or_null(sysctl)), ("resources", or_null(resources))], 3, any_value());
    let lists =
        vec![("prestart", hooks()), ("createRuntime", hooks()), ("poststop", hooks()), ("startContainer", hooks())];
    let mounts = or_null(vec(any_value(), 0..3).prop_map(|items| format!("[{}]", items.join(","))).boxed());
    object(
        vec![
            ("annotations", or_null(object(vec![], 3, Just("\"v\"".to_owned()).boxed()))),
            ("hooks", or_null(object(lists, 1, any_value()))),
            ("process", or_null(object(vec![("env", or_null(env))], 3, any_value()))),
            ("linux", or_null(linux)),
            ("mounts", mounts),
        ],
        4,
        any_value(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn any_bundle_differs_only_where_it_is_meant_to(text in spec(), v2 in any::<bool>()) {
        let version = if v2 { Version::V2 } else { Version::V1 };
        let wanted = everything("31000,31005", version);
        let edited = edit(text.as_bytes(), &wanted).unwrap();
        let found = unintended(text.as_bytes(), &edited);
        prop_assert!(found.is_empty(), "{found:?}\n{text}\n{}", String::from_utf8_lossy(&edited));
        let had_process = Object::parse(text.as_bytes()).unwrap().raw("process").is_some();
        assert_added(&edited, had_process, version);
        let again = edit(&edited, &Edit { resolver: None, ..wanted }).unwrap();
        let found = unintended(&edited, &again);
        prop_assert!(found.is_empty(), "twice: {found:?}\n{text}");
        prop_assert_eq!(edited.len(), again.len(), "twice: it grows");
    }
}
