//! Docker 26, which needs no shim: `portslice setup docker` registers devices, and annotations add to them. Under `--long` only.

use super::*;
use crate::lab::docker::Docker;
use crate::lab::docs::Page;
use crate::lab::installed::Installed;
use crate::podman::assert_web;
use crate::shim::{assert_known, assert_works};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const CONFIG: &str = "/etc/docker/daemon.json";
const WEB: [&str; 2] = ["--device", "portslice/net=web"];

/// Registers as an operator does. Returns the configuration's path.
fn register(installed: &Installed<'_>, known: &Path) -> PathBuf {
    let known = known.display();
    let out =
        installed.sh(Path::new("/"), &format!("mkdir -p /etc/docker; cp {known} {CONFIG}; portslice setup docker"));
    let out = out.ok();
    assert!(
        ["/etc/cdi/portslice.json", "systemctl restart docker"].iter().all(|text| out.stdout.contains(text)),
        "{out}"
    );
    PathBuf::from(CONFIG)
}

fn with(name: &str, test: impl FnOnce(&Host, &mut Docker<'_>)) {
    let Some(host) = Engines::Debian13.build(Host::with(name).config(PROFILES)) else { return };
    let installed = host.installed();
    let mut docker = host.docker_as_installed(|known| register(&installed, known));
    test(&host, &mut docker);
}

/// Starts a container with the profile `web`, under this hostname.
fn start(docker: &Docker<'_>, name: &str, options: &[&str]) -> run::Output {
    docker.run(name, &[&["--hostname", name], &WEB[..], options].concat(), SLEEP)
}

fn pid(docker: &Docker<'_>, name: &str) -> u32 {
    docker.inspect(name)["State"]["Pid"].as_u64().unwrap_or(0) as u32
}

fn remove(docker: &Docker<'_>, name: &str) {
    docker.call(&["rm", "--force", name]).ok();
}

fn killed(docker: &Docker<'_>, name: &str) -> u32 {
    let pid = pid(docker, name);
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("kill");
    pid
}

/// It is served at a port, and connects out from its block.
#[track_caller]
fn assert_served(host: &Host, docker: &Docker<'_>, name: &str, port: u16) -> Value {
    let lease = lease(host, name);
    assert_works(name, host, pid(docker, name), port, &lease);
    lease
}

#[track_caller]
fn assert_same(what: &str, host: &Host, docker: &Docker<'_>, lease: &Value) {
    let again = assert_served(host, docker, "web", 31_000);
    assert_eq!((&again["block"], &again["ports"]), (&lease["block"], &lease["ports"]), "{what}");
}

#[test]
fn two_containers_of_docker_26() {
    with("cdi-docker", |host, docker| {
        let _server = dns::by_the_peer(host);
        start(docker, "web1", &[]).ok();
        start(docker, "web2", &["--annotation", "portslice/ports=31500"]).ok();
        let one = assert_served(host, docker, "web1", 31_000);
        assert_eq!((&one["ports"], &one["asked"]["egress"]["rate"]), (&json!("31000-31001"), &json!("20mbit")));
        assert_eq!(assert_served(host, docker, "web2", 31_500)["ports"], "31500", "what stands above the profile");
        for name in ["web1", "web2"] {
            let resolved = docker.call(&["exec", name, "sh", "-c", dns::ASK]).ok().stdout;
            assert!(resolved.contains(&dns::ANSWER.to_string()), "{name}: {resolved}");
            assert_known("docker by CDI", host, name);
        }
        docker.call(&["stop", "--time", "0", "web1"]).ok();
        assert!(eventually(|| host.ids().len() == 1), "after stop: {:?}", host.list());
        killed(docker, "web2");
        assert_gone(host);
        let out = start(docker, "failed", &["--entrypoint", "/nowhere"]);
        assert_ne!(out.code, Some(0), "{out}");
        assert_gone(host);
        ["web1", "web2", "failed"].iter().for_each(|name| remove(docker, name));
    });
}

#[test]
fn what_docker_26_can_ask_for_beside_a_device() {
    with("cdi-docker-options", |host, docker| {
        let options: [&[&str]; 4] =
            [&["--restart=always"], &["--privileged"], &["--cap-add=NET_ADMIN"], &["--read-only"]];
        for options in options {
            start(docker, "web", options).ok();
            let lease = assert_served(host, docker, "web", 31_000);
            docker.call(&["restart", "--time", "0", "web"]).ok();
            assert_same(&format!("{options:?}, restarted"), host, docker, &lease);
            if options == ["--restart=always"] {
                let old = killed(docker, "web");
                assert!(eventually(|| ![0, old].contains(&pid(docker, "web"))), "it is not restarted");
                assert_same("restarted by its policy", host, docker, &lease);
            }
            remove(docker, "web");
            assert_gone(host);
        }
        let out = docker.run("hosted", &[&WEB[..], &["--network", "host"]].concat(), SLEEP);
        assert_eq!(out.stderr.matches("no network namespace of its own").count(), 1, "{out}");
        remove(docker, "hosted");
        assert_gone(host);
        start(docker, "first", &[]).ok();
        let joins = ["--network", "container:first", "--annotation", "portslice/ports=31500"];
        docker.run("second", &[&WEB[..], &joins].concat(), SLEEP).ok();
        let lease = lease(host, "first");
        assert_eq!(lease["members"].as_array().map(Vec::len), Some(2), "{lease}");
        assert_works("second", host, pid(docker, "second"), 31_500, &lease);
        ["second", "first"].iter().for_each(|name| remove(docker, name));
        assert_gone(host);
    });
}

/// Root of another user namespace is somebody else outside of it.
#[test]
fn a_container_of_docker_26_in_a_user_namespace() {
    let Some(host) = Engines::Debian13.build(Host::with("cdi-docker-userns").config(PROFILES)) else { return };
    std::fs::set_permissions(&host.dir, PermissionsExt::from_mode(0o711)).expect("permissions");
    let installed = host.installed();
    let docker = host.docker_as_installed(|known| {
        for file in ["/etc/subuid", "/etc/subgid"] {
            std::fs::write(host.ns.root(file), "nobody:100000:65536\nnogroup:100000:65536\n").expect(file);
        }
        let mut config: Value = serde_json::from_slice(&std::fs::read(known).expect("daemon.json")).expect("JSON");
        config["userns-remap"] = json!("nobody:nogroup");
        std::fs::write(known, config.to_string()).expect("daemon.json");
        register(&installed, known)
    });
    for (options, root) in [(&[][..], "100000"), (&["--userns=host"], "0")] {
        start(&docker, "web", options).ok();
        let map = std::fs::read_to_string(format!("/proc/{}/uid_map", pid(&docker, "web"))).expect("uid_map");
        assert_eq!(map.split_whitespace().nth(1), Some(root), "{map}");
        assert_served(&host, &docker, "web", 31_000);
        remove(&docker, "web");
        assert_gone(&host);
    }
}

#[test]
fn what_stands_in_the_way_is_said_by_docker_26() {
    with("cdi-docker-refused", |host, docker| {
        let _holder = host.bare("holder", &["--ports", "31100"]);
        let _process = Echo::start(&host.ns, Proto::Tcp, SocketAddr::new(HOST4, 31_200));
        for (key, value, says) in [
            ("prots", "31000", "did you mean ports?"),
            ("ports", "31100", "port 31100 is leased to container holder: ask for another port"),
            ("ports", "31200", "port 31200 is in use by process"),
            ("ephemeral-ports", "16384", "has no free block of 16384 ports"),
        ] {
            let out = start(docker, "refused", &["--annotation", &format!("portslice/{key}={value}")]);
            assert!(out.code.is_some_and(|code| code != 0), "{key}={value}: {out}");
            let said = out.stderr.matches("portslice-prestart: ").count();
            assert!(said == 1 && out.stderr.contains(says), "should say {says:?} once: {out}");
            assert_eq!(host.ids(), ["holder"], "{key}={value}");
            remove(docker, "refused");
        }
        let out = docker.run("unknown", &["--device", "portslice/net=wep"], SLEEP);
        assert!(out.code != Some(0) && out.stderr.contains("portslice/net=wep"), "{out}");
        remove(docker, "unknown");
    });
}

#[test]
fn nothing_is_left_when_docker_26_is_killed() {
    with("cdi-docker-killed", |host, docker| {
        start(docker, "web", &[]).ok();
        let _ = lease(host, "web");
        docker.killed();
        remove(docker, "web");
        host.portslice(["gc"]).ok();
        assert_gone(host);
        start(docker, "web", &[]).ok();
        let _ = assert_served(host, docker, "web", 31_000);
        remove(docker, "web");
        assert_gone(host);
    });
}

#[test]
fn the_page_works_as_it_is_written() {
    let page = Page::of(include_str!("../../docs/engines/docker.md"));
    let Some(host) = Engines::Debian13.build(Host::with("cdi-docker-page").config(PROFILES)) else { return };
    let installed = host.installed();
    let docker = host.docker_as_installed(|known| register(&installed, known));
    docker.call(&["tag", engine::IMAGE, "busybox"]).ok();
    let environment = docker.env().map(|(key, value)| format!("export {key}={value}")).join("\n");
    let (start, end) = page.block("Devices", 0).split_once("docker rm").expect("a removal");
    let listed = installed.sh(Path::new("/"), &format!("{environment}\n{start}")).ok().stdout;
    assert!(["web", "31000-31001", "docker"].iter().all(|text| listed.contains(text)), "{listed}");
    assert_web(&host, 31_000);
    installed.sh(Path::new("/"), &format!("{environment}\ndocker rm{end}")).ok();
    assert_eq!(page.blocks("Devices"), 1, "blocks that nobody runs");
    assert_gone(&host);
}

/// What `setup docker` says is to be done: a daemon that runs is not told of devices by a reload.
#[test]
fn a_daemon_of_docker_26_is_registered_while_it_runs() {
    let Some(host) = Engines::Debian13.build(Host::with("cdi-docker-runs").config(PROFILES)) else { return };
    let installed = host.installed();
    let mut known = PathBuf::new();
    let mut docker = host.docker_as_installed(|file| {
        known = file.to_owned();
        host.run(["sh", "-ec", &format!("mkdir -p /etc/docker; cp {} {CONFIG}", file.display())]).ok();
        PathBuf::from(CONFIG)
    });
    let unknown = |docker: &Docker<'_>| {
        let out = start(docker, "web", &[]);
        assert!(out.stderr.contains("could not select device driver \"cdi\""), "{out}");
        remove(docker, "web");
    };
    unknown(&docker);
    register(&installed, &known);
    docker.reload();
    unknown(&docker);
    docker.killed();
    start(&docker, "web", &[]).ok();
    assert_served(&host, &docker, "web", 31_000);
    remove(&docker, "web");
    assert_gone(&host);
}
