//! Podman 4.3: hooks.d, the shim, CDI devices, and our CNI plugin.

use super::*;
use crate::lab::podman::Podman;
use crate::shim::Shimmed;

const LINE: &str = "exec sleep 1000";

/// In another user namespace, whose root is not the host's.
const USERNS: [&str; 2] = ["--uidmap=0:100000:5000", "--gidmap=0:100000:5000"];

/// A door by these options, which are those of a port.
fn with(what: &str, host: &Host, podman: &Podman<'_>, options: &dyn Fn(u16) -> Vec<String>, test: impl Fn(&Door<'_>)) {
    let start = |name: &str, port: u16, more: &[&str]| {
        let options = options(port);
        // the last one of several would hold beside the others
        let other = more.iter().any(|word| word.starts_with("--network"));
        let ours = options.iter().map(String::as_str).filter(|word| !(other && word.starts_with("--network")));
        podman.run(name, &ours.chain(more.iter().copied()).collect::<Vec<_>>(), LINE)
    };
    let plain = |name: &str, options: &[&str]| podman.run(name, &[&["--network=none"], options].concat(), LINE);
    let call = |words: &[&str]| podman.call(words);
    let rm = ["rm", "--force", "--time", "0"];
    test(&Door { what: what.to_owned(), host, start: &start, plain: &plain, call: &call, rm: &rm });
}

/// A container that the runtime gives its namespace, and what asks for its port.
fn annotated(port: u16) -> Vec<String> {
    vec!["--network=none".to_owned(), format!("--annotation=portslice/ports={port}")]
}

/// Podman has no daemon, but a monitor for each container. Where that was killed, the container runs on until Podman removes it,
/// and hooks of a runtime may not be told: what is left then is gc's.
fn without_its_monitor(door: &Door<'_>) {
    (door.start)("web", 31_000, &[]).ok();
    let monitor = (door.call)(&["inspect", "--format", "{{.State.ConmonPid}}", "web"]).ok().stdout;
    let monitor = monitor.trim().parse().unwrap_or_else(|e| panic!("{}: {monitor:?}: {e}", door.what));
    kill(Pid::from_raw(monitor), Signal::SIGKILL).expect("kill");
    door.working("without its monitor", "web", 31_000);
    door.remove("web");
    door.host.portslice(["gc"]).ok();
    assert_gone(&format!("{}, without its monitor", door.what), door.host);
}

fn alone(door: &Door<'_>) {
    ends(door);
    without_its_monitor(door);
    fails(door);
    restarts(door);
    works_with(door, &[&["--privileged"], &["--read-only"], &USERNS]);
}

fn all(door: &Door<'_>) {
    alone(door);
    refuses_the_hosts_network(door);
    joins(door);
}

#[test]
fn by_hooks() {
    let host = crate::shim::host("engines-hooks", "crun", "");
    let podman = host.podman();
    with("podman by hooks", &host, &podman, &annotated, all);
}

#[test]
fn by_the_shim() {
    let shimmed = Shimmed::on(Host::new("engines-shim"), "crun", "");
    let podman = shimmed.host.podman();
    podman.by_runtime(&shimmed.runtime);
    with("podman by the shim", &shimmed.host, &podman, &annotated, all);
}

#[test]
fn by_a_cdi_device() {
    let host = crate::shim::host("engines-cdi", "crun", "");
    let podman = host.podman_as_installed();
    crate::cdi::install(&host);
    let options = |port| [annotated(port), vec!["--device=portslice/net=default".to_owned()]].concat();
    with("podman by a CDI device", &host, &podman, &options, all);
}

/// The request comes with the network: there is none with another one.
#[test]
fn by_cni() {
    let host = crate::shim::host("engines-cni", "crun", "");
    let podman = host.podman_with_cni();
    let options = |port| vec!["--network=portslice".to_owned(), format!("--publish={port}:{port}")];
    with("podman by CNI", &host, &podman, &options, alone);
}
