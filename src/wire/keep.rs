//! Files of the host's configuration: what network managers read, and what reserves ports at boot. Each begins with a mark,
//! and one without it is somebody's decision and stays.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};
use crate::file;
use crate::net::Netns;
use crate::net::netns::NetnsId;
use crate::plan::host::{MARK, SYSCTL_FILE, UNIT, UNIT_LINK};
use crate::ports::PortSet;

/// Where files with settings for the boot are (sysctl.d(5), and what Debian's procps reads besides).
const SYSCTL_DIRECTORIES: [&str; 5] =
    ["/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d"];
const SYSCTL_CONF: &str = "/etc/sysctl.conf";

/// Do the files under /etc configure the network namespace `here`? They configure the machine's first one.
pub fn concern(here: NetnsId) -> bool {
    Netns::open(Path::new("/proc/1/ns/net")).is_ok_and(|netns| netns.id.ino == here.ino)
}

/// Does systemd run this host (sd_booted(3))?
pub fn is_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The ports that our own file has the boot reserve.
pub fn reserved_at_boot() -> Result<Option<PortSet>> {
    if !concern(Netns::here()?) || !is_ours(Path::new(SYSCTL_FILE)) {
        return Ok(None);
    }
    let text = file::read(Path::new(SYSCTL_FILE)).map_err(Error::file("read", SYSCTL_FILE))?;
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().find_map(reserved_in).and_then(|ports| ports.parse().ok()))
}

/// A file of somebody else that has the boot reserve ports: only one of several counts.
pub fn reserved_by() -> Option<PathBuf> {
    let listed = SYSCTL_DIRECTORIES.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
    let files = listed.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "conf"));
    let mut files = files.chain([SYSCTL_CONF.into()]).filter(|path| path != Path::new(SYSCTL_FILE));
    files.find(|path| {
        file::read(path)
            .is_ok_and(|text| String::from_utf8_lossy(&text).lines().any(|line| reserved_in(line).is_some()))
    })
}

/// The ports that a file in sysctl.d has the boot reserve: those of its last word on it.
pub fn reserved_in_file(path: &Path) -> PortSet {
    let text = file::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rev().find_map(reserved_in);
    last.and_then(|ports| ports.parse().ok()).unwrap_or_default()
}

/// The value, if this line of a file in sysctl.d sets the reserved ports.
fn reserved_in(line: &str) -> Option<&str> {
    let (key, value) = line.split_once('=')?;
    let key = key.trim().trim_start_matches('-');
    (key.replace('/', ".") == "net.ipv4.ip_local_reserved_ports").then_some(value.trim())
}

/// Writes a file, and has a unit started at boot.
pub fn keep(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::file("write", path))?;
    if path == Path::new(UNIT) {
        link()?;
    }
    reload(path);
    Ok(())
}

/// Removes it, if it is one that we wrote.
pub fn forget(path: &Path) -> Result<()> {
    if !is_ours(path) {
        return Ok(());
    }
    if path == Path::new(UNIT) && fs::read_link(UNIT_LINK).is_ok_and(|target| target == Path::new(UNIT)) {
        file::remove(Path::new(UNIT_LINK)).map_err(Error::file("remove", UNIT_LINK))?;
    }
    file::remove(path).map_err(Error::file("remove", path))?;
    reload(path);
    Ok(())
}

/// Is it there as it is to be, or somebody else's? A unit that somebody masked is a link to /dev/null.
pub fn is_kept(path: &Path, text: &str) -> bool {
    if fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
        return true;
    }
    let enabled = path != Path::new(UNIT) || fs::symlink_metadata(UNIT_LINK).is_ok();
    file::read(path).is_ok_and(|bytes| (bytes == text.as_bytes() && enabled) || !bytes.starts_with(MARK.as_bytes()))
}

/// Is it there, and one that we wrote?
pub fn is_ours(path: &Path) -> bool {
    file::read(path).is_ok_and(|bytes| bytes.starts_with(MARK.as_bytes()))
}

/// What `systemctl enable` makes of the unit's [Install] section.
fn link() -> Result<()> {
    let link = Path::new(UNIT_LINK);
    let directory = link.parent().unwrap_or(link);
    fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
    match symlink(UNIT, link) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked.map_err(Error::file("link", link)),
    }
}

/// Tells who reads the file that it changed. A network manager that runs would take the next container's device for its own;
/// one that does not run has nothing to be told. systemd reads the unit at boot in any case, and nobody waits for it here:
/// the ledger is locked.
fn reload(path: &Path) {
    let (running, command): (&str, &[&str]) = match path.extension().and_then(|extension| extension.to_str()) {
        Some("network") => ("/run/systemd/netif", &["networkctl", "reload"]),
        Some("conf") if path.starts_with("/etc/NetworkManager") => {
            ("/run/NetworkManager", &["nmcli", "general", "reload", "conf"])
        }
        Some("service") => ("/run/systemd/system", &["systemctl", "daemon-reload"]),
        _ => return,
    };
    if !Path::new(running).is_dir() {
        return;
    }
    let mut process = Command::new(command[0]);
    process.args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::null());
    let said = if path == Path::new(UNIT) {
        process.stderr(Stdio::null()).spawn().map(|_| None)
    } else {
        process.output().map(|output| (!output.status.success()).then_some(output.stderr))
    };
    match said {
        Ok(None) => {}
        Ok(Some(said)) => log::warn!("{}: {}", command.join(" "), String::from_utf8_lossy(&said).trim()),
        Err(e) => log::warn!("cannot run {}: {e}", command.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_sysctl_d_that_reserves_ports() {
        for (line, ports) in [
            ("net.ipv4.ip_local_reserved_ports = 32768-57343", Some("32768-57343")),
            ("-net.ipv4.ip_local_reserved_ports=8080,9148 ", Some("8080,9148")),
            ("net/ipv4/ip_local_reserved_ports = 1", Some("1")),
            ("# net.ipv4.ip_local_reserved_ports = 1", None),
            ("net.ipv4.ip_local_port_range = 32768 60999", None),
            ("net.ipv4.ip_local_reserved_ports", None),
        ] {
            assert_eq!(reserved_in(line), ports, "{line}");
        }
    }
}
