//! A blocking netlink socket: sends requests, matches answers by sequence number, turns refusals into one line.
//!
//! Sockets stay bound to the namespace in which they were opened.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_ECHO, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Parseable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::Request;
use crate::error::{Error, Result};

/// Some requests are answered by silence (a single-object RTM_GETQDISC without NLM_F_ECHO): never wait for ever.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The kernel fills up to 32 KiB per dump part when the reader offers that much (net/netlink/af_netlink.c).
const BUFFER: usize = 32 * 1024;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// linux/netlink.h: the kernel left out the request's payload / appended attributes.
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A socket to one netlink family in the namespace of the thread that opened it.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Links, addresses, routes, filters.
    pub fn route() -> Result<Self> {
        Self::open(NETLINK_ROUTE)
    }

    /// Sockets.
    pub fn diag() -> Result<Self> {
        Self::open(NETLINK_SOCK_DIAG)
    }

    /// Netfilter.
    pub(super) fn netfilter() -> Result<Self> {
        Self::open(NETLINK_NETFILTER)
    }

    /// Sends one request and waits for the kernel's verdict.
    pub fn send(&mut self, request: Request) -> Result<()> {
        self.batch(&[request])
    }

    /// Sends all requests at once; the kernel carries them out in order and does not stop at a failure. The first
    /// failure is returned. Only the last request is acknowledged: one answer instead of one each.
    pub fn batch(&mut self, requests: &[Request]) -> Result<()> {
        let Some(last) = requests.len().checked_sub(1) else { return Ok(()) };
        let first_sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(256 * requests.len());
        for (i, request) in requests.iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            request.encode(self.sequence, i == last, &mut bytes);
        }
        self.transmit(&bytes, &requests[0].doing)?;
        let mut failure = None;
        loop {
            let end = self.receive(&requests[last].doing)?;
            let mut at = 0;
            while let Some((kind, flags, sequence, body, next)) = frame(&self.buffer[..end], at) {
                at = next;
                let index = sequence.wrapping_sub(first_sequence) as usize;
                if kind != NLMSG_ERROR || index > last {
                    continue;
                }
                let code = body.get(..4).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                if code != 0 && failure.is_none() && !requests[index].tolerated.contains(&-code) {
                    failure = Some(refusal(&requests[index].doing, code, flags, body));
                }
                if index == last {
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// All objects that answer the request, parsed as what they are asked for: the parser of everything there is would be a
    /// fifth of every hook. An object with an attribute that the parser refuses is one we did not make, and is left out.
    pub fn dump<T: Parseable<[u8]>>(&mut self, doing: &str, message: RouteNetlinkMessage) -> Result<Vec<T>> {
        let mut found = Vec::new();
        self.dump_unparsed(doing, message, |body| found.extend(T::parse(body)))?;
        Ok(found)
    }

    /// The payload of the one object that answers the request; `None` when there is none. For what the crate's parsers
    /// refuse, and for qdiscs and classes, which are answered only with NLM_F_ECHO (net/sched/sch_api.c,
    /// rtnetlink_send).
    pub(super) fn get_raw(&mut self, doing: &str, message: RouteNetlinkMessage) -> Result<Option<Vec<u8>>> {
        self.ask(doing, message, NLM_F_REQUEST | NLM_F_ECHO)?;
        self.answer(doing)
    }

    /// The same for an encoded request of a kind that the crate does not have.
    pub(super) fn get_encoded(&mut self, doing: &str, bytes: &mut [u8]) -> Result<Option<Vec<u8>>> {
        self.transmit_numbered(bytes, doing)?;
        self.answer(doing)
    }

    fn answer(&mut self, doing: &str) -> Result<Option<Vec<u8>>> {
        loop {
            let end = self.receive(doing)?;
            let mut at = 0;
            while let Some((kind, flags, sequence, body, next)) = frame(&self.buffer[..end], at) {
                at = next;
                if sequence != self.sequence {
                    continue;
                }
                if kind != NLMSG_ERROR {
                    return Ok(Some(body.to_vec()));
                }
                let code = body.get(..4).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                return match -code {
                    0 | libc::ENODEV | libc::ENOENT | libc::EINVAL => Ok(None),
                    _ => Err(refusal(doing, code, flags, body)),
                };
            }
        }
    }

    /// The payloads of all objects that answer the request. For what must not be overlooked: [`Self::dump`] skips
    /// what the crate's parsers refuse.
    pub(super) fn dump_unparsed(
        &mut self,
        doing: &str,
        message: RouteNetlinkMessage,
        each: impl FnMut(&[u8]),
    ) -> Result<()> {
        self.ask(doing, message, NLM_F_REQUEST | NLM_F_DUMP)?;
        self.answers(doing, each)
    }

    /// Sends an encoded dump request of another family and hands each answer's payload to `each`.
    pub(super) fn dump_raw(&mut self, doing: &str, bytes: &mut [u8], each: impl FnMut(&[u8])) -> Result<()> {
        self.transmit_numbered(bytes, doing)?;
        self.answers(doing, each)
    }

    fn transmit_numbered(&mut self, bytes: &mut [u8], doing: &str) -> Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        self.transmit(bytes, doing)
    }

    fn answers(&mut self, doing: &str, mut each: impl FnMut(&[u8])) -> Result<()> {
        loop {
            let end = self.receive(doing)?;
            let mut at = 0;
            while let Some((kind, flags, sequence, body, next)) = frame(&self.buffer[..end], at) {
                at = next;
                if sequence != self.sequence {
                    continue;
                }
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = body.get(..4).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                        return Err(refusal(doing, code, flags, body));
                    }
                    _ => each(body),
                }
            }
        }
    }

    fn ask(&mut self, doing: &str, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.transmit(&bytes, doing)
    }

    fn open(family: isize) -> Result<Self> {
        let fail = |what: &'static str| {
            move |errno: io::Error| Error::Netlink { doing: what.into(), errno, text: String::new() }
        };
        let mut socket = Socket::new(family).map_err(fail("open a netlink socket"))?;
        socket.bind_auto().map_err(fail("bind a netlink socket"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(fail("connect a netlink socket"))?;
        // hints for better errors and smaller dumps; an old kernel does without
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(TIMEOUT.as_secs() as _, 0))
            .map_err(|e| fail("set a netlink timeout")(e.into()))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    fn transmit(&mut self, bytes: &[u8], doing: &str) -> Result<()> {
        self.socket.send(bytes, 0).map_err(|errno| failed(doing, errno))?;
        Ok(())
    }

    fn receive(&mut self, doing: &str) -> Result<usize> {
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(n) => return Ok(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(doing, e)),
            }
        }
    }
}

fn failed(doing: &str, errno: io::Error) -> Error {
    Error::Netlink { doing: doing.into(), errno, text: String::new() }
}

fn refusal(doing: &str, code: i32, flags: u16, body: &[u8]) -> Error {
    Error::Netlink {
        doing: doing.into(),
        errno: io::Error::from_raw_os_error(code.saturating_neg()),
        text: extended_text(flags, body).unwrap_or_default(),
    }
}

/// The message at `at`: type, flags, sequence number, payload, offset of the next one.
pub(super) fn frame(buffer: &[u8], at: usize) -> Option<(u16, u16, u32, &[u8], usize)> {
    let header = buffer.get(at..at + HEADER)?;
    let word = |i: usize| u32::from_ne_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
    let half = |i: usize| u16::from_ne_bytes([header[i], header[i + 1]]);
    let length = word(0) as usize;
    let body = buffer.get(at + HEADER..at + length)?;
    Some((half(4), half(6), word(8), body, at + length.next_multiple_of(4)))
}

/// NLMSGERR_ATTR_MSG of an extended acknowledgement (Documentation/userspace-api/netlink/intro.rst).
fn extended_text(flags: u16, body: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let quoted = body.get(4..8).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]) as usize)?;
    let mut at = 4 + if flags & NLM_F_CAPPED != 0 { HEADER } else { quoted.next_multiple_of(4) };
    while let Some(head) = body.get(at..at + 4) {
        let length = u16::from_ne_bytes([head[0], head[1]]) as usize;
        let value = body.get(at + 4..at + length)?;
        if u16::from_ne_bytes([head[2], head[3]]) == NLMSGERR_ATTR_MSG {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
        at += length.max(4).next_multiple_of(4);
    }
    None
}
