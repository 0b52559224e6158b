//! The loop over steps: every verb goes through here, forward or back.

use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::getpid;

use crate::error::Result;
use crate::plan::{Action, Step, Verb};
use crate::wire::Carry;

/// Does all of it. When an action fails, what was performed before is undone, the last first, and so is the part of the
/// failing one that came about: undoing tolerates what is not there.
pub fn forward(site: &mut impl Carry, actions: &[Action]) -> Result<()> {
    for (done, action) in actions.iter().enumerate() {
        fault();
        log::debug!("{action}");
        if let Err(e) = site.act(action) {
            let performed = actions[..=done].iter().rev().filter(|action| action.verb == Verb::Perform);
            let back: Vec<Action> =
                performed.map(|action| Action { verb: Verb::Undo, step: action.step.clone() }).collect();
            if let Err(again) = through(site, &back) {
                log::error!("{again}, while undoing what had been done");
            }
            return Err(e);
        }
    }
    Ok(())
}

/// Does as much of it as is possible, and returns the first failure. That the CPU limits of a container that ends cannot be
/// put back is told, and keeps nothing else from ending.
pub fn through(site: &mut impl Carry, actions: &[Action]) -> Result<()> {
    let mut first = Ok(());
    for action in actions {
        fault();
        log::debug!("{action}");
        match site.act(action) {
            Err(e) if matches!(action.step, Step::Cpu(_)) => log::warn!("{e}"),
            Err(e) if first.is_ok() => first = Err(e),
            Err(e) => log::error!("{e}"),
            Ok(()) => {}
        }
    }
    first
}

/// What of `steps` is not as planned, as the actions that would make it so.
pub fn missing(site: &mut impl Carry, steps: Vec<Step>) -> Result<Vec<Action>> {
    let mut actions = Vec::new();
    for step in steps {
        if !site.look(&step)?.is_empty() {
            actions.push(Action { verb: Verb::Perform, step });
        }
    }
    Ok(actions)
}

/// Everything that is not as planned, one line each. A step that cannot be looked at is one of them.
pub fn differences(site: &mut impl Carry, steps: &[Step]) -> Vec<String> {
    steps.iter().flat_map(|step| site.look(step).unwrap_or_else(|e| vec![e.to_string()])).collect()
}

/// A point at which a test may have this process killed: `PORTSLICE_FAULT=3` at the third. Writes to memory that is shared
/// with the kernel are no system calls, so that nothing else could stop a run between two of them.
pub fn fault() {
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let Some(at) = std::env::var_os("PORTSLICE_FAULT") else { return };
    let at = at.to_str().and_then(|text| text.parse::<u32>().ok());
    if at == Some(PASSED.fetch_add(1, Ordering::Relaxed) + 1) {
        let _ = kill(getpid(), Signal::SIGKILL);
    }
}
