//! `portslice cdi`, without root: what it prints is a specification as cncf's schema (0.5.0) and its validation of names
//! want it, whose readers refuse unknown fields.

use std::process::Command;

use serde_json::Value;

/// Prints the specification for a configuration.
fn cdi(config: &str) -> (Option<i32>, String, String) {
    let dir = std::env::temp_dir().join(format!("portslice-cdi-{}-{}", std::process::id(), config.len()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("portslice.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portslice"));
    let out = command.env_remove("PORTSLICE_STATE_DIR").arg("--config").arg(&file).arg("cdi").output().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

/// The fields of an object: all of `required`, and beside them only `optional`.
#[track_caller]
fn fields<'v>(value: &'v Value, required: &[&str], optional: &[&str]) -> &'v Value {
    let object = value.as_object().unwrap_or_else(|| panic!("no object: {value}"));
    assert!(required.iter().all(|key| object.contains_key(*key)), "{value}");
    assert!(object.keys().all(|key| required.contains(&key.as_str()) || optional.contains(&key.as_str())), "{value}");
    value
}

fn strings(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(|all| all.iter().all(Value::is_string))
}

/// schema.json and defs.json of the specification, and its ValidateDeviceName, ValidateVendorName, ValidateClassName.
#[track_caller]
fn assert_valid(spec: &Value) {
    fields(spec, &["cdiVersion", "kind", "devices"], &["annotations", "containerEdits"]);
    assert_eq!(spec["cdiVersion"], "0.5.0");
    let name = |text: &str, more: &[u8]| {
        let bytes = text.as_bytes();
        let ends = [bytes.first(), bytes.last()].iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric));
        ends && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || more.contains(byte))
    };
    let (vendor, class) = spec["kind"].as_str().and_then(|kind| kind.split_once('/')).expect("vendor/class");
    assert!(name(vendor, b"_-.") && name(class, b"_-") && vendor.as_bytes()[0].is_ascii_alphabetic(), "{spec}");
    let devices = spec["devices"].as_array().expect("devices");
    assert!(!devices.is_empty(), "{spec}");
    for device in devices {
        fields(device, &["name", "containerEdits"], &["annotations"]);
        assert!(name(device["name"].as_str().expect("a name"), b"_-.:"), "{device}");
        let edits = fields(&device["containerEdits"], &["hooks"], &["env", "deviceNodes", "mounts"]);
        for hook in edits["hooks"].as_array().expect("hooks") {
            fields(hook, &["hookName", "path"], &["args", "env", "timeout"]);
            let known = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
            assert!(known.contains(&hook["hookName"].as_str().unwrap()), "{hook}");
            assert!(hook["path"].as_str().unwrap().starts_with('/'), "{hook}");
            assert!(strings(&hook["args"]) && strings(&hook["env"]) && hook["timeout"].is_u64(), "{hook}");
            let env = hook["env"].as_array().into_iter().flatten();
            assert!(env.into_iter().all(|entry| entry.as_str().unwrap().contains('=')), "{hook}");
        }
    }
}

fn names(spec: &Value) -> Vec<&str> {
    spec["devices"].as_array().unwrap().iter().map(|device| device["name"].as_str().unwrap()).collect()
}

#[test]
fn what_is_printed_is_a_valid_specification() {
    for (config, devices) in [
        ("", &["default"][..]),
        (
            "[profile.web]\nports = \"auto:2\"\n[profile.a-1]\n[profile.default]\ncpus = \"1\"\n",
            &["default", "a-1", "web"],
        ),
    ] {
        let (code, spec, said) = cdi(config);
        assert_eq!((code, said.as_str()), (Some(0), ""), "{config}");
        let spec: Value = serde_json::from_str(&spec).unwrap();
        assert_valid(&spec);
        assert_eq!(names(&spec), devices);
        for (device, hook) in devices.iter().zip(spec["devices"].as_array().unwrap()) {
            let hook = &hook["containerEdits"]["hooks"][0];
            assert_eq!(hook["args"][2].as_str(), Some(*device), "{hook}");
            assert!(hook["env"][0].as_str().unwrap().starts_with("PORTSLICE_CONFIG=/"), "{hook}");
            assert!(std::path::Path::new(hook["path"].as_str().unwrap()).exists(), "{hook}");
        }
    }
    assert_valid(&serde_json::from_str(include_str!("../config/cdi/portslice.json")).unwrap());
}

#[test]
fn a_bad_profile_is_refused_with_its_line() {
    for (config, says) in [
        ("\n[profile.web]\nprots = \"1\"\n", "did you mean ports?"),
        ("[profile.web]\nports = \"1-\"\n", "key profile.web.ports: \"1-\" is not"),
        ("[profile.web]\nports = 31000\n", "string"),
        ("[profile.web]\negress-rate = \"20mbit\"\negress-ceil = \"10mbit\"\n", "key profile.web.egress-rate"),
        ("[profile.\"-x\"]\n", "\"-x\" is no name of a profile"),
        ("[profile.\"a b\"]\n", "\"a b\" is no name of a profile"),
        ("profile = \"web\"\n", "key profile"),
    ] {
        let (code, out, said) = cdi(config);
        assert_eq!((code, out.as_str(), said.lines().count()), (Some(2), "", 1), "{config}: {said}");
        assert!(said.contains("portslice.toml ") && said.contains(says), "{config}: {said}");
    }
}
