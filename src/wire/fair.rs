//! Fairness on the uplink: a root qdisc that gives each container a flow of its own and the host another, so that one
//! of them cannot fill the queue in front of the rest. Mesos' `egress_unique_flow_per_container`.
//!
//! Only where it is asked for, and only in place of what the kernel put there by itself: a root qdisc that somebody
//! chose, or the one of a device with several queues, is left alone.

use std::os::fd::AsFd;

use crate::error::{Error, Result};
use crate::host::features::Probed;
use crate::net::link::Link;
use crate::net::qdisc::Leaf;
use crate::net::{Netlink, filter, link, qdisc};
use crate::steer::Programs;
use crate::steer::layout::MAX_SLOTS;

/// What tells the host's own packets from those of containers.
const PROGRAM: &str = "host_flow";
/// What the host itself sends.
const HOST_FLOW: u16 = MAX_SLOTS;

/// Refuses an uplink whose root qdisc is not ours to replace, and a kernel without the one to replace it by.
pub fn check(netlink: &mut Netlink, probed: &Probed, uplink: &Link) -> Result<()> {
    let root = qdisc::root(netlink, uplink.index, &uplink.name)?;
    let what = match root {
        _ if probed.leaf() != Some(Leaf::FqCodel) => "this kernel lacks the fq_codel qdisc".to_owned(),
        Some(root) if root.major != 0 && root.major != qdisc::FAIR => {
            format!("uplink {} has a root qdisc {} that somebody chose, which is not replaced", uplink.name, root.kind)
        }
        Some(root) if root.kind == "mq" => {
            format!("uplink {} has several queues (root qdisc mq), which a single one does not replace", uplink.name)
        }
        _ => return Ok(()),
    };
    Err(Error::unsupported(
        format!("egress_unique_flow_per_container is configured, and {what}"),
        "take it out of the configuration; bandwidth limits do without",
    ))
}

/// Is it there, with the program as it is pinned now?
pub fn is_made(netlink: &mut Netlink, programs: &Programs, uplink: &Link) -> Result<bool> {
    if qdisc::root(netlink, uplink.index, &uplink.name)?.is_none_or(|root| root.major != qdisc::FAIR) {
        return Ok(false);
    }
    let Ok(id) = programs.id(PROGRAM) else { return Ok(false) };
    Ok(filter::classifiers(netlink, uplink.index, qdisc::FAIR)?.iter().any(|filter| filter.runs_program(id)))
}

/// Makes it the root qdisc of the uplink; the one that is there gets the program as it is pinned now.
pub fn make(netlink: &mut Netlink, programs: &Programs, uplink: &Link) -> Result<()> {
    // the kernel takes the number of flows only once
    let there = qdisc::root(netlink, uplink.index, &uplink.name)?.is_some_and(|root| root.major == qdisc::FAIR);
    if !there {
        netlink.send(qdisc::add_fair(uplink.index, &uplink.name))?;
    }
    // a container's packets name their flow; what names none is the host's
    let program = programs.open(PROGRAM)?;
    let classifier = filter::add_classifier(uplink.index, &uplink.name, qdisc::FAIR, program.as_fd(), HOST_FLOW);
    netlink.send(classifier).inspect_err(|_| {
        if let Err(e) = remove(netlink, uplink.index) {
            log::error!("{e}, while undoing a root qdisc without a classifier");
        }
    })
}

/// Removes it from the device `index`, if it is still there.
pub fn remove(netlink: &mut Netlink, index: u32) -> Result<()> {
    let Some(device) = link::at(netlink, index)? else { return Ok(()) };
    match qdisc::root(netlink, index, &device.name)? {
        Some(root) if root.major == qdisc::FAIR => netlink.send(qdisc::delete_fair(index, &device.name)),
        _ => Ok(()),
    }
}
