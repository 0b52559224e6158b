//! The table `[runtime]`: what the runtime shim does, and which runtime is behind it.
//!
//! The shim is called for every command that an engine has for a container, with or without an environment, and most of them
//! it only hands on. For those nothing but the list of paths is read, and a file that is wrong keeps nobody from ending a
//! container. What does not live here: the shim ([`crate::face`]).

use std::path::{Path, PathBuf};

use serde::Serialize;
use toml::de::DeTable;

use super::{DEFAULT_FILE, Key, Misread, Value, entries, list, named, value};
use crate::error::{Error, Result};
use crate::refusal::unknown;

/// Where the runtimes of distributions are, and those that people install themselves.
const PATHS: [&str; 8] = [
    "/usr/bin/runc",
    "/usr/sbin/runc",
    "/usr/local/sbin/runc",
    "/usr/local/bin/runc",
    "/usr/bin/crun",
    "/usr/sbin/crun",
    "/usr/local/sbin/crun",
    "/usr/local/bin/crun",
];

/// The table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Runtime {
    /// Which containers the shim acts on.
    pub mode: Mode,
    /// Where the low-level runtime is looked for, in this order: absolute paths, since engines call with no PATH.
    pub path: Vec<PathBuf>,
}

/// Which containers the shim acts on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Those that ask, by annotation or environment.
    #[default]
    Asked,
    /// Also every other one whose network namespace is its own and has no network when it starts.
    All,
}

impl Default for Runtime {
    fn default() -> Self {
        Runtime { mode: Mode::default(), path: PATHS.map(PathBuf::from).to_vec() }
    }
}

impl Runtime {
    /// The paths alone, of the file that [`super::Config::load`] would read for `argument`. A file that cannot be read, or is wrong, names the
    /// default ones: it is refused where it matters.
    pub fn paths(argument: Option<&Path>) -> Vec<PathBuf> {
        let file = named(argument, std::env::var_os("PORTSLICE_CONFIG"));
        let bytes = crate::file::read(file.as_deref().unwrap_or(Path::new(DEFAULT_FILE))).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        // Parsing takes longer than everything else that is done for a command that is handed on.
        if !text.contains("runtime") {
            return Runtime::default().path;
        }
        let table = DeTable::parse(&text).ok();
        let entry = table.as_ref().and_then(|table| table.get_ref().get_key_value("runtime"));
        entry.and_then(|(key, value)| Runtime::read(key, value).ok()).unwrap_or_default().path
    }

    /// Reads `[runtime]`.
    pub(super) fn read(key: &Key<'_>, value: &Value<'_>) -> std::result::Result<Runtime, Misread> {
        let mut runtime = Runtime::default();
        for (key, entry) in entries(key, value)? {
            match (key.get_ref().as_ref(), entry.get_ref().as_str()) {
                ("mode", Some("asked")) => runtime.mode = Mode::Asked,
                ("mode", Some("all")) => runtime.mode = Mode::All,
                ("mode", _) => return Err(Misread::of(key, "it is \"asked\" or \"all\"")),
                ("path", _) => {
                    let paths: Vec<value::Absolute> = list(key, entry)?;
                    runtime.path = paths.into_iter().map(|path| path.0).collect();
                }
                (other, _) => return Err(Misread::of(key, unknown("key", other, &["mode", "path"]))),
            }
        }
        Ok(runtime)
    }

    /// The runtime itself: the first of `paths` that is there, and is not this program.
    pub fn find(paths: &[PathBuf]) -> Result<PathBuf> {
        let itself = identity(Path::new("/proc/self/exe"));
        let there = |path: &&PathBuf| path.is_file() && (itself.is_none() || identity(path) != itself);
        paths.iter().find(there).cloned().ok_or_else(|| {
            let tried: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            Error::unsupported(
                format!("no runtime is installed at {}", tried.join(", ")),
                "install runc or crun, or name yours in the config key path of [runtime]",
            )
        })
    }
}

/// Device and inode of a file, behind all links.
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}
