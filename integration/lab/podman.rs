//! The real Podman on a simulated host: storage, state, image, configuration and hooks of its own.

use super::engine::{self, IMAGE, Place};
use super::host::{COMMAND_LIMIT, Host, Inner, binary};
use super::run::{self, Output};
use serde_json::Value;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The most that a container without CAP_SYS_RESOURCE may ask for; Podman's own default is more.
const LIMITS: &str = "[containers]
default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]
\
                      [engine]
infra_image = \"localhost/busybox:latest\"
infra_command = \"/pause\"
";

/// Version 5 warns of v1 cgroups unless it is told not to.
const OLD_CGROUPS: (&str, &str) = ("PODMAN_IGNORE_CGROUPSV1_WARNING", "1");

/// Podman on a host. Dropping it removes its containers and pods.
pub struct Podman<'h> {
    place: Place<'h>,
}

impl Host {
    /// Podman with the hooks that `config/oci-hooks.d` registers.
    pub fn podman(&self) -> Podman<'_> {
        let podman = Podman::new(self.deref(), "");
        register(self, &podman.place.at("hooks.d"));
        podman
    }

    /// Podman that was never told of us.
    pub fn podman_as_installed(&self) -> Podman<'_> {
        Podman::new(self.deref(), "")
    }

    /// Podman whose networks are netavark's.
    pub fn podman_with_netavark(&self) -> Podman<'_> {
        Podman::new(self.deref(), "[network]\nnetwork_backend = \"netavark\"\n")
    }

    /// Podman without hooks, whose network `portslice` is our CNI plugin as `config/cni` registers it.
    pub fn podman_with_cni(&self) -> Podman<'_> {
        let programs = self.dir.join("podman/cni");
        let network = format!("[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{}\"]\n", programs.display());
        let podman = Podman::new(self.deref(), &network);
        run::copy_program(&binary("portslice-cni".as_ref()), &programs.join("portslice"));
        let list = super::cni::shipped_list(self).to_string();
        std::fs::write(podman.place.at("networks/10-portslice.conflist"), list).expect("conflist");
        podman
    }
}

impl<'h> Podman<'h> {
    fn new(host: &'h Inner, network: &str) -> Podman<'h> {
        let place = Place::new(host, "podman", &["hooks.d", "tmp", "networks", "cni"], &[]);
        // Podman mounts its storage on itself.
        let storage = place.at("storage/overlay");
        let podman = Podman { place: place.keeps_mounted(storage) };
        let hooks = format!("{LIMITS}hooks_dir = [\"{}\"]\n{network}", podman.place.at("hooks.d").display());
        std::fs::write(podman.place.at("containers.conf"), hooks).expect("containers.conf");
        let image = podman.place.archive();
        podman.call(&["load", "--quiet", "--input", &image.to_string_lossy()]).ok();
        podman
    }

    /// A directory with a `podman` that is this one, for who writes the command as on a host where Podman is installed: it
    /// has the hooks of the host, and every container goes into the host's cgroup.
    pub fn as_installed(&self) -> PathBuf {
        let (directory, parent) = (self.place.at("bin"), self.place.cgroup());
        std::fs::create_dir_all(&directory).expect("bin");
        let options: Vec<String> = self.options().iter().map(|word| format!("'{}'", word.display())).collect();
        let script = format!(
            "#!/bin/sh\nexport TMPDIR='{}' CONTAINERS_CONF='{}' {}={}\ncase \"$1 $2 $*\" in\n*--pod*) ;;\n\
             'run '*) shift; set -- run --cgroup-parent {parent} \"$@\" ;;\n\
             'pod create'*) shift 2; set -- pod create --cgroup-parent {parent} \"$@\" ;;\nesac\n\
             exec /usr/bin/podman {} \"$@\"\n",
            self.place.at("tmp").display(),
            self.place.at("containers.conf").display(),
            OLD_CGROUPS.0,
            OLD_CGROUPS.1,
            options.join(" ")
        );
        let program = directory.join("podman");
        std::fs::write(&program, script).expect("podman");
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("podman");
        directory
    }

    /// What leads Podman to storage and state of its own.
    fn options(&self) -> Vec<PathBuf> {
        let places =
            [("--root", "storage"), ("--runroot", "run"), ("--tmpdir", "libpod"), ("--network-config-dir", "networks")];
        let places = places.iter().flat_map(|(option, name)| [PathBuf::from(option), self.place.at(name)]);
        places.chain(["--cgroup-manager=cgroupfs", "--events-backend=file"].map(PathBuf::from)).collect()
    }

    /// The command `podman ARGS...` in the host's namespaces.
    pub fn command(&self, args: &[&str]) -> Command {
        let at = |name: &str| self.place.at(name);
        let mut command = self.place.host.ns.command("podman");
        command.args(self.options()).args(args);
        command
            .env("TMPDIR", at("tmp"))
            .env("CONTAINERS_CONF", at("containers.conf"))
            .env(OLD_CGROUPS.0, OLD_CGROUPS.1)
            .current_dir(&self.place.host.dir);
        command
    }

    /// Runs `portslice setup podman ARGS...` on its host.
    pub fn setup(&self, args: &[&str]) -> Output {
        let mut command = self.place.host.command(["portslice", "setup", "podman", "--programs"]);
        command
            .arg(engine::programs(self.place.host))
            .args(args)
            .env("CONTAINERS_CONF", self.place.at("containers.conf"));
        run::run(&mut command, COMMAND_LIMIT)
    }

    /// Makes its storage be where Podman keeps it unless it is told otherwise.
    pub fn at_the_usual_place(&self) {
        let links = [("storage", "/var/lib/containers/storage"), ("run", "/run/containers/storage")];
        self.place.host.ns.inside_mounts(|| {
            for (name, usual) in links {
                std::fs::create_dir_all(Path::new(usual).parent().expect("a directory")).expect("a directory");
                std::os::unix::fs::symlink(self.place.at(name), usual).expect("a link");
            }
        });
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
        let path = self.place.at("containers.conf");
        let known = std::fs::read_to_string(&path).expect("containers.conf");
        // the table [engine] is the last one, unless a network follows
        let engine = "[engine]\nruntime = \"named\"\n";
        let named = known.replacen("[engine]\n", engine, 1) + &format!("[engine.runtimes]\nnamed = [{runtime:?}]\n");
        std::fs::write(&path, named).expect("containers.conf");
    }

    /// Runs one command of Podman to its end.
    pub fn call(&self, args: &[&str]) -> Output {
        run::run(&mut self.command(args), COMMAND_LIMIT)
    }

    /// Makes a pod without a network, whose infra container is `/pause`.
    pub fn pod(&self, name: &str) {
        self.pod_with(name, &[]);
    }

    /// The same with further options.
    pub fn pod_with(&self, name: &str, more: &[&str]) {
        let parent = self.place.cgroup();
        let options = ["--infra-image", IMAGE, "--infra-command", "/pause", "--cgroup-parent", &parent];
        self.call(&[&["pod", "create", "--name", name, "--network", "none"], &options[..], more].concat()).ok();
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
