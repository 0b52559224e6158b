//! Which engine started a container, and what people call the container there.
//!
//! Runtimes are not told by whom they are called. What gives an engine away is what it writes for itself: annotations, and
//! where it keeps its bundles.

use std::path::Path;

/// The engine, and the name that its annotations tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Engine {
    /// `podman`, `cri-o`, `containerd`, `docker`; `None` for a runtime that somebody called by hand.
    pub name: Option<&'static str>,
    /// What people call the container.
    pub container: Option<String>,
}

/// Tells the engine from a container's annotations and its bundle.
pub fn identify(annotations: &[(String, String)], bundle: Option<&Path>) -> Engine {
    let value = |key: &str| annotations.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone());
    let begins = |start: &str| annotations.iter().any(|(key, _)| key.starts_with(start));
    let bundle = bundle.and_then(Path::to_str).unwrap_or_default();
    let pod = |name: &str, sandbox: &str, namespace: &str| {
        let container = value(name).filter(|name| !name.is_empty());
        let pod = match (value(namespace), value(sandbox)) {
            (Some(namespace), Some(pod)) => Some(format!("{namespace}/{pod}")),
            (None, pod) => pod,
            (Some(_), None) => None,
        };
        match (pod, container) {
            (Some(pod), Some(container)) => Some(format!("{pod}/{container}")),
            (pod, container) => pod.or(container),
        }
    };
    if value("io.container.manager").as_deref() == Some("libpod") || bundle.contains("/overlay-containers/") {
        return Engine { name: Some("podman"), container: None };
    }
    if begins("io.kubernetes.cri-o.") {
        let container = pod("io.kubernetes.container.name", "io.kubernetes.pod.name", "io.kubernetes.pod.namespace");
        return Engine { name: Some("cri-o"), container };
    }
    if begins("io.kubernetes.cri.") {
        let container = pod(
            "io.kubernetes.cri.container-name",
            "io.kubernetes.cri.sandbox-name",
            "io.kubernetes.cri.sandbox-namespace",
        );
        return Engine { name: Some("containerd"), container };
    }
    let name = match () {
        () if bundle.contains("/io.containerd.runtime.v2.task/moby/") => Some("docker"),
        () if bundle.contains("/io.containerd.runtime.v2.task/") => Some("containerd"),
        () => None,
    };
    Engine { name, container: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(pairs: &[(&str, &str)], bundle: &str) -> (Option<&'static str>, Option<String>) {
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let engine = identify(&pairs, Some(Path::new(bundle)));
        (engine.name, engine.container)
    }

    #[test]
    fn engines_are_known_by_what_they_write() {
        assert_eq!(named(&[], "/tmp/bundle"), (None, None));
        assert_eq!(named(&[("io.container.manager", "libpod")], "/b"), (Some("podman"), None));
        let docker = "/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby/2cd9";
        assert_eq!(named(&[], docker), (Some("docker"), None));
        assert_eq!(named(&[], "/run/containerd/io.containerd.runtime.v2.task/default/c1"), (Some("containerd"), None));
        let cri = [
            ("io.kubernetes.cri.container-name", "web"),
            ("io.kubernetes.cri.sandbox-name", "shop"),
            ("io.kubernetes.cri.sandbox-namespace", "prod"),
        ];
        assert_eq!(named(&cri, "/b"), (Some("containerd"), Some("prod/shop/web".into())));
    }
}
