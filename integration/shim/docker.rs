//! Docker with the shim. 20.10 knows neither annotations nor devices: there the environment is what a person can say, and it is
//! the same for later versions. Their other door is in cdi/docker.rs.

use super::engine::{Asked, Shimmed, lease_of, refusals, run_page, two_containers};
use super::*;
use crate::lab::docker::Docker;

fn with(engines: Engines, name: &str, program: &str, test: impl Fn(&str, &Shimmed, &Docker<'_>, &Asked<'_>)) {
    let Some(host) = engines.host(name) else { return };
    let shimmed = Shimmed::on(host, program, "");
    let docker = shimmed.host.docker(&shimmed.runtime);
    with_docker(program, &shimmed, &docker, test);
}

fn with_docker(
    program: &str,
    shimmed: &Shimmed,
    docker: &Docker<'_>,
    test: impl Fn(&str, &Shimmed, &Docker<'_>, &Asked<'_>),
) {
    let start = |name: &str, asks: &[(&str, &str)], options: &[&str], line: &str| {
        let variable = |(key, value): &(&str, &str)| {
            format!("--env=PORTSLICE_{}={value}", key.to_ascii_uppercase().replace('-', "_"))
        };
        let asks: Vec<String> = asks.iter().map(variable).collect();
        // Who shares a network shares its name as well.
        let joins = options.iter().any(|option| option.starts_with("--network=container:"));
        let called: &[&str] = if joins { &[] } else { &["--hostname", name] };
        let all = ["--runtime=portslice"]
            .iter()
            .chain(called)
            .copied()
            .chain(asks.iter().map(String::as_str))
            .chain(options.iter().copied());
        docker.run(name, &all.collect::<Vec<_>>(), line)
    };
    let engine = Asked {
        start: &start,
        exec: &|name, line| docker.call(&["exec", name, "sh", "-c", line]),
        pid: &|name| docker.inspect(name)["State"]["Pid"].as_u64().unwrap_or(0) as u32,
        remove: &|name| {
            let _ = docker.call(&["rm", "--force", name]);
        },
        failing: &["--entrypoint", "/nowhere"],
    };
    test(program, shimmed, docker, &engine);
}

fn containers(engines: Engines) {
    for program in ["runc", "crun"] {
        with(engines, &format!("docker-{program}"), program, |what, shimmed, _, engine| {
            two_containers(&format!("docker, {what}"), shimmed, engine);
            refusals(&format!("docker, {what}"), shimmed, engine);
        });
    }
}

#[test]
fn containers_of_docker() {
    containers(Engines::Installed);
}

#[test]
fn containers_of_docker_26() {
    containers(Engines::Debian13);
}

fn otherwise(engines: Engines) {
    with(engines, "docker-options", "runc", |what, shimmed, docker, engine| {
        let host = &shimmed.host;
        let options: [&[&str]; 3] = [&["--restart=always"], &["--cap-add=NET_ADMIN"], &["--read-only"]];
        // 20.10 gives all capabilities there are, which the tests' own root may not have
        let privileged: &[&[&str]] = match engines {
            Engines::Installed => &[],
            Engines::Debian13 => &[&["--privileged"]],
        };
        for options in options.iter().chain(privileged).copied() {
            let what = format!("{what}, {options:?}");
            (engine.start)("web", &[("ports", "31000")], options, "exec sleep 1000").ok();
            shimmed.assert_bundle(&what);
            let lease = slice(&what, host);
            assert_works(&what, host, (engine.pid)("web"), 31_000, &lease);
            docker.call(&["restart", "--time", "0", "web"]).ok();
            let again = slice(&what, host);
            assert_eq!((&again["block"], &again["ports"]), (&lease["block"], &lease["ports"]), "{what}: restarted");
            let old = (engine.pid)("web");
            if options == ["--restart=always"] {
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(old as i32), nix::sys::signal::Signal::SIGKILL)
                    .unwrap();
                assert!(eventually(|| ![0, old].contains(&(engine.pid)("web"))), "{what}: it is not restarted");
                let again = lease_of(&what, host, (engine.pid)("web"));
                assert_eq!(
                    (&again["block"], &again["ports"]),
                    (&lease["block"], &lease["ports"]),
                    "{what}: by its policy"
                );
            }
            (engine.remove)("web");
            assert_gone(&what, host);
        }
        let out = (engine.start)("hosted", &[("ports", "31000")], &["--network=host"], "exec sleep 1000");
        assert!(out.stderr.matches("no network namespace of its own").count() == 1, "{what}: {out}");
        (engine.remove)("hosted");
        // One that joins another: a member with a port of its own.
        (engine.start)("first", &[("ports", "31000")], &[], "exec sleep 1000").ok();
        (engine.start)("second", &[("ports", "31001")], &["--network=container:first"], "exec sleep 1000").ok();
        assert_eq!(slice(what, host)["members"].as_array().map(Vec::len), Some(2), "{what}: {:?}", host.list());
        (engine.remove)("second");
        (engine.remove)("first");
        assert_gone(what, host);
    });
}

#[test]
fn what_docker_can_ask_for_otherwise() {
    otherwise(Engines::Installed);
}

#[test]
fn what_docker_26_can_ask_for_otherwise() {
    otherwise(Engines::Debian13);
}

fn killed(engines: Engines) {
    let Some(host) = engines.host("docker-killed") else { return };
    let shimmed = Shimmed::on(host, "runc", "");
    let mut docker = shimmed.host.docker(&shimmed.runtime);
    with_docker("killed", &shimmed, &docker, |what, shimmed, _, engine| {
        (engine.start)("web", &[("ports", "31000")], &[], "exec sleep 1000").ok();
        let _ = slice(what, &shimmed.host);
    });
    docker.killed();
    with_docker("killed", &shimmed, &docker, |what, shimmed, _, engine| {
        (engine.remove)("web");
        shimmed.host.portslice(["gc"]).ok();
        assert_gone(what, &shimmed.host);
        (engine.start)("web", &[("ports", "31000")], &[], "exec sleep 1000").ok();
        (engine.remove)("web");
        assert_gone(what, &shimmed.host);
    });
}

#[test]
fn a_daemon_that_is_killed_leaves_nothing() {
    killed(Engines::Installed);
}

#[test]
fn a_daemon_of_docker_26_that_is_killed_leaves_nothing() {
    killed(Engines::Debian13);
}

fn page(engines: Engines) {
    const PAGE: &str = include_str!("../../docs/engines/docker.md");
    let section = PAGE.split("\n## ").find(|section| section.starts_with("The shim")).expect("a section");
    let config = section.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a configuration");
    let config: Value = serde_json::from_str(config).expect("JSON");
    assert_eq!(
        config,
        json!({"runtimes": {"portslice": {"path": "/usr/bin/portslice-runtime"}}}),
        "as the test's daemon has it"
    );
    with(engines, "docker-page", "runc", |what, shimmed, docker, _| {
        docker.call(&["tag", crate::lab::engine::IMAGE, "busybox"]).ok();
        run_page(shimmed, section, &docker.env(), str::to_owned, |n| match n {
            0 => assert_eq!(slice(what, &shimmed.host)["ports"], "31000-31001"),
            _ => assert_gone(what, &shimmed.host),
        });
    });
}

#[test]
fn the_page_says_what_works() {
    page(Engines::Installed);
}

#[test]
fn the_page_says_what_works_with_docker_26() {
    page(Engines::Debian13);
}
