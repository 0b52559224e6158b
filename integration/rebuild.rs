//! Promise: the kernel has every lease as well. A state directory that is lost is written again byte for byte, and traffic
//! never stops.

use crate::lab::*;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const CONTAINERS: u16 = 50;

/// Every file of the state directory that a container depends on, with its bytes.
fn records(state: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for name in ["leases", "members", "."] {
        for entry in std::fs::read_dir(state.join(name)).expect("state directory").flatten() {
            let name = format!("{name}/{}", entry.file_name().to_string_lossy());
            let link =
                std::fs::read_link(entry.path()).map(|target| target.to_string_lossy().into_owned().into_bytes());
            match link.or_else(|_| std::fs::read(entry.path())) {
                Ok(bytes) if !name.ends_with("/lock") => drop(all.insert(name, bytes)),
                _ => {}
            }
        }
    }
    all
}

#[test]
fn a_lost_ledger_is_restored_byte_for_byte_while_traffic_goes_on() {
    let config = "ports = \"31000-31999\"\nephemeral_ports_per_container = 256\n";
    let host = Host::with("rebuild").config(config).build();
    let containers: Vec<Container> =
        (0..CONTAINERS).map(|n| host.bare(&format!("c{n}"), &["--ports", &format!("{}", 31_000 + n)])).collect();
    let pid = containers[0].ns.pid().to_string();
    host.portslice(["attach", "second", "--pid", &pid, "--ports", "31900"]).ok();
    let before = records(&host.state_dir());
    assert!(before.len() >= usize::from(CONTAINERS) + 2, "{:?}", before.keys());
    let echoes: Vec<Echo> = containers
        .iter()
        .map(|c| Echo::start(&c.ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), c.ports[0])))
        .collect();

    let (stop, lost) = (AtomicBool::new(false), std::sync::atomic::AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let to = SocketAddr::new(HOST4, 31_000 + n % CONTAINERS);
                let (answer, _) = ask(&host.peer, Proto::Udp, to);
                lost.fetch_add(u32::from(!matches!(answer, Tried::Ok { .. })), Ordering::Relaxed);
            }
        });
        for name in ["leases", "members"] {
            std::fs::remove_dir_all(host.state_dir().join(name)).expect(name);
        }
        for name in ["host.json", "lock"] {
            std::fs::remove_file(host.state_dir().join(name)).expect(name);
        }
        let out = host.portslice(["setup"]);
        assert!(out.code == Some(5) && out.stderr.contains("fsck --rebuild"), "{out}");
        let out = host.portslice(["fsck", "--rebuild"]).ok();
        assert!(out.stdout.lines().count() >= usize::from(CONTAINERS), "{out}");
        assert_eq!(records(&host.state_dir()), before);
        assert_eq!(host.portslice(["fsck"]).ok().stdout, "");
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(lost.load(Ordering::Relaxed), 0, "questions without an answer");
    assert!(echoes.iter().all(|echo| echo.served() > 0), "every container was asked");
    assert_eq!(host.list().len(), usize::from(CONTAINERS));
}
