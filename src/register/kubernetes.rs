//! Kubernetes: a manifest that puts programs, configuration and the CNI network on every node. It is written to a file, and
//! whoever administers the cluster applies it.

use super::cni;
use super::files::{Content, Wanted};
use super::{Desk, Plan};
use crate::error::Result;

const FILE: &str = "/etc/portslice/kubernetes.yaml";
const MANIFEST: &str = include_str!("../../config/kubernetes/portslice.yaml");

pub fn plan(_: &Desk<'_>) -> Result<Plan> {
    let image = concat!("portslice:", env!("CARGO_PKG_VERSION"));
    // A block in YAML is moved in as its first line is.
    let list = cni::LIST.trim_end().replace('\n', "\n    ");
    let text = MANIFEST.replace("CONFLIST", &list).replace("IMAGE", image);
    let then = vec![
        format!(
            "push an image with portslice's programs, write its name into {FILE} instead of {image}, then: kubectl apply -f {FILE}"
        ),
        "pods ask with runtimeClassName: portslice and with hostPort, which the scheduler keeps apart".to_owned(),
    ];
    Ok(Plan { wanted: vec![Wanted::new(FILE, Content::Whole(text))], then })
}
