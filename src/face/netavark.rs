//! The netavark plugin: Podman's networks of the driver `portslice`.
//!
//! The protocol (netavark's plugin API 1.0.0): a subcommand, a JSON document on stdin, and one on stdout. Podman itself
//! calls `create` when such a network is made; netavark calls `setup` and `teardown` with the path of a container's network
//! namespace, and `info` tells versions. A failure is `{"error": "..."}` on stdout and exit code 1: Podman shows that line.

mod call;
mod network;
mod status;

use std::io::{Read, Write, stdin, stdout};
use std::path::Path;
use std::process::ExitCode;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use self::call::Call;
use self::status::Status;
use super::command::prepare;
use super::explained;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::HostRecord;
use crate::host::process::boot_id;
use crate::lease::Ledger;
use crate::log;
use crate::net::Netns;
use crate::refusal::one_line;
use crate::slice::{self, By, Container};

const NAME: &str = "portslice-netavark";

/// Runs the plugin.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(Value::Null) => ExitCode::SUCCESS,
        Ok(answer) => say(&answer),
        Err(e) => {
            let line = explained(e).to_string();
            ::log::error!("{line}");
            say(&json!({ "error": line }));
            ExitCode::FAILURE
        }
    }
}

/// What is to stand on stdout; null for nothing.
fn run(words: &[&str]) -> Result<Value> {
    match words {
        ["create"] => network::create(input()?),
        ["setup", netns] => setup(Path::new(netns), &input()?),
        ["teardown", netns] => teardown(Path::new(netns), &input()?).map(|()| Value::Null),
        ["info"] | [] => Ok(json!({ "version": env!("CARGO_PKG_VERSION"), "api_version": "1.0.0" })),
        ["setup" | "teardown", ..] => {
            Err(Error::invalid(NAME, "name one network namespace: setup NETNS, teardown NETNS"))
        }
        _ => Err(Error::invalid(
            NAME,
            "this is netavark's plugin, which knows create, setup NETNS, teardown NETNS and info; the command line is `portslice`",
        )),
    }
}

/// Gives a container its slice. Doing that again is a check, and answers the same.
fn setup(netns: &Path, call: &Call) -> Result<Value> {
    let config = configured()?;
    let request = call.request()?;
    let Some(lease) = slice::attach(&config, &request, Container::Path(netns), &prepare)? else {
        return Ok(Value::Null);
    };
    let given = HostRecord::read(&config.state_dir, boot_id())?.given();
    encoded(&Status::of(&lease, &given))
}

/// Takes a container out of its slice. Succeeds when it is in none: netavark calls this twice, or after a failed setup.
fn teardown(netns: &Path, call: &Call) -> Result<()> {
    let config = configured()?;
    let id = call.id()?;
    // A container whose namespace was made anew meanwhile is another one's to end.
    let lease = Ledger::at(&config.state_dir).of_member(&id)?;
    if let (Some(lease), Ok(there)) = (lease, Netns::open(netns))
        && there.id != lease.netns_id
    {
        ::log::info!("{id}: its slice is not in {}, and goes on", netns.display());
        return Ok(());
    }
    slice::detach(&config, &id, &By::Operator).map(drop)
}

fn configured() -> Result<Config> {
    let config = Config::load(None)?.with_state_dir(None)?;
    log::start(NAME, &config, false);
    Ok(config)
}

/// Reads the document on stdin.
fn input<T: DeserializeOwned>() -> Result<T> {
    /// Thousands of published ports stay far below it.
    const LONGEST: u64 = 16 << 20;
    let mut text = Vec::new();
    let read = stdin().lock().take(LONGEST + 1).read_to_end(&mut text);
    read.map_err(|e| Error::Failed(format!("cannot read netavark's document from stdin: {e}")))?;
    if text.len() as u64 > LONGEST {
        return Err(Error::invalid("netavark's document on stdin", "longer than 16 MiB"));
    }
    serde_json::from_slice(&text).map_err(|e| {
        Error::invalid("netavark's document on stdin", one_line(&format!("{e}; netavark's plugin API is 1.0.0")))
    })
}

fn encoded(answer: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(answer).map_err(|e| Error::Failed(format!("cannot encode JSON: {e}")))
}

fn say(answer: &Value) -> ExitCode {
    match writeln!(stdout(), "{answer}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
