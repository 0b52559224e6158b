//! A container of which everything is known, each figure another number, and what Prometheus is to be told of it.

use portslice::ports::{Block, BlockSize};
use portslice::request::Names;
use portslice::stats::cgroup::parse::{Stall, Waited};
use portslice::stats::cgroup::{Memory, Pressure, Usage};
use portslice::stats::net::{Net, TrafficControl};
use portslice::stats::{Monitored, Statistics};
use serde_json::json;
use std::collections::BTreeMap;

/// The container.
pub fn full(id: &str) -> Monitored {
    Monitored {
        slice: id.into(),
        name: None,
        names: Names::default(),
        engine: None,
        started: Some(1_400_000_000),
        interface: "eth0".into(),
        epoch: 1,
        counts_network: true,
        container_id: id.into(),
        executor_id: id.into(),
        executor_name: "name".into(),
        framework_id: "f".into(),
        source: "s".into(),
        statistics: Statistics { usage: usage(), net: net(), timestamp: 1.5e9 },
        troubles: Vec::new(),
    }
}

fn usage() -> Usage {
    let waited = |total_secs| Waited { total_secs, ..Waited::default() };
    let stall = |some, full| Some(Stall { some: waited(some), full: Some(waited(full)) });
    Usage {
        cpus_limit: Some(2.0),
        cpus_nr_periods: Some(100),
        cpus_nr_throttled: Some(7),
        cpus_soft_limit: Some(1.5),
        cpus_system_time_secs: Some(3.25),
        cpus_throttled_time_secs: Some(0.75),
        cpus_user_time_secs: Some(12.5),
        processes: Some(4),
        threads: Some(9),
        memory: Memory {
            mem_total_bytes: Some(5000),
            mem_anon_bytes: Some(3000),
            mem_file_bytes: Some(1000),
            mem_rss_bytes: Some(3000),
            mem_cache_bytes: Some(1000),
            mem_mapped_file_bytes: Some(500),
            mem_swap_bytes: Some(50),
            mem_limit_bytes: Some(1 << 30),
            working_set_bytes: Some(4500),
            ..Memory::default()
        },
        pressure: Pressure { cpu: stall(1.0, 0.5), memory: stall(2.0, 1.25), io: stall(4.0, 2.25) },
    }
}

fn net() -> Net {
    let queue = |id, backlog, qlen, overlimits| TrafficControl {
        id,
        backlog,
        bytes: 1,
        drops: 1,
        overlimits,
        packets: 1,
        qlen,
        ratebps: 0,
        ratepps: 0,
        requeues: 0,
    };
    Net {
        net_rx_bytes: Some(11),
        net_rx_packets: Some(12),
        net_rx_dropped: Some(13),
        net_rx_errors: Some(14),
        net_tx_bytes: Some(21),
        net_tx_packets: Some(22),
        net_tx_dropped: Some(23),
        net_tx_errors: Some(24),
        net_rx_rate_limit: Some(31),
        net_rx_burst_rate_limit: Some(32),
        net_rx_burst_size: Some(33),
        net_tx_rate_limit: Some(41),
        net_tx_burst_rate_limit: Some(42),
        net_tx_burst_size: Some(43),
        net_ephemeral_ports: BlockSize::new(1024).and_then(|size| Block::new(32768, size)),
        net_ephemeral_ports_in_use: Some(77),
        net_open_ports_claimed: Some(78),
        net_open_ports_limit: Some(79),
        net_tcp_active_connections: Some(5.0),
        net_tcp_time_wait_connections: Some(6.0),
        net_tcp_rtt_microsecs_p50: Some(500_000.0),
        net_tcp_rtt_microsecs_p90: Some(1_000_000.0),
        net_tcp_rtt_microsecs_p95: Some(1_500_000.0),
        net_tcp_rtt_microsecs_p99: Some(2_000_000.0),
        net_rate_statistics: None,
        net_snmp_statistics: json!({
            "ip_stats": {"Forwarding": 2, "ReasmOKs": 81},
            "icmp_stats": {"InDestUnreachs": 82},
            "tcp_stats": {"RtoMin": 200, "MaxConn": -1, "CurrEstab": 83, "RetransSegs": 3},
            "udp_stats": {"RcvbufErrors": 84},
        })
        .as_object()
        .cloned(),
        net_traffic_control_statistics: Some(vec![
            queue("bw_limit", 1, 1, 61),
            queue("bloat_reduction", 62, 63, 1),
            queue("ingress_bw_limit", 1, 1, 71),
            queue("ingress_bloat_reduction", 72, 73, 1),
        ]),
        net_dropped_reasons: json!({"source_port": 8, "egress_limit": 0}).as_object().cloned(),
        net_tcp_retransmits: Some(3),
        net_tcp_listen_drops: Some(2),
    }
}

/// Name and labels beside the id, and the value.
pub fn values() -> BTreeMap<&'static str, f64> {
    VALUES.iter().copied().collect()
}

const VALUES: &[(&str, f64)] = &[
    ("container_network_receive_bytes_total eth0", 11.0),
    ("container_network_receive_packets_total eth0", 12.0),
    ("container_network_receive_packets_dropped_total eth0", 13.0),
    ("container_network_receive_errors_total eth0", 14.0),
    ("container_network_transmit_bytes_total eth0", 21.0),
    ("container_network_transmit_packets_total eth0", 22.0),
    ("container_network_transmit_packets_dropped_total eth0", 23.0),
    ("container_network_transmit_errors_total eth0", 24.0),
    ("container_start_time_seconds", 1.4e9),
    ("container_last_seen", 1.5e9),
    ("container_cpu_usage_seconds_total", 15.75),
    ("container_cpu_user_seconds_total", 12.5),
    ("container_cpu_system_seconds_total", 3.25),
    ("container_cpu_cfs_periods_total", 100.0),
    ("container_cpu_cfs_throttled_periods_total", 7.0),
    ("container_cpu_cfs_throttled_seconds_total", 0.75),
    ("portslice_cpus_limit", 2.0),
    ("portslice_cpus_requested", 1.5),
    ("container_memory_usage_bytes", 5000.0),
    ("container_memory_working_set_bytes", 4500.0),
    ("container_memory_rss", 3000.0),
    ("container_memory_cache", 1000.0),
    ("container_memory_mapped_file", 500.0),
    ("container_memory_swap", 50.0),
    ("container_spec_memory_limit_bytes", 1_073_741_824.0),
    ("container_processes", 4.0),
    ("container_threads", 9.0),
    ("container_pressure_cpu_waiting_seconds_total", 1.0),
    ("container_pressure_cpu_stalled_seconds_total", 0.5),
    ("container_pressure_memory_waiting_seconds_total", 2.0),
    ("container_pressure_memory_stalled_seconds_total", 1.25),
    ("container_pressure_io_waiting_seconds_total", 4.0),
    ("container_pressure_io_stalled_seconds_total", 2.25),
    ("portslice_dropped_packets_total source_port", 8.0),
    ("portslice_dropped_packets_total egress_limit", 0.0),
    ("portslice_rate_limit_bytes_per_second egress", 41.0),
    ("portslice_rate_limit_bytes_per_second ingress", 31.0),
    ("portslice_ceil_limit_bytes_per_second egress", 42.0),
    ("portslice_ceil_limit_bytes_per_second ingress", 32.0),
    ("portslice_burst_bytes egress", 43.0),
    ("portslice_burst_bytes ingress", 33.0),
    ("portslice_backlog_bytes egress", 62.0),
    ("portslice_backlog_bytes ingress", 72.0),
    ("portslice_backlog_packets egress", 63.0),
    ("portslice_backlog_packets ingress", 73.0),
    ("portslice_overlimits_total egress", 61.0),
    ("portslice_overlimits_total ingress", 71.0),
    ("portslice_ephemeral_ports", 1024.0),
    ("portslice_ephemeral_ports_in_use", 77.0),
    ("portslice_open_ports_claimed", 78.0),
    ("portslice_open_ports_limit", 79.0),
    ("portslice_tcp_connections active", 5.0),
    ("portslice_tcp_connections time_wait", 6.0),
    ("portslice_tcp_rtt_seconds 50", 0.5),
    ("portslice_tcp_rtt_seconds 90", 1.0),
    ("portslice_tcp_rtt_seconds 95", 1.5),
    ("portslice_tcp_rtt_seconds 99", 2.0),
    ("portslice_tcp_retransmits_total", 3.0),
    ("portslice_tcp_listen_drops_total", 2.0),
    ("portslice_ip_forwarding", 2.0),
    ("portslice_ip_reasm_oks_total", 81.0),
    ("portslice_icmp_in_dest_unreachs_total", 82.0),
    ("portslice_tcp_rto_min_seconds", 0.2),
    ("portslice_tcp_max_conn", -1.0),
    ("portslice_tcp_curr_estab", 83.0),
    ("portslice_tcp_retrans_segs_total", 3.0),
    ("portslice_udp_rcvbuf_errors_total", 84.0),
];
