//! The metrics of a container: name, meaning, and where in [`Monitored`] the value is.

use crate::stats::Monitored;
use crate::stats::cgroup::parse::Stall;
use crate::stats::net::{Net, TrafficControl};

/// One metric of every container.
pub(super) struct Family {
    /// Without the `_total` that the format appends to counters. A name that ends in a base unit has that unit.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    /// Hands over the samples of one container.
    pub(super) of: fn(&Monitored, &mut Put<'_>),
}

/// Takes one sample: a label beside the container's id, if there is one, and the value, if it is known.
pub(super) type Put<'a> = dyn FnMut(Option<(&'static str, &str)>, Option<Number>) + 'a;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

#[derive(Clone, Copy)]
pub(super) enum Number {
    Whole(u64),
    Signed(i64),
    Real(f64),
}

const fn counter(name: &'static str, help: &'static str, of: fn(&Monitored, &mut Put<'_>)) -> Family {
    Family { name, help, kind: Kind::Counter, of }
}

const fn gauge(name: &'static str, help: &'static str, of: fn(&Monitored, &mut Put<'_>)) -> Family {
    Family { name, help, kind: Kind::Gauge, of }
}

/// In the order of the page.
pub(super) const FAMILIES: &[Family] = &[
    gauge("container_start_time_seconds", "Unix time at which it came.", |s, put| put(None, whole(s.started))),
    gauge("container_last_seen", "Unix time at which it was looked at.", |s, put| {
        put(None, Some(Number::Real(s.statistics.timestamp)))
    }),
    counter("container_network_receive_bytes", "Bytes received, with Ethernet headers.", |s, put| {
        put(Some(("interface", &s.interface)), whole(s.statistics.net.net_rx_bytes))
    }),
    counter("container_network_receive_packets", "Packets received.", |s, put| {
        put(Some(("interface", &s.interface)), whole(s.statistics.net.net_rx_packets))
    }),
    counter("container_network_receive_packets_dropped", "Packets for it that were dropped.", |s, put| {
        put(Some(("interface", &s.interface)), whole(s.statistics.net.net_rx_dropped))
    }),
    counter("container_network_receive_errors", "Errors while receiving.", |s, put| {
        put(Some(("interface", &s.interface)), whole(s.statistics.net.net_rx_errors))
    }),
    counter("container_network_transmit_bytes", "Bytes sent, with Ethernet headers.", |s, put| {
        put(Some(("interface", &s.interface)), whole(s.statistics.net.net_tx_bytes))
    }),
    counter("container_network_transmit_packets", "Packets sent.", |s, put| {
        put(Some(("interface", &s.interface)), whole(s.statistics.net.net_tx_packets))
    }),
    counter("container_network_transmit_packets_dropped", "Packets of it that were dropped.", |s, put| {
        put(Some(("interface", &s.interface)), whole(s.statistics.net.net_tx_dropped))
    }),
    counter("container_network_transmit_errors", "Errors while sending.", |s, put| {
        put(Some(("interface", &s.interface)), whole(s.statistics.net.net_tx_errors))
    }),
    counter("container_cpu_usage_seconds", "CPU time.", |s, put| {
        let usage = &s.statistics.usage;
        let total = usage.cpus_user_time_secs.zip(usage.cpus_system_time_secs).map(|(user, system)| user + system);
        put(None, real(total))
    }),
    counter("container_cpu_user_seconds", "CPU time in user mode.", |s, put| {
        put(None, real(s.statistics.usage.cpus_user_time_secs))
    }),
    counter("container_cpu_system_seconds", "CPU time in the kernel.", |s, put| {
        put(None, real(s.statistics.usage.cpus_system_time_secs))
    }),
    counter("container_cpu_cfs_periods", "Periods of its CPU quota.", |s, put| {
        put(None, whole(s.statistics.usage.cpus_nr_periods))
    }),
    counter("container_cpu_cfs_throttled_periods", "Periods in which the quota was used up.", |s, put| {
        put(None, whole(s.statistics.usage.cpus_nr_throttled))
    }),
    counter("container_cpu_cfs_throttled_seconds", "Time it waited for its CPU quota.", |s, put| {
        put(None, real(s.statistics.usage.cpus_throttled_time_secs))
    }),
    gauge("portslice_cpus_limit", "The most CPUs it may use.", |s, put| put(None, real(s.statistics.usage.cpus_limit))),
    gauge("portslice_cpus_requested", "CPUs it gets when others want them, too.", |s, put| {
        put(None, real(s.statistics.usage.cpus_soft_limit))
    }),
    gauge("container_memory_usage_bytes", "Memory in use, caches included.", |s, put| {
        put(None, whole(s.statistics.usage.memory.mem_total_bytes))
    }),
    gauge("container_memory_working_set_bytes", "Memory in use that cannot be given up easily.", |s, put| {
        put(None, whole(s.statistics.usage.memory.working_set_bytes))
    }),
    gauge("container_memory_rss", "Anonymous memory in bytes.", |s, put| {
        put(None, whole(s.statistics.usage.memory.mem_rss_bytes))
    }),
    gauge("container_memory_cache", "Page cache in bytes.", |s, put| {
        put(None, whole(s.statistics.usage.memory.mem_cache_bytes))
    }),
    gauge("container_memory_mapped_file", "Mapped files in bytes.", |s, put| {
        put(None, whole(s.statistics.usage.memory.mem_mapped_file_bytes))
    }),
    gauge("container_memory_swap", "Swap in bytes.", |s, put| {
        put(None, whole(s.statistics.usage.memory.mem_swap_bytes))
    }),
    gauge("container_spec_memory_limit_bytes", "The most memory it may use.", |s, put| {
        put(None, whole(s.statistics.usage.memory.mem_limit_bytes))
    }),
    gauge("container_processes", "Processes.", |s, put| put(None, whole(s.statistics.usage.processes))),
    gauge("container_threads", "Threads.", |s, put| put(None, whole(s.statistics.usage.threads))),
    counter("container_pressure_cpu_waiting_seconds", "Time some task waited for a CPU.", |s, put| {
        put(None, some(s.statistics.usage.pressure.cpu))
    }),
    counter("container_pressure_cpu_stalled_seconds", "Time all tasks waited for a CPU.", |s, put| {
        put(None, full(s.statistics.usage.pressure.cpu))
    }),
    counter("container_pressure_memory_waiting_seconds", "Time some task waited for memory.", |s, put| {
        put(None, some(s.statistics.usage.pressure.memory))
    }),
    counter("container_pressure_memory_stalled_seconds", "Time all tasks waited for memory.", |s, put| {
        put(None, full(s.statistics.usage.pressure.memory))
    }),
    counter("container_pressure_io_waiting_seconds", "Time some task waited for disks.", |s, put| {
        put(None, some(s.statistics.usage.pressure.io))
    }),
    counter("container_pressure_io_stalled_seconds", "Time all tasks waited for disks.", |s, put| {
        put(None, full(s.statistics.usage.pressure.io))
    }),
    counter("portslice_dropped_packets", "Packets dropped, by reason.", |s, put| {
        for (reason, n) in s.statistics.net.net_dropped_reasons.iter().flatten() {
            put(Some(("reason", reason)), whole(n.as_u64()));
        }
    }),
    gauge("portslice_rate_limit_bytes_per_second", "What it may send or receive.", |s, put| {
        directions(put, s.statistics.net.net_tx_rate_limit, s.statistics.net.net_rx_rate_limit)
    }),
    gauge("portslice_ceil_limit_bytes_per_second", "What a burst may reach, where it is more.", |s, put| {
        directions(put, s.statistics.net.net_tx_burst_rate_limit, s.statistics.net.net_rx_burst_rate_limit)
    }),
    gauge("portslice_burst_bytes", "How much may go in a burst.", |s, put| {
        directions(put, s.statistics.net.net_tx_burst_size, s.statistics.net.net_rx_burst_size)
    }),
    gauge("portslice_backlog_bytes", "Bytes that wait for its limit.", |s, put| {
        queues(put, &s.statistics.net, ["bloat_reduction", "ingress_bloat_reduction"], |queue| queue.backlog)
    }),
    gauge("portslice_backlog_packets", "Packets that wait for its limit.", |s, put| {
        queues(put, &s.statistics.net, ["bloat_reduction", "ingress_bloat_reduction"], |queue| queue.qlen)
    }),
    counter("portslice_overlimits", "Times its limit made packets wait.", |s, put| {
        queues(put, &s.statistics.net, ["bw_limit", "ingress_bw_limit"], |queue| queue.overlimits)
    }),
    gauge("portslice_ephemeral_ports", "Ports of its block.", |s, put| {
        put(None, whole(s.statistics.net.net_ephemeral_ports.map(|block| block.size().get().into())))
    }),
    gauge(
        "portslice_ephemeral_ports_in_use",
        "Ports of its block that sockets hold, those in TIME_WAIT apart.",
        |s, put| put(None, whole(s.statistics.net.net_ephemeral_ports_in_use)),
    ),
    gauge(
        "portslice_open_ports_claimed",
        "Open ports that its sockets have claimed, those that rest included.",
        |s, put| put(None, whole(s.statistics.net.net_open_ports_claimed)),
    ),
    gauge("portslice_open_ports_limit", "Open ports that it may have claimed at a time.", |s, put| {
        put(None, whole(s.statistics.net.net_open_ports_limit))
    }),
    gauge("portslice_tcp_connections", "IPv4 sockets, by state.", |s, put| {
        put(Some(("state", "active")), real(s.statistics.net.net_tcp_active_connections));
        put(Some(("state", "time_wait")), real(s.statistics.net.net_tcp_time_wait_connections));
    }),
    gauge("portslice_tcp_rtt_seconds", "Round trips of its TCP sockets.", |s, put| {
        let seconds = |microseconds: Option<f64>| real(microseconds.map(|us| us / 1e6));
        put(Some(("percentile", "50")), seconds(s.statistics.net.net_tcp_rtt_microsecs_p50));
        put(Some(("percentile", "90")), seconds(s.statistics.net.net_tcp_rtt_microsecs_p90));
        put(Some(("percentile", "95")), seconds(s.statistics.net.net_tcp_rtt_microsecs_p95));
        put(Some(("percentile", "99")), seconds(s.statistics.net.net_tcp_rtt_microsecs_p99));
    }),
    counter("portslice_tcp_retransmits", "TCP segments sent again.", |s, put| {
        put(None, whole(s.statistics.net.net_tcp_retransmits))
    }),
    counter("portslice_tcp_listen_drops", "Connections turned away by a full queue.", |s, put| {
        put(None, whole(s.statistics.net.net_tcp_listen_drops))
    }),
];

fn whole(n: Option<u64>) -> Option<Number> {
    n.map(Number::Whole)
}

fn real(n: Option<f64>) -> Option<Number> {
    n.map(Number::Real)
}

fn some(stall: Option<Stall>) -> Option<Number> {
    stall.map(|stall| Number::Real(stall.some.total_secs))
}

fn full(stall: Option<Stall>) -> Option<Number> {
    stall?.full.map(|full| Number::Real(full.total_secs))
}

fn directions(put: &mut Put<'_>, egress: Option<u64>, ingress: Option<u64>) {
    put(Some(("direction", "egress")), whole(egress));
    put(Some(("direction", "ingress")), whole(ingress));
}

/// One figure of the queues with these names.
fn queues(put: &mut Put<'_>, net: &Net, [egress, ingress]: [&str; 2], figure: fn(&TrafficControl) -> u64) {
    let of = |id| net.net_traffic_control_statistics.iter().flatten().find(|queue| queue.id == id).map(figure);
    directions(put, of(egress), of(ingress));
}
