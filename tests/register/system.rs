//! A system below a directory, and what `portslice setup` says about it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

const PROGRAMS: [&str; 4] = ["portslice-prestart", "portslice-poststop", "portslice-runtime", "portslice-cni"];

/// A system below a directory.
pub struct System(pub PathBuf);

/// What a run left.
/// What every call is told that registers something, since its own state is kept elsewhere.
const ELSEWHERE: &str = "portslice: --state-dir does not reach what the engine starts, which reads \
    /etc/portslice/portslice.toml: say it there\n";

pub struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl System {
    pub fn new(name: &str) -> System {
        let root = std::env::temp_dir().join(format!("portslice-register-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let system = System(root);
        fs::create_dir_all(system.0.join("var/lib")).unwrap();
        for program in PROGRAMS {
            system.program(&format!("usr/libexec/portslice/{program}"), "#!/bin/sh\n");
        }
        system
    }

    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn program(&self, path: &str, text: &str) {
        self.write(path, text);
        fs::set_permissions(self.0.join(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub fn setup(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portslice"));
        command.args(["--state-dir", "/nonexistent/portslice", "setup"]).args(arguments).arg("--root").arg(&self.0);
        let out = command.env_remove("PORTSLICE_CONFIG").output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let registers = out.status.success() && !arguments.contains(&"--undo");
        let err = text(out.stderr);
        assert_eq!(err.contains(ELSEWHERE), registers, "{arguments:?}: {err}");
        Ran { code: out.status.code(), out: text(out.stdout), err: err.replace(ELSEWHERE, "") }
    }

    /// Every file, link and directory, with what is in it and who may do what with it.
    pub fn all(&self) -> BTreeMap<PathBuf, (u32, String)> {
        let mut all = BTreeMap::new();
        let mut places = vec![self.0.clone()];
        while let Some(place) = places.pop() {
            let meta = fs::symlink_metadata(&place).unwrap();
            let bytes = match () {
                () if meta.is_dir() => {
                    places.extend(fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()));
                    Vec::new()
                }
                () if meta.is_symlink() => fs::read_link(&place).unwrap().into_os_string().into_encoded_bytes(),
                () => fs::read(&place).unwrap(),
            };
            all.insert(place, (meta.permissions().mode(), String::from_utf8_lossy(&bytes).into_owned()));
        }
        all
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{}", self.out);
        self.out
    }

    #[track_caller]
    pub fn refused(self, code: i32, parts: &[&str]) {
        assert_eq!((self.code, self.err.lines().count()), (Some(code), 1), "{}{}", self.out, self.err);
        assert!(parts.iter().all(|part| self.err.contains(part)), "{parts:?} are expected in {}", self.err);
    }
}
