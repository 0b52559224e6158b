//! `portslice setup`: prepare the host, or put it back.

use super::args::Setup;
use super::{print, print_actions};
use crate::config::Config;
use crate::error::Result;
use crate::plan::Step;
use crate::slice::setup::{Outcome, setup};
use crate::slice::undo::undo;

pub fn run(config: &Config, args: &Setup) -> Result<()> {
    if args.undo {
        let actions = undo(config, args.dry_run)?;
        if args.dry_run {
            return print_actions(&actions);
        }
        let what = if actions.is_empty() { "nothing was prepared" } else { "the host is as it was" };
        return print(&format!("{what}\n"));
    }
    let Outcome { facts, actions } = setup(config, args.shaper, args.dry_run)?;
    if args.dry_run {
        return print_actions(&actions);
    }
    for action in &actions {
        if matches!(action.step, Step::Reserve { .. } | Step::Keep { .. }) {
            print(&format!("{action}\n"))?;
        }
    }
    let addresses: Vec<String> = facts.addresses.iter().map(ToString::to_string).collect();
    let size = config.ephemeral_ports_per_container;
    print(&format!(
        "ready on {} ({}): room for {} containers with {size} ephemeral ports each\n",
        facts.uplink.name,
        addresses.join(", "),
        config.ephemeral_ports.capacity(size)
    ))
}
