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
use crate::oci::{Bundle, State, bundle};
use crate::request::Request;
use crate::slice::{self, By, Container};

/// The argument of a hook that the shim added for a container that did not ask: it is left alone unless its namespace is bare.
pub(super) const ONLY_BARE: &str = "--only-bare";

/// Gives a container that is being created its slice, or its place in the slice of its pod.
pub fn prestart() -> ExitCode {
    run("portslice-prestart", |config, state| {
        let pid = state.pid.ok_or_else(|| {
            Error::invalid(
                "container state on stdin",
                "no pid; register portslice-prestart as prestart or createRuntime, where the container exists",
            )
        })?;
        let only_bare = std::env::args_os().skip(1).any(|argument| argument == ONLY_BARE);
        let (only_joins, engine) =
            (state.joins_a_pod() && !state.asks(), identify(&state.annotations, state.bundle.as_deref()));
        let mut request = Request::from_annotations(state.id, state.annotations)?;
        if let Some(path) = &state.bundle {
            of_bundle(&mut request, bundle::read(path)?);
        }
        (request.only_joins, request.only_bare) = (only_joins, only_bare);
        request.bundle = state.bundle;
        request.name = engine.container.or_else(|| name_by_conmon().filter(|_| engine.name == Some("podman")));
        request.engine = engine.name.map(str::to_owned);
        slice::attach(config, &request, Container::Pid(pid), &prepare).map(drop)
    })
}

/// Completes a request by what the container's bundle says.
pub(super) fn of_bundle(request: &mut Request, bundle: Bundle) {
    request.own_settings = bundle.own_settings;
    request.port_range = bundle.port_range;
    request.bundle_cpus = bundle.cpus;
    request.cannot_tamper = bundle.tamper_proof;
    request.powerless = bundle.powerless;
    request.joins_namespace = bundle.joins_namespace;
    request.sandbox = bundle.sandbox;
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
