//! On a kernel without tcx the programs are filters, in a place where somebody else may have one.

use super::*;
use std::os::unix::process::CommandExt;

/// Runs portslice on a kernel that has no tcx, or that says so: the call that makes a link is answered as such a kernel does.
fn without_tcx(host: &Host, args: &[&str]) -> Output {
    denied(host, &Build::this(), args)
}

fn denied(host: &Host, build: &Build, args: &[&str]) -> Output {
    let program = build.0.to_string_lossy();
    let mut command = host.command([&[&*program], args].concat());
    // SAFETY: between fork and exec it makes two system calls and touches nothing else.
    unsafe { command.pre_exec(deny_links) };
    run::run(&mut command, host::COMMAND_LIMIT)
}

/// A seccomp filter for this process and what it starts: BPF_LINK_CREATE fails with EINVAL, as before Linux 6.6.
fn deny_links() -> std::io::Result<()> {
    const LINK_CREATE: u32 = 28;
    let load = |offset: u32| libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: offset };
    let unless = |value: u32, skip: u8| libc::sock_filter { code: 0x15, jt: 0, jf: skip, k: value };
    let answer = |value: u32| libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: value };
    // struct seccomp_data: the number of the call at 0, its first argument at 16
    let mut code = [
        load(0),
        unless(libc::SYS_bpf as u32, 3),
        load(16),
        unless(LINK_CREATE, 1),
        answer(libc::SECCOMP_RET_ERRNO | libc::EINVAL as u32),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    // SAFETY: `program` and the code behind it live through the call; the kernel copies both.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// What tc says of the ingress side of a device.
fn filters(host: &Host, device: &str) -> String {
    host.run(["tc", "filter", "show", "dev", device, "ingress"]).ok().stdout
}

/// Filters of somebody else, and what they are called: one of another kind, and one in the very place of ours.
const THEIRS: [(&str, &str); 2] =
    [("protocol all u32 match u32 0 0 classid 1:1", "u32"), ("handle 1 protocol all bpf bytecode 1,6:0:0:0", "bpf")];

fn add(host: &Host, device: &str, preference: u16, rule: &str) {
    host.run(["sh", "-c", &format!("tc qdisc add dev {device} clsact 2>/dev/null; true")]).ok();
    let command = format!("tc filter add dev {device} ingress pref {preference} {rule}");
    host.run(command.split(' ').map(|word| word.replace(':', if word.starts_with("1,") { " " } else { ":" }))).ok();
}

#[test]
fn of_somebody_else_at_our_place_are_refused_by_name() {
    for (device, (rule, name)) in [("eth0", THEIRS[0]), ("eth0", THEIRS[1]), ("lo", THEIRS[1])] {
        let host = Host::with("filters-taken").unprepared().build();
        add(&host, device, 1, rule);
        let theirs = filters(&host, device);
        let text = format!("{device} has a filter of somebody else at preference 1 ({name})");
        without_tcx(&host, &["setup"]).refused(7, &text);
        assert_eq!(filters(&host, device), theirs, "it is as it was");
        without_tcx(&host, &["setup", "--undo"]).ok();
        assert_eq!(filters(&host, device), theirs, "undone, it is as it was");
        host.run(["tc", "qdisc", "delete", "dev", device, "clsact"]).ok();
    }
}

#[test]
fn of_ours_are_replaced_in_place_and_removed_alone() {
    let other = Build::other();
    let host = Host::with("filters-ours").unprepared().build();
    without_tcx(&host, &["setup"]).ok();
    let mut busy = Busy::on(&host, 2);
    assert!(filters(&host, "eth0").contains("portslice_from_wire"), "{}", filters(&host, "eth0"));
    add(&host, "eth0", 2, THEIRS[0].0);
    for (round, build) in [("the same version", &Build::this()), ("another one", &other), ("back", &Build::this())] {
        denied(&host, build, &["setup"]).ok();
        busy.lives(round);
        assert_eq!(stale(&host, &busy.containers), [] as [String; 0], "{round}");
    }
    busy.lost_nothing(&host, &Build::this(), "replaced");
    busy.containers.iter().for_each(|container| drop(container.detach()));
    without_tcx(&host, &["setup", "--undo"]).ok();
    let left = filters(&host, "eth0");
    assert!(left.contains("u32") && !left.contains("portslice"), "{left}");
    host.run(["tc", "qdisc", "delete", "dev", "eth0", "clsact"]).ok();
}

#[test]
fn that_somebody_put_in_the_place_of_ours_stay() {
    let host = Host::with("filters-replaced").unprepared().build();
    without_tcx(&host, &["setup"]).ok();
    host.run(["tc", "filter", "delete", "dev", "eth0", "ingress"]).ok();
    add(&host, "eth0", 1, THEIRS[1].0);
    without_tcx(&host, &["setup"]).refused(7, "eth0 has a filter of somebody else at preference 1");
    let theirs = filters(&host, "eth0");
    without_tcx(&host, &["setup", "--undo"]).ok();
    assert_eq!(filters(&host, "eth0"), theirs, "it is as it was");
    host.run(["tc", "qdisc", "delete", "dev", "eth0", "clsact"]).ok();
}

#[test]
fn are_taken_off_the_uplink_that_was() {
    for tcx in [false, true] {
        let host = Host::with("filters-moved").unprepared().build();
        let setup = || if tcx { host.portslice(["setup"]) } else { without_tcx(&host, &["setup"]) }.ok();
        setup();
        host.ns.ip(&format!(
            "link add eth1 type veth peer name wire1 netns {}\naddr add 10.79.0.2/24 dev eth1\nlink set eth1 up",
            host.peer.pid()
        ));
        host.peer.ip("addr add 10.79.0.1/24 dev wire1\nlink set wire1 up");
        // one that is down is no way to this host
        host.ns.ip("route replace default via 10.79.0.1 dev eth1\nlink set eth0 down");
        setup();
        assert!(!hooked(&host, "from_wire", "eth0") && !filters(&host, "eth0").contains("portslice"), "the old uplink");
        let qdiscs = host.run(["tc", "qdisc", "show", "dev", "eth0"]).ok().stdout;
        assert!(!qdiscs.contains("clsact"), "the old uplink: {qdiscs}");
        assert!(hooked(&host, "from_wire", "eth1"), "the new uplink");
        without_tcx(&host, &["setup", "--undo"]).ok();
        host.ns.ip("link delete eth1\nlink set eth0 up\naddr replace fd77::2/64 dev eth0 nodad\n\
             route replace default via 10.77.0.1 dev eth0\nroute replace default via fd77::1 dev eth0");
    }
}
