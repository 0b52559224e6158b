//! The loaded programs, run on packets that no device carries (`BPF_PROG_TEST_RUN`).
//!
//! A packet first meets a few instructions that give it what a device or a filter would: the filter's class, a VLAN tag taken off,
//! and a length below that of its headers. They jump into the loaded program itself.

use super::case::{Episode, SLOTS, Sample};
use super::places;
use portslice::net::link::Sources;
use portslice::net::route::Kind;
use portslice::steer::model::{Hook, Verdict, World};
use portslice::steer::sys::{object_get, update};
use portslice::steer::{Counters, Maps, Programs, SlotEntry};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::mem::Discriminant;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;

/// What packets have before a program looks at them.
pub const PRIORITY: u32 = 7;
/// The smallest frame the kernel takes for a run; a shorter one is cut from it.
const WHOLE: usize = 14 + 40;
/// Of `fragments_in`, without the last, and bytes of each (`bpf/maps.h`).
const FRAGMENT_BUCKETS: u32 = 16_384;
const FRAGMENT_BUCKET: usize = 4 * 24;
/// The same of `held`.
const HELD_BUCKETS: u32 = 32;
const HELD_BUCKET: usize = 8 * (24 + 9_216);
const PROGRAMS: [&str; 6] = ["from_wire", "from_lo", "from_container", "after_shaper", "inner_lo", "inner_eth"];

/// What a program did with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// TC_ACT_*.
    pub action: i32,
    /// The frame it left.
    pub bytes: Vec<u8>,
    /// The mark it left.
    pub mark: u32,
    /// The priority it left.
    pub priority: u32,
    /// What it added to the counters of each slot that has any.
    pub counted: BTreeMap<u16, Counters>,
}

/// The data path of this thread's namespace, with devices for its slots.
pub struct Machine {
    maps: Maps,
    entry: OwnedFd,
    /// Where first fragments on their way in went.
    arriving: OwnedFd,
    /// Later ones that came before.
    held: OwnedFd,
    epoch: u32,
    counters: BTreeMap<u16, Counters>,
    devices: BTreeMap<u16, u32>,
    host: places::Devices,
    /// How they look at sources.
    sources: BTreeMap<u32, Sources>,
    /// Kinds of decisions that there were.
    pub decided: HashSet<Discriminant<Verdict>>,
    _jumps: OwnedFd,
    _sockets: (Vec<TcpListener>, Vec<UdpSocket>),
}

impl Machine {
    /// Puts the data path pinned under `directory` to work.
    pub fn new(directory: &Path) -> Machine {
        ip("link set lo up");
        let host = host_devices();
        let mut devices = BTreeMap::new();
        let maps = Maps::open(directory).expect("maps");
        for slot in SLOTS {
            maps.publish(&places::ports(slot), slot);
            if places::runs(slot) {
                ip(&format!("link add pair{slot} type veth peer name inner{slot}"));
                let index = crate::lab::ns::ifindex(&format!("pair{slot}")) as u32;
                maps.set_device(slot, index).expect("device");
                devices.insert(slot, index);
            }
        }
        maps.reserve(&places::RESERVED.parse().unwrap(), 9).unwrap();
        maps.set_shaper(places::SHAPER).expect("shaper");
        let programs = Programs::at(directory);
        let jumps = sys::program_array(PROGRAMS.len() as u32).expect("a map of programs");
        for (index, name) in PROGRAMS.iter().enumerate() {
            let program = programs.open(name).expect("program");
            let (key, value) = ((index as u32).to_ne_bytes(), program.as_raw_fd().to_ne_bytes());
            update(jumps.as_fd(), &key, &value).expect("enter a program");
        }
        let entry = sys::load(&entry_code(jumps.as_raw_fd())).expect("load the entry");
        let listen = |port: &u16| (TcpListener::bind(("::", *port)).unwrap(), UdpSocket::bind(("::", *port)).unwrap());
        let sockets = places::LISTENING.iter().map(listen).unzip();
        let arriving = object_get(&directory.join("fragments_in")).expect("a map of fragments");
        Machine {
            maps,
            entry,
            arriving,
            held: object_get(&directory.join("held")).expect("a map of fragments"),
            epoch: 0,
            counters: BTreeMap::new(),
            devices,
            host,
            sources: BTreeMap::new(),
            decided: HashSet::new(),
            _jumps: jumps,
            _sockets: sockets,
        }
    }

    /// Sets the host and the slots up for an episode, in which nothing counts that was remembered: every slot gets a new tenant,
    /// and what is of no tenant is cleared.
    pub fn begin(&mut self, episode: &Episode) -> World {
        self.epoch += 1;
        sys::clear(&self.arriving, FRAGMENT_BUCKETS, FRAGMENT_BUCKET).expect("clear the map of fragments");
        sys::clear(&self.held, HELD_BUCKETS, HELD_BUCKET).expect("clear the map of later fragments");
        let mut world = places::world(episode.place, &self.host);
        self.maps.set_host(&world.host, &world.addresses).expect("host");
        for (slot, flags) in SLOTS.iter().zip(episode.flags) {
            let ifindex = self.devices.get(slot).copied().unwrap_or(places::gone(*slot));
            let entry = SlotEntry { ifindex, inner: 5, flags, epoch: self.epoch };
            self.maps.set_slot(*slot, entry).expect("slot");
            world.slots.insert(*slot, entry);
        }
        world.devices.clone_from(&self.devices);
        self.sources.clone_from(&world.sources);
        self.counters = SLOTS.iter().map(|slot| (*slot, self.maps.counters(*slot).expect("counters"))).collect();
        world
    }

    /// The device a sample comes in by.
    pub fn device(&self, world: &World, sample: &Sample) -> u32 {
        match sample.hook {
            Hook::Wire => self.host.out[usize::from(sample.strange)],
            Hook::Container(slot) if !sample.strange && world.runs(slot) => world.slot(slot).ifindex,
            Hook::Container(_) => self.host.out[0],
            _ => 1,
        }
    }

    /// Lets a program look at a packet.
    pub fn run(&mut self, device: u32, sample: &Sample) -> io::Result<Outcome> {
        let mut frame = sample.bytes.clone();
        let cut = if frame.len() < WHOLE { frame.len() as u32 } else { 0 };
        frame.resize(frame.len().max(WHOLE), 0);
        let class = match sample.hook {
            Hook::Container(slot) | Hook::ContainerLo(slot) => slot.into(),
            Hook::Wire => self.sources.get(&device).map_or(0, |sources| *sources as u32),
            _ => 0,
        };
        let index = PROGRAMS.iter().position(|name| *name == sample.hook.program()).expect("a program") as u32;
        let mut context = sys::SkBuff::default();
        (context.mark, context.priority) = (sample.mark, PRIORITY);
        // lo is the default, and may not be named
        context.ifindex = if device == 1 { 0 } else { device };
        context.cb = [class, sample.vlan.map_or(0, |tag| 0x10000 | u32::from(tag)), cut, index, 0];
        if let Some(segments) = sample.segments {
            (context.gso_size, context.gso_segs) = (segments.size.into(), segments.count.into());
        }
        let (action, bytes, context) = sys::test_run(&self.entry, &frame, context)?;
        let counted = self.counted();
        Ok(Outcome { action, bytes, mark: context.mark, priority: context.priority, counted })
    }

    fn counted(&mut self) -> BTreeMap<u16, Counters> {
        let mut counted = BTreeMap::new();
        for (slot, before) in &mut self.counters {
            let now = self.maps.counters(*slot).expect("counters");
            if now == *before {
                continue;
            }
            let mut more = Counters {
                rx_packets: now.rx_packets - before.rx_packets,
                rx_bytes: now.rx_bytes - before.rx_bytes,
                tx_packets: now.tx_packets - before.tx_packets,
                tx_bytes: now.tx_bytes - before.tx_bytes,
                ..Counters::default()
            };
            for (more, (now, before)) in more.drops.iter_mut().zip(now.drops.iter().zip(before.drops)) {
                *more = now - before;
            }
            counted.insert(*slot, more);
            *before = now;
        }
        counted
    }
}

/// The host's devices, with the routes of all places: each has a device to ask from, and a table of its own.
fn host_devices() -> places::Devices {
    let names = ["uplink", "beside", "tunnel"];
    let macs = [places::MAC, places::BESIDE, [0x02, 0x66, 0, 0, 0, 2]];
    for (name, (mac, mtu)) in names.iter().zip(macs.into_iter().zip(places::MTUS)) {
        ip(&format!("link add {name} address {} mtu {mtu} type veth peer name {name}-end", places::mac_text(mac)));
        ip(&format!("link set {name}-end up"));
        ip(&format!("link set {name} up"));
    }
    let mut fib = BTreeMap::new();
    for place in places::ASKED {
        let name = format!("fib{place}");
        ip(&format!("link add {name} type veth peer name {name}-end"));
        for family in ["ipv4", "ipv6"] {
            std::fs::write(format!("/proc/sys/net/{family}/conf/{name}/forwarding"), "1").expect("forwarding");
        }
        let table = 100 + place;
        for family in ["-4", "-6"] {
            ip(&format!("{family} rule add pref {table} iif {name} table {table}"));
        }
        for (network, prefix, kind, out) in places::routes(place) {
            let to = match kind {
                Kind::Unicast => format!("{network}/{prefix} dev {}", names[out]),
                Kind::Broadcast => format!("broadcast {network}/{prefix} dev {}", names[out]),
                kind => format!("{} {network}/{prefix}", format!("{kind:?}").to_lowercase()),
            };
            ip(&format!("route add {to} table {table}"));
        }
        fib.insert(place, crate::lab::ns::ifindex(&name) as u32);
    }
    places::Devices { out: names.map(|name| crate::lab::ns::ifindex(name) as u32), fib }
}

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().expect("ip").success(), "ip {arguments}");
}

/// `cb`: class, VLAN tag, length, program.
fn entry_code(jumps: i32) -> Vec<u64> {
    const CB: i16 = 48;
    const CLASS_ID: i16 = 72;
    let instruction = |code: u8, to: u8, from: u8, offset: i16, value: i32| {
        u64::from(code)
            | u64::from(to | from << 4) << 8
            | u64::from(offset as u16) << 16
            | u64::from(value as u32) << 32
    };
    let load = |to, offset| instruction(0x61, to, 6, offset, 0);
    let copy = |to, from| instruction(0xbf, to, from, 0, 0);
    let set = |to, value| instruction(0xb7, to, 0, 0, value);
    let call = |helper| instruction(0x85, 0, 0, 0, helper);
    let skip_if_zero = |of, count| instruction(0x15, of, 0, count, 0);
    let vlan = i32::from(0x8100_u16.to_be());
    vec![
        copy(6, 1),
        load(2, CB + 8),
        skip_if_zero(2, 3),
        copy(1, 6),
        set(3, 0),
        call(38), // bpf_skb_change_tail
        load(3, CB + 4),
        skip_if_zero(3, 3),
        copy(1, 6),
        set(2, vlan),
        call(18), // bpf_skb_vlan_push
        load(2, CB),
        instruction(0x63, 6, 2, CLASS_ID, 0),
        copy(1, 6),
        instruction(0x18, 2, 1, 0, jumps), // a map's descriptor
        0,
        load(3, CB + 12),
        call(12), // bpf_tail_call
        set(0, 99),
        instruction(0x95, 0, 0, 0, 0), // exit
    ]
}

/// bpf(2), as far as the product has no use for it.
mod sys {
    use super::*;

    const MAP_CREATE: libc::c_long = 0;
    const PROG_LOAD: libc::c_long = 5;
    const PROG_TEST_RUN: libc::c_long = 10;
    const MAP_UPDATE_BATCH: libc::c_long = 26;
    const SCHED_CLS: u32 = 3;
    const PROG_ARRAY: u32 = 3;

    /// struct __sk_buff.
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    pub struct SkBuff {
        before: [u32; 2],
        pub mark: u32,
        queue: [u32; 5],
        pub priority: u32,
        ingress: u32,
        pub ifindex: u32,
        index: u32,
        pub cb: [u32; 5],
        rest: [u32; 24],
        pub gso_segs: u32,
        sk: u64,
        pub gso_size: u32,
        tstamp_type: u32,
        hwtstamp: u64,
    }

    const _: () = assert!(size_of::<SkBuff>() == 192);
    const _: () = assert!(std::mem::offset_of!(SkBuff, cb) == 48);
    const _: () = assert!(std::mem::offset_of!(SkBuff, gso_segs) == 164);

    #[repr(C)]
    #[derive(Default)]
    struct Create {
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
    }

    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log: [u64; 2],
    }

    #[repr(C)]
    #[derive(Default)]
    struct Test {
        program: u32,
        action: u32,
        size_in: u32,
        size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        context_size_in: u32,
        context_size_out: u32,
        context_in: u64,
        context_out: u64,
    }

    #[repr(C)]
    #[derive(Default)]
    struct Batch {
        in_batch: u64,
        out_batch: u64,
        keys: u64,
        values: u64,
        count: u32,
        map: u32,
        flags: [u64; 2],
    }

    /// Fills the first entries of an array with zeros.
    pub fn clear(array: &OwnedFd, entries: u32, size: usize) -> io::Result<()> {
        let keys: Vec<u32> = (0..entries).collect();
        let values = vec![0u8; size * entries as usize];
        let (first, zeros) = (keys.as_ptr() as u64, values.as_ptr() as u64);
        let map = array.as_raw_fd() as u32;
        let mut attr = Batch { keys: first, values: zeros, count: entries, map, ..Batch::default() };
        bpf(MAP_UPDATE_BATCH, &mut attr).map(drop)
    }

    pub fn program_array(entries: u32) -> io::Result<OwnedFd> {
        let mut attr = Create { kind: PROG_ARRAY, key_size: 4, value_size: 4, max_entries: entries };
        opened(bpf(MAP_CREATE, &mut attr)?)
    }

    pub fn load(code: &[u64]) -> io::Result<OwnedFd> {
        let mut attr = Load {
            kind: SCHED_CLS,
            count: code.len() as u32,
            instructions: code.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            ..Load::default()
        };
        opened(bpf(PROG_LOAD, &mut attr)?)
    }

    pub fn test_run(program: &OwnedFd, frame: &[u8], context: SkBuff) -> io::Result<(i32, Vec<u8>, SkBuff)> {
        // room for an ICMP error about it
        let mut out = vec![0; frame.len() + 256];
        let mut left = SkBuff::default();
        let mut attr = Test {
            program: program.as_raw_fd() as u32,
            size_in: frame.len() as u32,
            size_out: out.len() as u32,
            data_in: frame.as_ptr() as u64,
            data_out: out.as_mut_ptr() as u64,
            repeat: 1,
            context_size_in: size_of::<SkBuff>() as u32,
            context_size_out: size_of::<SkBuff>() as u32,
            context_in: &raw const context as u64,
            context_out: &raw mut left as u64,
            ..Test::default()
        };
        bpf(PROG_TEST_RUN, &mut attr)?;
        out.truncate(attr.size_out as usize);
        Ok((attr.action as i32, out, left))
    }

    fn opened(fd: i32) -> io::Result<OwnedFd> {
        // SAFETY: the kernel just returned this descriptor and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
        // SAFETY: attr is a prefix of union bpf_attr, and every pointer in it stays valid for the call.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, size_of::<T>()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
    }
}
