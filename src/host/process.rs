//! Who a process is, beyond a number that may be given out again; and what this one may do.

use std::borrow::Cow;
use std::ffi::{CString, OsString, c_void};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::OnceLock;

use nix::sys::mman::{MmapAdvise, madvise};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::execv;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::file;
use crate::net::netns::NetnsId;
use crate::refusal::one_line;

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

    /// The process `pid`, if it runs.
    pub fn of(pid: u32) -> Option<Self> {
        start_time(pid).map(|started| Self { pid, started })
    }

    /// Does it still run?
    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

/// `process 1234 (portslice)`
impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match command_of(self.pid).filter(|_| self.is_alive()) {
            Some(command) => write!(f, "process {} ({command})", self.pid),
            None => write!(f, "process {}", self.pid),
        }
    }
}

/// The command name of a process (`/proc/PID/comm`).
pub fn command_of(pid: u32) -> Option<String> {
    let text = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(one_line(&String::from_utf8_lossy(&text))).filter(|name| !name.is_empty())
}

/// Becomes another program, with `words` behind its own name. Returns only if that fails.
///
/// Environment, signal mask and open files stay as they were given to this one. So does what a broken pipe does: Rust's start-up
/// code ignores that signal, which a container would inherit.
pub fn become_program(program: &Path, words: &[OsString]) -> Error {
    let argv = std::iter::once(program.as_os_str()).chain(words.iter().map(OsString::as_os_str));
    let argv: Result<Vec<CString>, _> = argv.map(|word| CString::new(word.as_bytes())).collect();
    // SAFETY: the default action is no handler of ours.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    let failed = match &argv {
        Ok(argv) => execv(&argv[0], argv).unwrap_err().into(),
        Err(e) => io::Error::other(e.to_string()),
    };
    Error::file("execute", program)(failed)
}

/// The name of the container whose hook this is, told by Podman's monitor: `conmon ... -n NAME` is the parent of the runtime
/// that runs the hook.
pub fn name_by_conmon() -> Option<String> {
    let monitor = parent_of(nix::unistd::getppid().as_raw().try_into().ok()?)?;
    told_to_conmon(monitor, ["-n", "--name"]).map(|name| one_line(&name)).filter(|name| !name.is_empty())
}

/// Is it Podman's monitor of the container `id`?
pub fn is_conmon_of(pid: u32, id: &str) -> bool {
    told_to_conmon(pid, ["-c", "--cid"]).is_some_and(|told| told == id)
}

/// What one of Podman's monitors was told by an option.
fn told_to_conmon(pid: u32, option: [&str; 2]) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    if !words.next()?.ends_with("conmon") {
        return None;
    }
    words.by_ref().find(|word| option.contains(&&**word))?;
    words.next().map(Cow::into_owned)
}

/// The processes that this one descends from, its parent first. Not the machine's first one, which everything descends from.
pub fn ancestors() -> Vec<u32> {
    std::iter::successors(parent_of(std::process::id()), |pid| parent_of(*pid)).take_while(|pid| *pid > 1).collect()
}

/// CAP_NET_ADMIN, CAP_SYS_ADMIN (to enter a namespace and mount) and CAP_BPF or its superset.
pub fn missing_capability() -> Option<&'static str> {
    // include/uapi/linux/capability.h
    const NEEDED: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];
    let effective = capabilities("self", "CapEff:").unwrap_or(0);
    NEEDED.iter().find(|(bit, _)| effective & (1 << bit) == 0).map(|(_, name)| *name)
}

/// May `pid` come to have CAP_NET_ADMIN in the user namespace of this process, which is the host's? It is so with root in a
/// container whose bounding set has it.
pub fn has_net_admin(pid: u32) -> bool {
    const CAP_NET_ADMIN: u64 = 1 << 12;
    let user = |pid: &str| fs::metadata(format!("/proc/{pid}/ns/user")).ok().map(|namespace| namespace.ino());
    let pid = pid.to_string();
    capabilities(&pid, "CapBnd:").is_some_and(|set| set & CAP_NET_ADMIN != 0) && user(&pid) == user("self")
}

/// A set of capabilities as `/proc/PID/status` has it.
fn capabilities(pid: &str, set: &str) -> Option<u64> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let hex = status.lines().find_map(|line| line.strip_prefix(set))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

/// Refuses a process in a user namespace: the capabilities that it has there say nothing about the host's network, and the
/// kernel takes no program of its data path.
pub fn in_the_hosts_user_namespace() -> Result<()> {
    /// include/uapi/linux/nsfs.h, USER_NS_INIT_INO.
    const INITIAL: u64 = 0xefff_fffd;
    match fs::metadata("/proc/self/ns/user") {
        Ok(namespace) if namespace.ino() != INITIAL => Err(Error::unsupported(
            "portslice is run rootless, in a user namespace that does not own the host's network",
            "run the engine as root (such as `sudo podman run`), or give the container a rootless network (--network pasta)",
        )),
        _ => Ok(()),
    }
}

/// Refuses a process that may not do what portslice has to do.
pub fn privileged() -> Result<()> {
    in_the_hosts_user_namespace()?;
    match missing_capability() {
        Some(capability) => Err(Error::unsupported(
            format!("this process lacks {capability}"),
            "run as root (hooks are run by the runtime, which has to be root)",
        )),
        None => Ok(()),
    }
}

/// Lets everybody else have the CPUs first from now on: the calling thread, and threads it starts.
pub fn stand_back() {
    /// A tenth of the weight of an ordinary thread: it gets on even where every CPU is busy.
    const NICE: i32 = 10;
    // SAFETY: takes numbers only; 0 is the calling thread. A refusal leaves it as it was.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

/// The boot's identity: kernel state of another boot is gone.
pub fn boot_id() -> &'static str {
    static THIS: OnceLock<String> = OnceLock::new();
    THIS.get_or_init(|| {
        file::read_generated_text("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
    })
}

/// The mount namespace of this process, by its nsfs file.
pub fn mount_namespace() -> Option<NetnsId> {
    let namespace = fs::metadata("/proc/self/ns/mnt").ok()?;
    Some(NetnsId { dev: namespace.dev(), ino: namespace.ino() })
}

/// Gives the pages of this program's code back to the page cache: a service that sleeps most of the time needs none of them
/// then, and finds them there when it wakes.
pub fn unmap_code() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let here = unmap_code as *const () as usize;
    let code = maps.lines().filter_map(code_range).find(|(begin, end)| (*begin..*end).contains(&here));
    let Some((begin, end)) = code else { return };
    let Some(address) = NonNull::new(begin as *mut c_void) else { return };
    // SAFETY: a mapping of a file that nobody writes to: what is dropped is read again when it is needed.
    if let Err(e) = unsafe { madvise(address, end - begin, MmapAdvise::MADV_DONTNEED) } {
        log::debug!("madvise: {e}");
    }
}

/// Field 4 of `/proc/PID/stat`; the command name before it may hold blanks and parentheses.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = stat(pid)?;
    stat[stat.rfind(')')? + 1..].split_whitespace().nth(1)?.parse().ok()
}

fn start_time(pid: u32) -> Option<u64> {
    let stat = stat(pid)?;
    // the command name may hold blanks and parentheses: count from the last one
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    // a zombie has done what it will ever do
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// `/proc/PID/stat`. A process may call itself what is not UTF-8.
fn stat(pid: u32) -> Option<String> {
    let stat = file::read_generated(format!("/proc/{pid}/stat")).ok()?;
    Some(String::from_utf8_lossy(&stat).into_owned())
}

/// Of a line of /proc/self/maps, if it may be executed and not be written: `00400000-00452000 r-xp ...`.
fn code_range(line: &str) -> Option<(usize, usize)> {
    let (range, rest) = line.split_once(' ')?;
    let (begin, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    if rest.starts_with("r-xp") { Some((number(begin)?, number(end)?)) } else { None }
}
