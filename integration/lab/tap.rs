//! AF_PACKET: putting frames on a device and counting the frames that pass one.

use super::frame::{self, Mac};
use super::ns::{self, Ns};
use super::sock;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Every protocol (ETH_P_ALL).
pub const ALL: u16 = 0x0003;

/// An AF_PACKET socket bound to a device of the calling thread's namespace.
pub fn packet_socket(device: &str, protocol: u16) -> OwnedFd {
    let protocol = protocol.to_be();
    let fd = sock::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(protocol)).expect("AF_PACKET");
    // SAFETY: an all-zero sockaddr_ll is valid and we pass its true size.
    unsafe {
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = ns::ifindex(device);
        let size = size_of::<libc::sockaddr_ll>() as u32;
        let rc = libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size);
        assert!(rc == 0, "bind to {device}: {}", io::Error::last_os_error());
    }
    fd
}

/// Puts a frame on a device, as the device's owner would.
#[track_caller]
pub fn inject(ns: &Ns, device: &str, frame: &[u8]) {
    try_inject(ns, device, frame).unwrap_or_else(|e| panic!("in {}: frame on {device}: {e}", ns.name));
}

/// Puts many frames on a device, as fast as it takes them.
#[track_caller]
pub fn flood(ns: &Ns, device: &str, frames: impl Iterator<Item = Vec<u8>> + Send) {
    ns.inside(|| {
        let fd = packet_socket(device, 0);
        for frame in frames {
            sock::send(&fd, &frame).unwrap_or_else(|e| panic!("in {}: frame on {device}: {e}", ns.name));
        }
    });
}

/// The same as [`inject`], for a frame the kernel may refuse itself.
pub fn try_inject(ns: &Ns, device: &str, frame: &[u8]) -> io::Result<()> {
    ns.inside(|| {
        let fd = packet_socket(device, 0);
        let n = sock::send(&fd, frame)?;
        if n == frame.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    })
}

/// Puts a frame of many TCP segments on a device, as a virtual machine's driver would: whoever sends it has to cut it.
#[track_caller]
pub fn inject_segments(ns: &Ns, device: &str, frame: &[u8], size: u16) {
    /// `struct virtio_net_hdr` (uapi/linux/virtio_net.h).
    const WITH_HEADER: i32 = 15; // PACKET_VNET_HDR
    const NEEDS_CHECKSUM: u8 = 1;
    let v6 = frame[12..14] == frame::IPV6.to_be_bytes();
    let start: u16 = if v6 { 54 } else { 34 };
    let words = [start + 20, size, start, 16].map(u16::to_ne_bytes);
    let header = [&[NEEDS_CHECKSUM, if v6 { 4 } else { 1 }][..], words.as_flattened()].concat();
    ns.inside(|| {
        let fd = packet_socket(device, 0);
        sock::set(&fd, libc::SOL_PACKET, WITH_HEADER, 1i32).expect("PACKET_VNET_HDR");
        let whole = [&header[..], frame].concat();
        let sent = sock::send(&fd, &whole).unwrap_or_else(|e| panic!("in {}: segments on {device}: {e}", ns.name));
        assert_eq!(sent, whole.len());
    });
}

/// One captured frame.
pub struct Seen {
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
    /// Whether it left through the device (else it came in).
    pub outgoing: bool,
}

/// A running capture on one device.
pub struct Tap {
    what: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Seen>>>,
}

impl Tap {
    /// Starts capturing; frames from now on are not missed.
    pub fn on(ns: &Ns, device: &str) -> Tap {
        let fd = ns.inside(|| packet_socket(device, ALL));
        sock::limit(&fd, Duration::from_millis(20));
        sock::set(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16i32 << 20).expect("SO_RCVBUFFORCE");
        let stop = Arc::new(AtomicBool::new(false));
        let s = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut frames = Vec::new();
            loop {
                let last = s.load(Ordering::SeqCst);
                while let Some(seen) = receive(&fd, if last { libc::MSG_DONTWAIT } else { 0 }) {
                    frames.push(seen);
                }
                if last {
                    return frames;
                }
            }
        });
        Tap { what: format!("{} {device}", ns.name), stop, thread: Some(thread) }
    }

    /// Ends the capture and hands over all frames.
    pub fn end(mut self) -> Vec<Seen> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().expect("capture")
    }

    /// Ends the capture and counts what matches.
    pub fn count(self, matches: impl Fn(&Seen) -> bool) -> usize {
        self.end().iter().filter(|s| matches(s)).count()
    }

    /// Ends the capture and asserts that no frame carries the marker.
    #[track_caller]
    pub fn assert_without(self, what: &str, marker: &[u8]) {
        let place = self.what.clone();
        let hits: Vec<Seen> = self.end().into_iter().filter(|s| frame::carries(&s.bytes, marker)).collect();
        let first = hits.first().map(|s| (s.outgoing, hex(&s.bytes)));
        assert!(hits.is_empty(), "{what}: {} frame(s) seen at {place}, first (outgoing, bytes): {first:?}", hits.len());
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(80).map(|b| format!("{b:02x}")).collect()
}

/// The next frame of an AF_PACKET socket; `flags` are those of recv(2).
pub fn receive(fd: &OwnedFd, flags: i32) -> Option<Seen> {
    let mut buffer = vec![0u8; 70000];
    // SAFETY: buffer and address are ours and passed with their true sizes.
    unsafe {
        let mut from: libc::sockaddr_ll = std::mem::zeroed();
        let mut size = size_of::<libc::sockaddr_ll>() as u32;
        let n = libc::recvfrom(
            fd.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            flags,
            (&raw mut from).cast(),
            &mut size,
        );
        if n < 0 {
            return None;
        }
        buffer.truncate(n as usize);
        Some(Seen { bytes: buffer, outgoing: from.sll_pkttype == libc::PACKET_OUTGOING })
    }
}

/// Asks by ARP who has `target`, from `device`, and counts the answers within `window`.
pub fn arp_replies(ns: &Ns, device: &str, own: Ipv4Addr, target: Ipv4Addr, window: Duration) -> usize {
    let mac = ns.inside(|| ns::mac(device));
    let tap = Tap::on(ns, device);
    let ask = frame::arp(1, (mac, own), ([0; 6], target), &[0; 18]);
    inject(ns, device, &frame::ethernet(frame::BROADCAST, mac, frame::ARP, &ask));
    std::thread::sleep(window);
    tap.count(|s| !s.outgoing && is_arp_reply_about(&s.bytes, target))
}

fn is_arp_reply_about(frame: &[u8], target: Ipv4Addr) -> bool {
    frame.len() >= 42 && frame[12..14] == [8, 6] && frame[20..22] == [0, 2] && frame[28..32] == target.octets()
}

/// The MAC of a device in a namespace.
pub fn mac_of(ns: &Ns, device: &str) -> Mac {
    ns.inside(|| ns::mac(device))
}
