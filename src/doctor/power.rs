//! Containers whose root has more than its own network: CAP_NET_ADMIN in the host's user namespace reaches the host's devices,
//! as it does with every engine's network.

use super::{Finding, Scene, ok, some_of, warn};
use crate::lease::Ledger;
use crate::net::holders::Holders;
use crate::slice::power::is_net_admin;

/// They are told; where the configuration forbids them, as a fault.
pub fn look(scene: &Scene<'_>) -> Vec<Finding> {
    // Leases that cannot be read are a finding already.
    let Ok(leases) = Ledger::at(&scene.config.state_dir).all() else { return Vec::new() };
    let holders = Holders::default();
    let members = leases.iter().flat_map(|lease| lease.members.iter().map(move |member| (lease, member)));
    let powerful: Vec<String> = members
        .filter(|(lease, member)| is_net_admin(lease, member, &holders))
        .map(|(_, member)| member.name.clone().unwrap_or_else(|| member.id.to_string()))
        .collect();
    if powerful.is_empty() {
        return Vec::new();
    }
    let has = if powerful.len() == 1 { "has" } else { "have" };
    let seen = format!("{} {has} CAP_NET_ADMIN over the host's devices as well", some_of(&powerful));
    if !scene.config.refuse_net_admin {
        return vec![ok("powers", seen)];
    }
    let why = "refuse_net_admin forbids it: root in there can delete devices of the host; it was attached before the key was set, \
               or by its namespace alone";
    vec![warn("powers", seen, why, String::new())]
}
