//! Network managers are told to leave our devices alone, and the files that say so come and go with `setup`.

use std::fs;
use std::path::{Path, PathBuf};

use portslice::host::unmanaged::{install, remove};

const NETWORKD: &str = "etc/systemd/network/05-portslice.network";
const NETWORK_MANAGER: &str = "etc/NetworkManager/conf.d/50-portslice.conf";

/// An empty root of a file system with these directories; it goes with the value.
struct Root(PathBuf);

impl Root {
    fn with(directories: &[&str]) -> Root {
        let root = Root(nix::unistd::mkdtemp(&std::env::temp_dir().join("portslice-unmanaged-XXXXXX")).unwrap());
        directories.iter().for_each(|d| fs::create_dir_all(root.0.join(d)).unwrap());
        root
    }

    fn files(&self, of: &[PathBuf]) -> Vec<String> {
        of.iter().map(|p| p.strip_prefix(&self.0).unwrap().display().to_string()).collect()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(root: &Path, file: &str) -> String {
    fs::read_to_string(root.join(file)).unwrap_or_default()
}

#[test]
fn both_managers_are_told_and_forget_it_again() {
    let root = Root::with(&["etc/systemd/network", "etc/NetworkManager/conf.d"]);
    assert_eq!(root.files(&install(&root.0).unwrap()), [NETWORKD, NETWORK_MANAGER]);
    assert!(text(&root.0, NETWORKD).contains("[Match]\nName=portslice*\n\n[Link]\nUnmanaged=yes\n"));
    assert!(text(&root.0, NETWORK_MANAGER).contains("[keyfile]\nunmanaged-devices=interface-name:portslice*\n"));
    assert!(install(&root.0).unwrap().is_empty(), "what is there already is not written again");
    assert_eq!(root.files(&remove(&root.0).unwrap()), [NETWORKD, NETWORK_MANAGER]);
    assert_eq!((text(&root.0, NETWORKD), text(&root.0, NETWORK_MANAGER)), (String::new(), String::new()));
    assert!(remove(&root.0).unwrap().is_empty());
}

#[test]
fn a_manager_that_is_not_installed_gets_no_file() {
    let root = Root::with(&["etc/systemd/network"]);
    assert_eq!(root.files(&install(&root.0).unwrap()), [NETWORKD]);
    assert!(!root.0.join("etc/NetworkManager").exists());
    let bare = Root::with(&[]);
    assert!(install(&bare.0).unwrap().is_empty() && remove(&bare.0).unwrap().is_empty());
    assert!(!bare.0.join("etc").exists());
}

#[test]
fn a_file_that_somebody_changed_stays() {
    let root = Root::with(&["etc/systemd/network"]);
    fs::write(root.0.join(NETWORKD), "[Match]\nName=portslice7\n").unwrap();
    assert!(install(&root.0).unwrap().is_empty() && remove(&root.0).unwrap().is_empty());
    assert_eq!(text(&root.0, NETWORKD), "[Match]\nName=portslice7\n");
}
