//! `portslice list`.

use super::{print, print_json};
use crate::config::Config;
use crate::error::Result;
use crate::lease::{Ledger, Stage};
use crate::stats::table::columns;

pub fn run(config: &Config, json: bool) -> Result<()> {
    let leases = Ledger::at(&config.state_dir).all()?;
    if json {
        return print_json(&leases);
    }
    let rows: Vec<Vec<String>> = leases
        .iter()
        .map(|l| {
            vec![
                l.id.to_string(),
                l.slot.to_string(),
                l.block.to_string(),
                if l.terms.ports.is_empty() { "-".into() } else { l.terms.ports.to_string() },
                l.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
                stage(l.stage).into(),
            ]
        })
        .collect();
    print(&columns(&["CONTAINER", "SLOT", "BLOCK", "PORTS", "PID", "STAGE"], &rows, &[1, 4]))
}

/// As in JSON.
pub fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Attaching => "attaching",
        Stage::Attached => "attached",
        Stage::Detaching => "detaching",
    }
}
