//! Calls systemd over D-Bus: the part of the protocol that one call needs
//! (dbus.freedesktop.org/doc/dbus-specification.html).
//!
//! cgroups-rs has a D-Bus client too. That client would add a megabyte to the hook, waits without end for an answer, and
//! reports success when the unit is unknown or the bus cannot be reached.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use super::place::Roots;
use super::systemd::{Property, Units};
use crate::error::{Error, Result};
use crate::refusal::one_line;

/// The host's systemd.
pub struct Systemd {
    /// systemd's private socket, on which systemd answers root without a bus, then the system bus. systemctl tries them in
    /// the same order: the bus may be stuck, or systemd may not be connected to the bus.
    sockets: [(PathBuf, Peer); 2],
    timeout: Duration,
}

impl Systemd {
    /// Returns `None` when the host was not booted with systemd: sd_booted(3).
    pub fn running(roots: &Roots) -> Option<Self> {
        let socket = |path: &str| roots.prefix.join(path);
        let booted = socket("run/systemd/system").is_dir();
        booted.then(|| Self {
            sockets: [
                (socket("run/systemd/private"), Peer::Systemd),
                (socket("run/dbus/system_bus_socket"), Peer::Bus),
            ],
            timeout: TIMEOUT,
        })
    }

    /// Limits the whole exchange to `timeout`, instead of ten seconds.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Returns the answer to `call`, or for each socket the reason why there is none.
    fn ask(&self, call: &Call) -> std::result::Result<Answer, String> {
        let start = Instant::now();
        let once = |path: &Path, peer| Connection::open(path, peer, start + self.timeout)?.call(call);
        let mut whys = Vec::new();
        for (path, peer) in &self.sockets {
            let mut answer = once(path, *peer);
            let mut restarting: fn(&io::Error) -> bool = hung_up;
            // systemd hangs up, and is away for a moment, when it executes itself anew: systemctl daemon-reexec, an update
            while *peer == Peer::Systemd
                && answer.as_ref().is_err_and(restarting)
                && start.elapsed() < self.timeout.min(RESTART)
            {
                thread::sleep(Duration::from_millis(50));
                // the new socket is not there yet
                restarting = |e| hung_up(e) || e.kind() == ErrorKind::NotFound;
                answer = once(path, *peer);
            }
            match answer {
                Ok(answer) => return Ok(answer),
                Err(e) => whys.push(format!("{}: {}", path.display(), self.describe(&e))),
            }
        }
        Err(whys.join(", "))
    }

    /// Says what went wrong. The standard text for a timeout, "Resource temporarily unavailable", would explain nothing.
    fn describe(&self, error: &io::Error) -> String {
        match error.kind() {
            ErrorKind::WouldBlock => format!("no answer in {:?}", self.timeout),
            _ if hung_up(error) && error.kind() != ErrorKind::ConnectionRefused => "it hung up".to_string(),
            _ => error.to_string(),
        }
    }
}

impl Units for Systemd {
    fn set(&self, unit: &str, properties: &[Property]) -> Result<()> {
        let failed = |why: &str| {
            let names: Vec<&str> = properties.iter().map(|(name, _)| *name).collect();
            let unit = one_line(unit);
            Error::Failed(format!(
                "cannot have systemd set {} of {unit}: {}; a limit written past it would be lost when it reloads",
                names.join(", "),
                one_line(why)
            ))
        };
        let mut body = Writer::default();
        body.string(unit);
        // runtime: the properties do not outlast this boot
        body.u32(1);
        body.array(8, |array| {
            for (name, value) in properties {
                array.align(8);
                array.string(name);
                array.signature("t");
                array.u64(*value);
            }
        });
        let call = Call {
            destination: "org.freedesktop.systemd1",
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member: "SetUnitProperties",
            signature: "sba(sv)",
            body: body.bytes,
        };
        match self.ask(&call).map_err(|why| failed(&why))? {
            Ok(()) => Ok(()),
            Err(refusal) if refusal.name == "org.freedesktop.systemd1.NoSuchUnit" => {
                Err(Error::NotFound(format!("systemd has no unit {}", one_line(unit))))
            }
            Err(refusal) => Err(failed(&format!("{}: {}", refusal.name, refusal.text))),
        }
    }
}

/// Which program answers on a socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    /// A bus daemon, which passes messages on.
    Bus,
    /// systemd itself.
    Systemd,
}

/// Limit for the whole exchange with systemd. Shorter than libdbus' default: `set` holds the ledger's lock meanwhile.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time that systemd is away when it executes itself anew.
const RESTART: Duration = Duration::from_secs(5);

/// The longest message that is read, in bytes. No answer to this program's calls comes near.
const LONGEST: u32 = 1 << 20;

struct Connection {
    stream: Stream,
    serial: u32,
}

/// A stream that reads and writes until `end`, and then fails like a read that ran into its timeout.
struct Stream {
    stream: UnixStream,
    end: Instant,
}

struct Call {
    destination: &'static str,
    path: &'static str,
    interface: &'static str,
    member: &'static str,
    signature: &'static str,
    body: Vec<u8>,
}

/// An answer that is an error.
struct Refusal {
    name: String,
    text: String,
}

type Answer = std::result::Result<(), Refusal>;

impl Stream {
    /// Connects until `end` at the latest. `UnixStream::connect` would wait without end for a listener that accepts nobody.
    fn connect(path: &Path, end: Instant) -> io::Result<Self> {
        let new = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let stream = Self { stream: new.into(), end };
        stream.stream.set_write_timeout(Some(stream.left()?))?;
        connect(stream.stream.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(stream)
    }

    /// The time left; fails when there is none.
    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::WouldBlock.into()) } else { Ok(left) }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Connection {
    fn open(path: &Path, peer: Peer, end: Instant) -> io::Result<Self> {
        let mut connection = Self { stream: Stream::connect(path, end)?, serial: 0 };
        connection.authenticate()?;
        if peer == Peer::Bus {
            let hello = Call {
                destination: "org.freedesktop.DBus",
                path: "/org/freedesktop/DBus",
                interface: "org.freedesktop.DBus",
                member: "Hello",
                signature: "",
                body: Vec::new(),
            };
            connection.call(&hello)?.map_err(|refusal| io::Error::other(refusal.text))?;
        }
        Ok(connection)
    }

    /// Claims to be this process' user. The other end checks the claim: the kernel tells it who connected.
    fn authenticate(&mut self) -> io::Result<()> {
        let hex: String = nix::unistd::geteuid().to_string().bytes().map(|b| format!("{b:02x}")).collect();
        self.stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let mut line = Vec::new();
        // byte by byte: the bytes behind the line belong to the next message
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            line.push(byte[0]);
            if line.len() > 512 {
                return Err(io::Error::new(ErrorKind::InvalidData, "it does not speak D-Bus"));
            }
        }
        if !line.starts_with(b"OK ") {
            return Err(io::Error::new(ErrorKind::PermissionDenied, "it does not let us in"));
        }
        self.stream.write_all(b"BEGIN\r\n")
    }

    /// Sends a call and waits for its answer. Other messages that arrive meanwhile are ignored.
    fn call(&mut self, call: &Call) -> io::Result<Answer> {
        self.serial += 1;
        self.stream.write_all(&call.message(self.serial))?;
        loop {
            let message = self.receive()?;
            if message.answers != Some(self.serial) {
                continue;
            }
            match message.kind {
                2 => return Ok(Ok(())),
                3 => return Ok(Err(Refusal { name: message.error, text: message.text })),
                _ => {}
            }
        }
    }

    fn receive(&mut self) -> io::Result<Message> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        let little = head[0] == b'l';
        let number = |at: usize| {
            let bytes = [head[at], head[at + 1], head[at + 2], head[at + 3]];
            if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
        };
        let (body, fields) = (number(4), number(12));
        if body > LONGEST || fields > LONGEST {
            return Err(io::Error::new(ErrorKind::InvalidData, "its answer is too long"));
        }
        let mut rest = vec![0; fields.next_multiple_of(8) as usize + body as usize];
        self.stream.read_exact(&mut rest)?;
        let (fields_part, body) = rest.split_at(fields.next_multiple_of(8) as usize);
        Message::read(head[1], &fields_part[..fields as usize], body, little)
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "its answer is not D-Bus"))
    }
}

impl Call {
    fn message(&self, serial: u32) -> Vec<u8> {
        let mut message = Writer::default();
        message.bytes.extend([b'l', 1, 0, 1]);
        message.u32(self.body.len() as u32);
        message.u32(serial);
        message.array(8, |fields| {
            let values = [
                (1, "o", self.path),
                (6, "s", self.destination),
                (2, "s", self.interface),
                (3, "s", self.member),
                (8, "g", self.signature),
            ];
            for (code, kind, value) in values.into_iter().filter(|(_, _, value)| !value.is_empty()) {
                fields.align(8);
                fields.bytes.push(code);
                fields.signature(kind);
                if kind == "g" { fields.signature(value) } else { fields.string(value) }
            }
        });
        message.align(8);
        message.bytes.extend(&self.body);
        message.bytes
    }
}

/// The parts of a message that are used here.
struct Message {
    kind: u8,
    answers: Option<u32>,
    error: String,
    /// The text of an error; empty for other messages.
    text: String,
}

impl Message {
    fn read(kind: u8, fields: &[u8], body: &[u8], little: bool) -> Option<Self> {
        let (mut answers, mut error, mut signature) = (None, String::new(), String::new());
        // the fields begin 16 bytes into the message, so alignment within the slice is alignment within the message
        let mut fields = Reader { bytes: fields, at: 0, little };
        while fields.at < fields.bytes.len() {
            fields.align(8)?;
            let code = fields.byte()?;
            match (code, fields.signature()?.as_str()) {
                (5, "u") => answers = Some(fields.u32()?),
                (4, "s") => error = fields.string()?,
                (_, "s" | "o") => drop(fields.string()?),
                (8, "g") => signature = fields.signature()?,
                (_, "g") => drop(fields.signature()?),
                (_, "u") => drop(fields.u32()?),
                _ => return None,
            }
        }
        let text = if kind == 3 && signature.starts_with('s') {
            Reader { bytes: body, at: 0, little }.string()?
        } else {
            String::new()
        };
        Some(Self { kind, answers, error, text })
    }
}

/// Marshals values, little endian.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.align(8);
        self.bytes.extend(value.to_le_bytes());
    }

    fn string(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.bytes.push(text.len() as u8);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    /// Writes an array of elements that are aligned to `to` bytes. The array's length does not count the padding before the
    /// first element.
    fn array(&mut self, to: usize, elements: impl FnOnce(&mut Self)) {
        self.u32(0);
        let length = self.bytes.len() - 4;
        self.align(to);
        let first = self.bytes.len();
        elements(self);
        let count = (self.bytes.len() - first) as u32;
        self.bytes[length..length + 4].copy_from_slice(&count.to_le_bytes());
    }
}

/// Unmarshals values. Every method returns `None` where the bytes are no such value.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    little: bool,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) -> Option<()> {
        self.at = self.at.next_multiple_of(to);
        (self.at <= self.bytes.len()).then_some(())
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        let little = self.little;
        let bytes = self.take(4)?.try_into().ok()?;
        Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    fn string(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        self.text(length)
    }

    fn signature(&mut self) -> Option<String> {
        let length = self.byte()? as usize;
        self.text(length)
    }

    /// Reads a text of `length` bytes, and skips the NUL behind the text.
    fn text(&mut self, length: usize) -> Option<String> {
        let bytes = self.take(length.checked_add(1)?)?;
        String::from_utf8(bytes[..length].to_vec()).ok()
    }
}

/// Whether `error` says that nobody listens, or that the other end closed the connection.
fn hung_up(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionRefused | ConnectionReset | UnexpectedEof)
}
