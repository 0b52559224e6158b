//! A namespace and the tiny process that holds it: `cat` on a pipe of ours, so it cannot outlive the test process.

use super::wait::eventually;
use nix::sched::{CloneFlags, setns, unshare};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// A network namespace (and, for a host, a mount namespace) with a process that keeps it alive.
pub struct Ns {
    /// What assertion messages call it.
    pub name: String,
    net: Mutex<Option<Arc<OwnedFd>>>,
    mnt: Option<Arc<OwnedFd>>,
    holder: Mutex<Option<Child>>,
    pid: u32,
}

impl Ns {
    /// A bare network namespace with lo up.
    pub fn net_only(name: &str) -> Ns {
        Ns::hold(name, None)
    }

    /// A network namespace with a mount namespace of its own: sysfs, cgroups and an empty /run that belong to it.
    pub fn with_mounts(name: &str) -> Ns {
        Ns::hold(name, Some(host_mounts()))
    }

    /// The network namespace of a process somebody else runs (a container of a real runtime). Killing it only lets go of it.
    pub fn of_pid(name: &str, pid: u32) -> Ns {
        let net =
            File::open(format!("/proc/{pid}/ns/net")).unwrap_or_else(|e| panic!("{name}: namespace of {pid}: {e}"));
        let net = Mutex::new(Some(Arc::new(OwnedFd::from(net))));
        Ns { name: name.to_string(), net, mnt: None, holder: Mutex::new(None), pid }
    }

    fn hold(name: &str, mounts: Option<Vec<MountStep>>) -> Ns {
        let has_mounts = mounts.is_some();
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let enter = move || -> io::Result<()> {
            let flags = if mounts.is_some() { CloneFlags::CLONE_NEWNS } else { CloneFlags::empty() };
            unshare(CloneFlags::CLONE_NEWNET | flags)?;
            mounts.iter().flatten().try_for_each(MountStep::perform)
        };
        // SAFETY: the closure only makes system calls; every string was allocated before the fork.
        unsafe { command.pre_exec(enter) };
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot hold a namespace for {name}: {e}"));
        let pid = child.id();
        let open =
            |kind: &str| Arc::new(OwnedFd::from(File::open(format!("/proc/{pid}/ns/{kind}")).expect("namespace")));
        let ns = Ns {
            name: name.to_string(),
            net: Mutex::new(Some(open("net"))),
            mnt: has_mounts.then(|| open("mnt")),
            holder: Mutex::new(Some(child)),
            pid,
        };
        ns.ip("link set lo up");
        // tests ask more closed ports a second than the kernel answers one peer by default
        ns.set_sysctl("ipv4.icmp_ratelimit", "0");
        ns.set_sysctl("ipv6/icmp/ratelimit", "0");
        // where a namespace has a limit of its own for all peers
        ns.inside(|| drop(std::fs::write("/proc/sys/net/ipv4/icmp_msgs_per_sec", "1000000")));
        ns
    }

    /// The pid of the process that holds it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A path that names the network namespace, valid in every mount namespace, gone when the namespace is killed.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.pid).into()
    }

    /// A path as seen in this namespace's mounts, from outside.
    pub fn root(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root{path}", self.pid).into()
    }

    fn net(&self) -> Arc<OwnedFd> {
        let net = self.net.lock().unwrap();
        net.clone().unwrap_or_else(|| panic!("namespace {} was killed", self.name))
    }

    /// Runs a closure inside the network namespace, on a thread of its own. Sockets it makes stay in the namespace.
    pub fn inside<R: Send>(&self, job: impl FnOnce() -> R + Send) -> R {
        let net = self.net();
        std::thread::scope(|s| {
            let joined = s
                .spawn(move || {
                    setns(net.as_fd(), CloneFlags::CLONE_NEWNET).expect("setns(net)");
                    job()
                })
                .join();
            joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a closure inside both the network and the mount namespace.
    pub fn inside_mounts<R: Send>(&self, job: impl FnOnce() -> R + Send) -> R {
        let mnt = self.mnt.clone().expect("a namespace with mounts");
        self.inside(move || {
            unshare(CloneFlags::CLONE_FS).expect("unshare(fs)");
            setns(mnt.as_fd(), CloneFlags::CLONE_NEWNS).expect("setns(mnt)");
            job()
        })
    }

    /// A command that will run inside the namespaces.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let (net, mnt) = (self.net(), self.mnt.clone());
        let mut command = Command::new(program);
        let enter = move || -> io::Result<()> {
            setns(net.as_fd(), CloneFlags::CLONE_NEWNET)?;
            if let Some(mnt) = &mnt {
                setns(mnt.as_fd(), CloneFlags::CLONE_NEWNS)?;
            }
            Ok(())
        };
        // SAFETY: only setns(2) runs between fork and exec.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs a batch of `ip` commands inside; one process whatever their number.
    pub fn ip(&self, batch: &str) {
        use std::io::Write;
        let mut command = self.command("ip");
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("ip");
        child.stdin.take().unwrap().write_all(format!("{batch}\n").as_bytes()).expect("ip -batch");
        let out = child.wait_with_output().expect("ip");
        assert!(out.status.success(), "in {}: ip -batch\n{batch}\n{}", self.name, String::from_utf8_lossy(&out.stderr));
    }

    /// What a shell line prints in here.
    pub fn read(&self, line: &str) -> String {
        let out = self.command("sh").args(["-c", line]).output().expect("sh");
        assert!(out.status.success(), "in {}: {line}: {}", self.name, String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Reads a network sysctl, `net.` left out: `ipv4.ip_forward` or `ipv4/conf/eth0/rp_filter`.
    pub fn sysctl(&self, key: &str) -> String {
        let path = sysctl_path(key);
        self.inside(|| setting(Path::new(&path)).unwrap_or_else(|e| panic!("{path}: {e}")).trim_end().to_string())
    }

    /// Writes a network sysctl.
    pub fn set_sysctl(&self, key: &str, value: &str) {
        let path = sysctl_path(key);
        self.inside(|| std::fs::write(&path, value).unwrap_or_else(|e| panic!("{path} = {value}: {e}")));
    }

    /// Waits until every IPv6 address of its devices is in use. The kernel gets a device ready a moment after it is up, and a
    /// solicitation lost before that is repeated only after a second. The sign: its link-local address has joined its group.
    pub fn settle(&self, devices: &[&str]) {
        let ready = |device: &str| {
            let read = |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("IPv6");
            let (addresses, groups) = (read("if_inet6"), read("igmp6"));
            let of_device =
                addresses.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()).filter(|f| f[5] == device);
            let joined = |f: &[&str]| {
                let group = format!("ff0200000000000000000001ff{}", &f[0][26..]);
                groups.lines().any(|l| l.contains(&group) && l.split_whitespace().nth(1) == Some(device))
            };
            let tentative = |f: &[&str]| u32::from_str_radix(f[4], 16).unwrap_or(0) & 0x40 != 0;
            let addresses: Vec<_> = of_device.collect();
            addresses.iter().any(|f| f[0].starts_with("fe80")) && addresses.iter().all(|f| joined(f) && !tentative(f))
        };
        self.inside(|| {
            let all = || devices.iter().all(|d| ready(d));
            assert!(eventually(all), "{}: the IPv6 addresses of {devices:?} are not ready", self.name);
        });
    }

    /// Ends the holder and lets go of the namespace: without other users the kernel removes it (asynchronously).
    pub fn kill(&self) {
        if let Some(mut holder) = self.holder.lock().unwrap().take() {
            let _ = holder.kill();
            let _ = holder.wait();
        }
        self.net.lock().unwrap().take();
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A setting as a whole: the kernel gives a list of ports to the first read only, as much of it as that has room for. All but
/// such lists are far shorter, and there are thousands of settings to look at.
pub fn setting(path: &Path) -> io::Result<String> {
    let mut short = [0; 4096];
    let length = File::open(path)?.read(&mut short)?;
    let bytes = if length < short.len() {
        short[..length].to_vec()
    } else {
        let mut long = vec![0; 256 << 10];
        let length = File::open(path)?.read(&mut long)?;
        long[..length].to_vec()
    };
    String::from_utf8(bytes).map_err(io::Error::other)
}

fn sysctl_path(key: &str) -> String {
    let key = if key.contains('/') { key.to_string() } else { key.replace('.', "/") };
    format!("/proc/sys/net/{key}")
}

/// One step of the mount namespace's setup, ready for use between fork and exec.
enum MountStep {
    /// Whatever is mounted there and below is gone for this namespace.
    Leave(CString),
    Mount {
        kind: CString,
        at: CString,
        flags: libc::c_ulong,
        data: CString,
    },
    Dir(CString),
}

impl MountStep {
    fn perform(&self) -> io::Result<()> {
        // SAFETY: all pointers come from CStrings that outlive the call.
        let done = unsafe {
            match self {
                MountStep::Leave(path) => libc::umount2(path.as_ptr(), libc::MNT_DETACH),
                MountStep::Dir(path) => libc::mkdir(path.as_ptr(), 0o755),
                MountStep::Mount { kind, at, flags, data } => {
                    libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), *flags, data.as_ptr().cast())
                }
            }
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// What makes a mount namespace look like a machine of its own to a container runtime.
fn host_mounts() -> Vec<MountStep> {
    let c = |s: &str| CString::new(s).unwrap();
    let mount =
        |kind: &str, at: &str, flags, data: &str| MountStep::Mount { kind: c(kind), at: c(at), flags, data: c(data) };
    let mut steps = vec![
        mount("none", "/", libc::MS_REC | libc::MS_PRIVATE, ""),
        // What lay below the new one would be listed for ever, and Podman fails to unmount it for a user namespace.
        MountStep::Leave(c("/sys")),
        mount("sysfs", "/sys", 0, ""),
        mount("tmpfs", "/run", 0, "mode=755"),
        MountStep::Dir(c("/run/netns")),
    ];
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let v1: Vec<(&str, &str)> = mounts
        .lines()
        .filter_map(|l| {
            let f: Vec<&str> = l.split(' ').collect();
            (f[2] == "cgroup").then(|| (f[1].rsplit('/').next().unwrap(), f[3]))
        })
        .collect();
    if v1.is_empty() {
        steps.push(mount("cgroup2", "/sys/fs/cgroup", 0, ""));
        return steps;
    }
    steps.push(mount("tmpfs", "/sys/fs/cgroup", 0, "mode=755"));
    for (name, options) in v1 {
        let at = format!("/sys/fs/cgroup/{name}");
        let controllers: Vec<&str> =
            options.split(',').filter(|o| !matches!(*o, "rw" | "relatime" | "nosuid" | "nodev" | "noexec")).collect();
        let data = match controllers.join(",") {
            named if named.contains("name=") => format!("none,{named}"),
            plain => plain,
        };
        steps.push(MountStep::Dir(c(&at)));
        steps.push(mount("cgroup", &at, 0, &data));
    }
    steps
}

/// The index of a device in the calling thread's network namespace.
pub fn ifindex(device: &str) -> i32 {
    let name = CString::new(device).unwrap();
    // SAFETY: a valid C string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert!(index != 0, "no device {device} here: {}", io::Error::last_os_error());
    index as i32
}

/// The MAC address of a device in the calling thread's network namespace.
pub fn mac(device: &str) -> [u8; 6] {
    let socket = super::sock::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).expect("socket");
    // SAFETY: an all-zero ifreq is valid; the name is shorter than IFNAMSIZ and stays terminated.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes().take(15)) {
        *to = from as libc::c_char;
    }
    // SAFETY: SIOCGIFHWADDR fills ifr_hwaddr of the request we own.
    let hw = unsafe {
        let rc = libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR as _, &mut request);
        assert!(rc == 0, "MAC of {device}: {}", io::Error::last_os_error());
        request.ifr_ifru.ifru_hwaddr.sa_data
    };
    std::array::from_fn(|i| hw[i] as u8)
}
