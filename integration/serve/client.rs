//! The server under test, and as plain a client as can be.

use crate::lab::host::Host;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// No answer takes longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// `portslice serve` on a simulated host.
pub struct Server<'h> {
    host: &'h Host,
    child: Child,
    /// What it says on stderr goes there.
    log: PathBuf,
    /// The first TCP port it said that it serves on; 0 if there is none.
    pub port: u16,
}

/// An answer taken apart.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub kind: String,
    pub body: String,
}

/// The request for a path, after whose answer the server closes.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

impl<'h> Server<'h> {
    /// Starts it and waits until it serves.
    #[track_caller]
    pub fn start(host: &'h Host, args: &[&str]) -> Server<'h> {
        Server::launch(host, host.command([&["portslice", "-v", "serve"], args].concat()))
    }

    /// The same with a socket that was opened for it, as systemd does.
    #[track_caller]
    pub fn inheriting(host: &'h Host, socket: impl Into<OwnedFd>) -> Server<'h> {
        let socket = socket.into();
        let mut command = host.command(["portslice", "-v", "serve"]);
        command.env("LISTEN_FDS", "1").env_remove("LISTEN_PID");
        // SAFETY: between fork and exec only dup2(2) is called; the copy is not closed on exec.
        unsafe {
            command.pre_exec(move || match libc::dup2(socket.as_raw_fd(), 3) {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        Server::launch(host, command)
    }

    /// Starts any command that becomes a server.
    #[track_caller]
    pub fn launch(host: &'h Host, mut command: Command) -> Server<'h> {
        let log = host.dir.join(format!("serve-{:?}.log", std::thread::current().id()));
        let file = File::create(&log).expect("log");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().expect("portslice serve");
        let mut server = Server { host, child, log, port: 0 };
        let begun = Instant::now();
        while !server.said().contains("serving on ") {
            let ended = server.child.try_wait().expect("wait");
            assert!(ended.is_none() && begun.elapsed() < PATIENCE, "it does not serve: {}", server.said());
            std::thread::sleep(Duration::from_millis(2));
        }
        let said = server.said();
        let port = said.lines().find_map(|line| line.split("serving on http://127.0.0.1:").nth(1));
        server.port = port.map_or(0, |port| port.trim().parse().expect("a port"));
        server
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far on stderr.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A connection to it.
    pub fn connect(&self) -> TcpStream {
        let stream = self.host.inside(|| TcpStream::connect(("127.0.0.1", self.port)).expect("connect"));
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
        stream
    }

    /// Asks for a path on a connection of its own.
    #[track_caller]
    pub fn ask(&self, path: &str) -> Answer {
        self.send(&get(path))
    }

    /// Sends any text and reads until the server closes.
    #[track_caller]
    pub fn send(&self, text: &str) -> Answer {
        exchange(self.connect(), text)
    }

    /// Ends it as an operator does; returns what it said.
    #[track_caller]
    pub fn end(mut self) -> String {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("SIGTERM");
        let begun = Instant::now();
        while self.child.try_wait().expect("wait").is_none() {
            assert!(begun.elapsed() < PATIENCE, "it does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
        let status = self.child.wait().expect("wait");
        assert!(status.success(), "{status}: {}", self.said());
        self.said()
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks over a unix socket.
#[track_caller]
pub fn over_unix(path: &Path, text: &str) -> Answer {
    let stream = UnixStream::connect(path).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    exchange(stream, text)
}

#[track_caller]
pub fn exchange(mut stream: impl Read + Write, text: &str) -> Answer {
    stream.write_all(text.as_bytes()).expect("request");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("answer");
    let answer = Answer::of(&bytes, text.starts_with("HEAD "));
    answer.unwrap_or_else(|| panic!("no whole answer: {:?}", String::from_utf8_lossy(&bytes)))
}

impl Answer {
    /// `None` unless the answer is whole: exactly as long as it says.
    pub fn of(bytes: &[u8], without_body: bool) -> Option<Answer> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
        let header = |name: &str| {
            let lines = head.split("\r\n").filter_map(|line| line.split_once(": "));
            lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let body = std::str::from_utf8(&bytes[end + 4..]).ok()?.to_owned();
        let length: usize = header("content-length")?.parse().ok()?;
        let whole = body.len() == if without_body { 0 } else { length };
        whole.then(|| Answer { status, kind: header("content-type").unwrap_or_default(), body })
    }

    /// Asserts status and type.
    #[track_caller]
    pub fn is(self, status: u16, kind: &str) -> Answer {
        assert_eq!((self.status, self.kind.as_str()), (status, kind), "{}", self.body);
        self
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}
