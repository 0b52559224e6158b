//! CDI: a device for each profile, whose edits are our two hooks. Podman and Docker (since 25) read it.

use super::files::{Content, Wanted};
use super::{Desk, Plan};
use crate::error::{Error, Result};
use crate::oci::cdi::{Hooks, Spec};

const FILE: &str = "/etc/cdi/portslice.json";

pub fn plan(desk: &Desk<'_>) -> Result<Plan> {
    let then = "containers ask with --device portslice/net=default --network none; annotations portslice/... add to it";
    Ok(Plan { wanted: vec![wanted(desk)?], then: vec![then.to_owned()] })
}

/// The file with the devices.
pub fn wanted(desk: &Desk<'_>) -> Result<Wanted> {
    let program = desk.system.program("portslice-prestart")?;
    let poststop = desk.system.program("portslice-poststop")?;
    let directory = program.parent().filter(|directory| poststop.parent() == Some(directory)).ok_or_else(|| {
        Error::NotFound(format!(
            "{} and {} are not in one directory: install them there",
            program.display(),
            poststop.display()
        ))
    })?;
    let spec = Spec::of(&Hooks { directory, env: &[] }, desk.profiles.iter().map(String::as_str));
    let text = serde_json::to_string_pretty(&spec).map_err(|e| Error::Failed(format!("cannot write {FILE}: {e}")))?;
    Ok(Wanted::new(FILE, Content::Whole(text + "\n")))
}
