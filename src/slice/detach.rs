//! Detach: a container leaves its slice, and the last one ends it.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::ready::{locked, peek};
use super::reclaim::{forget, sweep};
use super::state::{State, same_bundle, state};
use super::turn::{Turn, settle};
use super::wanted::worked;
use super::{account, end};
use crate::config::Config;
use crate::error::Result;
use crate::host::facts;
use crate::host::sysctl::Proc;
use crate::lease::lock::{self, Lock};
use crate::lease::record::cpus_of;
use crate::lease::{Desk, Lease, Ledger, Member, Placed, Stage, State as Goal};
use crate::net::Netlink;
use crate::plan::{Action, limits};
use crate::request::{Attachment, ContainerId};
use crate::wire::Host;

/// Who wants a container detached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// Somebody who knows what he does.
    Operator,
    /// A runtime that ended a container of this bundle. Two containers of two runtimes, or of two namespaces of one, may
    /// have the same id; only the one whose bundle it is has ended.
    Runtime(Option<PathBuf>),
    /// Whoever attached the container to this network takes the network away. Every member of the slice loses it.
    Network(Attachment),
}

/// What a look under the lock came to.
enum Found {
    Nothing,
    /// Of somebody else, who goes on.
    Stranger,
    Worked(Box<Lease>),
    Torn(Box<Lease>),
    /// The slice ends.
    Last(Box<Lease>),
    /// Others stay.
    Leaves(Box<Turn>, Box<Lease>),
}

/// Takes a container out of its slice and returns the lease of that; `None` when there is none, which is success: a runtime
/// calls poststop late, twice, or for a container that never was ours.
pub fn detach(config: &Config, id: &ContainerId, by: &By) -> Result<Option<Lease>> {
    let ledger = Ledger::at(&config.state_dir);
    let start = Instant::now();
    let mut opened = None;
    loop {
        let Some(host) = opened.take().map_or_else(|| peek(config), |host| Ok(Some(host)))? else {
            forget(config, &ledger, std::slice::from_ref(id))?;
            return Ok(None);
        };
        let found = match locked(&ledger, &host)? {
            Some(lock) => look(config, id, by, &ledger, &host, &lock)?,
            None => continue,
        };
        match found {
            Found::Nothing => {
                if *by != By::Operator {
                    sandbox_ended(&ledger, &host)?;
                }
                return Ok(None);
            }
            Found::Stranger => return Ok(None),
            Found::Torn(lease) => settle(&ledger, &host, &lease)?,
            Found::Worked(lease) if start.elapsed() > lock::PATIENCE => return Err(worked(id, &lease)),
            Found::Worked(_) => sleep(Duration::from_millis(2)),
            Found::Last(lease) => {
                if end::end(&ledger, &host, &lease)? {
                    return Ok(Some(*lease));
                }
            }
            Found::Leaves(turn, lease) => return leave(*turn, &lease, id, &ledger, &host).map(Some),
        }
        opened = Some(host);
    }
}

/// How long the namespace of a sandbox may outlive it: a process that is being started beside may hold a copy of whatever
/// its parent had open until it executes its program.
const LINGERING: Duration = Duration::from_millis(20);

/// The sandbox of a pod may have ended, which was no member: then its namespace is gone, and nobody else will tell.
fn sandbox_ended(ledger: &Ledger, host: &Host) -> Result<()> {
    let start = Instant::now();
    loop {
        let swept = sweep(ledger, host)?;
        if swept.ended > 0 || swept.deserted == 0 || start.elapsed() > LINGERING {
            return Ok(());
        }
        sleep(Duration::from_millis(2));
    }
}

/// The actions that [`detach`] would carry out now.
pub fn plan(config: &Config, id: &ContainerId) -> Result<Vec<Action>> {
    let (ledger, Some(host)) = (Ledger::at(&config.state_dir), peek(config)?) else { return Ok(Vec::new()) };
    let Some(lease) = of(&ledger, &host, id, &By::Operator)? else { return Ok(Vec::new()) };
    if ends(&lease, id, &By::Operator) || !host.is_wired(&lease)? {
        return Ok(end::actions(&lease, &host));
    }
    let goal = goal(config, &lease, id)?;
    Ok(Turn::plan(lease, goal).actions(&host))
}

fn look(config: &Config, id: &ContainerId, by: &By, ledger: &Ledger, host: &Host, lock: &Lock) -> Result<Found> {
    let Some(lease) = of(ledger, host, id, by)? else { return Ok(Found::Nothing) };
    let lease = Box::new(lease);
    if lease.stage == Stage::Reserved {
        // A runtime that could not create it says so, and runs still.
        let ours = |bundle: &Option<PathBuf>| lease.members.iter().all(|member| same_bundle(member, bundle.as_deref()));
        let entitled = matches!(by, By::Operator) || matches!(by, By::Runtime(bundle) if ours(bundle));
        return Ok(if entitled { Found::Last(lease) } else { Found::Stranger });
    }
    match state(&lease, ledger, host)? {
        State::Worked => return Ok(Found::Worked(lease)),
        State::Torn => return Ok(Found::Torn(lease)),
        State::Dead => return Ok(Found::Last(lease)),
        State::Live => {}
    }
    if let Some(member) = lease.member(id)
        && !proves(by, member)
    {
        log::info!("{id}: what ended is not what is attached under this id, which goes on");
        return Ok(Found::Stranger);
    }
    if ends(&lease, id, by) {
        return Ok(Found::Last(lease));
    }
    let goal = goal(config, &lease, id)?;
    let mut after = (*lease).clone();
    if is_sandbox(&lease, id) && *by != By::Operator {
        // The slice goes on for the pod's containers, and ends with the last of them.
        after.shared = false;
    }
    Ok(Found::Leaves(Box::new(Turn::begin(after, goal, ledger, host, lock)?), lease))
}

/// The slice in which it is a member; to an operator also the one that bears its name and has no member left.
fn of(ledger: &Ledger, host: &Host, id: &ContainerId, by: &By) -> Result<Option<Lease>> {
    let desk = Desk::of(&host.maps);
    match desk.of_member(ledger, id)? {
        None if *by == By::Operator => Ok(desk.lease(ledger, id)?.filter(|lease| lease.members.is_empty())),
        found => Ok(found),
    }
}

/// Does whoever calls speak of this member? A runtime names its bundle, a network its attachment. A member that no runtime
/// brought is no runtime's to end.
fn proves(by: &By, member: &Member) -> bool {
    match by {
        By::Operator => true,
        By::Runtime(bundle) => *bundle == member.bundle && member.attachment.is_none(),
        By::Network(attachment) => member.attachment.as_ref() == Some(attachment),
    }
}

/// Does the slice end with this member? A namespace that somebody else made may be joined again, and ends by itself; but no
/// container joins a pod whose sandbox has ended, and none lives on without the network that made the slice.
fn ends(lease: &Lease, id: &ContainerId, by: &By) -> bool {
    if matches!(by, By::Network(_)) && lease.id == *id {
        return true;
    }
    let others = lease.members.iter().any(|member| member.id != *id);
    !others && (!lease.shared || is_sandbox(lease, id) || *by == By::Operator)
}

/// Is this member the sandbox of its pod? containerd and CRI-O make the pod's namespace before the sandbox, and remove it
/// after the sandbox's poststop.
fn is_sandbox(lease: &Lease, id: &ContainerId) -> bool {
    lease.member(id).is_some_and(|member| member.sandbox)
}

/// What the slice is to be without the member. Its ports stay leased: the namespace lives on, and may have them still.
fn goal(config: &Config, lease: &Lease, id: &ContainerId) -> Result<Goal> {
    let members: Vec<Member> = lease.members.iter().filter(|member| member.id != *id).cloned().collect();
    let known = limits::Known { tamper_proof: lease.terms.egress_placed == Placed::Inside, cpus: cpus_of(&members) };
    let machine = facts::machine(config, lease.uplink());
    let mut terms = limits::terms(config, &lease.terms.asked, known, &machine)?;
    terms.second = lease.terms.second;
    Ok(Goal { terms, members, leased: lease.ports.clone(), open: lease.open.clone() })
}

fn leave(turn: Turn, lease: &Lease, id: &ContainerId, ledger: &Ledger, host: &Host) -> Result<Lease> {
    let line = lease.member(id).map(|member| Ok(account::leaving(lease, member, host, &mut Netlink::route()?)));
    let line: Option<String> = line.transpose()?;
    let lease = turn.carry_out(ledger, host, &Proc::default())?;
    if let Some(line) = line {
        let _lock = locked(ledger, host)?;
        account::write(ledger, &[line]);
    }
    log::info!("{id}: left the slice of {}, which has {} members", lease.id, lease.members.len());
    Ok(lease)
}
