//! The real Podman on a simulated host: storage, state, image, configuration and hooks of its own.

use super::engine::{self, IMAGE, Place};
use super::host::{COMMAND_LIMIT, Host, Inner};
use super::run::{self, Output};
use serde_json::Value;
use std::ops::Deref;
use std::path::Path;
use std::process::Command;

/// The most that a container without CAP_SYS_RESOURCE may ask for; Podman's own default is more.
const CONTAINERS_CONF: &str = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";

/// Podman on a host. Dropping it removes its containers and pods.
pub struct Podman<'h> {
    place: Place<'h>,
}

impl Host {
    /// Podman with the hooks that `config/oci-hooks.d` registers.
    pub fn podman(&self) -> Podman<'_> {
        Podman::new(self.deref())
    }
}

impl<'h> Podman<'h> {
    fn new(host: &'h Inner) -> Podman<'h> {
        let place = Place::new(host, "podman", &["hooks.d", "tmp", "networks"], &[]);
        // Podman mounts its storage on itself.
        let storage = place.at("storage/overlay");
        let podman = Podman { place: place.keeps_mounted(storage) };
        std::fs::write(podman.place.at("containers.conf"), CONTAINERS_CONF).expect("containers.conf");
        register(host, &podman.place.at("hooks.d"));
        let image = podman.place.archive();
        podman.call(&["load", "--quiet", "--input", &image.to_string_lossy()]).ok();
        podman
    }

    /// The command `podman ARGS...` in the host's namespaces.
    pub fn command(&self, args: &[&str]) -> Command {
        let at = |name: &str| self.place.at(name);
        let mut command = self.place.host.ns.command("podman");
        for (option, name) in
            [("--root", "storage"), ("--runroot", "run"), ("--tmpdir", "libpod"), ("--hooks-dir", "hooks.d")]
        {
            command.arg(option).arg(at(name));
        }
        command.arg("--network-config-dir").arg(at("networks"));
        command.args(["--cgroup-manager=cgroupfs", "--events-backend=file"]).args(args);
        command
            .env("TMPDIR", at("tmp"))
            .env("CONTAINERS_CONF", at("containers.conf"))
            .current_dir(&self.place.host.dir);
        command
    }

    /// From now on this is its runtime, and it has no hooks.
    pub fn by_runtime(&self, runtime: &Path) {
        self.by_name(&runtime.to_string_lossy());
        for hook in std::fs::read_dir(self.place.at("hooks.d")).expect("hooks.d").flatten() {
            std::fs::remove_file(hook.path()).expect("a hook");
        }
    }

    /// From now on this is its runtime; its hooks stay.
    pub fn by_name(&self, runtime: &str) {
        let engine = format!("[engine]\nruntime = \"named\"\n[engine.runtimes]\nnamed = [{runtime:?}]\n");
        std::fs::write(self.place.at("containers.conf"), format!("{CONTAINERS_CONF}{engine}"))
            .expect("containers.conf");
    }

    /// Runs one command of Podman to its end.
    pub fn call(&self, args: &[&str]) -> Output {
        run::run(&mut self.command(args), COMMAND_LIMIT)
    }

    /// Makes a pod without a network, whose infra container is `/pause`.
    pub fn pod(&self, name: &str) {
        let parent = self.place.cgroup();
        let options = ["--infra-image", IMAGE, "--infra-command", "/pause", "--cgroup-parent", &parent];
        self.call(&[&["pod", "create", "--name", name, "--network", "none"], &options[..]].concat()).ok();
    }

    /// Starts a container that runs a line of shell.
    pub fn run(&self, name: &str, options: &[&str], line: &str) -> Output {
        let parent = self.place.cgroup();
        let parent: &[&str] = if options.contains(&"--pod") { &[] } else { &["--cgroup-parent", &parent] };
        self.call(&[&["run", "--detach", "--name", name], parent, options, &[IMAGE, "sh", "-c", line]].concat())
    }

    /// What `inspect` says of a container or pod.
    #[track_caller]
    pub fn inspect(&self, name: &str) -> Value {
        let all = self.call(&["inspect", name]).ok().json();
        if all.is_array() { all[0].clone() } else { all }
    }

    /// The first process of a container, as the machine counts.
    #[track_caller]
    pub fn pid(&self, name: &str) -> u32 {
        let shown = self.inspect(name);
        shown["State"]["Pid"].as_u64().unwrap_or_else(|| panic!("{name} has no process: {shown}")) as u32
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        // Twice: what others depend on goes after them.
        let removed = [["pod", "rm"].as_slice(), &["rm"], &["rm"]]
            .map(|command| self.call(&[command, &["--all", "--force", "--time", "0"]].concat()));
        let failed = (removed[2].code != Some(0)).then(|| format!("`podman rm --all`: {}", removed[2]));
        self.place.leave(failed.into_iter().collect());
    }
}

/// The files of `config/oci-hooks.d`, with the hooks of the build and the environment that leads to this host.
fn register(host: &Inner, hooks: &Path) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/oci-hooks.d");
    for entry in std::fs::read_dir(shipped).expect("config/oci-hooks.d").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("a hook");
        let mut file: Value = serde_json::from_str(&text).expect("a hook's JSON");
        let path = Path::new(file["hook"]["path"].as_str().expect("its path"));
        let ours = engine::hook(host, &path.file_name().expect("its name").to_string_lossy());
        for (key, value) in ours.as_object().expect("a hook") {
            file["hook"][key] = value.clone();
        }
        std::fs::write(hooks.join(entry.file_name()), file.to_string()).expect("hooks.d");
    }
}
