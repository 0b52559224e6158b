//! Records that are lost or damaged: what they told of stays taken, and the kernel has it still.

use super::Living;
use crate::lab::run::Output;
use crate::lab::*;

/// `attach` of a spare namespace with a port that is somebody's.
fn take(host: &Host, spare: &Ns, port: u16) -> Output {
    host.portslice(["attach", "thief", "--pid", &spare.pid().to_string(), "--ports", &port.to_string()])
}

/// Neither its port nor its block nor its slot is given to anybody.
#[track_caller]
fn stays_taken(host: &Host, living: &Living, what: &str) {
    let spare = Ns::net_only("thief");
    let out = take(host, &spare, living.port);
    assert_eq!(out.code, Some(4), "{what}: its port is asked for: {out}");
    living.answers(host, &format!("{what}: its port was asked for"));
    for n in 0..3 {
        let other = Living::on(host, &format!("other{n}"), 31_010 + n);
        assert_ne!(other.lease["block"], living.lease["block"], "{what}: its block was given away");
        assert_ne!(other.lease["slot"], living.lease["slot"], "{what}: its slot was given away");
        living.answers(host, what);
        host.portslice(["detach", &other.id]).ok();
    }
}

/// Four blocks, so that a search comes around.
const SMALL: &str = "ports = \"31000-31999\"\nephemeral_ports = \"32768-33023\"\nephemeral_ports_per_container = 64\n";

fn loses(name: &str, lose: impl Fn(&Host)) {
    let host = Host::with(name).config(SMALL).build();
    let living = Living::on(&host, "one", 31_000);
    lose(&host);
    stays_taken(&host, &living, "lost");
    host.portslice(["gc"]).ok();
    living.answers(&host, "gc");
    stays_taken(&host, &living, "lost, and gc");
    host.portslice(["fsck", "--rebuild"]);
    living.unharmed(&host, "restored");
    host.portslice(["fsck"]).ok();
    host.portslice(["detach", "one"]).ok();
    let again = Living::on(&host, "again", 31_000);
    again.answers(&host, "its port is free again");
}

#[test]
fn the_ports_of_a_lease_whose_file_was_removed_stay_taken() {
    loses("lost-file", |host| std::fs::remove_file(host.state_dir().join("leases/one")).expect("lease"));
}

#[test]
fn the_ports_of_leases_whose_directory_was_removed_stay_taken() {
    loses("lost-directory", |host| std::fs::remove_dir_all(host.state_dir().join("leases")).expect("leases"));
}

#[test]
fn the_ports_of_a_lease_that_cannot_be_read_stay_taken() {
    for (n, text) in ["", "{", "{}", "\u{0}\u{0}", "[1, 2]"].iter().enumerate() {
        loses(&format!("lost-damaged-{n}"), |host| {
            std::fs::write(host.state_dir().join("leases/one"), text).expect("lease");
        });
    }
}

#[test]
fn a_lost_lease_ends_with_its_container() {
    let host = Host::with("lost-ends").config(SMALL).build();
    let container = host.bare("one", &["--ports", "31000"]);
    std::fs::remove_file(host.state_dir().join("leases/one")).expect("lease");
    container.kill();
    host.portslice(["gc"]).ok();
    let spare = Ns::net_only("next");
    take(&host, &spare, 31_000).ok();
    host.portslice(["detach", "thief"]).ok();
}

/// What the host's record and the table of slots say may be damaged as well.
#[test]
fn a_damaged_host_record_forgets_nobody() {
    for (n, text) in ["{}", "", "{", "{\"boot\": 1}", "null"].iter().enumerate() {
        let host = Host::with(&format!("lost-record-{n}")).config(SMALL).build();
        let living = Living::on(&host, "one", 31_000);
        std::fs::write(host.state_dir().join("host.json"), text).expect("host.json");
        let spare = Ns::net_only("spare");
        let pid = spare.pid().to_string();
        for args in [
            vec!["gc"],
            vec!["detach", "one"],
            vec!["attach", "two", "--pid", &pid, "--ports", "31000"],
            vec!["setup"],
            vec!["setup", "--undo"],
        ] {
            let (what, out) = (format!("{} with {text:?}", args.join(" ")), host.portslice(&args));
            assert!(out.code.is_some_and(|code| code != 0), "{what}: {out}");
            assert_eq!(out.stderr.lines().count(), 1, "{what}: {out}");
            assert!(out.stderr.contains("fsck --rebuild"), "{what}: should say the remedy: {out}");
            living.answers(&host, &what);
            assert!(host.state_dir().join("leases/one").exists(), "{what}: the lease was removed");
        }
        host.portslice(["fsck", "--rebuild"]);
        living.unharmed(&host, &format!("{text:?}, restored"));
    }
}

/// A slot that no record tells of is nobody's number, and the lowest slot is 1.
#[test]
fn slots_and_blocks_of_all_containers_differ() {
    let host = Host::with("lost-slots").config(SMALL).build();
    let living: Vec<Living> = (0..4).map(|n| Living::on(&host, &format!("c{n}"), 31_000 + n)).collect();
    for one in &living {
        std::fs::remove_file(host.state_dir().join("leases").join(&one.id)).expect("lease");
    }
    let spare = Ns::net_only("one more");
    let out = host.portslice(["attach", "more", "--pid", &spare.pid().to_string()]);
    assert_eq!(out.code, Some(3), "four of four blocks are taken: {out}");
    host.portslice(["fsck", "--rebuild"]);
    let key = |one: &Living| (one.lease["slot"].as_u64().unwrap(), one.lease["block"]["begin"].as_u64().unwrap());
    let all: std::collections::BTreeSet<_> = living.iter().map(key).collect();
    assert!(all.len() == 4 && all.iter().all(|(slot, _)| *slot > 0), "{all:?}");
    living.iter().for_each(|one| one.unharmed(&host, "restored"));
}
