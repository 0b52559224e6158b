//! What must hold for every block and every port that is given out, whatever is taken, resting or asked.

use portslice::ports::pool::{Pool, View, auto};
use portslice::ports::{Block, BlockSize};
use portslice::ports::{PortRange, PortSet};
use proptest::prelude::*;

fn size() -> impl Strategy<Value = BlockSize> {
    // Small ones, so that pools hold several.
    (4u32..=9).prop_map(|bits| BlockSize::new(1 << bits).unwrap())
}

fn ports(most: usize, longest: u16) -> impl Strategy<Value = PortSet> {
    let range = (32_000u16..36_000, 0..longest).prop_map(|(begin, more)| PortRange::new(begin, begin + more).unwrap());
    prop::collection::vec(range, 0..most).prop_map(PortSet::from_iter)
}

fn pool() -> impl Strategy<Value = Pool> {
    ports(4, 2500).prop_filter_map("not empty", |ports| Pool::new(ports).ok())
}

/// Every aligned block of the pool, found the slow way.
fn blocks(pool: &Pool, size: BlockSize) -> Vec<Block> {
    (1024..=u16::MAX)
        .filter_map(|begin| Block::new(begin, size))
        .filter(|block| PortSet::from(block.range()).is_subset(pool.ports()))
        .collect()
}

fn clear(block: Block, of: &PortSet) -> bool {
    PortSet::from(block.range()).first_overlap(of).is_none()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_choice_is_the_next_free_block(
        pool in pool(), size in size(), taken in ports(8, 300), resting in ports(5, 300), cursor: u16,
    ) {
        let all = blocks(&pool, size);
        prop_assert_eq!(pool.capacity(size) as usize, all.len());
        let free: Vec<Block> = all.iter().copied().filter(|&b| clear(b, &taken) && clear(b, &resting)).collect();
        let expected = free.iter().find(|block| block.begin() >= cursor).or(free.first()).copied();
        let view = View { taken: &taken, resting: &resting, cursor };
        match pool.choose(size, &view, None) {
            Ok(block) => {
                prop_assert_eq!(Some(block), expected);
                prop_assert!(block.begin().is_multiple_of(size.get()) && block.size() == size);
                prop_assert!(pool.ports().contains_range(block.range()));
            }
            Err(full) => {
                prop_assert_eq!(expected, None);
                prop_assert_eq!((full.size, full.capacity as usize), (size, all.len()));
                prop_assert_eq!(full.resting as usize, all.iter().filter(|&&b| clear(b, &taken)).count());
                let fits = |size: &BlockSize| blocks(&pool, *size).iter().any(|&b| clear(b, &taken) && clear(b, &resting));
                let largest = std::iter::successors(size.half(), |size| size.half()).find(fits);
                prop_assert_eq!(full.largest_fit, largest);
            }
        }
        for &block in all.iter().take(20) {
            let again = pool.choose(size, &view, Some(block)).ok();
            prop_assert_eq!(again, if clear(block, &taken) { Some(block) } else { expected });
        }
    }

    #[test]
    fn repeated_choice_gives_each_block_once(pool in pool(), size in size(), cursor: u16) {
        let mut taken = PortSet::empty();
        let mut at = cursor;
        let mut given = 0;
        while let Ok(block) = pool.choose(size, &View { taken: &taken, resting: &PortSet::empty(), cursor: at }, None) {
            prop_assert!(clear(block, &taken));
            taken.insert(block.range());
            at = block.end().wrapping_add(1);
            given += 1;
        }
        prop_assert_eq!(given, pool.capacity(size));
    }

    #[test]
    fn auto_takes_exactly_what_is_free(
        n in 0u16..40, from in ports(6, 30), taken in ports(12, 30), cursor in 31_900u16..36_100,
    ) {
        let free = from.difference(&taken);
        match auto(n, &from, &taken, cursor) {
            None => prop_assert!(free.len() < u32::from(n)),
            Some(ports) => {
                prop_assert_eq!(ports.len(), u32::from(n));
                prop_assert!(ports.is_subset(&free));
                let run_exists = free.ranges().iter().any(|range| range.len() >= u32::from(n));
                prop_assert!(n == 0 || !run_exists || ports.ranges().len() == 1);
            }
        }
    }

    #[test]
    fn block_json_reads_back(begin in 1u16.., size in size()) {
        if let Some(block) = Block::new(begin - begin % size.get(), size) {
            let json = serde_json::to_string(&block).unwrap();
            prop_assert_eq!(serde_json::from_str::<Block>(&json).unwrap(), block);
            prop_assert_eq!(block.range().len(), u32::from(size.get()));
        }
    }
}

#[test]
fn the_seed_example_gives_24_containers() {
    let pool = Pool::new("32768-57344".parse().unwrap()).unwrap();
    let mut taken = PortSet::empty();
    let mut cursor = 0;
    while let Ok(block) =
        pool.choose(BlockSize::DEFAULT, &View { taken: &taken, resting: &PortSet::empty(), cursor }, None)
    {
        taken.insert(block.range());
        cursor = block.end();
    }
    assert_eq!(pool.capacity(BlockSize::DEFAULT), 24);
    assert_eq!(taken.to_string(), "32768-57343");
}

/// A block that was given back rests until the whole pool has been gone through.
#[test]
fn a_freed_block_is_the_last_to_come_again() {
    let pool = Pool::new("32768-36863".parse().unwrap()).unwrap();
    let free = PortSet::empty();
    let mut cursor = 0;
    let mut order = Vec::new();
    for _ in 0..5 {
        let view = View { taken: &free, resting: &free, cursor };
        let block = pool.choose(BlockSize::DEFAULT, &view, None).unwrap();
        cursor = block.end();
        order.push(block.begin());
    }
    assert_eq!(order, [32768, 33792, 34816, 35840, 32768]);
}

/// 1536 blocks, every other one taken or resting: the choice has to stay far below the millisecond of an attach.
#[test]
fn a_large_pool_is_searched_quickly() {
    let pool = Pool::new("32768-57343".parse().unwrap()).unwrap();
    let single =
        |step: u16| (0..768).map(move |i| PortRange::new(32768 + 32 * i + step, 32768 + 32 * i + step).unwrap());
    let (taken, resting): (PortSet, PortSet) = (single(3).collect(), single(20).collect());
    let view = View { taken: &taken, resting: &resting, cursor: 40_000 };
    let start = std::time::Instant::now();
    for _ in 0..100 {
        assert_eq!(pool.choose(BlockSize::MIN, &view, None).unwrap_err().resting, 768);
    }
    let each = start.elapsed() / 100;
    // In an optimised build about 20 microseconds.
    println!("{each:?} for a search of the whole pool in vain");
    assert!(each.as_millis() < 20, "{each:?}");
}
