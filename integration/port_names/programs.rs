//! The programs behind the names: attached only while somebody has one, missed where they are gone, replaced, and taken off without
//! a trace.

use super::*;
use crate::upgrade::Build;
use portslice::plan::host::bpf_directory;
use portslice::steer::{Book, find};

/// Those of bind(), connect() and of names for both families, and those of datagrams besides.
const OF_TCP: usize = 8;
const OF_BOTH: usize = 12;

/// Ids of the links of the host's own programs to a cgroup, ascending.
fn attached(host: &Host) -> Vec<u32> {
    let book = Book::open(&host.ns.root(&bpf_directory(&host.state_dir()).to_string_lossy())).expect("the book");
    let book = book.id().expect("its id");
    let all = find::on_cgroups().expect("links").into_iter();
    let own = all.filter(|(_, program)| find::book_of_program(*program).expect("programs") == Some(book));
    own.map(|(link, _)| link).collect()
}

fn binds_80(ns: &Ns) -> bool {
    bound(ns, libc::SOCK_STREAM, ANY4, 80).is_ok()
}

#[test]
fn they_are_attached_only_while_a_port_has_a_name() {
    let host = Host::with("named-attached").judged("require").build();
    let none = attached(&host).len();
    let more = || attached(&host).len() - none;
    let a = host.bare("a", &["--ports", "31000"]);
    assert_eq!(more(), 0);
    let b = host.bare("b", &["--ports", "31001:80/tcp"]);
    assert_eq!(more(), OF_TCP, "a name of TCP");
    let c = host.bare("c", &["--ports", "31002:53/udp"]);
    assert_eq!(more(), OF_BOTH, "and one of UDP");
    for command in ["setup", "sync"] {
        host.portslice([command]).ok();
        assert_eq!(more(), OF_BOTH, "{command}");
    }
    assert_eq!(host.portslice(["fsck"]).ok().stdout, "");
    c.detach();
    assert_eq!(more(), OF_TCP, "the last one of UDP went");
    assert!(binds_80(&b.ns) && !binds_80(&a.ns));
    b.kill();
    host.portslice(["gc"]).ok();
    assert_eq!(more(), 0, "its container ended without a word");
    host.portslice(["set", "a", "--ports", "31000:80"]).ok();
    assert_eq!(more(), OF_BOTH);
    a.detach();
    assert_eq!(more(), 0);
    assert_eq!(host.portslice(["fsck"]).ok().stdout, "");
    host.portslice(["setup", "--undo"]).ok();
}

#[test]
fn programs_that_somebody_took_off_are_missed_and_attached_again() {
    let host = Host::with("named-detached").judged("auto").build();
    let none = attached(&host).len();
    let a = host.bare("a", &["--ports", "31000:80"]);
    let links = attached(&host);
    assert!(links.len() == none + OF_BOTH && binds_80(&a.ns));
    // The last ones are those of names.
    for link in &links[none..] {
        find::unhook(*link).expect("taken off");
    }
    assert!(!binds_80(&a.ns), "80 is the host's");
    let said = host.portslice(["doctor"]).stdout;
    let missed = "programs that judge bind() on the cgroup ";
    assert!(said.lines().any(|line| line.contains(missed) && line.contains("missing")), "{said}");
    host.portslice(["sync"]).ok();
    assert_eq!(attached(&host).len(), none + OF_BOTH);
    assert!(binds_80(&a.ns));
    // So is the map, by setup, which knows the names by the leases.
    let pins = bpf_directory(&host.state_dir());
    host.ns.inside_mounts(|| std::fs::remove_file(pins.join("names")).expect("names"));
    host.portslice(["sync"]).ok();
    assert!(binds_80(&a.ns));
    assert_eq!(host.portslice(["fsck"]).ok().stdout, "");
}

#[test]
fn another_version_replaces_them_and_names_stay() {
    let other = Build::other();
    let host = Host::with("named-upgrade").judged("require").build();
    let a = host.bare("a", &["--ports", "31000:80"]);
    let before = attached(&host);
    let server = listening(&a.ns, ANY6, 80);
    other.run(&host, &["setup"]).ok();
    assert_eq!(attached(&host), before, "the same links, with other programs");
    talks(&a.ns, &server, SocketAddr::new(LO4, 80), [80, 80]);
    talks(&host.peer, &server, SocketAddr::new(HOST4, 31000), [31000, 80]);
    host.portslice(["setup"]).ok();
    assert_eq!(attached(&host), before);
    talks(&a.ns, &server, SocketAddr::new(LO4, 80), [80, 80]);
    drop(server);
    a.detach();
    assert_eq!(attached(&host).len(), before.len() - OF_BOTH);
}

#[test]
fn an_undo_leaves_no_program_and_no_rules_no_names() {
    let host = Host::with("named-undone").judged("require").build();
    let a = host.bare("a", &["--ports", "31000:80"]);
    let config = std::fs::read_to_string(host.config_file()).expect("config");
    std::fs::write(host.config_file(), config.replace("\"require\"", "\"off\"")).expect("config");
    host.portslice(["sync"]).ok();
    assert_eq!(attached(&host).len(), 0);
    let said = host.portslice(["fsck"]).stdout;
    assert!(said.contains("a: port names 31000:80 mean nothing inside"), "{said}");
    std::fs::write(host.config_file(), config).expect("config");
    host.portslice(["sync"]).ok();
    assert!(binds_80(&a.ns), "the lease knows the names");
    let links = attached(&host);
    a.detach();
    host.portslice(["setup", "--undo"]).ok();
    let left = find::on_cgroups().expect("links");
    assert!(left.iter().all(|(link, _)| !links.contains(link)), "{left:?}");
}
