//! The journal: what was counted for containers that ended, so that a short job can still be accounted for.
//!
//! ```text
//! <state_dir>/finished     one JSON object a line, the newest last
//! <state_dir>/finished.1   the one before, when that had grown to a megabyte
//! ```
//!
//! At most two megabytes, which is a thousand containers or more. Lines are written by one write each, so a reader sees whole
//! ones, except for one that a full disk cut off.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// When a journal has grown to this, the next one begins.
const FULL: u64 = 1 << 20;

/// The journal under a state directory.
#[derive(Clone, Debug)]
pub struct Journal {
    current: PathBuf,
    earlier: PathBuf,
}

impl Journal {
    /// The journal in `state_dir`, which need not exist yet.
    pub fn at(state_dir: &Path) -> Self {
        Journal { current: state_dir.join("finished"), earlier: state_dir.join("finished.1") }
    }

    /// Appends one line. The caller holds the ledger's lock: two that began a new journal at once would lose one.
    pub fn append(&self, line: &str) -> Result<()> {
        let path = &self.current;
        if fs::metadata(path).is_ok_and(|meta| meta.len() >= FULL) {
            fs::rename(path, &self.earlier).map_err(Error::file("rotate", path))?;
        }
        let mut options = OpenOptions::new();
        let mut file =
            options.create(true).read(true).append(true).mode(0o600).open(path).map_err(Error::file("open", path))?;
        // a line that was cut off must not spoil the next one
        let end = if torn(&mut file).map_err(Error::file("read", path))? { "\n" } else { "" };
        file.write_all(format!("{end}{line}\n").as_bytes()).map_err(Error::file("write", path))
    }

    /// All lines, the oldest first.
    pub fn lines(&self) -> Result<Vec<String>> {
        let read = |path: &Path| match fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            // A byte that is no UTF-8 damages its own line, and no other.
            bytes => bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).map_err(Error::file("read", path)),
        };
        // when a new one begins meanwhile, lines are there twice instead of missing
        let current = read(&self.current)?;
        let earlier = read(&self.earlier)?;
        Ok([earlier, current].iter().flat_map(|text| whole(text).lines().map(str::to_owned)).collect())
    }

    /// Removes both files.
    pub fn remove(&self) -> Result<()> {
        for path in [&self.earlier, &self.current] {
            match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::file("remove", path)(e)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Does it end in the middle of a line?
fn torn(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// Up to the last line end: what comes behind it was cut off.
fn whole(text: &str) -> &str {
    text.rfind('\n').map_or("", |end| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_in_order() {
        let state = std::env::temp_dir().join(format!("portslice-journal-{}", std::process::id()));
        fs::create_dir_all(&state).unwrap();
        let journal = Journal::at(&state);
        assert_eq!(journal.lines().unwrap(), Vec::<String>::new());
        let line = |n: usize| format!("{n}{}", "x".repeat(1000));
        for n in 0..3000 {
            journal.append(&line(n)).unwrap();
        }
        let lines = journal.lines().unwrap();
        assert_eq!(lines.last(), Some(&line(2999)));
        assert!((1000..2200).contains(&lines.len()), "{}", lines.len());
        assert!(
            lines.windows(2).all(|w| w[0].len() == 1001 || w[0].trim_end_matches('x') != w[1].trim_end_matches('x'))
        );
        OpenOptions::new().append(true).open(state.join("finished")).unwrap().write_all(b"{\"half").unwrap();
        assert_eq!(journal.lines().unwrap(), lines);
        journal.append("next").unwrap();
        assert_eq!(journal.lines().unwrap()[lines.len()..], ["{\"half", "next"]);
        journal.remove().unwrap();
        assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
        fs::remove_dir(&state).unwrap();
    }
}
