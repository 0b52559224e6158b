//! The configuration file: its keys, their defaults, and how it is found and refused.
//!
//! Every value is parsed into the type the rest of the program works with, and what two keys must agree on is checked
//! here, so nobody validates again later. What does not live here: what one container asks for (`request`),
//! and facts about the host, such as whether the uplink exists (`host`). `config/portslice.toml` is the manual. Values that
//! have no type of their own elsewhere are read in `value`; what the keys of one direction make together is in `limits`.

mod accepted;
mod addresses;
mod host_name;
mod limits;
mod profile;
mod rates;
mod runtime;
mod value;

pub use profile::{DEFAULT_PROFILE, Profile};

use crate::error::{Error, Result};
use crate::ports::{BlockSize, OpenPorts, Pool, PortRange, PortSet};
use crate::rate::{PerCpu, Rate, Size};
use crate::refusal::{one_line, quoted, unknown_of_many};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

pub use accepted::Acceptable;
pub use addresses::Addresses;
pub use host_name::HostName;
pub use runtime::{Mode, Runtime};

/// Read when nothing else is named, and it may be absent.
pub const DEFAULT_FILE: &str = "/etc/portslice/portslice.toml";

/// All settings of a host. Field names are the keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Leased to containers as blocks. Disjoint from `ports`.
    pub ephemeral_ports: Pool,
    /// The block a container gets unless it asks for another size. The pool holds at least one.
    pub ephemeral_ports_per_container: BlockSize,
    /// A container may be assigned only ports from this set.
    pub ports: PortSet,
    /// The ports that a container may claim with bind() unless it asks for others.
    pub open_ports: OpenPorts,
    /// How many of them it may hold claimed at a time, 1 to 65535; a port counts once a protocol.
    #[serde(deserialize_with = "value::claim_count")]
    pub open_ports_per_container: u16,
    /// How many ephemeral ports of its own the host keeps at least, besides the pool and `ports`.
    #[serde(deserialize_with = "value::port_count")]
    pub host_ports_min: u16,
    /// The host's public interface; `None`: the device of the default route. In the file, "" is `None`.
    #[serde(deserialize_with = "value::uplink", serialize_with = "value::or_empty")]
    pub uplink: Option<String>,
    /// Which of the host's addresses containers carry.
    pub addresses: Addresses,
    /// Ledger and pinned programs. Absolute.
    #[serde(deserialize_with = "value::absolute")]
    pub state_dir: PathBuf,
    /// The program that hooks have the host prepared by; `None`: the one beside the hook, else /usr/bin/portslice. Absolute;
    /// in the file, "" is `None`.
    #[serde(deserialize_with = "value::absolute_or_none", serialize_with = "value::or_empty")]
    pub command: Option<PathBuf>,
    /// Whether a container may reach the host through 127.0.0.1 unless it asks otherwise.
    pub host_loopback: bool,
    /// Whether a container is refused that would have CAP_NET_ADMIN in the host's user namespace.
    pub refuse_net_admin: bool,
    /// How long a block is kept back after its container is gone, at most a day.
    #[serde(deserialize_with = "value::cooldown", serialize_with = "value::seconds")]
    pub block_cooldown: Duration,
    /// What a container may send unless something else decides; 0: no limit.
    pub egress_rate_limit_per_container: Rate,
    /// What it may send for each of its CPUs, where they are known.
    pub egress_rate_per_cpu: PerCpu,
    /// The least that `egress_rate_per_cpu` gives; not 0.
    pub minimum_egress_rate_limit: Rate,
    /// The most that `egress_rate_per_cpu` gives, not below the minimum; 0: no bound.
    pub maximum_egress_rate_limit: Rate,
    /// What a burst may reach, where it is above the rate; 0: the rate.
    pub egress_ceil_limit: Rate,
    /// How much may go at the ceil rate; 0: computed from the rate.
    pub egress_burst: Size,
    /// What a container may receive unless something else decides; 0: no limit.
    pub ingress_rate_limit_per_container: Rate,
    /// What it may receive for each of its CPUs, where they are known.
    pub ingress_rate_per_cpu: PerCpu,
    /// The least that `ingress_rate_per_cpu` gives; not 0.
    pub minimum_ingress_rate_limit: Rate,
    /// The most that `ingress_rate_per_cpu` gives, not below the minimum; 0: no bound.
    pub maximum_ingress_rate_limit: Rate,
    /// What a burst may reach, where it is above the rate; 0: the rate.
    pub ingress_ceil_limit: Rate,
    /// How much may go at the ceil rate; 0: computed from the rate.
    pub ingress_burst: Size,
    /// The speed of the uplink, for `auto`; 0: what the kernel says.
    pub link_speed: Rate,
    /// How many CPUs share the uplink, for `auto`; 0: those that are online.
    #[serde(deserialize_with = "value::cpus")]
    pub cpus: u32,
    /// Whether limits count traffic that stays on this host, unless a container asks otherwise.
    pub limit_local: bool,
    /// Whether containers share the uplink fairly, each as one flow.
    pub egress_unique_flow_per_container: bool,
    /// Whether the CPUs a container asks for are also the most it may use.
    pub enable_cfs: bool,
    /// Whether CPUs that may be taken away count little against others.
    pub revocable_cpu_low_priority: bool,
    /// Statistics: TCP sockets of a container, counted.
    pub socket_statistics_summary: bool,
    /// Statistics: round trips of its TCP sockets, and the ports of its block that are in use. Each reading looks
    /// through the sockets of the whole machine.
    pub socket_statistics_details: bool,
    /// Statistics: the protocol counters of its namespace.
    pub snmp_statistics: bool,
    /// Statistics: its processes and threads, counted.
    pub pids_and_tids_count: bool,
    /// Statistics: over how long the server tells percentiles of a container's rates; 0: not at all.
    #[serde(deserialize_with = "value::period", serialize_with = "value::milliseconds")]
    pub rate_statistics_window: Duration,
    /// Statistics: how often it looks at the counters for them; 0 if and only if the window is.
    #[serde(deserialize_with = "value::period", serialize_with = "value::milliseconds")]
    pub rate_statistics_interval: Duration,
    /// The server: names of this host, beside its own and its addresses, under which it is asked over TCP.
    #[serde(skip_deserializing)]
    pub serve_hosts: Vec<HostName>,
    /// Whether bind() is judged at the socket.
    pub socket_rules: SocketRules,
    /// The cgroup whose processes, and those below, it is judged for; `None`, in the file "": the root, all processes.
    #[serde(deserialize_with = "value::absolute_or_none", serialize_with = "value::or_empty")]
    pub socket_cgroup: Option<PathBuf>,
    /// Absolute; `None`: the journal and stderr. In the file, "" is `None`.
    #[serde(deserialize_with = "value::absolute_or_none", serialize_with = "value::or_empty")]
    pub log_file: Option<PathBuf>,
    /// The least severe message that is logged.
    pub log_level: LogLevel,
    /// No key: the file that was named, by argument or environment. What is to run later has to be given it, too.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    /// What `portslice doctor` need not tell again: the operator knows, and leaves it as it is.
    #[serde(skip_deserializing)]
    pub accepted_findings: Vec<Acceptable>,
    /// What containers ask for that name one of these profiles, as those that are given a CDI device do.
    #[serde(skip_deserializing)]
    pub profile: BTreeMap<String, Profile>,
    /// What `portslice-runtime` does. The last key: in the file it is a table.
    #[serde(skip_deserializing)]
    pub runtime: Runtime,
}

/// Whether bind() of a port that is somebody else's fails, in containers and on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketRules {
    /// Where the kernel can do that, on a machine's own network (see `wire::sockets::wanted`).
    #[default]
    Auto,
    /// In every namespace, and a host whose kernel cannot is refused.
    Require,
    /// It succeeds, and nothing is heard.
    Off,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what failed.
    Error,
    /// Also what is probably not as intended.
    Warn,
    /// Also one line for each verb.
    #[default]
    Info,
    /// Also every step.
    Debug,
}

impl Default for Config {
    fn default() -> Self {
        let pool = PortRange::new(32768, 57343).map(PortSet::from).and_then(|ports| Pool::new(ports).ok());
        Config {
            ephemeral_ports: pool.expect("a range above port 1023 is a pool"),
            ephemeral_ports_per_container: BlockSize::DEFAULT,
            ports: PortSet::empty(),
            open_ports: OpenPorts::default(),
            open_ports_per_container: 1024,
            host_ports_min: 1024,
            uplink: None,
            addresses: Addresses::All,
            state_dir: PathBuf::from("/run/portslice"),
            command: None,
            host_loopback: true,
            refuse_net_admin: false,
            block_cooldown: Duration::ZERO,
            egress_rate_limit_per_container: Rate::UNLIMITED,
            egress_rate_per_cpu: PerCpu::Off,
            minimum_egress_rate_limit: limits::MINIMUM,
            maximum_egress_rate_limit: Rate::UNLIMITED,
            egress_ceil_limit: Rate::UNLIMITED,
            egress_burst: Size::default(),
            ingress_rate_limit_per_container: Rate::UNLIMITED,
            ingress_rate_per_cpu: PerCpu::Off,
            minimum_ingress_rate_limit: limits::MINIMUM,
            maximum_ingress_rate_limit: Rate::UNLIMITED,
            ingress_ceil_limit: Rate::UNLIMITED,
            ingress_burst: Size::default(),
            link_speed: Rate::UNLIMITED,
            cpus: 0,
            limit_local: true,
            egress_unique_flow_per_container: false,
            enable_cfs: false,
            revocable_cpu_low_priority: true,
            socket_statistics_summary: true,
            socket_statistics_details: false,
            snmp_statistics: false,
            pids_and_tids_count: true,
            rate_statistics_window: Duration::ZERO,
            rate_statistics_interval: Duration::ZERO,
            serve_hosts: Vec::new(),
            socket_rules: SocketRules::default(),
            socket_cgroup: None,
            log_file: None,
            log_level: LogLevel::default(),
            file: None,
            accepted_findings: Vec::new(),
            profile: BTreeMap::new(),
            runtime: Runtime::default(),
        }
    }
}

impl Config {
    /// Reads `path`, else the file named by `PORTSLICE_CONFIG`, else [`DEFAULT_FILE`]. Only the last may be absent,
    /// which gives the defaults. An empty variable counts as unset.
    pub fn load(path: Option<&Path>) -> Result<Config> {
        let named = named(path, std::env::var_os("PORTSLICE_CONFIG"));
        let file = named.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
        match crate::file::read(file) {
            Ok(bytes) => {
                let config = Config::parse(&String::from_utf8_lossy(&bytes), &file.to_string_lossy())?;
                Ok(Config { file: named, ..config })
            }
            Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => Ok(Config::default()),
            Err(error) => Err(Error::file("read", file)(error)),
        }
    }

    /// Parses the text of a file. `origin` is its name in messages, which are one line with the file, the line, the key
    /// and the rule.
    pub fn parse(text: &str, origin: &str) -> Result<Config> {
        let file = Source { text, origin };
        let mut parsed = DeTable::parse(text).map_err(|error| file.syntax(&error))?;
        let places: Vec<Place> = parsed.get_ref().iter().map(|(key, value)| Place::of(key, value)).collect();
        let known = keys();
        let unknown_keys = places.iter().filter(|place| !known.contains(&place.key.as_str()));
        if let Some(place) = unknown_keys.min_by_key(|place| place.at) {
            let why = unknown_of_many("key", &place.key, &known, "config/portslice.toml of portslice shows them all");
            return Err(file.refuse(place.at, &place.key, why));
        }
        // Lists and tables are read by hand: what a derived reader of each would add, every hook would have to carry.
        let refuse = |misread: Misread| file.refuse(misread.at, &misread.key, misread.why);
        let take = |key: &str| parsed.get_mut().remove_entry(key);
        let [hosts, accepted, profile, runtime] = ["serve_hosts", "accepted_findings", "profile", "runtime"].map(take);
        let config = Config::deserialize(toml::de::Deserializer::from(parsed));
        let config = Config {
            serve_hosts: hosts.map_or(Ok(Vec::new()), |(key, value)| list(&key, &value)).map_err(refuse)?,
            accepted_findings: accepted.map_or(Ok(Vec::new()), |(key, value)| list(&key, &value)).map_err(refuse)?,
            profile: profile.map_or(Ok(BTreeMap::new()), |(key, value)| profile::read(&key, &value)).map_err(refuse)?,
            runtime: runtime
                .map_or(Ok(Runtime::default()), |(key, value)| Runtime::read(&key, &value))
                .map_err(refuse)?,
            ..config.map_err(|error| file.value(&places, &error))?
        };
        config.agree().map_err(|(keys, why)| {
            let there = |key: &String| places.iter().find(|place| place.key == *key);
            let (at, key) = keys.iter().find_map(there).map_or((0, &keys[0]), |place| (place.at, &place.key));
            file.refuse(at, key, why)
        })?;
        Ok(config)
    }

    /// Applies what stands above the file: the command line's state directory, else `PORTSLICE_STATE_DIR`. An empty
    /// variable counts as unset. Refused unless absolute.
    pub fn with_state_dir(mut self, argument: Option<&Path>) -> Result<Config> {
        let place = if argument.is_some() { "--state-dir" } else { "PORTSLICE_STATE_DIR" };
        if let Some(dir) = named(argument, std::env::var_os("PORTSLICE_STATE_DIR")) {
            let absolute: value::Absolute =
                dir.to_string_lossy().parse().map_err(|why: String| Error::invalid(place, why))?;
            // A name that is no UTF-8 is kept as it was given.
            self.state_dir = if dir.to_str().is_some() { absolute.0 } else { dir };
        }
        Ok(self)
    }

    /// What several keys must agree on.
    fn agree(&self) -> Result<(), Disagreement> {
        let (pool, size) = (&self.ephemeral_ports, self.ephemeral_ports_per_container);
        if let Some(both) = pool.ports().first_overlap(&self.ports) {
            let why = format!("{both} is also in ephemeral_ports ({pool}); take it out of one of the two");
            return Err((["ports", "ephemeral_ports"].map(String::from).to_vec(), why));
        }
        if pool.capacity(size) == 0 {
            let mut smaller = std::iter::successors(size.half(), |size| size.half());
            let advice = match smaller.find(|&size| pool.capacity(size) > 0) {
                Some(fit) => format!("the largest that fits is {fit}"),
                None => "it holds no block at all, enlarge it".to_string(),
            };
            let why = format!("ephemeral_ports ({pool}) holds no aligned block of {size} ports; {advice}");
            return Err((["ephemeral_ports_per_container", "ephemeral_ports"].map(String::from).to_vec(), why));
        }
        if !self.open_ports.is_none() && self.socket_rules == SocketRules::Off {
            let why =
                "open ports are claimed by bind(), which socket_rules = \"off\" does not judge; set it to \"auto\"";
            return Err((["open_ports", "socket_rules"].map(String::from).to_vec(), why.into()));
        }
        self.rates_agree()?;
        self.limits_agree()
    }
}

impl From<LogLevel> for log::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => log::LevelFilter::Error,
            LogLevel::Warn => log::LevelFilter::Warn,
            LogLevel::Info => log::LevelFilter::Info,
            LogLevel::Debug => log::LevelFilter::Debug,
        }
    }
}

/// Why keys do not agree, after the keys that can mend it, the likeliest first.
type Disagreement = (Vec<String>, String);

/// Where a key stands in the text.
struct Place {
    key: String,
    at: usize,
    /// Of key and value, the end included. Of a table, the value begins before the key, with the bracket.
    span: RangeInclusive<usize>,
}

impl Place {
    fn of(key: &Key<'_>, value: &Value<'_>) -> Self {
        let (at, value) = (key.span(), value.span());
        let span = at.start.min(value.start)..=at.end.max(value.end);
        Place { key: key.get_ref().to_string(), at: at.start, span }
    }
}

/// A part of a table that is not what it has to be.
struct Misread {
    /// Where the key begins in the text.
    at: usize,
    key: String,
    why: String,
}

/// A key of the file, and its value.
type Key<'a> = Spanned<DeString<'a>>;
type Value<'a> = Spanned<DeValue<'a>>;

impl Misread {
    fn of(key: &Key<'_>, why: impl Into<String>) -> Self {
        Misread { at: key.span().start, key: key.get_ref().to_string(), why: why.into() }
    }
}

/// The entries of a table.
fn entries<'t, 'a>(
    key: &Key<'_>,
    value: &'t Value<'a>,
) -> std::result::Result<impl Iterator<Item = (&'t Key<'a>, &'t Value<'a>)> + use<'t, 'a>, Misread> {
    let table = value.get_ref().as_table();
    table.map(DeTable::iter).ok_or_else(|| Misread::of(key, "it is a table: write [KEY] on a line of its own"))
}

/// The items of a list, which are texts.
fn list<T: FromStr<Err = String>>(key: &Key<'_>, value: &Value<'_>) -> std::result::Result<Vec<T>, Misread> {
    let items = value.get_ref().as_array().ok_or_else(|| Misread::of(key, "it is a list: write it in brackets"))?;
    let item = |value: &Value<'_>| match value.get_ref().as_str() {
        Some(text) => text.parse().map_err(|why: String| Misread::of(key, why)),
        None => Err(Misread::of(key, "its items are strings: write them in quotes")),
    };
    items.iter().map(item).collect()
}

/// The file being read, for messages.
struct Source<'a> {
    text: &'a str,
    origin: &'a str,
}

impl Source<'_> {
    fn line(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        before.iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    fn refuse(&self, at: usize, key: &str, why: String) -> Error {
        Error::invalid(format!("{} line {}, key {}", one_line(self.origin), self.line(at), one_line(key)), why)
    }

    /// A text that is no TOML. There is no table to look the key up in, so it is what the line begins with.
    fn syntax(&self, error: &toml::de::Error) -> Error {
        let at = error.span().map_or(0, |span| span.start);
        let line = self.line(at);
        let written = self.text.lines().nth(line - 1).unwrap_or_default();
        let key = written.split_once('=').map_or(written, |(key, _)| key).trim();
        let why = format!("not valid TOML: {}", one_line(error.message()));
        Error::invalid(format!("{} line {line}, key {}", one_line(self.origin), quoted(key)), why)
    }

    /// A value its key cannot have.
    fn value(&self, places: &[Place], error: &toml::de::Error) -> Error {
        let at = error.span().map_or(0, |span| span.start);
        let place = places.iter().find(|place| place.span.contains(&at));
        let (at, key) = place.map_or((at, "?"), |place| (place.at, &place.key));
        self.refuse(at, key, one_line(error.message()))
    }
}

/// The keys, taken from the struct itself so that there is no second list to forget, and those that are read by hand.
fn keys() -> Vec<&'static str> {
    let mut fields: &[&str] = &[];
    let _ = Config::deserialize(Fields(&mut fields));
    fields.iter().copied().chain(["serve_hosts", "accepted_findings", "profile", "runtime"]).collect()
}

/// Notes which fields a struct asks for, and gives it none.
struct Fields<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> std::result::Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("only a struct has fields"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// What was named by argument, else by environment.
fn named(argument: Option<&Path>, variable: Option<OsString>) -> Option<PathBuf> {
    argument.map(Path::to_path_buf).or_else(|| variable.filter(|value| !value.is_empty()).map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_stands_above_the_environment() {
        let (argument, variable) = (Path::new("/a"), || Some(OsString::from("/b")));
        assert_eq!(named(Some(argument), variable()), Some(PathBuf::from("/a")));
        assert_eq!(named(None, variable()), Some(PathBuf::from("/b")));
        assert_eq!(named(None, Some(OsString::new())), None);
    }
}
