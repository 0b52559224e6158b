//! Sockets by system call, for what std cannot say: bind and then connect, raw, packet, any option.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// A socket of the calling thread's network namespace.
pub fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain socket(2); the descriptor is ours alone.
    unsafe {
        let fd = libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// AF_INET or AF_INET6.
pub fn family(of: IpAddr) -> i32 {
    if of.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

fn done(rc: impl TryInto<i64>) -> io::Result<usize> {
    let rc: i64 = rc.try_into().unwrap_or(-1);
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc as usize) }
}

/// An address in the kernel's form.
pub fn raw(address: SocketAddr) -> (libc::sockaddr_storage, u32) {
    // SAFETY: all-zero is a valid sockaddr_storage, and either concrete form fits into it.
    unsafe {
        let mut storage: libc::sockaddr_storage = std::mem::zeroed();
        let size = match address {
            SocketAddr::V4(v4) => {
                let to = &mut *(&raw mut storage).cast::<libc::sockaddr_in>();
                to.sin_family = libc::AF_INET as u16;
                to.sin_port = v4.port().to_be();
                to.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let to = &mut *(&raw mut storage).cast::<libc::sockaddr_in6>();
                to.sin6_family = libc::AF_INET6 as u16;
                to.sin6_port = v6.port().to_be();
                to.sin6_addr.s6_addr = v6.ip().octets();
                to.sin6_scope_id = v6.scope_id();
                size_of::<libc::sockaddr_in6>()
            }
        };
        (storage, size as u32)
    }
}

/// An address from the kernel's form.
fn cooked(storage: &libc::sockaddr_storage) -> io::Result<SocketAddr> {
    // SAFETY: the family says which concrete form the kernel wrote.
    unsafe {
        match i32::from(storage.ss_family) {
            libc::AF_INET => {
                let from = &*(&raw const *storage).cast::<libc::sockaddr_in>();
                let ip = Ipv4Addr::from(from.sin_addr.s_addr.to_ne_bytes());
                Ok(SocketAddr::new(ip.into(), u16::from_be(from.sin_port)))
            }
            libc::AF_INET6 => {
                let from = &*(&raw const *storage).cast::<libc::sockaddr_in6>();
                Ok(SocketAddr::new(Ipv6Addr::from(from.sin6_addr.s6_addr).into(), u16::from_be(from.sin6_port)))
            }
            other => Err(io::Error::other(format!("address family {other}"))),
        }
    }
}

/// bind(2).
pub fn bind(fd: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    let (address, size) = raw(to);
    // SAFETY: address and size belong together.
    done(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size) }).map(drop)
}

/// connect(2).
pub fn connect(fd: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    let (address, size) = raw(to);
    // SAFETY: address and size belong together.
    done(unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), size) }).map(drop)
}

/// listen(2) with a long queue.
pub fn listen(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: no pointers.
    done(unsafe { libc::listen(fd.as_raw_fd(), 1024) }).map(drop)
}

/// accept(2), blocking; also says who came.
pub fn accept(fd: &OwnedFd) -> io::Result<(OwnedFd, SocketAddr)> {
    // SAFETY: storage and size are ours; the descriptor is new and ours alone.
    unsafe {
        let mut storage: libc::sockaddr_storage = std::mem::zeroed();
        let mut size = size_of::<libc::sockaddr_storage>() as u32;
        let new = libc::accept4(fd.as_raw_fd(), (&raw mut storage).cast(), &mut size, libc::SOCK_CLOEXEC);
        done(new)?;
        let new = OwnedFd::from_raw_fd(new);
        Ok((new, cooked(&storage)?))
    }
}

/// Wakes whoever waits on it.
pub fn shut(fd: &OwnedFd) {
    // SAFETY: no pointers.
    unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RDWR) };
}

/// send(2) without SIGPIPE.
pub fn send(fd: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are the slice's own.
    done(unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) })
}

/// All of it.
pub fn send_all(fd: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        bytes = &bytes[send(fd, bytes)?..];
    }
    Ok(())
}

/// sendto(2).
pub fn send_to(fd: &OwnedFd, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
    let (address, size) = raw(to);
    // SAFETY: all pointers come with their true sizes.
    done(unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_NOSIGNAL,
            (&raw const address).cast(),
            size,
        )
    })
}

/// recv(2).
pub fn recv(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are the slice's own.
    done(unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) })
}

/// recv(2) with MSG_TRUNC: of a stream, up to the buffer's length is thrown away and nothing copied; of a datagram comes what
/// fits, and the size of all of it is returned.
pub fn discard(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are the slice's own.
    done(unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_TRUNC) })
}

/// Says that nothing more will be sent.
pub fn shut_sending(fd: &OwnedFd) {
    // SAFETY: no pointers.
    unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) };
}

/// recvfrom(2).
pub fn recv_from(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    // SAFETY: all pointers come with their true sizes.
    unsafe {
        let mut storage: libc::sockaddr_storage = std::mem::zeroed();
        let mut size = size_of::<libc::sockaddr_storage>() as u32;
        let n = libc::recvfrom(
            fd.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
            (&raw mut storage).cast(),
            &mut size,
        );
        Ok((done(n)?, cooked(&storage)?))
    }
}

/// setsockopt(2) with any plain value.
pub fn set<T: Copy>(fd: &OwnedFd, level: i32, option: i32, value: T) -> io::Result<()> {
    // SAFETY: value is plain data and passed with its size.
    done(unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), size_of::<T>() as u32) })
        .map(drop)
}

/// getsockopt(2) of an int.
pub fn get(fd: &OwnedFd, level: i32, option: i32) -> io::Result<i32> {
    let (mut value, mut size) = (0i32, 4u32);
    // SAFETY: value is an int and passed with its size.
    done(unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, (&raw mut value).cast(), &mut size) })?;
    Ok(value)
}

/// Sets how long one send or receive on it may take.
pub fn limit(fd: &OwnedFd, limit: Duration) {
    let time = libc::timeval { tv_sec: limit.as_secs() as _, tv_usec: limit.subsec_micros().max(1000) as _ };
    set(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, time).expect("SO_RCVTIMEO");
    set(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, time).expect("SO_SNDTIMEO");
}

/// SO_REUSEADDR.
pub fn reuse(fd: &OwnedFd) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1i32)
}

/// Chooses the congestion control that is nearly everywhere, whatever the machine prefers: it fills every queue it finds.
pub fn cubic(fd: &OwnedFd) -> io::Result<()> {
    let choose = |name: &[u8; 16]| set(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, *name);
    choose(b"cubic\0\0\0\0\0\0\0\0\0\0\0").or_else(|_| choose(b"reno\0\0\0\0\0\0\0\0\0\0\0\0"))
}

/// Lets closing it reset the connection: one that waits for its end keeps its namespace alive.
pub fn end_at_once(fd: &OwnedFd) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_LINGER, libc::linger { l_onoff: 1, l_linger: 0 })
}

/// The local address of a socket.
pub fn local(fd: &OwnedFd) -> io::Result<SocketAddr> {
    name(fd, libc::getsockname)
}

/// The remote address of a connected socket.
pub fn peer(fd: &OwnedFd) -> io::Result<SocketAddr> {
    name(fd, libc::getpeername)
}

type NameCall = unsafe extern "C" fn(i32, *mut libc::sockaddr, *mut u32) -> i32;

fn name(fd: &OwnedFd, call: NameCall) -> io::Result<SocketAddr> {
    // SAFETY: storage and size are ours and belong together.
    unsafe {
        let mut storage: libc::sockaddr_storage = std::mem::zeroed();
        let mut size = size_of::<libc::sockaddr_storage>() as u32;
        done(call(fd.as_raw_fd(), (&raw mut storage).cast(), &mut size))?;
        cooked(&storage)
    }
}
