//! The ledger's lock: one file, `flock`, held for a decision and never for the work that follows from it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fs2::FileExt;

use crate::error::{Error, Result};
use crate::host::process::command_of;

/// How long the lock is waited for.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The lock while it is held; dropping it gives it back.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "held for its lock alone")] File);

/// Takes the lock `path`, and makes the file if need be.
///
/// # Errors
///
/// [`Error::Busy`] names the holder when it is not to be had within [`PATIENCE`].
pub fn take(path: &Path) -> Result<Lock> {
    loop {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(path);
        let file = wait(file.map_err(Error::file("open", path))?, path)?;
        // `setup --undo` removes the file: the lock of a file that is gone keeps nobody out.
        let held = file.metadata().map_err(Error::file("inspect", path))?.ino();
        if fs::metadata(path).is_ok_and(|there| there.ino() == held) {
            return Ok(Lock(file));
        }
    }
}

/// Waits for the lock of an open file.
fn wait(file: File, path: &Path) -> Result<File> {
    match FileExt::try_lock_exclusive(&file) {
        Ok(()) => return Ok(file),
        Err(e) if e.kind() == ErrorKind::WouldBlock => {}
        Err(e) => return Err(Error::file("lock", path)(e)),
    }
    // The kernel hands a lock to whoever waits for it, in order; asking again and again would be late and unfair. The thread
    // of a wait that was given up ends with the process.
    let inode = file.metadata().map_err(Error::file("inspect", path))?.ino();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let locked = FileExt::lock_exclusive(&file).map(|()| file);
        let _ = sender.send(locked);
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok(locked) => locked.map_err(Error::file("lock", path)),
        Err(_) => Err(Error::Busy(format!(
            "cannot lock {}: {} holds it for more than {} s: end it, or try again",
            path.display(),
            holder(inode).unwrap_or_else(|| "another process".into()),
            PATIENCE.as_secs()
        ))),
    }
}

/// The process that holds the lock of a file, by the kernel's table of locks (proc_locks(5)).
fn holder(inode: u64) -> Option<String> {
    let table = fs::read_to_string("/proc/locks").ok()?;
    let pid = table.lines().find_map(|line| holder_in(line, inode))?;
    Some(match command_of(pid) {
        Some(command) => format!("process {pid} ({command})"),
        None => format!("process {pid}"),
    })
}

/// Of a line such as `1: FLOCK  ADVISORY  WRITE 1234 00:1a:5678 0 EOF`; a waiting process has `->` behind the number.
fn holder_in(line: &str, inode: u64) -> Option<u32> {
    let mut words = line.split_whitespace().skip(1);
    if words.next()? != "FLOCK" {
        return None;
    }
    let (pid, place) = (words.nth(2)?, words.next()?);
    let held = place.rsplit(':').next()?.parse::<u64>().ok()? == inode;
    held.then(|| pid.parse().ok()).flatten()
}

/// Whether an error says that the state directory is not there (any more).
pub fn is_gone(error: &Error) -> bool {
    matches!(error, Error::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_read_from_the_kernels_table() {
        let held = "3: FLOCK  ADVISORY  WRITE 1234 00:1a:5678 0 EOF";
        assert_eq!(holder_in(held, 5678), Some(1234));
        assert_eq!(holder_in(held, 5679), None);
        assert_eq!(holder_in("3: -> FLOCK  ADVISORY  WRITE 99 00:1a:5678 0 EOF", 5678), None);
        assert_eq!(holder_in("1: POSIX  ADVISORY  WRITE 1 00:1a:5678 0 EOF", 5678), None);
        assert_eq!(holder_in("", 1), None);
    }

    #[test]
    fn a_lock_is_exclusive_and_given_back() {
        let path = std::env::temp_dir().join(format!("portslice-lock-{}", std::process::id()));
        let lock = take(&path).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        assert!(holder(inode).unwrap().contains(&format!("process {}", std::process::id())));
        let other = path.clone();
        let waiting = thread::spawn(move || take(&other).map(drop));
        thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished());
        drop(lock);
        waiting.join().unwrap().unwrap();
        fs::remove_file(&path).unwrap();
    }
}
