//! Starting one throw-away container through an engine: it asks for a slice, and what was counted for it at its end shows that
//! it had one. Its file system is this program and the libraries that it has loaded, so no image has to be there.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Engine;
use super::system::{System, ask};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::lease::Ledger;
use crate::slice::account;

/// The smallest slice there is.
const ASKED: &str = "portslice/ephemeral-ports=16";

/// How long an engine may take to tell that a container ended.
const PATIENCE: Duration = Duration::from_secs(5);

/// The program that starts a container. [`Error::Unsupported`] where none can be started.
pub fn client(engine: Engine, system: &System) -> Result<PathBuf> {
    let unsupported = |why: &str| {
        let what = format!("{} {why}", engine.name());
        Err(Error::unsupported(what, "leave out --verify, start a container by hand, and look at `portslice list`"))
    };
    if !system.is_running() {
        return unsupported("does not run in another system");
    }
    let client = match engine {
        Engine::Podman => "podman",
        Engine::Containerd => "ctr",
        Engine::Docker => "docker",
        _ => return unsupported("starts no container by a command"),
    };
    let missing = || Error::NotFound(format!("there is no {client} in PATH to start a container with"));
    system.engine(client).ok_or_else(missing)
}

/// Starts the container and looks. Returns a line that says so.
pub fn verify(engine: Engine, system: &System, config: &Config) -> Result<String> {
    let (program, place) = (client(engine, system)?, Place::new()?);
    let id = match engine {
        Engine::Podman => podman(&program, &place)?,
        Engine::Docker => docker(&program, &place, system.program("portslice-runtime").is_ok())?,
        _ => containerd(&program, &place, &system.program("portslice-runtime")?)?,
    };
    let ledger = Ledger::at(&config.state_dir);
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if account::finished(&ledger)?.iter().any(|one| one.monitored["container_id"] == id.as_str()) {
            return Ok(format!("verified: a container of {} had a slice", engine.name()));
        }
        sleep(Duration::from_millis(50));
    }
    let name = engine.name();
    Err(Error::Failed(format!(
        "{name} started container {id} with the annotation {ASKED}, and it had no slice: `portslice doctor` says what is in the way"
    )))
}

fn podman(program: &Path, place: &Place) -> Result<String> {
    let (root, id) = (place.root(), place.0.join("id"));
    let options = ["run", "--rm", "--network", "none", "--annotation", ASKED, "--cidfile"].map(str::as_ref);
    let image = [id.as_os_str(), "--rootfs".as_ref(), root.as_os_str(), "/portslice".as_ref(), "--version".as_ref()];
    run(program, &[&options[..], &image].concat())?;
    let id = fs::read_to_string(&id).map_err(Error::file("read", &id))?;
    Ok(id.trim().to_owned())
}

fn containerd(program: &Path, place: &Place, runtime: &Path) -> Result<String> {
    let (root, id) = (place.root(), format!("portslice-verify-{}", std::process::id()));
    let options = ["run", "--rm", "--annotation", ASKED, "--rootfs", "--runc-binary"].map(str::as_ref);
    let command = [runtime.as_os_str(), root.as_os_str(), id.as_ref(), "/portslice".as_ref(), "--version".as_ref()];
    run(program, &[&options[..], &command].concat())?;
    Ok(id)
}

/// An image of its own, which is removed again. By our runtime where `shim` says that it is there, else by a device.
fn docker(program: &Path, place: &Place, shim: bool) -> Result<String> {
    let (root, archive, id) = (place.root(), place.0.join("root.tar"), place.0.join("id"));
    let image = format!("portslice-verify:{}", std::process::id());
    let pack = ["-cf".as_ref(), archive.as_os_str(), "-C".as_ref(), root.as_os_str(), ".".as_ref()];
    let packed = ask(Path::new("tar"), &pack)?;
    if !packed.ok {
        return Err(Error::Failed(format!("cannot pack {}: {}", root.display(), packed.complaint)));
    }
    run(program, &["import".as_ref(), archive.as_os_str(), image.as_ref()])?;
    let by_shim = ["--runtime", "portslice", "--env", "PORTSLICE_EPHEMERAL_PORTS=16"].map(str::as_ref);
    let by_device = ["--device", "portslice/net=default", "--annotation", ASKED].map(str::as_ref);
    let options = ["run", "--rm", "--network", "none", "--cidfile"].map(str::as_ref);
    let command = [image.as_ref(), "/portslice".as_ref(), "--version".as_ref()];
    let door = if shim { by_shim } else { by_device };
    let started = run(program, &[&options[..], &[id.as_os_str()], &door, &command].concat());
    let removed = run(program, &["image", "rm", "--force", &image].map(str::as_ref));
    started.and(removed)?;
    let id = fs::read_to_string(&id).map_err(Error::file("read", &id))?;
    Ok(id.trim().to_owned())
}

fn run(program: &Path, arguments: &[&std::ffi::OsStr]) -> Result<()> {
    let answer = ask(program, arguments)?;
    if answer.ok {
        return Ok(());
    }
    let (program, complaint) = (program.display(), answer.complaint);
    Err(Error::Failed(format!("{program} could not start a container: {complaint}; was the engine reloaded since?")))
}

/// A directory with a root file system; dropping it removes it.
struct Place(PathBuf);

impl Place {
    fn new() -> Result<Self> {
        let template = std::env::temp_dir().join("portslice-verify-XXXXXX");
        let place = nix::unistd::mkdtemp(&template).map_err(|e| Error::file("create", &template)(e.into()))?;
        let place = Place(place);
        let program = std::env::current_exe().map_err(|e| Error::Failed(format!("cannot find this program: {e}")))?;
        copy(&program, &place.root().join("portslice"))?;
        for library in libraries() {
            copy(&library, &place.root().join(library.strip_prefix("/").unwrap_or(&library)))?;
        }
        Ok(place)
    }

    fn root(&self) -> PathBuf {
        self.0.join("root")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let directory = to.parent().unwrap_or(to);
    fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
    fs::copy(from, to).map(drop).map_err(Error::file("write", to))
}

/// Libraries that are mapped into this process; none where it is static. The loader is asked for by a path of its own, which
/// may lead through a link, so it is there under both.
fn libraries() -> Vec<PathBuf> {
    const LOADERS: [&str; 2] = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut found: Vec<PathBuf> =
        maps.lines().filter_map(|line| line.split_whitespace().nth(5)).map(PathBuf::from).collect();
    found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so")));
    if !found.is_empty() {
        found.extend(LOADERS.map(PathBuf::from).into_iter().filter(|path| path.exists()));
    }
    found.sort();
    found.dedup();
    found
}
