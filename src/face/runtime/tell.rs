//! How the shim says what went wrong: on stderr, in the log, and in the file that the engine reads.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::SystemTime;

use serde_json::json;

use super::NAME;
use super::argv::Call;
use crate::error::Error;
use crate::face::report;

/// Says it in every place.
pub fn tell(call: &Call, error: &Error) {
    let line = error.to_string();
    report(NAME, log::Level::Error, &line);
    let Some(path) = &call.log else { return };
    // The engine makes the file; a FIFO that nobody reads is not waited for.
    let mut options = OpenOptions::new();
    let file = options.create(true).append(true).mode(0o644).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    if let Ok(mut file) = file {
        let _ = file.write_all(entry(&line, call.json, SystemTime::now()).as_bytes());
    }
}

/// A line as runc writes it.
fn entry(line: &str, as_json: bool, now: SystemTime) -> String {
    let (time, line) = (humantime::format_rfc3339_seconds(now).to_string(), format!("{NAME}: {line}"));
    if as_json {
        format!("{}\n", json!({"level": "error", "msg": line, "time": time}))
    } else {
        format!("time={} level=error msg={}\n", json!(time), json!(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_those_of_runc() {
        let line = entry("port 1 is \"in use\"", true, SystemTime::UNIX_EPOCH);
        assert_eq!(
            line,
            "{\"level\":\"error\",\"msg\":\"portslice-runtime: port 1 is \\\"in use\\\"\",\"time\":\"1970-01-01T00:00:00Z\"}\n"
        );
        let line = entry("no", false, SystemTime::UNIX_EPOCH);
        assert_eq!(line, "time=\"1970-01-01T00:00:00Z\" level=error msg=\"portslice-runtime: no\"\n");
    }
}
