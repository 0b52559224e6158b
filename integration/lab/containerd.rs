//! The real containerd on a simulated host, driven through the interface that Kubernetes uses (CRI).
//!
//! The numbers of fields are those of `runtime.v1` in Kubernetes' cri-api (api.proto).

use super::engine::{self, IMAGE, Place};
use super::grpc::{Message, Service};
use super::host::{COMMAND_LIMIT, Host, Inner, binary};
use super::run::{self, Output};
use super::wait::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where containerd keeps the sockets of its shims, and makes network namespaces, whatever its configuration says.
const RUN: &str = "/run/containerd";
const NAMESPACES: &str = "/run/netns";

/// A CNI plugin that leaves the namespace as it is and says what CRI insists on: a pod has an `eth0` with an address. It is the
/// host's own, as our hook, which runs after the plugin, makes true.
const PLUGIN: &str = r#"#!/bin/sh
cat >/dev/null
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "'"$CNI_NETNS"'"}],
    "ips": [{"address": "10.77.0.2/32", "interface": 0}]}'
"#;

/// The runtimes under containerd.
const PROGRAMS: [&str; 2] = ["runc", "crun"];

/// What is started instead of a runtime. It adds our hooks to a bundle before the runtime reads it.
const WRAPPER: &str = r#"#!/bin/sh
for word; do
    [ "$before" != --bundle ] || bundle=$word
    before=$word
done
if [ -n "$bundle" ]; then
    hooked=$(jq --slurpfile hooks HOOKS '.hooks = $hooks[0]' "$bundle/config.json") || exit 1
    printf %s "$hooked" >"$bundle/config.json"
fi
exec PROGRAM "$@"
"#;

/// containerd on a host. Dropping it removes its pods and ends it.
pub struct Containerd<'h> {
    place: Place<'h>,
    runtime: Service,
    config: PathBuf,
    daemon: RefCell<Child>,
}

impl Host {
    /// containerd that hands on our annotations, and whose bundles have our hooks. Under the handlers `runc` and `crun` all
    /// bundles have them, under `runc-base` and `crun-base` those of containers: containerd's `base_runtime_spec` is not for
    /// sandboxes.
    pub fn containerd(&self) -> Containerd<'_> {
        Containerd::new(self.deref(), &PROGRAMS, cni, configured)
    }

    /// containerd whose pods are attached by our CNI plugin, as `config/cni` registers it. Under the handlers `runc-plain` and
    /// `crun-plain` bundles have no hooks.
    pub fn containerd_with_cni(&self) -> Containerd<'_> {
        Containerd::new(self.deref(), &PROGRAMS, our_cni, configured)
    }

    /// The same, with this runtime under the handler `shim`.
    pub fn containerd_with_cni_and(&self, runtime: &Path) -> Containerd<'_> {
        Containerd::new(self.deref(), &PROGRAMS, our_cni, |place| {
            let path = configured(place);
            let known = std::fs::read_to_string(&path).expect("config.toml");
            std::fs::write(&path, known + &handler("shim", "", &runtime.to_string_lossy())).expect("config.toml");
            path
        })
    }

    /// containerd as it is installed, without handlers of ours. Before it is started, `register` is given the configuration,
    /// and the directory with a `portslice-runtime` that adds our hooks to bundles; it returns the configuration to start with.
    pub fn containerd_as_installed(&self, register: impl FnOnce(&Path, &Path) -> PathBuf) -> Containerd<'_> {
        Containerd::new(self.deref(), &[], cni, |place| {
            std::fs::create_dir(place.at("programs")).expect("programs");
            std::os::unix::fs::symlink(place.at("bin/runc"), place.at("programs/portslice-runtime")).expect("a link");
            register(&place.at("config.toml"), &place.at("programs"))
        })
    }
}

impl<'h> Containerd<'h> {
    fn new(
        host: &'h Inner,
        handlers: &[&str],
        network: impl FnOnce(&Place<'_>),
        register: impl FnOnce(&Place<'_>) -> PathBuf,
    ) -> Containerd<'h> {
        let place = Place::new(host, "containerd", &["bin", "cni/bin", "cni/net.d", "messages", "logs"], &[RUN]);
        let place = place.keeps_mounted(NAMESPACES);
        std::fs::write(place.at("config.toml"), config(&place, handlers)).expect("config.toml");
        hooks(host, &place);
        network(&place);
        let config = register(&place);
        let daemon = RefCell::new(start(&place, &config));
        let (socket, dir) = (place.at("socket"), place.at("messages"));
        let runtime = Service { socket, name: "runtime.v1.RuntimeService", dir };
        let containerd = Containerd { place, runtime, config, daemon };
        containerd.up();
        let mut import = host.ns.command("ctr");
        import.arg("--address").arg(containerd.place.at("socket")).args(["--namespace", "k8s.io", "image", "import"]);
        run::run(import.arg(containerd.place.archive()), COMMAND_LIMIT).ok();
        containerd
    }

    /// Waits until it answers.
    fn up(&self) {
        let up = eventually(|| self.runtime.call("Version", &Message::default()).is_ok());
        assert!(up, "containerd does not answer: {}", self.log());
    }

    /// Kills the daemon, as the kernel's killer would, and starts it again. What runs goes on meanwhile.
    pub fn killed(&self) {
        let mut daemon = self.daemon.borrow_mut();
        let _ = daemon.kill();
        let _ = daemon.wait();
        *daemon = start(&self.place, &self.config);
        self.up();
    }

    /// Starts a pod's sandbox under one of the handlers.
    #[track_caller]
    pub fn pod(&self, handler: &str, name: &str, annotations: &[(&str, &str)]) -> Pod<'_> {
        self.try_pod(handler, name, annotations).unwrap_or_else(|e| panic!("{e}\ncontainerd says:\n{}", self.log()))
    }

    /// The same, where containerd may refuse.
    pub fn try_pod(&self, handler: &str, name: &str, annotations: &[(&str, &str)]) -> Result<Pod<'_>, String> {
        let metadata = Message::default().text(1, name).text(2, &self.place.host.tag).text(3, "prod");
        let linux = Message::default().text(1, &self.place.cgroup()).message(2, as_kubelet(1));
        let logs = self.place.at("logs");
        let config = Message::default().message(1, metadata).text(2, name).text(3, &logs.to_string_lossy());
        let config = config.map(7, annotations).message(8, linux);
        let request = Message::default().message(1, config.clone()).text(2, handler);
        let id = self.runtime.call("RunPodSandbox", &request)?.string(1);
        Ok(Pod { containerd: self, id, config })
    }

    /// Runs `portslice setup containerd ARGS...` on its host, by which `ctr` finds this containerd.
    pub fn setup(&self, args: &[&str]) -> Output {
        let mut command = self.place.host.command(["portslice", "setup", "containerd", "--programs"]);
        command.arg(self.place.at("programs")).args(args).env("CONTAINERD_ADDRESS", self.place.at("socket"));
        // ctr calls the cgroups of containers after it
        run::run(command.env("CONTAINERD_NAMESPACE", &self.place.host.tag), COMMAND_LIMIT)
    }

    /// What it says about itself: whether its part of Kubernetes' interface is ready, and that part's configuration.
    #[track_caller]
    pub fn status(&self) -> (bool, Value) {
        let answer = self.must("Status", Message::default().number(1, 1));
        let conditions: Vec<Message> = answer.all(1).iter().flat_map(|status| status.all(1)).collect();
        let is_ready = |condition: &Message| condition.string(1) == "RuntimeReady" && condition.flag(2);
        let info: Vec<Message> = answer.all(2).into_iter().filter(|entry| entry.string(1) == "config").collect();
        let config = info.first().map(|entry| entry.string(2)).expect("verbose information");
        (conditions.iter().any(is_ready), serde_json::from_str(&config).expect("JSON"))
    }

    /// The environment that leads `ctr` here.
    pub fn env(&self) -> [(&'static str, String); 2] {
        let socket = self.place.at("socket").to_string_lossy().into_owned();
        [("CONTAINERD_ADDRESS", socket), ("CONTAINERD_SNAPSHOTTER", "native".to_owned())]
    }

    /// Runs `ctr ARGS...`, whose containers are apart from those of pods.
    pub fn ctr(&self, args: &[&str]) -> run::Output {
        let mut command = self.place.host.ns.command("ctr");
        command.arg("--address").arg(self.place.at("socket")).args(args);
        run::run(&mut command, COMMAND_LIMIT)
    }

    /// Makes the image known to `ctr`, and returns the cgroup under which its containers are to be.
    pub fn for_ctr(&self) -> String {
        self.ctr(&["image", "import", "--snapshotter", "native", &self.place.at("image.tar").to_string_lossy()]).ok();
        self.place.cgroup()
    }

    /// Makes its containers be where containerd keeps them unless it is told otherwise.
    pub fn at_the_usual_place(&self) {
        const TASKS: &str = "io.containerd.runtime.v2.task";
        let (tasks, usual) = (self.place.at("state").join(TASKS), Path::new(RUN).join(TASKS));
        self.place.host.ns.inside_mounts(|| std::os::unix::fs::symlink(tasks, usual).expect("a link"));
    }

    /// The ids of all sandboxes.
    #[track_caller]
    pub fn pods(&self) -> Vec<String> {
        self.must("ListPodSandbox", Message::default()).all(1).iter().map(|pod| pod.string(1)).collect()
    }

    /// The names of the network namespaces it made.
    pub fn namespaces(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.place.host.ns.root(NAMESPACES)).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    #[track_caller]
    fn must(&self, method: &str, request: Message) -> Message {
        let answer = self.runtime.call(method, &request);
        answer.unwrap_or_else(|e| panic!("{e}\ncontainerd says:\n{}", self.log()))
    }

    /// The first process of what `method` shows.
    #[track_caller]
    fn pid(&self, method: &str, id: &str) -> u32 {
        let shown = self.must(method, of(id).number(2, 1));
        let info = shown.all(2).iter().map(|entry| entry.string(2)).next().expect("verbose information");
        let info: Value = serde_json::from_str(&info).expect("JSON");
        info["pid"].as_u64().unwrap_or_else(|| panic!("{id} has no process: {info}")) as u32
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.place.at("log")).unwrap_or_default()
    }

    /// Ends it, and says what went wrong.
    fn end(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        let pods = self.runtime.call("ListPodSandbox", &Message::default()).map(|answer| answer.all(1));
        for pod in pods.unwrap_or_default() {
            for method in ["StopPodSandbox", "RemovePodSandbox"] {
                problems.extend(self.runtime.call(method, &of(&pod.string(1))).err());
            }
        }
        let daemon = self.daemon.get_mut();
        let _ = kill(Pid::from_raw(daemon.id() as i32), Signal::SIGTERM);
        if !eventually(|| daemon.try_wait().is_ok_and(|status| status.is_some())) {
            problems.push("containerd does not end".into());
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        problems.extend(self.namespaces().into_iter().map(|name| format!("network namespace {name}")));
        problems
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        let problems = self.end();
        self.place.leave(problems);
    }
}

/// A pod whose sandbox was started.
pub struct Pod<'c> {
    containerd: &'c Containerd<'c>,
    /// The sandbox's id.
    pub id: String,
    config: Message,
}

impl<'c> Pod<'c> {
    /// Creates and starts a container that runs a line of shell. `resources` are Kubernetes' own CPU limits: shares and quota.
    #[track_caller]
    pub fn start(
        &self,
        name: &str,
        annotations: &[(&str, &str)],
        resources: Option<(u64, u64)>,
        line: &str,
    ) -> Run<'c> {
        // A name may come again, as that of another attempt.
        static ATTEMPT: AtomicU32 = AtomicU32::new(0);
        let attempt = ATTEMPT.fetch_add(1, Ordering::Relaxed);
        let metadata = Message::default().text(1, name).number(2, attempt.into());
        let mut linux = Message::default().message(2, as_kubelet(3));
        if let Some((shares, quota)) = resources {
            linux = linux.message(1, Message::default().number(1, 100_000).number(2, quota).number(3, shares));
        }
        let config = Message::default().message(1, metadata).message(2, Message::default().text(1, IMAGE));
        let config = ["sh", "-c", line].iter().fold(config, |config, word| config.text(3, word));
        let config = config.map(10, annotations).text(11, &format!("{name}-{attempt}.log")).message(15, linux);
        let request = of(&self.id).message(2, config).message(3, self.config.clone());
        let id = self.containerd.must("CreateContainer", request).string(1);
        self.containerd.must("StartContainer", of(&id));
        let pid = self.containerd.pid("ContainerStatus", &id);
        Run { containerd: self.containerd, id, pid }
    }

    /// The sandbox's process.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.containerd.pid("PodSandboxStatus", &self.id)
    }

    /// Stops the sandbox.
    #[track_caller]
    pub fn stop(&self) {
        // containerd 1.6 loses its shim now and then when a container ends by itself meanwhile; kubelet asks again as well
        let lost = |e: &String| e.contains("ttrpc: closed");
        match self.containerd.runtime.call("StopPodSandbox", &of(&self.id)) {
            Err(e) if !lost(&e) => panic!("{e}\ncontainerd says:\n{}", self.containerd.log()),
            Err(_) => drop(self.containerd.must("StopPodSandbox", of(&self.id))),
            Ok(_) => {}
        }
    }

    /// Removes the stopped sandbox.
    #[track_caller]
    pub fn remove(self) {
        self.containerd.must("RemovePodSandbox", of(&self.id));
    }
}

/// A container that was started in a pod.
pub struct Run<'c> {
    containerd: &'c Containerd<'c>,
    /// Its id.
    pub id: String,
    /// Its first process.
    pub pid: u32,
}

impl Run<'_> {
    /// What a line of shell prints in it.
    #[track_caller]
    pub fn exec(&self, line: &str) -> String {
        let request = ["sh", "-c", line].iter().fold(of(&self.id), |request, word| request.text(2, word));
        self.containerd.must("ExecSync", request.number(3, 20)).string(1)
    }

    /// Stops it at once.
    #[track_caller]
    pub fn stop(&self) {
        self.containerd.must("StopContainer", of(&self.id));
    }

    /// Removes it when it has stopped.
    #[track_caller]
    pub fn remove(self) {
        self.containerd.must("RemoveContainer", of(&self.id));
    }
}

/// Starts the daemon.
fn start(place: &Place<'_>, config: &Path) -> Child {
    let log = File::options().create(true).append(true).open(place.at("log")).expect("log");
    let mut command = place.host.ns.command("containerd");
    command.arg("--config").arg(config).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
    command.spawn().expect("containerd is installed")
}

/// A request that is about one sandbox or container.
fn of(id: &str) -> Message {
    Message::default().text(1, id)
}

/// A security context as the kubelet makes it, whose namespaces are in `field`: processes of containers do not see each other.
fn as_kubelet(field: u8) -> Message {
    Message::default().message(field, Message::default().number(2, 1))
}

/// The network of every pod: lo is brought up, and `PLUGIN` is asked.
fn cni(place: &Place<'_>) {
    script(place, "cni/bin/host-address", PLUGIN);
    std::os::unix::fs::symlink("/usr/lib/cni/loopback", place.at("cni/bin/loopback")).expect("loopback");
    let list = json!({"cniVersion": "1.0.0", "name": "host", "plugins": [{"type": "host-address"}]});
    std::fs::write(place.at("cni/net.d/host.conflist"), list.to_string()).expect("conflist");
}

/// The same by our own plugin, under the name of its type, with the list that is shipped. It is told where this host's files
/// are: containerd hands no environment of ours to plugins.
fn our_cni(place: &Place<'_>) {
    run::copy_program(&binary("portslice-cni".as_ref()), &place.at("cni/bin/portslice"));
    std::os::unix::fs::symlink("/usr/lib/cni/loopback", place.at("cni/bin/loopback")).expect("loopback");
    let list = super::cni::shipped_list(place.host).to_string();
    std::fs::write(place.at("cni/net.d/10-portslice.conflist"), list).expect("conflist");
}

/// The two ways in which our hooks come into bundles.
fn hooks(host: &Inner, place: &Place<'_>) {
    let hooks = json!({
        "createRuntime": [engine::hook(host, "portslice-prestart")],
        "poststop": [engine::hook(host, "portslice-poststop")],
    });
    std::fs::write(place.at("hooks.json"), hooks.to_string()).expect("hooks.json");
    let mut base = run::run(Command::new("ctr").args(["oci", "spec"]), COMMAND_LIMIT).ok().json();
    base["hooks"] = hooks;
    std::fs::write(place.at("base.json"), base.to_string()).expect("base.json");
    for program in PROGRAMS {
        let text = WRAPPER.replace("HOOKS", &place.at("hooks.json").to_string_lossy()).replace("PROGRAM", program);
        script(place, &format!("bin/{program}"), &text);
    }
}

/// Writes a program.
fn script(place: &Place<'_>, name: &str, text: &str) {
    let file = place.at("script");
    std::fs::write(&file, text).expect("a script");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a script");
    run::copy_program(&file, &place.at(name));
}

/// The configuration as it stands.
fn configured(place: &Place<'_>) -> PathBuf {
    place.at("config.toml")
}

/// CRI's part of the configuration.
const CRI: &str = r#"plugins."io.containerd.grpc.v1.cri""#;

/// A handler, which is called with annotations of ours.
fn handler(name: &str, base: &str, program: &str) -> String {
    format!(
        r#"
[{CRI}.containerd.runtimes.{name}]
runtime_type = "io.containerd.runc.v2"
{base}
pod_annotations = ["portslice/*"]
container_annotations = ["portslice/*"]
[{CRI}.containerd.runtimes.{name}.options]
BinaryName = "{program}"
"#
    )
}

/// The configuration. A host without CAP_SYS_RESOURCE cannot give a sandbox the score that CRI wants it to have with the
/// kernel's killer, and some hosts have AppArmor, on which nothing here depends.
fn config(place: &Place<'_>, handlers: &[&str]) -> String {
    let dir = place.dir.display();
    let base = format!(r#"base_runtime_spec = "{dir}/base.json""#);
    let of_program = |program: &&str| {
        let wrapped = handler(program, "", &format!("{dir}/bin/{program}"));
        wrapped
            + &handler(&format!("{program}-base"), &base, program)
            + &handler(&format!("{program}-plain"), "", program)
    };
    let handlers: String = handlers.iter().map(of_program).collect();
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
address = "{dir}/socket"
[debug]
level = "warn"
[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"
[{CRI}]
sandbox_image = "{IMAGE}"
stream_server_address = "127.0.0.1"
stream_server_port = "0"
restrict_oom_score_adj = true
disable_apparmor = true
[{CRI}.cni]
bin_dir = "{dir}/cni/bin"
conf_dir = "{dir}/cni/net.d"
[{CRI}.containerd]
snapshotter = "native"
{}"#,
        handlers
    )
}
