//! From what a slice is to what it is to be: the steps of both, compared.

use super::slice::terms;
use super::step::{Action, Step, Verb};
use crate::lease::{Lease, State};
use crate::net::qdisc::Leaf;
use crate::ports::PortSet;

/// The actions that turn `old` into `new`. `doubtful`: a run that was killed may have applied either partly, so that
/// everything is written anew.
///
/// What is new is in place before packets are led to it. A queue that goes is opened first, so that what waits in it goes
/// on its way, and is removed when packets no longer come. Ports that go are withdrawn before others are added.
pub fn change(lease: &Lease, old: &State, new: &State, leaf: Leaf, doubtful: bool) -> Vec<Action> {
    let (had, has) = (terms(lease, old, leaf), terms(lease, new, leaf));
    let gone: Vec<&Step> = had.iter().filter(|step| !has.iter().any(|other| other.same_place(step))).collect();
    let action = |verb, step: &Step| Action { verb, step: step.clone() };
    let mut actions = Vec::new();
    let mut relaxed = false;
    for step in &has {
        // Queues stand first in a plan; behind them those that go are opened.
        if !relaxed && !matches!(step, Step::Queue { .. }) {
            actions.extend(gone.iter().filter(|step| is_queue(step)).map(|step| action(Verb::Relax, step)));
            relaxed = true;
        }
        match had.iter().find(|other| other.same_place(step)) {
            None => actions.push(action(Verb::Perform, step)),
            Some(Step::Steer { ports: from, .. }) => actions.extend(steer(lease.slot, from, step, doubtful)),
            Some(other) if doubtful || other != step => actions.push(action(Verb::Mend, step)),
            Some(_) => {}
        }
    }
    actions.extend(gone.iter().rev().map(|step| action(Verb::Undo, step)));
    actions
}

fn is_queue(step: &Step) -> bool {
    matches!(step, Step::Queue { .. })
}

/// Ports are a set: what both have is left alone.
fn steer(slot: u16, from: &PortSet, to: &Step, doubtful: bool) -> Vec<Action> {
    let Step::Steer { ports: to, .. } = to else { return Vec::new() };
    let more = if doubtful { to.clone() } else { to.difference(from) };
    let parts = [(Verb::Undo, from.difference(to)), (Verb::Mend, more)];
    let parts = parts.into_iter().filter(|(_, ports)| !ports.is_empty());
    parts.map(|(verb, ports)| Action { verb, step: Step::Steer { slot, ports } }).collect()
}
