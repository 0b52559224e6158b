//! Where the log goes: the configured file, else the journal; with `-v` the terminal.
//!
//! An error is one line on stderr in any case (`face` prints it); the log has it too, because crun discards what a
//! hook says. A log that cannot be written never stops a container.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;
use std::time::SystemTime;

use env_logger::{Builder, Target};
use log::LevelFilter;
use systemd_journal_logger::{JournalLog, connected_to_journal};

use crate::config::Config;

/// Where the log and stderr meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere.
    Apart,
    /// The log is on stderr.
    Terminal,
    /// Both are in the journal, as those of a service are.
    Journal,
}

static PLACE: OnceLock<Place> = OnceLock::new();

/// Where the log and stderr meet; nowhere before [`start`].
pub fn place() -> Place {
    PLACE.get().copied().unwrap_or(Place::Apart)
}

/// Sets up the log of the program called `name`. Call it once.
pub fn start(name: &str, config: &Config, verbose: bool) {
    let level = LevelFilter::from(config.log_level);
    if verbose {
        // What we do; of libraries only what they complain about.
        Builder::new()
            .filter_level(level.min(LevelFilter::Warn))
            .filter_module("portslice", level.max(LevelFilter::Debug))
            .format_timestamp(None)
            .init();
        PLACE.get_or_init(|| Place::Terminal);
        return;
    }
    if let Some(path) = &config.log_file {
        match OpenOptions::new().create(true).append(true).mode(0o640).open(path) {
            Ok(file) => {
                let name = name.to_owned();
                Builder::new()
                    .filter_level(level)
                    .target(Target::Pipe(Box::new(file)))
                    .format(move |out, record| {
                        use std::io::Write;
                        let time = humantime::format_rfc3339_millis(SystemTime::now());
                        writeln!(out, "{time} {} {name}[{}]: {}", record.level(), std::process::id(), record.args())
                    })
                    .init();
            }
            Err(e) => eprintln!("{name}: cannot open the log file {}: {e}", path.display()),
        }
        return;
    }
    if let Ok(journal) = JournalLog::new()
        && journal.with_syslog_identifier(name.to_owned()).install().is_ok()
    {
        log::set_max_level(level);
        if connected_to_journal() {
            PLACE.get_or_init(|| Place::Journal);
        }
    }
}
