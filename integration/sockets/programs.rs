//! The programs at the sockets: attached once, found by whoever looks, replaced, and taken off without a trace.

use super::{ANY4, ANY6, FREE, KINDS, binds, two};
use crate::lab::*;
use crate::upgrade::Build;
use portslice::plan::host::bpf_directory;
use portslice::steer::{Book, Programs, find};
use std::path::Path;

/// How many programs are at the sockets of a host where no port has a name.
const PROGRAMS: usize = 7;

/// Ids of the host's own programs that are on a cgroup.
fn attached(host: &Host) -> Vec<u32> {
    let book = Book::open(&host.ns.root(&bpf_directory(&host.state_dir()).to_string_lossy())).expect("the book");
    let book = book.id().expect("its id");
    let all = find::on_cgroups().expect("links").into_iter();
    let own = all.filter(|(_, program)| find::book_of_program(*program).expect("programs") == Some(book));
    own.map(|(_, program)| program).collect()
}

fn configure(host: &Host, from: &str, to: &str) {
    let config = std::fs::read_to_string(host.config_file()).expect("config");
    assert!(config.contains(from), "{config}");
    std::fs::write(host.config_file(), config.replace(from, to)).expect("config");
}

/// The cgroup that its configuration names.
fn cgroup_of(host: &Host) -> String {
    let config = std::fs::read_to_string(host.config_file()).expect("config");
    let line = config.lines().find_map(|line| line.strip_prefix("socket_cgroup = "));
    line.expect("a cgroup").trim_matches('"').to_owned()
}

#[test]
fn they_are_attached_once_and_undone_without_a_trace() {
    let host = Host::with("sockets-undone").judged("require").build();
    let before = attached(&host);
    assert_eq!(before.len(), PROGRAMS);
    for command in ["setup", "sync"] {
        host.portslice([command]).ok();
        assert_eq!(attached(&host), before, "{command}");
    }
    assert_eq!(host.portslice(["fsck"]).ok().stdout, "");
    let plan = host.portslice(["setup", "--undo", "--dry-run"]).ok().stdout;
    assert!(plan.contains("remove programs that judge bind() on the cgroup "), "{plan}");
    host.portslice(["setup", "--undo"]).ok();
    let left = find::on_cgroups().expect("links");
    assert!(left.iter().all(|(_, program)| !before.contains(program)), "{left:?}");
    KINDS.iter().for_each(|kind| binds(&host.ns, *kind, &[], ANY4, 31000, false));
}

#[test]
fn containers_that_run_already_come_under_the_rules_and_leave_them() {
    let host = Host::with("sockets-later").judged("off").build();
    let (a, b) = two(&host);
    let rules = |judged: bool, when: &str| {
        for kind in KINDS {
            binds(&a.ns, kind, &[], ANY4, 31010, judged);
            binds(&b.ns, kind, &[], ANY4, 31010, false);
            binds(&host.ns, kind, &[], ANY4, 31010, judged);
        }
        assert_eq!(a.show()["bind_judged"], judged, "{when}");
    };
    rules(false, "off");
    configure(&host, "\"off\"", "\"auto\"");
    let plan = host.portslice(["sync", "--dry-run"]).ok().stdout;
    assert!(plan.contains("attach programs that judge bind() on the cgroup "), "{plan}");
    rules(false, "only planned");
    host.portslice(["sync"]).ok();
    rules(true, "on");
    assert_eq!(host.portslice(["fsck"]).ok().stdout, "");
    configure(&host, "\"auto\"", "\"off\"");
    host.portslice(["sync"]).ok();
    rules(false, "off again");
    // The next container does as well as sync.
    configure(&host, "\"off\"", "\"require\"");
    host.bare("c", &[]);
    rules(true, "on by an attach");
}

#[test]
fn programs_that_somebody_took_off_are_missed_and_attached_again() {
    let host = Host::with("sockets-detached").judged("auto").build();
    let (a, _b) = two(&host);
    let own = attached(&host);
    let links = find::on_cgroups().expect("links");
    let last = links.iter().rfind(|(_, program)| own.contains(program)).expect("a link");
    find::unhook(last.0).expect("taken off");
    assert_eq!(attached(&host).len(), PROGRAMS - 1);
    let said = host.portslice(["doctor"]).stdout;
    let missed = "programs that judge bind() on the cgroup ";
    assert!(said.lines().any(|line| line.contains(missed) && line.contains("missing")), "{said}");
    host.portslice(["sync"]).ok();
    assert_eq!(attached(&host).len(), PROGRAMS);
    // What tells whose a namespace is was removed: the next container finds out.
    let pins = bpf_directory(&host.state_dir());
    host.ns.inside_mounts(|| {
        for name in ["cookies", "link_bind6", "namespaces"] {
            std::fs::remove_file(pins.join(name)).expect(name);
        }
    });
    let c = host.bare("c", &["--ports", "31020"]);
    assert_eq!(attached(&host).len(), PROGRAMS);
    for kind in KINDS {
        binds(&a.ns, kind, &[], ANY4, FREE, true);
        binds(&c.ns, kind, &[], ANY4, 31000, true);
        binds(&c.ns, kind, &[], ANY6, 31020, false);
        binds(&host.ns, kind, &[], ANY6, 31020, true);
    }
    assert_eq!(host.portslice(["fsck"]).ok().stdout, "");
}

#[test]
fn another_version_replaces_them_and_they_know_everybody() {
    let other = Build::other();
    let host = Host::with("sockets-upgrade").judged("require").build();
    let (a, b) = two(&host);
    let before = attached(&host);
    other.run(&host, &["setup"]).ok();
    let after = attached(&host);
    assert!(after.len() == PROGRAMS && after.iter().all(|program| !before.contains(program)), "{before:?} {after:?}");
    for kind in KINDS {
        binds(&a.ns, kind, &[], ANY4, 31010, true);
        binds(&b.ns, kind, &[], ANY4, 31010, false);
        binds(&host.ns, kind, &[], ANY4, 31010, true);
    }
    host.portslice(["setup"]).ok();
    assert_eq!(attached(&host).len(), PROGRAMS);
}

/// Somebody who attaches a program without BPF_F_ALLOW_MULTI keeps ours out.
#[test]
fn a_cgroup_that_lets_nobody_in_is_told_of() {
    let host = Host::with("sockets-locked-out").judged("auto").build();
    let cgroup = cgroup_of(&host);
    let locked = format!("{cgroup}/locked{}", host.tag);
    let program = bpf_directory(&host.state_dir()).join("prog_bind4");
    host.run(["mkdir", &locked]).ok();
    let (program, attach) = (program.to_string_lossy(), "cgroup_inet4_bind");
    host.run(["bpftool", "cgroup", "attach", &locked, attach, "pinned", &program]).ok();
    configure(&host, &format!("{cgroup}\""), &format!("{locked}\""));

    host.portslice(["sync"]).ok();
    let why =
        "the kernel refuses to attach bind4 to the cgroup: somebody attached a program there that lets no other in";
    let said = host.portslice(["doctor"]).stdout;
    assert!(said.contains(why), "{said}");
    let a = host.bare("a", &[]);
    assert_eq!(a.show()["bind_judged"], false);
    binds(&a.ns, KINDS[0], &[], ANY4, FREE, false);
    configure(&host, "\"auto\"", "\"require\"");
    let out = host.portslice(["sync"]);
    assert!(out.code == Some(5) && out.stderr.contains(why), "{out}");
    let refused = host.try_bare("b", &[]).err().expect("refused");
    assert!(refused.code == Some(5) && refused.stderr.contains(why), "{refused}");

    configure(&host, &format!("{locked}\""), "/nonexistent\"");
    let out = host.portslice(["sync"]);
    assert!(out.stderr.contains("cannot open the cgroup /nonexistent"), "{out}");
    configure(&host, "/nonexistent\"", "/proc\"");
    let out = host.portslice(["sync"]);
    assert!(out.code == Some(2) && out.stderr.contains("/proc is no cgroup of the cgroup2 hierarchy"), "{out}");

    configure(&host, "/proc\"", &format!("{cgroup}\""));
    host.portslice(["sync"]).ok();
    assert_eq!(a.show()["bind_judged"], true);
    host.run(["rmdir", &locked]).ok();
}

/// What root inside has of bpf(2): with every other capability over the host's namespaces, and in a user namespace of its own.
#[test]
fn root_inside_neither_takes_them_off_nor_reads_or_changes_what_they_know() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::with("sockets-hostile").judged("require").build();
    let (a, _b) = two(&host);
    let own = attached(&host);
    let (link, program) =
        find::on_cgroups().expect("links").into_iter().find(|(_, p)| own.contains(p)).expect("a link");
    let (link, id) = (link.to_string(), program.to_string());
    let cgroup = host.ns.root(&cgroup_of(&host)).to_string_lossy().into_owned();
    let shown: serde_json::Value = host.run(["bpftool", "-j", "prog", "show", "id", &id]).ok().json();
    let maps: Vec<String> =
        shown["map_ids"].as_array().expect("its maps").iter().map(std::string::ToString::to_string).collect();
    let mut tried: Vec<Vec<&str>> = vec![
        vec!["link", "detach", "id", &link],
        vec!["link", "show", "id", &link],
        vec!["prog", "dump", "xlated", "id", &id],
    ];
    for map in &maps {
        tried.push(vec!["map", "dump", "id", map]);
        tried.push(vec!["map", "delete", "id", map, "key", "0", "0", "0", "0"]);
    }
    // a path of the host's, as it would be named in there
    tried.push(vec!["cgroup", "detach", &cgroup, "cgroup_inet4_bind", "id", &id]);
    let ways: [&[&str]; 2] = [&["setpriv", "--bounding-set", "-sys_admin,-bpf,-perfmon"], &["unshare", "-U", "-r"]];
    for way in ways {
        for arguments in &tried {
            let mut command = a.ns.command(way[0]);
            let out = command.args(&way[1..]).arg("bpftool").args(arguments).output().expect("bpftool");
            let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
            let refused = !out.status.success()
                && ["Operation not permitted", "can't open cgroup"].iter().any(|why| said.contains(why));
            assert!(refused, "{way:?} bpftool {arguments:?}: {:?} {said}", out.status);
        }
    }
    assert_eq!(attached(&host), own);
    for kind in KINDS {
        binds(&a.ns, kind, &[], ANY4, 31010, true);
    }
    for directory in [host.state_dir(), host.ns.root(&bpf_directory(&host.state_dir()).to_string_lossy())] {
        let mode = std::fs::metadata(&directory).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", directory.display());
    }
}

#[test]
fn another_cgroup_has_them_instead_and_an_undo_takes_them_off() {
    let host = Host::with("sockets-moved").judged("require").build();
    let (a, b) = two(&host);
    let before = attached(&host);
    let cgroup = cgroup_of(&host);
    let other = format!("{cgroup}/other{}", host.tag);
    host.run(["mkdir", &other]).ok();
    configure(&host, &format!("{cgroup}\""), &format!("{other}\""));
    host.portslice(["sync"]).ok();
    assert_eq!(attached(&host).len(), PROGRAMS, "each once, on the other one");
    for kind in KINDS {
        binds(&host.ns, kind, &[], ANY4, 31000, false);
    }
    assert_eq!(a.show()["bind_judged"], true);
    let after = attached(&host);
    [a, b].iter().for_each(|container| drop(container.detach()));
    host.portslice(["setup", "--undo"]).ok();
    let left = find::on_cgroups().expect("links");
    let ours = |program: &u32| before.contains(program) || after.contains(program);
    assert!(left.iter().all(|(_, program)| !ours(program)), "{left:?}");
    host.run(["rmdir", &other]).ok();
}

/// A name that leads to no cgroup is a mistake in the configuration, whatever the rules say, and is told before anything is done.
#[test]
fn a_cgroup_that_is_none_is_refused_before_anything_is_done() {
    let host = Host::with("sockets-no-cgroup").judged("auto").unprepared().build();
    configure(&host, &format!("{}\"", cgroup_of(&host)), "/nonexistent\"");
    let before = crate::lab::leftovers::Baseline::of(&host.ns);
    for args in [&["setup", "--dry-run"][..], &["setup"]] {
        let why = "config key socket_cgroup: cannot open the cgroup /nonexistent";
        host.portslice(args).refused(2, why);
    }
    let left = before.compare(&host.ns, &host.state_dir());
    assert!(left.is_empty() && !host.state_dir().exists(), "{left:?}");
}

/// A host that is one of several on a machine does not look at everybody's sockets unless it is asked to.
#[test]
fn a_namespace_beside_the_machines_own_is_judged_only_where_that_is_asked_for() {
    let host = Host::new("sockets-beside");
    let pins = Programs::at(&host.ns.root(&bpf_directory(&host.state_dir()).to_string_lossy()));
    assert!(!pins.has_sockets());
    assert!(attached(&host).is_empty());
    let a = host.bare("a", &[]);
    assert_eq!(a.show()["bind_judged"], false);
}

/// Where nobody has the hierarchy mounted, it is opened without a trace; nothing is attached here.
#[test]
fn the_root_of_the_hierarchy_is_found_on_every_machine() {
    let mounts = || std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let before = mounts();
    let root = portslice::host::cgroup2::open(None).expect("the root");
    assert_ne!(root.id, 0);
    assert!(
        Path::new(&format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&root.directory)))
            .join("cgroup.procs")
            .exists()
    );
    assert_eq!(mounts(), before);
}
