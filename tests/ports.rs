//! Port sets: reading back what was printed, and set algebra against a plain set of numbers.

use portslice::ports::{PortRange, PortSet};
use proptest::prelude::*;
use std::collections::HashSet;

/// Ranges that overlap and touch often, and some at both ends of the number range.
fn range() -> impl Strategy<Value = PortRange> {
    let begin = prop_oneof![4 => 1u16..200, 1 => 65400u16..=65535];
    (begin, 0u16..20).prop_map(|(begin, more)| PortRange::new(begin, begin.saturating_add(more)).unwrap())
}

fn set() -> impl Strategy<Value = PortSet> {
    prop::collection::vec(range(), 0..12).prop_map(PortSet::from_iter)
}

fn model(set: &PortSet) -> HashSet<u16> {
    set.iter().collect()
}

/// Sorted, disjoint, merged: the form everything else relies on.
fn canonical(set: &PortSet) -> bool {
    set.ranges().windows(2).all(|pair| u32::from(pair[0].end()) + 1 < u32::from(pair[1].begin()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn reads_back_what_it_prints(set in set()) {
        prop_assert_eq!(&set.to_string().parse::<PortSet>().unwrap(), &set);
        let json = serde_json::to_string(&set).unwrap();
        prop_assert_eq!(json.clone(), format!("\"{set}\""));
        prop_assert_eq!(serde_json::from_str::<PortSet>(&json).unwrap(), set);
    }

    #[test]
    fn any_text_is_read_or_refused_in_one_line(text in "[ 0-9,\\-\\PC\n]{0,40}") {
        match text.parse::<PortSet>() {
            Ok(set) => prop_assert!(canonical(&set) && !set.contains(0)),
            Err(error) => prop_assert!(!error.to_string().contains(char::is_control)),
        }
    }

    #[test]
    fn algebra_agrees_with_a_set_of_numbers(a in set(), b in set(), extra in range()) {
        let (x, y) = (model(&a), model(&b));
        let both: HashSet<u16> = x.intersection(&y).copied().collect();
        for (ours, theirs) in [
            (a.union(&b), x.union(&y).copied().collect()),
            (a.intersection(&b), both.clone()),
            (a.difference(&b), x.difference(&y).copied().collect()),
        ] {
            prop_assert!(canonical(&ours), "{}", ours);
            prop_assert_eq!(ours.len() as usize, theirs.len());
            prop_assert_eq!(model(&ours), theirs);
        }
        prop_assert_eq!(a.first_overlap(&b).map(PortRange::begin), both.iter().min().copied());
        prop_assert_eq!(a.first_overlap(&b), a.intersection(&b).ranges().first().copied());
        prop_assert_eq!(a.is_subset(&b), x.is_subset(&y));
        prop_assert!(a.intersection(&b).is_subset(&a) && a.is_subset(&a.union(&b)));
        prop_assert_eq!(a.is_empty(), x.is_empty());
        prop_assert!((0..=300).chain(65300..=65535).all(|port| a.contains(port) == x.contains(&port)));

        let mut grown = a.clone();
        grown.insert(extra);
        prop_assert_eq!(grown, a.union(&PortSet::from(extra)));
        prop_assert_eq!(a.contains_range(extra), PortSet::from(extra).is_subset(&a));
        let touching = a.ranges().iter().copied().find(|have| have.overlap(extra).is_some());
        prop_assert_eq!(a.first_touching(extra), touching);
    }
}

/// A thousand ranges must not cost a million steps: an attach has about a millisecond.
#[test]
fn a_thousand_ranges_are_quick() {
    let even: PortSet = (0..1000).map(|i| PortRange::new(10_000 + 4 * i, 10_001 + 4 * i).unwrap()).collect();
    let odd: PortSet = (0..1000).map(|i| PortRange::new(10_002 + 4 * i, 10_003 + 4 * i).unwrap()).collect();
    let wide: PortSet = "10000-20000".parse().unwrap();
    let start = std::time::Instant::now();
    for _ in 0..100 {
        assert_eq!(even.union(&odd).to_string(), "10000-13999");
        assert_eq!(even.first_overlap(&odd), None);
        assert_eq!(wide.difference(&even).ranges().len(), 1000);
        assert!(even.is_subset(&wide));
    }
    // 100 rounds, unoptimised, on a busy machine; a quadratic algorithm takes minutes.
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}
