//! Promise: `portslice setup ENGINE` leaves an engine that loads, and whose containers have what they ask for; undone, its
//! configuration is as it was, to the byte.

use crate::doctor::own_etc;
use crate::lab::host::COMMAND_LIMIT;
use crate::lab::wait::eventually;
use crate::lab::*;
use crate::pods::{self, assert_answers, serve};
use std::path::{Path, PathBuf};

const CONFIG: &str = "/etc/containerd/config.toml";

/// Registers with containerd as an operator does. Returns the configuration's path.
fn register(host: &Host, installed: &Path, programs: &Path) -> PathBuf {
    let (installed, programs) = (installed.to_string_lossy(), programs.to_string_lossy());
    host.run(["sh", "-ec", &format!("mkdir -p /etc/containerd; cp {installed} {CONFIG}")]).ok();
    let setup = ["setup", "containerd", "--programs", &programs];
    let out = host.portslice(setup).ok();
    assert!(out.stdout.contains(CONFIG) && out.stdout.contains("systemctl restart containerd"), "{out}");
    assert_eq!(host.portslice(setup).ok().stdout, "nothing to do\n");
    host.ns.root(CONFIG)
}

#[test]
fn containerd_loads_and_has_our_handler_beside_its_own() {
    let host = pods::host("register-containerd");
    own_etc(&host);
    let mut original = String::new();
    let containerd = host.containerd_as_installed(|installed, programs| {
        original = std::fs::read_to_string(installed).expect("config.toml");
        register(&host, installed, programs)
    });
    let (ready, config) = containerd.status();
    assert!(ready, "CRI is not ready: {config:#}");
    let runtimes = &config["containerd"]["runtimes"];
    assert!(runtimes["runc"].is_object() && runtimes["portslice"].is_object(), "{runtimes:#}");
    assert_eq!(config["containerd"]["defaultRuntimeName"], "runc", "{config:#}");

    let plain = containerd.pod("", "plain", &[("portslice/ports", "31005")]);
    assert_eq!(host.ids(), [""; 0], "the default handler is as it was");
    let ours = containerd.pod("portslice", "shop", &[("portslice/ports", "31000")]);
    let _run = ours.start("a", &[], None, &serve("a", 31_000));
    assert_answers("a pod under our handler", &host, "a", 31_000);
    for pod in [plain, ours] {
        pod.stop();
        pod.remove();
    }
    assert_eq!(host.ids(), [""; 0]);
    let out = containerd.setup(&["--verify"]).ok();
    assert_eq!(out.stdout, "nothing to do\nverified: a container of containerd had a slice\n");
    assert_eq!(host.ids(), [""; 0]);
    containerd.setup(&["--undo"]).ok();
    assert_eq!(host.run(["cat", CONFIG]).ok().stdout, original);
    assert_eq!(host.run(["sh", "-c", "ls /var/lib/portslice"]).code, Some(2), "nothing is left to remember");
}

#[test]
fn docker_starts_a_throw_away_container_by_our_runtime() {
    let host = pods::host("register-docker");
    own_etc(&host);
    let programs = engine::programs(&host).to_string_lossy().into_owned();
    let setup = ["setup", "docker", "--programs", &programs];
    let docker = host.docker_as_installed(|known| {
        let config = PathBuf::from("/etc/docker/daemon.json");
        host.run(["mkdir", "-p", "/etc/docker"]).ok();
        std::fs::copy(known, host.ns.root("/etc/docker/daemon.json")).expect("daemon.json");
        host.portslice(setup).ok();
        config
    });
    let verify = [&["portslice"], &setup[..], &["--verify"]].concat();
    let out = run::run(host.command(verify).envs(docker.env()), COMMAND_LIMIT).ok();
    assert_eq!(out.stdout, "nothing to do\nverified: a container of docker had a slice\n");
    assert_eq!(docker.call(&["image", "ls", "--quiet", "portslice-verify"]).ok().stdout, "", "its image");
    assert_eq!(docker.call(&["ps", "--all", "--quiet"]).ok().stdout, "", "its container");
    assert_eq!(host.ids(), [""; 0]);
}

#[test]
fn containerd_is_asked_before_anything_changes() {
    let host = Host::new("register-refused");
    own_etc(&host);
    let programs = engine::programs(&host);
    // The default runtime is configured nowhere; and an import has the last word on runtimes.
    let cri = "plugins.\"io.containerd.grpc.v1.cri\".containerd";
    let import = format!("version = 2\n[{cri}.runtimes.other]\nruntime_type = \"io.containerd.runc.v2\"\n");
    for (text, why) in [
        (format!("version = 2\n[{cri}]\ndefault_runtime_name = \"kata\"\n"), "default runtime kata"),
        ("version = 2\nimports = [\"/etc/containerd/more.toml\"]\n".to_owned(), "it imports"),
        ("version = 7\n".to_owned(), "it makes nothing of it"),
    ] {
        let write = |path: &str, text: &str| std::fs::write(host.ns.root(path), text).expect("a file");
        host.run(["mkdir", "-p", "/etc/containerd"]).ok();
        write(CONFIG, &text);
        write("/etc/containerd/more.toml", &import);
        let out = host.portslice(["setup", "containerd", "--programs", &programs.to_string_lossy()]).refused(5, why);
        assert!(out.stderr.contains("nothing was changed"), "{out}");
        assert_eq!(host.run(["cat", CONFIG]).ok().stdout, text);
        assert_eq!(host.run(["ls", "-A", "/etc/containerd"]).ok().stdout, "config.toml\nmore.toml\n");
    }
}

#[test]
fn containerd_takes_what_it_is_given_whatever_was_there() {
    let host = Host::new("register-usual");
    own_etc(&host);
    let programs = engine::programs(&host);
    let default = host.run(["containerd", "config", "default"]).ok().stdout;
    let debian = include_str!("../tests/register/containerd-debian.toml").to_owned();
    let oldest = "[plugins.cri]\n  sandbox_image = \"pause\" # ours\n".to_owned();
    for text in [None, Some(String::new()), Some(default), Some(debian), Some(oldest)] {
        host.run(["sh", "-ec", "rm -rf /etc/containerd; mkdir /etc/containerd"]).ok();
        if let Some(text) = &text {
            std::fs::write(host.ns.root(CONFIG), text).expect("config.toml");
        }
        let setup = |more: &[&str]| {
            let programs = programs.to_string_lossy();
            host.portslice([&["setup", "containerd", "--programs", &programs], more].concat()).ok()
        };
        setup(&[]);
        let dump = host.run(["containerd", "config", "dump"]).ok().stdout;
        for handler in ["runc", "portslice"] {
            assert!(dump.contains(&format!(".cri\".containerd.runtimes.{handler}]")), "{handler} for {text:?}: {dump}");
        }
        setup(&["--undo"]);
        assert_eq!(std::fs::read_to_string(host.ns.root(CONFIG)).ok(), text);
    }
}

#[test]
fn podman_runs_the_hooks_and_a_container_shows_it() {
    let host = pods::host("register-podman");
    let podman = host.podman_as_installed();
    let start = |name: &str| {
        let options = ["--network", "none", "--annotation", "portslice/ports=31000"];
        podman.run(name, &options, &serve(name, 31_000)).ok();
    };
    start("before");
    assert_eq!(host.ids(), [""; 0], "nobody told Podman yet");
    podman.call(&["rm", "--force", "--time", "0", "before"]).ok();
    let out = podman.setup(&[]).ok();
    assert!(out.stdout.contains("hooks.d/50-portslice-prestart.json"), "{out}");
    assert_eq!(podman.setup(&[]).ok().stdout, "nothing to do\n");
    start("after");
    assert_answers("with the hooks", &host, "after", 31_000);
    podman.call(&["rm", "--force", "--time", "0", "after"]).ok();
    assert!(eventually(|| host.ids().is_empty()), "{:?}", host.list());
    podman.setup(&["--undo"]).ok();
    start("undone");
    assert_eq!(host.ids(), [""; 0], "nobody tells Podman any more");
}
