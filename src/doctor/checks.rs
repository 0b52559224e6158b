//! The checks, one function each, in the order in which an attach would trip over them.

use std::fs;

use super::{Finding, Verdict};
use crate::config::Config;
use crate::error::Error;
use crate::host::process::missing_capability;
use crate::host::sysctl::Proc;
use crate::host::{Facts, features};
use crate::lease::Ledger;
use crate::net::Netlink;
use crate::plan::grant;
use crate::slice::ready::peek;
use crate::slice::state::{State, state};

/// Entering namespaces, mounting the BPF file system and changing devices take root's powers.
pub fn privileges() -> Finding {
    match missing_capability() {
        None => ok("privileges", "CAP_NET_ADMIN and CAP_SYS_ADMIN are there"),
        Some(capability) => fail("privileges", format!("{capability} is missing"), "run as root"),
    }
}

/// Every kernel piece, found out by trying it.
pub fn kernel() -> Vec<Finding> {
    match features::probe() {
        Err(e) => vec![failed("kernel", &e)],
        Ok(probed) => probed
            .pieces
            .into_iter()
            .map(|p| match p.missing {
                None => ok("kernel", format!("{} is there", p.name)),
                Some(why) => Finding {
                    check: "kernel",
                    verdict: if p.required { Verdict::Fail } else { Verdict::Warn },
                    seen: format!("{} is missing ({why})", p.name),
                    remedy: Some(p.remedy.into()),
                },
            })
            .collect(),
    }
}

/// The uplink carries the shared address; its ports must not be the host's own.
pub fn uplink(config: &Config) -> Vec<Finding> {
    let facts = match Netlink::route()
        .and_then(|mut netlink| Facts::read(&mut netlink, &Proc::default(), config.uplink.as_deref()))
    {
        Ok(facts) => facts,
        Err(e) => return vec![failed("uplink", &e)],
    };
    let addresses: Vec<String> = facts.addresses.iter().map(ToString::to_string).collect();
    let size = config.ephemeral_ports_per_container;
    vec![
        ok("uplink", format!("{} carries {}, MTU {}", facts.uplink.name, addresses.join(", "), facts.uplink.mtu)),
        match grant::check_host(config, &facts) {
            Ok(()) => ok(
                "ports",
                format!(
                    "pool {} holds {} blocks of {size}, apart from the host's {}",
                    config.ephemeral_ports.ports(),
                    config.ephemeral_ports.capacity(size),
                    facts.ephemeral
                ),
            ),
            Err(e) => failed("ports", &e),
        },
    ]
}

/// Loaded once per boot, by setup or by the first container.
pub fn data_path(config: &Config) -> Finding {
    match peek(config) {
        Ok(Some(_)) => ok("data path", "loaded and attached"),
        Ok(None) => Finding {
            check: "data path",
            verdict: Verdict::Warn,
            seen: "not loaded yet".into(),
            remedy: Some("the first container loads it; `portslice setup` does it now".into()),
        },
        Err(e) => failed("data path", &e),
    }
}

/// A container whose end nobody told us of holds its ports until somebody looks.
pub fn leases(config: &Config) -> Finding {
    let counted = || -> crate::error::Result<(usize, usize)> {
        let ledger = Ledger::at(&config.state_dir);
        let leases = ledger.all()?;
        let Some(host) = peek(config)? else { return Ok((leases.len(), leases.len())) };
        let mut dead = 0;
        for lease in &leases {
            dead += usize::from(state(lease, &ledger, &host)? == State::Dead);
        }
        Ok((leases.len(), dead))
    };
    match counted() {
        Ok((all, 0)) => ok("leases", format!("{all} containers")),
        Ok((all, dead)) => Finding {
            check: "leases",
            verdict: Verdict::Warn,
            seen: format!("{dead} of {all} containers are gone and still hold their ports"),
            remedy: Some("portslice gc".into()),
        },
        Err(e) => failed("leases", &e),
    }
}

/// Steered packets pass the host's netfilter by: the operator must not rely on it.
pub fn firewall() -> Finding {
    let tables = |path| fs::read_to_string(path).unwrap_or_default().lines().count();
    let rules = tables("/proc/net/ip_tables_names") + tables("/proc/net/ip6_tables_names");
    if rules == 0 {
        return ok("firewall", "the host filters nothing that containers would pass by (iptables)");
    }
    Finding {
        check: "firewall",
        verdict: Verdict::Warn,
        seen: "the host has iptables rules; traffic of containers does not pass them".into(),
        remedy: Some("filter in front of the host, or inside the containers' namespaces".into()),
    }
}

fn ok(check: &'static str, seen: impl Into<String>) -> Finding {
    Finding { check, verdict: Verdict::Ok, seen: seen.into(), remedy: None }
}

fn fail(check: &'static str, seen: impl Into<String>, remedy: &str) -> Finding {
    Finding { check, verdict: Verdict::Fail, seen: seen.into(), remedy: Some(remedy.into()) }
}

fn failed(check: &'static str, error: &Error) -> Finding {
    match error {
        Error::Unsupported { what, remedy } => fail(check, what, remedy),
        other => Finding { check, verdict: Verdict::Fail, seen: other.to_string(), remedy: None },
    }
}
