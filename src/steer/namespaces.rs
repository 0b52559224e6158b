//! Which network namespace is whose, for the programs at the sockets: by its cookie, a number that the kernel gives to a
//! namespace when first asked and never again to another one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::shared::open;
use super::sys;
use crate::error::{Error, Result};

/// The slot that stands for the host.
pub const HOST: u16 = 0;

/// The maps `namespaces` (cookie to whose it is) and `cookies` (slot to cookie).
pub struct Namespaces {
    spaces: OwnedFd,
    cookies: OwnedFd,
}

/// `struct space`.
struct Space {
    slot: u16,
    /// Of the host how often its programs asked for a port, of a container the epoch of its lease.
    second: u32,
}

impl Space {
    fn of(bytes: [u8; 8]) -> Self {
        let [a, b, c, d, second @ ..] = bytes;
        Self { slot: u32::from_ne_bytes([a, b, c, d]) as u16, second: u32::from_ne_bytes(second) }
    }

    fn bytes(&self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&u32::from(self.slot).to_ne_bytes());
        bytes[4..].copy_from_slice(&self.second.to_ne_bytes());
        bytes
    }
}

impl Namespaces {
    /// Those pinned under `directory`; `None` where no program is at the sockets.
    pub fn open(directory: &Path) -> Result<Option<Self>> {
        let spaces = match sys::object_get(&directory.join("namespaces")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            spaces => spaces.map_err(Error::file("open", directory.join("namespaces")))?,
        };
        Ok(Some(Self { spaces, cookies: open(directory, "cookies")? }))
    }

    /// Makes the namespace of `cookie` that of `slot`. From this moment its sockets bind by the rules. `epoch`: of the slot's lease; 0
    /// for the host. What sockets were counted for under another lease, they are counted for no more.
    pub fn enter(&self, slot: u16, cookie: u64, epoch: u32) -> Result<()> {
        if self.cookie(slot)? == Some(cookie) && self.has(slot)? {
            return Ok(());
        }
        self.leave(slot)?;
        let (key, value) = (u32::from(slot).to_ne_bytes(), cookie.to_ne_bytes());
        sys::update(self.cookies.as_fd(), &key, &value).map_err(failed("note the network namespace of slot", slot))?;
        sys::update(self.spaces.as_fd(), &value, &Space { slot, second: epoch }.bytes())
            .map_err(failed("enter the network namespace of slot", slot))
    }

    /// Forgets the namespace of `slot`: its sockets bind as if we were not there. Success when there is none.
    pub fn leave(&self, slot: u16) -> Result<()> {
        let Some(cookie) = self.cookie(slot)? else { return Ok(()) };
        let fail = failed("forget the network namespace of slot", slot);
        // A namespace that another slot has meanwhile stays that one's.
        if self.is_of(cookie, slot)? {
            match sys::delete(self.spaces.as_fd(), &cookie.to_ne_bytes()) {
                Err(e) if e.raw_os_error() != Some(libc::ENOENT) => return Err(fail(e)),
                _ => {}
            }
        }
        sys::update(self.cookies.as_fd(), &u32::from(slot).to_ne_bytes(), &0u64.to_ne_bytes()).map_err(fail)
    }

    /// Do the sockets of the namespace that was entered for `slot` bind by the rules?
    pub fn has(&self, slot: u16) -> Result<bool> {
        match self.cookie(slot)? {
            Some(cookie) => self.is_of(cookie, slot),
            None => Ok(false),
        }
    }

    /// How often programs of the host asked for a port by its number, which is counted before they get it; `None` where the host's
    /// sockets do not bind by the rules.
    pub fn binds_of_host(&self) -> Result<Option<u32>> {
        let Some(cookie) = self.cookie(HOST)? else { return Ok(None) };
        Ok(self.space(cookie)?.map(|space| space.second))
    }

    fn is_of(&self, cookie: u64, slot: u16) -> Result<bool> {
        Ok(self.space(cookie)?.is_some_and(|space| space.slot == slot))
    }

    fn cookie(&self, slot: u16) -> Result<Option<u64>> {
        let mut value = [0u8; 8];
        sys::lookup(self.cookies.as_fd(), &u32::from(slot).to_ne_bytes(), &mut value)
            .map_err(failed("look up the network namespace of slot", slot))?;
        Ok(Some(u64::from_ne_bytes(value)).filter(|cookie| *cookie != 0))
    }

    fn space(&self, cookie: u64) -> Result<Option<Space>> {
        let mut value = [0; 8];
        match sys::lookup(self.spaces.as_fd(), &cookie.to_ne_bytes(), &mut value) {
            Ok(()) => Ok(Some(Space::of(value))),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(Error::Bpf { doing: format!("look up the network namespace {cookie}"), why: e.to_string() }),
        }
    }
}

fn failed(doing: &'static str, slot: u16) -> impl Fn(io::Error) -> Error {
    move |e| Error::Bpf { doing: format!("{doing} {slot}"), why: e.to_string() }
}
