//! Docker 20.10, whose only door is the shim; the environment is what a person can say.

use super::*;
use crate::shim::Shimmed;

fn with(name: &str, program: &str, test: impl Fn(&Door<'_>)) {
    let shimmed = Shimmed::on(Host::new(name), program, "");
    let docker = shimmed.host.docker(&shimmed.runtime);
    let start = |name: &str, port: u16, options: &[&str]| {
        let asks = format!("--env=PORTSLICE_PORTS={port}");
        docker.run(name, &[&["--runtime=portslice", asks.as_str()], options].concat(), "exec sleep 1000")
    };
    let plain = |name: &str, options: &[&str]| {
        docker.run(name, &[&["--runtime=portslice"], options].concat(), "exec sleep 1000")
    };
    let (what, call) = (format!("docker on {program}"), |words: &[&str]| docker.call(words));
    test(&Door { what, host: &shimmed.host, start: &start, plain: &plain, call: &call, rm: &["rm", "--force"] });
}

#[test]
fn by_the_shim() {
    with("engines-docker", "runc", |door| {
        ends(door);
        fails(door);
        restarts(door);
        works_with(door, &[&["--privileged"], &["--read-only"], &["--user=1000"]]);
        refuses_the_hosts_network(door);
        joins(door);
        restarts_beside(door);
    });
}

/// runc insists on every capability there is, which some machines have not.
#[test]
fn privileged_on_crun() {
    with("engines-docker-crun", "crun", |door| works_with(door, &[&["--privileged"]]));
}
