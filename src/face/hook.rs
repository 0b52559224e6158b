//! The OCI hooks: `prestart` (or `createRuntime`) attaches, `poststop` detaches.
//!
//! The protocol: the state document on stdin, one line on stderr and a non-zero exit when the container must not
//! start. A hook that fails has undone its own work, since crun and Podman never call poststop then.

use std::io::stdin;
use std::process::ExitCode;

use super::command::prepare;
use super::report;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::process::name_by_conmon;
use crate::log;
use crate::oci::engine::identify;
use crate::oci::{State, bundle};
use crate::request::Request;
use crate::slice::{self, By, Container};

/// Gives a container that is being created its slice, or its place in the slice of its pod.
pub fn prestart() -> ExitCode {
    run("portslice-prestart", |config, state| {
        let pid = state.pid.ok_or_else(|| {
            Error::invalid(
                "container state on stdin",
                "no pid; register portslice-prestart as prestart or createRuntime, where the container exists",
            )
        })?;
        let (only_joins, engine) =
            (state.joins_a_pod() && !state.asks(), identify(&state.annotations, state.bundle.as_deref()));
        let mut request = Request::from_annotations(state.id, state.annotations)?;
        let mut hostname = None;
        if let Some(path) = &state.bundle {
            let bundle = bundle::read(path)?;
            request.own_settings = bundle.own_settings;
            request.bundle_cpus = bundle.cpus;
            request.cannot_tamper = bundle.tamper_proof;
            request.powerless = bundle.powerless;
            request.joins_namespace = bundle.joins_namespace;
            request.sandbox = bundle.sandbox;
            // Docker passes no name on. Who names the host names the container; else the name is the id's beginning.
            hostname = bundle.hostname;
        }
        request.only_joins = only_joins;
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

/// Takes a container that ended out of its slice.
pub fn poststop() -> ExitCode {
    run("portslice-poststop", |config, state| slice::detach(config, &state.id, &By::Runtime(state.bundle)).map(drop))
}

fn run(name: &str, verb: impl FnOnce(&Config, State) -> Result<()>) -> ExitCode {
    let outcome = Config::load(None).and_then(|config| config.with_state_dir(None)).and_then(|config| {
        log::start(name, &config, false);
        verb(&config, State::read(stdin().lock())?)
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            report(name, ::log::Level::Error, &e.to_string());
            ExitCode::from(e.exit_code())
        }
    }
}
