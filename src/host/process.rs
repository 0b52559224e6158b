//! Who a process is, beyond a number that may be given out again; and what this one may do.

use std::fs;

use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for a later one with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Process id in the host's pid namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub started: u64,
}

impl Worker {
    /// This process.
    pub fn current() -> Self {
        let pid = std::process::id();
        Self { pid, started: start_time(pid).unwrap_or(0) }
    }

    /// Does it still run?
    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

/// CAP_NET_ADMIN, CAP_SYS_ADMIN (to enter a namespace and mount) and CAP_BPF or its superset.
pub fn missing_capability() -> Option<&'static str> {
    // include/uapi/linux/capability.h
    const NEEDED: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    NEEDED.iter().find(|(bit, _)| effective & (1 << bit) == 0).map(|(_, name)| *name)
}

/// Lets everybody else have the CPUs first from now on: the calling thread, and threads it starts.
pub fn stand_back() {
    /// A tenth of the weight of an ordinary thread: it gets on even where every CPU is busy.
    const NICE: i32 = 10;
    // SAFETY: takes numbers only; 0 is the calling thread. A refusal leaves it as it was.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

/// The boot's identity: kernel state of another boot is gone.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // the command name may hold blanks and parentheses: count from the last one
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    // a zombie has done what it will ever do
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}
