//! CHECK sees each single thing that somebody takes from a slice, or alters.

use super::*;

/// What root on the host, or inside, does to a slice; `IF` is the host's end of its pair.
const INSIDE: [(&str, &str); 13] = [
    ("its eth0 is down", "ip link set eth0 down"),
    ("its lo is down", "ip link set lo down"),
    ("its eth0 has no filter inner_eth", "tc qdisc del dev eth0 ingress"),
    ("its lo has no filter inner_lo", "tc qdisc del dev lo ingress"),
    ("its eth0 lacks the address 10.77.0.2", "ip addr del 10.77.0.2/32 dev eth0"),
    ("its eth0 lacks the address fd77::2", "ip -6 addr del fd77::2/128 dev eth0"),
    ("its eth0 has the address 192.0.2.1", "ip addr add 192.0.2.1/32 dev eth0"),
    ("it lacks the route 0.0.0.0/0", "ip route del default"),
    ("it lacks the route ::/0", "ip -6 route del default"),
    ("its route 0.0.0.0/0 has MTU 1400", "ip route change default dev eth0 src 10.77.0.2 mtu 1400"),
    ("has the MAC address 02:00:00:00:00:99", "ip link set eth0 address 02:00:00:00:00:99"),
    ("its eth0 takes packets of 65536 bytes instead of", "ip link set eth0 gso_max_size 65536"),
    ("its net.ipv4.ip_local_port_range is", "sysctl -qw net.ipv4.ip_local_port_range=\"20000 20100\""),
];

const OUTSIDE: [(&str, &str); 6] = [
    ("is down", "ip link set IF down"),
    ("has no filter from_container", "tc qdisc del dev IF ingress"),
    ("device IF has MTU 1400 instead of 65535", "ip link set IF mtu 1400"),
    ("its address is another", "ip link set IF address 02:00:00:00:00:99"),
    ("the ingress queue (50mbit) holds to 11250000B", "tc class change dev IF classid 1:1 htb rate 90mbit ceil 90mbit"),
    ("device IF is gone", "ip link set IF name other"),
];

/// One container each: what a test breaks stays broken.
#[test]
fn check_sees_each_single_thing_that_is_not_as_planned() {
    let host = Host::new("cni-tampered");
    let limits =
        [("portslice/ports", "31000-31001"), ("portslice/egress-rate", "5mbit"), ("portslice/ingress-rate", "50mbit")];
    let mut seen = 0;
    let mut each = |line: &str, tamper: &dyn Fn(&Ns, &str)| {
        let ns = Ns::net_only("container");
        let attachment = Attachment::new("web", &ns.path()).annotated(&limits);
        let result = attachment.add(&host);
        attachment.check(&host, &result).ok();
        let outer = format!("portslice{}", host.list()[0]["slot"]);
        tamper(&ns, &outer);
        println!("{line}");
        attachment.check(&host, &result).failed(110, &line.replace("IF", &outer));
        attachment.del(&host);
        let _ = host.run(["ip", "link", "del", "other"]);
        seen += 1;
    };
    let shell = |ns: &Ns, line: &str| {
        let out = ns.command("sh").args(["-c", line]).output().expect("sh");
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    };
    for (line, command) in INSIDE {
        each(line, &|ns, _| shell(ns, command));
    }
    for (line, command) in OUTSIDE {
        each(line, &|_, outer| shell(&host.ns, &command.replace("IF", outer)));
    }
    each("the ingress queue", &|_, outer| shell(&host.ns, &format!("tc qdisc del dev {outer} root")));
    each("the egress queue (5mbit) is gone", &|_, outer| {
        let slot: u16 = outer.trim_start_matches("portslice").parse().expect("slot");
        let class = format!("1:{slot:x}");
        shell(&host.ns, &format!("tc class del dev portslice-limit classid {class}"));
    });
    let leases = host.state_dir().join("leases");
    each("lease and the kernel's copy of it differ", &|_, _| {
        let file = leases.join("web");
        let text = std::fs::read_to_string(&file).expect("lease");
        std::fs::write(&file, text.replace("\"host_loopback\":true", "\"host_loopback\":false")).expect("lease");
    });
    assert_eq!(seen, INSIDE.len() + OUTSIDE.len() + 3);
}

/// Programs on the uplink lead to every slice.
#[test]
fn check_sees_that_nothing_leads_to_the_container_any_more() {
    let host = Host::new("cni-unhooked");
    let ns = Ns::net_only("container");
    let attachment = Attachment::new("web", &ns.path()).annotated(&PORTS);
    let result = attachment.add(&host);
    host.portslice(["setup"]).ok();
    attachment.check(&host, &result).ok();
    let pins = host.state_dir();
    host.ns.inside_mounts(move || {
        let mounted = std::fs::read_to_string("/proc/thread-self/mounts").expect("mounts");
        let below =
            |line: &str| Some(line.split(' ').nth(1)?.to_owned()).filter(|at| at.starts_with(&*pins.to_string_lossy()));
        let at = mounted.lines().find_map(below).expect("the BPF file system");
        nix::mount::umount2(at.as_str(), nix::mount::MntFlags::MNT_DETACH).expect("umount");
    });
    attachment.check(&host, &result).failed(105, "somebody unmounted the BPF file system");
    host.portslice(["setup"]).ok();
    attachment.check(&host, &result).ok();
    // Another namespace than that of the ADD, and a result that is not of it.
    let other = Ns::net_only("other");
    Attachment { netns: other.path(), ..attachment.clone() }
        .check(&host, &result)
        .failed(110, "is not its network namespace");
    let mut elsewhere = result.clone();
    elsewhere["ips"][0]["address"] = json!("10.77.0.77/32");
    attachment.check(&host, &elsewhere).failed(110, "it was given 10.77.0.77");
    attachment.call(&host, "CHECK").failed(7, "prevResult is missing");
}
