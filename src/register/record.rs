//! What was written for an engine, and what stood there before: `/var/lib/portslice/registered/ENGINE.json`.
//!
//! It has to outlive a boot, as the files do that it is about; the state directory does not.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use fs2::FileExt;
use serde::{Deserialize, Serialize};

use super::Engine;
use super::document::{Edit, Format};
use super::system::System;
use crate::error::{Error, Result};
use crate::file;

const DIRECTORY: &str = "/var/lib/portslice/registered";

/// Everything that was written for one engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Files and links.
    pub files: Vec<Written>,
    /// Directories that were made for them, the outer ones first.
    pub made: Vec<PathBuf>,
}

/// One file or link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// Where it is, without the root.
    pub path: PathBuf,
    /// What it is.
    pub what: What,
}

/// See [`Written`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// A file with text.
    Text {
        /// What stood there; `None` when there was no file.
        before: Option<String>,
        /// What was written.
        after: String,
        /// The keys that are ours; `None` when the whole file is.
        edits: Option<(Format, Vec<Edit>)>,
    },
    /// A symbolic link.
    Link {
        /// Where it points.
        target: PathBuf,
        /// Was it there already?
        before: bool,
    },
}

impl Record {
    /// Reads what was written for an engine. Nothing, if that was never.
    pub fn read(system: &System, engine: Engine) -> Result<Self> {
        let path = path(system, engine);
        let bytes = match file::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Record::default()),
            read => read.map_err(Error::file("read", &path))?,
        };
        serde_json::from_slice(&bytes).map_err(|e| {
            let why = format!("{e}; it says what setup wrote: move it away and setup begins anew");
            Error::invalid(path.display().to_string(), why)
        })
    }

    /// Keeps it. Written before the files, so that whoever finds one of them half-way can take everything back.
    pub fn keep(&self, system: &System, engine: Engine) -> Result<()> {
        let path = path(system, engine);
        let bytes = serde_json::to_vec_pretty(self).map_err(|e| Error::Failed(format!("cannot encode JSON: {e}")))?;
        file::replace(&path, &path.with_extension("new"), &bytes).map_err(Error::file("write", &path))
    }

    /// Forgets it, with the directories that were made for the files, as far as nobody else uses them.
    pub fn remove(&self, system: &System, engine: Engine) -> Result<()> {
        for directory in self.made.iter().rev() {
            let _ = fs::remove_dir(system.at(directory));
        }
        let path = path(system, engine);
        file::remove(&path).map_err(Error::file("remove", &path))
    }

    /// Leaves to other engines what they need as well: who is last takes it away. Returns those whose records say so now.
    pub fn hand_over(&mut self, system: &System, engine: Engine) -> Result<Vec<(Engine, Record)>> {
        let mut heirs = Vec::new();
        for other in Engine::ALL.into_iter().filter(|other| *other != engine) {
            let mut theirs = Record::read(system, other)?;
            let (shared, own) =
                std::mem::take(&mut self.files).into_iter().partition(|one| theirs.of(&one.path).is_some());
            self.files = own;
            let shared: Vec<Written> = shared;
            for one in &shared {
                theirs.files.iter_mut().filter(|their| their.path == one.path).for_each(|their| their.inherit(one));
            }
            let lived_in = |directory: &&PathBuf| {
                let has_record = !theirs.files.is_empty() && above().any(|above| above == directory.as_path());
                has_record || theirs.files.iter().any(|file| file.path.starts_with(directory))
            };
            let mut made: Vec<PathBuf> = self.made.iter().filter(lived_in).cloned().collect();
            made.retain(|directory| !theirs.made.contains(directory));
            if !shared.is_empty() || !made.is_empty() {
                theirs.made.splice(0..0, made);
                heirs.push((other, theirs));
            }
        }
        Ok(heirs)
    }

    /// Does it say that Docker's devices were turned on? They are turned off by a start, as they are turned on.
    pub fn has_devices(&self, engine: Engine) -> bool {
        let of_devices = |edit: &Edit| edit.path.first().is_some_and(|first| first == "features");
        engine == Engine::Docker
            && self.files.iter().any(
                |file| matches!(&file.what, What::Text { edits: Some((_, edits)), .. } if edits.iter().any(of_devices)),
            )
    }

    /// What was written at a path.
    pub fn of(&self, path: &Path) -> Option<&Written> {
        self.files.iter().find(|written| written.path == path)
    }
}

/// Keeps every other run out.
pub struct Lock<'a> {
    system: &'a System,
    /// Directories above [`DIRECTORY`] that were made for it, the innermost first.
    pub made: Vec<PathBuf>,
    /// Locked as long as it is open.
    _file: File,
}

impl Written {
    /// What stood here before the other one wrote it is what stood before, unless the other one found it written.
    fn inherit(&mut self, other: &Written) {
        match (&mut self.what, &other.what) {
            (What::Text { before, .. }, What::Text { before: earlier, after, .. })
                if earlier.as_ref() != Some(after) =>
            {
                before.clone_from(earlier);
            }
            (What::Link { before, .. }, What::Link { before: false, .. }) => *before = false,
            _ => {}
        }
    }
}

const LOCK: &str = "lock";

/// The directories above [`DIRECTORY`], the innermost first.
fn above() -> impl Iterator<Item = &'static Path> {
    Path::new(DIRECTORY).ancestors().skip(1)
}

/// Takes the lock. [`Error::Busy`] while another run has it.
pub fn lock(system: &System) -> Result<Lock<'_>> {
    let directory = system.at(Path::new(DIRECTORY));
    let made = above().take_while(|above| !system.has(above)).map(Path::to_owned).collect();
    DirBuilder::new().recursive(true).mode(0o755).create(&directory).map_err(Error::file("create", &directory))?;
    let path = directory.join(LOCK);
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::file("open", &path))?;
    file.try_lock_exclusive().map_err(|_| Error::Busy(format!("another setup works: {} is locked", path.display())))?;
    Ok(Lock { system, made, _file: file })
}

/// Nothing is left where nothing is registered.
impl Drop for Lock<'_> {
    fn drop(&mut self) {
        let directory = self.system.at(Path::new(DIRECTORY));
        let mut entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        if entries.all(|entry| entry.file_name() == LOCK) {
            let _ = fs::remove_file(directory.join(LOCK));
            let ours = directory.ancestors().take(2).map(Path::to_owned);
            for directory in ours.chain(self.made.iter().map(|made| self.system.at(made))) {
                let _ = fs::remove_dir(directory);
            }
        }
    }
}

/// Where the record of an engine is.
pub fn path(system: &System, engine: Engine) -> PathBuf {
    system.at(Path::new(DIRECTORY)).join(format!("{}.json", engine.name()))
}
