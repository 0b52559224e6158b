//! Having the host prepared by the command line: hooks and plugins do not carry the loader of the data path, which is
//! needed once a boot.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::error::{Error, Result};

/// Where the command is when it is neither configured nor beside the hook.
const INSTALLED: &str = "/usr/bin/portslice";
/// Setup takes a tenth of a second; others may do it at the same time, and then it waits for them.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `portslice setup`, with the shaper if that is needed. Several at once are fine: one does it, the others wait.
pub fn prepare(config: &Config, shaper: bool) -> Result<()> {
    let program = program(config);
    let failed = |why: String| Error::Failed(format!("cannot prepare the host by {}: {why}", program.display()));
    let mut command = Command::new(&program);
    if let Some(file) = &config.file {
        command.arg("--config").arg(file);
    }
    command.arg("--state-dir").arg(&config.state_dir).args(["setup", "--keep-programs"]);
    if shaper {
        command.arg("--shaper");
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let child = child.map_err(|e| {
        failed(format!("{e}; run `portslice setup` once, or name the command in the config key command"))
    })?;
    let (code, text) = wait(child).map_err(failed)?;
    let line = text.trim().strip_prefix("portslice: ").unwrap_or(text.trim()).to_owned();
    match code {
        Some(0) => Ok(()),
        // Its refusal is ours, exit code and all.
        Some(5) => Err(Error::Refused(line)),
        Some(7) => Err(Error::Busy(line)),
        _ if line.is_empty() => Err(failed("it failed without a word".into())),
        _ => Err(failed(line)),
    }
}

/// The configured command, else the one beside this program, else the one that is installed. Where CNI plugins are, what is
/// called `portslice` is the plugin itself.
fn program(config: &Config) -> PathBuf {
    // A plugin may itself be called so, where an engine looks for plugins by the name of the network's driver.
    let other = |hook: PathBuf| Some(hook.parent()?.join("portslice")).filter(|path| *path != hook);
    let beside = std::env::current_exe().ok().and_then(other);
    config
        .command
        .clone()
        .or_else(|| beside.filter(|path| path.exists()))
        .unwrap_or_else(|| Path::new(INSTALLED).into())
}

/// Its exit code and what it said.
fn wait(mut child: Child) -> std::result::Result<(Option<i32>, String), String> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                let mut text = String::new();
                if let Some(stderr) = &mut child.stderr {
                    let _ = stderr.take(4096).read_to_string(&mut text);
                }
                return Ok((status.code(), text));
            }
            Ok(None) if start.elapsed() > PATIENCE => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it did not end within {} s", PATIENCE.as_secs()));
            }
            Ok(None) => sleep(Duration::from_millis(1)),
            Err(e) => return Err(e.to_string()),
        }
    }
}
