//! `portslice setup` and `portslice sync`: prepare the host, put it back, and let everything follow it.

use super::args::Setup;
use super::{done, print, print_lines, print_plan, register};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::face::report;
use crate::slice::boot::at_boot;
use crate::slice::follow::Followed;
use crate::slice::setup::{self, How, Outcome, TOLD, setup};
use crate::slice::undo::undo;

/// `installation`: see [`Args::installation`](super::args::Args::installation).
pub fn run(config: &Config, args: &Setup, installation: &[&str]) -> Result<()> {
    if let Some(engine) = args.target.engine() {
        return register::run(config, engine, args, installation);
    }
    register::refuse_options(args)?;
    if args.undo {
        let undone = undo(config, args.dry_run)?;
        if args.dry_run {
            return print_plan(&undone.actions, false);
        }
        return print_lines(&[undone.reclaimed, done(&undone.actions)].concat());
    }
    if args.at_boot {
        return boot(config);
    }
    let how = How { shaper: args.shaper, dry: args.dry_run, keep_programs: args.keep_programs };
    let outcome = setup(config, how)?;
    if args.dry_run {
        return plan(&outcome);
    }
    print_lines(&changes(&outcome))?;
    ready(config, &outcome)
}

pub fn sync(config: &Config, dry: bool) -> Result<()> {
    let Some(outcome) = setup::sync(config, How { dry, ..How::default() })? else {
        return print("nothing is prepared: `portslice setup` prepares this host\n");
    };
    if dry {
        return plan(&outcome);
    }
    print_lines(&changes(&outcome))?;
    complain_of(&outcome.slices)
}

/// What the unit runs.
fn boot(config: &Config) -> Result<()> {
    let (actions, rest) = at_boot(config)?;
    let mut lines = done(&actions);
    match rest {
        Ok(outcome) => {
            lines.extend(changes(&outcome));
            print_lines(&lines)?;
            ready(config, &outcome)
        }
        Err(e) => {
            print_lines(&lines)?;
            print(&format!("no uplink yet ({e}): the first container makes the rest ready, or `portslice setup`\n"))
        }
    }
}

/// What would be done on the host and about its slices.
fn plan(outcome: &Outcome) -> Result<()> {
    let slices = outcome.slices.iter().flat_map(|slice| &slice.actions);
    let mut lines: Vec<String> = outcome.actions.iter().chain(slices).map(|action| format!("would {action}")).collect();
    if outcome.told {
        lines.push(format!("would {TOLD}"));
    }
    print_lines(&lines)
}

/// What was done on the host, and how many slices followed it.
fn changes(outcome: &Outcome) -> Vec<String> {
    let mut lines = done(&outcome.actions);
    let followed = outcome.slices.iter().filter(|slice| slice.failed.is_none()).count();
    if outcome.told {
        lines.push(TOLD.replacen("tell", "told", 1));
    }
    match followed {
        0 => {}
        1 => lines.push("1 container follows the host".into()),
        more => lines.push(format!("{more} containers follow the host")),
    }
    lines
}

fn ready(config: &Config, outcome: &Outcome) -> Result<()> {
    for gap in &outcome.gaps {
        report("portslice", log::Level::Warn, &format!("warning: {gap}"));
    }
    let addresses: Vec<String> = outcome.facts.addresses.iter().map(ToString::to_string).collect();
    let size = config.ephemeral_ports_per_container;
    print(&format!(
        "ready on {} ({}): room for {} containers with {size} ephemeral ports each; \
         the host keeps {} ephemeral ports of its own\n",
        outcome.facts.uplink.name,
        addresses.join(", "),
        config.ephemeral_ports.capacity(size),
        outcome.host_ports
    ))?;
    complain_of(&outcome.slices)
}

/// One line for each slice that could not follow; the last one is the error.
fn complain_of(slices: &[Followed]) -> Result<()> {
    let failed: Vec<&Followed> = slices.iter().filter(|slice| slice.failed.is_some()).collect();
    let Some((last, others)) = failed.split_last() else { return Ok(()) };
    let line = |slice: &Followed| {
        format!("{} does not follow the host: {}", slice.id, slice.failed.as_deref().unwrap_or_default())
    };
    for slice in others {
        report("portslice", log::Level::Error, &line(slice));
    }
    Err(Error::Failed(line(last)))
}
