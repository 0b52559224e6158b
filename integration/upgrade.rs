//! Promise: another version takes over the host that containers run on, and no connection, packet or attach notices.

mod filters;
mod formats;
mod pins;
mod programs;

use crate::lab::probe::assert_reaches;
use crate::lab::run::Output;
use crate::lab::*;
use portslice::net::{Netlink, filter, link};
use portslice::plan::host::bpf_directory;
use portslice::steer::{Programs, find};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Another version of the product: built from this tree, with programs of its own (`build.rs`).
pub(crate) struct Build(PathBuf);

impl Build {
    /// The same formats, other programs.
    pub(crate) fn other() -> Build {
        Build::of("1")
    }

    /// Other programs, and every format number is higher by one.
    pub(crate) fn raised() -> Build {
        Build::of("2")
    }

    /// What the other tests are about.
    fn this() -> Build {
        Build(host::binary("portslice".as_ref()))
    }

    /// `PORTSLICE_ANOTHER` names a directory that has it already; otherwise cargo makes it, if need be.
    fn of(format: &str) -> Build {
        if let Some(made) = std::env::var_os("PORTSLICE_ANOTHER") {
            return Build(Path::new(&made).join(format!("another-{format}/debug/portslice")));
        }
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/another-{format}"));
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--bin", "portslice", "--target-dir"]).arg(&target);
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).env("PORTSLICE_TEST_FORMAT", format);
        // Dependencies name toolchains of their own for rustup, which counts only where nobody says which it is.
        if let Some(toolchain) = option_env!("RUSTUP_TOOLCHAIN") {
            cargo.env("RUSTUP_TOOLCHAIN", toolchain);
        }
        let built = cargo.status();
        assert!(built.is_ok_and(|status| status.success()), "cargo cannot build version {format}");
        Build(target.join("debug/portslice"))
    }

    pub(crate) fn run(&self, host: &Host, args: &[&str]) -> Output {
        host.run(std::iter::once(self.0.clone().into_os_string()).chain(args.iter().map(OsString::from)))
    }

    fn setup(&self, host: &Host) {
        self.run(host, &["setup"]).ok();
    }
}

/// A connection that says something from time to time, and hears it back.
struct Kept {
    what: String,
    ends: [TcpStream; 2],
    said: u32,
}

impl Kept {
    #[track_caller]
    fn open(what: &str, from: &Ns, into: &Ns, to: SocketAddr) -> Kept {
        let mut listener = None;
        // A child of another test may have the last listener for the moment between fork and exec.
        let bound = wait::eventually(|| {
            listener = into.inside(|| TcpListener::bind(SocketAddr::new(probe::any(to.ip()), to.port()))).ok();
            listener.is_some()
        });
        assert!(bound, "{what}: cannot bind {to}");
        let listener = listener.expect("bound");
        let out = from.inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(2)));
        let out = out.unwrap_or_else(|e| panic!("{what}: connect to {to}: {e}"));
        let (inn, _) = listener.accept().expect("accept");
        for end in [&out, &inn] {
            end.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
        }
        Kept { what: what.into(), ends: [out, inn], said: 0 }
    }

    /// Both ends hear each other.
    #[track_caller]
    fn lives(&mut self, when: &str) {
        for (from, to) in [(0, 1), (1, 0)] {
            self.said += 1;
            let mut heard = [0; 4];
            let done = self.ends[from].write_all(&self.said.to_ne_bytes());
            let done = done.and_then(|()| self.ends[to].read_exact(&mut heard));
            assert!(done.is_ok() && heard == self.said.to_ne_bytes(), "{when}: {}: {done:?}", self.what);
        }
    }
}

/// Containers with connections of every kind.
struct Busy {
    containers: Vec<Container>,
    kept: Vec<Kept>,
}

impl Busy {
    /// `count` containers, each with a listening port from 31000 on.
    fn on(host: &Host, count: u16) -> Busy {
        let containers: Vec<Container> = (0..count)
            .map(|n| host.bare(&format!("c{n}"), &["--ports", &(31_000 + n).to_string(), "--ephemeral-ports", "256"]))
            .collect();
        let mut kept = Vec::new();
        for (n, container) in (0..).zip(&containers) {
            let next = &containers[(usize::from(n) + 1) % containers.len()];
            let own = |like| SocketAddr::new(like, 31_000 + n);
            kept.push(Kept::open(&format!("peer to c{n}"), &host.peer, &container.ns, own(HOST4)));
            kept.push(Kept::open(&format!("peer to c{n}, IPv6"), &host.peer, &container.ns, own(HOST6)));
            kept.push(Kept::open(&format!("host to c{n}"), &host.ns, &container.ns, own(LO4)));
            kept.push(Kept::open(&format!("c{} to c{n}", (n + 1) % count), &next.ns, &container.ns, own(HOST4)));
            let outside = SocketAddr::new(PEER4, 20_000 + n);
            kept.push(Kept::open(&format!("c{n} to peer"), &container.ns, &host.peer, outside));
            let far = SocketAddr::new(FAR6, 20_000 + n);
            kept.push(Kept::open(&format!("c{n} to far, IPv6"), &container.ns, &host.peer, far));
        }
        Busy { containers, kept }
    }

    #[track_caller]
    fn lives(&mut self, when: &str) {
        self.kept.iter_mut().for_each(|kept| kept.lives(when));
    }

    /// Nothing was dropped of any of them, as `build` tells.
    #[track_caller]
    fn lost_nothing(&self, host: &Host, build: &Build, when: &str) {
        for container in &self.containers {
            let shown = build.run(host, &["show", &container.id, "--json"]).ok().json();
            let drops = shown["drops"].as_object().unwrap_or_else(|| panic!("{when}: no `drops` in {shown}"));
            let counted: Vec<_> = drops.iter().filter(|(_, count)| count.as_u64() != Some(0)).collect();
            assert!(counted.is_empty(), "{when}: {} lost {counted:?}", container.id);
        }
    }

    /// New connections work as well.
    #[track_caller]
    fn reached(&self, host: &Host, when: &str) {
        for container in &self.containers {
            let port = container.ports[0];
            let echo = Echo::start(&container.ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), port));
            for (from, at) in [(&host.peer, HOST4), (&host.ns, LO4)] {
                assert_reaches(when, from, Proto::Udp, SocketAddr::new(at, echo.at.port()));
            }
        }
    }
}

/// Filters and links that do not run the program as it is pinned now, one line each; of the host, and where `containers` are
/// given also of their pairs and inside them.
fn stale(host: &Host, containers: &[Container]) -> Vec<String> {
    let mut places = vec![("from_wire", "eth0".to_owned(), &host.ns), ("from_lo", "lo".to_owned(), &host.ns)];
    for container in containers {
        places.push(("from_container", container.device().expect("its device"), &host.ns));
        places.push(("inner_lo", "lo".to_owned(), &container.ns));
        places.push(("inner_eth", "eth0".to_owned(), &container.ns));
    }
    places.retain(|(name, device, ns)| !runs(ns, device, pinned(host, name)) && !linked(host, ns, device, name));
    places.iter().map(|(name, device, ns)| format!("{device} of {} does not run the new {name}", ns.name)).collect()
}

/// Does a device of the host run a program as it is pinned, through tcx or a filter?
fn hooked(host: &Host, name: &str, device: &str) -> bool {
    runs(&host.ns, device, pinned(host, name)) || linked(host, &host.ns, device, name)
}

/// The id of a pinned program.
fn pinned(host: &Host, name: &str) -> u32 {
    let (directory, name) = (bpf_directory(&host.state_dir()), name.to_owned());
    host.ns.inside_mounts(move || Programs::at(&directory).id(&name).expect("a pinned program"))
}

/// Is a program on the tcx hook of a device?
fn linked(host: &Host, ns: &Ns, device: &str, name: &str) -> bool {
    let (index, program) = (ns.inside(|| ns::ifindex(device)) as u32, pinned(host, name));
    find::hooked().expect("links").iter().any(|link| (link.ifindex, link.program) == (index, program))
}

/// Does a filter of a device run the program with this id?
fn runs(ns: &Ns, device: &str, id: u32) -> bool {
    ns.inside(|| {
        let mut netlink = Netlink::route().expect("netlink");
        let index = link::find(&mut netlink, device).expect("links").expect("the device").index;
        filter::ingress(&mut netlink, index).expect("filters").iter().any(|filter| filter.runs_program(id))
    })
}

/// The ids of what is pinned, by name.
fn ids(host: &Host, what: &str) -> Vec<(String, u64)> {
    let directory = bpf_directory(&host.state_dir());
    let list = host.ns.inside_mounts({
        let directory = directory.clone();
        move || std::fs::read_dir(directory).expect("pins").flatten().map(|e| e.file_name()).collect::<Vec<_>>()
    });
    let mut ids = Vec::new();
    for name in list.into_iter().map(|name| name.to_string_lossy().into_owned()) {
        let kind = match name.split_once('_') {
            Some(("prog", _)) => "prog",
            Some(("link", _)) => "link",
            _ => "map",
        };
        if kind == what && !name.contains('.') {
            let path = directory.join(&name).to_string_lossy().into_owned();
            let shown = host.run(["bpftool", "-j", kind, "show", "pinned", &path]).ok().json();
            ids.push((name, shown["id"].as_u64().expect("an id")));
        }
    }
    ids.sort();
    ids
}
