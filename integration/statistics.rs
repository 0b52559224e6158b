//! Promise: the numbers are right: what is counted is what passed, what was dropped is counted, and everything else says the
//! same as the kernel's own tools.

use crate::lab::bundle::Bundle;
use crate::lab::limit::tc;
use crate::lab::tap::{Seen, Tap};
use crate::lab::*;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

const CONFIG: &str = "ports = \"31000-31999\"\nsocket_statistics_details = true\nsnmp_statistics = true\n";

/// `stats ID --json`, the one element.
#[track_caller]
fn statistics(host: &Host, id: &str) -> Value {
    let all = host.portslice(["stats", id, "--json"]).ok().json();
    let one =
        all.as_array().filter(|all| all.len() == 1).unwrap_or_else(|| panic!("stats {id} --json: {all}"))[0].clone();
    assert_eq!(one["container_id"], id, "{one}");
    one["statistics"].clone()
}

/// Packets and bytes, received and sent.
#[track_caller]
fn counted(host: &Host, id: &str) -> [u64; 4] {
    let all = statistics(host, id);
    ["net_rx_packets", "net_rx_bytes", "net_tx_packets", "net_tx_bytes"]
        .map(|name| all[name].as_u64().unwrap_or_else(|| panic!("{name} of {id}: {all}")))
}

fn grown(before: [u64; 4], after: [u64; 4]) -> [u64; 4] {
    std::array::from_fn(|i| after[i] - before[i])
}

/// Waits for what is under way, then reads.
fn settled(host: &Host, id: &str) -> [u64; 4] {
    std::thread::sleep(Duration::from_millis(100));
    counted(host, id)
}

/// Every field of the sample in Mesos' documentation (docs/endpoints/slave/monitor/statistics.md, and its network fields from
/// docs/port-mapping-isolator.md) is there, as the same kind of number or text.
#[test]
fn every_field_of_mesos_sample_is_there() {
    let sample: Value = serde_json::from_str(include_str!("../tests/metrics/mesos.json")).expect("the sample");
    let host = Host::new("counts-mesos");
    let runtime = host.runtime("runc");
    let asked = [("cpus", "1.5"), ("cpus-limit", "8"), ("executor-id", "e"), ("executor-name", "n")];
    let bundle = asked
        .iter()
        .chain(&[("framework-id", "f"), ("source", "s")])
        .fold(Bundle::new(&host, "c", &["sleep", "1000"]).sliced(), |bundle, (key, value)| {
            bundle.annotation(&format!("portslice/{key}"), value)
        });
    let bundle = bundle.edit(|config| config["linux"]["resources"]["memory"]["limit"] = 100_000_000.into());
    let _running = runtime.start(&bundle);
    let all = host.portslice(["stats", "--json"]).ok().json();
    let kind = |value: &Value| match value {
        Value::Number(n) if n.is_u64() => "whole number",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        other => panic!("{other} in a sample"),
    };
    let (sample, one) = (&sample[0], &all[0]);
    for (name, value) in [("executor_id", "e"), ("executor_name", "n"), ("framework_id", "f"), ("source", "s")] {
        assert_eq!(one[name], value, "{name}: {one}");
    }
    for (name, value) in sample["statistics"].as_object().expect("fields") {
        let given = &one["statistics"][name];
        assert!(!given.is_null(), "{name} is not there: {one}");
        assert_eq!(kind(given), kind(value), "{name} is {given}");
    }
    assert_eq!(one["statistics"]["cpus_limit"], 8.0);
    // the same for people
    let table = host.portslice(["stats", "--all"]).ok().stdout;
    let figures: Vec<Vec<&str>> = table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert!(figures.iter().all(|row| row.len() == 3 && row[0] == one["container_id"]), "{table}");
    for name in one["statistics"].as_object().expect("fields").keys() {
        let under = |row: &Vec<&str>| row[1] == name || row[1].starts_with(&format!("{name}."));
        assert!(figures.iter().any(under), "{name}: {table}");
    }
    assert!(table.contains(" net_dropped_reasons.source_port "), "{table}");
}

/// Datagrams of a size, from one namespace to a server in another; all of them arrive.
fn datagrams(from: &Ns, into: &Ns, to: SocketAddr, count: usize, size: usize) {
    let server = into.inside(|| UdpSocket::bind(SocketAddr::new(probe::any(to.ip()), to.port()))).expect("bind");
    server.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    let client = from.inside(|| UdpSocket::bind(SocketAddr::new(probe::any(to.ip()), 0))).expect("bind");
    client.connect(to).expect("connect");
    for _ in 0..count {
        client.send(&vec![7; size]).expect("send");
        assert_eq!(server.recv(&mut vec![0; size + 1]).expect("recv"), size);
    }
}

#[test]
fn datagrams_are_counted_one_by_one_on_every_path() {
    let host = Host::new("counts-udp");
    let one = host.bare("one", &["--ports", "31000"]);
    let two = host.bare("two", &["--ports", "31001", "--egress-rate", "1gbit", "--ingress-rate", "1gbit"]);
    let (count, size) = (100, 300);
    for v6 in [false, true] {
        let (host_at, peer_at, lo) = if v6 { (HOST6, PEER6, LO6) } else { (HOST4, PEER4, LO4) };
        let bytes = (count * (size + 14 + 8 + if v6 { 40 } else { 20 })) as u64;
        let packets = count as u64;
        let to = |ip, port| SocketAddr::new(ip, port);
        for (what, from, into, at, sender, receiver) in [
            ("to the wire", &one.ns, &host.peer, to(peer_at, 20_000), Some("one"), None),
            ("from the wire", &host.peer, &one.ns, to(host_at, 31_000), None, Some("one")),
            ("to the host", &one.ns, &host.ns, to(lo, 20_000), Some("one"), None),
            ("from the host", &host.ns, &one.ns, to(lo, 31_000), None, Some("one")),
            ("to another", &one.ns, &two.ns, to(host_at, 31_001), Some("one"), Some("two")),
            ("back, both limited", &two.ns, &one.ns, to(host_at, 31_000), Some("two"), Some("one")),
            ("limited, to the wire", &two.ns, &host.peer, to(peer_at, 20_001), Some("two"), None),
            ("limited, from the wire", &host.peer, &two.ns, to(host_at, 31_001), None, Some("two")),
        ] {
            let before = ["one", "two"].map(|id| settled(&host, id));
            datagrams(from, into, at, count, size);
            let after = ["one", "two"].map(|id| settled(&host, id));
            for (n, id) in ["one", "two"].into_iter().enumerate() {
                let part = |is: Option<&str>| if is == Some(id) { [packets, bytes] } else { [0, 0] };
                let ([rx, rxb], [tx, txb]) = (part(receiver), part(sender));
                assert_eq!(grown(before[n], after[n]), [rx, rxb, tx, txb], "{what}, of {id}, IPv6 {v6}");
            }
        }
    }
}

/// What a connection knows of itself: segments sent and received, bytes of payload sent and received.
fn info(fd: &impl AsRawFd) -> [u64; 4] {
    let mut all = [0u8; 256];
    let mut length = all.len() as u32;
    // SAFETY: the kernel writes at most `length` bytes into the buffer.
    let rc = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, all.as_mut_ptr().cast(), &raw mut length)
    };
    assert_eq!(rc, 0, "TCP_INFO: {}", std::io::Error::last_os_error());
    let word = |at: usize| u64::from(u32::from_ne_bytes(all[at..at + 4].try_into().expect("four")));
    let long = |at: usize| u64::from_ne_bytes(all[at..at + 8].try_into().expect("eight"));
    // include/uapi/linux/tcp.h: tcpi_segs_out, tcpi_segs_in, tcpi_bytes_sent, tcpi_bytes_received
    [word(136), word(140), long(200), long(128)]
}

/// Packets and bytes of one port that came out of the wire and went into it, as their receiver counts them: a large packet
/// stands for as many as it has segments of `segment` bytes, each with its headers.
fn on_the_wire(seen: &[Seen], port: u16, segment: usize) -> [u64; 4] {
    let mut counts = [0; 4];
    for frame in seen {
        let number = |at: usize| u16::from_be_bytes([frame.bytes[at], frame.bytes[at + 1]]);
        if number(12) != 0x0800 || ![number(34), number(36)].contains(&port) {
            continue;
        }
        let headers = 34 + if frame.bytes[23] == 6 { usize::from(frame.bytes[46] >> 4) * 4 } else { 8 };
        let payload = usize::from(number(16)) + 14 - headers;
        let packets = payload.div_ceil(segment).max(1);
        // what the wire sends out is what the container receives
        let at = if frame.outgoing { 0 } else { 2 };
        counts[at] += packets as u64;
        counts[at + 1] += (payload + packets * headers) as u64;
    }
    counts
}

/// Large packets are counted as the segments they stand for, each with its headers: as the peer's wire shows them, and as
/// the sockets know.
#[test]
fn a_stream_is_counted_by_its_segments() {
    let host = Host::new("counts-tcp");
    // A segment that is lost on a busy machine would be told of in headers of another length.
    host.peer.set_sysctl("ipv4.tcp_sack", "0");
    let plain = host.bare("plain", &["--ports", "31000"]);
    let limited = host.bare("limited", &["--ports", "31001", "--egress-rate", "1gbit", "--ingress-rate", "1gbit"]);
    for (container, port) in [(&plain, 31_000), (&limited, 31_001)] {
        let before = settled(&host, &container.id);
        let tap = Tap::on(&host.peer, "wire");
        let listener = container.ns.inside(|| TcpListener::bind(SocketAddr::new(HOST4, port))).expect("bind");
        let to = SocketAddr::new(HOST4, port);
        let mut outside = host.peer.inside(|| TcpStream::connect(to)).expect("connect");
        let (mut inside, _) = listener.accept().expect("accept");
        for bytes in [3 << 20, 5 << 20] {
            let (from, into) = if bytes == 3 << 20 { (&mut outside, &mut inside) } else { (&mut inside, &mut outside) };
            std::thread::scope(|scope| {
                scope.spawn(|| from.write_all(&vec![1; bytes]).expect("send"));
                into.read_exact(&mut vec![0; bytes]).expect("receive");
            });
        }
        let counts = grown(before, settled(&host, &container.id));
        let [segments_out, segments_in, sent, received] = info(&inside);
        let seen = tap.end();
        // the SYN of each side carries eight bytes of options more than the timestamps, and the one sent is no segment to
        // an accepted socket (net/ipv4/tcp_minisocks.c, tcp_create_openreq_child)
        let (rx, tx) = (segments_in, segments_out + 1);
        let sockets = [rx, received + rx * 66 + 8, tx, sent + tx * 66 + 8];
        assert_eq!(counts, sockets, "{}: what the socket knows", container.id);
        assert_eq!(counts, on_the_wire(&seen, port, 1448), "{}: what the peer's wire shows", container.id);
        let largest = seen.iter().map(|frame| frame.bytes.len()).max();
        assert!(largest > Some(10_000), "no large packet was among them: {largest:?}");
    }
}

/// The same for datagrams that the kernel cuts up.
#[test]
fn datagrams_of_many_segments_are_counted_one_by_one() {
    let host = Host::new("counts-gso");
    let container = host.bare("c", &["--ports", "31000"]);
    let at = SocketAddr::new(HOST4, 31_000);
    let inside = container.ns.inside(|| UdpSocket::bind(at)).expect("bind");
    let outside = host.peer.inside(|| UdpSocket::bind(SocketAddr::new(PEER4, 20_000))).expect("bind");
    let before = settled(&host, "c");
    let tap = Tap::on(&host.peer, "wire");
    for (from, into, to) in [(&outside, &inside, at), (&inside, &outside, SocketAddr::new(PEER4, 20_000))] {
        let fd: OwnedFd = from.try_clone().expect("a second descriptor").into();
        sock::set(&fd, libc::SOL_UDP, libc::UDP_SEGMENT, 1000i32).expect("UDP_SEGMENT");
        into.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
        for _ in 0..20 {
            from.send_to(&[7; 9500], to).expect("send");
            for n in 0..10 {
                let size = into.recv(&mut [0; 2000]).expect("receive");
                assert_eq!(size, if n < 9 { 1000 } else { 500 });
            }
        }
    }
    let counts = grown(before, settled(&host, "c"));
    let (packets, bytes) = (200, 20 * (9500 + 10 * 42));
    assert_eq!(counts, [packets, bytes, packets, bytes]);
    assert_eq!(counts, on_the_wire(&tap.end(), 31_000, 1000), "what the peer's wire shows");
}

/// Drops are what was sent less what went on; reading changes nothing; `set` takes nothing back.
#[test]
fn drops_are_counted_and_nothing_goes_back() {
    let host = Host::new("counts-drops");
    let container = host.bare("c", &["--ports", "31000", "--ingress-rate", "8mbit"]);
    let server = container.ns.inside(|| UdpSocket::bind(SocketAddr::new(HOST4, 31_000))).expect("bind");
    server.set_read_timeout(Some(Duration::from_secs(1))).expect("timeout");
    let client = host.peer.inside(|| UdpSocket::bind(SocketAddr::new(PEER4, 0))).expect("bind");
    // more than the queue has room for, from one that does not wait for room
    const FLOOD: u64 = 3000;
    let sends: OwnedFd = client.try_clone().expect("a second descriptor").into();
    sock::set(&sends, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 16i32 << 20).expect("SO_SNDBUFFORCE");
    let mut total = 0;
    for _ in 0..2 {
        let arrived = std::thread::scope(|scope| {
            // read at once: what the socket has no room for is not the limit's doing
            let reader = scope.spawn(|| {
                let mut arrived = 0;
                while server.recv(&mut [0; 2000]).is_ok() {
                    arrived += 1;
                }
                arrived
            });
            for _ in 0..FLOOD {
                client.send_to(&[7; 1000], SocketAddr::new(HOST4, 31_000)).expect("send");
            }
            reader.join().expect("the reader")
        });
        assert!((1..FLOOD).contains(&arrived), "of {FLOOD} datagrams at once {arrived} passed a limit of 8 Mbit/s");
        total += FLOOD - arrived;
        for _ in 0..2 {
            let all = statistics(&host, "c");
            assert_eq!(all["net_rx_dropped"], total, "{all}");
            assert_eq!(all["net_dropped_reasons"]["ingress_limit"], total, "{all}");
        }
        host.portslice(["set", "c", "--ingress-rate", "0B"]).ok();
        assert_eq!(statistics(&host, "c")["net_rx_dropped"], total, "after the limit went");
        host.portslice(["set", "c", "--ingress-rate", "8mbit"]).ok();
        assert_eq!(statistics(&host, "c")["net_rx_dropped"], total, "after the limit came back");
    }
}

#[test]
fn round_trips_sockets_and_protocol_counters_are_the_kernels() {
    let host = Host::with("counts-kernel").config(CONFIG).build();
    let container = host.bare("c", &["--ports", "31000"]);
    let mut held: Vec<(TcpStream, TcpStream)> = Vec::new();
    for (n, ip) in [PEER4, PEER6, PEER4, PEER6, LO4].into_iter().enumerate() {
        let to = SocketAddr::new(ip, 20_000 + n as u16);
        let server = if ip == LO4 { &host.ns } else { &host.peer };
        let listener = server.inside(|| TcpListener::bind(to)).expect("bind");
        let mut client = container.ns.inside(|| TcpStream::connect(to)).expect("connect");
        let (mut other, _) = listener.accept().expect("accept");
        for _ in 0..20 {
            client.write_all(b"?").expect("ask");
            other.read_exact(&mut [0]).expect("ask");
            other.write_all(b"!").expect("answer");
            client.read_exact(&mut [0]).expect("answer");
        }
        held.push((client, other));
    }
    std::thread::sleep(Duration::from_millis(300));
    let all = statistics(&host, "c");
    // ss -ti prints "rtt:0.045/0.01", milliseconds
    let out = container.ns.command("ss").args(["-tinH"]).output().expect("ss");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut rtts: Vec<f64> = text
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("rtt:")?.split('/').next()?.parse::<f64>().ok())
        .map(|ms| (ms * 1000.0).round())
        .collect();
    rtts.sort_by(f64::total_cmp);
    assert_eq!(rtts.len(), held.len(), "{text}");
    for (name, percent) in [("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99)] {
        let expected = rtts[rtts.len() * percent / 100];
        assert_eq!(all[format!("net_tcp_rtt_microsecs_{name}")].as_f64(), Some(expected), "{name} of {rtts:?}: {all}");
    }
    // connections to different ends may have one port
    let ports: BTreeSet<u16> = held.iter().map(|(client, _)| client.local_addr().expect("port").port()).collect();
    assert_eq!(all["net_ephemeral_ports_in_use"], ports.len(), "{ports:?}: {all}");
    let block = [container.block.start(), container.block.end()].map(|port| u64::from(*port));
    assert_eq!(
        [&all["net_ephemeral_ports"]["begin"], &all["net_ephemeral_ports"]["end"]].map(Value::as_u64),
        block.map(Some)
    );
    // four of them are IPv4 sockets
    let inuse = std::fs::read_to_string(format!("/proc/{}/net/sockstat", container.ns.pid())).expect("sockstat");
    let tcp = inuse.lines().find_map(|l| l.strip_prefix("TCP: inuse ")).and_then(|l| l.split(' ').next()).expect("TCP");
    assert_eq!(all["net_tcp_active_connections"].as_f64(), tcp.parse().ok(), "{inuse}");
    let snmp = std::fs::read_to_string(format!("/proc/{}/net/snmp", container.ns.pid())).expect("snmp");
    let lines: Vec<Vec<&str>> = snmp.lines().map(|l| l.split_whitespace().collect()).collect();
    for (group, prefix) in [("ip_stats", "Ip:"), ("icmp_stats", "Icmp:"), ("tcp_stats", "Tcp:"), ("udp_stats", "Udp:")]
    {
        let rows: Vec<&Vec<&str>> = lines.iter().filter(|l| l[0] == prefix).collect();
        for (name, value) in all["net_snmp_statistics"][group].as_object().expect(group) {
            let at = rows[0].iter().position(|n| n == name).unwrap_or_else(|| panic!("{prefix} has no {name}"));
            assert_eq!(value.to_string(), rows[1][at], "{group} {name}");
        }
        assert!(all["net_snmp_statistics"][group].as_object().is_some_and(|g| g.len() > 6), "{all}");
    }
}

#[test]
fn what_queues_did_is_what_tc_says() {
    let host = Host::new("counts-tc");
    let container = host.bare("c", &["--ports", "31000", "--egress-rate", "2mbit", "--ingress-rate", "2mbit"]);
    datagrams(&container.ns, &host.peer, SocketAddr::new(PEER4, 20_000), 50, 1000);
    let client = host.peer.inside(|| UdpSocket::bind(SocketAddr::new(PEER4, 0))).expect("bind");
    let _server = container.ns.inside(|| UdpSocket::bind(SocketAddr::new(HOST4, 31_000))).expect("bind");
    for _ in 0..400 {
        client.send_to(&[7; 1000], SocketAddr::new(HOST4, 31_000)).expect("send");
    }
    std::thread::sleep(Duration::from_secs(2));
    let all = statistics(&host, "c");
    let entries = all["net_traffic_control_statistics"].as_array().expect("traffic control").clone();
    let device = container.device().expect("its device");
    let class = container.class();
    for (id, of, device, header) in [
        ("bw_limit", "class", limit::SHAPER, format!("class htb {class} ")),
        ("bloat_reduction", "qdisc", limit::SHAPER, format!("parent {class} ")),
        ("ingress_bw_limit", "class", device.as_str(), "class htb 1:1 ".to_string()),
        ("ingress_bloat_reduction", "qdisc", device.as_str(), "parent 1:1 ".to_string()),
    ] {
        let entry = entries.iter().find(|e| e["id"] == id).unwrap_or_else(|| panic!("{id}: {all}"));
        let text = tc(&host.ns, &["-s", of, "show", "dev", device]);
        let mut lines = text.lines().skip_while(|l| !l.contains(&header)).skip(1);
        let (sent, waits) = (lines.next().expect("Sent"), lines.next().expect("backlog"));
        let number = |line: &str, after: &str| {
            let rest = &line[line.find(after).unwrap_or_else(|| panic!("{after} in {line}")) + after.len()..];
            rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u64>().expect("a number")
        };
        for (name, said) in [
            ("bytes", number(sent, "Sent ")),
            ("packets", number(sent, "bytes ")),
            ("drops", number(sent, "(dropped ")),
            ("overlimits", number(sent, "overlimits ")),
            ("requeues", number(sent, "requeues ")),
            ("backlog", number(waits, "backlog ")),
        ] {
            assert_eq!(entry[name], said, "{id} {name}: {text}");
        }
    }
    assert_eq!((&all["net_tx_rate_limit"], &all["net_rx_rate_limit"]), (&250_000.into(), &250_000.into()), "{all}");
}

#[test]
fn what_ended_is_still_accounted_for() {
    let host = Host::new("counts-finished");
    for n in 0..3 {
        let id = format!("job{n}");
        let job = host.bare(&id, &[]);
        datagrams(&job.ns, &host.peer, SocketAddr::new(PEER4, 20_000), n + 1, 100);
        if n == 2 {
            // nobody says that it ended
            job.kill();
            host.portslice(["gc"]).ok();
        } else {
            job.detach();
        }
    }
    let all = host.portslice(["stats", "--finished", "--json"]).ok().json();
    let all = all.as_array().expect("an array");
    let told: Vec<(String, u64)> = all
        .iter()
        .map(|one| {
            assert!(one["finished"].as_u64() >= one["created"].as_u64(), "{one}");
            let packets = one["statistics"]["net_tx_packets"].as_u64().expect("packets");
            (one["container_id"].as_str().expect("id").to_string(), packets)
        })
        .collect();
    assert_eq!(told, [("job0".into(), 1), ("job1".into(), 2), ("job2".into(), 3)]);
    let one = host.portslice(["stats", "job1", "--finished"]).ok();
    assert!(one.stdout.contains("job1") && !one.stdout.contains("job0"), "{one}");
    assert_eq!(host.portslice(["stats", "never", "--finished"]).code, Some(6));
    assert_eq!(host.portslice(["stats", "job1"]).code, Some(6), "it is not there any more");
}

#[test]
fn top_shows_who_is_busy() {
    let host = Host::new("counts-top");
    let [busy, idle] = ["busy", "idle"].map(|id| host.bare(id, &[]));
    let stream = flow::Plan::new(Carrier::Udp, &busy.ns, &host.peer, SocketAddr::new(PEER4, 20_000)).start();
    let out = host.portslice(["top", "--interval", "1", "--count", "1"]).ok();
    drop(stream);
    let lines: Vec<&str> = out.stdout.lines().collect();
    assert!(lines[0].starts_with("CONTAINER") && lines.len() == 4, "{out}");
    assert!(lines[1].starts_with(&busy.id) && lines[2].starts_with(&idle.id) && lines[3].starts_with("total"), "{out}");
    assert!(lines.iter().all(|line| line.len() <= 80), "wider than 80 columns: {out}");
    let out = host.portslice(["top", "--sort", "txx", "--count", "1"]);
    assert_eq!((out.code, out.stderr.lines().count()), (Some(2), 1), "{out}");
}

/// Whoever looked through a pipe and has seen enough leaves nobody behind.
#[test]
fn watching_ends_with_its_reader() {
    let host = Host::new("counts-watch");
    let _container = host.bare("c", &[]);
    for verb in [&["portslice", "stats", "--watch", "--interval", "1"][..], &["portslice", "top", "--interval", "1"]] {
        let mut child = host.command(verb).stdout(Stdio::piped()).spawn().expect("portslice");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("a line");
        assert!(line.starts_with("CONTAINER "), "{verb:?}: {line}");
        let mut status = None;
        let ended = wait::eventually(|| {
            status = child.try_wait().expect("wait");
            status.is_some()
        });
        if !ended {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
        assert!(status.is_some_and(|status| status.success()), "{verb:?}: {status:?}");
    }
}

/// A namespace that cannot be entered any more costs its own fields, not the others.
#[test]
fn a_source_that_is_gone_takes_no_other_field_along() {
    let host = Host::with("counts-gone").config(CONFIG).build();
    let container = host.bare("c", &[]);
    datagrams(&container.ns, &host.peer, SocketAddr::new(PEER4, 20_000), 3, 100);
    let keeps: OwnedFd = std::fs::File::open(container.ns.path()).expect("namespace").into();
    container.ns.kill();
    let all = statistics(&host, "c");
    assert_eq!(all["net_tx_packets"], 3, "{all}");
    assert_eq!(all["net_snmp_statistics"], Value::Null, "{all}");
    drop(keeps);
    assert_eq!(host.portslice(["stats", "nobody"]).code, Some(6));
}
