//! The one error type of portslice, and the exit code each kind of failure maps to.
//!
//! Every message is one line that says what failed, on which object, why, and what to do about it: it is the
//! only thing an operator sees (runc prints it, crun hides it, so it also goes to the log). What does not live
//! here: how an error is shown. Each face renders it in its own protocol.

use std::io;
use std::path::{Path, PathBuf};

/// Shorthand used throughout the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. `Display` is the complete line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value given by a person or a program is not acceptable. `what` names the value's place
    /// (`annotation portslice/ports`, `config key ephemeral_ports`), `why` the rule and the remedy.
    #[error("{what}: {why}")]
    Invalid {
        /// Where the value stands.
        what: String,
        /// The rule it breaks and what would be accepted.
        why: String,
    },
    /// No block of the asked size is left.
    #[error("{0}")]
    Exhausted(String),
    /// A port is in use, by a process or by another lease.
    #[error("{0}")]
    PortInUse(String),
    /// The kernel or the host lacks something, or is set up so that attaching would be wrong.
    #[error("{what}: {remedy}")]
    Unsupported {
        /// What is missing or wrong.
        what: String,
        /// What the operator can do.
        remedy: String,
    },
    /// The same, already as a complete line.
    #[error("{0}")]
    Refused(String),
    /// There is no such container, namespace or lease.
    #[error("{0}")]
    NotFound(String),
    /// The object is in use by somebody else right now.
    #[error("{0}")]
    Busy(String),
    /// A system call on a file failed.
    #[error("cannot {doing} {path}: {source}")]
    File {
        /// The verb: `read`, `create`, `lock`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused a netlink request.
    #[error("cannot {doing}: {errno}{}", note(.text))]
    Netlink {
        /// The action and its object: `create link portslice3`.
        doing: String,
        /// The kernel's error number as text.
        errno: io::Error,
        /// The kernel's extended acknowledgement, often empty.
        text: String,
    },
    /// A bpf(2) call, or loading the programs, failed.
    #[error("cannot {doing}: {why}")]
    Bpf {
        /// The action and its object.
        doing: String,
        /// The kernel's or the loader's reason.
        why: String,
    },
    /// Anything else; the text is complete.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// The process exit code: 1 failed, 2 usage, 3 pool exhausted, 4 port in use, 5 unsupported kernel or host,
    /// 6 not found, 7 busy.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Invalid { .. } => 2,
            Error::Exhausted(_) => 3,
            Error::PortInUse(_) => 4,
            Error::Unsupported { .. } | Error::Refused(_) => 5,
            Error::NotFound(_) => 6,
            Error::Busy(_) => 7,
            Error::File { .. } | Error::Netlink { .. } | Error::Bpf { .. } | Error::Failed(_) => 1,
        }
    }

    /// Did the kernel forbid it?
    pub fn is_denied(&self) -> bool {
        match self {
            Error::File { source: cause, .. } | Error::Netlink { errno: cause, .. } => {
                cause.kind() == io::ErrorKind::PermissionDenied
            }
            _ => false,
        }
    }

    /// An [`Error::Invalid`].
    pub fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Invalid { what: what.into(), why: why.into() }
    }

    /// An [`Error::Unsupported`].
    pub fn unsupported(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::Unsupported { what: what.into(), remedy: remedy.into() }
    }

    /// Wraps an I/O error with the verb and the path, for `map_err`.
    pub fn file(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Error::File { doing, path: path.as_ref().to_path_buf(), source }
    }
}

fn note(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}
