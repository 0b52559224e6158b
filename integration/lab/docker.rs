//! The real Docker on a simulated host: a daemon of its own without bridge and firewall rules.

use super::engine::{IMAGE, Place};
use super::host::{COMMAND_LIMIT, Host, Inner};
use super::run::{self, Output};
use super::wait::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where the daemon and its containerd keep sockets, whatever their options say.
const RUN: [&str; 2] = ["/run/docker", "/run/containerd"];

/// Docker on a host. Dropping it removes its containers and ends it.
pub struct Docker<'h> {
    place: Place<'h>,
    config: PathBuf,
    daemon: Child,
}

impl Host {
    /// Docker that knows `runtime` under the name `portslice`.
    pub fn docker(&self, runtime: &Path) -> Docker<'_> {
        let runtimes = json!({"portslice": {"path": runtime}});
        Docker::new(self.deref(), json!({"runtimes": runtimes}), |place| place.at("daemon.json"))
    }

    /// Docker that was never told of us. Before it is started, `register` is given its configuration; it returns the one to
    /// start with.
    pub fn docker_as_installed(&self, register: impl FnOnce(&Path) -> PathBuf) -> Docker<'_> {
        Docker::new(self.deref(), json!({}), |place| register(&place.at("daemon.json")))
    }
}

impl<'h> Docker<'h> {
    fn new(host: &'h Inner, mut config: Value, register: impl FnOnce(&Place<'_>) -> PathBuf) -> Docker<'h> {
        let place = Place::new(host, "docker", &["data", "exec", "client"], &RUN);
        // The daemon mounts its data on itself, and does not undo that when it is killed.
        // That of the host's network stays for the next container that shares it.
        let (data, shared) = (place.at("data"), place.at("exec/netns/default"));
        let place = place.keeps_mounted(data).keeps_mounted(shared);
        config["features"]["buildkit"] = json!(false);
        config["cgroup-parent"] = json!(place.cgroup());
        std::fs::write(place.at("daemon.json"), config.to_string()).expect("daemon.json");
        let config = register(&place);
        let daemon = start(&place, &config);
        let docker = Docker { place, config, daemon };
        docker.up();
        docker.call(&["load", "--quiet", "--input", &docker.place.archive().to_string_lossy()]).ok();
        docker
    }

    /// Waits until it answers.
    fn up(&self) {
        let up = eventually(|| self.call(&["version"]).code == Some(0));
        assert!(up, "dockerd does not answer: {}", self.log());
    }

    /// Runs one command of the client to its end.
    pub fn call(&self, args: &[&str]) -> Output {
        let mut command = self.place.host.ns.command("/usr/bin/docker");
        run::run(command.args(args).envs(self.env()), COMMAND_LIMIT)
    }

    /// The environment that leads the client here.
    pub fn env(&self) -> [(&'static str, String); 2] {
        let socket = format!("unix://{}", self.place.at("socket").display());
        [("DOCKER_HOST", socket), ("DOCKER_CONFIG", self.place.at("client").to_string_lossy().into_owned())]
    }

    /// Starts a container that runs a line of shell.
    pub fn run(&self, name: &str, options: &[&str], line: &str) -> Output {
        let fixed = ["run", "--detach", "--name", name];
        let network: &[&str] =
            if options.iter().any(|o| o.starts_with("--network")) { &[] } else { &["--network", "none"] };
        self.call(&[&fixed, network, options, &[IMAGE, "sh", "-c", line]].concat())
    }

    /// What `inspect` says of a container.
    #[track_caller]
    pub fn inspect(&self, name: &str) -> Value {
        self.call(&["inspect", name]).ok().json()[0].clone()
    }

    /// Has the daemon read its configuration again, and waits until it has.
    pub fn reload(&self) {
        let done = || self.log().matches("Reloaded configuration").count();
        let before = done();
        let _ = kill(Pid::from_raw(self.daemon.id() as i32), Signal::SIGHUP);
        assert!(eventually(|| done() > before), "dockerd does not reload: {}", self.log());
    }

    /// Kills the daemon, as the kernel's killer would, and starts it again.
    pub fn killed(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        // The kernel ends its containerd with it. Where nobody waits for orphans, that seems to run for ever.
        for left in ["pid", "exec/containerd/containerd.pid"] {
            let _ = std::fs::remove_file(self.place.at(left));
        }
        self.daemon = start(&self.place, &self.config);
        self.up();
    }

    /// What the daemon says.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.place.at("log")).unwrap_or_default()
    }

    fn end(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        let all = self.call(&["ps", "--all", "--quiet"]).stdout;
        for id in all.lines() {
            let out = self.call(&["rm", "--force", id]);
            problems.extend((out.code != Some(0)).then(|| out.to_string()));
        }
        let _ = kill(Pid::from_raw(self.daemon.id() as i32), Signal::SIGTERM);
        if !eventually(|| self.daemon.try_wait().is_ok_and(|status| status.is_some())) {
            problems.push("dockerd does not end".into());
            let _ = self.daemon.kill();
            let _ = self.daemon.wait();
        }
        problems
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        let problems = self.end();
        self.place.leave(problems);
    }
}

/// Starts the daemon. It has no capability to change its own score with the kernel's killer, which later versions leave alone.
fn start(place: &Place<'_>, config: &Path) -> Child {
    let log = File::options().create(true).append(true).open(place.at("log")).expect("log");
    let mut command: Command = place.host.ns.command("dockerd");
    for (option, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
        command.arg(option).arg(place.at(name));
    }
    command.arg("--config-file").arg(config);
    command.arg("--host").arg(format!("unix://{}", place.at("socket").display()));
    let help = run::run(place.host.ns.command("dockerd").arg("--help"), COMMAND_LIMIT).ok().stdout;
    command.args(help.contains("--oom-score-adjust").then_some("--oom-score-adjust=0"));
    command.args(["--storage-driver=vfs", "--exec-opt", "native.cgroupdriver=cgroupfs"]);
    command.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--ip-forward=false", "--ip-masq=false"]);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env_remove("DOCKER_HOST");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
    command.spawn().expect("dockerd is installed")
}
