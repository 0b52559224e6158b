//! `portslice doctor`.

use std::process::ExitCode;

use super::{print, print_json};
use crate::config::Config;
use crate::doctor::{Finding, Verdict, examine};
use crate::error::{Error, Result};

pub fn run(config: &Config, json: bool) -> Result<ExitCode> {
    let findings = examine(config);
    if json {
        print_json(&findings)?;
    } else {
        print(&findings.iter().map(line).collect::<String>())?;
    }
    let failed = findings.iter().any(|f| f.verdict == Verdict::Fail);
    let code = Error::unsupported("", "").exit_code();
    Ok(if failed { ExitCode::from(code) } else { ExitCode::SUCCESS })
}

fn line(finding: &Finding) -> String {
    let verdict = match finding.verdict {
        Verdict::Ok => "ok  ",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
    };
    let remedy = finding.remedy.as_ref().map(|r| format!("\n      -> {r}")).unwrap_or_default();
    format!("{verdict}  {}: {}{remedy}\n", finding.check, finding.seen)
}
