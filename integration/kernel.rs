//! The maps as the kernel keeps them: records, tenants, ports, devices, and finding them without a pin. And what netlink
//! tells of filters, routes and the namespace behind a pair.
//!
//! No host is simulated: the data path is loaded into a mount and a network namespace of the test's own thread.

use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use portslice::net::link::Link;
use portslice::net::{Netlink, Netns, filter, link, qdisc, route};
use portslice::ports::{PortRange, PortSet};
use portslice::steer::tenants::{Cursor, Tenant, TenantState, boottime, id_hash};
use portslice::steer::{Book, Maps, Owner, Programs, find};

/// Runs `test` in a thread that has namespaces of its own, with a loaded data path.
pub fn loaded(test: impl FnOnce(PathBuf) + Send + 'static) {
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("bpf"), "/mnt", Some("bpf"), MsFlags::empty(), none).unwrap();
        let directory = PathBuf::from("/mnt");
        Programs::at(&directory).load().unwrap();
        test(directory);
    };
    std::thread::spawn(run).join().unwrap();
}

fn set(text: &str) -> PortSet {
    text.parse().unwrap()
}

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}

#[test]
fn records_are_written_at_one_moment() {
    loaded(|directory| {
        let book = Book::open(&directory).unwrap();
        assert_eq!(book.read(7).unwrap(), None);
        for length in [0, 10, 2040, 2041, 60_000, 31 * 2040, 5000, 1] {
            let record: Vec<u8> = (0..length).map(|i| (i * 7) as u8).collect();
            book.write(7, &record).unwrap();
            assert_eq!(book.read(7).unwrap(), Some(record));
        }
        book.write(7, &vec![0; 31 * 2040 + 1]).unwrap_err();
        assert_eq!(book.read(7).unwrap().map(|r| r.len()), Some(1), "the refused record changed nothing");
        book.write(0, b"{}").unwrap();
        book.write(4095, b"last").unwrap();
        book.write(3, &[9; 5000]).unwrap();
        assert_eq!(book.slots().unwrap(), [3, 7, 4095]);

        // a reader beside a writer sees one record or the other
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (0..3000).for_each(|i| book.write(3, &[i as u8; 5000]).unwrap()));
            while !writer.is_finished() {
                let record = book.read(3).unwrap().unwrap();
                assert_eq!(record.len(), 5000);
                assert!(record.iter().all(|byte| *byte == record[0]));
            }
        });
        for slot in [3, 3, 7, 4095] {
            book.erase(slot).unwrap();
            assert_eq!(book.read(slot).unwrap(), None);
        }
        assert_eq!(book.slots().unwrap(), [] as [u16; 0]);
        assert_eq!(book.read(0).unwrap().as_deref(), Some(&b"{}"[..]));
    });
}

#[test]
fn a_record_with_a_hole_is_torn() {
    loaded(|directory| {
        let book = Book::open(&directory).unwrap();
        book.write(5, &[1; 5000]).unwrap();
        let map = directory.join("book");
        // its second chunk, in either generation's place
        for chunk in ["2", "34"] {
            let key = ["key", chunk, "0", "5", "0"];
            let _ = Command::new("bpftool").args(["map", "delete", "pinned"]).arg(&map).args(key).output();
        }
        let error = book.read(5).unwrap_err().to_string();
        assert!(error.contains("torn"), "{error}");
        book.write(5, b"whole").unwrap();
        assert_eq!(book.read(5).unwrap().as_deref(), Some(&b"whole"[..]));
    });
}

#[test]
fn tenants_and_the_cursor_are_shared() {
    loaded(|directory| {
        let (maps, other) = (Maps::open(&directory).unwrap(), Maps::open(&directory).unwrap());
        let leased = Tenant {
            netns: 4_026_531_840,
            id: id_hash("web"),
            stamp: 0,
            block: Some((32768, 1024)),
            state: TenantState::Leased,
        };
        let rests = Tenant { stamp: boottime(), state: TenantState::Rests, ..leased };
        maps.tenants.put(1, leased);
        maps.tenants.put(4095, leased);
        maps.tenants.put(2, rests);
        assert_eq!(other.tenants.get(1), leased);
        assert_eq!(other.tenants.get(2), rests);
        assert_eq!(other.tenants.get(3), Tenant::default());
        assert_eq!(other.tenants.leased().collect::<Vec<_>>(), [1, 4095]);
        let cursor = Cursor { epoch: u32::MAX, last_slot: 4095, block: 61440 };
        maps.tenants.set_cursor(cursor);
        assert_eq!(other.tenants.cursor(), cursor);
        assert_eq!(other.tenants.get(0), Tenant::default());
    });
}

#[test]
fn ports_are_reserved_before_they_are_steered() {
    loaded(|directory| {
        let maps = Maps::open(&directory).unwrap();
        let ports = set("31000-31009,65535");
        let own = |steered| Some(Owner { slot: 3, steered });
        maps.reserve(&ports, 3).unwrap();
        assert_eq!(maps.owner(65535), own(false));
        maps.publish(&ports, 3);
        assert_eq!(maps.owner(65535), own(true));
        maps.publish(&set("31020"), 4);
        maps.unpublish(&set("31005-31020"), 3);
        assert_eq!(maps.owned(3), (set("31000-31004,65535"), set("31005-31009")));
        assert_eq!(maps.owned(4), (set("31020"), set("")));
        assert_eq!(maps.taken(PortRange::new(31003, 65534).unwrap()), set("31003-31009,31020"));
        maps.withdraw(&set("31000-65535"), 3);
        assert_eq!(maps.owned(3), (set(""), set("")));
        assert_eq!(maps.taken(PortRange::new(1, 65535).unwrap()), set("31020"));
    });
}

#[test]
fn a_device_leaves_its_entry_when_it_goes() {
    loaded(|directory| {
        let maps = Maps::open(&directory).unwrap();
        maps.clear_device(3).unwrap();
        assert_eq!(maps.device(3).unwrap(), None);
        ip("link add aa0 type veth peer name aa1");
        let index = nix::net::if_::if_nametoindex("aa0").unwrap();
        maps.set_device(3, index).unwrap();
        maps.set_device(4, index).unwrap();
        assert_eq!(maps.device(3).unwrap(), Some(index));
        maps.clear_device(4).unwrap();
        assert_eq!(maps.device(4).unwrap(), None);
        ip("link delete aa1");
        assert_eq!(maps.device(3).unwrap(), None);
        maps.set_device(3, index).unwrap_err();
    });
}

#[test]
fn an_installation_is_found_without_its_pins() {
    loaded(|directory| {
        let maps = Maps::open(&directory).unwrap();
        maps.book.write(0, b"mine").unwrap();
        maps.reserve(&set("31000"), 9).unwrap();
        let book = maps.book.id().unwrap();
        let programs = Programs::at(&directory);
        let held = programs.open("from_wire").unwrap();
        drop(maps);
        nix::mount::umount2("/mnt", nix::mount::MntFlags::MNT_DETACH).unwrap();

        let found = find::installations().unwrap().into_iter().find(|i| i.book == book).expect("held by a program");
        assert_eq!(found.record, b"mine");
        assert!(found.maps.owner(31000).is_some_and(|owner| owner.slot == 9));
        let wire = found.programs.iter().find(|p| p.name == "from_wire").unwrap();
        assert_eq!(find::book_of_program(wire.id).unwrap(), Some(book));
        assert_eq!(find::book_of_program(u32::MAX).unwrap(), None);
        assert!(Programs::find(book, "from_wire").unwrap().is_some());
        assert!(Programs::find(book, "from_nowhere").unwrap().is_none());
        drop(held);
    });
}

#[test]
fn a_tcx_link_is_found_and_detached() {
    loaded(|directory| {
        ip("link add aa0 type veth peer name aa1");
        let index = nix::net::if_::if_nametoindex("aa0").unwrap();
        let programs = Programs::at(&directory);
        if !programs.attach_tcx("from_wire", index, "aa0").unwrap() {
            return;
        }
        let book = Book::open(&directory).unwrap().id().unwrap();
        let own = || {
            let hooked = find::hooked().unwrap().into_iter();
            hooked.filter(|h| find::book_of_program(h.program).unwrap() == Some(book)).collect::<Vec<_>>()
        };
        assert_eq!(own().iter().map(|h| h.ifindex).collect::<Vec<_>>(), [index]);
        find::unhook(own()[0].link).unwrap();
        assert_eq!(own().iter().map(|h| h.ifindex).collect::<Vec<_>>(), [0]);
    });
}

/// A namespace held by a process alone, and a pair `aa0` (here) and `aa1` (there) with 10.99.0.1 and 10.99.0.2.
fn neighbour() -> (Child, Netns) {
    let child = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().unwrap();
    let here = Netns::current().unwrap().id;
    let there = loop {
        match Netns::of_pid(child.id()) {
            Ok(netns) if netns.id != here => break netns,
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    ip(&format!("link add aa0 type veth peer name aa1 netns {}", child.id()));
    ip("address add 10.99.0.1/24 dev aa0");
    ip("link set aa0 up");
    let inside = || {
        ip("address add 10.99.0.2/24 dev aa1");
        ip("link set aa1 up");
        Ok(())
    };
    there.inside(inside).unwrap();
    // a netlink socket that was closed holds its namespace until an RCU grace period is over (netlink_release)
    std::thread::sleep(Duration::from_millis(200));
    (child, there)
}

#[test]
fn a_namespace_lives_as_long_as_somebody_holds_it() {
    loaded(|_| {
        let mut netlink = Netlink::route().unwrap();
        let (mut child, there) = neighbour();
        let pair = link::find(&mut netlink, "aa0").unwrap().unwrap();
        assert!(pair.netns.is_some_and(|id| id >= 0));
        assert!(link::namespace_lives(&mut netlink, &pair).unwrap());
        // the file alone holds it
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(link::namespace_lives(&mut netlink, &pair).unwrap());
        drop(there);
        dies(&mut netlink, &pair);
        let began = Instant::now();
        while let Some(again) = link::find(&mut netlink, "aa0").unwrap() {
            assert!(!link::namespace_lives(&mut netlink, &again).unwrap());
            assert!(began.elapsed() < Duration::from_secs(5));
        }

        // without a file: the process alone
        let (mut child, there) = neighbour();
        drop(there);
        let pair = link::find(&mut netlink, "aa0").unwrap().unwrap();
        assert!(link::namespace_lives(&mut netlink, &pair).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        dies(&mut netlink, &pair);
    });
}

#[test]
fn a_socket_with_unsent_data_holds_its_namespace() {
    loaded(|_| {
        let mut netlink = Netlink::route().unwrap();
        let (mut child, there) = neighbour();
        let listener = TcpListener::bind("10.99.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut stream = there.inside(|| Ok(TcpStream::connect(address).unwrap())).unwrap();
        stream.set_nonblocking(true).unwrap();
        let full = std::iter::repeat_with(|| stream.write_all(&[0; 65536])).find_map(Result::err).unwrap();
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        let pair = link::find(&mut netlink, "aa0").unwrap().unwrap();
        drop((there, stream));
        child.kill().unwrap();
        child.wait().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert!(link::namespace_lives(&mut netlink, &pair).unwrap(), "held by the socket");
        let again = link::find(&mut netlink, "aa0").unwrap().unwrap();
        assert_eq!(again.netns, pair.netns);

        // resets the connection
        drop(listener);
        dies(&mut netlink, &pair);
    });
}

/// Waits until nobody holds the namespace at the other end. Not at once: a child that another thread has just forked has our
/// files until it becomes its program.
#[track_caller]
fn dies(netlink: &mut Netlink, pair: &Link) {
    let began = Instant::now();
    while link::namespace_lives(netlink, pair).unwrap() {
        assert!(began.elapsed() < Duration::from_secs(5), "{} lives on", pair.name);
    }
}

#[test]
fn filters_and_their_qdisc_are_told() {
    loaded(|directory| {
        ip("link add aa0 type veth peer name aa1");
        let mut netlink = Netlink::route().unwrap();
        let index = link::find(&mut netlink, "aa0").unwrap().unwrap().index;
        assert_eq!(qdisc::has_ingress(&mut netlink, index).unwrap(), None);
        assert_eq!(filter::ingress(&mut netlink, index).unwrap(), []);
        netlink.send(filter::add_clsact(index, "aa0")).unwrap();
        assert_eq!(qdisc::has_ingress(&mut netlink, index).unwrap().as_deref(), Some("clsact"));
        let program = Programs::at(&directory).open("from_container").unwrap();
        netlink.send(filter::add_ingress(index, "aa0", program.as_fd(), "from_container", 7)).unwrap();
        let tc = "filter add dev aa0 ingress pref 5 protocol ip u32 match ip dport 80 0xffff flowid 1:1";
        assert!(Command::new("tc").args(tc.split(' ')).status().unwrap().success());

        let found = filter::ingress(&mut netlink, index).unwrap();
        assert_eq!((found[0].kind.as_str(), found[0].priority, found[0].handle), ("bpf", 1, 1));
        assert_eq!(found[0].name.as_deref(), Some("portslice_from_container"));
        assert_eq!(found[0].classid, 7);
        let book = Book::open(&directory).unwrap().id().unwrap();
        assert_eq!(find::book_of_program(found[0].program.unwrap()).unwrap(), Some(book));
        // a hash table, and the filter in it
        assert!(found.len() > 1);
        assert!(found[1..].iter().all(|f| (f.kind.as_str(), f.priority, f.program) == ("u32", 5, None)), "{found:?}");

        netlink.send(filter::delete_clsact(index, "aa0")).unwrap();
        assert_eq!(qdisc::has_ingress(&mut netlink, index).unwrap(), None);
        assert_eq!(filter::ingress(&mut netlink, index).unwrap(), []);
        netlink.send(filter::add_ingress_qdisc(index, "aa0")).unwrap();
        assert_eq!(qdisc::has_ingress(&mut netlink, index).unwrap().as_deref(), Some("ingress"));
        netlink.send(filter::add_ingress(index, "aa0", program.as_fd(), "from_container", 8)).unwrap();
        assert_eq!(filter::ingress(&mut netlink, index).unwrap()[0].classid, 8);
        assert_eq!(qdisc::has_ingress(&mut netlink, 99_999).unwrap(), None);
        assert_eq!(filter::ingress(&mut netlink, 99_999).unwrap(), []);
    });
}

#[test]
fn routes_of_a_link_are_told_alone() {
    loaded(|_| {
        for arguments in [
            "link add aa0 type veth peer name aa1",
            "link set aa0 up",
            "link set aa1 up",
            "link set aa0 alias web",
            "address add 10.99.0.1/32 dev aa0",
            "-6 address add fd99::1/128 dev aa0 nodad",
            "route add 10.98.0.0/16 dev aa0 src 10.99.0.1 metric 7 mtu 1400",
            "-6 route add default dev aa0 src fd99::1 metric 9 mtu 1400",
            "route add 10.97.0.0/16 dev aa1",
            "route add 10.96.0.0/16 dev aa0 table 7",
        ] {
            ip(arguments);
        }
        let mut netlink = Netlink::route().unwrap();
        let link = link::find(&mut netlink, "aa0").unwrap().unwrap();
        assert_eq!(link.netns, None);
        let routes = route::of_link(&mut netlink, link.index).unwrap();
        let v4 = routes.iter().find(|r| r.destination.is_ipv4()).unwrap();
        assert_eq!((v4.prefix, v4.metric, v4.mtu), (16, 7, Some(1400)));
        assert_eq!(v4.source, Some("10.99.0.1".parse().unwrap()));
        let v6 = routes.iter().find(|r| r.destination.is_ipv6() && r.is_default()).unwrap();
        assert_eq!((v6.metric, v6.mtu, v6.source), (9, Some(1400), Some("fd99::1".parse().unwrap())));
        assert_eq!(routes.iter().filter(|r| r.destination.is_ipv4()).count(), 1);
        assert_eq!(route::of_link(&mut netlink, 99_999).unwrap(), []);
    });
}
