//! A simulated host with its uplink, its outside peer, and the portslice commands run on it.

use super::leftovers::{self, Baseline};
use super::ns::Ns;
use super::run::{self, Output};
use std::ffi::OsStr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// No command of ours may take longer.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// What a host is to be; `Host::with(name)` starts one, `build()` makes it.
pub struct Plan {
    name: String,
    mtu: u32,
    narrow: Option<u32>,
    secondary: Vec<String>,
    port_range: String,
    config: String,
    prepared: bool,
    sockets: Option<String>,
    debian13: Option<PathBuf>,
}

impl Plan {
    /// MTU of uplink and wire (1500).
    pub fn mtu(mut self, mtu: u32) -> Plan {
        self.mtu = mtu;
        self
    }

    /// The peer becomes a router with a link of this MTU to a further namespace (`Host::remote`).
    pub fn narrow(mut self, mtu: u32) -> Plan {
        self.narrow = Some(mtu);
        self
    }

    /// A further address of the uplink, "10.77.0.3/24".
    pub fn secondary(mut self, address: &str) -> Plan {
        self.secondary.push(address.into());
        self
    }

    /// The host's own `ip_local_port_range` ("57344 60999", which leaves the default pool free).
    pub fn port_range(mut self, range: &str) -> Plan {
        self.port_range = range.into();
        self
    }

    /// The whole text of the config file (default: `ports = "31000-31999"`).
    pub fn config(mut self, text: &str) -> Plan {
        self.config = text.into();
        self
    }

    /// bind() is judged (`socket_rules`) for the sockets of this test process: its programs are on a cgroup of its own.
    pub fn judged(mut self, rules: &str) -> Plan {
        self.sockets = Some(rules.into());
        self
    }

    /// Leaves `portslice setup` to the test.
    pub fn unprepared(mut self) -> Plan {
        self.prepared = false;
        self
    }

    /// The host has programs and engines of Debian 13, of which this is a root.
    pub(super) fn debian13(mut self, root: PathBuf) -> Plan {
        self.debian13 = Some(root);
        self
    }

    /// Makes the host.
    pub fn build(self) -> Host {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        leftovers::watch_the_machine();
        give_back_memory();
        let tag = format!("lab{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = nix::unistd::mkdtemp(&std::env::temp_dir().join(format!("portslice-{}-XXXXXX", self.name)))
            .expect("mkdtemp");
        let ns = Ns::with_mounts(&format!("{} (host)", self.name));
        let sockets = self.sockets.as_ref().map_or_else(String::new, |rules| {
            let cgroup = super::cgroup::of_tests(&ns, &dir);
            format!("socket_rules = {rules:?}\nsocket_cgroup = {cgroup:?}\n")
        });
        std::fs::write(dir.join("portslice.toml"), sockets + &self.config).expect("config");
        self.debian13.iter().for_each(|root| super::overlay::cover(&ns, root, &dir));
        let peer = Ns::net_only(&format!("{} (peer)", self.name));
        let remote = self.narrow.map(|_| Ns::net_only(&format!("{} (remote)", self.name)));
        for each in [Some(&ns), Some(&peer), remote.as_ref()].into_iter().flatten() {
            each.set_sysctl("ipv6/conf/all/accept_dad", "0");
            each.set_sysctl("ipv6/conf/default/accept_dad", "0");
        }
        self.wire(&ns, &peer, remote.as_ref());
        ns.settle(&["eth0"]);
        peer.settle(if remote.is_some() { &["wire", "slim"] } else { &["wire"] });
        remote.iter().for_each(|r| r.settle(&["eth0"]));
        let baseline = Baseline::of(&ns);
        let inner = Inner {
            name: self.name,
            tag,
            dir,
            ns,
            peer,
            remote,
            baseline: Some(baseline).into(),
            altered: AtomicBool::new(false),
            finished: AtomicBool::new(false),
        };
        let host = Host(Arc::new(inner));
        if self.prepared {
            host.portslice(["setup"]).ok();
        }
        host
    }

    fn wire(&self, ns: &Ns, peer: &Ns, remote: Option<&Ns>) {
        let mtu = self.mtu;
        let more: String = self.secondary.iter().map(|a| format!("addr add {a} dev eth0{}\n", nodad(a))).collect();
        ns.ip(&format!(
            "link add eth0 mtu {mtu} type veth peer name wire mtu {mtu} netns {}\n\
             addr add 10.77.0.2/24 dev eth0\naddr add fd77::2/64 dev eth0 nodad\n{more}link set eth0 up",
            peer.pid()
        ));
        peer.ip("addr add 10.77.0.1/24 dev wire\naddr add fd77::1/64 dev wire nodad\nlink set wire up\n\
             addr add 198.51.100.1/32 dev lo\naddr add 2001:db8:99::1/128 dev lo nodad");
        ns.ip("route add default via 10.77.0.1 dev eth0\nroute add default via fd77::1 dev eth0");
        ns.set_sysctl("ipv4.ip_local_port_range", &self.port_range);
        if let (Some(mtu), Some(remote)) = (self.narrow, remote) {
            // it offers the segment size of an ordinary link, so only path MTU discovery can find the narrow hop
            peer.set_sysctl("ipv4.ip_forward", "1");
            peer.set_sysctl("ipv6/conf/all/forwarding", "1");
            peer.ip(&format!(
                "link add slim mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\n\
                 addr add 10.78.0.1/24 dev slim\naddr add fd78::1/64 dev slim nodad\nlink set slim up",
                remote.pid()
            ));
            remote.ip("addr add 10.78.0.2/24 dev eth0\naddr add fd78::2/64 dev eth0 nodad\nlink set eth0 up\n\
                 route add default via 10.78.0.1 advmss 1460\nroute add default via fd78::1 advmss 1440");
        }
    }
}

fn nodad(address: &str) -> &'static str {
    if address.contains(':') { " nodad" } else { "" }
}

/// Everything of a simulated host; containers keep a share of it.
pub struct Inner {
    /// The test's name for it.
    pub name: String,
    /// Unique prefix for container ids and cgroups.
    pub tag: String,
    /// The per-test directory: config file, state, bundles.
    pub dir: PathBuf,
    /// The host's namespaces.
    pub ns: Ns,
    /// The outside peer at the other end of the wire.
    pub peer: Ns,
    /// The host behind the peer, if the plan had a narrow link.
    remote: Option<Ns>,
    baseline: std::sync::Mutex<Option<Baseline>>,
    altered: AtomicBool,
    finished: AtomicBool,
}

/// A simulated host. Dropping it cleans up and asserts that nothing is left.
pub struct Host(Arc<Inner>);

impl Deref for Host {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Host {
    /// A host with all defaults, prepared by `portslice setup`.
    pub fn new(name: &str) -> Host {
        Host::with(name).build()
    }

    /// Starts the plan of a host.
    pub fn with(name: &str) -> Plan {
        Plan {
            name: name.into(),
            mtu: 1500,
            narrow: None,
            secondary: Vec::new(),
            port_range: "57344 60999".into(),
            config: "ports = \"31000-31999\"\n".into(),
            prepared: true,
            sockets: None,
            debian13: None,
        }
    }

    /// A share of it, for what lives on it and may outlive this handle.
    pub fn share(&self) -> Arc<Inner> {
        self.0.clone()
    }

    /// Cleans up and asserts now instead of at the end of the scope.
    pub fn finish(self) {}
}

/// What earlier tests have freed stays with the process, and each fork of it copies the tables of those pages: that was a third
/// of the time of all tests.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) locks what it looks at, and moves nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.finished.swap(true, Ordering::SeqCst) {
            return;
        }
        let problems = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.0.clean_up()))
            .unwrap_or_else(|_| vec!["cleaning up panicked (message above)".into()]);
        self.peer.kill();
        if let Some(remote) = &self.remote {
            remote.kill();
        }
        self.ns.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
        if problems.is_empty() {
            return;
        }
        let text = format!("host {}: left behind:\n  {}", self.name, problems.join("\n  "));
        if std::thread::panicking() { eprintln!("{text}") } else { panic!("{text}") }
    }
}

impl Inner {
    /// A command inside the host, argv as given; names starting with "portslice" come from the build.
    pub fn command<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>) -> Command {
        let mut argv = argv.into_iter();
        let program = argv.next().expect("a program");
        let program = program.as_ref();
        let built = program.to_string_lossy().starts_with("portslice").then(|| binary(program));
        let mut command = self.ns.command(built.as_deref().unwrap_or(Path::new(program)));
        command.args(argv).envs(self.env()).env_remove("RUST_LOG").current_dir(&self.dir);
        command
    }

    /// Runs a command inside the host.
    pub fn run<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>) -> Output {
        run::run(&mut self.command(argv), COMMAND_LIMIT)
    }

    /// Runs `portslice ARGS...`.
    pub fn portslice<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        let args: Vec<std::ffi::OsString> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
        self.run(std::iter::once("portslice".into()).chain(args))
    }

    /// The environment that leads every command, hook and shim to this host's config and state.
    pub fn env(&self) -> [(&'static str, PathBuf); 2] {
        [("PORTSLICE_CONFIG", self.config_file()), ("PORTSLICE_STATE_DIR", self.state_dir())]
    }

    /// The config file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("portslice.toml")
    }

    /// The state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The test altered the uplink: what it made of it is how the host is to be left.
    pub fn altered(&self) {
        self.altered.store(true, Ordering::SeqCst);
    }

    /// Runs a closure in the host's network namespace.
    pub fn inside<R: Send>(&self, job: impl FnOnce() -> R + Send) -> R {
        self.ns.inside(job)
    }

    /// The namespace behind the narrow link.
    pub fn remote(&self) -> &Ns {
        self.remote.as_ref().expect("a plan with .narrow(mtu)")
    }

    /// `list --json`.
    #[track_caller]
    pub fn list(&self) -> Vec<serde_json::Value> {
        let out = self.portslice(["list", "--json"]).ok();
        out.json().as_array().unwrap_or_else(|| panic!("list --json is no array: {out}")).clone()
    }

    /// The ids of `list --json`, sorted.
    #[track_caller]
    pub fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.list().iter().map(|l| l["id"].as_str().unwrap_or("?").to_string()).collect();
        ids.sort();
        ids
    }

    /// Names of the devices in the host's namespace.
    pub fn links(&self) -> Vec<String> {
        leftovers::links(&self.ns)
    }

    fn clean_up(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.state_dir().exists() && binary(OsStr::new("portslice")).exists() {
            for id in self.ids() {
                let out = self.portslice(["detach", id.as_str()]);
                if out.code != Some(0) {
                    problems.push(format!("`{}`: {out}", out.line));
                }
            }
        }
        if binary(OsStr::new("portslice")).exists() {
            let out = self.portslice(["setup", "--undo"]);
            if out.code != Some(0) {
                problems.push(format!("`{}`: {out}", out.line));
            }
        }
        let mut baseline = self.baseline.lock().unwrap().take().expect("one clean-up");
        if self.altered.load(Ordering::SeqCst) {
            baseline = baseline.of_altered(&self.ns);
        }
        baseline.settle(&self.ns);
        problems.extend(baseline.compare(&self.ns, &self.state_dir()));
        problems
    }
}

/// A binary of the build: `PORTSLICE_BIN`, or the static release build.
pub fn binary(name: &OsStr) -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/x86_64-unknown-linux-musl/release");
    std::env::var_os("PORTSLICE_BIN").map(PathBuf::from).unwrap_or_else(default).join(name)
}
