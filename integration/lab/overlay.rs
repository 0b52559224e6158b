//! Another system's programs and configuration in the mount namespace of a simulated host.

use super::ns::Ns;
use nix::mount::{MsFlags, mount};
use std::path::Path;

/// Lays `/usr` and `/etc` of `root` over those of a namespace, with which they go; what is written there is below `dir`.
pub(super) fn cover(ns: &Ns, root: &Path, dir: &Path) {
    for name in ["usr", "etc"] {
        let layer = |part: &str| dir.join("over").join(name).join(part);
        let layers = [("lowerdir", root.join(name)), ("upperdir", layer("upper")), ("workdir", layer("work"))];
        layers[1..].iter().for_each(|(_, at)| std::fs::create_dir_all(at).expect("a layer"));
        let options = layers.map(|(key, at)| format!("{key}={}", at.display())).join(",");
        ns.inside_mounts(|| {
            let at = Path::new("/").join(name);
            let done = mount(Some("overlay"), &at, Some("overlay"), MsFlags::empty(), Some(options.as_str()));
            done.unwrap_or_else(|e| panic!("overlay on {}: {e}", at.display()));
        });
    }
    // The host resolves names as the machine does.
    std::fs::copy("/etc/resolv.conf", ns.root("/etc/resolv.conf")).expect("resolv.conf");
}
