//! The specification of our devices for the Container Device Interface: an engine that is asked for the device
//! `portslice/net=NAME` adds our hooks to the container's bundle. No node of a device is added.
//!
//! A device is a profile: a container that is given one cannot say more, since no specification may add annotations, so the
//! profile's name stands in the hook's arguments.

use std::path::Path;

use serde::Serialize;

/// The newest version that Podman 4.3 reads; a newer one would be needed for annotations and for dots in the kind's second
/// part. Names of devices may begin with a digit since this one.
const VERSION: &str = "0.5.0";
/// What stands before `=` in a device's name.
pub const KIND: &str = "portslice/net";

/// A specification, as it lies in `/etc/cdi`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    cdi_version: &'static str,
    kind: &'static str,
    devices: Vec<Device>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    container_edits: Edits,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Edits {
    hooks: Vec<Hook>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Hook {
    hook_name: &'static str,
    path: String,
    args: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    timeout: u32,
}

/// How our hooks are called.
#[derive(Clone, Copy, Debug)]
pub struct Hooks<'a> {
    /// The directory of both programs.
    pub directory: &'a Path,
    /// `KEY=VALUE`.
    pub env: &'a [String],
}

impl Spec {
    /// One device for each profile.
    pub fn of<'p>(hooks: &Hooks<'_>, profiles: impl Iterator<Item = &'p str>) -> Self {
        let edits = |profile: &str| Edits {
            hooks: vec![
                hooks.hook("createRuntime", "portslice-prestart", &["--profile", profile]),
                hooks.hook("poststop", "portslice-poststop", &[]),
            ],
        };
        let devices = profiles.map(|name| Device { name: name.to_owned(), container_edits: edits(name) }).collect();
        Spec { cdi_version: VERSION, kind: KIND, devices }
    }
}

impl Hooks<'_> {
    fn hook(&self, hook_name: &'static str, program: &str, args: &[&str]) -> Hook {
        /// Seconds; waiting for a host that is set up takes 10 at most.
        const TIMEOUT: u32 = 15;
        let args = std::iter::once(program).chain(args.iter().copied()).map(str::to_owned).collect();
        let path = self.directory.join(program).to_string_lossy().into_owned();
        Hook { hook_name, path, args, env: self.env.to_vec(), timeout: TIMEOUT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_shipped_file_is_what_is_generated() {
        let shipped: Value = serde_json::from_str(include_str!("../../config/cdi/portslice.json")).unwrap();
        let hooks = Hooks { directory: Path::new("/usr/libexec/portslice"), env: &[] };
        assert_eq!(serde_json::to_value(Spec::of(&hooks, ["default"].into_iter())).unwrap(), shipped);
    }

    #[test]
    fn a_profile_travels_in_the_arguments() {
        let env = ["PORTSLICE_CONFIG=/c".to_owned()];
        let spec = Spec::of(&Hooks { directory: Path::new("/h"), env: &env }, ["default", "web"].into_iter());
        let spec = serde_json::to_value(spec).unwrap();
        let device = &spec["devices"][1];
        assert_eq!((&device["name"], &spec["kind"]), (&json!("web"), &json!(KIND)));
        let hooks = &device["containerEdits"]["hooks"];
        assert_eq!(hooks[0]["args"], json!(["portslice-prestart", "--profile", "web"]));
        assert_eq!((&hooks[0]["path"], &hooks[1]["env"]), (&json!("/h/portslice-prestart"), &json!(env)));
    }
}
