//! Registering portslice with container engines: `portslice setup docker` and its like.
//!
//! Each engine has a file here that decides, from the engine's version and the configuration that is there, what its
//! configuration is to hold. Everything else is common: [`document`] merges keys into a file and takes them out again,
//! [`files`] compares with what is there, writes and restores, [`record`] remembers what was written, [`system`] finds
//! programs. What does not live here: preparing the host ([`crate::slice::setup`]), and the doors themselves, which are faces.
//!
//! Engines are never restarted or reloaded from here; the outcome says which command does that.

mod cdi;
mod cni;
mod containerd;
mod crio;
mod docker;
mod document;
mod files;
mod kubernetes;
mod mesos;
mod nomad;
mod podman;
mod record;
mod system;
mod verify;

use std::path::PathBuf;

use self::files::Change;
use self::record::Record;
use self::system::System;
use crate::config::Config;
use crate::error::{Error, Result};

/// Whom portslice can be registered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it all
pub enum Engine {
    Docker,
    Containerd,
    Podman,
    Crio,
    Nomad,
    Mesos,
    Kubernetes,
    Cdi,
}

/// Where to look and what to name.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The directory under which the system's files are, for another system than the running one.
    pub root: Option<PathBuf>,
    /// The directory of portslice's programs, as the engine is to be told. `None`: beside the running program, else
    /// `/usr/libexec/portslice`.
    pub programs: Option<PathBuf>,
    /// The names of the configuration's profiles: each is a device.
    pub profiles: Vec<String>,
    /// Change nothing, only say what would be.
    pub dry: bool,
}

/// What was changed, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The change as a unified diff; empty where there is nothing to do.
    pub diff: String,
    /// What was done, one line each.
    pub lines: Vec<String>,
    /// What the operator has to know or do next, one line each. Of a dry registration: only what the engine said.
    pub then: Vec<String>,
}

/// Registers portslice with an engine. A second time changes nothing.
///
/// # Errors
///
/// [`Error::NotFound`] where the engine or a program of ours is missing, [`Error::Invalid`] for a configuration that cannot
/// be understood, [`Error::Refused`] where the engine would not load the result. Nothing is changed then. A dry run asks the
/// engine as well, and is refused as the run would be.
pub fn register(engine: Engine, options: &Options) -> Result<Outcome> {
    let system = System::new(options)?;
    let lock = if options.dry { None } else { Some(record::lock(&system)?) };
    let mut record = Record::read(&system, engine)?;
    record.made.extend(lock.iter().flat_map(|lock| lock.made.iter().rev().cloned()));
    let plan = engine.plan(&Desk { system: &system, record: &record, profiles: &options.profiles })?;
    let changes = files::compare(&system, &record, plan.wanted)?;
    let mut outcome = Outcome { diff: files::diff(&changes), ..Outcome::default() };
    if changes.iter().all(Change::is_none) {
        return Ok(outcome);
    }
    outcome.then = files::check(&changes, options.dry)?;
    if !options.dry {
        files::write(&system, engine, &record, &changes)?;
        outcome.lines = changes.iter().filter_map(Change::done).collect();
        outcome.then.extend(plan.then);
    }
    Ok(outcome)
}

/// Takes back what [`register`] did: a file that nobody changed since is restored to the byte; from one that somebody did,
/// only our keys are taken out, and a line says so.
pub fn unregister(engine: Engine, options: &Options) -> Result<Outcome> {
    let system = System::new(options)?;
    let mut lock = if options.dry { None } else { Some(record::lock(&system)?) };
    let mut record = Record::read(&system, engine)?;
    lock.iter_mut().for_each(|lock| lock.made.splice(..0, record.made.iter().rev().cloned()).for_each(drop));
    let was_registered = !record.files.is_empty();
    let reload = if record.has_devices(engine) { Some(docker::RESTART) } else { engine.reload() };
    let heirs = record.hand_over(&system, engine)?;
    let changes = files::restore(&system, &record.files)?;
    let mut outcome = Outcome { diff: files::diff(&changes), ..Outcome::default() };
    outcome.then.extend(changes.iter().filter_map(|change| change.note.clone()));
    if !options.dry {
        for (heir, theirs) in heirs {
            theirs.keep(&system, heir)?;
        }
        files::carry_out(&changes)?;
        record.remove(&system, engine)?;
        outcome.lines = changes.iter().filter_map(Change::done).collect();
    }
    if changes.iter().any(|change| !change.is_none()) {
        outcome.then.extend(reload.filter(|_| !options.dry).map(|command| format!("then: {command}")));
    } else if was_registered {
        let is = if options.dry {
            "would not be registered any more; no file would be"
        } else {
            "is not registered any more; no file was"
        };
        outcome.lines.push(format!("{} {is} changed", engine.name()));
    }
    Ok(outcome)
}

/// Was portslice registered with this engine, on the running system?
pub fn is_registered(engine: Engine) -> bool {
    record::path(&System::running(), engine).exists()
}

/// Can [`verify`] do anything with this engine? To be asked before it is registered.
pub fn can_verify(engine: Engine, options: &Options) -> Result<()> {
    verify::client(engine, &System::new(options)?).map(drop)
}

/// Starts one throw-away container through the engine, and looks whether it had a slice. Returns a line that says so.
pub fn verify(engine: Engine, options: &Options, config: &Config) -> Result<String> {
    verify::verify(engine, &System::new(options)?, config)
}

impl Engine {
    /// All of them.
    pub const ALL: [Engine; 8] = [
        Engine::Docker,
        Engine::Containerd,
        Engine::Podman,
        Engine::Crio,
        Engine::Nomad,
        Engine::Mesos,
        Engine::Kubernetes,
        Engine::Cdi,
    ];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Docker => "docker",
            Engine::Containerd => "containerd",
            Engine::Podman => "podman",
            Engine::Crio => "crio",
            Engine::Nomad => "nomad",
            Engine::Mesos => "mesos",
            Engine::Kubernetes => "kubernetes",
            Engine::Cdi => "cdi",
        }
    }

    fn plan(self, desk: &Desk<'_>) -> Result<Plan> {
        match self {
            Engine::Docker => docker::plan(desk),
            Engine::Containerd => containerd::plan(desk),
            Engine::Podman => podman::plan(desk),
            Engine::Crio => crio::plan(desk),
            Engine::Nomad => nomad::plan(desk),
            Engine::Mesos => mesos::plan(desk),
            Engine::Kubernetes => kubernetes::plan(desk),
            Engine::Cdi => cdi::plan(desk),
        }
    }

    /// The command that makes the engine read its configuration again; `None` where it does so by itself.
    fn reload(self) -> Option<&'static str> {
        match self {
            Engine::Docker => Some("systemctl reload docker"),
            Engine::Containerd => Some("systemctl restart containerd"),
            Engine::Crio => Some("systemctl restart crio"),
            Engine::Nomad => Some("systemctl restart nomad"),
            Engine::Mesos => Some("systemctl restart mesos-slave"),
            Engine::Podman | Engine::Kubernetes | Engine::Cdi => None,
        }
    }
}

/// What an engine's plan is made from.
struct Desk<'a> {
    system: &'a System,
    record: &'a Record,
    profiles: &'a [String],
}

impl Desk<'_> {
    /// A configuration file as it is without our keys; `None` where there is none.
    fn base(&self, path: &str) -> Result<Option<String>> {
        files::base(self.system, self.record, path.as_ref())
    }

    /// The engine's program. Of a running system it must be there; of another one it need not.
    fn engine(&self, name: &str) -> Result<Option<PathBuf>> {
        let found = self.system.engine(name);
        if found.is_none() && self.system.is_running() {
            return Err(Error::NotFound(format!(
                "there is no {name} in PATH: install the engine first, or prepare another system with --root DIR"
            )));
        }
        Ok(found)
    }
}

/// What the engine's configuration is to hold, and what is to be done then.
#[derive(Default)]
struct Plan {
    wanted: Vec<files::Wanted>,
    then: Vec<String>,
}

impl Plan {
    /// Adds the line with the engine's reload.
    fn reload(mut self, engine: Engine) -> Self {
        self.then.extend(engine.reload().map(|command| format!("then: {command}")));
        self
    }
}
