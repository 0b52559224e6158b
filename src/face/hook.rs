//! The OCI hooks: `prestart` (or `createRuntime`) attaches, `poststop` detaches.
//!
//! The protocol: the state document on stdin, one line on stderr and a non-zero exit when the container must not
//! start. A hook that fails has undone its own work, since crun and Podman never call poststop then.

use std::io::stdin;
use std::process::ExitCode;

use super::complain;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::log;
use crate::oci::{State, bundle};
use crate::request::Request;
use crate::slice::{self, Container};

/// Gives a container that is being created its slice.
pub fn prestart() -> ExitCode {
    run("portslice-prestart", |config, state| {
        if state.joins_a_pod() {
            return Ok(());
        }
        let pid = state.pid.ok_or_else(|| {
            Error::invalid(
                "container state on stdin",
                "no pid; register portslice-prestart as prestart or createRuntime, where the container exists",
            )
        })?;
        let mut request = Request::from_annotations(state.id, state.annotations)?;
        if let Some(bundle) = &state.bundle {
            let bundle = bundle::read(bundle)?;
            request.own_settings = bundle.own_settings;
            request.bundle_cpus = bundle.cpus;
            request.cannot_tamper = bundle.tamper_proof;
            request.sandbox = bundle.sandbox;
        }
        slice::attach(config, &request, Container::Pid(pid)).map(drop)
    })
}

/// Takes the slice of a container that ended.
pub fn poststop() -> ExitCode {
    run("portslice-poststop", |config, state| slice::detach(config, &state.id).map(drop))
}

fn run(name: &str, verb: impl FnOnce(&Config, State) -> Result<()>) -> ExitCode {
    let outcome = Config::load(None).and_then(|config| config.with_state_dir(None)).and_then(|config| {
        log::start(name, &config, false);
        verb(&config, State::read(stdin().lock())?)
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            ::log::error!("{e}");
            complain(&format!("{name}: {e}"));
            ExitCode::from(e.exit_code())
        }
    }
}
