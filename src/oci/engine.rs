//! Which engine started a container, and what people call the container there.
//!
//! Runtimes are not told by whom they are called. What gives an engine away is what it writes for itself: annotations, and
//! where it keeps its bundles.

use std::path::Path;

use crate::refusal::one_line;
use crate::request::Names;

/// The engine, and the names that its annotations tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Engine {
    /// `podman`, `cri-o`, `containerd`, `docker`; `None` for a runtime that somebody called by hand.
    pub name: Option<&'static str>,
    /// What it calls the container.
    pub names: Names,
}

/// The annotations that tell names: container, pod, namespace, image.
type Keys = [&'static str; 4];

const CRI_O: Keys = [
    "io.kubernetes.container.name",
    "io.kubernetes.pod.name",
    "io.kubernetes.pod.namespace",
    "io.kubernetes.cri-o.ImageName",
];
const CONTAINERD: Keys = [
    "io.kubernetes.cri.container-name",
    "io.kubernetes.cri.sandbox-name",
    "io.kubernetes.cri.sandbox-namespace",
    "io.kubernetes.cri.image-name",
];

/// Tells the engine from a container's annotations and its bundle.
pub fn identify(annotations: &[(String, String)], bundle: Option<&Path>) -> Engine {
    let value = |key: &str| annotations.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str());
    let begins = |start: &str| annotations.iter().any(|(key, _)| key.starts_with(start));
    let bundle = bundle.and_then(Path::to_str).unwrap_or_default();
    let named = |keys: Keys| {
        let [container, pod, namespace, image] =
            keys.map(|key| value(key).filter(|name| !name.is_empty()).map(one_line));
        Names { container, pod, namespace, image }
    };
    if value("io.container.manager") == Some("libpod") || bundle.contains("/overlay-containers/") {
        return Engine { name: Some("podman"), names: Names::default() };
    }
    if begins("io.kubernetes.cri-o.") {
        return Engine { name: Some("cri-o"), names: named(CRI_O) };
    }
    if begins("io.kubernetes.cri.") {
        return Engine { name: Some("containerd"), names: named(CONTAINERD) };
    }
    let name = bundle.split_once("/io.containerd.runtime.v2.task/").map(|(_, task)| match task {
        // Docker's namespace of containerd is named after its users where they are remapped: `moby-100000.100000`.
        _ if task.starts_with("moby/") || task.starts_with("moby-") => "docker",
        _ => "containerd",
    });
    Engine { name, names: Names::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(pairs: &[(&str, &str)], bundle: &str) -> (Option<&'static str>, Option<String>) {
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let engine = identify(&pairs, Some(Path::new(bundle)));
        (engine.name, engine.names.joined())
    }

    #[test]
    fn engines_are_known_by_what_they_write() {
        assert_eq!(named(&[], "/tmp/bundle"), (None, None));
        assert_eq!(named(&[("io.container.manager", "libpod")], "/b"), (Some("podman"), None));
        let docker = "/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby/2cd9";
        assert_eq!(named(&[], docker), (Some("docker"), None));
        let remapped = docker.replace("/moby/", "/moby-100000.100000/");
        assert_eq!(named(&[], &remapped), (Some("docker"), None));
        assert_eq!(named(&[], "/run/containerd/io.containerd.runtime.v2.task/default/c1"), (Some("containerd"), None));
        let cri = [
            ("io.kubernetes.cri.container-name", "web"),
            ("io.kubernetes.cri.sandbox-name", "shop"),
            ("io.kubernetes.cri.sandbox-namespace", "prod"),
        ];
        assert_eq!(named(&cri, "/b"), (Some("containerd"), Some("prod/shop/web".into())));
    }

    #[test]
    fn names_and_image_are_kept_apart() {
        let cri = [
            ("io.kubernetes.cri.container-name", "web"),
            ("io.kubernetes.cri.sandbox-name", "shop"),
            ("io.kubernetes.cri.sandbox-namespace", ""),
            ("io.kubernetes.cri.image-name", "docker.io/library/nginx:1.27\n"),
        ];
        let pairs: Vec<_> = cri.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let names = identify(&pairs, None).names;
        assert_eq!(
            (names.container.as_deref(), names.pod.as_deref(), names.namespace),
            (Some("web"), Some("shop"), None)
        );
        let image = names.image.unwrap();
        assert!(image.starts_with("docker.io/library/nginx:1.27") && !image.contains('\n'), "{image:?}");
        let cri_o = [("io.kubernetes.cri-o.ImageName", "quay.io/x"), ("io.kubernetes.pod.name", "shop")];
        let pairs: Vec<_> = cri_o.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let engine = identify(&pairs, None);
        assert_eq!((engine.name, engine.names.image.as_deref()), (Some("cri-o"), Some("quay.io/x")));
    }
}
