//! One netlink request: what it does in words, its flags, its bytes. Nothing is sent here.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;

/// A request to the routing family.
#[derive(Clone, Debug)]
pub struct Request {
    /// The verb and its object, for the error line: `create link portslice3`.
    pub doing: String,
    /// Error numbers that mean the goal is already reached.
    pub tolerated: &'static [i32],
    flags: u16,
    message: RouteNetlinkMessage,
}

impl Request {
    /// A request that changes an existing object.
    pub fn set(doing: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Self { doing: doing.into(), tolerated: &[], flags: NLM_F_REQUEST, message }
    }

    /// A request that makes a new object and fails when it exists.
    pub fn create(doing: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Self { doing: doing.into(), tolerated: &[], flags: NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL, message }
    }

    /// A request that makes an object or replaces it.
    pub fn replace(doing: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Self { doing: doing.into(), tolerated: &[], flags: NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE, message }
    }

    /// A request that replaces an object, and fails when there is none.
    pub fn alter(doing: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Self { doing: doing.into(), tolerated: &[], flags: NLM_F_REQUEST | NLM_F_REPLACE, message }
    }

    /// The same request, which fails when the object exists.
    pub fn exclusive(self) -> Self {
        Self { flags: self.flags & !NLM_F_REPLACE | NLM_F_EXCL, ..self }
    }

    /// The same request, for which these error numbers are success.
    pub fn tolerate(self, errors: &'static [i32]) -> Self {
        Self { tolerated: errors, ..self }
    }

    /// Appends the encoded request to `buffer`. `ack` asks the kernel for an answer; without it only a failure is
    /// answered.
    pub fn encode(&self, sequence: u32, ack: bool, buffer: &mut Vec<u8>) {
        let mut header = NetlinkHeader::default();
        header.flags = self.flags | if ack { NLM_F_ACK } else { 0 };
        header.sequence_number = sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(self.message.clone()));
        message.finalize();
        let start = buffer.len();
        buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut buffer[start..]);
    }
}
