//! Names that statistics carry beside the id of a container.

use serde::{Deserialize, Serialize};

/// Names the statistics carry, as Mesos called them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// The executor; the container id when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor_id: Option<String>,
    /// Its display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor_name: Option<String>,
    /// The framework.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub framework_id: Option<String>,
    /// Where the task came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}
