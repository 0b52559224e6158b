//! Promise: programs of socket calls come to the same in containers with open ports as on a plain host, errno by errno.
//!
//! Random programs of two to four processes run as processes of one plain namespace, as one container each, and as processes of
//! the host and of containers. A driver hands out one call at a time, so that results depend on nothing but the calls. A
//! difference that is meant is listed with its reason and counted. Any other one fails, and the program is printed without the
//! calls that the difference does not need. `PORTSLICE_SEED` repeats a run.

mod generate;
mod ground;
mod listed;
mod program;
mod run;

use crate::lab::long;
use generate::Generator;
use ground::Ground;
use listed::{Difference, RARE, RULES, SELDOM, is_left_to_chance, listed};
use program::{Outcome, Program};
use run::{Pace, World};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Instant;

/// How often a plain host is asked again when something differs.
const AGAIN: usize = 4;
/// What short runs begin with.
const SHORT: u64 = 15_632_704_178_105_418_043;
/// Kinds of differences that end a run.
const ENOUGH: usize = 8;

/// What came of running a program in two worlds.
enum Verdict {
    Same,
    /// The difference is listed; number of the rule.
    Listed(usize),
    /// A plain host does not always come to the same either.
    Chance,
    /// Not seen again.
    Once,
    /// Of a kind that is found already.
    Known,
    /// The step that differs first, what it comes to on a plain host and what here.
    Differs(usize, Outcome, Outcome),
}

#[derive(Default)]
struct Count {
    calls: usize,
    listed: BTreeMap<usize, usize>,
    chance: usize,
    once: usize,
}

#[test]
fn socket_calls_come_to_the_same_as_on_a_plain_host() {
    let count = compare("differential", if long() { 20_000 } else { 1_000 }, Ground::ours);
    for (n, (rule, _)) in RULES.iter().enumerate() {
        let met = count.listed.get(&n).copied().unwrap_or(0);
        println!("differential: {met} times: {rule}");
        // some are met once in a thousand programs
        assert!(met > 0 || !long() || [SELDOM, RARE].contains(rule), "no program differs any more because {rule}");
    }
}

/// What finds differences finds none where there are none.
#[test]
fn two_plain_hosts_do_the_same() {
    let count = compare("two plain hosts", if long() { 2_000 } else { 200 }, Ground::plain);
    assert!(count.listed.is_empty(), "{:?}", count.listed);
}

fn compare(name: &str, wanted: usize, ground: fn() -> Ground) -> Count {
    let clock = || std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
    // what comes up once in ten thousand programs is for long runs to find
    let seed = std::env::var("PORTSLICE_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| if long() { clock() } else { SHORT });
    println!("{name}: PORTSLICE_SEED={seed}, {wanted} programs");
    let (mut generator, mut place) = (Generator::new(seed), ground());
    let (begun, mut count, mut found) = (Instant::now(), Count::default(), BTreeMap::new());
    for _ in 0..wanted {
        if found.len() >= ENOUGH {
            break;
        }
        if !place.has_ports() {
            place = ground();
        }
        let (own, program) = generator.program();
        let ports = place.ports();
        let plain = place.alone.run(&program, ports, Pace::QUICK, None);
        count.calls += plain.len();
        for other in 0..place.others.len() {
            let known = |kind: &Kind| found.contains_key(kind);
            match verdict(&mut place, other, &program, Some(&plain), &known) {
                Verdict::Same | Verdict::Known => {}
                Verdict::Listed(rule) => *count.listed.entry(rule).or_default() += 1,
                Verdict::Chance => count.chance += 1,
                Verdict::Once => {
                    count.once += 1;
                    println!("{name}: {}: not seen again (PORTSLICE_SEED={own}):\n{program}", place.others[other].name);
                }
                Verdict::Differs(at, plain, ours) => {
                    if let Entry::Vacant(new) = found.entry(kind(&program, at, &plain, &ours)) {
                        println!("{}", new.insert(reduced(&mut place, other, own, program.clone())));
                    }
                }
            }
        }
    }
    println!(
        "{name}: {wanted} programs of {} calls in {:?}; {} by chance, {} not seen again",
        count.calls,
        begun.elapsed(),
        count.chance,
        count.once
    );
    assert!(found.is_empty(), "PORTSLICE_SEED={seed}: {} kinds of calls come to something else (above)", found.len());
    count
}

/// Runs a program in a world and compares. `plain`: what a plain host came to, if that is known.
/// `known`: kinds of differences that need no second look.
fn verdict(
    place: &mut Ground,
    other: usize,
    program: &Program,
    plain: Option<&[Outcome]>,
    known: &dyn Fn(&Kind) -> bool,
) -> Verdict {
    let meant = |world: &World, plain: &[Outcome], ours: &[Outcome]| {
        let at = first_difference(plain, ours)?;
        let difference = Difference { program, owners: world.owners, at, plain, ours: ours[at] };
        if is_left_to_chance(&difference) {
            return Some(Verdict::Chance);
        }
        listed(&difference).map(Verdict::Listed)
    };
    if let Some(plain) = plain {
        let ports = place.ports();
        let ours = place.others[other].run(program, ports, Pace::QUICK, Some(plain));
        let Some(at) = first_difference(plain, &ours) else { return Verdict::Same };
        if let Some(meant) = meant(&place.others[other], plain, &ours) {
            return meant;
        }
        if known(&kind(program, at, &plain[at], &ours[at])) {
            return Verdict::Known;
        }
    }
    // Everything once more, and slowly.
    let mut plains: Vec<Vec<Outcome>> = Vec::new();
    for _ in 0..AGAIN {
        let ports = place.ports();
        plains.push(place.alone.run(program, ports, Pace::SLOW, None));
    }
    let ports = place.ports();
    let ours = place.others[other].run(program, ports, Pace::SLOW, Some(&plains[0]));
    let at = |plain: &Vec<Outcome>| first_difference(plain, &ours).unwrap_or(usize::MAX);
    let nearest = plains.iter().max_by_key(|plain| at(plain)).expect("some").clone();
    let Some(at) = first_difference(&nearest, &ours) else {
        let alike = plains.iter().all(|plain| *plain == nearest);
        return if alike { Verdict::Once } else { Verdict::Chance };
    };
    match meant(&place.others[other], &nearest, &ours) {
        Some(meant) => meant,
        // what Linux leaves to chance is left to it in the steps before as well
        None if plains.iter().any(|plain| first_difference(plain, &nearest).is_some_and(|first| first <= at)) => {
            Verdict::Chance
        }
        None => Verdict::Differs(at, nearest[at], ours[at]),
    }
}

/// Differences of one call that come to the same.
type Kind = String;

fn kind(program: &Program, at: usize, plain: &Outcome, ours: &Outcome) -> Kind {
    let call = program.steps[at].call.to_string();
    format!("{}: {} {}", call.split('(').next().unwrap_or_default(), plain.errno, ours.errno)
}

fn first_difference(plain: &[Outcome], ours: &[Outcome]) -> Option<usize> {
    plain.iter().zip(ours).position(|(plain, ours)| plain != ours)
}

/// The program that differs, made as small as it can be, and how.
fn reduced(place: &mut Ground, other: usize, seed: u64, mut program: Program) -> String {
    let mut last = verdict(place, other, &program, None, &|_| false);
    if let Verdict::Differs(at, ..) = last {
        program.steps.truncate(at + 1);
    }
    let mut at = program.steps.len().saturating_sub(1);
    while at > 0 {
        at -= 1;
        let mut shorter = program.clone();
        shorter.steps.remove(at);
        let found = verdict(place, other, &shorter, None, &|_| false);
        if let Verdict::Differs(end, ..) = found {
            shorter.steps.truncate(end + 1);
            at = at.min(shorter.steps.len());
            (program, last) = (shorter, found);
        }
    }
    let world = place.others[other].name;
    let Verdict::Differs(at, plain, ours) = last else {
        return format!("PORTSLICE_SEED={seed}, {world}: differs now and then\n{program}");
    };
    format!(
        "PORTSLICE_SEED={seed}, {world}: call {at} of\n{program}comes on a plain host to\n  {plain}\nand here to\n  {ours}"
    )
}
