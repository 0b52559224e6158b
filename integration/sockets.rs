//! Promise: bind() tells the truth. A port that is somebody else's fails with EADDRINUSE, in a container and on the host, and
//! whoever gets a port hears what is sent to it.

mod programs;
mod range;

use crate::lab::*;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// 127.0.0.1 and HOST4 as an IPv6 socket names them.
const MAPPED_LO: IpAddr = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
const MAPPED_HOST: IpAddr = IpAddr::V6(Ipv4Addr::new(10, 77, 0, 2).to_ipv6_mapped());
const KINDS: [(&str, i32); 2] = [("TCP", libc::SOCK_STREAM), ("UDP", libc::SOCK_DGRAM)];

/// A port that nobody is ever given.
const FREE: u16 = 8080;

/// Socket options that are set before bind(), by name.
type Options<'a> = &'a [(&'a str, i32)];
const REUSEADDR: (&str, i32) = ("SO_REUSEADDR", libc::SO_REUSEADDR);
const REUSEPORT: (&str, i32) = ("SO_REUSEPORT", libc::SO_REUSEPORT);

/// A bound socket of the thread's namespace.
fn bound(kind: i32, options: Options<'_>, at: IpAddr, port: u16) -> io::Result<OwnedFd> {
    let socket = sock::socket(sock::family(at), kind, 0)?;
    for (_, option) in options {
        sock::set(&socket, libc::SOL_SOCKET, *option, 1i32)?;
    }
    sock::bind(&socket, SocketAddr::new(at, port)).map(|()| socket)
}

/// What bind() comes to in a namespace.
#[track_caller]
fn binds(ns: &Ns, kind: (&str, i32), options: Options<'_>, at: IpAddr, port: u16, taken: bool) {
    let done = ns.inside(|| bound(kind.1, options, at, port).map(drop));
    let errno = done.as_ref().err().and_then(io::Error::raw_os_error);
    let names: Vec<&str> = options.iter().map(|(name, _)| *name).collect();
    let wanted = if taken { Some(libc::EADDRINUSE) } else { None };
    let (name, kind) = (&ns.name, kind.0);
    assert_eq!(errno, wanted, "{name}: {kind} bind to {} {names:?}: {done:?}", SocketAddr::new(at, port));
}

fn two(host: &Host) -> (Container, Container) {
    (host.bare("a", &["--ports", "31000-31009"]), host.bare("b", &["--ports", "31010"]))
}

#[test]
fn a_container_binds_its_own_ports_and_is_told_of_all_others() {
    let host = Host::with("binds-inside").judged("require").build();
    let (a, b) = two(&host);
    let own = [0, 31000, 31009, *a.block.start(), *a.block.end()];
    let foreign = [31010, *b.block.start(), *b.block.end(), 57344, 80, FREE, 65535, 30999];
    for kind in KINDS {
        for at in [ANY4, ANY6, HOST4, HOST6, LO4, LO6, MAPPED_LO, MAPPED_HOST] {
            own.iter().for_each(|port| binds(&a.ns, kind, &[], at, *port, false));
            let loopback = [LO4, LO6, MAPPED_LO].contains(&at);
            foreign.iter().for_each(|port| binds(&a.ns, kind, &[], at, *port, !loopback));
        }
        binds(&a.ns, kind, &[], "127.9.8.7".parse().unwrap(), FREE, false);
        binds(&b.ns, kind, &[], ANY4, 31000, true);
        binds(&b.ns, kind, &[], ANY4, 31010, false);
    }
    assert_eq!(a.show()["bind_judged"], true);
}

#[test]
fn the_host_is_told_of_leased_ports_and_binds_all_others() {
    let host = Host::with("binds-outside").judged("require").build();
    let (a, b) = two(&host);
    for kind in KINDS {
        for at in [ANY4, ANY6, HOST4, HOST6, LO4, LO6, MAPPED_LO, MAPPED_HOST] {
            for port in [31000, 31010, *a.block.start(), *b.block.end()] {
                binds(&host.ns, kind, &[], at, port, true);
            }
            // Neither what is not leased yet, nor what never is.
            for port in [0, 31011, 40, 57344, FREE, *b.block.end() + 1] {
                binds(&host.ns, kind, &[], at, port, false);
            }
        }
        binds(&host.ns, kind, &[REUSEADDR, REUSEPORT], ANY4, 31000, true);
    }
    a.detach();
    for kind in KINDS {
        binds(&host.ns, kind, &[], ANY4, 31000, false);
        binds(&host.ns, kind, &[], ANY4, 31010, true);
        // The namespace lives on, and is none of ours any more.
        binds(&a.ns, kind, &[], ANY4, FREE, false);
    }
}

#[test]
fn datagram_sockets_share_ports_that_nobody_leases() {
    let host = Host::with("binds-shared").judged("require").build();
    let (a, b) = two(&host);
    let [tcp, udp] = KINDS;
    for at in [ANY4, ANY6, "224.0.0.251".parse().unwrap()] {
        for option in [REUSEADDR, REUSEPORT] {
            binds(&a.ns, udp, &[option], at, 5353, false);
            binds(&a.ns, udp, &[option], at, 31010, true);
            binds(&a.ns, udp, &[option], at, *b.block.start(), true);
        }
        binds(&a.ns, udp, &[], at, 5353, true);
    }
    binds(&a.ns, tcp, &[REUSEADDR, REUSEPORT], ANY4, 5353, true);
    // A socket that was refused keeps nothing of what it was then.
    a.inside(|| {
        let socket = sock::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).unwrap();
        let share = |value: i32| sock::set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, value).unwrap();
        let bind = |port| sock::bind(&socket, SocketAddr::new(ANY4, port)).map_err(|e| e.raw_os_error());
        share(1);
        assert_eq!(bind(31010), Err(Some(libc::EADDRINUSE)), "leased");
        share(0);
        assert_eq!(bind(5353), Err(Some(libc::EADDRINUSE)), "it shares no more");
        share(1);
        assert_eq!(bind(5353), Ok(()), "it shares again");
    });
}

/// What sockets of one owner do among themselves is the kernel's to say.
#[test]
fn within_one_owner_the_kernel_decides() {
    let host = Host::with("binds-within").judged("require").build();
    let (a, _) = two(&host);
    for (ns, port) in [(&a.ns, 31000), (&host.ns, FREE)] {
        for (name, kind) in KINDS {
            let first = ns.inside(|| bound(kind, &[REUSEPORT], ANY4, port)).expect("the first");
            binds(ns, (name, kind), &[REUSEPORT], ANY4, port, false);
            binds(ns, (name, kind), &[], ANY4, port, true);
            drop(first);
            // a program that another test starts just now has the socket until it runs
            let free = || ns.inside(|| bound(kind, &[], ANY6, port)).is_ok();
            assert!(wait::eventually(free), "{}: {name} {port} is not given back", ns.name);
        }
    }
    let denied = a.inside(|| bound(libc::SOCK_STREAM, &[], PEER4, 80).map(drop));
    let errno = denied.unwrap_err().raw_os_error();
    assert_eq!(errno, Some(libc::EADDRNOTAVAIL), "an address that is not its own comes before a port that is not");
}

/// Engines bind in the host what they publish, after their network plugin has leased it.
#[test]
fn a_placeholder_of_an_engine_is_no_conflict() {
    let host = Host::with("binds-placeholder").judged("require").build();
    let (_a, _b) = two(&host);
    for (name, free) in [(c"podman", true), (c"crio", true), (c"podman2", false), (c"cri", false)] {
        for (_, kind) in KINDS {
            let done = host.inside(|| {
                nix::sys::prctl::set_name(name).expect("a name");
                bound(kind, &[], ANY4, 31000).map(drop)
            });
            assert_eq!(done.is_ok(), free, "{name:?}: {done:?}");
        }
    }
}

/// The default listener of new Go programs: what is bound is a socket of the kernel, its first subflow.
#[test]
fn multipath_tcp_is_told_as_well() {
    let host = Host::with("binds-mptcp").judged("require").build();
    let (a, _) = two(&host);
    const IPPROTO_MPTCP: i32 = 262;
    for (ns, own, foreign) in [(&a.ns, 31000, 31010), (&host.ns, FREE, 31000)] {
        let bind = |port| {
            ns.inside(|| {
                let socket = sock::socket(libc::AF_INET, libc::SOCK_STREAM, IPPROTO_MPTCP)?;
                sock::bind(&socket, SocketAddr::new(ANY4, port))
            })
        };
        let refused = bind(foreign).expect_err("bound").raw_os_error();
        if [libc::EPROTONOSUPPORT, libc::ENOPROTOOPT].map(Some).contains(&refused) {
            return println!("skipped: this kernel has no multipath TCP");
        }
        assert_eq!(refused, Some(libc::EADDRINUSE), "{}", ns.name);
        bind(own).unwrap_or_else(|e| panic!("{}: {e}", ns.name));
    }
}

/// The look for sockets of the host comes before the lock, and ports are the lease's only under it.
#[test]
fn a_socket_of_the_host_that_is_quicker_than_the_lease_keeps_its_port() {
    let host = Host::with("binds-race").judged("require").build();
    let b = host.bare("b", &[]);
    for (name, kind) in KINDS {
        let attach = outrun(&host, kind, || host.try_bare("a", &["--ports", "31000"]).map(drop));
        let set = outrun(&host, kind, || host.portslice(["set", "b", "--ports", "+31000"]));
        for out in [attach.expect_err("it has a port of the host's"), set] {
            assert_eq!(out.code, Some(4), "{name}: {out}");
        }
        assert_eq!(b.show()["ports"], "", "{name}");
        // Only while somebody has it.
        host.bare("a", &["--ports", "31000"]).detach().ok();
    }
    assert_eq!(host.portslice(["fsck"]).ok().stdout, "");
}

/// Binds 31000 in the host while `verb` waits for the lock.
fn outrun<R: Send>(host: &Host, kind: i32, verb: impl FnOnce() -> R + Send) -> R {
    let lock = std::fs::File::open(host.ns.root(&host.state_dir().join("lock").to_string_lossy())).expect("the lock");
    fs2::FileExt::lock_exclusive(&lock).expect("locked");
    let (out, _quick) = race::both(verb, || {
        assert!(wait::eventually(|| waits_for(&lock)), "nobody waits for the lock");
        let quick = host.inside(|| bound(kind, &[], ANY4, 31000)).expect("nobody has it yet");
        if kind == libc::SOCK_STREAM {
            sock::listen(&quick).expect("listen");
        }
        fs2::FileExt::unlock(&lock).expect("unlocked");
        quick
    });
    out
}

/// Does somebody wait for a lock of this file (proc_locks(5))?
fn waits_for(file: &std::fs::File) -> bool {
    let inode = format!(":{} ", std::os::unix::fs::MetadataExt::ino(&file.metadata().expect("the file")));
    let locks = std::fs::read_to_string("/proc/locks").expect("locks");
    locks.lines().any(|line| line.contains("-> FLOCK") && line.contains(&inode))
}

/// A resolver that picks its source ports at random tries another one when bind() fails, and every answer finds it.
#[test]
fn a_resolver_with_random_source_ports_gets_every_answer() {
    let host = Host::with("binds-resolver").judged("require").build();
    let (a, _) = two(&host);
    let server = host.peer.inside(|| UdpSocket::bind((ANY4, 53)).expect("bind"));
    server.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
    let resolve = |ns: &Ns, seed: u32| {
        let (mut answers, mut random) = (0, seed);
        for query in 0..300u32 {
            let client = loop {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let port = 1024 + (random >> 16) % (65536 - 1024);
                match ns.inside(|| UdpSocket::bind((ANY4, port as u16))) {
                    Ok(client) => break client,
                    Err(e) => assert_eq!(e.raw_os_error(), Some(libc::EADDRINUSE), "{}: port {port}", ns.name),
                }
            };
            client.set_read_timeout(Some(Duration::from_millis(300))).expect("a limit");
            client.send_to(&query.to_ne_bytes(), (PEER4, 53)).expect("send");
            let mut buffer = [0; 4];
            // What a container may not send does not arrive.
            server.set_read_timeout(Some(Duration::from_millis(300))).expect("a limit");
            let Ok((_, from)) = server.recv_from(&mut buffer) else { continue };
            server.send_to(&buffer, from).expect("answer");
            answers += u32::from(client.recv(&mut buffer).is_ok() && buffer == query.to_ne_bytes());
        }
        answers
    };
    assert_eq!(resolve(&a.ns, 1), 300, "inside");
    // Most of what it may choose from is leased.
    let others: Vec<Container> =
        (0..20).map(|n| host.bare(&format!("full{n}"), &["--ephemeral-ports", "1024"])).collect();
    assert_eq!(resolve(&host.ns, 2), 300, "on the host beside {} containers", others.len());
}
