//! Rates that change while traffic flows.

use crate::lab::limit::{self, MBIT, bits};
use crate::lab::*;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How soon a change is in effect, and the window that has to show it.
const SOON: Duration = Duration::from_millis(100);

/// The walk: up, down, from and to no limit at all, and up from where a single packet takes longer than the change may.
const WALK: [(&str, Option<u64>); 10] = [
    ("50mbit", Some(50 * MBIT)),
    ("5mbit", Some(5 * MBIT)),
    ("64kbit", Some(64_000)),
    ("20mbit", Some(20 * MBIT)),
    ("0B", None),
    ("10mbit", Some(10 * MBIT)),
    ("0B", None),
    ("64kbit", Some(64_000)),
    ("0B", None),
    ("default", Some(10 * MBIT)),
];

const CONFIG: &str = "ports = \"31000-31999\"\n\
    egress_rate_limit_per_container = \"10mbit\"\ningress_rate_limit_per_container = \"10mbit\"\n";

#[test]
fn a_change_is_in_effect_within_a_tenth_of_a_second() {
    let host = Host::with("change-soon").config(CONFIG).build();
    let container = host.bare("c", &["--ports", "31000"]);
    let out = flow::Plan::new(Carrier::Udp, &container.ns, &host.peer, SocketAddr::new(PEER4, 20_000)).start();
    let back = flow::Plan::new(Carrier::Udp, &host.peer, &container.ns, SocketAddr::new(HOST4, 31_000)).start();
    std::thread::sleep(Duration::from_secs(1));
    // A processor that stands still keeps a stream from its rate, and shows late and all at once what came in time; but not at
    // the same step each time.
    let mut wrong: Option<BTreeMap<(usize, &str), String>> = None;
    for round in 1..=3 {
        let mut now = BTreeMap::new();
        let mut waits = 0.0;
        for (step, (text, rate)) in WALK.into_iter().enumerate() {
            container.set(&["--egress-rate", text, "--ingress-rate", text]).ok();
            let changed = Instant::now();
            std::thread::sleep(3 * SOON);
            let seen = [&out, &back].map(|stream| stream.rate(changed + SOON, SOON));
            println!("round {round}, {text}: {:.3} Mbit/s out, {:.3} in", seen[0] / 1e6, seen[1] / 1e6);
            for (way, seen) in ["out", "in"].into_iter().zip(seen) {
                if !within(seen, rate, waits) {
                    now.insert((step, way), format!("{way}, {SOON:?} after {text}: {seen:.0} bit/s"));
                }
            }
            waits = if rate.is_some_and(|rate| rate < MBIT) { WAITS } else { 0.0 };
        }
        now.retain(|at, _| wrong.as_ref().is_none_or(|before| before.contains_key(at)));
        if now.is_empty() {
            return;
        }
        wrong = Some(now);
    }
    panic!("each time:\n  {}", Vec::from_iter(wrong.unwrap_or_default().into_values()).join("\n  "));
}

/// What one socket has waiting where a single packet takes longer than a change may, in bytes: its send buffer, by default 212992
/// bytes of net.core.wmem_default, of which a datagram of these takes 2304. It leaves at once when it may.
const WAITS: f64 = 212_992.0 / 2304.0 * 1442.0;

/// Whether what arrived in the window is what a rate lets through: not more, and where it says something not much less. `waits`:
/// what waited at the rate before.
fn within(seen: f64, rate: Option<u64>, waits: f64) -> bool {
    let Some(rate) = rate else {
        return seen >= 100.0 * MBIT as f64;
    };
    let most = limit::most(rate, SOON, Carrier::Udp.packet()) + waits;
    seen / 8.0 * SOON.as_secs_f64() <= most && (rate <= MBIT || seen >= 0.85 * rate as f64)
}

/// Connections that had to wait a long time for each packet go on at once, too, whenever it is that their limit is raised.
#[test]
fn a_connection_speeds_up_at_once() {
    let host = Host::new("change-tcp");
    // at this pace no receiver merges segments, which those of a peer on the same machine never were
    host.peer.command("ip").args(["link", "set", "wire", "gso_max_size", "3428"]).status().expect("ip");
    let slow = ["--ports", "auto:1", "--egress-rate", "64kbit", "--ingress-rate", "64kbit"];
    let containers: Vec<Container> = (0..6).map(|n| host.bare(&format!("c{n}"), &slow)).collect();
    let start = |(n, container): (usize, &Container)| match n % 2 {
        0 => {
            flow::Plan::new(Carrier::Tcp, &container.ns, &host.peer, SocketAddr::new(PEER4, 20_000 + n as u16)).start()
        }
        _ => {
            let to = SocketAddr::new(HOST4, container.ports[0]);
            flow::Plan::new(Carrier::Tcp, &host.peer, &container.ns, to).start()
        }
    };
    let streams: Vec<flow::Stream> = containers.iter().enumerate().map(start).collect();
    std::thread::sleep(Duration::from_secs(2));
    let raise = |container: &Container| {
        container.set(&["--egress-rate", "20mbit", "--ingress-rate", "20mbit"]).ok();
        let changed = Instant::now();
        std::thread::sleep(Duration::from_millis(37));
        changed
    };
    let changed: Vec<Instant> = containers.iter().map(raise).collect();
    std::thread::sleep(11 * SOON);
    let mut stuck = Vec::new();
    for (stream, changed) in streams.iter().zip(changed) {
        // what was on its way is paid for at the old rate: two segments take 0.4 s
        let later = stream.rate(changed + 5 * SOON, 5 * SOON);
        let seen = format!("{}: {later:.0} bit/s", stream.what);
        println!("64 kbit/s -> 20 Mbit/s, {seen}");
        if later < 10e6 {
            stuck.push(seen);
        }
    }
    assert!(stuck.is_empty(), "64 kbit/s -> 20 Mbit/s:\n  {}", stuck.join("\n  "));
}

/// A connection each way of one container, and of another a socket that waits for room: all of what is sent arrives.
#[test]
fn changes_by_the_hundred_lose_nothing() {
    let host = Host::new("change-thousand");
    let args = ["--egress-rate", "100mbit", "--ingress-rate", "100mbit"];
    let attach = |id: &str, port: &str| host.bare(id, &[&["--ports", port], &args[..]].concat());
    let (connected, waits) = (attach("connected", "31000"), attach("waits", "31001"));
    let peer = &host.peer;
    let out = bulk::Running::start(&connected.ns, peer, SocketAddr::new(PEER4, 20_000));
    let back = bulk::Running::start(peer, &connected.ns, SocketAddr::new(HOST4, 31_000));
    let datagrams = flow::Plan::new(Carrier::Udp, &waits.ns, peer, SocketAddr::new(PEER4, 20_001)).start();
    // a connection that has no limit may have megabytes on the way when it gets one: only datagrams come by that
    let rates = ["30mbit", "300mbit", "100mbit", "free", "20mbit", "1gbit", "50mbit"];
    let (start, changes) = (Instant::now(), if long() { 1000 } else { 300 });
    for n in 0..changes {
        let (id, free) = if n % 4 == 3 { ("waits", "0B") } else { ("connected", "500mbit") };
        let rate = |n: usize| match rates[n % rates.len()] {
            "free" => free,
            rate => rate,
        };
        let options = ["--egress-rate", rate(n + n / 4), "--ingress-rate", rate(n + n / 4 + 3)];
        let mut set = host.command([&["portslice", "set", id], &options[..]].concat());
        let status = set.stdin(Stdio::null()).stdout(Stdio::null()).status().expect("set");
        assert!(status.success(), "change {n}, {options:?}: {status}");
    }
    println!("{changes} changes: {:?}", start.elapsed());
    for container in [&connected, &waits] {
        container.set(&["--egress-rate", "300mbit", "--ingress-rate", "300mbit"]).ok();
        assert_eq!(container.in_force("afterwards"), [Some(300 * MBIT); 2], "{}", container.id);
    }
    let (sent, arrived) = datagrams.finish(Duration::from_secs(1));
    let dropped = [&connected, &waits].map(|c| c.drops("egress_limit"));
    println!("{} datagrams sent, {} lost; dropped: {dropped:?}", sent / 1400, (sent - arrived) / 1400);
    for (way, transfer) in [("out", out), ("in", back)] {
        println!("{way}: {} MB, every byte in its place", transfer.finish());
    }
    assert_eq!(dropped, [0, 0], "packets dropped on the way out");
    assert_eq!(arrived, sent, "payload of one socket that waits: what arrived, of what was sent");
}

/// What waited at the old rate arrives, if late: a packet at 16 kbit/s takes 0.7 s. What is lost is counted.
#[test]
fn what_a_change_drops_is_counted() {
    let host = Host::new("change-counted");
    for (n, slow) in ["16kbit", "64kbit", "1mbit", "20mbit"].into_iter().enumerate() {
        let container = host.bare(&format!("c{n}"), &["--egress-rate", slow]);
        let to = SocketAddr::new(PEER4, 20_000 + n as u16);
        let stream = flow::Plan::new(Carrier::Udp, &container.ns, &host.peer, to).start();
        std::thread::sleep(Duration::from_millis(700));
        container.set(&["--egress-rate", "50mbit"]).ok();
        std::thread::sleep(Duration::from_millis(100));
        container.set(&["--egress-rate", "0B"]).ok();
        let (sent, arrived) = stream.finish(Duration::from_secs(3));
        let (lost, counted) = ((sent - arrived) / 1400, container.drops("egress_limit"));
        println!("{slow} -> 50mbit -> 0B: {} datagrams sent, {lost} lost, {counted} counted", sent / 1400);
        assert_eq!(lost, counted, "{slow} -> 50mbit -> 0B: datagrams lost, and those counted as dropped");
    }
}

#[test]
fn default_brings_the_configuration_back() {
    let host = Host::with("change-default").config(CONFIG).build();
    let args =
        ["--egress-rate", "50mbit", "--egress-ceil", "60mbit", "--egress-burst", "128KB", "--ingress-rate", "0B"];
    let container = host.bare("c", &args);
    assert_eq!(container.shown(), [Some(50 * MBIT), None], "asked: {}", container.show());
    // one at a time, then the rest at once
    container.set(&["--egress-ceil", "default"]).ok();
    assert_eq!(container.show()["asked"]["egress"]["ceil"], serde_json::Value::Null, "{}", container.show());
    container.set(&["--ingress-rate", "default"]).ok();
    assert_eq!(container.in_force("ingress by default"), [Some(50 * MBIT), Some(10 * MBIT)]);
    container.set(&["--egress-rate", "default", "--egress-burst", "default"]).ok();
    assert_eq!(container.in_force("all by default"), [Some(10 * MBIT); 2]);
    // it is the configuration of now that applies
    std::fs::write(host.config_file(), CONFIG.replace("10mbit", "20mbit")).expect("config");
    container.set(&["--egress-rate", "default"]).ok();
    assert_eq!(container.shown()[0], Some(20 * MBIT), "another configuration: {}", container.show());
    container.set(&["--limit-local", "false"]).ok();
    assert_eq!(container.show()["limit_local"], false);
    container.set(&["--limit-local", "default"]).ok();
    assert_eq!(container.show()["limit_local"], true);
}

#[test]
fn the_answer_is_the_lease() {
    let host = Host::new("change-json");
    let container = host.bare("c", &["--ports", "31000"]);
    let out = container.set(&["--egress-rate", "37500KB", "--ports", "+31001", "--json"]).ok();
    let lease = out.json();
    assert_eq!((&lease["id"], &lease["ports"]), (&"c".into(), &"31000-31001".into()), "{lease}");
    assert_eq!(bits(&lease["egress"]["rate"]), Some(307_200_000), "{lease}");
    assert_eq!(host.list().first(), Some(&lease), "set --json and list --json");
    let again = container.set(&["--egress-rate", "37500KB", "--json"]).ok();
    assert_eq!(again.json(), lease, "the same once more");
    let text = container.set(&["--egress-rate", "10mbit"]).ok().stdout;
    assert!(text.lines().count() == 1 && text.starts_with("c"), "for a reader: {text}");
}
