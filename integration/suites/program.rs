//! Programs of the distribution in a namespace, with a mount namespace of their own, so that they run as they are configured and yet
//! write nothing of the machine's. Everything they start is in a PID namespace, and ends with them.

use crate::lab::{Host, Ns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What all scripts begin with: what programs share is each one's own.
const PRELUDE: &str = "
set -eu
mount -t tmpfs -o mode=755 none /run
mount -t tmpfs none /dev/shm
own() { # own USER DIRECTORY: an empty one of USER's in its place
    mkdir -p $2
    mount -t tmpfs -o mode=755 none $2
    chown $1: $2
}
as() { # as USER COMMAND...
    user=$1
    shift
    exec setpriv --reuid=$user --regid=$user --clear-groups \"$@\"
}
";

/// A program that runs until it is dropped.
pub struct Program {
    child: Child,
    output: PathBuf,
}

impl Program {
    /// Runs a shell script in a namespace, which is root's, and ends in `exec`. `name` is that of its directory.
    pub fn start(host: &Host, ns: &Ns, name: &str, script: &str) -> Program {
        let dir = Program::directory(host, name);
        let output = dir.join("output");
        let file = File::options().create(true).append(true).open(&output).expect("output");
        let mut command = ns.command("unshare");
        command.args(["--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]);
        command.arg(format!("{PRELUDE}cd {dir:?}\n{script}"));
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("output")).stderr(file);
        end_with_this_thread(&mut command);
        let child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
        Program { child, output }
    }

    /// The directory of a program, made if it is new: for what it is to find there when it starts.
    pub fn directory(host: &Host, name: &str) -> PathBuf {
        let dir = host.dir.join(name);
        fs::create_dir_all(&dir).expect("a directory");
        dir
    }

    /// What it printed so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).expect("output")).into_owned()
    }

    /// Waits until it ends by itself, and returns whether it did within a limit.
    pub fn ended(&mut self, limit: Duration) -> bool {
        let begun = Instant::now();
        while self.child.try_wait().expect("wait").is_none() {
            if begun.elapsed() > limit {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        // The first process of the PID namespace, whose end is that of all others, and what `unshare` waits for.
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let first = children.split_whitespace().find_map(|pid| pid.parse().ok());
        let ended = first.map(|first| kill(Pid::from_raw(first), Signal::SIGKILL));
        if ended.is_none_or(|done| done.is_err()) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// The program is killed when the thread that starts it ends, be it that the whole test is killed.
fn end_with_this_thread(command: &mut Command) {
    // SAFETY: only prctl(2) runs between fork and exec.
    unsafe {
        command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from));
    }
}
