//! `portslice attach`.

use super::args::Attach;
use super::{print, print_json, warn_of_cpus};
use crate::config::Config;
use crate::error::Result;
use crate::request::Request;
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
    let lease = slice::attach(config, &request, container)?;
    if args.json {
        return print_json(&lease);
    }
    warn_of_cpus(&lease);
    let ports = &lease.terms.ports;
    let ports = if ports.is_empty() { String::new() } else { format!(", ports {ports}") };
    print(&format!("{}: block {}{ports}\n", lease.id, lease.block))
}
