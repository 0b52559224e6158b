//! The host changes at random while containers come, change and go: at the end every container that runs carries exactly what
//! the host has.

use super::service::{Service, log};
use crate::lab::*;
use crate::model::ops::Random;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Processes that attach, detach and set at any time.
const WORKERS: u64 = 8;

/// One change of the host. `there`: what it has beside what it began with.
fn change(host: &Host, random: &mut Random, there: &mut BTreeSet<String>) {
    let number = random.below(12);
    let thing = match random.below(4) {
        0 => format!("addr X 10.77.0.{}/24 dev eth0", 100 + number),
        1 => format!("addr X fd77::{:x}/64 dev eth0", 0x100 + number),
        2 => format!("route X 203.0.{number}.0/24 via 10.77.0.1 dev eth0"),
        _ => format!("route X 2001:db8:{number:x}::/48 via fd77::1 dev eth0"),
    };
    if random.below(10) == 0 {
        host.ns.ip(&format!("link set eth0 mtu {}", 1300 + 100 * random.below(3)));
        return;
    }
    let verb = if there.remove(&thing) {
        "del"
    } else {
        there.insert(thing.clone());
        "add"
    };
    let nodad = if verb == "add" && thing.starts_with("addr X fd") { " nodad" } else { "" };
    host.ns.ip(&(thing.replacen('X', verb, 1) + nodad));
}

/// Addresses, without prefix lengths, and routes, without what a container's have otherwise.
fn carried(ns: &Ns) -> (BTreeSet<String>, BTreeSet<String>) {
    let addresses = ns.read("ip -o addr show dev eth0 scope global");
    let address = |line: &str| {
        let at = line.split_whitespace().nth(3).expect("an address");
        at.split('/').next().expect("no prefix").to_owned()
    };
    let routes = ns.read("ip route show dev eth0; ip -6 route show dev eth0");
    let destination = |line: &str| {
        let to = line.split_whitespace().next().expect("a destination").to_owned();
        // link-local neighbours, the container's own addresses, and what the host has in its local table
        (!to.starts_with("fe80") && to != "broadcast" && !to.starts_with("fd77::1") && to != "fd77::2").then_some(to)
    };
    (addresses.lines().map(address).collect(), routes.lines().filter_map(destination).collect())
}

/// Attaches, changes and detaches until told to stop; returns what it leaves running.
fn work(host: &Host, worker: u64, seed: u64, stop: &AtomicBool, count: &AtomicU32) -> Vec<(String, Ns)> {
    let mut random = Random::new(seed + worker);
    let mut mine: Vec<(String, Ns)> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let number = count.fetch_add(1, Ordering::Relaxed);
        match random.below(4) {
            0 | 1 if mine.len() < 4 => {
                let (id, ns) = (format!("w{worker}-{number}"), Ns::net_only("random"));
                let pid = ns.pid().to_string();
                host.portslice(["attach", &id, "--pid", &pid, "--ephemeral-ports", "64"]).ok();
                mine.push((id, ns));
            }
            2 if !mine.is_empty() => {
                let (id, _) = &mine[random.below(mine.len() as u64) as usize];
                host.portslice(["set", id, "--egress-rate", &format!("{}mbit", 20 + random.below(50))]).ok();
            }
            _ if !mine.is_empty() => {
                let (id, ns) = mine.swap_remove(random.below(mine.len() as u64) as usize);
                if random.below(2) == 0 {
                    host.portslice(["detach", &id]).ok();
                }
                ns.kill();
            }
            _ => {}
        }
    }
    mine
}

#[test]
fn whatever_changes_beside_them_containers_carry_what_the_host_has() {
    let seed = std::env::var("PORTSLICE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        u64::from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("time").subsec_nanos())
    });
    println!("PORTSLICE_SEED={seed}");
    let time = Duration::from_secs(if long() { 60 } else { 15 });
    let host = Host::new("follow-random");
    host.altered();
    let service = Service::on(&host);
    let (stop, count, left) = (AtomicBool::new(false), AtomicU32::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (host, stop, count, left) = (&host, &stop, &count, &left);
            scope.spawn(move || {
                // Whatever becomes of one, the others are told to stop.
                struct Stop<'a>(&'a AtomicBool);
                impl Drop for Stop<'_> {
                    fn drop(&mut self) {
                        self.0.store(true, Ordering::Relaxed);
                    }
                }
                let _stop = Stop(stop);
                let mine = work(host, worker, seed, stop, count);
                left.lock().unwrap().extend(mine);
            });
        }
        let (start, mut random, mut there) = (Instant::now(), Random::new(seed), BTreeSet::new());
        let mut changes = 0;
        while start.elapsed() < time && !stop.load(Ordering::Relaxed) {
            change(&host, &mut random, &mut there);
            changes += 1;
            std::thread::sleep(time / 100);
        }
        stop.store(true, Ordering::Relaxed);
        println!("{changes} changes beside {} operations", count.load(Ordering::Relaxed));
    });
    let mut left = left.into_inner().unwrap();
    if left.is_empty() {
        let ns = Ns::net_only("random");
        host.portslice(["attach", "last", "--pid", &ns.pid().to_string(), "--ephemeral-ports", "64"]).ok();
        left.push(("last".into(), ns));
    }
    let quiet = wait::eventually(|| host.portslice(["sync", "--dry-run"]).ok().stdout == "nothing to do\n");
    assert!(quiet, "the service left something to do: {}\n{}", host.portslice(["sync", "--dry-run"]), log(&host));
    drop(service);
    assert_eq!(host.portslice(["sync"]).ok().stdout.trim(), "nothing to do");
    let wanted = carried(&host.ns);
    for (id, ns) in &left {
        assert_eq!(carried(ns), wanted, "{id}\n{}", log(&host));
    }
    host.portslice(["gc"]).ok();
    let found = host.portslice(["fsck"]);
    assert_eq!(found.code, Some(0), "{found}");
}
