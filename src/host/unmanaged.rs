//! Files that tell network managers to leave our devices alone.
//!
//! A network manager that adopts such a device gives it addresses and routes of the host, and sends from it into the
//! container. The files are written only where the manager keeps its own, and taken away only while nobody changed them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A file for one network manager.
struct Unmanaged {
    /// The manager's directory, from the root of the file system.
    directory: &'static str,
    name: &'static str,
    text: &'static str,
}

const FILES: [Unmanaged; 2] = [
    Unmanaged {
        directory: "etc/systemd/network",
        name: "05-portslice.network",
        text: include_str!("../../config/networkd/05-portslice.network"),
    },
    Unmanaged {
        directory: "etc/NetworkManager/conf.d",
        name: "50-portslice.conf",
        text: include_str!("../../config/NetworkManager/50-portslice.conf"),
    },
];

impl Unmanaged {
    fn path(&self, root: &Path) -> PathBuf {
        root.join(self.directory).join(self.name)
    }

    /// What the file holds now, if it is there.
    fn current(&self, root: &Path) -> Result<Option<Vec<u8>>> {
        let path = self.path(root);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::file("read", path)(e)),
        }
    }
}

/// Writes the files whose directory exists below `root` and that are not there yet. Returns those it wrote. A file of
/// that name with other content is somebody's decision and stays.
pub fn install(root: &Path) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for file in &FILES {
        if root.join(file.directory).is_dir() && file.current(root)?.is_none() {
            let path = file.path(root);
            fs::write(&path, file.text).map_err(Error::file("write", &path))?;
            written.push(path);
        }
    }
    Ok(written)
}

/// Removes the files below `root` that still have exactly the content [`install`] gives them. Returns those it removed.
pub fn remove(root: &Path) -> Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for file in &FILES {
        if file.current(root)?.is_some_and(|bytes| bytes == file.text.as_bytes()) {
            let path = file.path(root);
            fs::remove_file(&path).map_err(Error::file("remove", &path))?;
            removed.push(path);
        }
    }
    Ok(removed)
}
