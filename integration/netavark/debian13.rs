//! The real Podman 5.4 and netavark, whose plugin is ours, on a host of Debian 13: under `--long` only.

use crate::lab::docs::Page;
use crate::lab::installed::Installed;
use crate::lab::podman::Podman;
use crate::lab::wait::eventually;
use crate::lab::*;
use crate::podman::assert_web;
use serde_json::json;

const PAGE: &str = include_str!("../../docs/engines/podman.md");
const SECTION: &str = "A network";

/// Runs lines of shell as they stand, with this Podman.
fn sh(installed: &Installed<'_>, podman: &Podman<'_>, lines: &str) -> run::Output {
    installed.sh(&podman.as_installed(), lines)
}

#[track_caller]
fn assert_gone(host: &Host) {
    let left = || host.links().into_iter().filter(|name| !["portslice-limit", "portslice-after"].contains(&&**name));
    assert!(eventually(|| left().eq(["eth0", "lo"])), "devices {:?}", host.links());
    assert_eq!(host.ids(), [""; 0]);
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
        (&["--network", "ps", "-p", "8080:80"][..], "published port 8080:80: "),
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
