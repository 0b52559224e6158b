//! Reading and writing the values of the configuration file that are plain types in the program: paths, the name of a
//! device, a duration, a count of CPUs.
//!
//! What does not live here: values with a type of their own (`PortSet`, `Rate`, `BlockSize`), which read themselves.

use crate::cpus::Cpus;
use crate::refusal::{from_text, quoted};
use serde::de::{Error, Visitor};
use serde::{Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// A path that begins with `/`.
pub(super) struct Absolute(pub(super) PathBuf);

impl FromStr for Absolute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') && !text.contains('\0') {
            return Ok(Absolute(PathBuf::from(text)));
        }
        Err(format!("{} is not an absolute path; write one that begins with /", quoted(text)))
    }
}

pub(super) fn absolute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    from_text(deserializer, "an absolute path").map(|Absolute(path)| path)
}

/// `T`, or nothing for the empty string.
struct OrNone<T>(Option<T>);

impl<T: FromStr> FromStr for OrNone<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        if text.is_empty() { Ok(OrNone(None)) } else { text.parse().map(|value| OrNone(Some(value))) }
    }
}

pub(super) fn absolute_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let OrNone(path) = from_text::<D, OrNone<Absolute>>(deserializer, "an absolute path, or \"\" for the journal")?;
    Ok(path.map(|Absolute(path)| path))
}

struct DeviceName(String);

impl FromStr for DeviceName {
    type Err = String;

    /// The kernel's rule for device names.
    fn from_str(text: &str) -> Result<Self, String> {
        let misplaced = |byte: u8| byte == b'/' || byte == b':' || !byte.is_ascii_graphic();
        if text.len() > 15 || text == "." || text == ".." || text.bytes().any(misplaced) {
            return Err(format!("{} is not a device name; write 1 to 15 characters such as eth0", quoted(text)));
        }
        Ok(DeviceName(text.to_string()))
    }
}

pub(super) fn uplink<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let expecting = "a device name such as \"eth0\", or \"\" for the device of the default route";
    let OrNone(name) = from_text::<D, OrNone<DeviceName>>(deserializer, expecting)?;
    Ok(name.map(|DeviceName(name)| name))
}

struct Cooldown(Duration);

impl FromStr for Cooldown {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |why| format!("{} {why}; write 0s to 24h, such as 90s, 5m or 1h", quoted(text));
        let (number, unit) = text.split_at(text.trim_end_matches(|c: char| !c.is_ascii_digit()).len());
        let scale = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "" => return Err(refuse("has no unit")),
            _ => return Err(refuse("has an unknown unit")),
        };
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refuse("is not a whole number of s, m or h"));
        }
        let seconds = number.parse().ok().and_then(|number: u64| number.checked_mul(scale));
        let seconds = seconds.filter(|&seconds| seconds <= 24 * 3600).ok_or_else(|| refuse("is longer than a day"))?;
        Ok(Cooldown(Duration::from_secs(seconds)))
    }
}

pub(super) fn cooldown<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    from_text(deserializer, "a duration such as \"90s\", \"5m\" or \"1h\"").map(|Cooldown(duration)| duration)
}

pub(super) fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{}s", duration.as_secs()))
}

/// A duration that may be shorter than a second.
struct Period(Duration);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(number) = text.strip_suffix("ms") else {
            return match text {
                "" => Ok(Period(Duration::ZERO)),
                _ => text
                    .parse()
                    .map(|Cooldown(duration)| Period(duration))
                    .map_err(|why: String| why.replace("such as 90s, 5m or 1h", "such as 500ms, 30s or 5m")),
            };
        };
        let refuse = |why| format!("{} {why}; write 0s to 24h, such as 500ms, 30s or 5m", quoted(text));
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refuse("is not a whole number of ms, s, m or h"));
        }
        let milliseconds = number.parse().ok().filter(|&number: &u64| number <= 24 * 3_600_000);
        milliseconds.map(|number| Period(Duration::from_millis(number))).ok_or_else(|| refuse("is longer than a day"))
    }
}

pub(super) fn period<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    from_text(deserializer, "a duration such as \"500ms\", \"30s\" or \"5m\"").map(|Period(duration)| duration)
}

pub(super) fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{}ms", duration.as_millis()))
}

/// A whole number of CPUs, 0 to 100000.
struct Count;

impl Visitor<'_> for Count {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number of CPUs without quotes, or 0 for those that are online")
    }

    fn visit_i64<E: Error>(self, given: i64) -> Result<u32, E> {
        let count = u32::try_from(given).ok().filter(|&count| u64::from(count) <= Cpus::MOST.whole());
        let why =
            format_args!("{given} is not a number of CPUs; write 1 to {}, or 0 for those that are online", Cpus::MOST);
        count.ok_or_else(|| E::custom(why))
    }

    fn visit_u64<E: Error>(self, given: u64) -> Result<u32, E> {
        self.visit_i64(given.try_into().unwrap_or(i64::MAX))
    }
}

pub(super) fn cpus<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    deserializer.deserialize_i64(Count)
}

/// A whole number of ports, from this one up to 65535.
struct Ports(u16);

impl Visitor<'_> for Ports {
    type Value = u16;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number of ports without quotes, such as 1024")
    }

    fn visit_i64<E: Error>(self, given: i64) -> Result<u16, E> {
        let Ports(least) = self;
        let count = given.try_into().ok().filter(|count| *count >= least);
        count.ok_or_else(|| E::custom(format_args!("{given} is not a number of ports; write {least} to 65535")))
    }

    fn visit_u64<E: Error>(self, given: u64) -> Result<u16, E> {
        self.visit_i64(given.try_into().unwrap_or(i64::MAX))
    }
}

pub(super) fn port_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    deserializer.deserialize_i64(Ports(0))
}

pub(super) fn claim_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    deserializer.deserialize_i64(Ports(1))
}

pub(super) fn or_empty<T: AsRef<Path>, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map_or(Path::new(""), AsRef::as_ref).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [("0s", 0), ("90s", 90), ("5m", 300), ("24h", 86400)] {
            assert_eq!(text.parse::<Cooldown>().map(|Cooldown(duration)| duration.as_secs()), Ok(seconds));
        }
        for text in ["", "0", "s", "-1s", "1.5h", "5 m", "25h", "99999999999999999999s", "5d", "1h5m"] {
            assert!(text.parse::<Cooldown>().is_err(), "{text}");
        }
    }

    #[test]
    fn periods_may_be_shorter_than_a_second() {
        for (text, milliseconds) in [("", 0), ("0s", 0), ("0ms", 0), ("20ms", 20), ("30s", 30_000), ("5m", 300_000)] {
            assert_eq!(text.parse::<Period>().map(|Period(duration)| duration.as_millis()), Ok(milliseconds), "{text}");
        }
        for text in ["ms", "-1ms", "1.5ms", "5 ms", "0", "1us", "86400001ms", "99999999999999999999ms"] {
            let why = text.parse::<Period>().map(|Period(duration)| duration).unwrap_err();
            assert!(why.contains("such as 500ms, 30s or 5m"), "{why}");
        }
    }

    #[test]
    fn device_names_follow_the_kernel() {
        for text in ["eth0", "bond0.100", "wlp0s20f3", "a"] {
            assert!(text.parse::<DeviceName>().is_ok(), "{text}");
        }
        for text in ["..", "a/b", "a b", "eth0:1", "sixteen-letters-", "e\u{7}"] {
            assert!(text.parse::<DeviceName>().is_err(), "{text:?}");
        }
    }
}
