//! The groups that containers have joined, as the programs note them (`struct joined` in `bpf/maps.h`). Nobody else writes them.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::shared::open;
use super::sys;
use crate::error::{Error, Result};

/// Groups of one container (`JOINS`).
const GROUPS: usize = 32;
const ADDRESS: usize = 16;

/// Who has joined what.
pub struct Joined {
    map: OwnedFd,
}

impl Joined {
    /// Opens the map pinned under `directory`.
    pub fn open(directory: &Path) -> Result<Self> {
        Ok(Self { map: open(directory, "joined")? })
    }

    /// The groups of a slot in the time of the lease with this epoch.
    pub fn groups(&self, slot: u16, epoch: u32) -> Result<Vec<IpAddr>> {
        let mut value = [0u8; 8 + GROUPS * ADDRESS];
        sys::lookup(self.map.as_fd(), &u32::from(slot).to_ne_bytes(), &mut value)
            .map_err(|e| Error::Bpf { doing: format!("read the groups of slot {slot}"), why: e.to_string() })?;
        let (head, groups) = value.split_at(8);
        if head[..4] != epoch.to_ne_bytes() {
            return Ok(Vec::new());
        }
        let groups = groups.chunks_exact(ADDRESS).filter_map(|octets| <[u8; ADDRESS]>::try_from(octets).ok());
        Ok(groups
            .filter(|octets| *octets != [0; ADDRESS])
            .map(|octets| Ipv6Addr::from(octets).to_canonical())
            .collect())
    }
}
