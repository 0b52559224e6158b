//! The qdiscs that filters hang on, and BPF filters. clsact on devices of the host, where others may want its egress
//! side; ingress on those of a container: the kernel keeps all clsact and ingress hooks of the machine in one list, and
//! clsact stands in it twice (net/core/flow_offload.c, flow_indr_dev_setup_offload).

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption};

use super::{Netlink, Request};
use crate::error::Result;

/// include/uapi/linux/pkt_sched.h: TC_H_CLSACT, which is TC_H_INGRESS as well.
const TC_H_CLSACT: TcHandle = TcHandle { major: 0xffff, minor: 0xfff1 };
const CLSACT_INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff2 };
const ETH_P_ALL: u16 = 0x0003;
/// The first filter; a second owner's `tc filter add` without `pref` starts at 49152.
pub const PRIORITY: u16 = 1;
/// How the names of our filters begin.
const OURS: &str = "portslice_";
const HANDLE: TcHandle = TcHandle { major: 0, minor: 1 };

/// The qdisc of a host's device. It never queues and sits beside any root qdisc.
pub fn add_clsact(link: u32, name: &str) -> Request {
    let message = RouteNetlinkMessage::NewQueueDiscipline(qdisc(link, "clsact"));
    Request::create(format!("add clsact to {name}"), message)
}

/// The qdisc of a container's device.
pub fn add_ingress_qdisc(link: u32, name: &str) -> Request {
    let message = RouteNetlinkMessage::NewQueueDiscipline(qdisc(link, "ingress"));
    Request::create(format!("add an ingress qdisc to {name}"), message)
}

/// Removes it and every filter on it.
pub fn delete_ingress_qdisc(link: u32, name: &str) -> Request {
    let message = RouteNetlinkMessage::DelQueueDiscipline(qdisc(link, "ingress"));
    Request::set(format!("delete the ingress qdisc of {name}"), message)
}

/// Removes clsact and every filter on it.
pub fn delete_clsact(link: u32, name: &str) -> Request {
    Request::set(format!("delete clsact from {name}"), RouteNetlinkMessage::DelQueueDiscipline(qdisc(link, "clsact")))
}

/// Runs `program` on every packet that enters through `link`, direct-action. `slot` reaches the program as
/// `skb->tc_classid` (net/sched/cls_bpf.c: set from the filter's class id before each run), 0 for none.
pub fn add_ingress(link: u32, name: &str, program: BorrowedFd<'_>, program_name: &str, slot: u16) -> Request {
    let mut message = filter(link);
    message.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ClassId(TcHandle { major: 0, minor: slot })),
        TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd() as u32)),
        TcOption::Bpf(TcFilterBpfOption::ProgName(format!("{OURS}{program_name}"))),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    Request::replace(format!("add filter {program_name} to {name}"), RouteNetlinkMessage::NewTrafficFilter(message))
}

/// Lets `program` choose among the classes of the root qdisc `major`: `minor` unless it says another.
pub fn add_classifier(link: u32, name: &str, major: u16, program: BorrowedFd<'_>, minor: u16) -> Request {
    let mut message = filter(link);
    message.header.parent = TcHandle { major, minor: 0 };
    message.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ClassId(TcHandle { major, minor })),
        TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd() as u32)),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    Request::replace(format!("add a classifier to {name}"), RouteNetlinkMessage::NewTrafficFilter(message))
}

/// A filter without a program, which no kernel accepts: how it refuses tells whether it has BPF classifiers.
pub fn empty_ingress(link: u32) -> Request {
    let mut message = filter(link);
    message.attributes.push(TcAttribute::Options(vec![TcOption::Bpf(TcFilterBpfOption::ProgName("probe".into()))]));
    Request::create("add an empty filter", RouteNetlinkMessage::NewTrafficFilter(message))
}

/// A filter that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// As tc calls it: `bpf`, `u32`.
    pub kind: String,
    /// Its preference.
    pub priority: u16,
    /// Id of its program, of a BPF filter.
    pub program: Option<u32>,
    /// What its owner calls it.
    pub name: Option<String>,
    /// Its class id: of ours the slot.
    pub class: u32,
}

impl Attached {
    /// Does it bear the name of one of our programs?
    pub fn is_ours(&self) -> bool {
        self.name.as_deref().is_some_and(|name| name.starts_with(OURS))
    }

    /// Is it ours, with this program?
    pub fn runs(&self, program: &str) -> bool {
        self.name.as_deref().and_then(|name| name.strip_prefix(OURS)) == Some(program)
    }
}

/// What filters what enters through `link`.
pub fn ingress(netlink: &mut Netlink, link: u32) -> Result<Vec<Attached>> {
    let mut message = TcMessage::default();
    message.header.index = link as i32;
    message.header.parent = CLSACT_INGRESS;
    let answers = netlink.dump("list filters", RouteNetlinkMessage::GetTrafficFilter(message))?;
    let decoded = answers.into_iter().filter_map(attached);
    // A chain's head is answered as a filter without a handle.
    Ok(decoded.filter(|(handle, _)| *handle != 0).map(|(_, filter)| filter).collect())
}

fn attached(message: RouteNetlinkMessage) -> Option<(u32, Attached)> {
    let RouteNetlinkMessage::NewTrafficFilter(message) = message else { return None };
    let number = |handle: TcHandle| u32::from(handle.major) << 16 | u32::from(handle.minor);
    let mut filter = Attached {
        kind: String::new(),
        priority: (message.header.info >> 16) as u16,
        program: None,
        name: None,
        class: 0,
    };
    for attribute in message.attributes {
        match attribute {
            TcAttribute::Kind(kind) => filter.kind = kind,
            TcAttribute::Options(options) => {
                for option in options {
                    match option {
                        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program = Some(id),
                        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => filter.name = Some(name),
                        TcOption::Bpf(TcFilterBpfOption::ClassId(class)) => filter.class = number(class),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some((number(message.header.handle), filter))
}

/// Removes the filter [`add_ingress`] made.
pub fn delete_ingress(link: u32, name: &str) -> Request {
    Request::set(format!("delete filter from {name}"), RouteNetlinkMessage::DelTrafficFilter(filter(link)))
}

fn qdisc(link: u32, kind: &str) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = link as i32;
    message.header.handle = TcHandle { major: 0xffff, minor: 0 };
    message.header.parent = TC_H_CLSACT;
    message.attributes.push(TcAttribute::Kind(kind.into()));
    message
}

fn filter(link: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = link as i32;
    message.header.handle = HANDLE;
    message.header.parent = CLSACT_INGRESS;
    message.header.info = u32::from(PRIORITY) << 16 | u32::from(ETH_P_ALL.to_be());
    message.attributes.push(TcAttribute::Kind("bpf".into()));
    message
}
