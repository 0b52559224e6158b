//! Traffic that never leaves the host: it counts like any other unless it is spared, and the wire is limited either way.

use super::*;
use crate::lab::limit::MBIT;

const RATE: u64 = 10 * MBIT;
const SETTLED: Duration = Duration::from_millis(300);
const WINDOW: Duration = Duration::from_secs(1);
const HOST_PORT: u16 = 20_000;

/// A path and whether the limit applies to it.
type Path<'s> = (&'static str, &'s Ns, &'s Ns, SocketAddr, bool);

fn measured((what, from, into, to, limited): Path, carrier: Carrier) {
    let stream = flow::Plan::new(carrier, from, into, to).start();
    let began = stream.began();
    let (rest, window) = if limited { (SETTLED, WINDOW) } else { (SETTLED / 2, SETTLED) };
    let mut rate = 0.0;
    // what should be fast may be kept from it by others, but not each time
    for round in 0..3 {
        let from = began + rest + window * round;
        std::thread::sleep((from + window).saturating_duration_since(Instant::now()));
        rate = if limited { assert_within(&stream, RATE, from, window) } else { stream.rate(from, window) };
        println!("{what}, {carrier:?}: {:.2} Mbit/s{}", rate / 1e6, if limited { " (limited)" } else { "" });
        if rate >= if limited { 0.8 } else { 5.0 } * RATE as f64 {
            return;
        }
    }
    panic!(
        "{what}, {carrier:?}: only {rate:.0} bit/s, {} limit of {RATE}",
        if limited { "at a" } else { "without the" }
    );
}

fn what_stays_on_the_host(name: &str, spared: &[&str], local: bool) {
    let host = Host::new(name);
    let attach = |id: &str, ports: &str, option: &str| {
        host.bare(id, &[&["--ports", ports, option, &format!("{RATE}bit")], spared].concat())
    };
    let out = attach("out", "31000-31009", "--egress-rate");
    let back = attach("back", "31010-31019", "--ingress-rate");
    let free = host.bare("free", &["--ports", "31020-31029"]);
    let (h, p) = (&host.ns, &host.peer);
    let at = SocketAddr::new;
    let paths: [Path; 11] = [
        ("out -> host by loopback", &out.ns, h, at(LO4, HOST_PORT), local),
        ("out -> host by address", &out.ns, h, at(HOST6, HOST_PORT + 1), local),
        ("out -> free by loopback", &out.ns, &free.ns, at(LO4, 31_020), local),
        ("out -> free by address", &out.ns, &free.ns, at(HOST4, 31_021), local),
        ("host -> back by loopback", h, &back.ns, at(LO6, 31_010), local),
        ("host -> back by address", h, &back.ns, at(HOST4, 31_011), local),
        ("free -> back by loopback", &free.ns, &back.ns, at(LO4, 31_012), local),
        ("free -> back by address", &free.ns, &back.ns, at(HOST4, 31_013), local),
        ("host -> out, which may receive what it likes", h, &out.ns, at(LO4, 31_000), false),
        ("out -> the wire", &out.ns, p, at(PEER4, HOST_PORT), true),
        ("the wire -> back", p, &back.ns, at(HOST4, 31_014), true),
    ];
    // what is limited needs next to nothing of the processors, the rest one after the other
    std::thread::scope(|s| {
        let limited = paths.iter().filter(|p| p.4).enumerate().map(|(n, path)| {
            let carrier = if n % 2 == 0 { Carrier::Tcp } else { Carrier::Udp };
            (*path, carrier)
        });
        // each direction is one container's: its paths share the limit, so they take turns
        let (sending, receiving): (Vec<_>, Vec<_>) = limited.partition(|(path, _)| path.0.starts_with("out"));
        for side in [sending, receiving] {
            s.spawn(move || side.into_iter().for_each(|(path, carrier)| measured(path, carrier)));
        }
    });
    let _alone = flow::alone();
    paths.iter().filter(|p| !p.4).for_each(|path| measured(*path, Carrier::Tcp));
}

#[test]
fn what_stays_on_the_host_counts() {
    what_stays_on_the_host("limit-local", &[], true);
}

#[test]
fn what_stays_on_the_host_is_spared_when_asked() {
    what_stays_on_the_host("limit-spared", &["--limit-local", "false"], false);
}

#[test]
fn the_configuration_says_whether_it_counts() {
    let host = Host::with("limit-local-config").config("ports = \"31000-31999\"\nlimit_local = false\n").build();
    for (asked, local) in [(&[][..], false), (&["--limit-local", "true"], true)] {
        let args = [&["--egress-rate", "10mbit"], asked].concat();
        let container = host.bare("c", &args);
        assert_eq!(container.show()["limit_local"], local, "{args:?}");
        measured(("c -> host", &container.ns, &host.ns, SocketAddr::new(LO4, HOST_PORT), local), Carrier::Tcp);
        container.detach();
        container.kill();
    }
}
