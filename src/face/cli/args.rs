//! What may stand on the command line.

use std::path::{Path, PathBuf};

use clap::{Args as ArgsDerive, Parser, Subcommand, ValueEnum};

use crate::config::DEFAULT_FILE;
use crate::face::serve::Listen;
use crate::register::Engine;
use crate::request::ContainerId;

/// Many containers, one host IP: port blocks, steering, limits and counters for each.
#[derive(Debug, Parser)]
#[command(name = "portslice", version, max_term_width = 100)]
pub struct Args {
    /// Configuration file
    #[arg(long, value_name = "FILE", global = true, env = "PORTSLICE_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,

    /// Where leases and pinned programs are kept
    #[arg(long, value_name = "DIR", global = true, env = "PORTSLICE_STATE_DIR", hide_env_values = true)]
    pub state_dir: Option<PathBuf>,

    /// Say on the terminal what is done
    #[arg(short, long, global = true)]
    pub verbose: bool,

    #[command(subcommand)]
    pub command: Command,
}

impl Args {
    /// The options that mean another installation than the usual one, whether given or in the environment. `configured`: the state
    /// directory without them.
    pub fn installation(&self, configured: &Path) -> Vec<&'static str> {
        let differs = |given: &Option<PathBuf>, usual| {
            given.as_ref().is_some_and(|given| !given.as_os_str().is_empty() && given != usual)
        };
        let given = [
            ("--config", differs(&self.config, Path::new(DEFAULT_FILE))),
            ("--state-dir", differs(&self.state_dir, configured)),
        ];
        given.into_iter().filter(|(_, differs)| *differs).map(|(option, _)| option).collect()
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prepare the host: reserve ports, load and attach the data path. With an engine: register portslice with it
    Setup(Setup),
    /// Let the host's part and every container that runs follow what changed about the host
    Sync {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Run as a service that syncs whenever something about the host changed
    Follow,
    /// Give a network namespace its slice of the host
    Attach(Box<Attach>),
    /// Change limits and ports of a container that runs, all of them or none
    Set(Box<Set>),
    /// Take a container out of its slice; the last one ends it. An unknown container is no error
    Detach {
        /// Container: id, name, or as much of either as only it begins with
        id: String,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// List containers with their ports
    List {
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show everything about one container, dropped packets by reason among it
    Show {
        /// Container: id, name, or as much of either as only it begins with
        id: String,
        /// As a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show counters of containers, of all without an id
    Stats(Stats),
    /// Watch the busiest containers; ends with Ctrl-C
    Top(Top),
    /// Serve statistics over HTTP until SIGTERM: /monitor/statistics, /metrics, /containers, /healthz
    Serve {
        /// Where: ADDRESS:PORT or unix:/PATH, as often as wanted; default: systemd's sockets, else 127.0.0.1:5051
        #[arg(long, value_name = "PLACE")]
        listen: Vec<Listen>,
    },
    /// Take back the slices of containers that are gone
    Gc {
        /// The ids of the slices that ended, as a JSON array; with --dry-run what would be done
        #[arg(long)]
        json: bool,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Compare everything with the kernel and say what differs; exits 1 if something does
    Fsck(Fsck),
    /// Print the specification of the CDI devices portslice/net=PROFILE, for /etc/cdi/portslice.json
    Cdi,
    /// Say which way a packet takes: whose it is, which programs look at it, what happens, what is counted
    Explain {
        /// A port, a container, or a packet: "tcp 10.0.0.5:1234 > :31005" (tcp, udp, sctp, udplite, dccp, icmp)
        #[arg(value_name = "PORT|ID|PACKET")]
        asked: String,
        /// The container that sends it; else its source tells: the wire, or a process of the host
        #[arg(long, value_name = "CONTAINER")]
        from: Option<String>,
        /// As a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Check the host and say how to mend what is wrong
    Doctor {
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, ArgsDerive)]
pub struct Fsck {
    /// Restore from the kernel what is lost of the state directory, and from the leases what is lost in the kernel
    #[arg(long)]
    pub rebuild: bool,

    /// Only say what --rebuild would do
    #[arg(long, requires = "rebuild")]
    pub dry_run: bool,

    /// As a JSON array
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ArgsDerive)]
pub struct Stats {
    /// Containers: ids, names, or as much of either as only one begins with
    pub ids: Vec<String>,

    /// As the JSON array that Mesos' /monitor/statistics served
    #[arg(long)]
    pub json: bool,

    /// Every figure, one a line, under the names of the JSON
    #[arg(long, conflicts_with_all = ["json", "finished"])]
    pub all: bool,

    /// Again and again, until Ctrl-C
    #[arg(long)]
    pub watch: bool,

    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub interval: u64,

    /// Those that ended, the newest last, as they were at their end
    #[arg(long, conflicts_with = "watch")]
    pub finished: bool,
}

#[derive(Debug, ArgsDerive)]
pub struct Top {
    /// What comes first: rx, tx, drops, cpu, memory or id
    #[arg(long, value_name = "COLUMN", default_value = "tx")]
    pub sort: String,

    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub interval: u64,

    /// How many looks, for ever without a number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

#[derive(Debug, ArgsDerive)]
pub struct Setup {
    /// What is prepared
    #[arg(value_enum, default_value = "host")]
    pub target: Target,

    /// Put everything back as it was before
    #[arg(long)]
    pub undo: bool,

    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,

    /// As at boot: reserve the ports first, and leave the rest to the first container if the uplink is not there yet
    #[arg(long, conflicts_with_all = ["undo", "dry_run"])]
    pub at_boot: bool,

    /// Also make what containers need that are limited on the host
    #[arg(long, hide = true)]
    pub shaper: bool,

    /// Leave programs of another version that work
    #[arg(long, hide = true)]
    pub keep_programs: bool,

    /// Of an engine: start one throw-away container, and see whether it has a slice
    #[arg(long, conflicts_with_all = ["undo", "dry_run"])]
    pub verify: bool,

    /// Of an engine: prepare the system below this directory instead of the running one
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,

    /// Of an engine: where portslice's programs are; default: beside this one, else /usr/libexec/portslice
    #[arg(long, value_name = "DIR")]
    pub programs: Option<PathBuf>,
}

/// What `portslice setup` prepares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    Host,
    Docker,
    Containerd,
    Podman,
    Crio,
    Nomad,
    Mesos,
    Kubernetes,
    Cdi,
}

impl Target {
    /// The engine; `None` for the host itself.
    pub fn engine(self) -> Option<Engine> {
        Some(match self {
            Target::Host => return None,
            Target::Docker => Engine::Docker,
            Target::Containerd => Engine::Containerd,
            Target::Podman => Engine::Podman,
            Target::Crio => Engine::Crio,
            Target::Nomad => Engine::Nomad,
            Target::Mesos => Engine::Mesos,
            Target::Kubernetes => Engine::Kubernetes,
            Target::Cdi => Engine::Cdi,
        })
    }
}

#[derive(Debug, ArgsDerive)]
pub struct Attach {
    /// Container id
    pub id: ContainerId,

    /// Path of the network namespace, such as /run/netns/NAME
    #[arg(long, value_name = "PATH", required_unless_present = "pid")]
    pub netns: Option<PathBuf>,

    /// A process in the network namespace
    #[arg(long, conflicts_with = "netns", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Option<u32>,

    /// Print the lease as a JSON object, or with --dry-run an array of what would be done
    #[arg(long)]
    pub json: bool,

    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,

    #[command(flatten)]
    pub keys: Keys,
}

#[derive(Debug, ArgsDerive)]
pub struct Set {
    /// Container: id, name, or as much of either as only it begins with
    pub id: String,

    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,

    /// Also take ports away that have open connections
    #[arg(long)]
    pub force: bool,

    /// Print the lease as a JSON object, or with --dry-run an array of what would be done
    #[arg(long)]
    pub json: bool,

    /// Listening ports: +31100,-31005 to add and remove, or the whole set, or none; +31000:80 is known as 80 inside
    #[arg(long, value_name = "SET", allow_hyphen_values = true)]
    ports: Option<String>,

    /// Ports it may claim with bind(): 1024-32767, all, none, default, or +8080,-9000 to add and remove
    #[arg(long, value_name = "SET", allow_hyphen_values = true)]
    open_ports: Option<String>,

    #[command(flatten)]
    limits: Limits,
}

impl Set {
    /// Those keys that were given, with their values.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [("ports", &self.ports), ("open-ports", &self.open_ports)]
            .into_iter()
            .filter_map(|(key, value)| value.as_deref().map(|value| (key, value)))
            .chain(self.limits.given())
    }
}

/// The keys that may change while a container runs. `portslice set` also takes the word `default`.
#[derive(Debug, ArgsDerive)]
struct Limits {
    /// What it may send: 37500KB (1024-based bytes per second) or 300mbit; 0B is unlimited
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    egress_rate: Option<String>,

    /// What a burst of it may reach
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    egress_ceil: Option<String>,

    /// How much may go in a burst, such as 64KB
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    egress_burst: Option<String>,

    /// What it may receive
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    ingress_rate: Option<String>,

    /// What a burst of it may reach
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    ingress_ceil: Option<String>,

    /// How much may come in a burst
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    ingress_burst: Option<String>,

    /// Do its limits count what stays on this host: true or false
    #[arg(long, value_name = "BOOL")]
    limit_local: Option<String>,

    /// CPUs it gets when others want them, too, such as 1.5; bandwidth limits may scale with them
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    cpus: Option<String>,

    /// The most CPUs it may use: a number, or inf
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    cpus_limit: Option<String>,

    /// May its CPUs be taken away, so that they count little: true or false
    #[arg(long, value_name = "BOOL")]
    cpus_revocable: Option<String>,
}

impl Limits {
    fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("egress-rate", &self.egress_rate),
            ("egress-ceil", &self.egress_ceil),
            ("egress-burst", &self.egress_burst),
            ("ingress-rate", &self.ingress_rate),
            ("ingress-ceil", &self.ingress_ceil),
            ("ingress-burst", &self.ingress_burst),
            ("limit-local", &self.limit_local),
            ("cpus", &self.cpus),
            ("cpus-limit", &self.cpus_limit),
            ("cpus-revocable", &self.cpus_revocable),
        ]
        .into_iter()
        .filter_map(|(key, value)| value.as_deref().map(|value| (key, value)))
    }
}

/// The annotation keys as options.
#[derive(Debug, ArgsDerive)]
pub struct Keys {
    /// Listening ports: 31000-31009,31100 or auto:3, or 31000:80 for one known as 80 inside; + works for the comma
    #[arg(long, value_name = "SET")]
    ports: Option<String>,

    /// Ports it may claim with bind(): 1024-32767, all or none; + works for the comma
    #[arg(long, value_name = "SET")]
    open_ports: Option<String>,

    /// Size of the block of ephemeral ports, a power of two from 16 to 16384
    #[arg(long, value_name = "N")]
    ephemeral_ports: Option<String>,

    /// May it reach the host through 127.0.0.1: true or false
    #[arg(long, value_name = "BOOL")]
    host_loopback: Option<String>,

    #[command(flatten)]
    limits: Limits,

    /// Label of the statistics
    #[arg(long, value_name = "TEXT")]
    executor_id: Option<String>,

    /// Label of the statistics
    #[arg(long, value_name = "TEXT")]
    executor_name: Option<String>,

    /// Label of the statistics
    #[arg(long, value_name = "TEXT")]
    framework_id: Option<String>,

    /// Label of the statistics
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
}

impl Keys {
    /// Those that were given, with their values.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("ports", &self.ports),
            ("open-ports", &self.open_ports),
            ("ephemeral-ports", &self.ephemeral_ports),
            ("host-loopback", &self.host_loopback),
            ("executor-id", &self.executor_id),
            ("executor-name", &self.executor_name),
            ("framework-id", &self.framework_id),
            ("source", &self.source),
        ]
        .into_iter()
        .filter_map(|(key, value)| value.as_deref().map(|value| (key, value)))
        .chain(self.limits.given())
    }
}
