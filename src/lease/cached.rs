//! Leases as a long-lived reader sees them: a file is parsed again only when it was replaced.
//!
//! A thousand leases are a third of a megabyte of JSON; looking at a thousand inodes takes a tenth of the time. Nothing
//! is locked: every file is replaced by a rename, so what is read is whole.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::ledger::Ledger;
use super::record::Lease;
use crate::error::{Error, Result};
use crate::request::ContainerId;

/// The leases that were read last.
pub struct Leases {
    ledger: Ledger,
    stamps: HashMap<ContainerId, Stamp>,
    all: Arc<Vec<Lease>>,
}

/// What changes when a file is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Leases {
    /// None is read yet.
    pub fn of(ledger: Ledger) -> Self {
        Self { ledger, stamps: HashMap::new(), all: Arc::default() }
    }

    /// All leases of this moment, by slot. A damaged one is left out and logged, each time.
    pub fn now(&mut self) -> Result<Arc<Vec<Lease>>> {
        let path = self.ledger.lease_path("");
        let names = match fs::read_dir(&path) {
            Ok(names) => names,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.stamps.clear();
                self.all = Arc::default();
                return Ok(self.all.clone());
            }
            Err(e) => return Err(Error::file("list", path)(e)),
        };
        let mut stamps = HashMap::with_capacity(self.stamps.len());
        let mut fresh = Vec::new();
        for name in names {
            let name = name.map_err(Error::file("list", &path))?;
            let Some(id) = name.file_name().to_str().and_then(|n| n.parse::<ContainerId>().ok()) else { continue };
            // it may have ended between the listing and the look
            let Ok(stamp) = name.metadata().map(Stamp::of) else { continue };
            if self.stamps.get(&id) != Some(&stamp) {
                match self.ledger.read(&id) {
                    Ok(Some(lease)) => fresh.push(lease),
                    Ok(None) => continue,
                    Err(e) => {
                        log::warn!("{e}");
                        continue;
                    }
                }
            }
            stamps.insert(id, stamp);
        }
        if !fresh.is_empty() || stamps.len() != self.stamps.len() {
            let read: HashMap<&ContainerId, &Lease> = fresh.iter().map(|lease| (&lease.id, lease)).collect();
            let kept = self.all.iter().filter(|l| stamps.contains_key(&l.id) && !read.contains_key(&l.id)).cloned();
            let mut all: Vec<Lease> = kept.collect();
            all.extend(fresh);
            all.sort_by_key(|lease| lease.slot);
            self.all = Arc::new(all);
        }
        self.stamps = stamps;
        Ok(self.all.clone())
    }
}

impl Stamp {
    fn of(file: Metadata) -> Self {
        Self { inode: file.ino(), seconds: file.mtime(), nanoseconds: file.mtime_nsec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::ledger::encode;

    #[test]
    fn what_was_replaced_is_read_again() {
        let state = std::env::temp_dir().join(format!("portslice-cached-{}", std::process::id()));
        let ledger = Ledger::at(&state);
        let mut leases = Leases::of(ledger.clone());
        assert!(leases.now().unwrap().is_empty(), "no directory yet");
        ledger.create().unwrap();
        let lease = |id: &str, slot: u16| -> Lease {
            let block = serde_json::json!({"begin": 32768 + 16 * slot, "end": 32783 + 16 * slot});
            let text = serde_json::json!({
                "format": 1, "id": id, "slot": slot, "block": block, "ports": "", "asked": {}, "limit_local": true,
                "members": [], "netns": "/run/netns/x", "stage": "attached", "created": 0,
                "netns_id": {"dev": 4, "ino": 1}, "epoch": slot, "device": "eth0", "host_loopback": true,
                "worker": {"pid": 1, "started": 1},
            });
            serde_json::from_value(text).unwrap()
        };
        for (id, slot) in [("b", 2), ("a", 1), ("c", 3)] {
            ledger.write_bytes(&id.parse().unwrap(), &encode(&lease(id, slot)).unwrap()).unwrap();
        }
        let write = |lease: Lease| ledger.write_bytes(&lease.id, &encode(&lease).unwrap()).unwrap();
        let ids = |all: &[Lease]| all.iter().map(|l| l.id.to_string()).collect::<Vec<_>>();
        let first = leases.now().unwrap();
        assert_eq!(ids(&first), ["a", "b", "c"]);
        assert!(Arc::ptr_eq(&first, &leases.now().unwrap()), "nothing changed, yet it was read again");

        write(Lease { slot: 9, ..lease("a", 1) });
        ledger.erase_file(&"b".parse().unwrap()).unwrap();
        assert_eq!(leases.now().unwrap().iter().map(|l| l.slot).collect::<Vec<_>>(), [3, 9]);
        fs::write(ledger.lease_path("c"), "{").unwrap();
        assert_eq!(ids(&leases.now().unwrap()), ["a"], "a damaged one is left out");
        write(lease("c", 3));
        assert_eq!(ids(&leases.now().unwrap()), ["c", "a"], "and is back when it is mended");
        fs::remove_dir_all(&state).unwrap();
        assert!(leases.now().unwrap().is_empty());
    }
}
