//! Promise: random operations, killed at random, never violate an invariant.
//!
//! Workers do random operations on one host that is too small for all of them: its pool is exhausted often and its ports
//! collide. Some operations are killed. Between two rounds all workers rest, and what the product remembers is compared with
//! the kernel and with what a peer sees. `PORTSLICE_SEED` repeats the choices of a run, though not its timing.

mod check;
pub mod ops;

use crate::lab::*;
use ops::{Random, World};
use std::time::Instant;

/// Workers at the same time.
const WORKERS: u64 = 8;
/// Operations of all workers between two looks.
const ROUND: u64 = 96;

#[test]
fn random_operations_killed_at_random() {
    let clock = || std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
    let seed = std::env::var("PORTSLICE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(clock);
    let operations = if long() { 20_000 } else { 500 };
    println!("model: PORTSLICE_SEED={seed}, {operations} operations");
    let start = Instant::now();
    let world = World::new(seed);
    let mut random = Random::new(seed);
    for round in 0..operations / ROUND + 1 {
        world.begin(round % 4 == 3);
        let seeds: Vec<u64> = (0..WORKERS).map(|_| random.next()).collect();
        std::thread::scope(|scope| {
            for seed in seeds {
                let world = &world;
                scope.spawn(move || {
                    let mut random = Random::new(seed);
                    (0..ROUND / WORKERS).for_each(|_| world.operation(&mut random));
                });
            }
        });
        world.look(&mut random);
        world.assert_sound(&format!("PORTSLICE_SEED={seed}, round {round}"));
    }
    println!("model: {:?}: {}", start.elapsed(), world.summary());
    world.end();
}
