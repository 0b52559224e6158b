//! What a packet is on the wire.

use super::Size;
use super::packet::{ETHERNET, Frame, Packet, TCP};

/// Packets and bytes of a frame that holds a packet.
pub fn on_the_wire(frame: &Frame<'_>, packet: &Packet) -> Size {
    let whole = frame.bytes.len();
    let Some(segments) = frame.segments else { return Size { packets: 1, bytes: whole as u64 } };
    let headers = headers(frame, packet);
    let count = match usize::from(segments.count) {
        0 => whole.saturating_sub(headers).div_ceil(segments.size.into()).max(1),
        count => count,
    };
    Size { packets: count as u64, bytes: (whole + (count - 1) * headers) as u64 }
}

/// Bytes of the largest IP packet that a frame becomes on the wire: itself, or a segment of it.
pub fn largest(frame: &Frame<'_>, packet: &Packet) -> usize {
    let whole = frame.bytes.len();
    let segment = frame.segments.map_or(whole, |segments| headers(frame, packet) + usize::from(segments.size));
    whole.min(segment) - ETHERNET
}

/// Bytes of headers that each segment has.
fn headers(frame: &Frame<'_>, packet: &Packet) -> usize {
    let words = |at: usize| frame.bytes.get(at).map_or(0, |byte| usize::from(byte >> 4));
    packet.transport + if packet.protocol == TCP { words(packet.transport + 12) * 4 } else { 8 }
}
