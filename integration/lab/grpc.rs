//! Calls of gRPC services with one message each way: protobuf for the few types of field that are needed, and curl, which
//! speaks HTTP/2 to a unix socket.

use super::host::COMMAND_LIMIT;
use super::run;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A protobuf message. Fields are told by their numbers, which are below 16.
#[derive(Clone, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// Adds a number or an enumeration.
    pub fn number(mut self, field: u8, value: u64) -> Message {
        self.0.push(field << 3);
        self.varint(value);
        self
    }

    /// Adds a string.
    pub fn text(self, field: u8, value: &str) -> Message {
        self.bytes(field, value.as_bytes())
    }

    /// Adds a message.
    pub fn message(self, field: u8, value: Message) -> Message {
        self.bytes(field, &value.0)
    }

    /// Adds a map of strings.
    pub fn map(self, field: u8, pairs: &[(&str, &str)]) -> Message {
        pairs.iter().fold(self, |all, (key, value)| all.message(field, Message::default().text(1, key).text(2, value)))
    }

    /// Every string, message or entry of a map that the field has.
    pub fn all(&self, field: u8) -> Vec<Message> {
        self.fields(field).1
    }

    /// The truth in a field; false if there is none.
    pub fn flag(&self, field: u8) -> bool {
        self.fields(field).0.contains(&1)
    }

    /// The numbers, and the strings, messages and entries of maps, that the field has.
    fn fields(&self, field: u8) -> (Vec<u64>, Vec<Message>) {
        let mut rest = self.0.as_slice();
        let (mut numbers, mut found) = (Vec::new(), Vec::new());
        while let Some(tag) = take_varint(&mut rest) {
            let value = take_varint(&mut rest).expect("a value or its length");
            match tag & 7 {
                0 if tag >> 3 == u64::from(field) => numbers.push(value),
                0 => {}
                2 => {
                    let (bytes, after) = rest.split_at(value as usize);
                    rest = after;
                    if tag >> 3 == u64::from(field) {
                        found.push(Message(bytes.to_vec()));
                    }
                }
                kind => panic!("a protobuf field of wire type {kind}"),
            }
        }
        (numbers, found)
    }

    /// The string in a field; empty if there is none.
    pub fn string(&self, field: u8) -> String {
        let found = self.all(field).pop().unwrap_or_default();
        String::from_utf8(found.0).expect("a string")
    }

    fn bytes(mut self, field: u8, value: &[u8]) -> Message {
        self.0.push(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// Takes a varint off the beginning; `None` at the end of the message.
fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some(value)
}

/// Where a service listens.
pub struct Service {
    /// Its unix socket.
    pub socket: PathBuf,
    /// Its full name, as in `runtime.v1.RuntimeService`.
    pub name: &'static str,
    /// A directory for the messages.
    pub dir: PathBuf,
}

impl Service {
    /// Calls a method. What it refuses, or that nobody listens, is the error.
    pub fn call(&self, method: &str, request: &Message) -> Result<Message, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let stem = self.dir.join(format!("{method}-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let [sent, received, headers] = ["request", "response", "headers"].map(|kind| stem.with_extension(kind));
        std::fs::write(&sent, framed(request)).expect("request");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--noproxy", "*", "--http2-prior-knowledge", "--unix-socket"]);
        curl.arg(&self.socket).args(["--header", "content-type: application/grpc", "--header", "te: trailers"]);
        curl.arg("--data-binary").arg(at_sign(&sent)).arg("--output").arg(&received);
        curl.arg("--dump-header").arg(&headers).arg(format!("http://localhost/{}/{method}", self.name));
        let out = run::run(&mut curl, COMMAND_LIMIT);
        if out.code != Some(0) {
            return Err(format!("{method}: {out}"));
        }
        // Trailers are with the headers.
        let headers = std::fs::read_to_string(headers).expect("headers");
        let header = |name: &str| headers.lines().filter_map(|line| line.strip_prefix(name)).map(str::trim).next_back();
        match header("grpc-status:") {
            Some("0") => Ok(Message(std::fs::read(received).expect("response").split_off(5))),
            status => Err(format!("{method}: status {status:?}: {}", header("grpc-message:").unwrap_or_default())),
        }
    }
}

/// A message as gRPC sends it: after a byte that says it is not compressed, and its length.
fn framed(message: &Message) -> Vec<u8> {
    let length = u32::try_from(message.0.len()).expect("a short message").to_be_bytes();
    [&[0], &length[..], &message.0].concat()
}

/// How curl is told to send a file.
fn at_sign(file: &Path) -> String {
    format!("@{}", file.display())
}
