//! `portslice set`.

use super::args::Set;
use super::{id_of, named, print, print_json, print_lines, print_plan, warn_of_cpus};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::lease::view::view;
use crate::request::Change;
use crate::slice;
use crate::slice::change::Changed;
use crate::slice::setup::prepare;

pub fn run(config: &Config, args: &Set) -> Result<()> {
    let mut change = Change::default();
    for (key, value) in args.given() {
        change.set(key, value, &format!("--{key}"))?;
    }
    if change.is_empty() {
        return Err(Error::invalid("portslice set", "nothing to change; give an option (see `portslice set --help`)"));
    }
    let id = id_of(&named(config, &args.id)?);
    if args.dry_run {
        return print_plan(&slice::change::plan(config, &id, &change, args.force)?, args.json);
    }
    let Changed { lease, anything } = slice::change(config, &id, &change, args.force, &prepare)?;
    let member = lease.member(&id);
    if args.json {
        return print_json(&view(&lease, member));
    }
    if change.cpus.is_some() || change.cpus_limit.is_some() || change.cpus_revocable.is_some() {
        member.iter().for_each(|member| warn_of_cpus(member));
    }
    if anything { print(&format!("{id}: changed\n")) } else { print_lines(&[]) }
}
