//! What this kernel can do, found out by doing it in a network namespace made for the purpose and dropped again.

use nix::sched::{CloneFlags, unshare};

use super::facts::kernel_version;
use super::sysctl::{Proc, Setting};
use crate::error::{Error, Result};
use crate::net::link::{self, Pair};
use crate::net::qdisc::{self, Leaf, Throttle};
use crate::net::{Netlink, Netns, filter};
use crate::rate::{Limit, Rate, Shape};

/// Oldest kernel with every BPF helper that the data path calls (redirect_peer and redirect_neigh with a next hop).
pub const OLDEST_KERNEL: (u32, u32) = (5, 10);

const HTB: &str = "the HTB qdisc";
/// What packets wait in best; without the piece of this name they wait in one plain queue.
pub const FQ_CODEL: &str = "the fq_codel qdisc";

/// The outcome of trying one kernel piece.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The piece, as a user would call it.
    pub name: &'static str,
    /// How to get it.
    pub remedy: &'static str,
    /// Without it nothing works; otherwise only what asks for it.
    pub required: bool,
    /// Why it is missing, `None` when it is there.
    pub missing: Option<String>,
}

/// What was found out.
#[derive(Clone, Debug)]
pub struct Probed {
    /// Every piece, in the order in which an attach needs them.
    pub pieces: Vec<Probe>,
    /// What a fresh namespace has for the settings of [`super::sysctl::COPIED`].
    pub fresh: Vec<Setting>,
}

/// Tries every kernel piece. Takes some milliseconds; leaves nothing behind.
pub fn probe() -> Result<Probed> {
    let version = kernel_version();
    let mut pieces = vec![Probe {
        name: "Linux 5.10 or later",
        remedy: "run a newer kernel",
        required: true,
        missing: (version < OLDEST_KERNEL).then(|| format!("this is {}.{}", version.0, version.1)),
    }];
    // a thread of its own: unshare would move this one out of the host's namespace for good
    let (tried, fresh) = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).map_err(|e| {
                    Error::Failed(format!("cannot make a network namespace to probe the kernel in: {e}"))
                })?;
                Ok((try_devices()?, Proc::private().here().copied()?))
            })
            .join()
            .unwrap_or_else(|_| Err(Error::Failed("probing the kernel failed".into())))
    })?;
    pieces.extend(tried);
    Ok(Probed { pieces, fresh })
}

impl Probed {
    /// What packets can wait in behind a limit; `None` where there are no limits.
    pub fn leaf(&self) -> Option<Leaf> {
        let there = |name| self.pieces.iter().any(|p| p.name == name && p.missing.is_none());
        there(HTB).then(|| if there(FQ_CODEL) { Leaf::FqCodel } else { Leaf::Bfifo })
    }
}

/// The first required piece that is missing, as a refusal.
pub fn require(probes: &[Probe]) -> Result<()> {
    match probes.iter().find(|p| p.required && p.missing.is_some()) {
        Some(p) => Err(Error::unsupported(
            format!("this kernel lacks {} ({})", p.name, p.missing.as_deref().unwrap_or_default()),
            p.remedy,
        )),
        None => Ok(()),
    }
}

fn try_devices() -> Result<Vec<Probe>> {
    let mut netlink = Netlink::route()?;
    let here = Netns::current()?;
    let pair = Pair {
        name: "probe0",
        alias: "probe",
        inner_name: "probe1",
        mac: [2, 0, 0, 0, 0, 1],
        inner_mac: [2, 0, 0, 0, 0, 2],
        mtu: 65535,
    };
    let mut probes = Vec::new();
    let mut report = |name, remedy, required, outcome: Result<()>| {
        let missing = outcome.err().map(|e| match e {
            Error::Netlink { errno, text, .. } if text.is_empty() => errno.to_string(),
            Error::Netlink { text, .. } => text,
            other => other.to_string(),
        });
        probes.push(Probe { name, remedy, required, missing });
    };
    let index = match netlink.send(pair.create(&here)) {
        Ok(()) => {
            report("veth devices", "modprobe veth, or build with CONFIG_VETH", true, Ok(()));
            link::find(&mut netlink, pair.name)?.map_or(0, |l| l.index)
        }
        Err(e) => {
            report("veth devices", "modprobe veth, or build with CONFIG_VETH", true, Err(e));
            1
        }
    };
    report(
        "the clsact qdisc",
        "modprobe sch_ingress, or build with CONFIG_NET_SCH_INGRESS",
        true,
        netlink.send(filter::add_clsact(index, pair.name)),
    );
    report(
        "BPF classifiers",
        "modprobe cls_bpf, or build with CONFIG_NET_CLS_BPF",
        true,
        try_classifier(&mut netlink, index),
    );
    report(
        HTB,
        "modprobe sch_htb, or build with CONFIG_NET_SCH_HTB; rate limits need it",
        false,
        netlink.send(qdisc::add_htb(index, pair.name, qdisc::ONLY)),
    );
    report(
        FQ_CODEL,
        "modprobe sch_fq_codel, or build with CONFIG_NET_SCH_FQ_CODEL; without it packets wait in one plain queue",
        false,
        try_leaf(&mut netlink, index, pair.name, Leaf::FqCodel),
    );
    Ok(probes)
}

/// Needs the device's HTB.
fn try_leaf(netlink: &mut Netlink, index: u32, name: &str, leaf: Leaf) -> Result<()> {
    let rate = Rate::from_bits_per_second(1_000_000);
    let shape = Shape { rate, ceil: rate, burst: Limit::SMALLEST_BURST };
    let throttle = Throttle { shape, leaf, room: 1 << 16 };
    netlink.batch(&[qdisc::class(index, name, qdisc::ONLY, &shape), qdisc::leaf(index, name, qdisc::ONLY, &throttle)])
}

/// A filter without a program is refused with EINVAL by cls_bpf itself; a kernel without cls_bpf says ENOENT first.
fn try_classifier(netlink: &mut Netlink, index: u32) -> Result<()> {
    match netlink.send(filter::empty_ingress(index)) {
        Err(Error::Netlink { errno, .. }) if errno.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        Ok(()) => Err(Error::Failed("an empty filter was accepted".into())),
        Err(e) => Err(e),
    }
}
