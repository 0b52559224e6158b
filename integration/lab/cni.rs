//! The CNI plugin, called by hand as a runtime calls it: environment variables, and a configuration on standard input.

use super::host::{COMMAND_LIMIT, Inner};
use super::run::{Output, run_with_input};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One attachment of a namespace.
#[derive(Clone)]
pub struct Attachment {
    /// `CNI_CONTAINERID`
    pub id: String,
    /// `CNI_NETNS`
    pub netns: PathBuf,
    /// `CNI_IFNAME`
    pub device: String,
    /// `CNI_ARGS`
    pub args: String,
    /// The network's configuration.
    pub network: Value,
}

/// The list that is shipped, told where a host's files are.
pub fn shipped_list(host: &Inner) -> Value {
    let mut list = list();
    let files = json!({"config": host.config_file(), "state-dir": host.state_dir()});
    list["plugins"][0]["portslice"] = files;
    list
}

fn list() -> Value {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/cni/10-portslice.conflist");
    serde_json::from_slice(&std::fs::read(list).expect("the conflist")).expect("JSON")
}

/// The configuration that is shipped, as a runtime hands it to the plugin.
pub fn shipped(version: &str) -> Value {
    let list = list();
    let mut network = list["plugins"][0].clone();
    network["name"] = list["name"].clone();
    network["cniVersion"] = json!(version);
    network
}

impl Attachment {
    /// Of the network that is shipped, by its newest version, as `eth0`.
    pub fn new(id: &str, netns: &Path) -> Attachment {
        let (netns, device) = (netns.to_path_buf(), "eth0".to_owned());
        Attachment { id: id.to_owned(), netns, device, args: String::new(), network: shipped("1.1.0") }
    }

    /// With annotations of the pod.
    pub fn annotated(mut self, annotations: &[(&str, &str)]) -> Attachment {
        let all: serde_json::Map<String, Value> =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        self.network["runtimeConfig"]["io.kubernetes.cri.pod-annotations"] = all.into();
        self
    }

    /// With a value somewhere in the configuration.
    pub fn with(mut self, key: &str, value: Value) -> Attachment {
        self.network[key] = value;
        self
    }

    /// The call of a command.
    pub fn command(&self, host: &Inner, verb: &str) -> Command {
        let mut command = host.command(["portslice-cni"]);
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", &self.id).env("CNI_NETNS", &self.netns);
        command.env("CNI_IFNAME", &self.device).env("CNI_ARGS", &self.args).env("CNI_PATH", "/opt/cni/bin");
        command
    }

    /// Calls a command.
    pub fn call(&self, host: &Inner, verb: &str) -> Output {
        run_with_input(&mut self.command(host, verb), Some(&self.network.to_string()), COMMAND_LIMIT)
    }

    /// ADD, which must succeed; its result.
    #[track_caller]
    pub fn add(&self, host: &Inner) -> Value {
        self.call(host, "ADD").ok().json()
    }

    /// DEL, which must succeed and say nothing.
    #[track_caller]
    pub fn del(&self, host: &Inner) {
        let out = self.call(host, "DEL").ok();
        assert_eq!(out.stdout, "", "{out}");
    }

    /// CHECK of what ADD came to.
    pub fn check(&self, host: &Inner, result: &Value) -> Output {
        self.clone().with("prevResult", result.clone()).call(host, "CHECK")
    }
}

impl Output {
    /// Asserts an error of CNI: its code, and one line that has `text`, on standard output and on standard error.
    #[track_caller]
    pub fn failed(self, code: u64, text: &str) -> Output {
        assert_eq!(self.code, Some(1), "`{}` should fail: {self}", self.line);
        let error = self.json();
        assert_eq!(error["code"], code, "`{}`: {self}", self.line);
        let said = error["msg"].as_str().unwrap_or_default();
        assert!(said.contains(text) && !said.contains('\n'), "`{}` should say {text:?}: {self}", self.line);
        assert_eq!(self.stderr, format!("portslice-cni: {said}\n"), "`{}`", self.line);
        self
    }
}
