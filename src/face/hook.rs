//! The OCI hooks: `prestart` (or `createRuntime`) attaches, `poststop` detaches.
//!
//! The protocol: the state document on stdin, one line on stderr and a non-zero exit when the container must not
//! start. A hook that fails has undone its own work, since crun and Podman never call poststop then.

use std::io::{Write, stdin, stdout};
use std::process::ExitCode;

use super::command::prepare;
use super::{explained, report};
use crate::config::{Config, Profile};
use crate::error::{Error, Result};
use crate::host::process::name_by_conmon;
use crate::log;
use crate::oci::engine::identify;
use crate::oci::{Bundle, State, bundle};
use crate::request::{PREFIX, Request};
use crate::slice::{self, By, Container};

/// Gives a container that is being created its slice, or its place in the slice of its pod.
pub fn prestart() -> ExitCode {
    run(bundle::PRESTART, |config, state| {
        let pid = state.pid.ok_or_else(|| {
            Error::invalid(
                "container state on stdin",
                "no pid; register portslice-prestart as prestart or createRuntime, where the container exists",
            )
        })?;
        let arguments = arguments();
        let bundle = state.bundle.as_deref().map(bundle::read).transpose()?;
        let named = bundle::profile_in(arguments.iter().map(String::as_str))?;
        let profile = named.or_else(|| bundle.as_ref().and_then(|bundle| bundle.profile.clone()));
        let (only_joins, engine) = (
            state.joins_a_pod() && !state.asks() && profile.is_none(),
            identify(&state.annotations, state.bundle.as_deref()),
        );
        let asked = match profile {
            Some(name) => with_profile(&config.profile(&name)?, state.annotations),
            None => state.annotations,
        };
        let mut request = Request::from_annotations(state.id, asked)?;
        let mut hostname = None;
        if let Some(mut bundle) = bundle {
            // Docker passes no name on. Who names the host names the container; else the name is the id's beginning.
            hostname = bundle.hostname.take();
            of_bundle(&mut request, bundle);
        }
        request.only_joins = only_joins;
        request.only_bare = arguments.iter().any(|argument| argument == bundle::ONLY_BARE);
        request.bundle = state.bundle;
        request.names = engine.names;
        if let Some(told) = match engine.name {
            Some("podman") => name_by_conmon(),
            Some("docker") => hostname.filter(|name| !request.id.as_str().starts_with(name.as_str())),
            _ => None,
        } {
            request.names.container = Some(told);
        }
        request.name = request.names.joined();
        request.engine = engine.name.map(str::to_owned);
        slice::attach(config, &request, Container::Pid(pid), &prepare).map(drop)
    })
}

/// The words behind the program's name.
fn arguments() -> Vec<String> {
    std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect()
}

/// The annotations, and what a profile asks for besides.
pub(super) fn with_profile(profile: &Profile, mut annotations: Vec<(String, String)>) -> Vec<(String, String)> {
    for (key, value) in profile {
        let key = format!("{PREFIX}{key}");
        if !annotations.iter().any(|(known, _)| *known == key) {
            annotations.push((key, value.clone()));
        }
    }
    annotations
}

/// Completes a request by what the container's bundle says.
pub(super) fn of_bundle(request: &mut Request, bundle: Bundle) {
    request.own_settings = bundle.own_settings;
    request.port_range = bundle.port_range;
    request.reserved_ports = bundle.reserved_ports;
    request.bundle_cpus = bundle.cpus;
    request.cannot_tamper = bundle.tamper_proof;
    request.powerless = bundle.powerless;
    request.net_admin = bundle.net_admin;
    request.joins_namespace = bundle.joins_namespace;
    request.sandbox = bundle.sandbox;
}

/// Takes a container that ended out of its slice.
pub fn poststop() -> ExitCode {
    run("portslice-poststop", |config, state| slice::detach(config, &state.id, &By::Runtime(state.bundle)).map(drop))
}

fn run(name: &str, verb: impl FnOnce(&Config, State) -> Result<()>) -> ExitCode {
    // Somebody who asks which version is installed has no container.
    if arguments() == ["--version"] {
        let _ = writeln!(stdout(), "{name} {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let mut id = None;
    let outcome = Config::load(None).and_then(|config| config.with_state_dir(None)).and_then(|config| {
        log::start(name, &config, false);
        let state = State::read(stdin().lock())?;
        id = Some(state.id.clone());
        verb(&config, state)
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let e = explained(e);
            let text = e.to_string();
            // Many start at the same time, and a log has the lines of all.
            let named = |id: &str| text.starts_with(&format!("{id}: ")) || text.contains(&format!("container {id}"));
            let text = match id.filter(|id| !named(id.as_str())) {
                Some(id) => format!("container {id}: {text}"),
                None => text,
            };
            report(name, ::log::Level::Error, &text);
            ExitCode::from(e.exit_code())
        }
    }
}
