//! The hook binaries as a runtime calls them, without root: the state documents are made by oci-spec, the reference for
//! their form.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use oci_spec::runtime::{ContainerState, State, StateBuilder};

const PRESTART: &str = env!("CARGO_BIN_EXE_portslice-prestart");
const POSTSTOP: &str = env!("CARGO_BIN_EXE_portslice-poststop");

fn state(status: ContainerState) -> StateBuilder {
    StateBuilder::default().version("1.0.2").id("web-1").status(status).bundle(Path::new("/nowhere"))
}

fn call(hook: &str, state: &State) -> Output {
    call_with(hook, &[], state)
}

fn call_with(hook: &str, arguments: &[&str], state: &State) -> Output {
    let mut child = Command::new(hook)
        .args(arguments)
        .env("PORTSLICE_STATE_DIR", "/nonexistent/portslice")
        .env_remove("PORTSLICE_CONFIG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(serde_json::to_string(state).unwrap().as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn poststop_of_an_unknown_container_is_success_and_silent() {
    let out = call(POSTSTOP, &state(ContainerState::Stopped).build().unwrap());
    assert!(out.status.success(), "{out:?}");
    assert!(out.stdout.is_empty() && out.stderr.is_empty(), "{out:?}");
}

#[test]
fn prestart_without_a_process_is_refused_in_one_line() {
    let out = call(PRESTART, &state(ContainerState::Creating).build().unwrap());
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!((out.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.starts_with("portslice-prestart: ") && said.contains("no pid"), "{said}");
}

#[test]
fn annotations_are_read_before_anything_is_touched() {
    let annotations = HashMap::from([("portslice/prots".to_owned(), "31000".to_owned())]);
    let out = call(PRESTART, &state(ContainerState::Creating).pid(1).annotations(annotations).build().unwrap());
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("did you mean ports?"), "{said}");
}

#[test]
fn their_version_is_told_without_a_container() {
    for (hook, name) in [(PRESTART, "portslice-prestart"), (POSTSTOP, "portslice-poststop")] {
        let out = Command::new(hook).arg("--version").stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success() && said == format!("{name} {}\n", env!("CARGO_PKG_VERSION")), "{said}");
    }
}

#[test]
fn a_profile_is_all_that_arguments_may_name() {
    let state = state(ContainerState::Creating).pid(1).build().unwrap();
    for (arguments, says) in [
        (&["--profile", "web"][..], "profile \"web\": unknown profile; known are default"),
        (&["--profile=web"], "profile \"web\""),
        (&["--profile"], "--profile NAME"),
        (&["--verbose"], "argument \"--verbose\""),
    ] {
        let out = call_with(PRESTART, arguments, &state);
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), said.lines().count()), (Some(2), 1), "{said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
}
