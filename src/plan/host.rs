//! What a prepared host is made of.

use std::path::{Path, PathBuf};

use super::steer::{asks_fib, sources};
use super::step::{Step, entry};
use crate::config::Config;
use crate::host::{Facts, HostRecord};
use crate::net::link::{LO, Link, Sources};
use crate::ports::PortSet;
use crate::steer::program::VERSION;

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

/// Has the ports reserved at boot where systemd runs the host.
pub const UNIT: &str = "/etc/systemd/system/portslice-setup.service";
/// Has systemd start [`UNIT`] at boot, as `systemctl enable` would.
pub const UNIT_LINK: &str = "/etc/systemd/system/multi-user.target.wants/portslice-setup.service";
const UNIT_TEXT: &str = include_str!("../../config/portslice-setup.service");
/// What stands for this program in it.
const UNIT_PROGRAM: &str = "/usr/bin/portslice";

/// Has the ports reserved at boot where systemd does not: of several files that set this key the last one wins, so there must
/// be no other.
pub const SYSCTL_FILE: &str = "/etc/sysctl.d/50-portslice.conf";

/// The files of the host's configuration that setup keeps, of all those that there may be.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Where.
    pub files: Vec<PathBuf>,
    /// The program that is to run at boot.
    pub program: PathBuf,
}

/// Where maps, programs and links are pinned.
pub fn bpf_directory(state_dir: &Path) -> PathBuf {
    state_dir.join("bpf")
}

/// All ports that may be leased.
pub fn leasable(config: &Config) -> PortSet {
    config.ephemeral_ports.ports().union(&config.ports)
}

/// What a host is to have besides what the configuration and the facts tell.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Which version of the programs.
    pub version: String,
    /// Is bind() judged?
    pub sockets: bool,
    /// Is some container limited on the host?
    pub shaper: bool,
    /// The devices beside the uplink by which packets for the host may come in.
    pub sides: Vec<Link>,
    /// Files.
    pub kept: Kept,
}

/// The steps, in order.
pub fn host(config: &Config, facts: &Facts, wanted: &Wanted) -> Vec<Step> {
    let kept = &wanted.kept;
    let directory = bpf_directory(&config.state_dir);
    let (index, device) = (facts.uplink.index, facts.uplink.name.clone());
    let mut steps = vec![Step::Reserve { ports: leasable(config) }];
    let texts = files().map(|path| (path, text_of(path, config, &kept.program)));
    let texts = texts.filter(|(path, _)| kept.files.iter().any(|kept| kept == Path::new(path)));
    steps.extend(texts.map(|(path, text)| Step::Keep { path: path.into(), text }));
    steps.extend(LO_SETTINGS.map(|(key, value)| Step::Setting { key, value }));
    steps.extend([
        Step::Mount { directory },
        Step::Load { version: wanted.version.clone() },
        Step::Hook { program: entry(facts.uplink.ethernet), index, device: device.clone() },
        Step::Hook { program: "from_lo", index: LO, device: "lo".into() },
    ]);
    if facts.uplink.ethernet {
        steps.push(Step::Allmulti { index, device: device.clone() });
    }
    steps.extend(wanted.sides.iter().map(|link| side(facts, link)));
    if needs_fib(facts, &wanted.sides) {
        steps.push(Step::Fib);
    }
    if config.egress_unique_flow_per_container {
        steps.push(Step::Fair { index, device });
    }
    if wanted.shaper {
        steps.push(Step::Shaper);
    }
    // Beside a data path of another version there are that one's programs, or none.
    if wanted.sockets && wanted.version == VERSION {
        steps.push(Step::Sockets { version: wanted.version.clone(), cgroup: config.socket_cgroup.clone() });
    }
    steps
}

fn side(facts: &Facts, link: &Link) -> Step {
    let sources = sources(facts, link);
    Step::Side { index: link.index, device: link.name.clone(), ethernet: link.ethernet, sources }
}

fn needs_fib(facts: &Facts, sides: &[Link]) -> bool {
    asks_fib(facts) || sides.iter().any(|link| sources(facts, link) != Sources::Any)
}

/// What stands on devices that it is not to stand on any more, or is not needed, for the way back. `sides` as in [`Wanted`].
pub fn outdated(record: &HostRecord, facts: &Facts, sides: &[Link]) -> Vec<Step> {
    let stale = record.sides.iter().filter(|index| !sides.iter().any(|link| link.index == **index));
    let mut steps: Vec<Step> = stale.map(|index| gone_side(*index)).collect();
    if record.allmulti != 0 && record.allmulti != facts.uplink.index {
        steps.push(gone_allmulti(record));
    }
    if record.fib != 0 && !needs_fib(facts, sides) {
        steps.push(Step::Fib);
    }
    steps
}

fn gone_allmulti(record: &HostRecord) -> Step {
    Step::Allmulti { index: record.allmulti, device: "the uplink".into() }
}

fn gone_side(index: u32) -> Step {
    Step::Side { index, device: format!("device {index}"), ethernet: true, sources: Sources::Any }
}

/// All files that setup may keep.
pub fn files() -> impl Iterator<Item = &'static str> {
    [UNIT, SYSCTL_FILE].into_iter().chain(UNMANAGED.map(|(path, _)| path))
}

/// The whole text of one of [`files`].
fn text_of(path: &str, config: &Config, program: &Path) -> String {
    match path {
        UNIT => {
            UNIT_TEXT.replace(&format!("ExecStart={UNIT_PROGRAM}"), &format!("ExecStart={}", words(config, program)))
        }
        SYSCTL_FILE => format!(
            "{MARK}: the host's own connections never take these ports.\nnet.ipv4.ip_local_reserved_ports = {}\n",
            leasable(config)
        ),
        path => UNMANAGED.iter().find(|(known, _)| *known == path).map_or_else(String::new, |(_, text)| (*text).into()),
    }
}

/// How the unit calls `program`: with the configuration file and the state directory that were named to it.
fn words(config: &Config, program: &Path) -> String {
    let mut words = vec![program.to_string_lossy()];
    if let Some(file) = &config.file {
        words.extend(["--config".into(), file.to_string_lossy()]);
    }
    if config.state_dir != Config::default().state_dir {
        words.extend(["--state-dir".into(), config.state_dir.to_string_lossy()]);
    }
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// A word of a command line in a unit (systemd.service(5), COMMAND LINES).
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@,=".contains(c);
    if word.chars().all(plain) {
        return word.into();
    }
    let word = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{word}\"")
}

/// What `record` says was done, for the way back. `concerned`: do the files under /etc concern this host?
pub fn done(config: &Config, record: &HostRecord, concerned: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(reserved) = &record.reserved {
        steps.push(Step::Reserve { ports: reserved.added.clone() });
    }
    let files = files().filter(|_| concerned);
    steps.extend(files.map(|path| Step::Keep { path: path.into(), text: String::new() }));
    let changed = |key: &str| record.changed.iter().any(|changed| changed.key == key);
    let settings = LO_SETTINGS.into_iter().filter(|(key, _)| changed(key));
    steps.extend(settings.map(|(key, value)| Step::Setting { key, value }));
    steps.extend([
        Step::Mount { directory: bpf_directory(&config.state_dir) },
        Step::Load { version: record.version.clone() },
        Step::Hook { program: entry(!record.frameless), index: record.uplink, device: "the uplink".into() },
        Step::Hook { program: "from_lo", index: LO, device: "lo".into() },
    ]);
    if record.allmulti != 0 {
        steps.push(gone_allmulti(record));
    }
    steps.extend(record.sides.iter().map(|index| gone_side(*index)));
    steps.push(Step::Fib);
    if record.fair != 0 {
        steps.push(Step::Fair { index: record.fair, device: "the uplink".into() });
    }
    steps.push(Step::Shaper);
    if let Some(sockets) = &record.sockets {
        steps.push(Step::Sockets { version: sockets.version.clone(), cgroup: sockets.cgroup.clone() });
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_calls_this_program_with_the_files_that_were_named_to_it() {
        let plain = text_of(UNIT, &Config::default(), Path::new(UNIT_PROGRAM));
        assert_eq!(plain, UNIT_TEXT);
        assert!(plain.starts_with(MARK) && plain.contains("\nExecStart=/usr/bin/portslice setup --at-boot\n"));
        let file = Some(PathBuf::from("/srv/my $conf/100%.toml"));
        let config = Config { file, state_dir: "/run/other".into(), ..Config::default() };
        let line = "\nExecStart=/opt/portslice --config \"/srv/my $$conf/100%%.toml\" --state-dir /run/other setup --at-boot\n";
        let text = text_of(UNIT, &config, Path::new("/opt/portslice"));
        assert!(text.contains(line), "{text}");
        assert_eq!(quoted("a\"b\\"), r#""a\"b\\""#);
    }

    #[test]
    fn every_file_has_a_text_with_our_mark() {
        for path in files() {
            assert!(text_of(path, &Config::default(), Path::new("/x")).starts_with(MARK), "{path}");
        }
        let text = text_of(SYSCTL_FILE, &Config::default(), Path::new("/x"));
        assert!(text.ends_with("\nnet.ipv4.ip_local_reserved_ports = 32768-57343\n"), "{text}");
    }
}
