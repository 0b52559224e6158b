//! Looks at everything that could be in the way: what it looks at, why it matters, how to mend it. Changes nothing.

mod checks;

use serde::Serialize;

use crate::config::Config;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but the operator should know.
    Warn,
    /// Containers will not start.
    Fail,
}

/// What one check saw.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// Runs every check.
pub fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![checks::privileges()];
    findings.extend(checks::kernel());
    findings.extend(checks::uplink(config));
    findings.push(checks::data_path(config));
    findings.push(checks::leases(config));
    findings.push(checks::firewall());
    findings
}
