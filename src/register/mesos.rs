//! Mesos: a CNI network `portslice` for the isolator network/cni of an agent. It reads single plugins, not lists of them.

use serde_json::{Value, json};

use super::cni;
use super::files::{Content, Wanted};
use super::{Desk, Engine, Plan};
use crate::error::{Error, Result};

const PLUGINS: &str = "/opt/cni/bin";
const NETWORKS: &str = "/etc/mesos/cni";

pub fn plan(desk: &Desk<'_>) -> Result<Plan> {
    let list: Value = serde_json::from_str(cni::LIST).map_err(|e| Error::Failed(format!("config/cni: {e}")))?;
    // Port mappings and labels come in args, which an agent adds by itself, so there are no capabilities.
    let network = json!({"cniVersion": list["cniVersion"], "name": list["name"], "type": list["plugins"][0]["type"]});
    let file = Wanted::new(format!("{NETWORKS}/portslice.conf"), Content::Whole(format!("{network:#}\n")));
    let wanted = [Some(file), cni::plugin(desk.system, PLUGINS)?].into_iter().flatten().collect();
    let flags =
        format!("--isolation=...,network/cni --network_cni_config_dir={NETWORKS} --network_cni_plugins_dir={PLUGINS}");
    let mut plan = Plan { wanted, then: vec![format!("the agent needs the flags {flags}")] }.reload(Engine::Mesos);
    plan.then.push("tasks ask with NetworkInfo { name: \"portslice\" }, its port_mappings and labels".to_owned());
    Ok(plan)
}
