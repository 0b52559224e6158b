//! Promise: a hundred containers that come at once all get what they asked for, and ten thousand ports cost what one costs.

use crate::lab::probe::assert_reaches;
use crate::lab::wait::eventually;
use crate::lab::*;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CONTAINERS: usize = 100;
const AT_ONCE: usize = 16;

/// Runs `job` for every number below `count`, some at a time.
fn each(count: usize, job: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|s| {
        for _ in 0..AT_ONCE {
            s.spawn(|| {
                while let n @ 0.. = next.fetch_add(1, Ordering::SeqCst)
                    && n < count
                {
                    job(n);
                }
            });
        }
    });
}

#[test]
fn a_hundred_containers_at_once() {
    let config = "ports = \"31000-31999\"\nephemeral_ports_per_container = 128\n";
    let host = Host::with("scale").config(config).build();
    let namespaces: Vec<Ns> = (0..CONTAINERS).map(|n| Ns::net_only(&format!("c{n}"))).collect();
    each(CONTAINERS, |n| {
        host.prestart(&format!("c{n}"), namespaces[n].pid(), &[("portslice/ports", "auto:1")]).ok();
    });

    let leases = host.list();
    assert_eq!(leases.len(), CONTAINERS, "leases");
    let text = |key: &str| leases.iter().map(|l| l[key].to_string()).collect::<BTreeSet<_>>();
    for key in ["id", "slot", "block", "ports", "netns", "pid"] {
        assert_eq!(text(key).len(), CONTAINERS, "distinct values of {key}: {:?}", text(key));
    }
    assert_eq!(text("stage").into_iter().collect::<Vec<_>>(), ["\"attached\""]);
    let mut taken = BTreeSet::new();
    for lease in &leases {
        let end = |key: &str| lease["block"][key].as_u64().expect("block") as u16;
        let assigned = container::ports_of(lease["ports"].as_str().expect("ports"));
        assert!(matches!(assigned[..], [31_000..=31_999]), "one port of 31000-31999: {lease}");
        assert_eq!((end("begin") % 128, end("end") - end("begin")), (0, 127), "an aligned block: {lease}");
        for port in (end("begin")..=end("end")).chain(assigned) {
            assert!(taken.insert(port), "port {port} is leased twice, the second time to {lease}");
        }
    }

    let echoes: Vec<Echo> = leases
        .iter()
        .map(|lease| {
            let n: usize = lease["id"].as_str().unwrap()[1..].parse().unwrap();
            let port = container::ports_of(lease["ports"].as_str().unwrap())[0];
            Echo::start(&namespaces[n], Proto::Udp, SocketAddr::new(probe::any(HOST4), port))
        })
        .collect();
    for (echo, lease) in echoes.iter().zip(&leases) {
        let what = lease["id"].as_str().unwrap();
        assert_reaches(what, &host.peer, Proto::Udp, SocketAddr::new(HOST4, echo.at.port()));
        assert_eq!(echo.served(), 1, "{what}: its own server answered");
    }
    drop(echoes);

    each(CONTAINERS, |n| {
        let id = format!("c{n}");
        // half of them end as containers do, with their namespace
        if n % 2 == 0 {
            namespaces[n].kill();
        }
        host.poststop(&id).ok();
    });
    assert_eq!(host.ids(), [""; 0], "leases after all were stopped");
    for ns in namespaces.iter().skip(1).step_by(2) {
        still::assert_bare("after all were stopped", ns);
    }
    assert!(eventually(|| host.links() == ["eth0", "lo"]), "devices left: {:?}", host.links());
}

/// Several handfuls of ids that come and go at random, three actors each.
#[test]
fn ids_that_come_and_go() {
    let config = "ports = \"31000-31999\"\nephemeral_ports_per_container = 16\n";
    let host = Host::with("churn").config(config).build();
    let namespaces: Vec<Ns> = (0..12).map(|n| Ns::net_only(&format!("c{n}"))).collect();
    each(120, |n| {
        let (who, id) = (&namespaces[n % 12], format!("c{}", n % 12));
        // the next round of the same id may be under way: then one of the two is told so
        let out = host.prestart(&id, who.pid(), &[("portslice/ports", "auto:3")]);
        assert!(matches!(out.code, Some(0 | 7)), "round {n}: {out}");
        let out = host.poststop(&id);
        assert!(matches!(out.code, Some(0 | 7)), "round {n}: {out}");
    });
    for id in host.ids() {
        host.poststop(&id).ok();
    }
    for ns in &namespaces {
        still::assert_bare("after the churn", ns);
    }
    assert_eq!(host.links(), ["eth0", "lo"], "devices left");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn ten_thousand_ports() {
    let config = "ephemeral_ports = \"32768-38911\"\nports = \"40000-49999\"\n";
    let host = Host::with("ten-thousand").config(config).port_range("57344 60999").build();
    let namespaces = [Ns::net_only("one port"), Ns::net_only("ten thousand ports")];
    let measure = || {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..15 {
            for (n, ports) in ["40000", "40000-49999"].into_iter().enumerate() {
                let pid = namespaces[n].pid().to_string();
                let mut attach = host.command(["portslice", "attach", "server", "--pid", &pid, "--ports", ports]);
                let start = Instant::now();
                let status = attach.stdout(Stdio::null()).status().expect("attach");
                times[n].push(start.elapsed());
                assert!(status.success(), "attach with ports {ports}: {status}");
                host.portslice(["detach", "server"]).ok();
            }
        }
        times.map(median)
    };
    // other tests run at the same time and may spoil a measurement, but not each of them
    let measured: Vec<[Duration; 2]> = (0..4).map(|_| measure()).collect();
    println!("attach with one port and with ten thousand, medians: {measured:?}");
    let cheap = measured.iter().any(|[one, many]| *many <= *one * 3 / 2);
    assert!(cheap, "attach with one port and with ten thousand, medians: {measured:?}");
    let container = host.bare("server", &["--ports", "40000-49999"]);
    assert_eq!(container.lease["ports"], "40000-49999");
    let sockets: Vec<Echo> = [40_000, 44_444, 49_999]
        .map(|port| Echo::start(&container.ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), port)))
        .into();
    for echo in &sockets {
        assert_reaches("one of ten thousand", &host.peer, Proto::Udp, SocketAddr::new(HOST4, echo.at.port()));
    }
}
