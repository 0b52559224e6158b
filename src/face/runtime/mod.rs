//! The runtime shim: what an engine calls instead of runc or crun.
//!
//! It acts on `create` and `run`, where it leases what the container asks for and edits the bundle (`give`), and then becomes
//! the runtime itself, whose process id, arguments and environment are those it was given. Before it hands on a `delete`, it
//! takes back what a `create` leased that failed before any hook ran. Every other command is handed on at once. `precreate` is
//! no command of a runtime but a hook of Podman, which has the bundle edited without a shim.
//!
//! Errors: one line on stderr, which Podman shows, and in the file that `--log` names, which is all that containerd and Docker
//! look at.

mod argv;
mod give;
mod precreate;
mod tell;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{Config, Runtime};
use crate::error::{Error, Result};
use crate::file;
use crate::host::process::{Worker, become_program};
use crate::refusal::unknown;
use crate::slice::reclaim;
use argv::{Call, Create};
use give::{Given, Target};

/// What the program calls itself.
const NAME: &str = "portslice-runtime";

/// Our own options, each `--portslice-KEY=VALUE`.
const OPTIONS: [&str; 3] = ["config", "runtime", "state-dir"];

/// Runs the program.
pub fn main() -> ExitCode {
    let call = argv::decode(std::env::args_os().skip(1));
    let done = match (&call.create, call.words.as_slice()) {
        (Some(create), _) => created(create, &call).map(|failed| match failed {}),
        (None, [word]) if word == "precreate" => match precreate::run(&call) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(e) => Err(e),
        },
        _ => runtime(&call).and_then(|runtime| {
            call.deleted.iter().for_each(|id| withdraw(id, &call));
            Err(become_program(&runtime, &call.words))
        }),
    };
    let Err(e) = done;
    tell::tell(&call, &e);
    ExitCode::from(e.exit_code())
}

/// Edits the bundle and becomes the runtime.
fn created(create: &Create, call: &Call) -> Result<std::convert::Infallible> {
    if let Some((name, _)) = call.own.iter().find(|(name, _)| !OPTIONS.contains(&name.as_str())) {
        return Err(Error::invalid(format!("option --portslice-{name}"), unknown("option", name, &OPTIONS)));
    }
    // First: what is leased for a container that nobody can create would only have to be given back.
    let runtime = runtime(call)?;
    let given = edited(create, call)?;
    let failed = become_program(&runtime, &call.words);
    given.iter().for_each(Given::take_back);
    Err(failed)
}

/// Takes back what is leased to a container that a runtime refused to create, without a word to any hook: engines delete such
/// a one. Whatever is in the way keeps no container from being deleted: then `portslice gc` takes it back.
fn withdraw(id: &str, call: &Call) {
    let (Ok(id), Ok(config)) = (id.parse(), load(call)) else { return };
    if let Err(e) = reclaim::withdraw(&config, &id) {
        log::warn!("{e}, while giving back what was leased to {id}");
    }
}

/// Edits the bundle, if its container is to have a slice. One that cannot be read is the runtime's to refuse.
fn edited(create: &Create, call: &Call) -> Result<Option<Given>> {
    let bundle = create.bundle.as_deref().unwrap_or(Path::new("."));
    let Ok(bundle) = bundle.canonicalize() else { return Ok(None) };
    let config = bundle.join(create.config.as_deref().unwrap_or(Path::new("config.json")));
    let Ok(path) = config.canonicalize() else { return Ok(None) };
    let text = match file::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::InvalidInput => return Err(Error::file("read", path)(e)),
        Err(_) => return Ok(None),
        Ok(text) => text,
    };
    let target = Target { id: &create.id, bundle: Some(&bundle), directory: &bundle, worker: Worker::current() };
    let Some((given, text)) = give::give(&text, &target, &|| load(call))? else { return Ok(None) };
    let beside = path.with_file_name(format!(".config.json-{}", std::process::id()));
    if let Err(e) = file::replace_contents(&path, &beside, &text) {
        given.take_back();
        return Err(Error::file("write", path)(e));
    }
    Ok(Some(given))
}

/// The configuration. The log begins with it.
fn load(call: &Call) -> Result<Config> {
    let path = |name| option(call, name).map(PathBuf::from);
    let config = Config::load(path("config").as_deref())?.with_state_dir(path("state-dir").as_deref())?;
    crate::log::start(NAME, &config, false);
    Ok(config)
}

fn runtime(call: &Call) -> Result<PathBuf> {
    match option(call, "runtime") {
        Some(path) => Runtime::find(&[PathBuf::from(path)]),
        None => Runtime::find(&Runtime::paths(option(call, "config").map(Path::new))),
    }
}

fn option<'c>(call: &'c Call, name: &str) -> Option<&'c OsString> {
    call.own.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value)
}
