//! Decisions in words.

use std::fmt;

use super::question::Question;
use super::{Explained, Names, Step};
use crate::steer::model::{Decision, Hook, Refusal, Told, Verdict, Why};

/// The word for where a packet goes.
pub(super) fn verdict(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Stack => "stack",
        Verdict::Copies(_) => "copies",
        Verdict::Drop => "drop",
        Verdict::Container { .. } => "container",
        Verdict::Host => "host",
        Verdict::World { .. } => "world",
        Verdict::Answered(_) => "answered",
        Verdict::Group { .. } => "group",
        Verdict::Shaper { .. } => "shaper",
        Verdict::Out => "out",
        Verdict::Lo => "lo",
    }
}

/// What happens to a packet, and why.
pub(super) fn told(names: &Names, hook: Hook, decision: &Decision, question: &Question) -> String {
    let claimed = question.claimable().is_some_and(|port| names.claims.contains(&port));
    let why = why(decision, question, claimed);
    let inside = matches!(hook, Hook::ContainerLo(_) | Hook::ContainerDevice);
    let what = match &decision.verdict {
        Verdict::Stack if inside => "stays in the container".into(),
        Verdict::Stack => "to the host's own stack".into(),
        Verdict::Copies(slots) => format!("a copy to each of {}, and to the host's own stack", names.leases(slots)),
        Verdict::Drop => "dropped".into(),
        Verdict::Container { slot, limited: false } => format!("into {}", names.lease(*slot)),
        Verdict::Container { slot, limited: true } => format!("into {}, behind its ingress limit", names.lease(*slot)),
        Verdict::Host => "to the host, by its lo".into(),
        Verdict::World { device } => format!("out of {}, by the host's routes", names.host(*device)),
        Verdict::Group { device, copies, host } => {
            let copies = if copies.is_empty() { None } else { Some(format!("to each of {}", names.leases(copies))) };
            let copies: Vec<String> =
                copies.into_iter().chain(host.then(|| "to the host's own stack".into())).collect();
            let more = if copies.is_empty() { String::new() } else { format!(", a copy {}", copies.join(", and ")) };
            format!("out of {} to all of a group{more}", names.host(*device))
        }
        Verdict::Answered(told) => format!("dropped, and the sender is told {}", answer(*told)),
        Verdict::Shaper { .. } => "waits for its turn behind the egress limit".into(),
        Verdict::Out => "leaves the container".into(),
        Verdict::Lo => "to the container's lo".into(),
    };
    if why.is_empty() { what } else { format!("{what}: {why}") }
}

/// `claimed`: is the port that it is for one that sockets hold without a lease?
fn why(decision: &Decision, question: &Question, claimed: bool) -> String {
    let port = question.port().map_or_else(|| "an echo request".into(), |port| format!("port {port}"));
    match decision.why {
        Why::Port(port) if claimed => format!("its sockets have claimed port {port}"),
        Why::Port(port) => format!("port {port} is its own"),
        Why::Nobodys if question.port().is_none() => "the host answers echo requests".into(),
        Why::Nobodys => format!("{port} is no container's"),
        Why::Ended => format!("{port} is leased, but its container has no device any more"),
        Why::Elsewhere => "its destination is no address that containers carry".into(),
        Why::Martian => "no packet from the wire may come from that source".into(),
        Why::NoWayBack => {
            "the host's rp_filter refuses a source that no route leads back to, or one by another device".into()
        }
        Why::Inert => "the lease is gone, or its device is".into(),
        Why::Listened => format!("a socket in the container waits at {port}"),
        Why::Inner => format!("{port} is nobody else's, or not to be reached from here"),
        Why::Refused(refusal) => refused(refusal, &port),
        Why::NotIp | Why::Malformed | Why::OtherFrame => "it is no packet for this host".into(),
        Why::FirstFragment => "the first part of its datagram went there".into(),
        Why::Quoted => "it is about a packet from there".into(),
        Why::Asked => "they asked for this echo".into(),
        Why::Many => "they have joined its group, or the port is theirs and it is for everybody".into(),
        Why::HostsCopy => "a container sent it to many".into(),
        Why::NobodyAsked => "no container asked for this echo".into(),
        Why::Own | Why::Loopback => String::new(),
    }
}

fn answer(told: Told) -> String {
    match told {
        Told::NoRoute => "that there is no route".into(),
        Told::Unreachable => "that it is unreachable".into(),
        Told::Prohibited => "that it is prohibited".into(),
        Told::TooBig(mtu) => format!("to send at most {mtu} bytes"),
    }
}

fn refused(refusal: Refusal, port: &str) -> String {
    match refusal {
        Refusal::SourceAddress => "its source is no address of the container's".into(),
        Refusal::SourcePort => "its source port is not the container's".into(),
        Refusal::HostLoopback => format!("{port} is the host's, whose loopback this container may not reach"),
        Refusal::Oversize => "it is larger than the way takes".into(),
        Refusal::Unreachable => "no route leads there, or one that refuses".into(),
        other => format!("it is refused as {}", other.name()),
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, from {}", self.packet, self.from)?;
        if self.steps.is_empty() {
            writeln!(f, "  the host's own stack sends it out; no program looks at it")?;
        }
        self.steps.iter().try_for_each(|step| write!(f, "{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {} on {}: {}", self.program, self.device, self.text)?;
        for counter in &self.counters {
            writeln!(f, "    {}: {} +{}", counter.lease, counter.name, counter.more)?;
        }
        Ok(())
    }
}
