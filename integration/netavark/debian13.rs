//! The real Podman 5.4 and netavark, whose plugin is ours, on a host of Debian 13: under `--long` only.

use crate::cdi::assert_gone;
use crate::lab::docs::Page;
use crate::lab::installed::Installed;
use crate::lab::podman::Podman;
use crate::lab::wait::eventually;
use crate::lab::*;
use crate::podman::assert_web;
use crate::shim::{assert_known, assert_works};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;

const PAGE: &str = include_str!("../../docs/engines/podman.md");
const SECTION: &str = "A network";

const SLEEP: &str = "exec sleep 1000";

/// Podman with the network `ps`, as the page makes it.
fn with(name: &str, test: impl FnOnce(&Host, &Podman<'_>)) {
    let Some(host) = Engines::Debian13.host(name) else { return };
    let installed = host.installed();
    let podman = host.podman_with_netavark();
    sh(&installed, &podman, Page::of(PAGE).block(SECTION, 0)).ok();
    test(&host, &podman);
    podman.call(&["network", "rm", "ps"]).ok();
    assert_gone(&host);
}

/// Starts a container that asks for a port.
fn start(podman: &Podman<'_>, name: &str, port: u16, options: &[&str]) -> run::Output {
    let network = format!("ps:ports={port}");
    podman.run(name, &[&["--network", &network], options].concat(), SLEEP)
}

fn remove(podman: &Podman<'_>, name: &str) {
    podman.call(&["rm", "--force", "--time", "0", name]).ok();
}

/// The slice of the container called `name`, which is served and connects out from its block.
#[track_caller]
fn assert_served(host: &Host, podman: &Podman<'_>, name: &str, port: u16) -> Value {
    let all = host.list();
    let found = all.iter().find(|lease| lease["members"][0]["name"] == name);
    let lease = found.unwrap_or_else(|| panic!("{name} has no slice: {all:?}")).clone();
    assert_works(name, host, podman.pid(name), port, &lease);
    lease
}

#[test]
fn two_containers_of_podman_5() {
    with("netavark-two", |host, podman| {
        let _server = dns::by_the_peer(host);
        for (name, port) in [("web1", 31_000), ("web2", 31_010)] {
            start(podman, name, port, &[]).ok();
        }
        for (name, port) in [("web1", 31_000), ("web2", 31_010)] {
            assert_served(host, podman, name, port);
            let resolved = podman.call(&["exec", name, "sh", "-c", dns::ASK]).ok().stdout;
            assert!(resolved.contains(&dns::ANSWER.to_string()), "{name}: {resolved}");
            assert_known("podman by netavark", host, name);
        }
        podman.call(&["stop", "--time", "0", "web1"]).ok();
        assert!(eventually(|| host.ids().len() == 1), "after stop: {:?}", host.list());
        kill(Pid::from_raw(podman.pid("web2") as i32), Signal::SIGKILL).expect("kill");
        assert_gone(host);
        // The runtime fails when the network is there.
        let out = start(podman, "failed", 31_020, &["--entrypoint", "/nowhere"]);
        assert_ne!(out.code, Some(0), "{out}");
        assert_gone(host);
        ["web1", "web2", "failed"].iter().for_each(|name| remove(podman, name));
    });
}

#[test]
fn what_podman_5_can_ask_for_beside_a_network() {
    with("netavark-options", |host, podman| {
        // Root of another user namespace is somebody else outside of it.
        std::fs::set_permissions(&host.dir, PermissionsExt::from_mode(0o711)).expect("permissions");
        let userns = ["--uidmap=0:100000:2000", "--gidmap=0:100000:2000"];
        let options: [&[&str]; 4] = [&["--restart=always"], &["--privileged"], &["--read-only"], &userns];
        for options in options {
            start(podman, "web", 31_000, options).ok();
            let lease = assert_served(host, podman, "web", 31_000);
            podman.call(&["restart", "--time", "0", "web"]).ok();
            let again = assert_served(host, podman, "web", 31_000);
            assert_eq!((&again["block"], &again["ports"]), (&lease["block"], &lease["ports"]), "{options:?}");
            if options == ["--restart=always"] {
                let old = podman.pid("web");
                kill(Pid::from_raw(old as i32), Signal::SIGKILL).expect("kill");
                assert!(eventually(|| ![0, old].contains(&podman.pid("web"))), "it is not restarted");
                assert!(eventually(|| host.list().len() == 1), "{:?}", host.list());
                let again = assert_served(host, podman, "web", 31_000);
                assert_eq!((&again["block"], &again["ports"]), (&lease["block"], &lease["ports"]), "by its policy");
            }
            remove(podman, "web");
            assert_gone(host);
        }
        // One that joins another has its network.
        start(podman, "first", 31_000, &[]).ok();
        podman.run("second", &["--network", "container:first"], SLEEP).ok();
        let lease = assert_served(host, podman, "first", 31_000);
        assert_works("second", host, podman.pid("second"), 31_000, &lease);
        ["second", "first"].iter().for_each(|name| remove(podman, name));
        // The host's is not ours to give.
        let out = podman.run("hosted", &["--network", "host", "--network", "ps"], SLEEP);
        assert!(out.code != Some(0) && out.stderr.lines().count() == 1, "{out}");
    });
}

/// Runs lines of shell as they stand, with this Podman.
fn sh(installed: &Installed<'_>, podman: &Podman<'_>, lines: &str) -> run::Output {
    installed.sh(&podman.as_installed(), lines)
}

#[test]
fn the_page_works_as_it_is_written() {
    let Some(host) = Engines::Debian13.host("netavark-page") else { return };
    let installed = host.installed();
    let podman = host.podman_with_netavark();
    podman.call(&["tag", engine::IMAGE, "docker.io/library/busybox:latest"]).ok();
    let page = Page::of(PAGE);
    let run = |text: &str| sh(&installed, &podman, text).ok().stdout;
    let some = |n: usize, removal: bool| {
        let lines = page.block(SECTION, n).lines().filter(|line| line.contains(" rm ") == removal);
        lines.collect::<Vec<_>>().join("\n")
    };

    run(page.block(SECTION, 0));
    let listed = run(&some(1, false));
    assert!(listed.contains("web") && listed.contains("31600-31601") && listed.contains("31610"), "{listed}");
    for port in [31_600, 31_610] {
        assert_web(&host, port);
    }
    run(&some(1, true));
    run(&some(2, false));
    assert_web(&host, 31_620);
    run(&some(2, true));
    assert_eq!(page.blocks(SECTION), 3, "blocks that nobody runs");
    assert_gone(&host);
}

#[test]
fn what_podman_shows_and_refuses() {
    let Some(host) = Engines::Debian13.host("netavark-podman") else { return };
    let installed = host.installed();
    let podman = host.podman_with_netavark();
    let resolver = "nameserver 127.0.0.53\nsearch example.org\n";
    std::fs::write(host.ns.root("/etc/resolv.conf"), resolver).expect("resolv.conf");
    let page = Page::of(PAGE);
    sh(&installed, &podman, &page.block(SECTION, 0).replace(" ps", " --opt egress-rate=20mbit ps")).ok();
    let options = ["--network", "ps:ports=31000", "-p", "31600:31600", "-p", "31601-31603:31601-31603/udp"];
    podman.run("a", &options, "exec httpd -f -p 31600").ok();
    assert_web(&host, 31_600);
    let network = podman.inspect("a")["NetworkSettings"]["Networks"]["ps"].clone();
    let told = [&network["IPAddress"], &network["GlobalIPv6Address"]];
    assert_eq!(told, [&json!("10.77.0.2"), &json!("fd77::2")], "{network}");
    let lease = host.list().remove(0);
    assert_eq!((&lease["ports"], &lease["asked"]["egress"]["rate"]), (&json!("31000,31600-31603"), &json!("20mbit")));
    assert_eq!((&lease["members"][0]["name"], &lease["members"][0]["engine"]), (&json!("a"), &json!("podman")));
    let resolv = podman.call(&["exec", "a", "cat", "/etc/resolv.conf"]).ok().stdout;
    assert!(resolv.contains("nameserver 127.0.0.53") && resolv.contains("search example.org"), "{resolv}");

    // What the user sees is our line.
    for (options, says) in [
        (&["--network", "ps", "-p", "8080:80"][..], "asks for port names"),
        (&["--network", "ps:ports=31600"], "port 31600 is leased to "),
        (&["--network", "ps:prots=31700"], "did you mean ports?"),
        (&["--network", "ps", "-p", "127.0.0.1:31700:31700"], "leave the address out"),
    ] {
        let out = podman.run("refused", options, "true");
        assert!(out.code != Some(0) && out.stderr.contains(says), "{options:?}: {out}");
        podman.call(&["rm", "-f", "refused"]).ok();
        assert_eq!(host.list().len(), 1, "{options:?}");
    }
    let out = podman.call(&["network", "create", "-d", "portslice", "--subnet", "10.89.0.0/24", "other"]);
    assert!(out.code != Some(0) && out.stderr.contains("--subnet"), "{out}");

    // The same block and ports when it comes back, also after a kill.
    for end in [&[&["restart", "-t", "0", "a"][..]][..], &[&["kill", "a"], &["wait", "a"], &["start", "a"]]] {
        end.iter().for_each(|command| drop(podman.call(command).ok()));
        assert_web(&host, 31_600);
        let again = host.list().remove(0);
        assert_eq!((&again["block"], &again["ports"]), (&lease["block"], &lease["ports"]), "{end:?}");
    }
    podman.call(&["rm", "-f", "-t", "0", "a"]).ok();
    podman.call(&["network", "rm", "ps"]).ok();
    assert_gone(&host);
}
