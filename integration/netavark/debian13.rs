//! The real Podman 5.4 and netavark, whose plugin is ours, in a root of Debian 13: under `--long` only.

use crate::lab::debian13::Debian13;
use crate::lab::docs::Page;
use crate::lab::wait::eventually;
use crate::lab::*;
use crate::podman::assert_web;
use serde_json::json;

const PAGE: &str = include_str!("../../docs/engines/podman.md");
const SECTION: &str = "A network";

fn podman(host: &Host) -> Option<Debian13<'_>> {
    if !long() {
        eprintln!("skipped: Podman 5 in a root of Debian 13 takes long (PORTSLICE_LONG)");
        return None;
    }
    let podman = host.debian13();
    if podman.is_none() {
        eprintln!("skipped: no root of Debian 13 (PORTSLICE_DEBIAN13; integration/debian13 makes one)");
    }
    podman
}

/// Everything goes into the host's cgroup.
fn run(podman: &Debian13<'_>, name: &str, options: &str, line: &str) -> run::Output {
    let parent = podman.cgroup();
    podman.sh(&format!("podman run --detach --cgroup-parent {parent} --name {name} {options} {} {line}", engine::IMAGE))
}

#[track_caller]
fn assert_gone(host: &Host) {
    let left = || host.links().into_iter().filter(|name| !["portslice-limit", "portslice-after"].contains(&&**name));
    assert!(eventually(|| left().eq(["eth0", "lo"])), "devices {:?}", host.links());
    assert_eq!(host.ids(), [""; 0]);
}

#[test]
fn the_page_works_as_it_is_written() {
    let host = Host::new("netavark-page");
    let Some(podman) = podman(&host) else { return };
    let page = Page::of(PAGE);
    // As written, but for the cgroup.
    let parent = podman.cgroup();
    let text = |n: usize| {
        let text = page.block(SECTION, n).replace("pod create", &format!("pod create --cgroup-parent {parent}"));
        let lines = text.lines().map(|line| match line.contains("--pod ") {
            true => line.to_string(),
            false => line.replace("podman run", &format!("podman run --cgroup-parent {parent}")),
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    let first_part = |n: usize| text(n).lines().filter(|line| !line.contains(" rm ")).collect::<Vec<_>>().join("\n");
    let removal = |n: usize| text(n).lines().filter(|line| line.contains(" rm ")).collect::<Vec<_>>().join("\n");

    podman.sh(&text(0)).ok();
    let listed = podman.sh(&first_part(1)).ok().stdout;
    assert!(listed.contains("web") && listed.contains("31600-31601") && listed.contains("31610"), "{listed}");
    for port in [31_600, 31_610] {
        assert_web(&host, port);
    }
    podman.sh(&removal(1)).ok();
    podman.sh(&first_part(2)).ok();
    assert_web(&host, 31_620);
    podman.sh(&removal(2)).ok();
    assert_eq!(page.blocks(SECTION), 3, "blocks that nobody runs");
    assert_gone(&host);
}

#[test]
fn what_podman_shows_and_refuses() {
    let host = Host::new("netavark-podman");
    std::fs::write(host.ns.root("/run/resolv"), "nameserver 127.0.0.53\nsearch example.org\n").expect("resolv.conf");
    let Some(podman) = podman(&host) else { return };
    podman.sh("cp /run/resolv /etc/resolv.conf; mkdir -p /usr/libexec/netavark").ok();
    podman.sh("ln -s /usr/libexec/portslice/portslice-netavark /usr/libexec/netavark/portslice").ok();
    podman.sh("podman network create -d portslice -o egress-rate=20mbit ps").ok();
    run(&podman, "a", "--network ps:ports=31000 -p 31600:31600 -p 31601-31603:31601-31603/udp", "httpd -f -p 31600")
        .ok();
    assert_web(&host, 31_600);
    let network = podman.inspect("a")["NetworkSettings"]["Networks"]["ps"].clone();
    let told = [&network["IPAddress"], &network["GlobalIPv6Address"]];
    assert_eq!(told, [&json!("10.77.0.2"), &json!("fd77::2")], "{network}");
    let lease = host.list().remove(0);
    assert_eq!((&lease["ports"], &lease["asked"]["egress"]["rate"]), (&json!("31000,31600-31603"), &json!("20mbit")));
    assert_eq!((&lease["members"][0]["name"], &lease["members"][0]["engine"]), (&json!("a"), &json!("podman")));
    let parent = podman.cgroup();
    let line = format!("podman run --rm --cgroup-parent {parent} --network ps {} cat /etc/resolv.conf", engine::IMAGE);
    let resolv = podman.sh(&line).ok().stdout;
    assert!(resolv.contains("nameserver 127.0.0.53") && resolv.contains("search example.org"), "{resolv}");

    // What the user sees is our line.
    for (options, says) in [
        ("--network ps -p 8080:80", "published port 8080:80: "),
        ("--network ps:ports=31600", "port 31600 is leased to "),
        ("--network ps:prots=31700", "did you mean ports?"),
        ("--network ps -p 127.0.0.1:31700:31700", "leave the address out"),
    ] {
        let out = run(&podman, "refused", options, "true");
        assert!(out.code != Some(0) && out.stderr.contains(says), "{options}: {out}");
        podman.sh("podman rm -f refused").ok();
        assert_eq!(host.list().len(), 1, "{options}");
    }
    let out = podman.sh("podman network create -d portslice --subnet 10.89.0.0/24 other");
    assert!(out.code != Some(0) && out.stderr.contains("--subnet"), "{out}");

    // The same block and ports when it comes back, also after a kill.
    for end in ["podman restart -t 0 a", "podman kill a; podman wait a; podman start a"] {
        podman.sh(end).ok();
        assert_web(&host, 31_600);
        let again = host.list().remove(0);
        assert_eq!((&again["block"], &again["ports"]), (&lease["block"], &lease["ports"]), "{end}");
    }
    podman.sh("podman rm -f -t 0 a; podman network rm ps").ok();
    assert_gone(&host);
}
