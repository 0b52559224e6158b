//! No room for the state: nothing is half done, and all works again once there is room.

use super::refused;
use crate::lab::probe::assert_reaches;
use crate::lab::still::{assert_bare, released};
use crate::lab::wait::eventually;
use crate::lab::*;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::net::SocketAddr;
use std::path::Path;

/// Fills the file system of `dir` up to `free` free pages.
fn fill(dir: &Path, free: usize) {
    use std::io::Write;
    let page = vec![b'x'; 4096];
    let _ = std::fs::remove_file(dir.join("fill"));
    let mut file = std::fs::File::create(dir.join("fill")).expect("fill");
    let mut pages = 0;
    while file.write_all(&page).is_ok() {
        pages += 1;
        assert!(pages < 4096, "the file system never fills");
    }
    file.set_len(4096 * (pages as u64).saturating_sub(free as u64)).expect("fill");
}

/// After an attach that failed for want of room there is nothing of it, and its port is the host's own.
#[track_caller]
fn assert_not_attached(host: &Host, ns: &Ns, what: &str) {
    assert_bare(&format!("{what}: after a failed attach"), ns);
    assert_eq!(host.links(), ["eth0", "lo"], "{what}: devices of the host after a failed attach");
    assert_eq!(host.ids(), [""; 0], "{what}: leases after a failed attach");
    let echo = Echo::start(&host.ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), 31_000));
    let what = format!("{what}: the host's own 31000");
    assert_reaches(&what, &host.peer, Proto::Udp, SocketAddr::new(HOST4, 31_000));
    drop(echo);
    released(&host.ns, 31_000);
}

#[test]
fn a_full_disk() {
    let host = Host::with("refuse-full").unprepared().build();
    let state = host.state_dir();
    std::fs::create_dir(&state).expect("state directory");
    let seen = host.ns.root(&state.to_string_lossy());
    for prepared in [false, true] {
        for free in 0..7 {
            let what = format!("{free} free pages, prepared: {prepared}");
            let at = state.clone();
            host.ns.inside_mounts(move || {
                let options = Some("size=256k,mode=700");
                mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), options).expect("tmpfs")
            });
            if prepared {
                host.portslice(["setup"]).ok();
            }
            fill(&seen, free);
            let ns = Ns::net_only("on a full disk");
            let pid = ns.pid().to_string();
            let attach = ["attach", "x", "--pid", &pid, "--ports", "31000"];
            let out = host.portslice(attach);
            if out.code != Some(0) {
                refused(&what, &out, 1, &[&state.to_string_lossy()]);
                assert_not_attached(&host, &ns, &what);
            }
            std::fs::remove_file(seen.join("fill")).expect("fill");
            host.portslice(attach).ok();
            let echo = Echo::start(&ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), 31_000));
            assert_reaches(&what, &host.peer, Proto::Udp, SocketAddr::new(HOST4, 31_000));
            drop(echo);
            // a container that ends while the disk is full: refused in one line or done, and done once there is room
            fill(&seen, 0);
            let out = host.portslice(["detach", "x"]);
            if out.code != Some(0) {
                refused(&format!("{what}: poststop"), &out, 1, &[&state.to_string_lossy()]);
            }
            std::fs::remove_file(seen.join("fill")).expect("fill");
            host.portslice(["detach", "x"]).ok();
            assert_bare(&format!("{what}: after poststop"), &ns);
            assert_eq!(host.ids(), [""; 0], "{what}: leases after poststop");
            host.portslice(["setup", "--undo"]).ok();
            let left: Vec<_> = std::fs::read_dir(&seen).expect("state").flatten().map(|e| e.path()).collect();
            assert!(left.is_empty(), "{what}: setup --undo left {left:?}");
            let at = state.clone();
            let unmounted = || host.ns.inside_mounts(|| umount2(&at, MntFlags::empty()).is_ok());
            assert!(eventually(unmounted), "{what}: the state directory is busy");
        }
    }
    std::fs::remove_dir(&state).expect("state directory");
}
