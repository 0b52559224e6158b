//! Where the host's routes lead nowhere, a program inside hears of it as one of the host does.

use super::*;
use std::io;
use std::time::{Duration, Instant};

/// What connect() says, within `patience`.
fn connect(ns: &Ns, from: Option<&str>, to: &str, patience: Duration) -> (Option<i32>, Duration) {
    let start = Instant::now();
    let told = ns.inside(|| -> io::Result<()> {
        let fd = probe::open(Proto::Tcp, ip(to))?;
        sock::limit(&fd, patience);
        if let Some(from) = from {
            sock::bind(&fd, at(from, 0))?;
        }
        sock::connect(&fd, at(to, 9))
    });
    (told.err().and_then(|e| e.raw_os_error()), start.elapsed())
}

const AT_ONCE: Duration = Duration::from_millis(500);

#[test]
fn a_route_that_refuses_has_the_hosts_errno() {
    let two = two(
        "two-refuse",
        "route add blackhole 192.0.2.0/28\nroute add unreachable 192.0.2.16/28\nroute add prohibit 192.0.2.32/28\n\
         -6 route add blackhole 2001:db8:1::/48\n-6 route add unreachable 2001:db8:2::/48\n\
         -6 route add prohibit 2001:db8:3::/48",
    );
    let unreachable = ["192.0.2.1", "192.0.2.17", "192.0.2.33", "2001:db8:1::1", "2001:db8:2::1", "2001:db8:3::1"];
    for to in unreachable {
        let [hosts, inside] =
            [&two.scene.host.ns, &two.scene.a.ns].map(|ns| connect(ns, None, to, Duration::from_secs(1)).0);
        assert!(hosts.is_some_and(|errno| errno != libc::EINPROGRESS), "{to}: the host itself got {hosts:?}");
        assert_eq!(inside, hosts, "{to}");
    }
    two.scene.assert_every_path("beside routes that refuse");
    two.scene.host.ns.ip("route del blackhole 192.0.2.0/28");
    two.scene.host.portslice(["sync"]).ok();
    let (after, _) = connect(&two.scene.a.ns, None, "192.0.2.1", AT_ONCE);
    assert_ne!(after, Some(libc::EINVAL), "a route that went");
}

#[test]
fn what_only_a_rule_refuses_is_told() {
    let two = two(
        "two-rule-refuse",
        "rule add from 10.88.0.2 lookup 88\nroute add unreachable default table 88\n\
         -6 rule add from fd88::2 lookup 88\n-6 route add prohibit default table 88",
    );
    for (from, to, expected) in
        [(HOST[0], "198.51.100.1", libc::EHOSTUNREACH), (HOST[1], "2001:db8:99::1", libc::EACCES)]
    {
        let (hosts, _) = connect(&two.scene.host.ns, Some(from), to, AT_ONCE);
        // The kernel does not tell a socket that is in the midst of connect(); it tells it when that asks again.
        let (inside, _) = connect(&two.scene.a.ns, Some(from), to, Duration::from_secs(5));
        assert_eq!((hosts, inside), (Some(expected), Some(expected)), "{from} to {to}");
    }
    assert!(two.scene.a.drops("unreachable") >= 2, "{}", two.scene.a.show()["drops"]);
}

#[test]
fn a_neighbour_of_the_second_card_that_does_not_answer_is_told_after_the_hosts_time() {
    let two = two("two-silent", SOURCE_RULES);
    let patience = Duration::from_secs(6);
    let ways = [(None, "10.88.0.77"), (Some(HOST[0]), "10.88.0.78"), (None, "fd88::77"), (Some(HOST[1]), "fd88::78")];
    std::thread::scope(|scope| {
        let told = ways.map(|(from, to)| {
            let each =
                [&two.scene.host.ns, &two.scene.a.ns].map(|ns| scope.spawn(move || connect(ns, from, to, patience)));
            (from, to, each)
        });
        for (from, to, each) in told {
            let [(hosts, expected), (inside, took)] = each.map(|thread| thread.join().expect("connect"));
            assert_eq!(hosts, Some(libc::EHOSTUNREACH), "the host itself");
            assert_eq!(inside, hosts, "{to} from {from:?}");
            assert!(took < expected + Duration::from_secs(1), "{to}: {took:?}, the host {expected:?}");
        }
    });
}

/// How large a datagram gets through that must not be cut, sent again and again as programs do that look for it.
fn largest(ns: &Ns, from: &str, to: &str, sizes: &[usize]) -> usize {
    ns.inside(|| {
        let fd = probe::open(Proto::Udp, ip(to)).expect("socket");
        let (level, option) = if ip(to).is_ipv4() {
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
        };
        sock::set(&fd, level, option, 2i32).expect("IP_PMTUDISC_DO");
        sock::bind(&fd, at(from, 0)).expect("bind");
        sock::connect(&fd, at(to, 9)).expect("connect");
        let mut passed = 0;
        for size in sizes {
            for _ in 0..3 {
                let sent = sock::send(&fd, &vec![0; *size]);
                std::thread::sleep(Duration::from_millis(50));
                match sent {
                    Ok(_) => passed = *size,
                    Err(e) => {
                        assert!(matches!(e.raw_os_error(), Some(libc::EMSGSIZE | libc::ECONNREFUSED)), "{size}: {e}");
                        if e.raw_os_error() == Some(libc::EMSGSIZE) {
                            passed = passed.min(size - 1);
                        }
                    }
                }
            }
        }
        passed
    })
}

#[test]
fn a_route_that_takes_less_than_the_uplink_says_so() {
    let host = Host::with("two-mtu").unprepared().build();
    host.altered();
    let second = network(&host.ns, "eth1", 1400);
    ways(&host.ns, SOURCE_RULES);
    host.portslice(["setup"]).ok();
    let two = Two { scene: Scene::on(host), second };
    // what it takes beside its headers
    for (own, beyond, most) in [(HOST[0], BEYOND[0], 1400 - 28), (HOST[1], BEYOND[1], 1400 - 48)] {
        let sizes = [most, most + 1, 1452];
        assert_eq!(largest(&two.scene.host.ns, own, beyond, &sizes), most, "the host itself, to {beyond}");
        assert_eq!(largest(&two.scene.a.ns, own, beyond, &sizes), most, "to {beyond}");
        // bulk finds out by itself
        let _echo = Echo::start(&two.second, Proto::Tcp, at(beyond, 4001));
        let (tried, took) = probe::ask_with(
            &two.scene.a.ns,
            Proto::Tcp,
            Some(at(own, 0)),
            at(beyond, 4001),
            200_000,
            Duration::from_secs(5),
        );
        assert!(tried.is_ok(), "to {beyond}: {tried:?} after {took:?}");
    }
}
