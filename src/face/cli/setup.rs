//! `portslice setup` and `portslice sync`: prepare the host, put it back, and let everything follow it.

use super::args::Setup;
use super::{print, print_actions};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::plan::Step;
use crate::slice::follow::Followed;
use crate::slice::setup::{self, Outcome, setup};
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
    let Outcome { facts, actions, slices } = setup(config, args.shaper, args.dry_run)?;
    if args.dry_run {
        print_actions(&actions)?;
        return slices.iter().try_for_each(|slice| print_actions(&slice.actions));
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
    ))?;
    report(&slices)
}

pub fn sync(config: &Config, dry: bool) -> Result<()> {
    let Some(Outcome { actions, slices, .. }) = setup::sync(config, dry)? else {
        return print("nothing is prepared: `portslice setup` prepares this host\n");
    };
    print_actions(&actions)?;
    if dry {
        return slices.iter().try_for_each(|slice| print_actions(&slice.actions));
    }
    if actions.is_empty() && slices.is_empty() {
        return print("nothing to do\n");
    }
    report(&slices)
}

/// One line for the slices that followed, and one for each that could not.
fn report(slices: &[Followed]) -> Result<()> {
    let failed: Vec<&Followed> = slices.iter().filter(|slice| slice.failed.is_some()).collect();
    let followed = slices.len() - failed.len();
    if followed > 0 {
        print(&format!("{followed} containers follow the host\n"))?;
    }
    let Some((last, others)) = failed.split_last() else { return Ok(()) };
    let line = |slice: &Followed| {
        format!("{} does not follow the host: {}", slice.id, slice.failed.as_deref().unwrap_or_default())
    };
    for slice in others {
        crate::face::complain(&format!("portslice: {}", line(slice)));
    }
    Err(Error::Failed(line(last)))
}
