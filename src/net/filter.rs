//! The qdiscs that filters hang on, and BPF filters. clsact on devices of the host, where others may want its egress
//! side; ingress on those of a container: the kernel keeps all clsact and ingress hooks of the machine in one list, and
//! clsact stands in it twice (net/core/flow_offload.c, flow_indr_dev_setup_offload).

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::NlasIterator;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption};

use super::{Netlink, Request};
use crate::error::Result;

/// include/uapi/linux/pkt_sched.h: TC_H_CLSACT, which is TC_H_INGRESS as well.
const TC_H_CLSACT: TcHandle = TcHandle { major: 0xffff, minor: 0xfff1 };
const CLSACT_INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff2 };
const CLSACT_EGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff3 };
const ETH_P_ALL: u16 = 0x0003;
/// The first filter; a second owner's `tc filter add` without `pref` starts at 49152.
pub const PRIORITY: u16 = 1;
/// How the names of our filters begin.
const OURS: &str = "portslice_";
/// Tells our filter from others of its priority.
pub const HANDLE_OF_OURS: u32 = 1;
const HANDLE: TcHandle = TcHandle { major: 0, minor: HANDLE_OF_OURS as u16 };

/// struct tcmsg, before the attributes.
const TCMSG: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
// include/uapi/linux/pkt_cls.h
const TCA_BPF_CLASSID: u16 = 3;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_TAG: u16 = 10;
const TCA_BPF_ID: u16 = 11;

/// A filter on the ingress side of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// As tc calls it: `bpf`, `flower`, `u32`.
    pub kind: String,
    /// The lowest runs first (`pref`).
    pub priority: u16,
    /// Tells it from others of its priority.
    pub handle: u32,
    /// Id of the program of a BPF filter, in `steer::Programs::id`'s numbers.
    pub program: Option<u32>,
    /// Hash of that program's instructions: what tells one version from another where ids say nothing.
    pub tag: Option<[u8; 8]>,
    /// Name that the maker of a BPF filter gave it.
    pub name: Option<String>,
    /// Class id of a BPF filter, 0 for none; of ours, the slot, or what a device beside the uplink says of sources.
    pub classid: u32,
}

/// The filters on the ingress side of a link, in the order in which they run; none when it has no such side.
pub fn ingress(netlink: &mut Netlink, link: u32) -> Result<Vec<Attached>> {
    listed(netlink, link, CLSACT_INGRESS)
}

/// The filters on the egress side of a link's clsact; none when it has none. We have none there.
pub fn egress(netlink: &mut Netlink, link: u32) -> Result<Vec<Attached>> {
    listed(netlink, link, CLSACT_EGRESS)
}

/// The filters of the root qdisc `major` of a link, in the order in which they run: what [`add_classifier`] made, and others'.
pub fn classifiers(netlink: &mut Netlink, link: u32, major: u16) -> Result<Vec<Attached>> {
    listed(netlink, link, TcHandle { major, minor: 0 })
}

fn listed(netlink: &mut Netlink, link: u32, parent: TcHandle) -> Result<Vec<Attached>> {
    let mut message = TcMessage::default();
    message.header.index = link as i32;
    message.header.parent = parent;
    let mut found = Vec::new();
    let doing = format!("list the filters of link {link}");
    netlink.dump_unparsed(&doing, RouteNetlinkMessage::GetTrafficFilter(message), |body| found.extend(decode(body)))?;
    Ok(found)
}

/// Our filter on the ingress side of a link, or somebody else's in its place. Costs half of what [`ingress`] does.
pub fn first_ingress(netlink: &mut Netlink, link: u32) -> Result<Option<Attached>> {
    let message = RouteNetlinkMessage::GetTrafficFilter(filter(link));
    Ok(netlink.get_raw(&format!("look up the filter of link {link}"), message)?.as_deref().and_then(decode))
}

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

/// Runs `program` on every packet that enters through `link`, direct-action. `class` reaches the program as
/// `skb->tc_classid` (net/sched/cls_bpf.c: set from the filter's class id before each run), 0 for none.
pub fn add_ingress(link: u32, name: &str, program: BorrowedFd<'_>, program_name: &str, class: u16) -> Request {
    let mut message = filter(link);
    message.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ClassId(TcHandle { major: 0, minor: class })),
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

impl Attached {
    /// Does it bear the name of one of our programs?
    pub fn is_ours(&self) -> bool {
        self.name.as_deref().is_some_and(|name| name.starts_with(OURS))
    }

    /// Does it run the very program with this id? A filter of ours that an earlier version left does not.
    pub fn runs_program(&self, id: u32) -> bool {
        self.program == Some(id)
    }

    /// Is it ours, with a program of this name?
    pub fn runs(&self, program: &str) -> bool {
        self.name.as_deref().and_then(|name| name.strip_prefix(OURS)) == Some(program)
    }
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

/// struct tcmsg { family, pad, ifindex, handle, parent, info }, then attributes. A priority is listed once by itself
/// before its filters: without options.
fn decode(body: &[u8]) -> Option<Attached> {
    let attributes = body.get(TCMSG..)?;
    let options = attribute(attributes, TCA_OPTIONS)?;
    let mut found = Attached {
        kind: text(&attribute(attributes, TCA_KIND)?),
        priority: (word(&body[16..])? >> 16) as u16,
        handle: word(&body[8..])?,
        ..Attached::default()
    };
    if found.kind == "bpf" {
        found.program = attribute(&options, TCA_BPF_ID).and_then(|id| word(&id));
        found.tag = attribute(&options, TCA_BPF_TAG).and_then(|tag| tag.get(..8)?.try_into().ok());
        found.name = attribute(&options, TCA_BPF_NAME).map(|name| text(&name));
        found.classid = attribute(&options, TCA_BPF_CLASSID).and_then(|id| word(&id)).unwrap_or(0);
    }
    Some(found)
}

fn attribute(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    NlasIterator::new(attributes).flatten().find(|nla| nla.kind() == kind).map(|nla| nla.value().to_vec())
}

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.get(..4).map(|w| u32::from_ne_bytes([w[0], w[1], w[2], w[3]]))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn header(handle: u32, info: u32) -> Vec<u8> {
        [0, 3, handle, 0xffff_fff2, info].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
    }

    #[test]
    fn a_bpf_filter_is_read_whole() {
        let options = [
            nla(TCA_BPF_CLASSID, &7u32.to_ne_bytes()),
            nla(TCA_BPF_NAME, b"portslice_from_container\0"),
            nla(TCA_BPF_TAG, &[1, 2, 3, 4, 5, 6, 7, 8]),
            nla(TCA_BPF_ID, &99u32.to_ne_bytes()),
        ];
        let body = [header(1, 1 << 16 | 3), nla(TCA_KIND, b"bpf\0"), nla(TCA_OPTIONS, &options.concat())];
        let expected = Attached {
            kind: "bpf".into(),
            priority: 1,
            handle: 1,
            program: Some(99),
            tag: Some([1, 2, 3, 4, 5, 6, 7, 8]),
            name: Some("portslice_from_container".into()),
            classid: 7,
        };
        assert!(expected.runs_program(99) && !expected.runs_program(98) && expected.runs("from_container"));
        assert_eq!(decode(&body.concat()), Some(expected));
    }

    #[test]
    fn a_priority_without_options_is_no_filter() {
        assert_eq!(decode(&[header(0, 1 << 16 | 3), nla(TCA_KIND, b"bpf\0")].concat()), None);
        assert_eq!(decode(&[0; 5]), None);
    }
}
