//! Docker: a runtime `portslice`, which every version takes; and devices (CDI), which need no runtime, since version 25.

use std::path::Path;

use super::cdi;
use super::document::{Document, Edit, Format};
use super::files::{Check, Content, Wanted};
use super::system::{ask, version};
use super::{Desk, Engine, Plan};
use crate::error::{Error, Result};

const FILE: &str = "/etc/docker/daemon.json";
/// The first version that knows `features.cdi`.
const DEVICES: (u32, u32) = (25, 0);
/// What makes it read `features`.
pub const RESTART: &str = "systemctl restart docker (devices are turned on and off by a start, not by a reload)";
/// The first version that has `dockerd --validate`.
const VALIDATES: (u32, u32) = (23, 0);

pub fn plan(desk: &Desk<'_>) -> Result<Plan> {
    let dockerd = desk.engine("dockerd")?;
    let installed = match &dockerd {
        Some(program) => version(&ask(program, &["--version"])?.out),
        None => None,
    };
    let devices = installed.is_some_and(|version| version >= DEVICES);
    let mut edits = Vec::new();
    let mut then = Vec::new();
    match desk.system.program("portslice-runtime") {
        Ok(runtime) => edits.push(Edit::new(&["runtimes", "portslice"], "path", runtime.display().to_string())),
        // Devices do without it.
        Err(Error::NotFound(why)) if devices => then.push(format!("no runtime is registered: {why}")),
        Err(e) => return Err(e),
    }
    let mut wanted = Vec::new();
    if devices {
        edits.push(Edit::new(&["features"], "cdi", true));
        wanted.push(cdi::wanted(desk)?);
    }
    let base = desk.base(FILE)?;
    Document::parse(Format::Json, base.as_deref().unwrap_or_default(), FILE)?;
    let mut file = Wanted::new(FILE, Content::Keys(Format::Json, edits));
    match (dockerd, installed) {
        (Some(program), Some(version)) if version >= VALIDATES => {
            file.check = Some(Box::new(move |candidate: &Path| loads(&program, candidate)) as Check);
        }
        (Some(_), _) => {
            then.push("this version of dockerd cannot check its configuration: it was only read as JSON".to_owned())
        }
        (None, _) => then.push(desk.system.unasked("dockerd")),
    }
    wanted.insert(0, file);
    if !devices {
        let mut plan = Plan { wanted, then }.reload(Engine::Docker);
        plan.then.push("containers ask with --runtime portslice --network none --env PORTSLICE_PORTS=31000".into());
        return Ok(plan);
    }
    then.push(format!("then: {RESTART}"));
    then.push(
        "containers ask with --device portslice/net=default --annotation portslice/ports=31000 --network none".into(),
    );
    Ok(Plan { wanted, then })
}

fn loads(dockerd: &Path, candidate: &Path) -> Result<Vec<String>> {
    let answer = ask(dockerd, &["--validate".as_ref(), "--config-file".as_ref(), candidate.as_os_str()])?;
    if answer.ok {
        return Ok(Vec::new());
    }
    Err(Error::Refused(format!("dockerd would not load {FILE}: {}; nothing was changed", answer.complaint)))
}
