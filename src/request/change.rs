//! What somebody wants to be different about a container that runs: ports, limits, CPUs.
//!
//! Every key is one of a request, and its value is read the same way; besides, `default` takes back what was asked. What
//! does not live here: whether the change is possible now (`plan`), and making it (`slice`).

use super::asked::NONE;
use super::{KEYS, bounded, flag, parsed, with_part};
use crate::cpus::{CpuLimit, Cpus};
use crate::error::{Error, Result};
use crate::ports::{OpenPorts, PortError, PortNames, PortNamesError, PortRange, PortSet};
use crate::rate::{Limit, Rate, Size};
use crate::refusal::{one_line, quoted, unknown};
use std::str::FromStr;

/// The value that takes back what was asked, so that the configuration applies again.
const DEFAULT: &str = "default";

/// What is to be different. `None` leaves it as it is, `Some(None)` goes back to the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The ports it may listen on.
    pub ports: Option<PortsChange>,
    /// The ports it may claim with bind().
    pub open_ports: Option<Option<PortsChange>>,
    /// What it may send.
    pub egress: LimitChange,
    /// What it may receive.
    pub ingress: LimitChange,
    /// How many CPUs it has, for limits that scale with them.
    pub cpus: Option<Option<Cpus>>,
    /// The most CPUs it may use.
    pub cpus_limit: Option<Option<CpuLimit>>,
    /// Whether its CPUs may be taken away.
    pub cpus_revocable: Option<Option<bool>>,
    /// Whether its limits count traffic that stays on this host.
    pub limit_local: Option<Option<bool>>,
}

/// What is to be different about one direction's limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitChange {
    /// What it always gets.
    pub rate: Option<Option<Rate>>,
    /// What a burst may reach.
    pub ceil: Option<Option<Rate>>,
    /// How much may go at the ceil rate.
    pub burst: Option<Option<Size>>,
}

/// What is to be different about the ports to listen on, or to claim. In text a set, or items that each begin with a sign:
/// `+31000-31009,-31100`; a port may have a name (`+31000:80`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortsChange {
    /// These and no others.
    Replace(PortSet, PortNames),
    /// Some more, some less; no port is in both.
    Adjust {
        /// Those to add; having one already is fine.
        add: PortSet,
        /// The names of those; one that it has without a name gets it.
        names: PortNames,
        /// Those to remove, all of which it must have. Their names go with them.
        remove: PortSet,
    },
}

/// Why a text does not say how ports are to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortsChangeError {
    /// A port, a range or a set is wrong.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A name is wrong.
    #[error(transparent)]
    Name(#[from] PortNamesError),
    /// What is claimed has no name.
    #[error("open ports have no names; name them under ports")]
    Named,
    /// Some items have a sign.
    #[error(
        "{} has no sign while another item has one; begin all with + or -, or none to replace the whole set", quoted(.0)
    )]
    Mixed(String),
    /// Nobody can tell which of the two was meant.
    #[error("{0} is both added and removed; name it once")]
    Both(PortRange),
    /// Choosing ports is part of attaching.
    #[error("{} cannot be given to a container that runs; name the ports, such as +31100", quoted(.0))]
    Auto(String),
    /// Ports have no default.
    #[error("ports have no default; name them, or write none")]
    Default,
}

impl Change {
    /// The keys of [`Change::set`].
    pub const KEYS: [&str; 12] = [
        "ports",
        "open-ports",
        "egress-rate",
        "egress-ceil",
        "egress-burst",
        "ingress-rate",
        "ingress-ceil",
        "ingress-burst",
        "cpus",
        "cpus-limit",
        "cpus-revocable",
        "limit-local",
    ];

    /// Sets one of [`Change::KEYS`] from its text. `place` is where it was found and what the refusal calls it. The parts
    /// of a limit are checked by themselves; together with what they change they are when it is known.
    pub fn set(&mut self, key: &str, value: &str, place: &str) -> Result<()> {
        bounded(value, place)?;
        let text = value.trim();
        match key {
            "ports" => self.ports = Some(parsed(text, place)?),
            "open-ports" => self.open_ports = Some(unless_default(text, || open_ports(text, place))?),
            "egress-rate" | "egress-ceil" | "egress-burst" => self.egress.set(key, text, place)?,
            "ingress-rate" | "ingress-ceil" | "ingress-burst" => self.ingress.set(key, text, place)?,
            "cpus-limit" => self.cpus_limit = Some(unless_default(text, || parsed(text, place))?),
            "cpus-revocable" => self.cpus_revocable = Some(unless_default(text, || flag(text, place))?),
            "cpus" => self.cpus = Some(unless_default(text, || parsed(text, place))?),
            "limit-local" => self.limit_local = Some(unless_default(text, || flag(text, place))?),
            _ if KEYS.contains(&key) => {
                let why = "fixed when a container is created; start a new one to change it";
                return Err(Error::invalid(one_line(place), why));
            }
            _ => return Err(Error::invalid(one_line(place), unknown("key", key, &Self::KEYS))),
        }
        Ok(())
    }

    /// Whether nothing is to be different.
    pub fn is_empty(&self) -> bool {
        *self == Change::default()
    }
}

impl LimitChange {
    /// What is asked once `asked` is changed. Its parts may disagree then: see [`Limit::checked`].
    pub fn applied(&self, asked: &Limit) -> Limit {
        Limit {
            rate: self.rate.unwrap_or(asked.rate),
            ceil: self.ceil.unwrap_or(asked.ceil),
            burst: self.burst.unwrap_or(asked.burst),
        }
    }

    fn set(&mut self, key: &str, text: &str, place: &str) -> Result<()> {
        let part = unless_default(text, || with_part(Limit::default(), key, text, place))?.unwrap_or_default();
        match key.rsplit('-').next() {
            Some("rate") => self.rate = Some(part.rate),
            Some("ceil") => self.ceil = Some(part.ceil),
            _ => self.burst = Some(part.burst),
        }
        Ok(())
    }
}

impl PortsChange {
    /// The ports after the change of those it has `now` under `key` (`ports`, `open-ports`). Refused if one that is to be
    /// removed is not among them: the caller believes something that is not so.
    pub fn applied(&self, now: &PortSet, key: &str) -> Result<PortSet> {
        let (add, remove) = match self {
            PortsChange::Replace(ports, _) => return Ok(ports.clone()),
            PortsChange::Adjust { add, remove, .. } => (add, remove),
        };
        if let Some(missing) = remove.difference(now).ranges().first() {
            let why = if now.is_empty() {
                format!("{missing} cannot be removed; the container has no {}", key.replace('-', " "))
            } else {
                format!("{missing} cannot be removed; the container has {now}")
            };
            return Err(Error::invalid(key, one_line(&why)));
        }
        Ok(now.difference(remove).union(add))
    }

    /// The names after the change of those it has `now`.
    pub fn renamed(&self, now: &PortNames) -> Result<PortNames> {
        match self {
            PortsChange::Replace(_, names) => Ok(names.clone()),
            PortsChange::Adjust { names, remove, .. } => {
                let left = now.without(remove).union(names);
                left.map_err(|why| Error::invalid("ports", one_line(&why.to_string())))
            }
        }
    }
}

impl FromStr for PortsChange {
    type Err = PortsChangeError;

    fn from_str(text: &str) -> Result<Self, PortsChangeError> {
        let text = if text.trim() == NONE { "" } else { text };
        let items = || text.split(',').map(str::trim);
        if text.trim() == DEFAULT {
            return Err(PortsChangeError::Default);
        }
        if let Some(auto) = items().find(|item| item.trim_start_matches(['+', '-']).starts_with("auto")) {
            return Err(PortsChangeError::Auto(auto.to_string()));
        }
        if !items().any(|item| item.starts_with(['+', '-'])) {
            let (mut ports, mut names) = (PortSet::empty(), PortNames::default());
            for item in items().filter(|_| !text.trim().is_empty()) {
                ports.insert(port(item, &mut names)?);
            }
            return Ok(PortsChange::Replace(ports, names.checked()?));
        }
        let (mut add, mut remove, mut names) = (PortSet::empty(), PortSet::empty(), PortNames::default());
        for item in items() {
            match (item.strip_prefix('+'), item.strip_prefix('-')) {
                (Some(range), _) => add.insert(port(range, &mut names)?),
                // its name may stand there, and goes in any case
                (_, Some(range)) => remove.insert(port(range, &mut PortNames::default())?),
                _ if item.is_empty() => return Err(PortError::EmptyItem.into()),
                _ => return Err(PortsChangeError::Mixed(item.to_string())),
            }
        }
        match add.first_overlap(&remove) {
            Some(both) => Err(PortsChangeError::Both(both)),
            None => Ok(PortsChange::Adjust { add, names: names.checked()?, remove }),
        }
    }
}

/// Items that each begin with a sign adjust, as for ports; anything else replaces.
fn open_ports(text: &str, place: &str) -> Result<PortsChange> {
    if text.split(',').any(|item| item.trim().starts_with(['+', '-'])) {
        return match parsed(text, place)? {
            PortsChange::Adjust { names, .. } if !names.is_empty() => {
                Err(Error::invalid(one_line(place), PortsChangeError::Named.to_string()))
            }
            change => Ok(change),
        };
    }
    parsed(text, place).map(|open: OpenPorts| PortsChange::Replace(open.set().clone(), PortNames::default()))
}

/// A port or a range, with its name where it has one.
fn port(item: &str, names: &mut PortNames) -> std::result::Result<PortRange, PortsChangeError> {
    if item.contains(':') { Ok(names.read(item)?) } else { Ok(item.parse()?) }
}

fn unless_default<T>(text: &str, read: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
    if text == DEFAULT { Ok(None) } else { read().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_either_taken_or_said_to_be_fixed() {
        for key in KEYS {
            let mut change = Change::default();
            let values = ["+31100", "1mbit", "64KB", "0.35", "true"];
            let taken = values.iter().any(|value| change.set(key, value, key).is_ok());
            assert_eq!(taken, Change::KEYS.contains(&key), "{key}");
            assert_eq!(change.is_empty(), !taken, "{key}");
            if !taken {
                let line = change.set(key, "1", "--x").unwrap_err().to_string();
                assert_eq!(line, "--x: fixed when a container is created; start a new one to change it");
            }
        }
        let line = Change::default().set("egres-rate", "1", "--x").unwrap_err().to_string();
        assert_eq!(line, "--x: unknown key; did you mean egress-rate?");
    }
}
