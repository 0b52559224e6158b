//! The ports that are reserved on the host (`net.ipv4.ip_local_reserved_ports`): ours are added to what others reserved, and
//! only ours are taken out again.

use super::HostSite;
use super::keep;
use crate::error::Result;
use crate::host::record::Reserved;
use crate::host::sysctl::{self, Proc, RESERVED};
use crate::ports::PortSet;

/// Brings the record in line with what is reserved now. `wanted` are the ports that we need; none on the way back.
pub fn recall(site: &mut HostSite<'_>, wanted: &PortSet) -> Result<()> {
    let now = Proc::default().here().reserved_ports()?;
    site.record.reserved = match &site.record.reserved {
        Some(reserved) => Some(reserved.recalled(&now, wanted)),
        // After a boot that no record tells of, what our file has the boot reserve is ours.
        None => keep::reserved_at_boot()?.map(|ports| Reserved::of(&now, &ports)),
    };
    site.record.reserved.take_if(|reserved| reserved.added.is_empty() && reserved.adding.is_empty());
    Ok(())
}

/// Reserves `ports`, so that the host's own connections never take them; what others reserved stays.
pub fn reserve(site: &mut HostSite<'_>, ports: &PortSet) -> Result<()> {
    let now = Proc::default().here().reserved_ports()?;
    let more = ports.difference(&now);
    if more.is_empty() {
        return Ok(());
    }
    let before = sysctl::read(RESERVED)?.unwrap_or_default();
    let reserved = site.record.reserved.get_or_insert_with(|| Reserved { before, ..Reserved::default() });
    reserved.adding = more;
    site.save()?;
    sysctl::write(RESERVED, &now.union(ports).to_string())?;
    if let Some(reserved) = &mut site.record.reserved {
        reserved.added = reserved.added.union(&std::mem::take(&mut reserved.adding));
    }
    Ok(())
}

/// Takes those of `ports` out that are ours; what others added meanwhile stays.
pub fn release(site: &mut HostSite<'_>, ports: &PortSet) -> Result<()> {
    let Some(reserved) = &mut site.record.reserved else { return Ok(()) };
    let now = Proc::default().here().reserved_ports()?;
    let left = now.difference(&reserved.added.intersection(ports));
    if left != now {
        // The kernel's own text may differ from ours in form, and an empty list is written as a line end.
        let before: PortSet = reserved.before.parse().unwrap_or_default();
        let text = if left == before { reserved.before.clone() } else { left.to_string() };
        sysctl::write(RESERVED, &format!("{text}\n"))?;
    }
    reserved.added = reserved.added.difference(ports);
    site.record.reserved.take_if(|reserved| reserved.added.is_empty());
    Ok(())
}

/// Are they all reserved?
pub fn is_reserved(ports: &PortSet) -> Result<bool> {
    Ok(ports.is_subset(&Proc::default().here().reserved_ports()?))
}
