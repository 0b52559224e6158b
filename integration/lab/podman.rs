//! The real Podman on a simulated host: storage, state, image, configuration and hooks of its own.

use super::bundle::rootfs;
use super::host::{COMMAND_LIMIT, Host, Inner, binary};
use super::run::{self, Output};
use super::wait::eventually;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The image that `Podman::new` loads: busybox, and a `/pause` that sleeps.
pub const IMAGE: &str = "localhost/busybox:latest";

/// Directories of the machine that Podman writes to whatever its options say. On the host they are empty and its own.
const SHARED: [&str; 2] = ["/dev/shm", "/var/lib"];

/// The most that a container without CAP_SYS_RESOURCE may ask for; Podman's own default is more.
const CONTAINERS_CONF: &str = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";

/// Podman on a host. Dropping it removes its containers and pods.
pub struct Podman<'h> {
    host: &'h Inner,
    dir: PathBuf,
}

impl Host {
    /// Podman with the hooks that `config/oci-hooks.d` registers.
    pub fn podman(&self) -> Podman<'_> {
        Podman::new(self.deref())
    }
}

impl<'h> Podman<'h> {
    fn new(host: &'h Inner) -> Podman<'h> {
        let dir = host.dir.join("podman");
        for name in ["hooks.d", "tmp", "networks"] {
            std::fs::create_dir_all(dir.join(name)).expect("podman's directories");
        }
        std::fs::write(dir.join("containers.conf"), CONTAINERS_CONF).expect("containers.conf");
        host.ns.inside_mounts(|| {
            for at in SHARED {
                mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("tmpfs");
            }
        });
        register(host, &dir.join("hooks.d"));
        let podman = Podman { host, dir };
        let image = podman.image();
        podman.call(&["load", "--quiet", "--input", &image.to_string_lossy()]).ok();
        podman
    }

    /// A `docker-archive` of the root file system.
    fn image(&self) -> PathBuf {
        let root = rootfs(self.host);
        let pause = root.join("pause");
        std::fs::write(&pause, "#!/bin/sh\nexec sleep 1000\n").expect("pause");
        std::fs::set_permissions(&pause, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("pause");
        let (layer, image) = (self.dir.join("layer.tar"), self.dir.join("image.tar"));
        let tar = |of: &Path, to: &Path, names: &[&str]| {
            let limit = Duration::from_secs(20);
            run::run(Command::new("tar").arg("-C").arg(of).arg("-cf").arg(to).args(names), limit).ok();
        };
        tar(&root, &layer, &["."]);
        let sum = run::run(Command::new("sha256sum").arg(&layer), Duration::from_secs(20)).ok().stdout;
        let sum = sum.split_whitespace().next().expect("a sum");
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{sum}")]}});
        let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
        std::fs::write(self.dir.join("config.json"), config.to_string()).expect("config");
        std::fs::write(self.dir.join("manifest.json"), manifest.to_string()).expect("manifest");
        tar(&self.dir, &image, &["manifest.json", "config.json", "layer.tar"]);
        image
    }

    /// The command `podman ARGS...` in the host's namespaces.
    pub fn command(&self, args: &[&str]) -> Command {
        let at = |name: &str| self.dir.join(name);
        let mut command = self.host.ns.command("podman");
        for (option, name) in
            [("--root", "storage"), ("--runroot", "run"), ("--tmpdir", "libpod"), ("--hooks-dir", "hooks.d")]
        {
            command.arg(option).arg(at(name));
        }
        command.arg("--network-config-dir").arg(at("networks"));
        command.args(["--cgroup-manager=cgroupfs", "--events-backend=file"]).args(args);
        command.env("TMPDIR", at("tmp")).env("CONTAINERS_CONF", at("containers.conf")).current_dir(&self.host.dir);
        command
    }

    /// Runs one command of Podman to its end.
    pub fn call(&self, args: &[&str]) -> Output {
        run::run(&mut self.command(args), COMMAND_LIMIT)
    }

    /// Makes a pod without a network, whose infra container is `/pause`.
    pub fn pod(&self, name: &str) {
        let parent = format!("/{}", self.host.tag);
        let options = ["--infra-image", IMAGE, "--infra-command", "/pause", "--cgroup-parent", &parent];
        self.call(&[&["pod", "create", "--name", name, "--network", "none"], &options[..]].concat()).ok();
    }

    /// Starts a container that runs a line of shell.
    pub fn run(&self, name: &str, options: &[&str], line: &str) -> Output {
        let parent = format!("/{}", self.host.tag);
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

    /// Everything that was left or could not be removed, one line each.
    fn clean_up(&self) -> Vec<String> {
        let mut problems = Vec::new();
        // Twice: what others depend on goes after them.
        let removed = [["pod", "rm"].as_slice(), &["rm"], &["rm"]]
            .map(|command| self.call(&[command, &["--all", "--force", "--time", "0"]].concat()));
        if removed[2].code != Some(0) {
            problems.push(format!("`podman rm --all`: {}", removed[2]));
        }
        let dir = &self.dir;
        let text = dir.to_string_lossy().into_owned();
        if !eventually(|| processes(&text).is_empty()) {
            problems.extend(processes(&text).into_iter().map(|line| format!("process {line}")));
        }
        self.host.ns.inside_mounts(|| {
            let mounts = std::fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default();
            let places: Vec<&Path> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new).collect();
            // Podman mounts its storage on itself.
            let own =
                |at: &Path| at == dir.join("storage/overlay") || SHARED.iter().any(|shared| Path::new(shared) == at);
            problems.extend(
                places.iter().filter(|at| at.starts_with(dir) && !own(at)).map(|at| format!("mount {}", at.display())),
            );
            for at in places.into_iter().rev().filter(|at| at.starts_with(dir) || own(at)) {
                let _ = umount2(at, MntFlags::MNT_DETACH);
            }
        });
        // Podman leaves the cgroups of its pods.
        if !eventually(|| self.remove_cgroups()) {
            problems.push(format!("cgroups {} are busy", self.host.tag));
        }
        problems
    }

    fn remove_cgroups(&self) -> bool {
        let tops = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|c| c.path());
        tops.map(|top| top.join(&self.host.tag)).filter(|at| at.exists()).all(|at| remove_tree(&at))
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        let problems = self.clean_up();
        if problems.is_empty() {
            return;
        }
        let text = format!("podman on {}: left behind:\n  {}", self.host.name, problems.join("\n  "));
        if std::thread::panicking() { eprintln!("{text}") } else { panic!("{text}") }
    }
}

/// Command lines with this text in them: of Podman, its conmon, and the runtime.
fn processes(text: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let line =
        |at: PathBuf| std::fs::read(at.join("cmdline")).map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    all.filter_map(|entry| line(entry.path()).ok()).filter(|line| line.contains(text)).collect()
}

/// Removes a cgroup and those below, and ends what still runs in them.
fn remove_tree(at: &Path) -> bool {
    for entry in std::fs::read_dir(at).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let members = std::fs::read_to_string(at.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|pid| pid.parse().ok()) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    std::fs::remove_dir(at).is_ok()
}

/// The files of `config/oci-hooks.d`, with the hooks of the build and the environment that leads to this host.
fn register(host: &Inner, hooks: &Path) {
    let env: Vec<String> = host.env().into_iter().map(|(key, value)| format!("{key}={}", value.display())).collect();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/oci-hooks.d");
    for entry in std::fs::read_dir(shipped).expect("config/oci-hooks.d").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("a hook");
        let mut hook: Value = serde_json::from_str(&text).expect("a hook's JSON");
        let path = PathBuf::from(hook["hook"]["path"].as_str().expect("its path"));
        hook["hook"]["path"] = json!(binary(path.file_name().expect("its name")));
        hook["hook"]["env"] = json!(env);
        std::fs::write(hooks.join(entry.file_name()), hook.to_string()).expect("hooks.d");
    }
}
