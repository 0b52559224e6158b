//! What tc, ip and nft print, reduced to what somebody has set: no counters, no ages, nothing that changes by itself.
//!
//! A test that compares the state of a host before and after must compare these. The whole text differs as soon as the
//! kernel sends one multicast packet in between.

use super::ns::Ns;
use std::process::Command;

/// Words whose next word is a counter or a reference count.
const COUNTERS: [&str; 10] =
    ["direct_packets_stat", "refcnt", "ref", "bind", "used_by", "users", "packets", "bytes", "installed", "used"];

/// Words whose next word is a number of seconds that runs down or up. Both stay where the next one says "forever".
const AGES: [&str; 4] = ["valid_lft", "preferred_lft", "expires", "age"];

/// Words that come and go by themselves: duplicate address detection is under way.
const PASSING: [&str; 2] = ["tentative", "optimistic"];

/// First words of the lines that `-s` adds, which have nothing but counters.
const STATISTICS: [&str; 8] = ["Sent", "backlog", "rate", "lended:", "tokens:", "maxpacket", "new_flows_len", "Action"];

/// Removes from what tc, ip or nft printed all that changes by itself. Lines keep their order, words are one space apart.
pub fn settings(text: &str) -> String {
    text.lines().filter_map(settings_of_line).map(|line| line + "\n").collect()
}

fn settings_of_line(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    // fq_codel lists each flow that has packets waiting as a class
    let flow = words.starts_with(&["class", "fq_codel"]);
    if flow || words.first().is_some_and(|first| STATISTICS.contains(first)) {
        return None;
    }
    let mut kept = Vec::new();
    let mut rest = words.into_iter().peekable();
    while let Some(word) = rest.next() {
        let number = rest.peek().is_some_and(|next| next.starts_with(|c: char| c.is_ascii_digit()));
        if number && (COUNTERS.contains(&word) || AGES.contains(&word)) {
            rest.next();
            // "installed 3 sec"
            rest.next_if_eq(&"sec");
        } else if !PASSING.contains(&word) {
            kept.push(word);
        }
    }
    Some(kept.join(" "))
}

/// What a command prints in a namespace, reduced to settings.
pub fn told(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    settings(&String::from_utf8_lossy(&out.stdout))
}

/// Root qdisc of a device.
pub fn root_qdisc(ns: &Ns, device: &str) -> String {
    let all = told(ns.command("tc").args(["qdisc", "show", "dev", device, "root"]));
    all.lines().next().unwrap_or_default().to_string()
}
