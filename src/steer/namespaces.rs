//! Which network namespace is whose, for the programs at the sockets: by its cookie, a number that the kernel gives to a
//! namespace when first asked and never again to another one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::shared::open;
use super::sys;
use crate::error::{Error, Result};

/// The maps `namespaces` (cookie to slot) and `cookies` (slot to cookie).
pub struct Namespaces {
    slots: OwnedFd,
    cookies: OwnedFd,
}

impl Namespaces {
    /// Those pinned under `directory`; `None` where no program is at the sockets.
    pub fn open(directory: &Path) -> Result<Option<Self>> {
        let slots = match sys::object_get(&directory.join("namespaces")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            slots => slots.map_err(Error::file("open", directory.join("namespaces")))?,
        };
        Ok(Some(Self { slots, cookies: open(directory, "cookies")? }))
    }

    /// Makes the namespace of `cookie` that of `slot`. From this moment its sockets bind by the rules.
    pub fn enter(&self, slot: u16, cookie: u64) -> Result<()> {
        self.leave(slot)?;
        let (key, value) = (u32::from(slot).to_ne_bytes(), cookie.to_ne_bytes());
        sys::update(self.cookies.as_fd(), &key, &value).map_err(failed("note the network namespace of slot", slot))?;
        sys::update(self.slots.as_fd(), &value, &key).map_err(failed("enter the network namespace of slot", slot))
    }

    /// Forgets the namespace of `slot`: its sockets bind as if we were not there. Success when there is none.
    pub fn leave(&self, slot: u16) -> Result<()> {
        let Some(cookie) = self.cookie(slot)? else { return Ok(()) };
        let fail = failed("forget the network namespace of slot", slot);
        // A namespace that another slot has meanwhile stays that one's.
        if self.slot(cookie)? == Some(slot) {
            match sys::delete(self.slots.as_fd(), &cookie.to_ne_bytes()) {
                Err(e) if e.raw_os_error() != Some(libc::ENOENT) => return Err(fail(e)),
                _ => {}
            }
        }
        sys::update(self.cookies.as_fd(), &u32::from(slot).to_ne_bytes(), &0u64.to_ne_bytes()).map_err(fail)
    }

    /// Do the sockets of the namespace that was entered for `slot` bind by the rules?
    pub fn has(&self, slot: u16) -> Result<bool> {
        match self.cookie(slot)? {
            Some(cookie) => Ok(self.slot(cookie)? == Some(slot)),
            None => Ok(false),
        }
    }

    fn cookie(&self, slot: u16) -> Result<Option<u64>> {
        let mut value = [0u8; 8];
        sys::lookup(self.cookies.as_fd(), &u32::from(slot).to_ne_bytes(), &mut value)
            .map_err(failed("look up the network namespace of slot", slot))?;
        Ok(Some(u64::from_ne_bytes(value)).filter(|cookie| *cookie != 0))
    }

    fn slot(&self, cookie: u64) -> Result<Option<u16>> {
        let mut value = [0u8; 4];
        match sys::lookup(self.slots.as_fd(), &cookie.to_ne_bytes(), &mut value) {
            Ok(()) => Ok(Some(u32::from_ne_bytes(value) as u16)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(Error::Bpf { doing: format!("look up the network namespace {cookie}"), why: e.to_string() }),
        }
    }
}

fn failed(doing: &'static str, slot: u16) -> impl Fn(io::Error) -> Error {
    move |e| Error::Bpf { doing: format!("{doing} {slot}"), why: e.to_string() }
}
