//! Reading and writing `/proc/sys/net` of the namespace the calling thread is in.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::procfs;
use crate::error::{Error, Result};
use crate::ports::{PortRange, PortSet};

/// Host values a container starts with: a namespace begins with the kernel's defaults, not with what the operator, or systemd,
/// tuned. Those of Mesos' list (port_mapping isolator, pre-exec script) but six that no kernel since 5.10 has per namespace
/// (core/netdev_max_backlog, core/rmem_max, core/wmem_max, ipv4/neigh/default/gc_thresh1..3); then others that programs notice:
/// what they may open, how their connections behave, and how many errors a peer is sent.
pub const COPIED: [&str; 29] = [
    "core/somaxconn",
    "ipv4/tcp_ecn",
    "ipv4/tcp_ecn_fallback",
    "ipv4/tcp_keepalive_time",
    "ipv4/tcp_keepalive_intvl",
    "ipv4/tcp_keepalive_probes",
    "ipv4/tcp_max_syn_backlog",
    "ipv4/tcp_rmem",
    "ipv4/tcp_wmem",
    "ipv4/tcp_retries2",
    "ipv4/tcp_synack_retries",
    "ipv4/ping_group_range",
    UNPRIVILEGED,
    "ipv4/ip_default_ttl",
    "ipv4/tcp_fastopen",
    "ipv4/tcp_fin_timeout",
    "ipv4/tcp_mtu_probing",
    "ipv4/tcp_notsent_lowat",
    "ipv4/tcp_slow_start_after_idle",
    "ipv4/tcp_syn_retries",
    "ipv4/tcp_timestamps",
    "ipv6/bindv6only",
    "unix/max_dgram_qlen",
    "ipv4/icmp_ratelimit",
    "ipv4/icmp_ratemask",
    // Older kernels have these two for the whole machine: other namespaces do not see them, but obey them.
    "ipv4/icmp_msgs_per_sec",
    "ipv4/icmp_msgs_burst",
    "ipv6/icmp/ratelimit",
    "ipv6/icmp/ratemask",
];

/// The first port that is bound without CAP_NET_BIND_SERVICE.
pub const UNPRIVILEGED: &str = "ipv4/ip_unprivileged_port_start";

/// The setting of [`Settings::reserved_ports`].
pub const RESERVED: &str = "ipv4/ip_local_reserved_ports";

/// A setting and its value.
pub type Setting = (String, String);

/// The instance of /proc that settings are looked up in.
#[derive(Default)]
pub struct Proc {
    root: Option<OwnedFd>,
}

impl Proc {
    /// An instance of our own, see [`procfs`]; the machine's when the kernel gives none.
    pub fn private() -> Self {
        Self { root: procfs::private().inspect_err(|e| log::debug!("no private /proc: {e}")).ok() }
    }

    /// The settings of the namespace the calling thread is in, now and for as long as it stays there.
    pub fn here(&self) -> Settings<'_> {
        Settings { proc: self, open: Vec::new() }
    }
}

/// The settings of one namespace. Directories are opened once each.
pub struct Settings<'a> {
    proc: &'a Proc,
    open: Vec<(String, OwnedFd)>,
}

impl Settings<'_> {
    /// The value of `<directory>/<name>`, without the line end; `None` when this namespace has no such setting.
    pub fn read(&mut self, key: &str) -> Result<Option<String>> {
        let Some(file) = self.file(key, OFlag::O_RDONLY, "read")? else { return Ok(None) };
        text_of(&file).map(Some).map_err(Error::file("read", path(key)))
    }

    /// Writes `<directory>/<name>`; `false` when this namespace has no such setting.
    pub fn write(&mut self, key: &str, value: &str) -> Result<bool> {
        let Some(mut file) = self.file(key, OFlag::O_WRONLY, "write")? else { return Ok(false) };
        file.write_all(value.as_bytes()).map_err(Error::file("write", path(key)))?;
        Ok(true)
    }

    /// Writes `<directory>/<name>` and returns what stood there; `None` when this namespace has no such setting.
    pub fn exchange(&mut self, key: &str, value: &str) -> Result<Option<String>> {
        let Some(mut file) = self.file(key, OFlag::O_RDWR, "write")? else { return Ok(None) };
        let text = text_of(&file).map_err(Error::file("read", path(key)))?;
        // A setting takes a value only at its beginning (fs/proc/proc_sysctl.c, sysctl_writes_strict).
        file.write_all(value.as_bytes()).map_err(Error::file("write", path(key)))?;
        Ok(Some(text))
    }

    /// The settings of [`COPIED`] that exist here.
    pub fn copied(&mut self) -> Result<Vec<Setting>> {
        let mut settings = Vec::with_capacity(COPIED.len());
        for key in COPIED {
            if let Some(value) = self.read(key)? {
                settings.push((key.to_owned(), value));
            }
        }
        Ok(settings)
    }

    /// `ip_local_port_range`: the ports that connections get which do not choose one.
    pub fn ephemeral_range(&mut self) -> Result<PortRange> {
        const KEY: &str = "ipv4/ip_local_port_range";
        let text = self.read(KEY)?.unwrap_or_default();
        let mut numbers = text.split_whitespace().map(str::parse::<u16>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(begin)), Some(Ok(end))) => PortRange::new(begin, end),
            _ => None,
        }
        .ok_or_else(|| Error::Failed(format!("cannot understand {}: {text:?}", path(KEY).display())))
    }

    /// `ip_local_reserved_ports`: ports that the kernel never gives to such a connection.
    pub fn reserved_ports(&mut self) -> Result<PortSet> {
        let text = self.read(RESERVED)?.unwrap_or_default();
        PortSet::of_kernel(&text).map_err(|e| Error::Failed(format!("cannot understand ip_local_reserved_ports: {e}")))
    }

    fn file(&mut self, key: &str, mode: OFlag, doing: &'static str) -> Result<Option<File>> {
        let fail = |e: Errno| Error::file(doing, path(key))(io::Error::from(e));
        let (directory, name) = key.rsplit_once('/').unwrap_or(("", key));
        let at = match self.open.iter().position(|(known, _)| known == directory) {
            Some(at) => at,
            None => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let opened = match &self.proc.root {
                    Some(root) => openat(root, &Path::new("sys/net").join(directory), flags, Mode::empty()),
                    None => open(&path(directory), flags, Mode::empty()),
                };
                match opened {
                    Ok(fd) => self.open.push((directory.to_owned(), fd)),
                    Err(Errno::ENOENT) => return Ok(None),
                    Err(e) => return Err(fail(e)),
                }
                self.open.len() - 1
            }
        };
        match openat(&self.open[at].1, name, mode | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(fail(e)),
        }
    }
}

/// [`Settings::read`] of one setting.
pub fn read(key: &str) -> Result<Option<String>> {
    Proc::default().here().read(key)
}

/// [`Settings::write`] of one setting.
pub fn write(key: &str, value: &str) -> Result<bool> {
    Proc::default().here().write(key, value)
}

/// What a setting says, without the line end. It is read at once: the kernel gives a list of ports (proc_do_large_bitmap) to
/// the first read only, as much of it as that has room for. The position in the file stays at its beginning.
fn text_of(file: &File) -> io::Result<String> {
    // Every second port of 65536: 200 kB.
    const LONGEST: usize = 256 << 10;
    let mut short = [0; 4096];
    let length = file.read_at(&mut short, 0)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if length < short.len() {
        return Ok(text(&short[..length]));
    }
    let mut long = vec![0; LONGEST];
    let length = file.read_at(&mut long, 0)?;
    Ok(text(&long[..length]))
}

fn path(key: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(key)
}
