//! Network managers that would take the devices of containers for their own: they give them addresses, routes and IPv6.
//!
//! Looked at only where one runs and its files speak of this host. What decides is what the manager reads: the first file of
//! systemd-networkd that matches a device (systemd.network(5)), and the last word on `unmanaged-devices` of NetworkManager
//! (NetworkManager.conf(5)).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use glob::Pattern;

use super::{Finding, Scene, ok, warn};
use crate::lease::record::{SHAPER, link_name};
use crate::net::link::{Mac, own_mac};

/// Directories of a manager's files, the strongest first.
const NETWORKD: [&str; 4] =
    ["/etc/systemd/network", "/run/systemd/network", "/usr/local/lib/systemd/network", "/usr/lib/systemd/network"];
/// Files that `setup` writes.
const OURS_NETWORKD: &str = "05-portslice.network";
const OURS_NETWORK_MANAGER: &str = "/etc/NetworkManager/conf.d/50-portslice.conf";

/// Both managers.
pub fn look(scene: &Scene<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !scene.configured_by_files {
        return findings;
    }
    if Path::new("/run/systemd/netif").is_dir() {
        findings.push(networkd(scene));
    }
    if Path::new("/run/NetworkManager").is_dir() {
        findings.push(network_manager(scene));
    }
    findings
}

const WHY: &str = "it gives them addresses, routes and IPv6, which may take the host off the network";

/// A device of ours, as far as networkd can match it.
struct Device {
    name: String,
    mac: Mac,
}

fn networkd(scene: &Scene<'_>) -> Finding {
    let files = network_files();
    let devices = [(link_name(1), 1), (SHAPER.to_owned(), 0)];
    for (name, slot) in devices {
        let device = Device { name, mac: own_mac(scene.record.instance, slot) };
        let first = files.iter().find(|(_, text)| matches(text, &device));
        let Some((path, _)) = first.filter(|(_, text)| !is_unmanaged(text)) else { continue };
        let seen = format!("{} makes systemd-networkd take devices of containers ({})", path.display(), device.name);
        return warn("networkd", seen, WHY, give_way(scene, path));
    }
    ok("networkd", "leaves the devices of containers alone")
}

/// Every *.network file that networkd reads, in its order: by name, and of one name the strongest directory's. One that is
/// empty, as a link to /dev/null is, hides others of its name.
fn network_files() -> Vec<(PathBuf, String)> {
    let mut files = BTreeMap::new();
    for directory in NETWORKD {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            if path.extension().is_some_and(|extension| extension == "network") {
                files.entry(name).or_insert(path);
            }
        }
    }
    let read = |path: PathBuf| fs::read_to_string(&path).ok().map(|text| (path, text));
    files.into_values().filter_map(read).filter(|(_, text)| !text.trim().is_empty()).collect()
}

/// What makes ours come first: write it, and give a file that sorts before it a later name.
fn give_way(scene: &Scene<'_>, path: &Path) -> String {
    let ours = Path::new(NETWORKD[0]).join(OURS_NETWORKD);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut commands = Vec::new();
    if *name < *OURS_NETWORKD {
        let later = Path::new(NETWORKD[0]).join(format!("06-{name}"));
        let (from, to) = (path.display(), later.display());
        if path.starts_with(NETWORKD[0]) {
            commands.push(format!("mv {from} {to}"));
        } else {
            // A package's file stays, and is hidden.
            commands.push(format!("cp {from} {to}"));
            commands.push(format!("ln -s /dev/null {}/{name}", NETWORKD[0]));
        }
    }
    if ours.exists() {
        commands.push("networkctl reload".into());
    } else {
        commands.push(format!("mkdir -p {}", NETWORKD[0]));
        commands.push(scene.command("setup"));
    }
    commands.join(" && ")
}

/// The assignments of one section, `Key=Value`, in order.
fn section<'a>(text: &'a str, wanted: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let mut inside = false;
    text.lines().map(str::trim).filter_map(move |line| {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = name == wanted;
            return None;
        }
        let assigned = inside && !line.starts_with(['#', ';']);
        line.split_once('=').filter(|_| assigned).map(|(key, value)| (key.trim(), value.trim()))
    })
}

/// Does networkd find that the file is for this device? Of a key that depends on the machine we take it that it does.
fn matches(text: &str, device: &Device) -> bool {
    let mut wanted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, value) in section(text, "Match") {
        let values = wanted.entry(key).or_default();
        // An empty assignment takes back the earlier ones.
        if value.is_empty() { values.clear() } else { values.extend(value.split_whitespace()) }
    }
    wanted.retain(|_, values| !values.is_empty());
    wanted.iter().all(|(key, values)| match *key {
        "Name" => any(values, &device.name),
        "Type" => any(values, "ether"),
        "Kind" | "Driver" => any(values, "veth"),
        "MACAddress" => values.iter().any(|value| mac_of(value) == Some(device.mac)),
        // A pair has none of these.
        "PermanentMACAddress" | "Path" | "WLANInterfaceType" | "SSID" | "BSSID" => false,
        _ => true,
    })
}

/// A list of shell patterns; one that begins with ! is for everything else.
fn any(patterns: &[&str], word: &str) -> bool {
    let negated = patterns.first().is_some_and(|first| first.starts_with('!'));
    let one = |pattern: &&str| {
        let pattern = pattern.strip_prefix('!').unwrap_or(pattern);
        Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(word))
    };
    patterns.iter().any(one) != negated
}

/// `02:11:22:33:44:55`, with - for :, in either case.
fn mac_of(text: &str) -> Option<Mac> {
    let mut bytes = text.split([':', '-']).map(|byte| u8::from_str_radix(byte, 16));
    let mut mac = Mac::default();
    for byte in &mut mac {
        *byte = bytes.next()?.ok()?;
    }
    bytes.next().is_none().then_some(mac)
}

fn is_unmanaged(text: &str) -> bool {
    let last = section(text, "Link").filter(|(key, _)| *key == "Unmanaged").last();
    last.is_some_and(|(_, value)| {
        matches!(value.to_ascii_lowercase().as_str(), "yes" | "true" | "on" | "1" | "y" | "t")
    })
}

fn network_manager(scene: &Scene<'_>) -> Finding {
    const CHECK: &str = "NetworkManager";
    let mut unmanaged: Vec<String> = Vec::new();
    let mut overridden: Option<PathBuf> = None;
    for path in settings_files() {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (key, value) in section(&text, "keyfile") {
            let items = value.split([',', ';']).map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned);
            match key {
                "unmanaged-devices+" => unmanaged.extend(items),
                "unmanaged-devices" => {
                    overridden = is_spared(&unmanaged).then(|| path.clone());
                    unmanaged = items.collect();
                }
                _ => {}
            }
        }
    }
    if is_spared(&unmanaged) {
        return ok(CHECK, "leaves the devices of containers alone");
    }
    if let Some(path) = overridden {
        let path = path.display();
        let seen = format!("{path} takes back that NetworkManager leaves the devices of containers alone");
        let command =
            format!("sed -i 's/^ *unmanaged-devices *=/unmanaged-devices+=/' {path} && nmcli general reload conf");
        return warn(CHECK, seen, WHY, command);
    }
    let directory = Path::new(OURS_NETWORK_MANAGER).parent().unwrap_or(Path::new("/"));
    let command = format!("mkdir -p {} && {}", directory.display(), scene.command("setup"));
    warn(CHECK, "NetworkManager is not told to leave the devices of containers alone", WHY, command)
}

/// NetworkManager's files, the strongest last.
fn settings_files() -> Vec<PathBuf> {
    let directory = |path: &str| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "conf")).collect();
        files.sort();
        files
    };
    let mut files = directory("/usr/lib/NetworkManager/conf.d");
    files.extend(directory("/run/NetworkManager/conf.d"));
    files.push("/etc/NetworkManager/NetworkManager.conf".into());
    files.extend(directory("/etc/NetworkManager/conf.d"));
    files
}

/// Do these device specs cover ours?
fn is_spared(unmanaged: &[String]) -> bool {
    let device = link_name(1);
    unmanaged.iter().any(|spec| {
        let pattern = spec.strip_prefix("interface-name:").or((!spec.contains(':')).then_some(spec.as_str()));
        pattern.is_some_and(|pattern| Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(&device)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networkd_matches_as_it_says() {
        let device = Device { name: "portslice1".into(), mac: [2, 0x11, 0x22, 0x33, 0, 1] };
        let takes = |text: &str| matches(text, &device);
        for text in [
            "[Match]\nName=*\n",
            "[Network]\nDHCP=yes\n",
            "[Match]\nType=ether\n# Name=eth0\n",
            "[Match]\nName=!lo eth*\nHost=web1\n",
            "[Match]\nName=eth0\nName=\nName=port*\n",
            "[Match]\nMACAddress=aa:bb:cc:dd:ee:ff 02-11-22-33-00-01\nKind=veth\n",
        ] {
            assert!(takes(text), "{text}");
        }
        for text in [
            "[Match]\nName=eth*\n",
            "[Match]\nType=ether\nKind=!*\n",
            "[Match]\nType=wlan\n",
            "[Match]\nName=*\nDriver=virtio_net\n",
            "[Match]\nMACAddress=02:11:22:33:00:02\n",
            "[Match]\nPath=pci-*\n",
            "[Match]\nName=!portslice*\n",
        ] {
            assert!(!takes(text), "{text}");
        }
        assert!(is_unmanaged("[Match]\nName=x\n[Link]\nUnmanaged=yes\n"));
        assert!(!is_unmanaged("[Link]\nUnmanaged=no\n[Network]\nUnmanaged=yes\n"));
    }

    #[test]
    fn what_setup_writes_spares_our_devices() {
        let ours = include_str!("../../config/networkd/05-portslice.network");
        for name in [link_name(1), link_name(4095), SHAPER.to_owned()] {
            assert!(matches(ours, &Device { name, mac: Mac::default() }));
        }
        assert!(is_unmanaged(ours));
        let ours = include_str!("../../config/NetworkManager/50-portslice.conf");
        let items: Vec<String> = section(ours, "keyfile").map(|(_, value)| value.to_owned()).collect();
        assert!(is_spared(&items));
        assert!(!is_spared(&["mac:00:11:22:33:44:55".into(), "interface-name:docker*".into()]));
    }
}
