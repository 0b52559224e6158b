//! `portslice setup ENGINE`: registers portslice with a container engine.

use super::args::Setup;
use super::{print, print_lines};
use crate::config::{Config, DEFAULT_FILE};
use crate::error::{Error, Result};
use crate::face::report;
use crate::register::{self, Engine, Options};

/// `installation`: the options that mean another than the usual one.
pub fn run(config: &Config, engine: Engine, args: &Setup, installation: &[&str]) -> Result<()> {
    if args.at_boot {
        return Err(Error::invalid("--at-boot", "only the host is prepared at boot; an engine is registered once"));
    }
    for (option, path) in [("--root", &args.root), ("--programs", &args.programs)] {
        if path.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err(Error::invalid(option, "not an absolute path"));
        }
    }
    let profiles = config.profiles().map(str::to_owned).collect();
    let options = Options { root: args.root.clone(), programs: args.programs.clone(), profiles, dry: args.dry_run };
    if args.verify {
        register::can_verify(engine, &options)?;
    }
    let act = if args.undo { register::unregister } else { register::register };
    let outcome = act(engine, &options)?;
    if !args.undo {
        // It starts them without these options and without this command's environment.
        for option in installation {
            let line =
                format!("{option} does not reach what the engine starts, which reads {DEFAULT_FILE}: say it there");
            report("portslice", log::Level::Warn, &line);
        }
    }
    if args.dry_run && !outcome.diff.is_empty() {
        // The diff is for patch(1), and what is said of it for people.
        print(&outcome.diff)?;
        outcome.then.iter().for_each(|line| report("portslice", log::Level::Warn, line));
    } else {
        print_lines(&outcome.lines)?;
        if !outcome.then.is_empty() {
            print(&format!("{}\n", outcome.then.join("\n")))?;
        }
    }
    if args.verify { print(&format!("{}\n", register::verify(engine, &options, config)?)) } else { Ok(()) }
}

/// Refuses what is for engines alone.
pub fn refuse_options(args: &Setup) -> Result<()> {
    let given = [("--verify", args.verify), ("--root", args.root.is_some()), ("--programs", args.programs.is_some())];
    match given.into_iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => Err(Error::invalid(option, "only for an engine, as in `portslice setup podman`")),
    }
}
