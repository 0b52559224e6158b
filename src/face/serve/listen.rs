//! Where the server listens: the words for it, and the sockets.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use listenfd::ListenFd;
use nix::errno::Errno;
use nix::sys::socket::sockopt::AcceptConn;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket};
use nix::sys::stat::{Mode, umask};

use crate::error::{Error, Result};
use crate::face::report;
use crate::refusal::quoted;

/// The port of Mesos' agent, whose statistics these are.
const DEFAULT: &str = "127.0.0.1:5051";

/// A place to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `127.0.0.1:5051`, `[::1]:5051`
    Tcp(SocketAddr),
    /// `unix:/run/portslice.sock`
    Unix(PathBuf),
}

/// A socket that listens.
pub enum Socket {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// What this server made of the name; systemd takes its own away.
        _place: Option<Place>,
    },
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix { listener, .. } => listener.as_fd(),
        }
    }
}

/// A socket's name in the file system; gone when this is, unless somebody else has put something there.
pub struct Place {
    path: PathBuf,
    inode: u64,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.starts_with('/') && !path.contains('\0') {
                return Ok(Listen::Unix(path.into()));
            }
            return Err(format!("{} is not an absolute path; write unix:/run/portslice.sock", quoted(path)));
        }
        text.parse().map(Listen::Tcp).map_err(|_| {
            format!("{} is no place to listen; write {DEFAULT}, [::1]:5051 or unix:/run/portslice.sock", quoted(text))
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => address.fmt(f),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Opens all places, and says where on stderr.
pub fn open(places: &[Listen]) -> Result<Vec<Socket>> {
    let mut sockets = inherited()?;
    if places.is_empty() && sockets.is_empty() {
        sockets.push(tcp(DEFAULT.parse().expect("the default is an address"))?);
    }
    for place in places {
        sockets.push(match place {
            Listen::Tcp(address) => tcp(*address)?,
            Listen::Unix(path) => unix(path)?,
        });
    }
    sockets.iter().for_each(announce);
    Ok(sockets)
}

/// Those that systemd opened (sd_listen_fds(3)).
fn inherited() -> Result<Vec<Socket>> {
    let mut given = ListenFd::from_env();
    let mut sockets = Vec::new();
    for n in 0..given.len() {
        let socket = match given.take_tcp_listener(n) {
            Ok(Some(socket)) => nonblocking(socket, |s| s.set_nonblocking(true)).map(Socket::Tcp),
            Ok(None) => continue,
            Err(_) => given
                .take_unix_listener(n)
                .and_then(|socket| socket.ok_or_else(|| ErrorKind::NotFound.into()))
                .and_then(|socket| nonblocking(socket, |s| s.set_nonblocking(true)))
                .map(|listener| Socket::Unix { listener, _place: None }),
        };
        let listens = |socket: Socket| match getsockopt(&socket, AcceptConn) {
            Ok(true) => Ok(socket),
            Ok(false) => Err(ErrorKind::NotConnected.into()),
            Err(e) => Err(io::Error::from(e)),
        };
        sockets.push(socket.and_then(listens).map_err(|e| {
            let what = format!("socket {n} of LISTEN_FDS");
            Error::invalid(what, format!("{e}; it has to be a TCP or unix socket that listens for streams"))
        })?);
    }
    Ok(sockets)
}

fn nonblocking<T>(socket: T, set: impl FnOnce(&T) -> io::Result<()>) -> io::Result<T> {
    set(&socket).map(|()| socket)
}

fn tcp(address: SocketAddr) -> Result<Socket> {
    TcpListener::bind(address)
        .and_then(|socket| nonblocking(socket, |s| s.set_nonblocking(true)))
        .map(Socket::Tcp)
        .map_err(|e| match e.kind() {
            ErrorKind::AddrInUse => Error::PortInUse(format!(
                "cannot listen on {address}: somebody else does; name another place with --listen"
            )),
            _ => Error::Failed(format!("cannot listen on {address}: {e}")),
        })
}

fn unix(path: &Path) -> Result<Socket> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(Error::file("inspect", path)(e)),
        Ok(there) if !there.file_type().is_socket() => {
            let why = "something else than a socket is there; remove it, or name another place with --listen";
            return Err(Error::invalid(format!("cannot listen on {}", path.display()), why));
        }
        Ok(_) => match connect_at_once(path) {
            // its queue is full
            Ok(()) | Err(Errno::EAGAIN) => {
                let why = "somebody else does; end that server, or name another place with --listen";
                return Err(Error::Busy(format!("cannot listen on {}: {why}", path.display())));
            }
            // nobody listens: its server was killed
            Err(Errno::ECONNREFUSED) => {
                fs::remove_file(path).map_err(Error::file("remove the stale socket", path))?;
            }
            Err(e) => return Err(Error::file("replace", path)(e.into())),
        },
    }
    // the name must never be open to all, not even before a chmod; no other thread runs yet
    let before = umask(Mode::from_bits_truncate(0o117));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound
        .and_then(|socket| nonblocking(socket, |s| s.set_nonblocking(true)))
        .map_err(Error::file("listen on", path))?;
    let inode = fs::symlink_metadata(path).map_err(Error::file("inspect", path))?.ino();
    Ok(Socket::Unix { listener, _place: Some(Place { path: path.to_owned(), inode }) })
}

/// Whether somebody listens there. Whoever listens and takes no connections must not make us wait.
fn connect_at_once(path: &Path) -> nix::Result<()> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)
}

fn announce(socket: &Socket) {
    match socket {
        Socket::Tcp(listener) => {
            let Ok(address) = listener.local_addr() else { return };
            report("portslice", log::Level::Info, &format!("serving on http://{address}"));
            if !address.ip().is_loopback() {
                let why = "everybody who reaches it can read the statistics";
                report("portslice", log::Level::Warn, &format!("warning: {address} is not a loopback address: {why}"));
            }
        }
        Socket::Unix { listener, .. } => {
            let path = listener.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
            report("portslice", log::Level::Info, &format!("serving on unix:{}", path.unwrap_or_default().display()));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|there| there.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_addresses_or_paths() {
        for good in ["127.0.0.1:5051", "[::1]:0", "0.0.0.0:80", "unix:/run/portslice.sock"] {
            assert_eq!(good.parse::<Listen>().unwrap().to_string(), good);
        }
        for bad in ["", "5051", ":5051", "localhost:5051", "127.0.0.1", "unix:", "unix:run/x", "unix:/a\0b", "/run/x"] {
            let why = bad.parse::<Listen>().unwrap_err();
            assert!(why.contains("unix:/run/portslice.sock") && !why.contains('\0'), "{why}");
        }
    }

    #[test]
    fn a_socket_is_replaced_when_stale_and_kept_when_in_use() {
        let path = std::env::temp_dir().join(format!("portslice-listen-{}", std::process::id()));
        drop(UnixListener::bind(&path).unwrap());
        let socket = unix(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        assert_eq!(unix(&path).err().map(|e| e.exit_code()), Some(7));
        assert!(path.exists(), "the refused one took the name away");
        drop(socket);
        assert!(!path.exists(), "the name outlives the server");
        fs::write(&path, "mine").unwrap();
        assert_eq!(unix(&path).err().map(|e| e.exit_code()), Some(2));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        fs::remove_file(&path).unwrap();
    }
}
