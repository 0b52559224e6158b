//! Loading the programs, pinning them, and hooking them to the uplink and to lo.
//!
//! Once per boot. A container's own devices get the programs through filters ([`crate::net::filter`]), because
//! attaching tcx waits for an RCU grace period (some 20 ms).

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::EbpfLoader;
use aya::programs::SchedClassifier;

use super::shared::open;
use super::sys;
use crate::error::{Error, Result};

/// The compiled data path.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.o"));

/// The programs by function name, see `bpf/steer.bpf.c`.
const NAMES: [&str; 7] =
    ["from_wire", "from_lo", "from_container", "after_shaper", "host_flow", "inner_lo", "inner_eth"];

/// Maps that no program uses and every program is bound to: they tell whose it is, and live as long as it does.
const BOUND: [&str; 3] = ["book", "tenants", "devices"];

/// How the pins of programs and of links begin; the others are maps.
const PROGRAM: &str = "prog_";
const LINK: &str = "link_";

/// What tells this build's data path from another one.
pub const VERSION: &str = env!("STEER_VERSION");

/// Programs and links pinned under one directory of a bpffs.
pub struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// Those under `directory`, which need not exist yet.
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Loads the programs into the kernel and pins them. Maps that are pinned already are used, so leases survive an
    /// upgrade; programs that are pinned already are replaced.
    pub fn load(&self) -> Result<()> {
        let fail = |e: &dyn std::error::Error| {
            Error::unsupported(
                format!("the kernel does not take the data path: {}", reason(e)),
                "Linux 5.10 or later with BPF and the BPF JIT is needed; `portslice doctor` lists what is missing",
            )
        };
        let mut loaded =
            EbpfLoader::new().default_map_pin_directory(&self.directory).load(OBJECT).map_err(|e| fail(&e))?;
        let bound = BOUND.map(|map| open(&self.directory, map));
        let bound = bound.into_iter().collect::<Result<Vec<_>>>()?;
        for name in NAMES {
            let missing = || Error::Bpf { doing: format!("find program {name}"), why: "not in the object".into() };
            let program: &mut SchedClassifier =
                loaded.program_mut(name).ok_or_else(missing)?.try_into().map_err(|_| missing())?;
            program.load().map_err(|e| fail(&e))?;
            let path = self.path(name);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::file("replace", &path)(e)),
                _ => {}
            }
            let fd = program.fd().map_err(|e| fail(&e))?;
            for (map, bound) in BOUND.iter().zip(&bound) {
                sys::bind_map(fd.as_fd(), bound.as_fd()).map_err(|e| Error::Bpf {
                    doing: format!("bind the map {map} to the program {name}"),
                    why: e.to_string(),
                })?;
            }
            sys::object_pin(fd.as_fd(), &path).map_err(Error::file("pin program", &path))?;
        }
        Ok(())
    }

    /// The program `name` that is bound to the book with id `book`, the newest of several, wherever it is pinned.
    pub fn find(book: u32, name: &str) -> Result<Option<OwnedFd>> {
        super::find::program(book, name)
    }

    /// The id of a pinned program: what a filter that runs it tells (`net::filter::Attached::runs_program`).
    pub fn id(&self, name: &str) -> Result<u32> {
        let program = self.open(name)?;
        let info = sys::program_info(program.as_fd());
        info.map(|info| info.id)
            .map_err(|e| Error::Bpf { doing: format!("look at the program {name}"), why: e.to_string() })
    }

    /// Where they are pinned.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Is the program as it is pinned hooked to the tcx ingress of a device?
    pub fn is_hooked(&self, name: &str, ifindex: u32) -> bool {
        let link = sys::object_get(&self.link_path(name)).and_then(|link| sys::link_info(link.as_fd()));
        let program = sys::object_get(&self.path(name)).and_then(|program| sys::program_info(program.as_fd()));
        matches!((link, program), (Ok(link), Ok(program)) if link.tcx == Some(ifindex) && link.program == program.id)
    }

    /// Unpins the maps, so that [`Self::load`] makes new ones. Programs that run keep those they have.
    pub fn forget_maps(&self) -> Result<()> {
        for entry in fs::read_dir(&self.directory).map_err(Error::file("list", &self.directory))?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // the kernel itself puts maps.debug and progs.debug into a bpffs; they cannot be removed
            if !name.contains('.') && !name.starts_with(PROGRAM) && !name.starts_with(LINK) {
                fs::remove_file(entry.path()).map_err(Error::file("remove", entry.path()))?;
            }
        }
        Ok(())
    }

    /// A pinned program.
    pub fn open(&self, name: &str) -> Result<OwnedFd> {
        let path = self.path(name);
        sys::object_get(&path).map_err(|e| Error::Bpf {
            doing: format!("open the program {}", path.display()),
            why: format!("{e}; `portslice setup` makes it"),
        })
    }

    /// The id of a pinned program, by which filters name it.
    pub fn id(&self, name: &str) -> Result<u32> {
        let program = self.open(name)?;
        let info = sys::program_info(program.as_fd());
        info.map(|info| info.id)
            .map_err(|e| Error::Bpf { doing: format!("look up the id of program {name}"), why: e.to_string() })
    }

    /// Hooks `name` to the tcx ingress of a device and pins the link; an existing link gets the pinned program.
    /// `false` when the kernel has no tcx (before 6.6).
    pub fn attach_tcx(&self, name: &str, ifindex: u32, device: &str) -> Result<bool> {
        let program = self.open(name)?;
        let pin = self.link_path(name);
        let fail = |e: io::Error| Error::Bpf { doing: format!("attach {name} to {device}"), why: e.to_string() };
        if let Ok(link) = sys::object_get(&pin) {
            sys::link_update(link.as_fd(), program.as_fd()).map_err(fail)?;
            return Ok(true);
        }
        match sys::tcx_attach(program.as_fd(), ifindex) {
            Ok(link) => {
                sys::object_pin(link.as_fd(), &pin).map_err(Error::file("pin link", &pin))?;
                Ok(true)
            }
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(e) => Err(fail(e)),
        }
    }

    /// Unhooks `name` from the device that [`Self::attach_tcx`] hooked it to, if it did.
    pub fn detach_tcx(&self, name: &str) -> Result<()> {
        let pin = self.link_path(name);
        match fs::remove_file(&pin) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", &pin)(e)),
            _ => Ok(()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{PROGRAM}{name}"))
    }

    fn link_path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{LINK}{name}"))
    }
}

/// The innermost cause on one line; the verifier's log, if any, by its last line.
fn reason(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let text = format!("{error}: {cause}");
    text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("unknown").trim().to_owned()
}
