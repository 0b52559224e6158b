//! The protocol counters of a namespace (`/proc/net/snmp`) as metrics: a family for each, named after the kernel's name.

use std::sync::LazyLock;

use super::families::{Kind, Number};
use crate::stats::net::Net;
use crate::stats::snmp::GROUPS;

/// What the kernel tells beside its counters (RFC 1213 and its successors).
const GAUGES: [&str; 7] = ["Forwarding", "DefaultTTL", "RtoAlgorithm", "RtoMin", "RtoMax", "MaxConn", "CurrEstab"];

/// One member of a group.
pub(super) struct Protocol {
    /// Without the `_total` that the format appends to counters.
    pub(super) name: String,
    pub(super) help: String,
    pub(super) kind: Kind,
    group: &'static str,
    member: &'static str,
    /// Told in milliseconds.
    is_time: bool,
}

/// All of them, in the kernel's order.
pub(super) static PROTOCOLS: LazyLock<Vec<Protocol>> = LazyLock::new(|| {
    let all =
        GROUPS.iter().flat_map(|(group, prefix, members)| members.iter().map(move |m| protocol(group, prefix, m)));
    all.collect()
});

fn protocol(group: &'static str, prefix: &str, member: &'static str) -> Protocol {
    let is_time = matches!(member, "RtoMin" | "RtoMax");
    let unit = if is_time { "_seconds" } else { "" };
    Protocol {
        name: format!("portslice_{}_{}{unit}", prefix.to_ascii_lowercase(), snake(member)),
        help: format!("{prefix} {member} of its network namespace, as in /proc/net/snmp."),
        kind: if GAUGES.contains(&member) { Kind::Gauge } else { Kind::Counter },
        group,
        member,
        is_time,
    }
}

impl Protocol {
    /// The value, where it is known.
    pub(super) fn of(&self, net: &Net) -> Option<Number> {
        let value = net.net_snmp_statistics.as_ref()?.get(self.group)?.get(self.member)?;
        match self.kind {
            Kind::Counter => value.as_u64().map(Number::Whole),
            Kind::Gauge if self.is_time => value.as_f64().map(|milliseconds| Number::Real(milliseconds / 1000.0)),
            Kind::Gauge => value.as_i64().map(Number::Signed),
        }
    }
}

/// `InDestUnreachs` as `in_dest_unreachs`; what is written in capitals is one word: `ReasmOKs`, `DefaultTTL`.
fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    let mut before = '_';
    for c in name.chars() {
        if c.is_ascii_uppercase() && before.is_ascii_lowercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
        before = c;
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_metrics_names() {
        for (name, expected) in [
            ("InDestUnreachs", "in_dest_unreachs"),
            ("DefaultTTL", "default_ttl"),
            ("ReasmOKs", "reasm_oks"),
            ("InCsumErrors", "in_csum_errors"),
        ] {
            assert_eq!(snake(name), expected);
        }
        let names: BTreeSet<&str> = PROTOCOLS.iter().map(|protocol| protocol.name.as_str()).collect();
        assert_eq!(names.len(), PROTOCOLS.len(), "two of one name");
        assert_eq!(PROTOCOLS.len(), 69);
        assert_eq!(PROTOCOLS.iter().filter(|protocol| protocol.kind == Kind::Gauge).count(), GAUGES.len());
    }
}
