//! What must hold whenever all workers rest.

use super::ops::{PLACES, Random, World};
use crate::lab::container::ports_of;
use crate::lab::still::{devices, released};
use crate::lab::wait::eventually;
use crate::lab::*;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

/// Live containers that are asked in one look.
const SAMPLE: usize = 2;

impl World {
    /// Looks at everything.
    pub fn look(&self, random: &mut Random) {
        if self.lost.swap(false, Ordering::SeqCst) {
            self.quiet(&["fsck", "--rebuild"], &[0, 1]);
        }
        self.settles();
        let leases = self.host.list();
        self.disjoint(&leases);
        self.devices(&leases);
        for _ in 0..SAMPLE {
            if !leases.is_empty() {
                self.reached(&leases[random.below(leases.len() as u64) as usize]);
            }
        }
        self.free_port(&leases, random);
        self.without_slice(&leases);
        match random.below(3) {
            0 => self.restored(&leases, random),
            1 => self.strangers(&leases, random),
            _ => {}
        }
    }

    /// What was killed or ended is taken back, and then memory and kernel agree.
    fn settles(&self) {
        let mut said = String::new();
        let agree = || {
            let gc = self.quiet(&["gc"], &[0]);
            let fsck = self.quiet(&["fsck"], &[0, 1]);
            said = format!("gc: {}{}fsck: {}{}", gc.stdout, gc.stderr, fsck.stdout, fsck.stderr);
            fsck.code == Some(0) && fsck.stdout.is_empty() && fsck.stderr.is_empty()
        };
        if !eventually(agree) {
            self.violated(format!("fsck after gc finds something: {said}"));
        }
    }

    /// Nothing is leased twice.
    fn disjoint(&self, leases: &[Value]) {
        let (mut ports, mut slots, mut namespaces, mut members) =
            (BTreeMap::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for lease in leases {
            let all = block_of(lease).chain(ports_of(lease["ports"].as_str().unwrap_or_default()));
            for port in all {
                if let Some(other) = ports.insert(port, &lease["id"]) {
                    self.violated(format!("port {port} is leased to {} and {other}", lease["id"]));
                }
            }
            let mut ids = lease["members"].as_array().into_iter().flatten().map(|member| member["id"].to_string());
            let fresh = [
                ("slot", slots.insert(lease["slot"].to_string())),
                ("namespace", namespaces.insert(lease["netns_id"].to_string())),
                ("member", ids.all(|id| members.insert(id))),
                ("stage", lease["stage"] == "attached"),
            ];
            for (what, _) in fresh.iter().filter(|(_, fresh)| !fresh) {
                self.violated(format!("{what}: leased to another as well, or not attached: {lease}"));
            }
        }
    }

    /// Every slice has its device with its MAC, and there is no device of ours besides.
    fn devices(&self, leases: &[Value]) {
        let record = std::fs::read(self.host.state_dir().join("host.json")).expect("the host's record");
        let record: Value = serde_json::from_slice(&record).expect("the host's record");
        let instance = record["instance"].as_u64().expect("instance");
        let slots: Vec<u64> = leases.iter().filter_map(|lease| lease["slot"].as_u64()).collect();
        let expected: BTreeSet<String> = slots.iter().map(|slot| format!("portslice{slot}")).collect();
        let mut links = BTreeSet::new();
        let agree = || {
            let shaper = |name: &String| name.starts_with("portslice-");
            links =
                self.host.links().into_iter().filter(|name| name.starts_with("portslice") && !shaper(name)).collect();
            links == expected
        };
        if !eventually(agree) {
            self.violated(format!("devices {links:?}, leases have {expected:?}"));
            return;
        }
        for slot in slots {
            let name = format!("portslice{slot}");
            let mac = self.host.inside(|| ns::mac(&name));
            let [_, a, b, c] = (instance as u32).to_be_bytes();
            let [high, low] = (slot as u16).to_be_bytes();
            if mac != [2, a, b, c, high, low] {
                self.violated(format!("{name} has the MAC {mac:02x?}"));
            }
        }
    }

    /// The peer reaches a port of a container in that container, and nowhere else.
    fn reached(&self, lease: &Value) {
        let members = lease["members"].as_array().into_iter().flatten();
        let Some(port) = members.flat_map(|member| ports_of(member["ports"].as_str().unwrap_or_default())).next()
        else {
            return;
        };
        let path = lease["netns"].as_str().unwrap_or_default();
        let place = self.places.iter().map(|place| place.read().unwrap()).find(|ns| ns.path().to_str() == Some(path));
        let Some(ns) = place else {
            self.violated(format!("lease of a namespace that ended: {lease}"));
            return;
        };
        let (at, to) = (SocketAddr::new(probe::any(HOST4), port), SocketAddr::new(HOST4, port));
        let hosts = Echo::start(&self.host.ns, Proto::Udp, at);
        let own = Echo::start(&ns, Proto::Udp, at);
        let (tried, _) = ask(&self.host.peer, Proto::Udp, to);
        if !tried.is_ok() || own.served() != 1 || hosts.served() != 0 {
            let who = (own.served(), hosts.served());
            self.violated(format!("port {port}: {tried:?}, container and host saw {who:?}: {lease}"));
        }
        drop((hosts, own));
        released(&self.host.ns, port);
    }

    /// A namespace that has no slice any more is as it was before it had one.
    fn without_slice(&self, leases: &[Value]) {
        let taken: Vec<&str> = leases.iter().filter_map(|lease| lease["netns"].as_str()).collect();
        for place in &self.places {
            let ns = place.read().unwrap();
            if ns.path().to_str().is_some_and(|path| taken.contains(&path)) {
                continue;
            }
            let (range, devices) = (ns.sysctl("ipv4.ip_local_port_range"), devices(&ns));
            if devices != ["lo"] || range != "32768\t60999" {
                self.violated(format!("{} of {} has no slice, but {devices:?} and ports {range}", ns.name, ns.pid()));
            }
        }
    }

    /// A port that nobody has is the host's.
    fn free_port(&self, leases: &[Value], random: &mut Random) {
        let leased: BTreeSet<u16> = leases
            .iter()
            .flat_map(|lease| block_of(lease).chain(ports_of(lease["ports"].as_str().unwrap_or_default())))
            .collect();
        let free: Vec<u16> = (31_000..31_012).chain(32_768..33_280).filter(|port| !leased.contains(port)).collect();
        if free.is_empty() {
            return;
        }
        let port = random.pick(&free);
        let echo = Echo::start(&self.host.ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), port));
        let (tried, _) = ask(&self.host.peer, Proto::Udp, SocketAddr::new(HOST4, port));
        if !tried.is_ok() || echo.served() != 1 {
            self.violated(format!("port {port} is nobody's, and the host's socket is not reached: {tried:?}"));
        }
        drop(echo);
        released(&self.host.ns, port);
    }

    /// A lease file that is deleted comes back byte for byte.
    fn restored(&self, leases: &[Value], random: &mut Random) {
        if leases.is_empty() {
            return;
        }
        let lease = &leases[random.below(leases.len() as u64) as usize];
        let file = self.host.state_dir().join("leases").join(lease["id"].as_str().unwrap_or_default());
        let before = std::fs::read(&file).expect("a lease");
        std::fs::remove_file(&file).expect("a lease");
        self.quiet(&["gc"], &[0]);
        self.quiet(&["fsck", "--rebuild"], &[0]);
        if std::fs::read(&file).ok().as_ref() != Some(&before) {
            self.violated(format!("{} is not restored as it was", file.display()));
        }
        self.same(leases, "after a lease was deleted and restored");
    }

    /// Runtimes that end other containers of the same ids, and another installation: nothing comes of either.
    fn strangers(&self, leases: &[Value], random: &mut Random) {
        for lease in leases {
            for member in lease["members"].as_array().into_iter().flatten() {
                let id = member["id"].as_str().unwrap_or_default();
                self.quiet_hook("portslice-poststop", &self.stopped(id, "other"));
            }
        }
        let id = leases.first().and_then(|lease| lease["id"].as_str()).unwrap_or("a00").to_owned();
        (0..5).for_each(|verb| self.intrusion(random.below(PLACES), verb, &id));
        self.same(leases, "after strangers came");
    }

    fn same(&self, leases: &[Value], what: &str) {
        let now = self.host.list();
        if now != leases {
            self.violated(format!("{what}: {now:?}, were {leases:?}"));
        }
        let fsck = self.quiet(&["fsck"], &[0]);
        if !fsck.stdout.is_empty() {
            self.violated(format!("{what}: fsck: {}", fsck.stdout));
        }
    }

    /// The next round has all places, or few of them on a host that is empty.
    pub fn begin(&self, few: bool) {
        self.used.store(if few { 2 } else { PLACES }, Ordering::SeqCst);
        if few {
            self.empty();
        }
    }

    /// Half of the containers are detached, and the others end. Dropping the host asserts that nothing is left behind.
    pub fn end(self) {
        for (n, place) in self.places.iter().enumerate() {
            if n.is_multiple_of(2) {
                place.read().unwrap().kill();
            }
        }
        self.empty();
        self.intrusion(1, 4, "a00");
        self.assert_sound("at the end");
        self.host.finish();
    }

    fn empty(&self) {
        for lease in self.host.list() {
            for member in lease["members"].as_array().into_iter().flatten() {
                self.quiet(&["detach", member["id"].as_str().unwrap_or_default()], &[0]);
            }
            self.quiet(&["detach", lease["id"].as_str().unwrap_or_default()], &[0]);
        }
    }
}

fn block_of(lease: &Value) -> impl Iterator<Item = u16> {
    let port = |key: &str| lease["block"][key].as_u64().unwrap_or_default() as u16;
    port("begin")..=port("end")
}
