//! The state document a runtime gives to a hook (runtime-spec, "State"), read leniently: only what is needed, and
//! nothing refused for being unknown. Runtimes differ in the rest: runc says "creating", crun "created", and both
//! leave out or zero the pid at poststop.

use std::io::Read;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::lease::ContainerId;
use crate::refusal::one_line;

/// No honest state comes near it.
const LONGEST: u64 = 4 << 20;

/// What a hook needs of it.
#[derive(Debug)]
pub struct State {
    /// The container.
    pub id: ContainerId,
    /// Its first process, in the pid namespace of the runtime.
    pub pid: Option<u32>,
    /// Annotations whose values are strings.
    pub annotations: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Document {
    id: String,
    #[serde(default)]
    pid: Option<i64>,
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
        let annotations = document.annotations.unwrap_or_default().into_iter();
        Ok(Self {
            id: document.id.parse()?,
            pid: document.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0),
            annotations: annotations
                .filter_map(|(key, value)| match value {
                    Value::String(text) => Some((key, text)),
                    _ => None,
                })
                .collect(),
        })
    }

    /// Is this a container that joins the namespace of its pod's sandbox? Only the sandbox gets a slice.
    pub fn joins_a_pod(&self) -> bool {
        const TYPES: [&str; 2] = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];
        self.annotations.iter().any(|(key, value)| TYPES.contains(&key.as_str()) && value == "container")
    }
}
