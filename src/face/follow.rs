//! `portslice follow`: a small service that runs `sync` whenever something about the host changed.
//!
//! It listens to rtnetlink, and looks by itself now and then for what rtnetlink does not tell: settings, pins, and the hooks
//! of programs. It keeps nothing: whatever it missed while it did not run is found by the first look.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::process::unmap_code;
use crate::net::watch::Watch;
use crate::slice::setup::{How, sync};

/// How long after the last look it looks by itself.
const LOOK: Duration = Duration::from_secs(30);
/// Changes that follow one another within this time are one.
const QUIET: Duration = Duration::from_millis(10);
/// A burst of changes is not waited for any longer.
const BURST: Duration = Duration::from_millis(60);
/// After a failure it tries again by itself.
const AGAIN: Duration = Duration::from_secs(1);

/// Follows the host until it is ended.
pub fn run(config: &Config) -> Result<()> {
    let mut watch = Watch::open()?;
    let mut told = None;
    let mut busy = look(config, &mut told);
    // Without systemd there is nobody to be told.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    loop {
        unmap_code();
        watch.wait(if busy { AGAIN } else { LOOK }, QUIET, BURST)?;
        busy = look(config, &mut told);
    }
}

/// One sync. A failure is told once, as long as it stays the same: a host without its uplink is told of nothing new every
/// half minute. Returns whether somebody else was in the way.
fn look(config: &Config, told: &mut Option<String>) -> bool {
    let outcome = match sync(config, How { keep_programs: true, ..How::default() }) {
        Ok(outcome) => outcome,
        Err(e) => {
            let line = e.to_string();
            if told.as_ref() != Some(&line) {
                log::warn!("{line}");
                *told = Some(line);
            }
            return matches!(e, Error::Busy(_));
        }
    };
    let Some(outcome) = outcome else { return false };
    outcome.actions.iter().for_each(|action| log::info!("{action}"));
    let (failed, followed): (Vec<_>, Vec<_>) = outcome.slices.iter().partition(|slice| slice.failed.is_some());
    if !followed.is_empty() {
        log::info!("{} containers follow the host", followed.len());
    }
    let failures: Vec<String> = failed
        .iter()
        .filter_map(|slice| slice.failed.as_ref().map(|why| format!("{} does not follow the host: {why}", slice.id)))
        .collect();
    let line = (!failures.is_empty()).then(|| failures.join("; "));
    if *told != line {
        failures.iter().for_each(|line| log::warn!("{line}"));
        *told = line;
    }
    // Soon enough, whoever works on a slice is through.
    failed.iter().any(|slice| slice.worked)
}
