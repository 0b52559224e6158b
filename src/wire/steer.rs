//! Ports that lead to a container.

use super::Site;
use crate::error::Result;
use crate::ports::PortSet;

/// Steers them, when everything behind them works.
pub fn perform(site: &mut Site<'_>, slot: u16, ports: &PortSet) -> Result<()> {
    site.host.maps.publish(ports, slot);
    Ok(())
}

/// Stops steering them; they stay leased.
pub fn undo(site: &mut Site<'_>, slot: u16, ports: &PortSet) -> Result<()> {
    site.host.maps.unpublish(ports, slot);
    Ok(())
}

/// What differs from the plan.
pub fn look(site: &mut Site<'_>, slot: u16, ports: &PortSet) -> Vec<String> {
    let (steered, _) = site.host.maps.owned(slot);
    let missing = ports.difference(&steered);
    let more = steered.difference(ports);
    let line = |ports: &PortSet, what: &str| (!ports.is_empty()).then(|| format!("ports {ports} {what}"));
    [line(&missing, "do not lead to it"), line(&more, "lead to it and are not leased to it")]
        .into_iter()
        .flatten()
        .collect()
}
