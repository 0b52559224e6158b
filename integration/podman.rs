//! Promise: what docs/engines/podman.md says works as it is written, on a host where portslice is installed.

use crate::lab::docs;
use crate::lab::wait::eventually;
use crate::lab::*;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

const PAGE: &str = include_str!("../docs/engines/podman.md");

/// Whether a web server at this port of the host answers the peer.
pub fn web(host: &Host, by: IpAddr, port: u16) -> Result<(), String> {
    host.peer.inside(|| {
        let patience = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(by, port), patience).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(patience)).expect("timeout");
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").map_err(|e| e.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(|e| e.to_string())?;
        if answer.starts_with("HTTP/1") { Ok(()) } else { Err(answer) }
    })
}

#[track_caller]
pub fn assert_web(host: &Host, port: u16) {
    for by in [HOST4, HOST6] {
        let mut said = Ok(());
        let done = eventually(|| {
            said = web(host, by, port);
            said.is_ok()
        });
        assert!(done, "{by} port {port}: {said:?}");
    }
}

#[track_caller]
fn assert_nothing_left(host: &Host) {
    assert!(eventually(|| host.links() == ["eth0", "lo"]), "devices {:?}", host.links());
    assert_eq!(host.ids(), [""; 0]);
}

/// Podman's own limit holds, and is told, whatever share the container asks for here.
#[test]
fn cpus_of_podman_are_told() {
    let host = Host::new("podman-cpus");
    let podman = host.podman();
    let options = ["--network", "none", "--cpus", "0.5", "--annotation", "portslice/cpus=1.5"];
    podman.run("a", &options, "exec sleep 1000").ok();
    let limit = host.portslice(["stats", "a", "--json"]).ok().json()[0]["statistics"]["cpus_limit"].as_f64();
    let shown = host.portslice(["show", "a"]).ok().stdout;
    assert!(limit == Some(0.5) && shown.contains("at most 0.5 by its runtime"), "{limit:?}: {shown}");
}

#[test]
fn the_page_works_as_it_is_written() {
    let host = Host::new("podman-page");
    let installed = host.installed();
    let podman = host.podman();
    let page = docs::Page::of(PAGE);
    let programs = podman.as_installed();
    let run = |section: &str, block: usize| installed.sh(&programs, page.block(section, block)).ok();
    podman.call(&["tag", engine::IMAGE, "docker.io/library/busybox:latest"]).ok();

    run("Hooks", 0);
    let shown = run("Hooks", 1).stdout;
    assert!(shown.contains("31000-31001,31010"), "{shown}");
    assert_web(&host, 31_000);
    let listed = run("Hooks", 2).stdout;
    assert!(listed.contains("shop-web") && listed.contains("31020"), "{listed}");
    run("Hooks", 3);
    assert_nothing_left(&host);

    let shown = run("CDI devices", 0).stdout;
    assert!(shown.contains("ports          31040"), "{shown}");
    assert_nothing_left(&host);
    assert_eq!((page.blocks("Hooks"), page.blocks("CDI devices")), (4, 1), "blocks that nobody runs");
}
