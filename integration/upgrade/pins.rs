//! Pins that somebody removed come back as what they were; one of somebody else in their place stays.

use super::*;

/// Runs what changes the file system of the pins, in the host's own mount namespace.
fn in_mounts(host: &Host, script: &str) {
    let directory = bpf_directory(&host.state_dir()).to_string_lossy().into_owned();
    host.run(["sh", "-ec", script, &directory]).ok();
}

#[test]
fn that_are_removed_one_by_one_come_back_under_connections() {
    let host = Host::new("pins-removed");
    let mut busy = Busy::on(&host, 2);
    let (programs, maps) = (ids(&host, "prog"), ids(&host, "map"));
    let names: Vec<String> = [&programs[..], &maps, &ids(&host, "link")].concat().into_iter().map(|(n, _)| n).collect();
    assert!(names.len() > 18, "{names:?}");
    let (first, stride) = some(1, 3);
    for (n, name) in names.iter().enumerate().skip(first).step_by(stride) {
        in_mounts(&host, &format!("rm \"$0\"/{name}"));
        let what = format!("{name} was removed");
        // Whoever comes first mends it: the setup, or an attach.
        if n % 2 == 0 {
            host.portslice(["setup"]).ok();
        }
        let fresh = host.bare("fresh", &["--ports", "31100"]);
        if n % 2 == 1 && name.starts_with("link") {
            host.portslice(["setup"]).ok();
        }
        let echo = Echo::start(&fresh.ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 31_100));
        assert_reaches(&what, &host.peer, Proto::Tcp, SocketAddr::new(HOST4, 31_100));
        drop(echo);
        fresh.detach();
        busy.lives(&what);
        busy.reached(&host, &what);
        assert_eq!(stale(&host, &busy.containers), [] as [String; 0], "{what}");
        assert_eq!(ids(&host, "map"), maps, "{what}");
        // Those that nobody runs here are made anew.
        let idle = ["prog_after_shaper", "prog_host_flow", "prog_from_tunnel"];
        let run = |ids: Vec<(String, u64)>| -> Vec<_> {
            ids.into_iter().filter(|(name, _)| !idle.contains(&name.as_str())).collect()
        };
        assert_eq!(run(ids(&host, "prog")), run(programs.clone()), "{what}");
    }
    busy.lost_nothing(&host, &Build::this(), "after all");
}

#[test]
fn come_back_when_their_file_system_was_unmounted() {
    for way in ["umount -l \"$0\"", "umount -l \"$0\"; rmdir \"$0\""] {
        let host = Host::new("pins-unmounted");
        let mut busy = Busy::on(&host, 2);
        let maps = ids(&host, "map");
        in_mounts(&host, way);
        host.portslice(["list"]).refused(5, "somebody unmounted the BPF file system");
        // In a mount namespace of its own nobody knows, and nobody mounts it.
        let program = host::binary("portslice".as_ref()).to_string_lossy().into_owned();
        host.run(["unshare", "-m", &program, "setup"]).refused(5, "is not visible from this mount namespace");
        host.portslice(["setup"]).ok();
        busy.lives(way);
        busy.reached(&host, way);
        let lasting = |ids: Vec<(String, u64)>| -> Vec<_> {
            // some maps only tell for seconds where a part of a datagram, or an answer, goes
            let passing = ["fragments", "echo", "held", "aside"];
            ids.into_iter().filter(|(name, _)| !passing.iter().any(|start| name.starts_with(start))).collect()
        };
        assert_eq!(lasting(ids(&host, "map")), lasting(maps), "the maps are those that were");
        assert_eq!(stale(&host, &busy.containers), [] as [String; 0]);
        let fresh = host.bare("fresh", &["--ports", "31100"]);
        fresh.detach();
        // An attach mends it as well.
        in_mounts(&host, way);
        let fresh = host.bare("fresh", &["--ports", "31100"]);
        busy.lives(way);
        busy.reached(&host, way);
        fresh.detach();
        let still = still::Still::of(&host);
        host.portslice(["setup"]).ok();
        still.check_all("nothing is left to do");
    }
}

#[test]
fn of_somebody_else_are_neither_replaced_nor_removed() {
    let host = Host::new("pins-foreign");
    let mut busy = Busy::on(&host, 1);
    for name in ["prog_from_wire", "prog_inner_lo", "link_from_lo", "ports", "book"] {
        let theirs = "bpftool map create \"$0\"/theirs type hash key 4 value 4 entries 1 name theirs";
        in_mounts(&host, &format!("mv \"$0\"/{name} \"$0\"/ours; {theirs}; mv \"$0\"/theirs \"$0\"/{name}"));
        let path = bpf_directory(&host.state_dir()).join(name);
        let text = format!("{} is pinned by somebody else", path.display());
        host.portslice(["setup"]).refused(7, &text);
        busy.lives(name);
        let unchanged = "bpftool map show pinned \"$0\"/NAME | grep -q theirs; bpftool map dump pinned \"$0\"/NAME | grep -q 'Found 0'";
        in_mounts(&host, &format!("{unchanged}; rm \"$0\"/NAME").replace("NAME", name));
        in_mounts(&host, &format!("mv \"$0\"/ours \"$0\"/{name}"));
        host.portslice(["setup"]).ok();
    }
    busy.lost_nothing(&host, &Build::this(), "after all");
    busy.containers.iter().for_each(|container| drop(container.detach()));
    in_mounts(&host, "bpftool map create \"$0\"/theirs type hash key 4 value 4 entries 1 name theirs");
    host.portslice(["setup", "--undo"]).refused(7, "bpf/theirs is pinned by somebody else");
    in_mounts(&host, "bpftool map show pinned \"$0\"/theirs; rm \"$0\"/theirs");
    host.portslice(["setup", "--undo"]).ok();
}
