//! A container without a runtime: a process in a network namespace of its own that does nothing until it is ended.

use nix::sched::{CloneFlags, unshare};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The process. Ending it ends the namespace, and it ends with us.
pub struct Holder(Child);

impl Holder {
    pub fn new() -> io::Result<Holder> {
        let mut command = Command::new("sleep");
        command.arg("600").stdin(Stdio::null());
        let alone = || {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::SIGKILL)?;
            Ok(unshare(CloneFlags::CLONE_NEWNET)?)
        };
        // SAFETY: between fork and exec only prctl(2) and unshare(2) are called, which are async-signal-safe.
        unsafe { command.pre_exec(alone) };
        Ok(Holder(command.spawn()?))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The path of its network namespace.
    #[allow(dead_code, reason = "only one of the benchmarks that share this file names it by path")]
    pub fn netns(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.pid()).into()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
