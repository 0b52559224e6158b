//! Looks at everything that could be in the way of containers, and says how to mend it. Changes nothing.
//!
//! One theme a file; each check says what it looks at, why that matters and which command mends it. What slices and the host
//! are made of is compared by [`crate::slice::fsck`]; nothing here compares it a second time.

mod asked;
mod boot;
mod firewall;
mod host;
mod kernel;
mod managers;
mod ports;
mod power;
mod resolver;
mod slices;
mod sockets;

use std::fs;
use std::path::PathBuf;

use serde::Serialize;

use crate::config::{Acceptable, Config};
use crate::error::{Error, Result};
use crate::host::process::{boot_id, in_the_hosts_user_namespace, missing_capability};
use crate::host::sysctl::Proc;
use crate::host::{Facts, HostRecord};
use crate::net::{Netlink, Netns};
use crate::wire::keep;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but the operator should know.
    Warn,
    /// Containers do not start, or do not work as they should.
    Fail,
}

/// What one check saw.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The theme.
    pub check: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// Why it matters. `None` where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The command that mends it. `None` where all is well, and where no command could.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// The themes whose facts an operator wants to see where all is well.
pub const FACTS: [&str; 4] = ["uplink", "pool", "containers", "powers"];

/// Where the caller's configuration is from, so that a printed command means the same installation.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The configuration file, which need not exist.
    pub file: PathBuf,
    /// The command as the caller has to give it: `portslice`, with options that the caller gave.
    pub command: String,
}

/// What the checks rest on, read once.
struct Scene<'a> {
    config: &'a Config,
    origin: &'a Origin,
    /// What the host is like; `None` when that cannot be told, which is a finding of its own.
    facts: Option<Facts>,
    /// What was done to the host.
    record: HostRecord,
    /// Do the files under /etc speak of this namespace?
    configured_by_files: bool,
}

impl Scene<'_> {
    /// One of our own commands.
    fn command(&self, arguments: &str) -> String {
        format!("{} {arguments}", self.origin.command)
    }

    /// Does the operator know, and leave it as it is?
    fn accepts(&self, finding: Acceptable) -> bool {
        self.config.accepted_findings.contains(&finding)
    }

    /// The command that tells us so.
    fn accept(&self, finding: Acceptable) -> String {
        let (file, finding) = (self.origin.file.display(), finding.name());
        if !self.config.accepted_findings.is_empty() {
            return format!("sed -i 's/^ *accepted_findings *= *\\[/&\"{finding}\", /' {file}");
        }
        let line = format!("accepted_findings = [\"{finding}\"]");
        let empty = fs::metadata(&self.origin.file).map_or(true, |file| file.len() == 0);
        if empty { format!("echo '{line}' >> {file}") } else { format!("sed -i '1i {line}' {file}") }
    }
}

/// Runs every check. [`Error::Unsupported`] for a caller who may not look.
pub fn examine(config: &Config, origin: &Origin) -> Result<Vec<Finding>> {
    in_the_hosts_user_namespace()?;
    if let Some(capability) = missing_capability() {
        return Err(Error::unsupported(
            format!("doctor looks into the kernel and into network namespaces, and this process lacks {capability}"),
            "run it as root",
        ));
    }
    let read = Netlink::route().and_then(|mut netlink| Facts::read(&mut netlink, &Proc::default(), config));
    let mut findings = kernel::look();
    let record = match HostRecord::read(&config.state_dir, boot_id()) {
        Ok(record) => record,
        Err(e) => {
            findings.push(host::damaged(&e, origin));
            HostRecord::default()
        }
    };
    let (facts, unread) = match read {
        Ok(facts) => (Some(facts), None),
        Err(e) => (None, Some(e)),
    };
    let scene = Scene { config, origin, facts, record, configured_by_files: keep::concern(Netns::here()?) };
    findings.extend(host::look(&scene, unread));
    findings.extend(ports::look(&scene));
    findings.extend(slices::look(&scene));
    findings.extend(sockets::look(&scene));
    findings.extend(firewall::look(&scene));
    findings.extend(boot::look(&scene));
    findings.extend(managers::look(&scene));
    findings.extend(resolver::look(&scene));
    findings.extend(asked::look(&scene));
    findings.extend(power::look(&scene));
    Ok(findings)
}

fn ok(check: &'static str, seen: impl Into<String>) -> Finding {
    Finding { check, verdict: Verdict::Ok, seen: seen.into(), why: None, remedy: None }
}

fn warn(check: &'static str, seen: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding {
        check,
        verdict: Verdict::Warn,
        seen: seen.into(),
        why: Some(why.into()),
        remedy: Some(remedy.into()).filter(|remedy| !remedy.is_empty()),
    }
}

fn fail(check: &'static str, seen: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Fail, ..warn(check, seen, why, remedy) }
}

/// A check that could not look.
fn unseen(check: &'static str, error: &Error) -> Finding {
    fail(check, error.to_string(), "nobody can tell whether this is as it should be", "")
}

/// The first of many, and how many there are besides.
fn some_of(all: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = all[..all.len().min(SHOWN)].join(", ");
    if all.len() > SHOWN { format!("{shown} and {} more", all.len() - SHOWN) } else { shown }
}
