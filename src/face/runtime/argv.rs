//! The command line of a runtime, as engines write it for runc and crun.
//!
//! Only as much is understood as decides whether a container is created, and of which bundle. Everything is handed on as it
//! came; what is not understood is the runtime's to refuse. Both runtimes take options before and after the id, with the value
//! behind `=` or in the next word; runc, whose flags are Go's, also takes one dash for two. Facts: `man runc`, `man crun`, and
//! what Docker, containerd and Podman were seen to call.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// What our own options begin with. Docker's `runtimeArgs` can carry them: they are taken away before the runtime is called.
const OWN: &str = "--portslice-";

/// Options that take a value, of all commands that are looked at. `rootless` takes one in both; crun's `-f` is `--config`.
const WITH_VALUE: [&str; 17] = [
    "log",
    "log-format",
    "log-level",
    "root",
    "criu",
    "rootless",
    "cgroup-manager",
    "bundle",
    "b",
    "console-socket",
    "pidfd-socket",
    "pid-file",
    "preserve-fds",
    "config",
    "f",
    "app-armor",
    "process-label",
];

/// Options that take none.
const WITHOUT: [&str; 17] = [
    "debug",
    "force",
    "systemd-cgroup",
    "help",
    "h",
    "?",
    "usage",
    "version",
    "v",
    "V",
    "detach",
    "d",
    "keep",
    "no-pivot",
    "no-new-keyring",
    "no-subreaper",
    "keep-fds",
];

/// The commands of runtimes (runc, crun, youki). Behind an option that nobody here knows, they tell a command from a value.
const COMMANDS: [&str; 17] = [
    "create",
    "run",
    "start",
    "kill",
    "delete",
    "exec",
    "state",
    "list",
    "ps",
    "pause",
    "resume",
    "update",
    "spec",
    "events",
    "features",
    "checkpoint",
    "restore",
];

/// A command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The words for the runtime, without ours.
    pub words: Vec<OsString>,
    /// Our own options, by what follows [`OWN`] in their names: `config`, `/x` for `--portslice-config=/x`.
    pub own: Vec<(String, OsString)>,
    /// Where errors are to be written besides stderr.
    pub log: Option<PathBuf>,
    /// Whether that is to be JSON.
    pub json: bool,
    /// The container that is created; `None` for every other command.
    pub create: Option<Create>,
    /// The id of the container that is deleted; `None` for every other command.
    pub deleted: Option<String>,
}

/// What `create` and `run` say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Create {
    /// The container's id, as it was given.
    pub id: String,
    /// The bundle; `None`: the working directory.
    pub bundle: Option<PathBuf>,
    /// crun's `--config`: a file to read instead of the bundle's config.json.
    pub config: Option<PathBuf>,
}

/// Understands a command line without the program's name.
pub fn decode(args: impl IntoIterator<Item = OsString>) -> Call {
    let mut call = Call::default();
    for word in args {
        match own(&word) {
            Some(option) => call.own.push(option),
            None => call.words.push(word),
        }
    }
    let (mut command, mut id, mut create) = (None, None, Create::default());
    let mut words = call.words.iter();
    let mut unknown = false;
    while let Some(word) = words.next() {
        let (is_option, after_unknown) = (is_option(word), std::mem::take(&mut unknown));
        if word == "--" {
            for rest in words.by_ref() {
                place(rest, false, &mut command, &mut id);
            }
        } else if !is_option {
            place(word, after_unknown, &mut command, &mut id);
        } else {
            let (name, mut value) = split(word);
            // Of `delete` alone it is `--force`.
            let forces = name == "f" && command.as_deref() == Some("delete");
            let known = forces || WITHOUT.contains(&name.as_str());
            if value.is_none() && !forces && WITH_VALUE.contains(&name.as_str()) {
                value = words.next().cloned();
            } else if value.is_none() && !known {
                unknown = true;
            }
            match (name.as_str(), value) {
                ("log", value) => call.log = value.map(PathBuf::from),
                ("log-format", value) => call.json = value.is_some_and(|format| format == "json"),
                ("bundle" | "b", value) => create.bundle = value.map(PathBuf::from),
                ("config" | "f", value) => create.config = value.map(PathBuf::from),
                _ => {}
            }
        }
    }
    match (command.as_deref(), id) {
        (Some("create" | "run"), Some(id)) => call.create = Some(Create { id, ..create }),
        (Some("delete"), id) => call.deleted = id,
        _ => {}
    }
    call
}

/// A word that is no option: the command, then the id. Behind an option that is not known it may be that option's value.
fn place(word: &OsStr, after_unknown: bool, command: &mut Option<String>, id: &mut Option<String>) {
    let text = word.to_string_lossy();
    match command {
        None if after_unknown && !COMMANDS.contains(&&*text) => {}
        None => *command = Some(text.into_owned()),
        Some(_) if after_unknown && id.is_some() => {}
        Some(_) => *id = Some(text.into_owned()),
    }
}

fn is_option(word: &OsStr) -> bool {
    word.len() > 1 && word.as_bytes()[0] == b'-'
}

/// The name of an option without its dashes, and the value behind `=`, or behind a short `b` or `f`.
fn split(word: &OsStr) -> (String, Option<OsString>) {
    let bytes = word.as_bytes();
    let dashes = bytes.iter().take(2).take_while(|byte| **byte == b'-').count();
    let rest = &bytes[dashes..];
    if let Some(at) = rest.iter().position(|byte| *byte == b'=') {
        let name = String::from_utf8_lossy(&rest[..at]).into_owned();
        return (name, Some(OsString::from_vec(rest[at + 1..].to_vec())));
    }
    let name = String::from_utf8_lossy(rest).into_owned();
    let attached = dashes == 1 && rest.len() > 1 && matches!(rest[0], b'b' | b'f');
    if attached && !WITH_VALUE.contains(&name.as_str()) {
        return (name[..1].to_owned(), Some(OsString::from_vec(rest[1..].to_vec())));
    }
    (name, None)
}

fn own(word: &OsStr) -> Option<(String, OsString)> {
    let rest = word.as_bytes().strip_prefix(OWN.as_bytes())?;
    let at = rest.iter().position(|byte| *byte == b'=').unwrap_or(rest.len());
    let value = rest.get(at + 1..).unwrap_or_default();
    Some((String::from_utf8_lossy(&rest[..at]).into_owned(), OsString::from_vec(value.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> Call {
        decode(line.split_whitespace().map(OsString::from))
    }

    /// Id, bundle, log, JSON.
    fn created(line: &str) -> Option<(String, String, String, bool)> {
        let call = call(line);
        let text = |path: Option<PathBuf>| path.map_or_else(String::new, |path| path.display().to_string());
        let log = text(call.log);
        call.create.map(|create| (create.id, text(create.bundle), log, call.json))
    }

    #[test]
    fn what_engines_call_to_create_a_container() {
        let of = |id: &str, bundle: &str, log: &str, json: bool| Some((id.into(), bundle.into(), log.into(), json));
        for (line, expected) in [
            // Docker 20.10 and containerd 1.6; with a terminal
            (
                "--root /r --log /b/log.json --log-format json create --bundle /b --pid-file /b/init.pid ID",
                of("ID", "/b", "/b/log.json", true),
            ),
            (
                "--root /r --log /l --log-format json --systemd-cgroup create --bundle /b --pid-file /p --console-socket /s ID",
                of("ID", "/b", "/l", true),
            ),
            // Podman by conmon
            (
                "--systemd-cgroup create --bundle /u --pid-file /u/pidfile --no-new-keyring ID",
                of("ID", "/u", "", false),
            ),
            ("create --bundle=/b --pid-file=/p --no-pivot ID", of("ID", "/b", "", false)),
            // by hand
            ("run ID", of("ID", "", "", false)),
            ("run -d -b /b ID", of("ID", "/b", "", false)),
            ("run ID --bundle /b --detach", of("ID", "/b", "", false)),
            ("run -b=/b ID", of("ID", "/b", "", false)),
            ("run -b/b ID", of("ID", "/b", "", false)),
            ("-root /r run -bundle /b -preserve-fds 3 -- ID", of("ID", "/b", "", false)),
            ("--rootless true --log=/l --log-format=text --debug run ID", of("ID", "", "/l", false)),
            ("--cgroup-manager=disabled run --keep ID", of("ID", "", "", false)),
            // names that are commands elsewhere
            ("run --bundle create ID", of("ID", "create", "", false)),
            ("--root create run run", of("run", "", "", false)),
            // options of later versions
            ("--new-global value create --bundle /b ID", of("ID", "/b", "", false)),
            ("--new-flag create --bundle /b ID", of("ID", "/b", "", false)),
            ("create --bundle /b ID --new-flag", of("ID", "/b", "", false)),
            ("create ID --new-option value", of("ID", "", "", false)),
        ] {
            assert_eq!(created(line), expected, "{line}");
        }
        let config = call("run --config /c -b /b ID").create.unwrap().config;
        assert_eq!(config, Some(PathBuf::from("/c")), "crun's own option");
    }

    #[test]
    fn everything_else_is_no_container() {
        for line in [
            "",
            "features",
            "--version",
            "create",
            "run --bundle /b",
            "--root /r start ID",
            "--root /r delete --force create",
            "kill --all ID 9",
            "update --resources - ID",
            "update --resources=/f create",
            "exec --process /p --detach create",
            "--log create state ID",
            "pause run",
            "spec --bundle run",
            "--root run list",
        ] {
            assert_eq!(created(line), None, "{line}");
        }
    }

    #[test]
    fn what_engines_call_to_delete_a_container() {
        for (line, id) in [
            ("--root /r --log /l --log-format json delete --force ID", Some("ID")),
            ("delete ID --force", Some("ID")),
            ("delete -f ID", Some("ID")),
            ("delete ID -f", Some("ID")),
            ("delete", None),
            ("--root delete kill ID 9", None),
        ] {
            assert_eq!(call(line).deleted.as_deref(), id, "{line}");
        }
    }

    #[test]
    fn our_own_options_are_taken_away_and_nothing_else() {
        let line = "--portslice-config=/x --root /r --portslice-runtime=/usr/bin/crun create --portslice-flag -b /b ID";
        let call = call(line);
        let own: Vec<(&str, &OsStr)> =
            call.own.iter().map(|(name, value)| (name.as_str(), value.as_os_str())).collect();
        let [config, runtime, flag] = ["/x", "/usr/bin/crun", ""].map(OsStr::new);
        assert_eq!(own, [("config", config), ("runtime", runtime), ("flag", flag)]);
        assert_eq!(call.words, ["--root", "/r", "create", "-b", "/b", "ID"]);
        let odd = OsString::from_vec(b"\xff=\x80".to_vec());
        assert_eq!(decode([odd.clone()]).words, [odd], "what is no text is handed on");
    }
}
