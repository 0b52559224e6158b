//! What the command line says where it fails, without root: one line, once, and with a time in the log.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

fn portslice(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portslice"));
    for variable in ["PORTSLICE_CONFIG", "PORTSLICE_STATE_DIR", "JOURNAL_STREAM"] {
        command.env_remove(variable);
    }
    command.args(["--state-dir", "/nonexistent/portslice"]).args(args).output().unwrap()
}

fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("portslice-output-{}-{name}", std::process::id()))
}

#[test]
fn an_error_is_said_once_with_v_too() {
    for args in [&["show", "nobody"][..], &["-v", "show", "nobody"]] {
        let out = portslice(args);
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(6), "{said}");
        assert!(said.starts_with("portslice: ") && said.lines().count() == 1, "{args:?}: {said}");
    }
}

#[test]
fn the_log_file_has_times_that_people_read() {
    let (config, log) = (file("toml"), file("log"));
    fs::write(&config, format!("log_file = \"{}\"\n", log.display())).unwrap();
    let before = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
    let out = portslice(&["--config", config.to_str().unwrap(), "show", "nobody"]);
    let logged = fs::read_to_string(&log).unwrap();
    fs::remove_file(&config).unwrap();
    fs::remove_file(&log).unwrap();
    let line = logged.strip_suffix('\n').unwrap();
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(time.len() == "2026-01-01T00:00:00.000Z".len() && time.ends_with('Z'), "{line}");
    assert!(time[..19] >= before[..19], "{time} is before {before}");
    let said = String::from_utf8(out.stderr).unwrap();
    let (program, error) = said.trim_end().split_once(": ").unwrap();
    assert!(rest.starts_with(&format!("ERROR {program}[")) && rest.ends_with(error), "{line}, said {said}");
}
