//! The maps as the kernel keeps them: records, tenants, ports, devices, and finding them without a pin.
//!
//! No host is simulated: the data path is loaded into a mount and a network namespace of the test's own thread.

use std::path::PathBuf;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use portslice::ports::{PortRange, PortSet};
use portslice::steer::tenants::{Cursor, Tenant, TenantState, boottime, id_hash};
use portslice::steer::{Book, Maps, Owner, Programs, find};

/// Runs `test` in a thread that has namespaces of its own, with a loaded data path.
fn loaded(test: impl FnOnce(PathBuf) + Send + 'static) {
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
            freed: 0,
            block: Some((32768, 1024)),
            state: TenantState::Leased,
        };
        let rests = Tenant { freed: boottime(), state: TenantState::Rests, ..leased };
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
        maps.reserve(&ports, 3);
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
        maps.reserve(&set("31000"), 9);
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
