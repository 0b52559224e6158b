//! `portslice attach`.

use super::args::Attach;
use super::{print, print_json, print_plan, warn_of_cpus};
use crate::config::Config;
use crate::error::Result;
use crate::lease::view::view;
use crate::request::Request;
use crate::slice::setup::prepare;
use crate::slice::{self, Container};

pub fn run(config: &Config, args: &Attach) -> Result<()> {
    let mut request = Request::new(args.id.clone());
    for (key, value) in args.keys.given() {
        request.set(key, value, &format!("--{key}"))?;
    }
    let container = match (&args.netns, args.pid) {
        (Some(path), _) => Container::Path(path),
        (None, Some(pid)) => Container::Pid(pid),
        (None, None) => unreachable!("clap asks for one of them"),
    };
    if args.dry_run {
        return print_plan(&slice::attach::plan(config, &request, container)?, args.json);
    }
    let Some(lease) = slice::attach(config, &request, container, &prepare)? else { return Ok(()) };
    let member = lease.member(&args.id);
    if args.json {
        return print_json(&view(&lease, member));
    }
    let ports = member.map(|member| member.port_names.beside(&member.ports)).unwrap_or_default();
    member.iter().for_each(|member| warn_of_cpus(member));
    let ports = if ports.is_empty() { String::new() } else { format!(", ports {ports}") };
    print(&format!("{}: block {}{ports}\n", args.id, lease.block))
}
