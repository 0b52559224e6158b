//! portslice installed on a simulated host, each file where it belongs: on top of the machine's /usr and /etc, which stay as
//! they are.

use super::host::{COMMAND_LIMIT, Host, Inner, binary};
use super::run::{self, Output};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::ops::Deref;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// What is installed elsewhere than in /usr/bin.
const LIBEXEC: [&str; 3] = ["portslice-prestart", "portslice-poststop", "portslice-netavark"];
/// The directories that are the host's own.
const OWN: [&str; 2] = ["/usr", "/etc"];

/// An installation. Dropping it takes it away.
pub struct Installed<'h> {
    host: &'h Inner,
}

impl Host {
    /// Installs the build, with this host's configuration and state directory.
    pub fn installed(&self) -> Installed<'_> {
        Installed::new(self.deref())
    }
}

impl<'h> Installed<'h> {
    fn new(host: &'h Inner) -> Installed<'h> {
        let layer = |at: &str, part: &str| host.dir.join("installed").join(at.trim_start_matches('/')).join(part);
        for at in OWN {
            for part in ["upper", "work"] {
                std::fs::create_dir_all(layer(at, part)).expect("a layer");
            }
        }
        host.ns.inside_mounts(|| {
            for at in OWN {
                let (upper, work) = (layer(at, "upper"), layer(at, "work"));
                let options = format!("lowerdir={at},upperdir={},workdir={}", upper.display(), work.display());
                let done = mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(options.as_str()));
                done.unwrap_or_else(|e| panic!("overlay on {at}: {e}"));
            }
        });
        let root = |path: &str| host.ns.root(path);
        for at in ["/usr/libexec/portslice", "/etc/portslice"] {
            std::fs::create_dir_all(root(at)).expect(at);
        }
        let link = |name: &str, at: PathBuf| {
            let _ = std::fs::remove_file(&at);
            symlink(binary(name.as_ref()), at).unwrap_or_else(|e| panic!("{name}: {e}"));
        };
        for name in ["portslice", "portslice-runtime"] {
            link(name, root("/usr/bin").join(name));
        }
        LIBEXEC.iter().for_each(|name| link(name, root("/usr/libexec/portslice").join(name)));
        let config = std::fs::read_to_string(host.config_file()).expect("the host's configuration");
        let config = format!("state_dir = {:?}\n{config}", host.state_dir());
        std::fs::write(root("/etc/portslice/portslice.toml"), config).expect("the configuration");
        Installed { host }
    }

    /// Runs lines of shell in the directory of the sources, with programs of `first` before the machine's.
    pub fn sh(&self, first: &Path, lines: &str) -> Output {
        let mut command = self.host.ns.command("sh");
        // Entering a mount namespace leads to its root.
        command.arg("-euc").arg(format!("cd {}\n{lines}", env!("CARGO_MANIFEST_DIR")));
        command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", first.display()));
        for name in ["PORTSLICE_CONFIG", "PORTSLICE_STATE_DIR", "RUST_LOG"] {
            command.env_remove(name);
        }
        run::run(&mut command, COMMAND_LIMIT)
    }
}

impl Drop for Installed<'_> {
    fn drop(&mut self) {
        self.host.ns.inside_mounts(|| {
            for at in OWN {
                let _ = umount2(at, MntFlags::MNT_DETACH);
            }
        });
    }
}
