//! The state document a runtime gives to a hook (runtime-spec, "State"), read leniently: only what is needed, and
//! nothing refused for being unknown. Runtimes differ in the rest: runc says "creating", crun "created", and both
//! leave out or zero the pid at poststop.

use std::io::Read;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::refusal::one_line;
use crate::request::ContainerId;
use crate::request::PREFIX;

/// No honest state comes near it.
const LONGEST: u64 = 4 << 20;

/// What a hook needs of it.
#[derive(Debug)]
pub struct State {
    /// The container.
    pub id: ContainerId,
    /// Its first process, in the pid namespace of the runtime.
    pub pid: Option<u32>,
    /// Where the bundle is.
    pub bundle: Option<PathBuf>,
    /// Annotations whose values are strings, as the specification wants them all.
    pub annotations: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Document {
    id: String,
    #[serde(default)]
    pid: Option<i64>,
    #[serde(default)]
    bundle: Option<PathBuf>,
    #[serde(default)]
    annotations: Option<Map<String, Value>>,
}

impl State {
    /// Reads the document to its end.
    pub fn read(input: impl Read) -> Result<Self> {
        let mut text = Vec::new();
        input
            .take(LONGEST + 1)
            .read_to_end(&mut text)
            .map_err(|e| Error::Failed(format!("cannot read the container's state from stdin: {e}")))?;
        if text.len() as u64 > LONGEST {
            return Err(Error::invalid("container state on stdin", "longer than 4 MiB"));
        }
        let document: Document = serde_json::from_slice(&text).map_err(|e| {
            let why = format!("{}; a hook is given the OCI state document", one_line(&e.to_string()));
            Error::invalid("container state on stdin", why)
        })?;
        let mut annotations = Vec::new();
        for (key, value) in document.annotations.unwrap_or_default() {
            match value {
                Value::String(text) => annotations.push((key, text)),
                _ if key.starts_with(PREFIX) => {
                    let place = format!("annotation {}", one_line(&key));
                    return Err(Error::invalid(place, "its value is not a string; write it in quotes"));
                }
                _ => {}
            }
        }
        Ok(Self {
            id: document.id.parse()?,
            pid: document.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0),
            bundle: document.bundle,
            annotations,
        })
    }

    /// Does it ask for anything of ours?
    pub fn asks(&self) -> bool {
        self.annotations.iter().any(|(key, _)| key.starts_with(PREFIX))
    }

    /// Is this a container that joins the namespace of its pod's sandbox?
    pub fn joins_a_pod(&self) -> bool {
        const TYPES: [&str; 2] = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];
        self.annotations.iter().any(|(key, value)| TYPES.contains(&key.as_str()) && value == "container")
    }
}
