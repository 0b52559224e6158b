//! Steps: the things that a prepared host, a slice and a member are made of, each with all that is needed to look at,
//! perform, undo and print it.
//!
//! What does not live here: which steps a thing has ([`super::host`], [`super::slice`], [`super::change`]), carrying them
//! out (`wire`), and the loop over them (`slice::run`).

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use super::limits::Place;
use crate::cpu;
use crate::host::sysctl::Setting;
use crate::lease::CpuTerms;
use crate::net::link::{Mac, Sources};
use crate::net::qdisc::Throttle;
use crate::net::route::InnerRoute;
use crate::ports::{PortNames, PortSet};
use crate::request::ContainerId;

/// One thing to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The ports that may be leased are reserved on the host, so that its own connections never take them.
    Reserve {
        /// All of them.
        ports: PortSet,
    },
    /// A file of the host's configuration.
    Keep {
        /// Where.
        path: PathBuf,
        /// Its whole text.
        text: String,
    },
    /// A BPF file system.
    Mount {
        /// Where.
        directory: PathBuf,
    },
    /// The programs and their maps, loaded and pinned.
    Load {
        /// The version of the programs.
        version: String,
    },
    /// A setting of the host under /proc/sys/net.
    Setting {
        /// `ipv4/conf/lo/accept_local`
        key: &'static str,
        /// What it is to be.
        value: &'static str,
    },
    /// A program on what enters through a device of the host.
    Hook {
        /// Its name.
        program: &'static str,
        /// Index of the device.
        index: u32,
        /// Name of the device.
        device: String,
    },
    /// The program on what enters through a device of the host beside the uplink.
    Side {
        /// Index of the device.
        index: u32,
        /// Name of the device.
        device: String,
        /// Have its frames an Ethernet header?
        ethernet: bool,
        /// Which sources the host takes packets from there.
        sources: Sources,
    },
    /// The uplink takes in what is sent to any group: which ones containers join, its filter is not told.
    Allmulti {
        /// Its index.
        index: u32,
        /// Its name.
        device: String,
    },
    /// The device that the data path asks the host's routes from.
    Fib,
    /// A root qdisc of the uplink with a flow for each container.
    Fair {
        /// Index of the uplink.
        index: u32,
        /// Its name.
        device: String,
    },
    /// The pair of devices on the host through which limited containers send.
    Shaper,
    /// The programs that judge bind(), loaded and attached to a cgroup.
    Sockets {
        /// The version of the programs.
        version: String,
        /// The cgroup; `None` for the root of the hierarchy.
        cgroup: Option<PathBuf>,
    },
    /// The pair of devices of a slice.
    Pair {
        /// Whose it is.
        slot: u16,
        /// Shown beside the host's end.
        alias: String,
        /// Address of the host's end.
        mac: Mac,
        /// Name of the container's end.
        inner: String,
        /// Address of the container's end.
        inner_mac: Mac,
    },
    /// A direction held to its limit.
    Queue {
        /// Whose it is.
        slot: u16,
        /// Where it stands.
        place: Place,
        /// Is it the second of the two classes?
        second: bool,
        /// The limit, and what may wait behind it.
        throttle: Throttle,
    },
    /// The checks on what leaves the container; then the host's end is up.
    Guard {
        /// Handed to the program.
        slot: u16,
    },
    /// What the container's namespace is given: filters, addresses, routes, settings.
    Furnish(Box<Furniture>),
    /// How large a packet TCP may hand to the container's device.
    Segment {
        /// Whose device it is.
        slot: u16,
        /// Name of the device.
        device: String,
        /// In bytes.
        bytes: u32,
    },
    /// The data path knows the container.
    Slot {
        /// Index in its maps.
        slot: u16,
        /// `SlotEntry` flags.
        flags: u32,
        /// Of the lease.
        epoch: u32,
    },
    /// The programs at the sockets know the container's namespace.
    Binds {
        /// Whose it is.
        slot: u16,
    },
    /// Open ports: what the slice may claim.
    Offer {
        /// Whose it is.
        slot: u16,
        /// Ports, of TCP and of UDP.
        ports: PortSet,
        /// How many at one time, a port once a protocol.
        limit: u16,
    },
    /// Port names: what programs in the container know its ports as.
    Names {
        /// Whose they are.
        slot: u16,
        /// All names of the slice.
        names: PortNames,
    },
    /// The CPU limits of a member.
    Cpu(Box<CpuStep>),
    /// Ports that lead to the container. They come last and go first.
    Steer {
        /// Whose they are.
        slot: u16,
        /// Its block and the ports of its members.
        ports: PortSet,
    },
}

/// The program on what comes in by a device whose frames have an Ethernet header, or none.
pub fn entry(ethernet: bool) -> &'static str {
    if ethernet { "from_wire" } else { "from_tunnel" }
}

/// What [`Step::Furnish`] gives to a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Furniture {
    /// Handed to the programs.
    pub slot: u16,
    /// Name of the container's device.
    pub device: String,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Addresses it carries.
    pub addresses: Vec<IpAddr>,
    /// What programs see in `ip route`.
    pub routes: Vec<InnerRoute>,
    /// Settings under /proc/sys/net.
    pub settings: Vec<Setting>,
    /// Does the bundle say itself whether IPv6 is on? Then it is not turned on against it.
    pub own_ipv6: bool,
    /// Does the bundle say itself how sources are looked at (`rp_filter`)?
    pub own_rp_filter: bool,
    /// What it was given last, of a slice that follows the host: only what differs from that is changed. What its root
    /// altered stays.
    pub last: Option<Box<Furniture>>,
}

/// What [`Step::Cpu`] sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuStep {
    /// The member.
    pub member: ContainerId,
    /// Its cgroups.
    pub cgroups: Option<cpu::Place>,
    /// What is written there, and what stood there before.
    pub terms: CpuTerms,
}

/// What is done about a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Make what is not there.
    Perform,
    /// Make what is there into what the step says.
    Mend,
    /// Prepare to do without: a queue lets everything through, so that it goes empty.
    Relax,
    /// Take away what is there.
    Undo,
}

/// One turn of the loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// What is done.
    pub verb: Verb,
    /// About what.
    pub step: Step,
}

impl Action {
    /// `verb` for each of `steps`, in order.
    pub fn each(verb: Verb, steps: Vec<Step>) -> Vec<Action> {
        steps.into_iter().map(|step| Action { verb, step }).collect()
    }

    /// The verb, and its past tense.
    fn words(&self) -> (&'static str, &'static str) {
        match (self.verb, &self.step) {
            (Verb::Relax, _) => ("open", "opened"),
            (Verb::Undo, Step::Reserve { .. }) => ("release", "released"),
            (Verb::Undo, Step::Setting { .. } | Step::Cpu(_)) => ("restore", "restored"),
            (Verb::Undo, Step::Steer { .. } | Step::Offer { .. } | Step::Names { .. }) => ("withdraw", "withdrew"),
            (Verb::Undo, Step::Allmulti { .. }) => ("clear", "cleared"),
            (Verb::Undo, _) => ("remove", "removed"),
            (_, Step::Reserve { .. }) => ("reserve", "reserved"),
            (_, Step::Setting { .. } | Step::Allmulti { .. }) => ("set", "set"),
            (_, Step::Steer { .. }) => ("steer", "steered"),
            (_, Step::Offer { .. }) => ("offer", "offered"),
            (_, Step::Names { .. }) => ("give", "gave"),
            (Verb::Mend, _) => ("mend", "mended"),
            (Verb::Perform, Step::Keep { .. }) => ("write", "wrote"),
            (Verb::Perform, Step::Mount { .. }) => ("mount", "mounted"),
            (Verb::Perform, Step::Load { .. }) => ("load", "loaded"),
            (Verb::Perform, Step::Hook { .. } | Step::Side { .. } | Step::Guard { .. } | Step::Sockets { .. }) => {
                ("attach", "attached")
            }
            (Verb::Perform, Step::Cpu(_)) => ("set", "set"),
            (Verb::Perform, _) => ("make", "made"),
        }
    }

    fn say(&self, verb: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.step {
            Step::Reserve { ports } => write!(f, "{verb} ports {ports} (net.ipv4.ip_local_reserved_ports)"),
            Step::Setting { key, .. } if self.verb == Verb::Undo => write!(f, "{verb} net.{}", key.replace('/', ".")),
            Step::Setting { key, value } => write!(f, "{verb} net.{} = {value}", key.replace('/', ".")),
            step => write!(f, "{verb} {step}"),
        }
    }

    /// The way back from `steps`: the last one first.
    pub fn undo(steps: Vec<Step>) -> Vec<Action> {
        Action::each(Verb::Undo, steps.into_iter().rev().collect())
    }
}

impl Step {
    /// Do the two concern the same thing, whatever it is to be like?
    pub fn same_place(&self, other: &Step) -> bool {
        use Step::*;
        match (self, other) {
            (Setting { key: a, .. }, Setting { key: b, .. }) => a == b,
            (Keep { path: a, .. }, Keep { path: b, .. }) => a == b,
            (Hook { program: a, .. }, Hook { program: b, .. }) => a == b,
            (Side { index: a, .. }, Side { index: b, .. }) => a == b,
            (Queue { place: a, second: x, .. }, Queue { place: b, second: y, .. }) => (a, x) == (b, y),
            (Cpu(a), Cpu(b)) => a.member == b.member,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }
}

/// What is to be done: `reserve ports 32768-57343 (...)`.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.say(self.words().0, f)
    }
}

/// An [`Action`] that was carried out, as text: `reserved ports 32768-57343 (...)`.
pub struct Done<'a>(pub &'a Action);

impl fmt::Display for Done<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.say(self.0.words().1, f)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Reserve { ports } => write!(f, "reserved ports {ports} (net.ipv4.ip_local_reserved_ports)"),
            Step::Keep { path, .. } => write!(f, "file {}", path.display()),
            Step::Mount { directory } => write!(f, "BPF file system on {}", directory.display()),
            Step::Load { version } => write!(f, "programs of version {version}"),
            Step::Setting { key, value } => write!(f, "setting net.{} = {value}", key.replace('/', ".")),
            Step::Hook { program, device, .. } => write!(f, "program {program} on {device}"),
            Step::Side { device, ethernet, .. } => write!(f, "program {} on {device}", entry(*ethernet)),
            Step::Allmulti { device, .. } => write!(f, "flag ALLMULTI of {device}"),
            Step::Fib => f.write_str("device portslice-fib"),
            Step::Fair { device, .. } => write!(f, "root qdisc of {device} with a flow for each container"),
            Step::Sockets { cgroup: None, .. } => f.write_str("programs that judge bind() on the root cgroup"),
            Step::Sockets { cgroup: Some(path), .. } => {
                write!(f, "programs that judge bind() on the cgroup {}", path.display())
            }
            Step::Binds { slot } => write!(f, "rules for bind() in slot {slot}"),
            Step::Shaper => f.write_str("devices portslice-limit and portslice-after"),
            Step::Pair { slot, inner, .. } => write!(f, "device pair portslice{slot} - {inner}"),
            Step::Queue { slot, place, second, throttle } => {
                let which = if *second { " (second class)" } else { "" };
                write!(f, "{place} queue of slot {slot}{which}: {}", throttle.shape.rate)
            }
            Step::Guard { slot } => write!(f, "program from_container on portslice{slot}"),
            Step::Furnish(it) => {
                let addresses: Vec<String> = it.addresses.iter().map(ToString::to_string).collect();
                let (routes, settings) = (it.routes.len(), it.settings.len());
                let addresses = addresses.join(", ");
                write!(f, "namespace of slot {}: {addresses}; {routes} routes, {settings} settings", it.slot)
            }
            Step::Segment { slot, bytes, .. } => write!(f, "packets of at most {bytes} bytes from slot {slot}"),
            Step::Slot { slot, epoch, .. } => write!(f, "slot {slot}, epoch {epoch}"),
            Step::Cpu(it) => write!(f, "CPU terms of {}", it.member),
            Step::Steer { slot, ports } => write!(f, "ports {ports} of slot {slot}"),
            Step::Names { slot, names } => write!(f, "port names {names} of slot {slot}"),
            Step::Offer { slot, ports, limit } => write!(f, "open ports {ports} of slot {slot}, {limit} at one time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_told_before_and_after() {
        let reserve = Step::Reserve { ports: "80,443".parse().unwrap() };
        let setting = Step::Setting { key: "ipv4/conf/lo/accept_local", value: "1" };
        let load = Step::Load { version: "7".into() };
        for (verb, step, before, after) in [
            (Verb::Perform, &reserve, "reserve ports 80,443 (", "reserved ports 80,443 ("),
            (Verb::Undo, &reserve, "release ports 80,443 (", "released ports 80,443 ("),
            (Verb::Perform, &setting, "set net.ipv4.conf.lo.accept_local = 1", "set net.ipv4.conf.lo.accept_local = 1"),
            (Verb::Undo, &setting, "restore net.ipv4.conf.lo.accept_local", "restored net.ipv4.conf.lo.accept_local"),
            (Verb::Perform, &load, "load programs of version 7", "loaded programs of version 7"),
            (Verb::Mend, &load, "mend programs of version 7", "mended programs of version 7"),
            (Verb::Undo, &load, "remove programs of version 7", "removed programs of version 7"),
            (Verb::Undo, &Step::Shaper, "remove devices portslice-limit", "removed devices portslice-limit"),
        ] {
            let action = Action { verb, step: step.clone() };
            assert!(action.to_string().starts_with(before), "{action}");
            assert!(Done(&action).to_string().starts_with(after), "{}", Done(&action));
        }
    }
}
