//! What a prepared host is made of.

use std::path::{Path, PathBuf};

use super::step::Step;
use crate::config::Config;
use crate::host::{Facts, HostRecord};
use crate::steer::program::VERSION;

/// lo has this index in every namespace (LOOPBACK_IFINDEX).
pub const LO: u32 = 1;

/// Settings of lo without which it refuses what the data path hands to it: packets with a source address of the host,
/// and those from and to 127.0.0.0/8. Only lo's own are changed, never `all`.
const LO_SETTINGS: [(&str, &str); 2] = [("ipv4/conf/lo/accept_local", "1"), ("ipv4/conf/lo/route_localnet", "1")];

/// What every file that `setup` writes begins with: `setup --undo` removes no other one.
pub const MARK: &str = "# Written by `portslice setup`";

/// Files that keep network managers from taking the devices of containers for their own.
const UNMANAGED: [(&str, &str); 2] = [
    ("/etc/systemd/network/05-portslice.network", include_str!("../../config/networkd/05-portslice.network")),
    ("/etc/NetworkManager/conf.d/50-portslice.conf", include_str!("../../config/NetworkManager/50-portslice.conf")),
];

/// Keeps the reservation across boots.
const SYSCTL_FILE: &str = "/etc/sysctl.d/50-portslice.conf";

/// Where maps, programs and links are pinned.
pub fn bpf_directory(state_dir: &Path) -> PathBuf {
    state_dir.join("bpf")
}

/// The steps, in order. `configures`: the directories under /etc that are there and concern this host; none where its
/// configuration is another namespace's. `shaper`: some container is limited on the host.
pub fn host(config: &Config, facts: &Facts, configures: &[PathBuf], shaper: bool) -> Vec<Step> {
    let ports = config.ephemeral_ports.ports().union(&config.ports);
    let directory = bpf_directory(&config.state_dir);
    let (index, device) = (facts.uplink.index, facts.uplink.name.clone());
    let mut steps = vec![Step::Reserve { ports: ports.clone() }];
    let sysctl = format!(
        "{MARK}: the host's own connections never take these ports.\nnet.ipv4.ip_local_reserved_ports = {ports}\n"
    );
    let files = [(SYSCTL_FILE, sysctl)].into_iter().chain(UNMANAGED.map(|(path, text)| (path, text.to_owned())));
    steps.extend(files.filter_map(|(path, text)| {
        let path = PathBuf::from(path);
        let wanted = configures.iter().any(|directory| path.parent() == Some(directory));
        wanted.then_some(Step::Keep { path, text })
    }));
    steps.extend(LO_SETTINGS.map(|(key, value)| Step::Setting { key, value }));
    steps.extend([
        Step::Mount { directory },
        Step::Load { version: VERSION },
        Step::Hook { program: "from_wire", index, device: device.clone() },
        Step::Hook { program: "from_lo", index: LO, device: "lo".into() },
    ]);
    if config.egress_unique_flow_per_container {
        steps.push(Step::Fair { index, device });
    }
    if shaper {
        steps.push(Step::Shaper);
    }
    steps
}

/// The directories under /etc in which `setup` may write.
pub fn directories() -> Vec<PathBuf> {
    let files = [SYSCTL_FILE].into_iter().chain(UNMANAGED.map(|(path, _)| path));
    files.filter_map(|path| Path::new(path).parent().map(Path::to_path_buf)).collect()
}

/// What `record` says was done, for the way back.
pub fn done(config: &Config, record: &HostRecord) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(reserved) = &record.reserved {
        steps.push(Step::Reserve { ports: reserved.added.clone() });
    }
    let files = [SYSCTL_FILE].into_iter().chain(UNMANAGED.map(|(path, _)| path));
    steps.extend(files.map(|path| Step::Keep { path: path.into(), text: String::new() }));
    let changed = |key: &str| record.changed.iter().any(|changed| changed.key == key);
    let settings = LO_SETTINGS.into_iter().filter(|(key, _)| changed(key));
    steps.extend(settings.map(|(key, value)| Step::Setting { key, value }));
    steps.extend([
        Step::Mount { directory: bpf_directory(&config.state_dir) },
        Step::Load { version: VERSION },
        Step::Hook { program: "from_wire", index: record.uplink, device: "the uplink".into() },
        Step::Hook { program: "from_lo", index: LO, device: "lo".into() },
    ]);
    if record.fair != 0 {
        steps.push(Step::Fair { index: record.fair, device: "the uplink".into() });
    }
    steps.push(Step::Shaper);
    steps
}
