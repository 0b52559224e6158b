//! A machine of our own to measure on: a private mount namespace, and network namespaces joined by a veth as the wire.
//!
//! Everything hangs on this process. The namespaces are bound in a tmpfs that only this process sees, so when it ends,
//! however it ends, the kernel takes all of it down and the machine's own network was never touched.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

/// The address of every measured host. Hosts never meet: each has its own wire and its own peer.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The address of the peer at the other end of the wire, which is also the host's gateway.
pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

const NETNS_DIR: &str = "/run/netns";

/// Moves this process into its own mount namespace with an empty `/run`. Call before any thread is started.
pub fn private_ground() -> io::Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    for private in ["/run", "/etc/sysctl.d"] {
        if Path::new(private).is_dir() {
            mount(Some("tmpfs"), private, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))?;
        }
    }
    fs::create_dir(NETNS_DIR)
}

/// A named network namespace.
#[derive(Clone)]
pub struct Netns {
    pub path: PathBuf,
    file: Arc<File>,
}

impl Netns {
    /// A new namespace with `lo` down, as the kernel makes it.
    pub fn create(name: &str) -> io::Result<Netns> {
        let path = Path::new(NETNS_DIR).join(name);
        File::create_new(&path)?;
        let target = path.clone();
        // A thread of its own: the rest of the process stays where it is.
        let made = thread::spawn(move || {
            let none = None::<&str>;
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some("/proc/thread-self/ns/net"), &target, none, MsFlags::MS_BIND, none)
        });
        made.join().expect("making a namespace does not panic")?;
        let file = Arc::new(File::open(&path)?);
        Ok(Netns { path, file })
    }

    /// Moves the calling thread in.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(&*self.file, CloneFlags::CLONE_NEWNET)?)
    }

    /// A command that will run inside; it keeps our mount namespace, unlike `ip netns exec`.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let place = self.clone();
        let mut command = Command::new(program.as_ref());
        // SAFETY: between fork and exec only setns(2) is called, which is async-signal-safe.
        unsafe { command.pre_exec(move || place.enter()) };
        command
    }

    /// Runs lines of `ip -batch` inside.
    pub fn ip(&self, lines: &str) -> io::Result<()> {
        self.feed(&["ip", "-batch", "-"], lines)
    }

    /// Runs a program inside with `input` on its standard input.
    pub fn feed(&self, argv: &[&str], input: &str) -> io::Result<()> {
        let mut child = self.command(argv[0]).args(&argv[1..]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        child.stdin.take().expect("stdin is piped").write_all(input.as_bytes())?;
        let status = child.wait()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("{}: {status}", argv.join(" ")))) }
    }
}

/// A fresh host and its peer, joined by a wire and configured as a machine is: address, `lo`, default route.
pub fn host_and_peer(name: &str) -> io::Result<(Netns, Netns)> {
    let (host, peer) = (Netns::create(&format!("{name}-host"))?, Netns::create(&format!("{name}-peer"))?);
    host.ip(&format!("link add eth0 type veth peer name eth0 netns {}", peer.path.display()))?;
    peer.ip(&format!("addr add {PEER}/24 dev eth0\nlink set lo up\nlink set eth0 up"))?;
    host.ip(&format!(
        "addr add {HOST}/24 dev eth0\nlink set lo up\nlink set eth0 up\nroute add default via {PEER} dev eth0"
    ))?;
    Ok((host, peer))
}
