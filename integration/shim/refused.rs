//! What stands in the way of a container is said in one line, by exit code, stderr and the file of `--log`, and changes nothing.

use super::*;
use crate::lab::run::Output;
use std::fs;

fn asking(host: &Host, name: &str, key: &str, value: &str) -> Bundle {
    Bundle::new(host, name, &["echo", "started"]).annotation(&format!("portslice/{key}"), value)
}

/// Creates as containerd does, and returns what the log of the runtime says as well.
fn created(host: &Host, bundle: &Bundle, format: &str) -> (Output, String) {
    let log = bundle.dir.join("log.json");
    let _ = fs::remove_file(&log);
    let (dir, path) = (bundle.dir.to_string_lossy(), log.to_string_lossy());
    let args = ["--log", &path, "--log-format", format, "create", "--bundle", &dir, &bundle.id];
    let out = host.runtime("portslice-runtime").call(&args);
    (out, fs::read_to_string(log).unwrap_or_default())
}

#[track_caller]
fn assert_refused(what: &str, host: &Host, bundle: &Bundle, code: i32, says: &str) {
    let (still, before) = (still::Still::of(host), fs::read(bundle.dir.join("config.json")).unwrap());
    for format in ["json", "text"] {
        let what = format!("{what}, {format}");
        let (out, log) = created(host, bundle, format);
        let out = out.refused(code, says);
        let line = out.stderr.trim_end();
        assert!(line.starts_with("portslice-runtime: "), "{what}: {out}");
        assert_eq!(log.lines().count(), 1, "{what}: {log}");
        let message = match format {
            "json" => {
                let entry: Value = serde_json::from_str(&log).expect("JSON");
                assert_eq!(entry["level"], "error", "{what}: {log}");
                entry["msg"].as_str().expect("msg").to_owned()
            }
            _ => {
                let at = log.find("level=error msg=").unwrap_or_else(|| panic!("{what}: {log}"));
                serde_json::from_str(log[at + "level=error msg=".len()..].trim()).expect("a quoted message")
            }
        };
        assert_eq!(message, line, "{what}: the log and stderr");
    }
    assert_eq!(fs::read(bundle.dir.join("config.json")).unwrap(), before, "{what}: its bundle");
    still.check(what);
}

#[test]
fn what_is_asked_wrongly_or_taken() {
    let host = host("shim-refused", "runc", "");
    let _holder = host.bare("holder", &["--ports", "31100"]);
    let _process = Echo::start(&host.ns, Proto::Tcp, SocketAddr::new(HOST4, 31_200));
    for (name, key, value, code, says) in [
        ("misspelt", "prots", "31000", 2, "did you mean ports"),
        ("outside", "ports", "80", 2, "31000-31999"),
        ("leased", "ports", "31100", 4, "leased to container holder"),
        ("process", "ports", "31200", 4, "is in use by process"),
        ("rate", "egress-rate", "1000", 2, "egress-rate"),
    ] {
        assert_refused(name, &host, &asking(&host, name, key, value), code, says);
    }
    let variable = with_env(Bundle::new(&host, "variable", &["true"]), &["PORTSLICE_PROTS=1"]);
    assert_refused("variable", &host, &variable, 2, "did you mean PORTSLICE_PORTS?");
    let shared = asking(&host, "shared", "ports", "31000").network(bundle::Network::Host);
    assert_refused("host networking", &host, &shared, 5, "no network namespace of its own");
    let path = host.ns.path();
    let by_path = asking(&host, "by-path", "ports", "31000").network(bundle::Network::Path(&path));
    assert_refused("host networking by path", &host, &by_path, 5, "no network namespace of its own");
    let own_range = asking(&host, "range", "ports", "31000")
        .edit(|c| c["linux"]["sysctl"] = json!({"net.ipv4.ip_local_port_range": "1024 65535"}));
    assert_refused("a range of its own", &host, &own_range, 2, "net.ipv4.ip_local_port_range of the bundle");
    let mut id = asking(&host, "id", "ports", "31000");
    id.id = "a/b".into();
    assert_refused("an id", &host, &id, 2, "container id");
}

#[test]
fn a_pool_that_is_full() {
    let host = Host::with("shim-full").config("ports = \"31000-31999\"\nephemeral_ports = \"32768-34815\"\n").build();
    configure(&host, "runc", "ephemeral_ports = \"32768-34815\"");
    let _two = ["one", "two"].map(|id| host.bare(id, &[]));
    let bundle = asking(&host, "third", "ports", "31000");
    assert_refused("full", &host, &bundle, 3, "pool 32768-34815 has no free block of 1024 ports");
    fs::write(host.config_file(), "nonsense = 1\n").expect("config");
    let (out, _) = created(&host, &bundle, "json");
    out.refused(2, "key nonsense");
    configure(&host, "runc", "ephemeral_ports = \"32768-34815\"");
}
