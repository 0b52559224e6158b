//! `portslice list`.

use serde_json::Value;

use super::{claims, print, print_json};
use crate::config::Config;
use crate::error::Result;
use crate::face::complain;
use crate::lease::record::members_of;
use crate::lease::view::{gone, view};
use crate::lease::{Lease, Ledger, Member};
use crate::slice::ready::peek;
use crate::slice::state::{State, state};
use crate::stats::table::{Cut, fitted, short};

const HEADING: [&str; 6] = ["CONTAINER", "NAME", "ENGINE", "BLOCK", "PORTS", "STAGE"];
/// The column that stands behind the ports where some slice may claim ports.
const CLAIMED: &str = "CLAIMED";

pub fn run(config: &Config, json: bool) -> Result<()> {
    let ledger = Ledger::at(&config.state_dir);
    let (leases, unreadable) = ledger.all_and_unreadable()?;
    let host = peek(config)?;
    unreadable.iter().for_each(|e| complain(&format!("portslice: warning: {e}")));
    let dead = |lease: &Lease| match &host {
        Some(host) => state(lease, &ledger, host).is_ok_and(|state| state == State::Dead),
        // Not prepared in this boot: whatever it was, it is gone.
        None => true,
    };
    let claims = host.as_ref().map(|host| host.maps.all_claims()).unwrap_or_default();
    let claims = |lease: &Lease| claims.get(&lease.slot).map(Vec::as_slice).unwrap_or_default();
    if json {
        let one = |lease: &Lease| {
            let mut view = if dead(lease) { gone(view(lease, None)) } else { view(lease, None) };
            claims::enter(&mut view, &lease.open, claims(lease));
            view
        };
        return print_json(&leases.iter().map(one).collect::<Vec<Value>>());
    }
    let claiming = leases.iter().any(|lease| !lease.open.is_none() || !claims(lease).is_empty());
    let mut rows = Vec::new();
    for lease in &leases {
        let stage = if dead(lease) { "GONE" } else { lease.stage.name() };
        let claimed = claiming.then(|| claims::short(claims(lease)));
        let last: Vec<String> = claimed.into_iter().chain([stage.to_owned()]).collect();
        rows.extend(members_of(lease).enumerate().map(|(n, member)| row(lease, member, n == 0, &last)));
    }
    let mut heading = HEADING.to_vec();
    let mut flexible = vec![(0, Cut::Back), (1, Cut::Front), (4, Cut::Back)];
    if claiming {
        heading.insert(5, CLAIMED);
        flexible.push((5, Cut::Back));
    }
    print(&fitted(&heading, &rows, &[], &flexible))
}

/// One line a member; what belongs to the slice stands in the first one's. `last`: the last cells, which do.
fn row(lease: &Lease, member: Option<&Member>, first: bool, last: &[String]) -> Vec<String> {
    let text = |text: Option<&str>| text.unwrap_or("-").to_owned();
    let of_slice = |text: String| if first { text } else { "\"".to_owned() };
    let ports = member.map(|member| member.port_names.beside(&member.ports)).filter(|ports| !ports.is_empty());
    let own = [
        short(member.map_or(&lease.id, |member| &member.id).as_str()).to_owned(),
        text(member.and_then(|member| member.name.as_deref())),
        text(member.and_then(|member| member.engine.as_deref())),
        of_slice(lease.block.to_string()),
        ports.unwrap_or_else(|| "-".into()),
    ];
    own.into_iter().chain(last.iter().cloned().map(of_slice)).collect()
}
