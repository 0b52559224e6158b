//! Processes of the host and of containers bind, listen, accept, close and crash at random while containers end and others begin:
//! whoever has a port is who its packets go to.
//!
//! Between two system calls nobody does anything for a moment, and the sockets that there are (sock_diag, in every namespace) are
//! compared with the map. `PORTSLICE_SEED` repeats the choices of a run, though not their order.

use super::runner::{Order, Runner};
use super::{OPEN, host};
use crate::lab::{HOST4, HOST6, Host, Ns, long};
use crate::model::ops::Random;
use portslice::net::{Netlink, diag};
use portslice::plan::host::bpf_directory;
use portslice::ports::{PortRange, PortSet};
use portslice::steer::Maps;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, RwLock};
use std::time::{Duration, Instant};

/// Containers, and processes in each and on the host.
const CONTAINERS: usize = 3;
const PROCESSES: usize = 2;
/// What they all bind to.
const PORTS: std::ops::RangeInclusive<u16> = 20_000..=20_199;
/// Sockets of one process.
const SOCKETS: u64 = 48;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// What packets are given to arrive.
const SETTLE: Duration = Duration::from_millis(30);

/// A namespace with processes: the host's, or that of a container.
struct Place {
    container: Option<(String, Ns)>,
    /// 0 for the host.
    slot: u16,
    processes: Vec<Mutex<Runner>>,
}

struct World {
    host: Host,
    places: Vec<RwLock<Place>>,
    /// Read by whoever makes a call; written by who looks.
    gate: RwLock<()>,
    stop: AtomicBool,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    containers: AtomicU64,
}

/// A socket and the map that say different things.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Disagreement {
    port: u16,
    udp: bool,
    /// Whose the socket is, and its inode; 0: he has none and the port is counted as held.
    slot: u16,
    inode: u32,
    steered: Option<u16>,
}

#[test]
fn whoever_has_a_port_is_who_its_packets_go_to() {
    let clock = || std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
    let seed = std::env::var("PORTSLICE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(clock);
    let time = Duration::from_secs(if long() { 60 } else { 10 });
    println!("churn: PORTSLICE_SEED={seed}, {time:?}");
    let world = World::new();
    let looks = std::thread::scope(|scope| {
        for worker in 0..world.places.len() * PROCESSES {
            let world = &world;
            scope.spawn(move || {
                let _stop = Stop(&world.stop);
                let mut random = Random::new(seed.wrapping_add(worker as u64));
                while !world.stop.load(Ordering::Relaxed) {
                    world.operation(&mut random, worker / PROCESSES, worker % PROCESSES);
                }
            });
        }
        let _stop = Stop(&world.stop);
        let (begun, mut looks) = (Instant::now(), 0);
        while begun.elapsed() < time && !world.stop.load(Ordering::Relaxed) {
            std::thread::sleep(PAUSE);
            world.assert_agreed(seed);
            looks += 1;
        }
        looks
    });
    println!("churn: {looks} looks beside {:?}", world.counts.lock().unwrap());
    world.end(seed);
}

/// Whatever becomes of one thread, the others are told to stop.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl World {
    fn new() -> World {
        let host = host("claims-churn");
        let processes = |ns: &Ns| (0..PROCESSES).map(|_| Mutex::new(Runner::start(ns, SOCKETS as usize))).collect();
        let own = Place { container: None, slot: 0, processes: processes(&host.ns) };
        let mut world = World {
            host,
            places: Vec::new(),
            gate: RwLock::new(()),
            stop: AtomicBool::new(false),
            counts: Mutex::new(BTreeMap::new()),
            containers: AtomicU64::new(0),
        };
        world.places.push(RwLock::new(own));
        for _ in 0..CONTAINERS {
            let place = RwLock::new(world.container());
            world.places.push(place);
        }
        world
    }

    /// A container with its processes.
    fn container(&self) -> Place {
        let (id, ns) = (format!("c{}", self.containers.fetch_add(1, Ordering::Relaxed)), Ns::net_only("churn"));
        let pid = ns.pid().to_string();
        self.host.portslice(["attach", &id, "--pid", &pid, "--ephemeral-ports", "256", OPEN[0], OPEN[1]]).ok();
        let leases = self.host.list();
        let slot = leases.iter().find(|lease| lease["id"] == id).and_then(|lease| lease["slot"].as_u64());
        let slot = slot.unwrap_or_else(|| panic!("{id} has no slot: {leases:?}")) as u16;
        let processes = (0..PROCESSES).map(|_| Mutex::new(Runner::start(&ns, SOCKETS as usize))).collect();
        Place { container: Some((id, ns)), slot, processes }
    }

    fn count(&self, what: &'static str) {
        *self.counts.lock().unwrap().entry(what).or_default() += 1;
    }

    /// What a process does next.
    fn operation(&self, random: &mut Random, place: usize, process: usize) {
        let _call = self.gate.read().unwrap();
        if place > 0 && process == 0 && random.below(400) == 0 {
            self.replace(random, place);
        }
        let here = self.places[place].read().unwrap();
        let mut runner = here.processes[process].lock().unwrap();
        if random.below(300) == 0 {
            *runner = Runner::start(here.ns(&self.host), SOCKETS as usize);
            return self.count("crash");
        }
        self.calls(random, &runner);
    }

    /// One container ends, its processes killed before or after anybody is told, and another one begins.
    fn replace(&self, random: &mut Random, place: usize) {
        let mut place = self.places[place].write().unwrap();
        let (id, _) = place.container.as_ref().expect("a container");
        let detach = ["detach".to_owned(), id.clone()];
        if random.below(2) == 0 {
            self.host.portslice(&detach).ok();
            place.kill();
        } else {
            place.kill();
            self.host.portslice(&detach).ok();
        }
        *place = self.container();
        self.count("container");
    }

    fn calls(&self, random: &mut Random, runner: &MutexGuard<Runner>) {
        let at = random.below(SOCKETS) as u16;
        let port = PORTS.start() + random.below(PORTS.len() as u64) as u16;
        let v6 = random.below(3) == 0;
        let (own, target): (IpAddr, IpAddr) =
            if v6 { (Ipv6Addr::UNSPECIFIED.into(), HOST6) } else { (Ipv4Addr::UNSPECIFIED.into(), HOST4) };
        match random.below(10) {
            0..4 => {
                let stream = random.below(3) > 0;
                runner.call(Order::Open { at, stream, v6 });
                if stream && random.below(2) == 0 {
                    let (level, option) = (libc::SOL_SOCKET, libc::SO_REUSEADDR);
                    runner.call(Order::Set { at, level, option, value: 1 });
                }
                let bound = runner.call(Order::Bind { at, to: SocketAddr::new(own, port) });
                self.count(if bound.errno == 0 { "bound" } else { "refused" });
                if stream && random.below(4) > 0 && runner.call(Order::Listen { at, queue: 1024 }).errno == 0 {
                    self.count("listens");
                }
            }
            4..6 => {
                if random.below(2) == 0 {
                    runner.call(Order::Open { at, stream: true, v6 });
                }
                if runner.call(Order::Connect { at, to: SocketAddr::new(target, port) }).errno == 0 {
                    self.count("connected");
                }
            }
            6..8 => {
                let into = random.below(SOCKETS) as u16;
                if into != at && runner.call(Order::Accept { at, into, wait: 1 }).errno == 0 {
                    self.count("accepted");
                }
            }
            8 => {
                let how = [libc::SHUT_RD, libc::SHUT_WR, libc::SHUT_RDWR][random.below(3) as usize];
                runner.call(Order::Shutdown { at, how });
            }
            _ => {
                runner.call(Order::Close { at });
            }
        }
    }

    /// What sockets and map disagree about, while nobody makes a call.
    fn disagreements(&self) -> BTreeSet<Disagreement> {
        let pins = self.host.ns.root(&bpf_directory(&self.host.state_dir()).to_string_lossy());
        let maps = Maps::open(&pins).expect("the maps");
        let range = PortRange::new(*PORTS.start(), *PORTS.end()).expect("a range");
        let mut found = BTreeSet::new();
        for place in &self.places {
            let place = place.read().unwrap();
            let sockets = place
                .ns(&self.host)
                .inside(|| diag::holders(&mut Netlink::diag().expect("netlink"), range).expect("sockets"));
            let slot = place.slot;
            // one without an inode belongs to nobody any more, or to a listener
            for socket in sockets.iter().filter(|socket| socket.inode != 0) {
                let steered = maps.steered(socket.port, !socket.tcp);
                if steered != Some(slot).filter(|slot| *slot != 0) {
                    let (port, udp, inode) = (socket.port, !socket.tcp, socket.inode);
                    found.insert(Disagreement { port, udp, slot, inode, steered });
                }
            }
            let claims = maps.claims(slot);
            for (udp, held) in [(false, claims.tcp), (true, claims.udp)] {
                let there = |port: u16| sockets.iter().any(|socket| socket.port == port && socket.tcp != udp);
                let alone = held.iter().filter(|port| PORTS.contains(port) && !there(*port));
                found.extend(alone.map(|port| {
                    let steered = maps.steered(port, udp);
                    Disagreement { port, udp, slot, inode: 0, steered }
                }));
            }
        }
        found
    }

    fn assert_agreed(&self, seed: u64) {
        let _nobody = self.gate.write().unwrap();
        let first = self.disagreements();
        if first.is_empty() {
            return;
        }
        // the last packets of a connection may be on their way
        std::thread::sleep(SETTLE);
        let second = self.disagreements();
        let lasting: Vec<&Disagreement> = first.intersection(&second).collect();
        assert!(lasting.is_empty(), "PORTSLICE_SEED={seed}: {lasting:#?}");
    }

    /// Everybody ends: nothing is left to anybody.
    fn end(mut self, seed: u64) {
        let counts = self.counts.lock().unwrap().clone();
        for what in ["bound", "refused", "listens", "connected", "accepted", "crash", "container"] {
            assert!(
                counts.get(what).is_some_and(|count| *count > 0),
                "PORTSLICE_SEED={seed}: nothing {what}: {counts:?}"
            );
        }
        for place in self.places.drain(..) {
            let mut place = place.into_inner().unwrap();
            place.kill();
            if let Some((id, _)) = &place.container {
                self.host.portslice(["detach", id]).ok();
            }
        }
        let pins = self.host.ns.root(&bpf_directory(&self.host.state_dir()).to_string_lossy());
        let maps = Maps::open(&pins).expect("the maps");
        let steered: Vec<u16> =
            PORTS.filter(|port| [false, true].iter().any(|udp| maps.steered(*port, *udp).is_some())).collect();
        assert_eq!(steered, [] as [u16; 0], "PORTSLICE_SEED={seed}: steered, and nobody is there");
        let left = maps.claims(0);
        assert_eq!((left.tcp, left.udp), (PortSet::empty(), PortSet::empty()), "PORTSLICE_SEED={seed}: of the host");
    }
}

impl Place {
    fn ns<'a>(&'a self, host: &'a Host) -> &'a Ns {
        self.container.as_ref().map_or(&host.ns, |(_, ns)| ns)
    }

    /// Ends its processes with SIGKILL, and its namespace.
    fn kill(&mut self) {
        self.processes.clear();
        if let Some((_, ns)) = &self.container {
            ns.kill();
        }
    }
}
