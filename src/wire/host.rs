//! The place where the steps of the host are carried out, and what they leave in its record.

use std::path::Path;

use super::{Carry, fair, fib, hook, keep, programs, reserve, settings, shaper, sockets};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::{Facts, HostRecord};
use crate::lease::Ledger;
use crate::net::Netlink;
use crate::net::link::{self, Link};
use crate::plan::host::bpf_directory;
use crate::plan::{Action, Step, Verb};
use crate::steer::{Book, Programs};

/// The host while it is prepared, or put back. The ledger is locked.
pub struct HostSite<'a> {
    /// A socket in its namespace.
    pub netlink: &'a mut Netlink,
    /// What the operator set.
    pub config: &'a Config,
    /// What it is like; `None` on the way back.
    pub facts: Option<&'a Facts>,
    /// Where the record is kept.
    pub ledger: &'a Ledger,
    /// What was done.
    pub record: HostRecord,
    /// What is pinned.
    pub programs: Programs,
}

impl<'a> HostSite<'a> {
    /// The host with what is recorded of it.
    pub fn new(
        config: &'a Config,
        facts: Option<&'a Facts>,
        ledger: &'a Ledger,
        record: HostRecord,
        netlink: &'a mut Netlink,
    ) -> Self {
        let programs = Programs::at(&bpf_directory(&config.state_dir));
        HostSite { netlink, config, facts, ledger, record, programs }
    }

    /// Writes the record down: before the change that it tells of, so that a run that is killed leaves something to undo.
    pub fn save(&self) -> Result<()> {
        let bytes = self.record.encode();
        self.ledger.replace(&HostRecord::path(&self.config.state_dir), &bytes)?;
        // The kernel's copy, once there is a book; what somebody else pinned there is none of ours.
        match Book::open(self.programs.directory()) {
            Ok(book) if book.read(0)?.is_none_or(|theirs| self.record.is_mine(&theirs)) => book.write(0, &bytes),
            _ => Ok(()),
        }
    }

    /// Is anything there that undoing `step` would take away?
    pub fn has(&mut self, step: &Step) -> Result<bool> {
        Ok(match step {
            Step::Reserve { ports } => {
                self.record.reserved.as_ref().is_some_and(|r| r.added.first_overlap(ports).is_some())
            }
            Step::Keep { path, .. } => keep::is_ours(path),
            Step::Setting { key, .. } => settings::is_changed(self, key)?,
            Step::Mount { directory } => self.record.mounted && programs::is_mounted(directory),
            Step::Load { .. } => self.programs.open("from_wire").is_ok(),
            Step::Hook { program, index, .. } if self.record.tcx => self.programs.is_hooked(program, *index),
            Step::Hook { program, index, .. } => *index != 0 && self.programs.open(program).is_ok(),
            Step::Side { .. } => true,
            Step::Fib => fib::find(self.netlink, self.record.instance)?.is_some(),
            Step::Allmulti { .. } => self.record.allmulti != 0,
            Step::Fair { .. } => self.record.fair != 0,
            Step::Shaper => shaper::find(self.netlink, self.record.instance)?.is_some(),
            Step::Sockets { .. } => self.programs.has_sockets(),
            _ => false,
        })
    }

    pub(super) fn directory(&self) -> &Path {
        self.programs.directory()
    }

    pub(super) fn uplink(&self) -> Result<&Link> {
        let unknown = || Error::Failed("the uplink is not known on the way back".into());
        self.facts.map(|facts| &facts.uplink).ok_or_else(unknown)
    }
}

impl Carry for HostSite<'_> {
    fn act(&mut self, action: &Action) -> Result<()> {
        let Action { verb, step } = action;
        let undo = *verb == Verb::Undo;
        match step {
            Step::Reserve { ports } if undo => reserve::release(self, ports),
            Step::Reserve { ports } => reserve::reserve(self, ports),
            Step::Keep { path, .. } if undo => keep::forget(path),
            Step::Keep { path, text } => keep::keep(path, text),
            Step::Setting { key, .. } if undo => settings::restore(self, key),
            Step::Setting { key, value } => settings::set(self, key, value),
            Step::Mount { directory } if undo => programs::unmount(self, directory),
            Step::Mount { directory } => programs::mount(self, directory),
            Step::Load { .. } if undo => programs::unload(self),
            Step::Load { version } => programs::load(self, version),
            Step::Hook { program, index, .. } if undo => hook::undo(self, program, *index),
            Step::Hook { program, index, device } => hook::perform(self, program, *index, device),
            Step::Side { index, .. } if undo => hook::remove_side(self, *index),
            Step::Side { index, device, ethernet, sources } => {
                hook::put_side(self, *index, device, *ethernet, *sources)
            }
            Step::Allmulti { index, .. } if undo => {
                if link::at(self.netlink, *index)?.is_some() {
                    self.netlink.send(link::take_all_groups(*index, "that was the uplink", false))?;
                }
                self.record.allmulti = 0;
                Ok(())
            }
            Step::Allmulti { index, device } => {
                self.record.allmulti = *index;
                self.save()?;
                self.netlink.send(link::take_all_groups(*index, device, true))
            }
            Step::Fib if undo => {
                fib::remove(self.netlink, self.record.instance)?;
                self.record.fib = 0;
                Ok(())
            }
            Step::Fib => {
                self.record.fib = fib::make(self.netlink, self.record.instance)?;
                self.save()
            }
            Step::Fair { index, .. } if undo => {
                fair::remove(self.netlink, *index)?;
                self.record.fair = 0;
                Ok(())
            }
            Step::Fair { index, .. } => {
                self.record.fair = *index;
                self.save()?;
                let uplink = self.uplink()?.clone();
                fair::make(self.netlink, &self.programs, &uplink)
            }
            Step::Shaper if undo => {
                shaper::remove(self.netlink, self.record.instance)?;
                self.record.shaper = 0;
                Ok(())
            }
            Step::Shaper => programs::shape(self),
            Step::Sockets { .. } if undo => sockets::detach(self),
            Step::Sockets { cgroup, .. } => sockets::attach(self, cgroup.as_deref()),
            _ => Err(Error::Failed(format!("{step} is no part of a host"))),
        }
    }

    fn look(&mut self, step: &Step) -> Result<Vec<String>> {
        let there = match step {
            Step::Reserve { ports } => reserve::is_reserved(ports)?,
            Step::Keep { path, text } => keep::is_kept(path, text),
            Step::Setting { key, value } => settings::is_set(key, value)?,
            Step::Mount { directory } => programs::is_mounted(directory),
            Step::Load { version } => programs::is_loaded(self, version)?,
            Step::Hook { program, index, .. } => hook::is_there(self, program, *index)?,
            Step::Side { index, ethernet, sources, .. } => hook::has_side(self, *index, *ethernet, *sources)?,
            Step::Allmulti { index, .. } => link::at(self.netlink, *index)?.is_some_and(|link| link.allmulti),
            Step::Fib => {
                let found = fib::find(self.netlink, self.record.instance)?;
                found.is_some() && found == Some(self.record.fib) && fib::is_asked()?
            }
            Step::Fair { index, .. } => {
                let uplink = self.uplink()?.clone();
                self.record.fair == *index && fair::is_made(self.netlink, &self.programs, &uplink)?
            }
            Step::Shaper => {
                let found = shaper::find(self.netlink, self.record.instance)?;
                found.is_some()
                    && found == Some(self.record.shaper)
                    && shaper::is_furnished(self.netlink, &self.programs)?
            }
            Step::Sockets { version, cgroup } => sockets::are_there(self, version, cgroup.as_deref())?,
            _ => true,
        };
        let what = match step {
            Step::Setting { key, value } => format!("net.{} is not {value}", key.replace('/', ".")),
            Step::Reserve { ports } => {
                format!("not all of the ports {ports} are reserved (net.ipv4.ip_local_reserved_ports)")
            }
            _ => format!("{step} is missing"),
        };
        Ok(if there { Vec::new() } else { vec![what] })
    }
}
