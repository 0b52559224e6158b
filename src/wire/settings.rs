//! Settings of the host: those of lo.

use super::HostSite;
use crate::error::{Error, Result};
use crate::host::sysctl;

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

/// Have we changed it, and nobody since?
pub fn is_changed(site: &HostSite<'_>, key: &str) -> Result<bool> {
    let Some(changed) = site.record.changed.iter().find(|changed| changed.key == key) else { return Ok(false) };
    Ok(sysctl::read(key)?.as_deref() == Some(&changed.now) && changed.before != changed.now)
}
