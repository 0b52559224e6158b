//! One process from spawn to exit: what it took, what it needed, what it said.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What is to be run. Everything is set up before the clock starts; the child is started by `posix_spawn`.
pub struct Call<'a> {
    pub program: &'a Path,
    pub arguments: &'a [&'a OsStr],
    pub environment: &'a [(&'a str, PathBuf)],
    pub input: &'a str,
}

/// What a successful run took.
pub struct Timed {
    pub took: Duration,
    /// Peak resident memory in bytes. The kernel counts a spawned process from its parent's peak, so this is at least ours.
    pub peak_memory: u64,
    pub output: String,
}

impl Call<'_> {
    /// Runs it; a failure carries what the program wrote to standard error.
    pub fn run(&self) -> io::Result<Timed> {
        let mut command = Command::new(self.program);
        command.args(self.arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = command.spawn()?;
        // A program that does not read its input is no failure.
        let _ = child.stdin.take().expect("stdin is piped").write_all(self.input.as_bytes());
        let (mut output, mut complaint) = (String::new(), String::new());
        // to its end, so that a program that says much never waits for room; complaints are one line
        child.stdout.take().expect("stdout is piped").read_to_string(&mut output)?;
        let (status, usage) = wait(child.id())?;
        let took = begun.elapsed();
        child.stderr.take().expect("stderr is piped").read_to_string(&mut complaint)?;
        if !status.success() {
            let said = [complaint.trim(), output.trim()].join(" ");
            return Err(io::Error::other(format!("{}: {status}: {said}", self.program.display())));
        }
        Ok(Timed { took, peak_memory: usage.ru_maxrss as u64 * 1024, output })
    }
}

fn wait(pid: u32) -> io::Result<(ExitStatus, libc::rusage)> {
    let mut status = 0;
    // SAFETY: all-zero is a valid rusage, and both pointers are to live locals.
    let (waited, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(pid as i32, &mut status, 0, &mut usage), usage)
    };
    if waited < 0 { Err(io::Error::last_os_error()) } else { Ok((ExitStatus::from_raw(status), usage)) }
}
