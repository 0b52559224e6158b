//! The hook binaries, fed by hand as a runtime would feed them.

use super::host::{Inner, binary};
use super::run::Output;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::sync::atomic::{AtomicU32, Ordering};

/// The state document that a runtime hands to a hook that runs before the container.
pub fn creating(id: &str, pid: u32, annotations: &[(&str, &str)]) -> String {
    let annotations: serde_json::Map<String, Value> =
        annotations.iter().map(|(key, value)| ((*key).to_string(), json!(value))).collect();
    json!({"ociVersion": "1.0.2", "id": id, "status": "creating", "pid": pid, "bundle": "/", "annotations": annotations})
        .to_string()
}

/// The state document for poststop: there is no process any more.
pub fn stopped(id: &str) -> String {
    json!({"ociVersion": "1.0.2", "id": id, "status": "stopped", "bundle": "/"}).to_string()
}

impl Inner {
    /// Runs a hook binary with `input` on its stdin.
    pub fn hook(&self, name: &str, input: impl AsRef<[u8]>) -> Output {
        self.fed(&[binary(name.as_ref()).into()], input)
    }

    /// `portslice-prestart` for a namespace's holder.
    pub fn prestart(&self, id: &str, pid: u32, annotations: &[(&str, &str)]) -> Output {
        self.hook("portslice-prestart", creating(id, pid, annotations))
    }

    /// `portslice-poststop`.
    pub fn poststop(&self, id: &str) -> Output {
        self.hook("portslice-poststop", stopped(id))
    }

    /// Runs any command with `input` on its stdin: from a file, so that it need be neither read nor text.
    pub fn fed(&self, argv: &[OsString], input: impl AsRef<[u8]>) -> Output {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let file = self.dir.join(format!("stdin-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        std::fs::write(&file, input).expect("stdin");
        let shell = ["sh", "-c", "exec \"$@\" < \"$0\""].map(OsString::from);
        let out = self.run(shell.into_iter().chain([file.clone().into()]).chain(argv.iter().cloned()));
        let _ = std::fs::remove_file(file);
        out
    }
}
