//! The map `names`: which number stands for a port inside (`bpf/names.h`). What does not live here: the programs that translate
//! ([`super::naming`]), which names there are (`ports::names`), and who gets one (`plan`).

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::sys;
use crate::error::{Error, Result};
use crate::ports::PortNames;

/// Which way a name is looked up (`enum way`).
const TO_OUTSIDE: u8 = 0;
const TO_INSIDE: u8 = 1;

/// `struct name_key`, and the port it stands for.
type Entry = ([u8; 8], [u8; 4]);

/// The map `names`.
pub struct Naming {
    map: OwnedFd,
}

/// Which programs are needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// Some port has a name.
    pub any: bool,
    /// Some port of UDP has one.
    pub udp: bool,
}

impl Needed {
    fn by(all: &[Entry]) -> Self {
        Self { any: !all.is_empty(), udp: all.iter().any(|(key, _)| key[6] != 0) }
    }
}

impl Naming {
    /// The one pinned under `directory`; `None` where no program is at the sockets, or those of a version without names.
    pub fn open(directory: &Path) -> Result<Option<Self>> {
        match sys::object_get(&directory.join("names")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            map => Ok(Some(Self { map: map.map_err(Error::file("open", directory.join("names")))? })),
        }
    }

    /// Gives the ports of `slot` these names and no others. From this moment what is attached translates them.
    pub fn set(&self, slot: u16, names: &PortNames) -> Result<()> {
        let fail = |e: io::Error| failed("write the port names of slot", slot, &e);
        let wanted = entries(slot, names);
        let known: BTreeSet<Entry> = self.of(slot)?.into_iter().collect();
        for (key, value) in wanted.difference(&known) {
            sys::update(self.map.as_fd(), key, value).map_err(fail)?;
        }
        let keys: BTreeSet<[u8; 8]> = wanted.iter().map(|(key, _)| *key).collect();
        for (key, _) in known.iter().filter(|(key, _)| !keys.contains(key)) {
            match sys::delete(self.map.as_fd(), key) {
                Err(e) if e.raw_os_error() != Some(libc::ENOENT) => return Err(fail(e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Have the ports of `slot` these names and no others?
    pub fn has(&self, slot: u16, names: &PortNames) -> Result<bool> {
        Ok(self.of(slot)?.into_iter().collect::<BTreeSet<Entry>>() == entries(slot, names))
    }

    /// Have the ports of all these slots their names?
    pub fn has_all(&self, wanted: &[(u16, PortNames)]) -> Result<bool> {
        let known: BTreeSet<Entry> = self.all()?.into_iter().collect();
        Ok(wanted.iter().all(|(slot, names)| entries(*slot, names).is_subset(&known)))
    }

    /// What all names need.
    pub fn needed(&self) -> Result<Needed> {
        self.all().map(|all| Needed::by(&all))
    }

    fn of(&self, slot: u16) -> Result<Vec<Entry>> {
        let of = u32::from(slot).to_ne_bytes();
        Ok(self.all()?.into_iter().filter(|(key, _)| key[..4] == of).collect())
    }

    fn all(&self) -> Result<Vec<Entry>> {
        let fail = |e: io::Error| Error::Bpf { doing: "read the port names".into(), why: e.to_string() };
        sys::entries(self.map.as_fd()).map_err(fail)
    }
}

fn entries(slot: u16, names: &PortNames) -> BTreeSet<Entry> {
    let key = |port: u16, udp: bool, way: u8| {
        let (slot, port) = (u32::from(slot).to_ne_bytes(), port.to_ne_bytes());
        [slot[0], slot[1], slot[2], slot[3], port[0], port[1], udp.into(), way]
    };
    let value = |port: u16| u32::from(port).to_ne_bytes();
    let of = |udp: bool| {
        names.of(udp).flat_map(move |(outside, inside)| {
            [(key(inside, udp, TO_OUTSIDE), value(outside)), (key(outside, udp, TO_INSIDE), value(inside))]
        })
    };
    of(false).chain(of(true)).collect()
}

fn failed(doing: &str, slot: u16, e: &io::Error) -> Error {
    Error::Bpf { doing: format!("{doing} {slot}"), why: e.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_udp_need_more() {
        let needed = |text: &str| {
            let all: Vec<Entry> = entries(1, &text.parse().unwrap()).into_iter().collect();
            let Needed { any, udp } = Needed::by(&all);
            (any, udp)
        };
        assert_eq!([needed(""), needed("31000:80/tcp")], [(false, false), (true, false)]);
        assert_eq!([needed("31000:80/udp"), needed("31000:80")], [(true, true); 2]);
    }

    #[test]
    fn a_name_is_found_from_both_ends() {
        let port = |low: u8, high: u8| u16::from_ne_bytes([low, high]);
        let names: PortNames = "31000:80/tcp,31001:53/udp".parse().unwrap();
        let found: Vec<(u16, u8, u8, u32)> = entries(7, &names)
            .into_iter()
            .map(|(key, value)| (port(key[4], key[5]), key[6], key[7], u32::from_ne_bytes(value)))
            .collect();
        let mut wanted = vec![
            (80, 0, TO_OUTSIDE, 31000),
            (31000, 0, TO_INSIDE, 80),
            (53, 1, TO_OUTSIDE, 31001),
            (31001, 1, TO_INSIDE, 53),
        ];
        wanted.iter().for_each(|one| assert!(found.contains(one), "{one:?} {found:?}"));
        wanted.retain(|one| found.contains(one));
        assert_eq!(found.len(), wanted.len());
    }

    #[test]
    fn keys_are_as_the_header_says() {
        for line in ["enum way { TO_OUTSIDE, TO_INSIDE };", "\t__u32 slot;\n\t__u16 port;\n\t__u8 udp;\n\t__u8 way;"] {
            assert!(include_str!("bpf/names.h").contains(line), "{line}");
        }
    }
}
