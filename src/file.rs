//! Reading files that others may have put there: only regular ones, and no more of them than is sensible; and the texts that
//! the kernel makes when they are read. Replacing a file as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;

/// No configuration, bundle or record comes near it: 16 MiB.
const LONGEST: u64 = 16 << 20;

/// The whole of a regular file.
///
/// # Errors
///
/// Those of the kernel; `InvalidInput` for anything that is no regular file (a FIFO would be waited for without end) and
/// for one that is longer than 16 MiB.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a FIFO waits for a writer; with O_NONBLOCK it does not, and regular files do not care.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    read_opened(file)
}

/// The whole of a file that the kernel makes when it is read, in /proc, /sys or a cgroup. Its length is not known before: the
/// standard library would ask for 32 bytes, and so on, for each start of a container.
pub fn read_generated(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let file = File::from(openat(AT_FDCWD, path.as_ref(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?);
    let mut bytes = Vec::with_capacity(4096);
    // of a file itself its length would be asked for
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The same as text.
///
/// # Errors
///
/// Those of the kernel; `InvalidData` where it is not UTF-8, as the name of a cgroup need not be.
pub fn read_generated_text(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read_generated(path)?).map_err(|_| ErrorKind::InvalidData.into())
}

/// Writes `bytes` to `beside`, then renames that to `path`: whoever reads sees the old file or the new one.
pub fn replace(path: &Path, beside: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let written = options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(beside)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(beside, path));
    written.inspect_err(|_| {
        let _ = fs::remove_file(beside);
    })
}

/// The same for a file of somebody else: it keeps its owner and its mode.
pub fn replace_contents(path: &Path, beside: &Path, bytes: &[u8]) -> io::Result<()> {
    let meta = fs::metadata(path)?;
    let written = File::create_new(beside).and_then(|mut file| {
        file.set_permissions(meta.permissions())?;
        fchown(&file, Some(meta.uid()), Some(meta.gid()))?;
        file.write_all(bytes)
    });
    written.and_then(|()| fs::rename(beside, path)).inspect_err(|_| {
        let _ = fs::remove_file(beside);
    })
}

/// Removes a file that may be gone already.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn read_opened(file: File) -> io::Result<Vec<u8>> {
    let meta = file.metadata()?;
    let refuse = |why| Err(io::Error::new(ErrorKind::InvalidInput, why));
    if !meta.is_file() {
        return refuse("it is not a regular file");
    }
    if meta.len() > LONGEST {
        return refuse("it is longer than 16 MiB");
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize + 1);
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_read() {
        let dir = std::env::temp_dir().join(format!("portslice-file-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (file, fifo) = (dir.join("file"), dir.join("fifo"));
        replace(&file, &dir.join("beside"), b"text").unwrap();
        assert_eq!(read(&file).unwrap(), b"text");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for bad in [&fifo, &dir] {
            assert_eq!(read(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{}", bad.display());
        }
        assert_eq!(read(&dir.join("none")).unwrap_err().kind(), ErrorKind::NotFound);
        remove(&file).unwrap();
        remove(&file).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}
