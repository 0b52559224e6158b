//! The usual way to the same end, for comparison: the reference CNI plugins bridge, tuning, bandwidth and portmap.
//!
//! They are driven as a container runtime does it: each plugin a process, the configuration on its standard input, the
//! result of one handed to the next.

use super::timed::Call;
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PLUGINS: &str = "/usr/lib/cni";

/// The configuration of one chain, as a runtime would expand it for one container.
pub struct Chain(Vec<Value>);

impl Chain {
    /// `state` is where host-local keeps its addresses.
    pub fn new(state: &Path) -> Chain {
        let ranges = json!([[{"subnet": "10.88.0.0/16"}]]);
        let ipam = json!({"type": "host-local", "dataDir": state, "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]});
        let mapping = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"});
        let rates = json!({"ingressRate": 100_000_000, "ingressBurst": 1_000_000, "egressRate": 50_000_000, "egressBurst": 1_000_000});
        Chain(vec![
            json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "ipam": ipam}),
            json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}),
            json!({"type": "bandwidth", "runtimeConfig": {"bandwidth": rates}}),
            json!({"type": "portmap", "runtimeConfig": {"portMappings": [mapping]}}),
        ])
    }

    /// Connects a container: how long it took, and the result that `delete` wants to see again.
    pub fn add(&self, id: &str, netns: &Path) -> io::Result<(Duration, Value)> {
        let begun = Instant::now();
        let mut result = Value::Null;
        for plugin in &self.0 {
            result = serde_json::from_str(&call("ADD", plugin, &result, id, netns)?)?;
        }
        Ok((begun.elapsed(), result))
    }

    /// Disconnects it.
    pub fn delete(&self, id: &str, netns: &Path, result: &Value) -> io::Result<Duration> {
        let begun = Instant::now();
        for plugin in self.0.iter().rev() {
            call("DEL", plugin, result, id, netns)?;
        }
        Ok(begun.elapsed())
    }
}

fn call(verb: &str, plugin: &Value, result: &Value, id: &str, netns: &Path) -> io::Result<String> {
    let mut config = plugin.clone();
    config["cniVersion"] = json!("1.0.0");
    config["name"] = json!("reference");
    if !result.is_null() {
        config["prevResult"] = result.clone();
    }
    let program = Path::new(PLUGINS).join(plugin["type"].as_str().expect("every plugin has a type"));
    let environment = [
        ("CNI_COMMAND", PathBuf::from(verb)),
        ("CNI_CONTAINERID", id.into()),
        ("CNI_NETNS", netns.into()),
        ("CNI_IFNAME", "eth0".into()),
        ("CNI_PATH", PLUGINS.into()),
    ];
    let call = Call { program: &program, arguments: &[], environment: &environment, input: &config.to_string() };
    Ok(call.run()?.output)
}
