//! The binaries under measurement and the configuration they run with.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The pool the benchmarks lease from: room for a thousand small blocks and one of ordinary size.
const CONFIG: &str = "ephemeral_ports = \"32768-57343\"\nports = \"31000-31999\"\nuplink = \"eth0\"\n";

/// An installation of portslice: where its binaries are, and one host's configuration and state.
pub struct Product {
    binaries: PathBuf,
    pub environment: [(&'static str, PathBuf); 2],
}

impl Product {
    /// The binaries in `PORTSLICE_BIN`, or of the static release build, configured for the host called `host`. `judged`: the cgroup
    /// whose processes have their `bind()` judged, if any.
    pub fn for_host(host: &str, judged: Option<&Path>) -> io::Result<Product> {
        let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/x86_64-unknown-linux-musl/release");
        let binaries = std::env::var_os("PORTSLICE_BIN").map(PathBuf::from).unwrap_or_else(built);
        let state = Path::new("/run").join(format!("portslice-{host}"));
        let config = state.with_extension("toml");
        let rules = judged.map(|cgroup| format!("socket_rules = \"require\"\nsocket_cgroup = {cgroup:?}\n"));
        fs::write(&config, CONFIG.to_owned() + &rules.unwrap_or_default())?;
        Ok(Product { binaries, environment: [("PORTSLICE_CONFIG", config), ("PORTSLICE_STATE_DIR", state)] })
    }

    /// One of the binaries.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }
}
