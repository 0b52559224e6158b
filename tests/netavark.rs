//! The netavark plugin as Podman 5.4 and netavark 1.14 call it: the documents in `netavark/` are what they wrote on its stdin.
//! Without root: what a network is, and how failures are told.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// Exit code and stdout; nothing may stand on stderr, which netavark shows beside the answer.
fn call(arguments: &[&str], input: &str) -> (Option<i32>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portslice-netavark"))
        .args(arguments)
        .env("PORTSLICE_STATE_DIR", "/nonexistent/portslice")
        .env_remove("PORTSLICE_CONFIG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A plugin that refuses its arguments reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let out = child.wait_with_output().unwrap();
    assert!(out.stderr.is_empty(), "{arguments:?}: {out:?}");
    (out.status.code(), String::from_utf8(out.stdout).unwrap())
}

#[track_caller]
fn answer(arguments: &[&str], input: &str) -> Value {
    let (code, text) = call(arguments, input);
    assert_eq!(code, Some(0), "{arguments:?}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}"))
}

/// The line of a failure.
#[track_caller]
fn failure(arguments: &[&str], input: &str) -> String {
    let (code, text) = call(arguments, input);
    assert_eq!(code, Some(1), "{arguments:?}: {text}");
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}"));
    let (line, fields) = (answer["error"].as_str().expect("a line"), answer.as_object().expect("an object").len());
    assert!(fields == 1 && !line.is_empty() && !line.contains('\n'), "{answer}");
    line.to_owned()
}

const CREATE: &str = include_str!("netavark/create.json");
const CONTAINER: &str = include_str!("netavark/container.json");
const NOWHERE: &str = "/nonexistent/netns";

#[test]
fn versions_are_told() {
    for arguments in [&["info"][..], &[]] {
        let info = answer(arguments, "");
        assert_eq!(info, json!({"version": env!("CARGO_PKG_VERSION"), "api_version": "1.0.0"}));
    }
}

#[test]
fn a_network_is_created_with_the_name_id_and_driver_that_podman_chose() {
    for recorded in [CREATE, include_str!("netavark/create-options.json")] {
        let given: Value = serde_json::from_str(recorded).unwrap();
        let created = answer(&["create"], recorded);
        for (key, value) in given.as_object().unwrap().iter().filter(|(key, _)| *key != "dns_enabled") {
            assert_eq!(&created[key], value, "{key}");
        }
        assert_eq!((&created["dns_enabled"], &created["ipam_options"]), (&json!(false), &json!({"driver": "none"})));
    }
    let mut subnet: Value = serde_json::from_str(CREATE).unwrap();
    subnet["subnets"] = json!([{"subnet": "10.89.0.0/24"}]);
    assert!(failure(&["create"], &subnet.to_string()).contains("--subnet"));
}

#[test]
fn failures_are_one_line_as_netavark_reads_it() {
    let published = |outer: u16| {
        let mut call: Value = serde_json::from_str(CONTAINER).unwrap();
        call["port_mappings"][0]["host_port"] = json!(outer);
        call["port_mappings"][0]["protocol"] = json!("sctp");
        call.to_string()
    };
    for (arguments, input, says) in [
        (&["setup", NOWHERE][..], CONTAINER.to_owned(), NOWHERE),
        (&["setup", NOWHERE], published(8080), "published port 8080:31600: ports of sctp have no names"),
        (&["setup", NOWHERE], include_str!("netavark/address.json").to_owned(), "address 10.77.0.2: "),
        (&["setup", NOWHERE], "{".to_owned(), "on stdin"),
        (&["setup", NOWHERE], "{}".to_owned(), "missing field `container_id`"),
        (&["setup"], CONTAINER.to_owned(), "setup NETNS"),
        (&["create"], "[]".to_owned(), "JSON object"),
        (&["list"], String::new(), "`portslice`"),
    ] {
        let line = failure(arguments, &input);
        assert!(line.contains(says), "{arguments:?}: {line}");
    }
}

#[test]
fn teardown_of_what_was_never_set_up_is_success_and_silent() {
    for recorded in [CONTAINER, include_str!("netavark/pod.json")] {
        assert_eq!(call(&["teardown", NOWHERE], recorded), (Some(0), String::new()));
    }
}
