//! A picture of a prepared host: what a refusal must leave as it was.

use super::host::Host;
use super::leftovers::Baseline;
use super::ns::Ns;
use super::wait::eventually;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Leases, devices, and every file of the state directory.
pub struct Still<'h> {
    host: &'h Host,
    links: Vec<String>,
    leases: Vec<Value>,
    files: BTreeMap<String, String>,
    baseline: Baseline,
}

impl<'h> Still<'h> {
    /// Takes the picture.
    #[track_caller]
    pub fn of(host: &'h Host) -> Still<'h> {
        let baseline = Baseline::of(&host.ns);
        Still { host, links: host.links(), leases: host.list(), files: files(host), baseline }
    }

    /// Asserts that leases, devices and files are the same.
    #[track_caller]
    pub fn check(&self, what: &str) {
        assert_eq!(self.host.list(), self.leases, "{what}: list --json");
        assert!(eventually(|| self.host.links() == self.links), "{what}: devices {:?}", self.host.links());
        assert_eq!(files(self.host), self.files, "{what}: files of the state directory");
    }

    /// The same, and addresses, routes, rules and every network sysctl (which takes longer).
    #[track_caller]
    pub fn check_all(&self, what: &str) {
        self.check(what);
        let compared = self.baseline.compare(&self.host.ns, Path::new("/nonexistent"));
        // a prepared host has the programs, and it may have a clsact of its own
        let prepared = |line: &String| line.starts_with("bpf program") || line.contains(" still has ");
        let changed: Vec<String> = compared.into_iter().filter(|line| !prepared(line)).collect();
        assert!(changed.is_empty(), "{what}: changed:\n  {}", changed.join("\n  "));
    }
}

/// The ledger and the host's record, as text; the lock file is no content.
pub fn files(host: &Host) -> BTreeMap<String, String> {
    fn walk(dir: &Path, into: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_name().to_string_lossy().as_ref() {
                "bpf" | "lock" => {}
                _ if path.is_dir() => walk(&path, into),
                _ => {
                    let text = std::fs::read(&path).unwrap_or_default();
                    let mut text = String::from_utf8_lossy(&text).into_owned();
                    if entry.file_name() == "index" {
                        // its first line only says where the next search begins
                        text = text.split_once('\n').map(|(_, lines)| lines.to_string()).unwrap_or_default();
                        if text.is_empty() {
                            continue; // as if it were not there yet
                        }
                    }
                    into.insert(path.to_string_lossy().into(), text);
                }
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(&host.ns.root(&host.state_dir().to_string_lossy()), &mut all);
    all
}

/// Device names of any namespace, sorted.
pub fn devices(ns: &Ns) -> Vec<String> {
    let table = std::fs::read_to_string(format!("/proc/{}/net/dev", ns.pid())).expect("devices");
    let mut names: Vec<String> =
        table.lines().skip(2).filter_map(|l| l.split_once(':')).map(|(name, _)| name.trim().to_string()).collect();
    names.sort();
    names
}

/// Asserts that a namespace that lives on has neither a device nor a filter of ours.
#[track_caller]
pub fn assert_bare(what: &str, ns: &Ns) {
    assert_eq!(devices(ns), ["lo"], "{what}: devices left in {}", ns.name);
    let out = ns.command("tc").args(["qdisc", "show", "dev", "lo"]).output().expect("tc");
    let qdiscs = String::from_utf8_lossy(&out.stdout);
    assert!(!qdiscs.contains("clsact"), "{what}: left on lo in {}: {qdiscs}", ns.name);
}

/// Waits until no socket of a namespace holds a port. A test's socket lives on for a moment in whatever process was being
/// started when it was closed.
#[track_caller]
pub fn released(ns: &Ns, port: u16) {
    const TIME_WAIT: &str = "06";
    let held = |table: &str| {
        let text = std::fs::read_to_string(format!("/proc/{}/net/{table}", ns.pid())).unwrap_or_default();
        text.lines()
            .skip(1)
            .map(|l| l.split_whitespace().collect::<Vec<_>>())
            .any(|f| f.get(1).is_some_and(|at| at.ends_with(&format!(":{port:04X}"))) && f.get(3) != Some(&TIME_WAIT))
    };
    let free = || !["tcp", "tcp6", "udp", "udp6"].into_iter().any(held);
    assert!(eventually(free), "{}: port {port} is still held", ns.name);
}
