//! What an engine calls a container and what it is made of, beside the one name that people use for it.

use serde::{Deserialize, Serialize};

/// The names of one container in its engine's own words. `None`: the engine does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// The container's name within its pod, or its only name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The pod's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The namespace of Kubernetes that the pod is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The image, as whoever started the container wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

impl Names {
    /// Whether the engine told none of them.
    pub fn are_unknown(&self) -> bool {
        *self == Self::default()
    }

    /// The name for people: what is known of `namespace/pod/container`.
    pub fn joined(&self) -> Option<String> {
        // A namespace alone names no container.
        let namespace = self.namespace.as_ref().filter(|_| self.pod.is_some());
        let parts: Vec<&str> =
            [namespace, self.pod.as_ref(), self.container.as_ref()].into_iter().flatten().map(String::as_str).collect();
        if parts.is_empty() { None } else { Some(parts.join("/")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_joined_as_far_as_they_are_known() {
        for (container, pod, namespace, joined) in [
            (Some("web"), Some("shop"), Some("prod"), Some("prod/shop/web")),
            (None, Some("shop"), Some("prod"), Some("prod/shop")),
            (Some("web"), Some("shop"), None, Some("shop/web")),
            (Some("web"), None, None, Some("web")),
            (Some("web"), None, Some("prod"), Some("web")),
            (None, None, Some("prod"), None),
            (None, None, None, None),
        ] {
            let [container, pod, namespace] =
                [container, pod, namespace].map(|name: Option<&str>| name.map(str::to_owned));
            let names = Names { container, pod, namespace, image: None };
            assert_eq!(names.joined().as_deref(), joined);
        }
    }
}
