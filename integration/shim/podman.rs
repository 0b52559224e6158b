//! Podman with the shim as its runtime, and Podman's own hook that edits bundles without it.

use super::engine::{Asked, Shimmed, refusals, two_containers};
use super::*;
use crate::lab::podman::Podman;
use crate::lab::run::Output;

fn start(podman: &Podman<'_>, name: &str, asks: &[(&str, &str)], options: &[&str], line: &str) -> Output {
    let annotations: Vec<String> = asks.iter().map(|(key, value)| format!("portslice/{key}={value}")).collect();
    let annotations = annotations.iter().flat_map(|annotation| ["--annotation", annotation.as_str()]);
    let network: &[&str] =
        if options.iter().any(|o| o.starts_with("--network")) { &[] } else { &["--network", "none"] };
    podman.run(
        name,
        &annotations.chain(network.iter().copied()).chain(options.iter().copied()).collect::<Vec<_>>(),
        line,
    )
}

fn with(engines: Engines, name: &str, program: &str, test: impl Fn(&str, &Shimmed, &Podman<'_>, &Asked<'_>)) {
    let Some(host) = engines.host(name) else { return };
    let shimmed = Shimmed::on(host, program, "");
    let podman = shimmed.host.podman();
    podman.by_runtime(&shimmed.runtime);
    let engine = Asked {
        start: &|name, asks, options, line| start(&podman, name, asks, options, line),
        exec: &|name, line| podman.call(&["exec", name, "sh", "-c", line]),
        pid: &|name| podman.pid(name),
        remove: &|name| {
            let _ = podman.call(&["rm", "--force", "--time", "0", name]);
        },
        failing: &["--entrypoint", "/nowhere"],
    };
    test(program, &shimmed, &podman, &engine);
}

fn containers(engines: Engines) {
    for program in ["crun", "runc"] {
        with(engines, &format!("podman-{program}"), program, |what, shimmed, _, engine| {
            two_containers(&format!("podman, {what}"), shimmed, engine);
            refusals(&format!("podman, {what}"), shimmed, engine);
        });
    }
}

#[test]
fn containers_of_podman() {
    containers(Engines::Installed);
}

#[test]
fn containers_of_podman_5() {
    containers(Engines::Debian13);
}

fn otherwise(engines: Engines) {
    with(engines, "podman-options", "crun", |what, shimmed, podman, engine| {
        let host = &shimmed.host;
        // By environment; and with all that a person may add.
        let options: [&[&str]; 3] = [
            &["--env", "PORTSLICE_PORTS=31000"],
            &["--env", "PORTSLICE_PORTS=31000", "--privileged"],
            &["--env", "PORTSLICE_PORTS=31000", "--read-only"],
        ];
        for options in options {
            let what = format!("{what}, {options:?}");
            (engine.start)("web", &[], options, "exec sleep 1000").ok();
            shimmed.assert_bundle(&what);
            let lease = slice(&what, host);
            assert_eq!(
                (&lease["ports"], &lease["members"][0]["name"]),
                (&json!("31000"), &json!("web")),
                "{what}: {lease}"
            );
            assert_works(&what, host, podman.pid("web"), 31_000, &lease);
            // Restarted, it has the same block.
            podman.call(&["restart", "--time", "0", "web"]).ok();
            assert_eq!(slice(&what, host)["block"], lease["block"], "{what}: restarted");
            (engine.remove)("web");
            assert_gone(&what, host);
        }
        let out = (engine.start)("hosted", &[("ports", "31000")], &["--network", "host"], "exec sleep 1000");
        assert!(out.stderr.matches("no network namespace of its own").count() == 1, "{what}: {out}");
        (engine.remove)("hosted");
        assert_gone(what, host);
    });
}

#[test]
fn what_podman_can_ask_for_otherwise() {
    otherwise(Engines::Installed);
}

#[test]
fn what_podman_5_can_ask_for_otherwise() {
    otherwise(Engines::Debian13);
}

#[test]
fn the_precreate_hook_tells_a_program_without_a_shim() {
    for program in ["crun", "runc"] {
        let host = host(&format!("precreate-{program}"), program, "");
        let podman = host.podman();
        podman.by_name(&path_of(program));
        let ran = |name: &str, asks: &[(&str, &str)], line: &str| {
            let out = start(&podman, name, asks, &[], line);
            let said = if out.code == Some(0) {
                podman.call(&["wait", name]).ok();
                podman.call(&["logs", name]).ok().stdout
            } else {
                String::new()
            };
            podman.call(&["rm", "--force", "--time", "0", name]).ok();
            (out, said)
        };
        for round in 1..=2 {
            let what = format!("{program}, round {round}");
            let (out, said) = ran("job", &[("ports", "31000-31001")], LOOKS);
            let block = said.lines().find_map(|line| line.strip_prefix("PORTSLICE_BLOCK="));
            let block = block.unwrap_or_else(|| panic!("{what}: no block: {out}\n{said}\n{}", log(&host)));
            assert_told(&what, &host, &said, &[31_000, 31_001], block);
            assert_gone(&what, &host);
        }
        // What did not ask is left alone, and a refusal keeps it from starting.
        let (out, said) = ran("plain", &[], "env");
        assert!(out.code == Some(0) && !said.contains("PORT"), "{program}: {out}\n{said}");
        let _holder = host.bare("holder", &["--ports", "31100"]);
        let (out, _) = ran("refused", &[("ports", "31100")], "true");
        assert!(out.code != Some(0), "{program}: {out}");
        assert!(log(&host).contains("port 31100 is leased to container holder"), "{program}: {out}\n{}", log(&host));
        assert_eq!(host.ids(), ["holder"], "{program}");
    }
}
