//! What the engines on simulated hosts have in common: a place of their own, an image, our hooks, and leaving nothing.

use super::bundle::rootfs;
use super::host::{Inner, binary};
use super::run;
use super::wait::eventually;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The image in every archive: busybox, and a `/pause` that sleeps, which runs if nothing else is asked for.
pub const IMAGE: &str = "localhost/busybox:latest";

/// Directories of the machine that engines write to whatever their options say. On the host they are empty and its own.
const SHARED: [&str; 2] = ["/dev/shm", "/var/lib"];

/// Where an engine keeps everything it has.
pub(super) struct Place<'h> {
    /// The host it runs on.
    pub host: &'h Inner,
    /// Its directory. Every process of it has this path in its command line.
    pub dir: PathBuf,
    /// Where something may be mounted when nothing runs any more. What is mounted elsewhere below `dir` was left behind.
    own: Vec<PathBuf>,
}

impl<'h> Place<'h> {
    /// Makes the place: these directories below it, and empty directories on the host instead of the machine's.
    pub fn new(host: &'h Inner, name: &str, dirs: &[&str], emptied: &[&str]) -> Place<'h> {
        let dir = host.dir.join(name);
        for name in dirs {
            std::fs::create_dir_all(dir.join(name)).expect("the engine's directories");
        }
        let own: Vec<PathBuf> = SHARED.iter().chain(emptied).map(PathBuf::from).collect();
        host.ns.inside_mounts(|| {
            for at in &own {
                std::fs::create_dir_all(at).expect("a mount point");
                mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("tmpfs");
            }
        });
        Place { host, dir, own }
    }

    /// Allows what the engine mounts for as long as it is there.
    pub fn keeps_mounted(mut self, at: impl Into<PathBuf>) -> Place<'h> {
        self.own.push(at.into());
        self
    }

    /// A path below it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The cgroup under which all containers are to be.
    pub fn cgroup(&self) -> String {
        format!("/{}", self.host.tag)
    }

    /// A `docker-archive` with `IMAGE`, made of the root file system.
    pub fn archive(&self) -> PathBuf {
        let root = rootfs(self.host);
        let pause = root.join("pause");
        std::fs::write(&pause, "#!/bin/sh\nexec sleep 1000\n").expect("pause");
        std::fs::set_permissions(&pause, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("pause");
        let (layer, image) = (self.at("layer.tar"), self.at("image.tar"));
        let tar = |of: &Path, to: &Path, names: &[&str]| {
            let limit = Duration::from_secs(20);
            run::run(Command::new("tar").arg("-C").arg(of).arg("-cf").arg(to).args(names), limit).ok();
        };
        tar(&root, &layer, &["."]);
        let sum = run::run(Command::new("sha256sum").arg(&layer), Duration::from_secs(20)).ok().stdout;
        let sum = sum.split_whitespace().next().expect("a sum");
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": ["/pause"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{sum}")]}});
        let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
        std::fs::write(self.at("config.json"), config.to_string()).expect("config");
        std::fs::write(self.at("manifest.json"), manifest.to_string()).expect("manifest");
        tar(&self.dir, &image, &["manifest.json", "config.json", "layer.tar"]);
        image
    }

    /// Fails unless nothing is left, or says so if the test fails anyway.
    pub fn leave(&self, mut problems: Vec<String>) {
        problems.extend(self.clear());
        if problems.is_empty() {
            return;
        }
        let text = format!("{} on {}: left behind:\n  {}", self.dir.display(), self.host.name, problems.join("\n  "));
        if std::thread::panicking() { eprintln!("{text}") } else { panic!("{text}") }
    }

    /// Ends and removes what is left, and names it, one line each.
    fn clear(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !eventually(|| self.processes().is_empty()) {
            for (pid, line) in self.processes() {
                problems.push(format!("process {line}"));
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
        self.host.ns.inside_mounts(|| {
            let mounts = std::fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default();
            let places: Vec<&Path> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new).collect();
            let own = |at: &Path| self.own.iter().any(|own| own == at);
            let left = places.iter().filter(|at| at.starts_with(&self.dir) && !own(at));
            problems.extend(left.map(|at| format!("mount {}", at.display())));
            for at in places.into_iter().rev().filter(|at| at.starts_with(&self.dir) || own(at)) {
                let _ = umount2(at, MntFlags::MNT_DETACH);
            }
        });
        // Engines leave the cgroups of pods.
        if !eventually(|| self.remove_cgroups()) {
            problems.push(format!("cgroups {} are busy", self.host.tag));
        }
        problems
    }

    /// The engine's processes and their command lines, its helpers and runtimes included.
    fn processes(&self) -> Vec<(Pid, String)> {
        let text = self.dir.to_string_lossy();
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let line = |pid: i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            Some((Pid::from_raw(pid), String::from_utf8_lossy(&line).replace('\0', " ")))
        };
        pids.filter_map(line).filter(|(_, line)| line.contains(&*text)).collect()
    }

    fn remove_cgroups(&self) -> bool {
        let tops = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|c| c.path());
        tops.map(|top| top.join(&self.host.tag)).filter(|at| at.exists()).all(|at| remove_tree(&at))
    }
}

/// One of our hooks as an engine is told of it, with the environment that leads to this host.
pub(super) fn hook(host: &Inner, name: &str) -> Value {
    let env: Vec<String> = host.env().into_iter().map(|(key, value)| format!("{key}={}", value.display())).collect();
    json!({"path": binary(name.as_ref()), "env": env})
}

/// A directory with our programs, as engines call them that give hooks no environment: this leads them to the host.
pub fn programs(host: &Inner) -> PathBuf {
    let directory = host.dir.join("programs");
    std::fs::create_dir_all(&directory).expect("programs");
    for name in ["portslice-prestart", "portslice-poststop", "portslice-runtime"] {
        let env: Vec<String> =
            host.env().into_iter().map(|(key, value)| format!("{key}={}", value.display())).collect();
        let text = format!("#!/bin/sh\nexec env {} {} \"$@\"\n", env.join(" "), binary(name.as_ref()).display());
        let file = host.dir.join("script");
        std::fs::write(&file, text).expect("a script");
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a script");
        run::copy_program(&file, &directory.join(name));
    }
    directory
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
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    std::fs::remove_dir(at).is_ok()
}
