//! `portslice list`.

use serde_json::Value;

use super::{print, print_json};
use crate::config::Config;
use crate::error::Result;
use crate::lease::record::members_of;
use crate::lease::view::{gone, view};
use crate::lease::{Lease, Ledger, Member};
use crate::slice::ready::peek;
use crate::slice::state::{State, state};
use crate::stats::table::{Cut, fitted, short};

const HEADING: [&str; 6] = ["CONTAINER", "NAME", "ENGINE", "BLOCK", "PORTS", "STAGE"];

pub fn run(config: &Config, json: bool) -> Result<()> {
    let ledger = Ledger::at(&config.state_dir);
    let leases = ledger.all()?;
    let host = peek(config)?;
    let dead = |lease: &Lease| match &host {
        Some(host) => state(lease, &ledger, host).is_ok_and(|state| state == State::Dead),
        // Not prepared in this boot: whatever it was, it is gone.
        None => true,
    };
    if json {
        let one = |lease: &Lease| if dead(lease) { gone(view(lease, None)) } else { view(lease, None) };
        return print_json(&leases.iter().map(one).collect::<Vec<Value>>());
    }
    let mut rows = Vec::new();
    for lease in &leases {
        let stage = if dead(lease) { "GONE" } else { lease.stage.name() };
        rows.extend(members_of(lease).enumerate().map(|(n, member)| row(lease, member, n == 0, stage)));
    }
    print(&fitted(&HEADING, &rows, &[], &[(0, Cut::Back), (1, Cut::Front), (4, Cut::Back)]))
}

/// One line a member; what belongs to the slice stands in the first one's.
fn row(lease: &Lease, member: Option<&Member>, first: bool, stage: &str) -> Vec<String> {
    let text = |text: Option<&str>| text.unwrap_or("-").to_owned();
    let of_slice = |text: String| if first { text } else { "\"".to_owned() };
    let ports = member.map(|member| member.port_names.beside(&member.ports)).filter(|ports| !ports.is_empty());
    vec![
        short(member.map_or(&lease.id, |member| &member.id).as_str()).to_owned(),
        text(member.and_then(|member| member.name.as_deref())),
        text(member.and_then(|member| member.engine.as_deref())),
        of_slice(lease.block.to_string()),
        ports.unwrap_or_else(|| "-".into()),
        of_slice(stage.to_owned()),
    ]
}
