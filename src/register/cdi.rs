//! CDI: a device `portslice/net=default` whose edits are our two hooks. Podman and Docker (since 25) read it.

use serde_json::json;

use super::files::{Content, Wanted};
use super::system::System;
use super::{Desk, Plan};
use crate::error::Result;

const FILE: &str = "/etc/cdi/portslice.json";

pub fn plan(desk: &Desk<'_>) -> Result<Plan> {
    let then = "containers ask with --device portslice/net=default --network none; annotations portslice/... add to it";
    Ok(Plan { wanted: vec![wanted(desk.system)?], then: vec![then.to_owned()] })
}

/// The file with the device.
pub fn wanted(system: &System) -> Result<Wanted> {
    let hook = |stage: &str, name: &str| -> Result<_> {
        Ok(json!({"hookName": stage, "path": system.program(name)?, "timeout": 10}))
    };
    let hooks = [hook("createRuntime", "portslice-prestart")?, hook("poststop", "portslice-poststop")?];
    let spec = json!({
        "cdiVersion": "0.5.0",
        "kind": "portslice/net",
        "devices": [{"name": "default", "containerEdits": {"hooks": hooks}}],
    });
    Ok(Wanted::new(FILE, Content::Whole(format!("{spec:#}\n"))))
}
