//! `portslice set`.

use super::args::Set;
use super::{print, print_json, warn_of_cpus};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::request::Change;
use crate::slice;

pub fn run(config: &Config, args: &Set) -> Result<()> {
    let mut change = Change::default();
    for (key, value) in args.given() {
        change.set(key, value, &format!("--{key}"))?;
    }
    if change.is_empty() {
        return Err(Error::invalid("portslice set", "nothing to change; give an option (see `portslice set --help`)"));
    }
    let lease = slice::change(config, &args.id, &change, args.force)?;
    if args.json {
        return print_json(&lease);
    }
    if change.cpus.is_some() || change.cpus_limit.is_some() || change.cpus_revocable.is_some() {
        warn_of_cpus(&lease);
    }
    print(&format!("{}: changed\n", lease.id))
}
