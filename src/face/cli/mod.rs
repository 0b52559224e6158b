//! The command line: arguments -> one verb -> text or JSON.

mod args;
mod attach;
mod cdi;
mod claims;
mod doctor;
mod explain;
mod fsck;
mod list;
mod register;
mod set;
mod setup;
mod show;
mod stats;
mod top;

use std::io::{self, Write};
use std::process::{ExitCode, exit};

use clap::Parser;
use clap::error::ErrorKind;
use serde::Serialize;

use self::args::{Args, Command};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::face::{complain, explained, follow, report, serve};
use crate::lease::{Lease, Ledger, Member, names};
use crate::plan::{Action, Done};
use crate::refusal::one_line;
use crate::request::ContainerId;
use crate::slice::{self, By, detach, reclaim};

/// Runs the program.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => return usage(&e),
    };
    match run(&args) {
        Ok(code) => code,
        Err(e) => {
            let e = explained(e);
            report("portslice", log::Level::Error, &e.to_string());
            ExitCode::from(e.exit_code())
        }
    }
}

/// Help and version as they are; a mistake on one line.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    let mut paragraphs = text.split("\n\n").map(str::trim);
    let said = paragraphs.next().unwrap_or_default();
    let mut said = one_line(said.strip_prefix("error: ").unwrap_or(said));
    if let Some(tip) = paragraphs.find_map(|p| p.strip_prefix("tip: ")) {
        said.push_str(&format!("; {}", one_line(tip)));
    }
    // without any argument clap has nothing to say but the help itself
    if matches!(error.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand) {
        complain(text.trim_end());
    } else {
        complain(&format!("portslice: {said} (see `portslice --help`)"));
    }
    ExitCode::from(2)
}

fn run(args: &Args) -> Result<ExitCode> {
    let config = Config::load(args.config.as_deref())?;
    let installation = args.installation(&config.state_dir);
    let config = config.with_state_dir(args.state_dir.as_deref())?;
    crate::log::start("portslice", &config, args.verbose);
    config.check_profiles()?;
    match &args.command {
        Command::Setup(setup) => setup::run(&config, setup, &installation),
        Command::Sync { dry_run } => setup::sync(&config, *dry_run),
        Command::Follow => follow::run(&config),
        Command::Attach(attach) => attach::run(&config, attach),
        Command::Set(set) => set::run(&config, set),
        Command::Detach { id, dry_run } => end(&config, id, *dry_run),
        Command::List { json } => list::run(&config, *json),
        Command::Show { id, json } => show::run(&config, id, *json),
        Command::Stats(stats) => stats::run(&config, stats),
        Command::Top(top) => top::run(&config, top),
        Command::Serve { listen } => serve::run(config, listen),
        Command::Gc { json, dry_run } => gc(&config, *json, *dry_run),
        Command::Fsck(fsck) => return fsck::run(&config, fsck),
        Command::Cdi => cdi::run(&config),
        Command::Explain { asked, from, json } => explain::run(&config, asked, from.as_deref(), *json),
        Command::Doctor { json } => return doctor::run(&config, args, *json),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn end(config: &Config, text: &str, dry: bool) -> Result<()> {
    let id = match named(config, text) {
        Ok(found) => id_of(&found),
        // Detaching what is not attached is success; what could be no container's name is a mistake.
        Err(Error::NotFound(_)) => text.parse()?,
        Err(e) => return Err(e),
    };
    if dry {
        return print_plan(&detach::plan(config, &id)?, false);
    }
    match slice::detach(config, &id, &By::Operator)? {
        // Who gave a name, or the beginning of one, is told what that came to.
        Some(_) if id.as_str() != text => print(&format!("detached {id}\n")),
        Some(_) => Ok(()),
        None => {
            log::debug!("{id}: nothing is attached");
            Ok(())
        }
    }
}

fn gc(config: &Config, json: bool, dry: bool) -> Result<()> {
    if dry {
        return print_plan(&reclaim::plan(config)?, json);
    }
    let reclaimed = reclaim::gc(config)?;
    if json { print_json(&reclaimed.ended) } else { print_lines(&reclaimed.lines) }
}

/// What `text` names: a slice, and the member unless all left it. An id is found without a look at other leases.
fn named(config: &Config, text: &str) -> Result<(Lease, Option<Member>)> {
    let ledger = Ledger::at(&config.state_dir);
    if let Ok(id) = text.parse::<ContainerId>()
        && let Some(lease) = ledger.of_member(&id)?
    {
        let member = lease.member(&id).cloned();
        return Ok((lease, member));
    }
    let leases = ledger.all()?;
    let (lease, member) = names::find(&leases, text)?;
    Ok((lease.clone(), member.cloned()))
}

/// The id of what was found.
fn id_of((lease, member): &(Lease, Option<Member>)) -> ContainerId {
    member.as_ref().map_or(&lease.id, |member| &member.id).clone()
}

/// Where its CPUs are not what was asked for.
fn warn_of_cpus(member: &Member) {
    member.cpu.notes.iter().for_each(|note| complain(&format!("portslice: warning: {}: {note}", member.id)));
}

/// What would be done; as JSON, an array of what follows the word "would".
fn print_plan(actions: &[Action], json: bool) -> Result<()> {
    if json {
        return print_json(&actions.iter().map(ToString::to_string).collect::<Vec<_>>());
    }
    print_lines(&actions.iter().map(|action| format!("would {action}")).collect::<Vec<_>>())
}

/// What was done, one line an action.
fn done(actions: &[Action]) -> Vec<String> {
    actions.iter().map(|action| Done(action).to_string()).collect()
}

/// What was changed, one line each.
fn print_lines(lines: &[String]) -> Result<()> {
    if lines.is_empty() { print("nothing to do\n") } else { print(&format!("{}\n", lines.join("\n"))) }
}

fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::Failed(format!("cannot encode JSON: {e}")))?;
    print(&format!("{text}\n"))
}

/// A reader that went away (`| head`) is not a failure, but there is nothing left to do.
fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => exit(0),
        written => written.map_err(|e| Error::Failed(format!("cannot write to stdout: {e}"))),
    }
}
