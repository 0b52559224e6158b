//! What this kernel can do, found out by doing it in a network namespace made for the purpose and dropped again.

use netlink_packet_core::DefaultNla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use nix::sched::{CloneFlags, unshare};

use super::facts::kernel_version;
use super::sysctl::{Proc, Setting};
use crate::error::{Error, Result};
use crate::net::link::{self, Pair};
use crate::net::{Netlink, Netns, Request, filter};

/// Oldest kernel with every BPF helper that the data path calls (redirect_peer and redirect_neigh with a next hop).
pub const OLDEST_KERNEL: (u32, u32) = (5, 10);

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
    let pair = Pair { name: "probe0", alias: "probe", inner_name: "probe1", mac: [2, 0, 0, 0, 0, 1], mtu: 65535 };
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
        "the HTB qdisc",
        "modprobe sch_htb, or build with CONFIG_NET_SCH_HTB; rate limits need it",
        false,
        netlink.send(htb(index)),
    );
    Ok(probes)
}

/// A filter without a program is refused with EINVAL by cls_bpf itself; a kernel without cls_bpf says ENOENT first.
fn try_classifier(netlink: &mut Netlink, index: u32) -> Result<()> {
    match netlink.send(filter::empty_ingress(index)) {
        Err(Error::Netlink { errno, .. }) if errno.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        Ok(()) => Err(Error::Failed("an empty filter was accepted".into())),
        Err(e) => Err(e),
    }
}

/// `tc qdisc add root htb`: struct tc_htb_glob { version 3, rate2quantum 10, defcls, debug, direct_pkts }.
fn htb(index: u32) -> Request {
    const TCA_HTB_INIT: u16 = 2;
    let init: Vec<u8> = [3u32, 10, 0, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
    let mut message = TcMessage::default();
    message.header.index = index as i32;
    message.header.handle = TcHandle { major: 1, minor: 0 };
    message.header.parent = TcHandle { major: 0xffff, minor: 0xffff };
    message.attributes = vec![
        TcAttribute::Kind("htb".into()),
        TcAttribute::Options(vec![TcOption::Other(DefaultNla::new(TCA_HTB_INIT, init))]),
    ];
    Request::create("add htb", RouteNetlinkMessage::NewQueueDiscipline(message))
}
