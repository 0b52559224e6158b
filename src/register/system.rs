//! The system that is registered: the running one, or another one below a directory. Where its files and programs are, and
//! asking an engine's program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Options;
use crate::error::{Error, Result};
use crate::refusal::one_line;

/// Where our programs are when they are not beside the running one.
const INSTALLED: [&str; 2] = ["/usr/libexec/portslice", "/usr/bin"];
/// Where engines are when PATH does not say.
const USUAL: [&str; 6] = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/bin", "/sbin"];

/// See the module.
pub struct System {
    root: Option<PathBuf>,
    programs: Option<PathBuf>,
}

impl System {
    /// The system that the options mean. [`Error::NotFound`] where its root is no directory.
    pub fn new(options: &Options) -> Result<Self> {
        let root = options.root.clone().filter(|root| root != Path::new("/"));
        match root.as_ref().filter(|root| !root.is_dir()) {
            None => Ok(System { root, programs: options.programs.clone() }),
            Some(root) => Err(Error::NotFound(format!(
                "--root {}: there is no such directory; name the one that has the other system's etc and usr",
                root.display()
            ))),
        }
    }

    /// The running system.
    pub fn running() -> Self {
        System { root: None, programs: None }
    }

    /// Is it the one that runs here?
    pub fn is_running(&self) -> bool {
        self.root.is_none()
    }

    /// Where a file of the system is, seen from here.
    pub fn at(&self, path: &Path) -> PathBuf {
        match &self.root {
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_path_buf(),
        }
    }

    /// Is there something?
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.at(path.as_ref()).exists()
    }

    /// The path by which the system knows a program of ours. [`Error::NotFound`] where it is not there, [`Error::Invalid`]
    /// where what is there cannot be run.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let directories = self.program_directories();
        let found = directories.iter().map(|directory| directory.join(name)).find(|path| self.has(path));
        if let Some(path) = found.as_ref().filter(|path| !is_program(&self.at(path))) {
            let why = "it is there, and no program that can be run: install portslice's there, or remove it";
            return Err(Error::invalid(path.display().to_string(), why));
        }
        found.ok_or_else(|| {
            let looked = directories.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(" nor in ");
            Error::NotFound(format!(
                "there is no {name} in {looked}: install it there, or say where portslice's programs are with --programs DIR"
            ))
        })
    }

    /// An engine's program: in PATH, or where programs usually are.
    pub fn engine(&self, name: &str) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").filter(|_| self.is_running()).unwrap_or_default();
        let usual = USUAL.iter().map(|directory| self.at(Path::new(directory)));
        let candidates = std::env::split_paths(&path).chain(usual).map(|directory| directory.join(name));
        candidates.filter(|path| path.is_absolute()).find(|path| is_program(path))
    }

    /// Is the program of ours with this name installed at `place` itself, and not as a link? In whatever version: each has
    /// its name in it. [`Error::Invalid`] where a file of somebody else is there.
    pub fn is_installed_at(&self, place: &Path, name: &str) -> Result<bool> {
        let real = self.at(place);
        if !real.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
            return Ok(false);
        }
        let bytes = fs::read(&real).map_err(Error::file("read", &real))?;
        if is_program(&real) && bytes.windows(name.len()).any(|there| there == name.as_bytes()) {
            return Ok(true);
        }
        let why = format!("it is there, and not {name}: move it away and run setup again");
        Err(Error::invalid(place.display().to_string(), why))
    }

    /// What is said where an engine is not there to be asked.
    pub fn unasked(&self, engine: &str) -> String {
        format!("nobody was asked whether it loads: there is no {engine} in this system")
    }

    fn program_directories(&self) -> Vec<PathBuf> {
        if let Some(programs) = &self.programs {
            return vec![programs.clone()];
        }
        let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.to_owned()));
        beside.filter(|_| self.is_running()).into_iter().chain(INSTALLED.map(PathBuf::from)).collect()
    }
}

/// What an engine's program answered.
pub struct Answer {
    /// Did it exit with 0?
    pub ok: bool,
    /// What it wrote to stdout.
    pub out: String,
    /// Its complaint on one line, with where its logs put the reason.
    pub complaint: String,
}

/// Asks an engine's program.
pub fn ask<S: AsRef<std::ffi::OsStr>>(program: &Path, arguments: &[S]) -> Result<Answer> {
    let mut command = Command::new(program);
    let output = command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).output();
    let output = output.map_err(|e| Error::Failed(format!("cannot run {}: {e}", program.display())))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let complaint =
        text(&output.stderr).lines().filter(|line| !line.contains("level=warning")).collect::<Vec<_>>().join(" ");
    Ok(Answer { ok: output.status.success(), out: text(&output.stdout), complaint: one_line(&complaint) })
}

/// The first version in a text, as major and minor: `Docker version 20.10.24+dfsg1, build 297e128` is (20, 10).
pub fn version(text: &str) -> Option<(u32, u32)> {
    text.split_whitespace().find_map(|word| {
        let mut numbers = word.trim_start_matches('v').split(['.', '-', '+', '~', ',']);
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    })
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_engines_tell_them() {
        for (text, numbers) in [
            ("Docker version 20.10.24+dfsg1, build 297e128", Some((20, 10))),
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", Some((1, 6))),
            ("containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7", Some((2, 1))),
            ("podman version 5.4.2", Some((5, 4))),
            ("", None),
        ] {
            assert_eq!(version(text), numbers, "{text}");
        }
    }
}
