//! Nomad: a CNI network `portslice`, where clients look for networks and plugins.

use super::cni;
use super::files::{Content, Wanted};
use super::{Desk, Engine, Plan};
use crate::error::Result;

/// A client's `cni_path` and `cni_config_dir`, unless its configuration says otherwise.
const PLUGINS: &str = "/opt/cni/bin";
const NETWORKS: &str = "/opt/cni/config";

pub fn plan(desk: &Desk<'_>) -> Result<Plan> {
    desk.engine("nomad")?;
    let list = Wanted::new(format!("{NETWORKS}/portslice.conflist"), Content::Whole(cni::LIST.to_owned()));
    let wanted = [Some(list), cni::plugin(desk.system, PLUGINS)?].into_iter().flatten().collect();
    let mut plan = Plan { wanted, then: Vec::new() }.reload(Engine::Nomad);
    plan.then.push(format!("a client that sets cni_path or cni_config_dir has to name {PLUGINS} and {NETWORKS}"));
    plan.then.push("jobs ask with network { mode = \"cni/portslice\" }, its port blocks and cni { args }".to_owned());
    Ok(plan)
}
