//! `portslice doctor`.

use std::path::Path;
use std::process::ExitCode;

use super::args::Args;
use super::{print, print_json};
use crate::config::{Config, DEFAULT_FILE};
use crate::doctor::{FACTS, Finding, Origin, Verdict, examine};
use crate::error::{Error, Result};

pub fn run(config: &Config, args: &Args, json: bool) -> Result<ExitCode> {
    let findings = examine(config, &origin(args))?;
    if json {
        print_json(&findings)?;
    } else {
        print(&text(&findings, args.verbose))?;
    }
    let failed = findings.iter().any(|f| f.verdict == Verdict::Fail);
    let code = Error::unsupported("", "").exit_code();
    Ok(if failed { ExitCode::from(code) } else { ExitCode::SUCCESS })
}

/// What the caller gave on the command line, a command for the same installation needs as well; what stands in the
/// environment is there for that command, too.
fn origin(args: &Args) -> Origin {
    let mut command = "portslice".to_owned();
    for (option, given, variable) in
        [("--config", &args.config, "PORTSLICE_CONFIG"), ("--state-dir", &args.state_dir, "PORTSLICE_STATE_DIR")]
    {
        let Some(given) = given else { continue };
        if std::env::var_os(variable).is_none_or(|set| set != given.as_os_str()) {
            command.push_str(&format!(" {option} {}", given.display()));
        }
    }
    let file = args.config.as_deref().filter(|file| !file.as_os_str().is_empty());
    Origin { file: file.unwrap_or(Path::new(DEFAULT_FILE)).to_owned(), command }
}

/// What is wrong, then one line of facts. With `all`, what is as it should be is told line by line.
fn text(findings: &[Finding], all: bool) -> String {
    let (well, ill): (Vec<&Finding>, Vec<&Finding>) = findings.iter().partition(|f| f.verdict == Verdict::Ok);
    let mut text: String = ill.into_iter().map(paragraph).collect();
    if all {
        text.extend(well.into_iter().map(paragraph));
        return text;
    }
    let facts: Vec<&str> = well.into_iter().filter(|f| FACTS.contains(&f.check)).map(|f| f.seen.as_str()).collect();
    if !facts.is_empty() {
        text.push_str(&format!("{}{}\n", if text.is_empty() { "ok    " } else { "      " }, facts.join("; ")));
    }
    text
}

fn paragraph(finding: &Finding) -> String {
    let verdict = match finding.verdict {
        Verdict::Ok => "ok  ",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
    };
    let mut text = format!("{verdict}  {}: {}\n", finding.check, finding.seen);
    for (mark, line) in [("why ", &finding.why), ("mend", &finding.remedy)] {
        text.extend(line.iter().map(|line| format!("      {mark}: {line}\n")));
    }
    text
}
