//! Settings and files of the host: reserved ports, lo, and what network managers read.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::HostSite;
use crate::error::{Error, Result};
use crate::file;
use crate::host::record::Reserved;
use crate::host::sysctl::{self, Proc};
use crate::plan::host::MARK;
use crate::ports::PortSet;

const RESERVED: &str = "ipv4/ip_local_reserved_ports";

/// Reserves `ports`, so that the host's own connections never take them; what others reserved stays.
pub fn reserve(site: &mut HostSite<'_>, ports: &PortSet) -> Result<()> {
    let there = Proc::default().here().reserved_ports()?;
    let added = ports.difference(&there);
    if added.is_empty() {
        return Ok(());
    }
    site.record.reserved = Some(match site.record.reserved.take() {
        Some(earlier) => Reserved { added: earlier.added.union(&added), ..earlier },
        None => Reserved { before: sysctl::read(RESERVED)?.unwrap_or_default(), added },
    });
    site.save()?;
    sysctl::write(RESERVED, &there.union(ports).to_string()).map(drop)
}

/// Takes out what we put in; what others added meanwhile stays.
pub fn unreserve(site: &mut HostSite<'_>) -> Result<()> {
    let Some(reserved) = &site.record.reserved else { return Ok(()) };
    let left = Proc::default().here().reserved_ports()?.difference(&reserved.added);
    let text = left.to_string();
    // The kernel's own text may differ from ours in form, and an empty list is written as a line end.
    let before: PortSet = reserved.before.parse().unwrap_or_default();
    let text = if left == before { &reserved.before } else { &text };
    sysctl::write(RESERVED, &format!("{text}\n"))?;
    site.record.reserved = None;
    Ok(())
}

/// Are they all reserved?
pub fn is_reserved(ports: &PortSet) -> Result<bool> {
    Ok(ports.is_subset(&Proc::default().here().reserved_ports()?))
}

/// Changes a setting and remembers what it was.
pub fn set(site: &mut HostSite<'_>, key: &str, value: &str) -> Result<()> {
    site.record.remember(key, &sysctl::read(key)?.unwrap_or_default(), value);
    site.save()?;
    if sysctl::write(key, value)? {
        return Ok(());
    }
    Err(Error::unsupported(
        format!("this kernel has no setting net.{}", key.replace('/', ".")),
        "a kernel with IPv4 networking is needed",
    ))
}

/// Puts it back, unless somebody else has changed it since.
pub fn restore(site: &mut HostSite<'_>, key: &str) -> Result<()> {
    let Some(changed) = site.record.changed.iter().find(|changed| changed.key == key).cloned() else { return Ok(()) };
    if sysctl::read(key)?.as_deref() == Some(&changed.now) {
        sysctl::write(key, &changed.before)?;
    }
    site.record.changed.retain(|changed| changed.key != key);
    Ok(())
}

/// Has it that value?
pub fn is_set(key: &str, value: &str) -> Result<bool> {
    Ok(sysctl::read(key)?.as_deref() == Some(value))
}

/// Writes a file of the host's configuration. One of that name that we did not write is somebody's decision and stays.
pub fn keep(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::file("write", path))?;
    reload(path);
    Ok(())
}

/// Removes it, if it is one that we wrote.
pub fn forget(path: &Path) -> Result<()> {
    let ours = file::read(path).is_ok_and(|bytes| bytes.starts_with(MARK.as_bytes()));
    if !ours {
        return Ok(());
    }
    file::remove(path).map_err(Error::file("remove", path))?;
    reload(path);
    Ok(())
}

/// Tells the network manager whose file it is to read it: one that runs would take the next container's device for its own.
/// One that does not run has nothing to be told.
fn reload(path: &Path) {
    let (running, command): (&str, &[&str]) = match path.extension().and_then(|extension| extension.to_str()) {
        Some("network") => ("/run/systemd/netif", &["networkctl", "reload"]),
        Some("conf") if path.starts_with("/etc/NetworkManager") => {
            ("/run/NetworkManager", &["nmcli", "general", "reload", "conf"])
        }
        _ => return,
    };
    if !Path::new(running).is_dir() {
        return;
    }
    let told = Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::null()).output();
    match told {
        Ok(output) if output.status.success() => {}
        Ok(output) => log::warn!("{}: {}", command.join(" "), String::from_utf8_lossy(&output.stderr).trim()),
        Err(e) => log::warn!("cannot run {}: {e}", command.join(" ")),
    }
}

/// Is it there as it is to be, or somebody else's?
pub fn is_kept(path: &Path, text: &str) -> bool {
    file::read(path).is_ok_and(|bytes| bytes == text.as_bytes() || !bytes.starts_with(MARK.as_bytes()))
}
