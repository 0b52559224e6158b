//! The host's firewall: what nftables and iptables hold that containers' packets do not pass.

use super::{Finding, Scene, ok, some_of, unseen, warn};
use crate::config::Acceptable;
use crate::error::Result;
use crate::net::netfilter::{self, Chain};

/// Steered packets never reach netfilter, so an operator must not rely on its rules.
pub fn look(scene: &Scene<'_>) -> Vec<Finding> {
    let acting = match acting() {
        Ok(acting) => acting,
        Err(e) => return vec![unseen("firewall", &e)],
    };
    let seen: Vec<String> = acting.iter().map(describe).collect();
    if seen.is_empty() {
        return vec![ok("firewall", "the host has none: nftables and iptables hold no rule")];
    }
    let seen = format!("containers' traffic does not pass {}", some_of(&seen));
    if scene.accepts(Acceptable::Firewall) {
        return vec![ok("firewall", seen)];
    }
    let why = "packets of containers are steered before netfilter sees them, so these rules neither protect nor hold back \
               a container; filter in front of the host or inside the containers' namespaces, then say that you know";
    vec![warn("firewall", seen, why, scene.accept(Acceptable::Firewall))]
}

/// Chains that can do something to a packet.
fn acting() -> Result<Vec<Chain>> {
    let mut chains = netfilter::nftables()?;
    chains.extend(netfilter::iptables()?);
    chains.retain(Chain::acts);
    Ok(chains)
}

/// `chain input of table inet filter (policy drop, 3 rules)`
fn describe(chain: &Chain) -> String {
    let policy = chain.drops.then(|| "policy drop".to_owned());
    let rules = match chain.rules {
        0 => None,
        1 => Some("1 rule".to_owned()),
        rules => Some(format!("{rules} rules")),
    };
    let does: Vec<String> = policy.into_iter().chain(rules).collect();
    format!("chain {} of table {} ({})", chain.name, chain.table, does.join(", "))
}
