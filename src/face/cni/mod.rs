//! The CNI plugin, type `portslice`: a runtime's environment and a network's configuration -> one verb -> a result or an error
//! as JSON on standard output.
//!
//! A container's slice is known by `CNI_CONTAINERID` itself: hooks that run for the same container, or for others in its
//! namespace, find it there. One namespace has one slice, so a container has one network of this type.

pub mod ask;
mod chain;
pub mod decode;
pub mod failure;
pub mod result;
mod verbs;

use std::io::{Write, stdin, stdout};
use std::process::ExitCode;

use self::decode::{Command, Environment, NEWEST, Network, VERSIONS};
use self::verbs::Outcome;
use super::report;
use crate::log;

/// What the log calls it.
const NAME: &str = "portslice-cni";

/// Runs the plugin.
pub fn main() -> ExitCode {
    let mut version = NEWEST.to_owned();
    let (printed, code) = match run(&mut version) {
        Ok(printed) => (printed, ExitCode::SUCCESS),
        Err(failure) => {
            report(NAME, ::log::Level::Error, &failure.line);
            (Some(failure.encode(&version)), ExitCode::FAILURE)
        }
    };
    // A runtime that does not listen any more is told by nobody.
    let _ = printed.map_or(Ok(()), |value| writeln!(stdout(), "{value}"));
    code
}

/// Carries out one command. `version`: what an error is to say of the specification's version.
fn run(version: &mut String) -> Outcome {
    let environment = Environment::read(|name| std::env::var(name).ok())?;
    let text = decode::read(stdin().lock())?;
    if environment.command == Command::Version {
        // Runtimes that only probe send nothing, or placeholders.
        return Ok(Some(verbs::version(&Network::parse(&text).unwrap_or_default())));
    }
    let network = Network::parse(&text)?;
    if VERSIONS.contains(&network.version()) {
        *version = network.version().to_owned();
    }
    network.check(environment.command)?;
    let config = verbs::configure(&network)?;
    log::start(NAME, &config, false);
    match (environment.command, &environment.container) {
        (Command::Add, Some(id)) => verbs::add(&config, id.clone(), &environment, &network),
        (Command::Del, Some(id)) => verbs::del(&config, id, &environment, &network),
        (Command::Check, Some(id)) => verbs::check(&config, id, &environment, &network),
        (Command::Gc, _) => verbs::gc(&config, &network),
        _ => verbs::status(&config),
    }
}
