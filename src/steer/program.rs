//! Loading the programs, pinning them, and hooking them to the uplink and to lo.
//!
//! Once per boot and version. A container's own devices get the programs through filters ([`crate::net::filter`]), because
//! attaching tcx waits for an RCU grace period (some 20 ms).

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use aya::EbpfLoader;
use aya::programs::{Program, ProgramError};

use super::find::Mine;
use super::pins::{self, MAPS, NAMES, Programs};
use super::shared::open;
use super::sys::{self, Kind};
use super::{convert, find};
use crate::error::{Error, Result};

/// A compiled object with BPF programs.
pub(super) struct Object {
    /// The ELF file.
    pub(super) bytes: &'static [u8],
    /// What its programs are, for messages.
    pub(super) what: &'static str,
    /// What a kernel that refuses them lacks.
    pub(super) remedy: &'static str,
}

/// The compiled data path.
static DATA_PATH: Object = Object {
    bytes: aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.o")),
    what: "the data path",
    remedy: "Linux 5.10 or later with BPF and the BPF JIT is needed; `portslice doctor` lists what is missing",
};

/// Maps that no program uses and every program is bound to: they tell whose it is, and live as long as it does.
const BOUND: [&str; 3] = ["book", "tenants", "devices"];

/// What tells this build's programs, those at the sockets among them, from other ones.
pub const VERSION: &str = env!("STEER_VERSION");

impl Programs {
    /// Loads all programs: [`Self::load_some`].
    pub fn load(&self) -> Result<()> {
        self.load_some(&NAMES)
    }

    /// Loads programs into the kernel and pins them. Maps that are pinned already are used, so leases survive an
    /// upgrade; programs that are pinned already are replaced, each at one moment, once all are loaded: a load that fails
    /// leaves those that work. Whose pins they are is [`Self::check`]'s to say.
    pub fn load_some(&self, names: &[&str]) -> Result<()> {
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(self.directory());
        let pinned = self.pin_beside(&DATA_PATH, &mut loader, names, |map| open(self.directory(), map));
        pinned.inspect_err(|_| self.forget_beside())?;
        self.take_over(names)
    }

    /// The same where the maps are of an older layout: the programs get new maps, into which is copied what stands in the
    /// older ones. Until the programs on filters are replaced, they go on with the older maps; so nobody may change either
    /// meanwhile.
    pub fn load_converting(&self) -> Result<()> {
        let mut loader = EbpfLoader::new();
        for map in MAPS {
            pins::remove(&self.map_beside(map))?;
            loader.map_pin_path(map, self.map_beside(map));
        }
        let beside = |map: &str| pins::open(&self.map_beside(map));
        let copy = |map: &&str| convert::copy(map, &open(self.directory(), map)?, &beside(map)?);
        let pinned = self
            .pin_beside(&DATA_PATH, &mut loader, &NAMES, beside)
            .and_then(|()| convert::LASTING.iter().try_for_each(copy));
        pinned.inspect_err(|_| self.forget_beside())?;
        for map in MAPS {
            rename(&self.map_beside(map), &self.directory().join(map))?;
        }
        pins::RETIRED.iter().try_for_each(|map| pins::remove(&self.directory().join(map)))?;
        self.take_over(&NAMES)
    }

    /// Loads programs of `object` and pins each beside its place. `map` opens one of the maps that they are bound to.
    pub(super) fn pin_beside(
        &self,
        object: &Object,
        loader: &mut EbpfLoader<'_>,
        names: &[&str],
        map: impl Fn(&str) -> Result<OwnedFd>,
    ) -> Result<()> {
        let fail = |e: &dyn std::error::Error| {
            Error::unsupported(format!("the kernel does not take {}: {}", object.what, reason(e)), object.remedy)
        };
        let mut loaded = loader.load(object.bytes).map_err(|e| fail(&e))?;
        let bound = BOUND.map(map);
        let bound = bound.into_iter().collect::<Result<Vec<_>>>()?;
        for name in names {
            let missing = || Error::Bpf { doing: format!("find program {name}"), why: "not in the object".into() };
            let program = loaded.program_mut(name).ok_or_else(missing)?;
            load(program).map_err(|e| fail(&e))?;
            let fd = program.fd().map_err(|e| fail(&e))?;
            for (map, bound) in BOUND.iter().zip(&bound) {
                sys::bind_map(fd.as_fd(), bound.as_fd()).map_err(|e| Error::Bpf {
                    doing: format!("bind the map {map} to the program {name}"),
                    why: e.to_string(),
                })?;
            }
            let path = self.beside(name);
            // A run that was killed left one of another load.
            pins::remove(&path)?;
            sys::object_pin(fd.as_fd(), &path).map_err(Error::file("pin program", &path))?;
        }
        Ok(())
    }

    /// Removes what a load that failed left beside its place. What cannot be removed is removed by the next one.
    fn forget_beside(&self) {
        self.forget_programs_beside(&NAMES);
        for pin in MAPS.iter().map(|map| self.map_beside(map)) {
            if let Err(e) = pins::remove(&pin) {
                log::debug!("{e}");
            }
        }
    }

    pub(super) fn forget_programs_beside(&self, names: &[&str]) {
        for pin in names.iter().map(|name| self.beside(name)) {
            if let Err(e) = pins::remove(&pin) {
                log::debug!("{e}");
            }
        }
    }

    /// Every program that waits beside its place takes it: whoever opens one finds the old one or the new one.
    pub(super) fn take_over(&self, names: &[&str]) -> Result<()> {
        names.iter().try_for_each(|name| rename(&self.beside(name), &self.path(name)))
    }

    /// The program `name` that is bound to the book with id `book`, the newest of several, wherever it is pinned.
    pub fn find(book: u32, name: &str) -> Result<Option<OwnedFd>> {
        find::program(book, name)
    }

    /// The id of a pinned program: what a filter that runs it tells (`net::filter::Attached::runs_program`).
    pub fn id(&self, name: &str) -> Result<u32> {
        let program = self.open(name)?;
        let info = sys::program_info(program.as_fd());
        info.map(|info| info.id)
            .map_err(|e| Error::Bpf { doing: format!("look at the program {name}"), why: e.to_string() })
    }

    /// Is the program as it is pinned hooked to the tcx ingress of a device?
    pub fn is_hooked(&self, name: &str, ifindex: u32) -> bool {
        let link = sys::object_get(&self.link_path(name)).and_then(|link| sys::link_info(link.as_fd()));
        let program = sys::object_get(&self.path(name)).and_then(|program| sys::program_info(program.as_fd()));
        matches!((link, program), (Ok(link), Ok(program)) if link.tcx == Some(ifindex) && link.program == program.id)
    }

    /// Unpins the maps, so that [`Self::load`] makes new ones. Programs that run keep those they have.
    pub fn forget_maps(&self) -> Result<()> {
        MAPS.iter().try_for_each(|map| pins::remove(&self.directory().join(map)))
    }

    /// A pinned program.
    pub fn open(&self, name: &str) -> Result<OwnedFd> {
        let path = self.path(name);
        sys::object_get(&path).map_err(|e| Error::Bpf {
            doing: format!("open the program {}", path.display()),
            why: format!("{e}; `portslice setup` makes it"),
        })
    }

    /// Hooks `name` to the tcx ingress of a device and pins the link; a link that stands there gets the pinned program, at
    /// one moment. `false` when the kernel has no tcx (before 6.6).
    pub fn attach_tcx(&self, name: &str, ifindex: u32, device: &str) -> Result<bool> {
        let program = self.open(name)?;
        let pin = self.link_path(name);
        let fail = |e: io::Error| Error::Bpf { doing: format!("attach {name} to {device}"), why: e.to_string() };
        if let Some((Kind::Link, link)) = pins::pinned(&pin)? {
            if sys::link_info(link.as_fd()).map_err(fail)?.tcx == Some(ifindex) {
                return sys::link_update(link.as_fd(), program.as_fd()).map_err(fail).map(|()| true);
            }
            // Its device is gone, or another one by now.
            sys::link_detach(link.as_fd()).map_err(fail)?;
            pins::remove(&pin)?;
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

    /// Unhooks `name` from the device that [`Self::attach_tcx`] hooked it to, if it did; also where somebody else holds the
    /// link, or removed its pin. A link that is not ours by `mine` stays.
    pub fn detach_tcx(&self, name: &str, mine: Mine<'_>) -> Result<()> {
        let pin = self.link_path(name);
        let doing = |e: io::Error| Error::Bpf { doing: format!("detach {name}"), why: e.to_string() };
        if let Some((Kind::Link, link)) = pins::pinned(&pin)? {
            if !find::is_ours(sys::link_info(link.as_fd()).map_err(doing)?.program, mine)? {
                return Ok(());
            }
            sys::link_detach(link.as_fd()).map_err(doing)?;
            return pins::remove(&pin);
        }
        Ok(())
    }
}

/// Loads a program as what its section says it is.
fn load(program: &mut Program) -> std::result::Result<(), ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::CgroupSysctl(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::file("replace", to))
}

/// Why, on one line: the verifier's last words, if any, and the kernel's answer. The verifier's log may be empty, or end with
/// blank lines and its statistics.
fn reason(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let [text, cause] = [error.to_string(), cause.to_string()];
    let says_something = |line: &&str| line.contains(char::is_alphanumeric) && !line.starts_with("processed ");
    let said = |text: &str| {
        let line = text.lines().map(str::trim).rfind(says_something).unwrap_or_default();
        let line = line.trim_end_matches([':', ' ']);
        line.strip_suffix("Verifier output").unwrap_or(line).trim_matches([':', '.', ' ']).to_owned()
    };
    match [said(&text), said(&cause)] {
        [text, cause] if text.is_empty() && cause.is_empty() => "it gives no reason".to_owned(),
        [text, cause] if text.contains(&cause) => text,
        [text, cause] if text.is_empty() => cause,
        [text, cause] => format!("{text}: {cause}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("{said}")]
    struct Failed {
        said: String,
        #[source]
        cause: io::Error,
    }

    #[test]
    fn a_reason_is_never_empty() {
        let load = "the BPF_PROG_LOAD syscall returned Function not implemented. Verifier output: ";
        for (said, cause, line) in [
            (load.to_owned(), "Function not implemented", load.trim_end_matches(". Verifier output: ")),
            (format!("{load}\n"), "Function not implemented", load.trim_end_matches(". Verifier output: ")),
            (format!("{load}0: R1=ctx()\nR2 !read_ok\nprocessed 1 insns\n\n"), "EACCES", "R2 !read_ok: EACCES"),
            ("failed to create map `ports`".into(), "No memory", "failed to create map `ports`: No memory"),
            (": \n:".into(), "Not permitted", "Not permitted"),
            ("failed".into(), "", "failed"),
            (String::new(), ":", "it gives no reason"),
        ] {
            let cause = io::Error::other(cause);
            assert_eq!(reason(&Failed { said, cause }), line);
        }
    }
}
