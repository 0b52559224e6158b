//! The protocol counters of a network namespace: `/proc/net/snmp` by the groups and names Mesos gave them, and what
//! `/proc/net/netstat` and `/proc/net/sockstat` add. Pure: text in, numbers out.

use serde_json::{Map, Value};

/// Groups as Mesos names them, as the kernel does, and their members (Mesos' `SNMPStatistics`). What a newer kernel
/// adds is left out; `MaxConn` may be -1, so all are signed.
pub(super) const GROUPS: [(&str, &str, &[&str]); 4] = [
    (
        "ip_stats",
        "Ip",
        &[
            "Forwarding",
            "DefaultTTL",
            "InReceives",
            "InHdrErrors",
            "InAddrErrors",
            "ForwDatagrams",
            "InUnknownProtos",
            "InDiscards",
            "InDelivers",
            "OutRequests",
            "OutDiscards",
            "OutNoRoutes",
            "ReasmTimeout",
            "ReasmReqds",
            "ReasmOKs",
            "ReasmFails",
            "FragOKs",
            "FragFails",
            "FragCreates",
        ],
    ),
    (
        "icmp_stats",
        "Icmp",
        &[
            "InMsgs",
            "InErrors",
            "InCsumErrors",
            "InDestUnreachs",
            "InTimeExcds",
            "InParmProbs",
            "InSrcQuenchs",
            "InRedirects",
            "InEchos",
            "InEchoReps",
            "InTimestamps",
            "InTimestampReps",
            "InAddrMasks",
            "InAddrMaskReps",
            "OutMsgs",
            "OutErrors",
            "OutDestUnreachs",
            "OutTimeExcds",
            "OutParmProbs",
            "OutSrcQuenchs",
            "OutRedirects",
            "OutEchos",
            "OutEchoReps",
            "OutTimestamps",
            "OutTimestampReps",
            "OutAddrMasks",
            "OutAddrMaskReps",
        ],
    ),
    (
        "tcp_stats",
        "Tcp",
        &[
            "RtoAlgorithm",
            "RtoMin",
            "RtoMax",
            "MaxConn",
            "ActiveOpens",
            "PassiveOpens",
            "AttemptFails",
            "EstabResets",
            "CurrEstab",
            "InSegs",
            "OutSegs",
            "RetransSegs",
            "InErrs",
            "OutRsts",
            "InCsumErrors",
        ],
    ),
    (
        "udp_stats",
        "Udp",
        &[
            "InDatagrams",
            "NoPorts",
            "InErrors",
            "OutDatagrams",
            "RcvbufErrors",
            "SndbufErrors",
            "InCsumErrors",
            "IgnoredMulti",
        ],
    ),
];

/// TCP sockets of a namespace (IPv4; the kernel keeps no such line for IPv6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpSockets {
    /// `inuse`: neither closed nor in TIME_WAIT.
    pub active: u64,
    /// `tw`.
    pub time_wait: u64,
}

/// `net_snmp_statistics` from the text of `/proc/net/snmp`. Groups and members that are not there are left out.
pub fn groups(text: &str) -> Map<String, Value> {
    let mut all = Map::new();
    for (name, prefix, members) in GROUPS {
        let mut group = Map::new();
        for (member, value) in pairs(text, prefix) {
            if members.contains(&member) {
                group.insert(member.to_owned(), value.into());
            }
        }
        if !group.is_empty() {
            all.insert(name.to_owned(), group.into());
        }
    }
    all
}

/// One counter of a file in the form of `/proc/net/snmp`: `Tcp`, `RetransSegs`.
pub fn counter(text: &str, prefix: &str, name: &str) -> Option<u64> {
    pairs(text, prefix).find(|(member, _)| *member == name).and_then(|(_, value)| value.try_into().ok())
}

/// From the text of `/proc/net/sockstat`: `TCP: inuse 5 orphan 0 tw 2 alloc 7 mem 1`.
pub fn tcp_sockets(text: &str) -> Option<TcpSockets> {
    let words: Vec<&str> = text.lines().find_map(|line| line.strip_prefix("TCP: "))?.split_whitespace().collect();
    let value = |name: &str| words.chunks_exact(2).find(|pair| pair[0] == name).and_then(|pair| pair[1].parse().ok());
    Some(TcpSockets { active: value("inuse")?, time_wait: value("tw")? })
}

/// Names and values of the two lines that begin with `prefix:`.
fn pairs<'a>(text: &'a str, prefix: &str) -> impl Iterator<Item = (&'a str, i64)> + use<'a> {
    let start = format!("{prefix}: ");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(&start)).fuse();
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    names
        .split_whitespace()
        .zip(values.split_whitespace())
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNMP: &str = "Ip: Forwarding DefaultTTL InReceives OutTransmits\nIp: 1 64 12 9\n\
        Icmp: InMsgs\nIcmp: 3\nIcmpMsg: InType8\nIcmpMsg: 1\n\
        Tcp: RtoAlgorithm MaxConn RetransSegs\nTcp: 1 -1 7\nUdp: InDatagrams\nUdp: 5\nUdpLite: InDatagrams\nUdpLite: 6\n";

    #[test]
    fn only_what_mesos_names() {
        let all = serde_json::to_string(&groups(SNMP)).unwrap();
        assert_eq!(
            all,
            r#"{"ip_stats":{"Forwarding":1,"DefaultTTL":64,"InReceives":12},"icmp_stats":{"InMsgs":3},"tcp_stats":{"RtoAlgorithm":1,"MaxConn":-1,"RetransSegs":7},"udp_stats":{"InDatagrams":5}}"#
        );
        assert_eq!(counter(SNMP, "Tcp", "RetransSegs"), Some(7));
        assert_eq!(counter(SNMP, "Tcp", "MaxConn"), None, "a counter is never below zero");
        assert!(groups("Ip: Forwarding\nTcp:").is_empty() && groups("").is_empty());
    }

    #[test]
    fn sockets() {
        let text = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 2 alloc 7 mem 1\nUDP: inuse 2 mem 0\n";
        assert_eq!(tcp_sockets(text), Some(TcpSockets { active: 5, time_wait: 2 }));
        assert_eq!(tcp_sockets("TCP: inuse"), None);
    }
}
