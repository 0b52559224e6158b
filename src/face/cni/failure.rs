//! Why a command failed, as CNI has it: a code that runtimes act on, and our line.

use serde_json::{Value, json};

use crate::error::Error;

/// A failed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One of the constants here, or 100 and more: see [`Failure::from`].
    pub code: u16,
    /// What failed, on which object, why, and what to do: one line.
    pub line: String,
}

/// Codes of the specification ("Error").
impl Failure {
    /// The network's configuration has a version that is not spoken here, or that does not know the command.
    pub const VERSION: u16 = 1;
    /// There is no such container.
    pub const UNKNOWN_CONTAINER: u16 = 3;
    /// An environment variable is missing or wrong.
    pub const ENVIRONMENT: u16 = 4;
    /// Something cannot be read or written.
    pub const IO: u16 = 5;
    /// What was read is no configuration.
    pub const DECODE: u16 = 6;
    /// A value in the configuration is wrong.
    pub const CONFIG: u16 = 7;
    /// The pool is exhausted, or somebody works on it: may succeed later.
    pub const TRY_AGAIN: u16 = 11;
    /// STATUS: no container can be attached.
    pub const UNAVAILABLE: u16 = 50;
    /// STATUS: none can be attached, and those that are may have lost their network.
    pub const LIMITED: u16 = 51;
    /// Our own codes: this and the exit code that the command line has for the same failure.
    const OURS: u16 = 100;
    /// CHECK: something is not as planned.
    pub const NOT_AS_PLANNED: u16 = 110;

    /// A failure with this code.
    pub fn new(code: u16, line: impl Into<String>) -> Self {
        Self { code, line: line.into() }
    }

    /// A value in the configuration that is refused.
    pub fn config(what: impl AsRef<str>, why: impl AsRef<str>) -> Self {
        Self::new(Self::CONFIG, format!("{}: {}", what.as_ref(), why.as_ref()))
    }

    /// As it is printed.
    pub fn encode(&self, version: &str) -> Value {
        json!({"cniVersion": version, "code": self.code, "msg": self.line})
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        let code = match &e {
            Error::Invalid { .. } => Self::CONFIG,
            Error::Exhausted(_) | Error::Busy(_) => Self::TRY_AGAIN,
            Error::NotFound(_) => Self::UNKNOWN_CONTAINER,
            Error::File { .. } => Self::IO,
            e => Self::OURS + u16::from(e.exit_code()),
        };
        Self::new(code, e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_has_a_code() {
        let file = Error::file("read", "/x")(std::io::ErrorKind::NotFound.into());
        for (error, code) in [
            (Error::invalid("x", "y"), 7),
            (Error::Exhausted("full".into()), 11),
            (Error::Busy("busy".into()), 11),
            (Error::NotFound("gone".into()), 3),
            (file, 5),
            (Error::PortInUse("80".into()), 104),
            (Error::unsupported("x", "y"), 105),
            (Error::Failed("x".into()), 101),
        ] {
            let line = error.to_string();
            let failure = Failure::from(error);
            assert_eq!((failure.code, failure.line.as_str()), (code, line.as_str()));
            assert_eq!(failure.encode("1.1.0")["msg"], line);
        }
    }
}
