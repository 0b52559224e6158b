//! OCI bundles and the real runtimes that run them on a simulated host.

use super::host::{Host, Inner};
use super::ns::Ns;
use super::run::{self, Output};
use serde_json::{Value, json};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What busybox is called inside the rootfs.
const APPLETS: &str = "sh true false sleep cat ls ip ping nc wget httpd env id hostname mount mkdir echo date dd seq grep head \
                       ps kill tail readlink";

/// A bundle directory with its config.json.
pub struct Bundle {
    /// The container's id, unique on the machine.
    pub id: String,
    /// The bundle directory.
    pub dir: PathBuf,
    /// config.json, written by `save`.
    pub config: Value,
    host_env: Vec<String>,
}

/// Which network namespace the bundle asks for.
pub enum Network<'a> {
    /// The runtime makes one.
    Own,
    /// The host's (no network namespace in the list).
    Host,
    /// This one.
    Path(&'a Path),
}

impl Bundle {
    /// A bundle that runs `args`, with its own network namespace and no hooks.
    pub fn new(host: &Host, name: &str, args: &[&str]) -> Bundle {
        let id = format!("{}-{name}", host.tag);
        let dir = host.dir.join("bundles").join(name);
        std::fs::create_dir_all(&dir).expect("bundle");
        let _ = std::fs::remove_file(dir.join("config.json")); // runc spec replaces nothing
        run::run(Command::new("runc").arg("spec").current_dir(&dir), Duration::from_secs(10)).ok();
        let text = std::fs::read_to_string(dir.join("config.json")).expect("config.json");
        let mut config: Value = serde_json::from_str(&text).expect("runc spec");
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(args);
        config["root"] = json!({"path": rootfs(host), "readonly": true});
        let env = host.env().into_iter().map(|(k, v)| format!("{k}={}", v.display()));
        let host_env = env.chain(["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_string()]).collect();
        let mut bundle = Bundle { id, dir, config, host_env };
        bundle.save();
        bundle
    }

    /// Writes config.json.
    pub fn save(&mut self) {
        std::fs::write(self.dir.join("config.json"), serde_json::to_vec_pretty(&self.config).unwrap())
            .expect("config.json");
    }

    /// Edits config.json freely.
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Bundle {
        change(&mut self.config);
        self.save();
        self
    }

    /// Appends a hook to a list ("prestart", "createRuntime", "poststop", ...). `path` may name a binary of the build.
    pub fn hook(self, list: &str, path: &str) -> Bundle {
        let path = if path.contains('/') { PathBuf::from(path) } else { super::host::binary(path.as_ref()) };
        let hook = json!({"path": path, "args": [path.file_name().unwrap().to_string_lossy()], "env": self.host_env, "timeout": 30});
        self.edit(|c| match c["hooks"][list].as_array_mut() {
            Some(hooks) => hooks.push(hook),
            None => c["hooks"][list] = json!([hook]),
        })
    }

    /// The two hooks of portslice.
    pub fn sliced(self) -> Bundle {
        self.hook("prestart", "portslice-prestart").hook("poststop", "portslice-poststop")
    }

    /// Sets an annotation.
    pub fn annotation(self, key: &str, value: &str) -> Bundle {
        self.edit(|c| c["annotations"][key] = json!(value))
    }

    /// Chooses the network namespace.
    pub fn network(self, network: Network) -> Bundle {
        self.edit(|c| {
            let list = c["linux"]["namespaces"].as_array_mut().expect("namespaces");
            list.retain(|n| n["type"] != "network");
            match network {
                Network::Own => list.push(json!({"type": "network"})),
                Network::Host => {}
                Network::Path(path) => list.push(json!({"type": "network", "path": path})),
            }
        })
    }

    /// Replaces all capability sets.
    pub fn capabilities(self, names: &[&str]) -> Bundle {
        self.edit(|c| {
            for set in ["bounding", "effective", "permitted"] {
                c["process"]["capabilities"][set] = json!(names);
            }
        })
    }
}

/// A runtime on a host, with a root directory of its own.
pub struct Runtime<'h> {
    host: &'h Inner,
    program: PathBuf,
    root: PathBuf,
}

impl Host {
    /// A program with the root directory of another runtime.
    pub fn runtime_at(&self, program: &str, root: &Path) -> Runtime<'_> {
        Runtime { host: self.deref(), program: program.into(), root: root.into() }
    }

    /// "runc", "crun", or a binary of the build such as "portslice-runtime".
    pub fn runtime(&self, program: &str) -> Runtime<'_> {
        let path =
            if program.starts_with("portslice") { super::host::binary(program.as_ref()) } else { program.into() };
        Runtime { host: self.deref(), program: path, root: self.dir.join(format!("{program}-root")) }
    }
}

impl Runtime<'_> {
    /// Its root directory.
    pub fn root(&self) -> PathBuf {
        self.root.clone()
    }

    /// The command `PROGRAM --root DIR ARGS...` in the host's namespaces.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.host.ns.command(&self.program);
        command.arg("--root").arg(&self.root).args(args).envs(self.host.env());
        command
    }

    /// Runs one runtime command to its end.
    pub fn call(&self, args: &[&str]) -> Output {
        run::run(&mut self.command(args), super::host::COMMAND_LIMIT)
    }

    /// `run`, in the foreground.
    pub fn run(&self, bundle: &Bundle) -> Output {
        self.call(&["run", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id])
    }

    /// `run --detach`: returns when the container runs; its output goes nowhere.
    pub fn start(&self, bundle: &Bundle) -> Running<'_> {
        let pid_file = bundle.dir.join("pid");
        let args = [
            "run",
            "--detach",
            "--bundle",
            &bundle.dir.to_string_lossy(),
            "--pid-file",
            &pid_file.to_string_lossy(),
            &bundle.id,
        ];
        let mut command = self.command(&args);
        let log = std::fs::File::create(bundle.dir.join("log")).expect("log");
        command.stdin(std::process::Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
        let status = command.status().expect("runtime");
        let log = std::fs::read_to_string(bundle.dir.join("log")).unwrap_or_default();
        assert!(status.success(), "`{} run --detach {}`: {status}\n{log}", self.program.display(), bundle.id);
        let pid = std::fs::read_to_string(pid_file).expect("pid file").trim().parse().expect("pid");
        Running { runtime: self, id: bundle.id.clone(), pid }
    }
}

/// A detached container of a real runtime. Dropping it deletes it by force.
pub struct Running<'r> {
    runtime: &'r Runtime<'r>,
    /// Its id.
    pub id: String,
    /// Its first process.
    pub pid: u32,
}

impl Running<'_> {
    /// Its network namespace, for probes.
    pub fn ns(&self) -> Ns {
        Ns::of_pid(&self.id, self.pid)
    }

    /// `exec`, in the foreground.
    pub fn exec(&self, args: &[&str]) -> Output {
        self.runtime.call(&[&["exec", &self.id], args].concat())
    }

    /// `delete --force`.
    pub fn delete(&self) -> Output {
        self.runtime.call(&["delete", "--force", &self.id])
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.delete();
    }
}

/// A root file system from busybox alone, made once a host.
pub(super) fn rootfs(host: &Inner) -> PathBuf {
    let root = host.dir.join("rootfs");
    if root.exists() {
        return root;
    }
    for dir in ["bin", "dev", "etc", "proc", "sys", "tmp", "root", "run"] {
        std::fs::create_dir_all(root.join(dir)).expect("rootfs");
    }
    run::copy_program(Path::new("/usr/bin/busybox"), &root.join("bin/busybox"));
    for applet in APPLETS.split_whitespace() {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("applet");
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("passwd");
    std::fs::write(root.join("etc/group"), "root:x:0:\n").expect("group");
    root
}
