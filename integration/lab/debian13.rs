//! Podman 5 on a simulated host: in a root of Debian 13 (`integration/debian13`), on top of which everything is written that a
//! test writes.

use super::engine::{IMAGE, Place};
use super::host::{COMMAND_LIMIT, Host, Inner, binary};
use super::run::{self, Output};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// As for the machine's own Podman; version 5 warns of v1 cgroups unless it is told not to.
const CONTAINERS_CONF: &str = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
                               [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
                               infra_image = \"localhost/busybox:latest\"\ninfra_command = \"/pause\"\n";

/// The root, and Podman in it. Dropping it removes all containers and takes it away.
pub struct Debian13<'h> {
    place: Place<'h>,
    /// What was mounted below `root`, in this order.
    mounted: Vec<PathBuf>,
}

impl Host {
    /// Podman of Debian 13; `None` where its root was not made. The host has to be prepared: what it mounts later is not seen.
    pub fn debian13(&self) -> Option<Debian13<'_>> {
        let base = PathBuf::from(std::env::var_os("PORTSLICE_DEBIAN13")?);
        base.join(".complete").exists().then(|| Debian13::new(self.deref(), &base))
    }
}

impl<'h> Debian13<'h> {
    fn new(host: &'h Inner, base: &Path) -> Debian13<'h> {
        let place = Place::new(host, "debian13", &["upper", "work", "root", "containers"], &[]);
        let mut debian = Debian13 { place, mounted: Vec::new() };
        debian.mount_all(base);
        let link = |name: &str, at: &str| {
            let at = debian.root(at);
            std::fs::create_dir_all(at.parent().expect("a directory")).expect("a directory");
            std::os::unix::fs::symlink(binary(name.as_ref()), at).expect("a link");
        };
        link("portslice", "/usr/bin/portslice");
        for name in ["portslice-prestart", "portslice-poststop", "portslice-netavark"] {
            link(name, &format!("/usr/libexec/portslice/{name}"));
        }
        let write = |at: &str, text: &str| {
            std::fs::create_dir_all(debian.root(at).parent().expect("a directory")).expect("a directory");
            std::fs::write(debian.root(at), text).expect(at);
        };
        write("/etc/containers/containers.conf", CONTAINERS_CONF);
        let config = std::fs::read_to_string(host.config_file()).expect("the host's configuration");
        write("/etc/portslice/portslice.toml", &format!("state_dir = {:?}\n{config}", host.state_dir()));
        let image = debian.place.archive();
        debian
            .sh(&format!(
                "podman load --quiet --input {0}; podman tag {IMAGE} docker.io/library/busybox",
                image.display()
            ))
            .ok();
        debian
    }

    /// The root, on it the kernel's file systems, the host's /run, /tmp and programs, and room for images.
    fn mount_all(&mut self, base: &Path) {
        let (root, host) = (self.place.at("root"), self.place.host);
        let programs = binary("".as_ref());
        let layers =
            [("lowerdir", base.to_owned()), ("upperdir", self.place.at("upper")), ("workdir", self.place.at("work"))];
        let layers = layers.map(|(key, at)| format!("{key}={}", at.display())).join(",");
        let below = |at: &Path| root.join(at.strip_prefix("/").unwrap_or(at));
        let bound: Vec<PathBuf> = ["/proc", "/sys", "/dev", "/run"].iter().map(PathBuf::from).collect();
        let bound: Vec<PathBuf> = bound.into_iter().chain([host.dir.clone(), programs]).collect();
        self.mounted = std::iter::once(root.clone()).chain(bound.iter().map(|at| below(at))).collect();
        self.mounted.push(root.join("var/lib/containers"));
        self.mounted.push(root.join("dev/shm"));
        host.ns.inside_mounts(|| {
            let none = None::<&str>;
            mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(layers.as_str())).expect("overlay");
            for at in &bound {
                std::fs::create_dir_all(below(at)).expect("a mount point");
                let done = mount(Some(at), &below(at), none, MsFlags::MS_BIND | MsFlags::MS_REC, none);
                done.unwrap_or_else(|e| panic!("{}: {e}", at.display()));
            }
            for at in &self.mounted[self.mounted.len() - 2..] {
                std::fs::create_dir_all(at).expect("a mount point");
                mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), none).expect("tmpfs");
            }
        });
    }

    /// A path inside, as seen from outside.
    pub fn root(&self, path: &str) -> PathBuf {
        let inside = self.place.at("root").join(path.trim_start_matches('/'));
        self.place.host.ns.root(&inside.to_string_lossy())
    }

    /// Runs lines of shell inside.
    pub fn sh(&self, lines: &str) -> Output {
        let mut command = self.place.host.ns.command("chroot");
        command.arg(self.place.at("root")).args(["sh", "-euc", lines]).env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1");
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        for name in ["PORTSLICE_CONFIG", "PORTSLICE_STATE_DIR", "RUST_LOG"] {
            command.env_remove(name);
        }
        run::run(&mut command, COMMAND_LIMIT)
    }

    /// What `inspect` says of a container.
    #[track_caller]
    pub fn inspect(&self, name: &str) -> Value {
        self.sh(&format!("podman inspect {name}")).ok().json()[0].clone()
    }

    /// The cgroup under which all containers are to be.
    pub fn cgroup(&self) -> String {
        self.place.cgroup()
    }
}

impl Drop for Debian13<'_> {
    fn drop(&mut self) {
        let out = self.sh("podman pod rm --all --force --time 0; podman rm --all --force --time 0");
        let failed = (out.code != Some(0)).then(|| format!("`podman rm --all`: {out}"));
        self.place.host.ns.inside_mounts(|| {
            for at in self.mounted.iter().rev() {
                let _ = umount2(at, MntFlags::MNT_DETACH);
            }
        });
        self.place.leave(failed.into_iter().collect());
    }
}
