//! What a stretch of work cost: instructions executed (user and kernel) by the threads that did it.
//!
//! The counters follow the two measuring threads, not the CPUs, so that whatever else the machine does stays out of the
//! figures. Over a veth the receive path runs as a softirq on top of the sender, so the threads' own counters see it;
//! what the kernel hands to `ksoftirqd` under load is added from counters that follow those threads.
//!
//! Machines without a usable PMU (many virtual ones) have no instruction counter. There the kernel's task clock stands in,
//! for information only: CPU time is too noisy to be held to limits of a few per cent. In an emulated machine whose clock
//! advances by a nanosecond with every instruction (`PORTSLICE_CLOCK=instructions`, as `integration/vm` has it), the time that
//! passes is the count, of everything that its one processor does.

use std::fs;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::FromRawFd;
use std::time::Instant;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Of the two threads, by the PMU.
    Instructions,
    /// Of the two threads, in nanoseconds of CPU time.
    TaskClock,
    /// Of the whole machine, by its clock.
    Clock,
}

impl Event {
    /// `(type, config)` of `perf_event_attr`; a clock needs none.
    fn code(self) -> Option<(u32, u64)> {
        const HARDWARE: u32 = 0;
        const SOFTWARE: u32 = 1;
        match self {
            Event::Instructions => Some((HARDWARE, 1)),
            Event::TaskClock => Some((SOFTWARE, 1)),
            Event::Clock => None,
        }
    }
}

/// `struct perf_event_attr` as of its first version, which every kernel since accepts.
#[repr(C)]
#[derive(Default)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    config1: u64,
}

/// A running counter of one thread, or the clock.
pub enum Counter {
    Perf(File),
    Since(Instant),
}

impl Counter {
    /// Counts the calling thread.
    pub fn of_this_thread(event: Event) -> io::Result<Counter> {
        Counter::of(event, 0)
    }

    fn of(event: Event, tid: i32) -> io::Result<Counter> {
        let Some((kind, config)) = event.code() else { return Ok(Counter::Since(Instant::now())) };
        const EXCLUDE_HYPERVISOR: u64 = 1 << 6;
        let attr = Attr { kind, config, size: size_of::<Attr>() as u32, flags: EXCLUDE_HYPERVISOR, ..Attr::default() };
        const CLOSE_ON_EXEC: u64 = 1 << 3;
        // SAFETY: `attr` is a valid perf_event_attr of the size it states and outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &attr, tid, -1, -1, CLOSE_ON_EXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        Ok(Counter::Perf(unsafe { File::from_raw_fd(fd as i32) }))
    }

    pub fn read(&self) -> io::Result<u64> {
        let mut file = match self {
            Counter::Since(start) => return Ok(start.elapsed().as_nanos() as u64),
            Counter::Perf(file) => file,
        };
        let mut value = [0u8; 8];
        file.read_exact(&mut value)?;
        Ok(u64::from_ne_bytes(value))
    }
}

/// What this machine can count, and the counters that belong to no thread of ours.
pub struct Meter {
    pub event: Event,
    softirq: Vec<Counter>,
}

impl Meter {
    /// The meter, and why instructions cannot be counted if they cannot.
    pub fn new() -> io::Result<(Meter, Option<String>)> {
        if std::env::var_os("PORTSLICE_CLOCK").is_some_and(|clock| clock == "instructions") {
            return Ok((Meter { event: Event::Clock, softirq: Vec::new() }, None));
        }
        let (event, reason) = match Counter::of_this_thread(Event::Instructions).and_then(|counter| counter.read()) {
            Ok(1..) => (Event::Instructions, None),
            Ok(0) => (Event::TaskClock, Some("the instruction counter stands still".to_owned())),
            Err(e) => (Event::TaskClock, Some(format!("perf_event_open(instructions): {e}"))),
        };
        Ok((Meter { event, softirq: softirq_threads(event)? }, reason))
    }

    /// What two threads did that ran side by side, from what each of them counted.
    pub fn both(&self, server: u64, client: u64) -> u64 {
        // the clock has counted the one while the other looked at it
        if self.event == Event::Clock { client } else { server + client }
    }

    /// The running total of `ksoftirqd`.
    pub fn softirq(&self) -> io::Result<u64> {
        self.softirq.iter().map(Counter::read).sum()
    }
}

fn softirq_threads(event: Event) -> io::Result<Vec<Counter>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        if fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with("ksoftirqd/")) {
            found.push(Counter::of(event, pid)?);
        }
    }
    Ok(found)
}
