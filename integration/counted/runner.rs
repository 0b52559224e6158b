//! A process in a namespace that makes the socket calls it is told to make, one after the other.
//!
//! The process is a fork of the test, so that whatever becomes of its sockets becomes of them as of those of any process:
//! killed with SIGKILL, they are closed by the kernel. Orders and answers are values of fixed size, which travel as they lie in
//! memory: both ends are the same program.

use crate::lab::{Ns, sock};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// The longest that connecting and sending may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes that one receive takes at most.
const ROOM: usize = 256;

/// A socket call. Sockets are numbered by whoever gives the orders: `at` is a place in the process' table of sockets.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// socket(2); what was in the place is closed.
    Open { at: u16, stream: bool, v6: bool },
    /// setsockopt(2) of an int.
    Set { at: u16, level: i32, option: i32, value: i32 },
    /// bind(2).
    Bind { at: u16, to: SocketAddr },
    /// listen(2) with a queue of this length.
    Listen { at: u16, queue: i32 },
    /// connect(2).
    Connect { at: u16, to: SocketAddr },
    /// connect(2) to nowhere (AF_UNSPEC).
    Disconnect { at: u16 },
    /// accept(2) that waits for some milliseconds; the new socket goes to the place `into`.
    Accept { at: u16, into: u16, wait: u16 },
    /// send(2) of some bytes of one value.
    Send { at: u16, byte: u8, count: u16 },
    /// recv(2) that waits for some milliseconds.
    Receive { at: u16, wait: u16 },
    /// shutdown(2): SHUT_RD, SHUT_WR or SHUT_RDWR.
    Shutdown { at: u16, how: i32 },
    /// close(2).
    Close { at: u16 },
    /// getsockname(2).
    Name { at: u16 },
    /// Closes all sockets; connections are reset, so that none of them rests in TIME_WAIT.
    Reset,
}

/// What came of an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// 0 where the call succeeded.
    pub errno: i32,
    /// The socket's own address, after what may have given it one.
    pub local: Option<SocketAddr>,
    /// Who was accepted, or sent the datagram.
    pub peer: Option<SocketAddr>,
    /// Bytes sent or received.
    pub count: u16,
    /// The first byte received.
    pub byte: u8,
}

/// The process.
pub struct Runner {
    pid: Pid,
    line: OwnedFd,
}

impl Runner {
    /// Starts one with room for so many sockets.
    pub fn start(ns: &Ns, sockets: usize) -> Runner {
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
        let (line, theirs) = pair.expect("a pair of sockets");
        let table: Vec<Option<OwnedFd>> = std::iter::repeat_with(|| None).take(sockets).collect();
        let pid = ns.inside(move || {
            // SAFETY: the child makes system calls alone; what it needs was allocated before the fork.
            match unsafe { fork() }.expect("fork") {
                ForkResult::Parent { child } => child,
                ForkResult::Child => serve(theirs.as_raw_fd(), table),
            }
        });
        Runner { pid, line }
    }

    /// Has it make a call.
    #[track_caller]
    pub fn call(&self, order: Order) -> Answer {
        assert!(put(self.line.as_raw_fd(), &order), "the runner {} takes no order", self.pid);
        get(self.line.as_raw_fd()).unwrap_or_else(|| panic!("the runner {} died of {order:?}", self.pid))
    }

    /// Has it make a call that succeeds.
    #[track_caller]
    pub fn succeed(&self, order: Order) -> Answer {
        let answer = self.call(order);
        assert_eq!(answer.errno, 0, "{order:?}: {}", nix::errno::Errno::from_raw(answer.errno));
        answer
    }

    /// A listening TCP socket in the place `at`; the errno of the call that failed.
    pub fn listen(&self, at: u16, to: SocketAddr, reuse: bool) -> Result<(), i32> {
        self.call(Order::Open { at, stream: true, v6: to.is_ipv6() });
        if reuse {
            self.call(Order::Set { at, level: libc::SOL_SOCKET, option: libc::SO_REUSEADDR, value: 1 });
        }
        for order in [Order::Bind { at, to }, Order::Listen { at, queue: 1024 }] {
            match self.call(order).errno {
                0 => {}
                errno => {
                    self.call(Order::Close { at });
                    return Err(errno);
                }
            }
        }
        Ok(())
    }
}

/// Kills it with SIGKILL, whatever it does; its sockets are closed when this returns.
impl Drop for Runner {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// The life of the process: until nobody is left to give an order.
fn serve(line: RawFd, mut table: Vec<Option<OwnedFd>>) -> ! {
    let limit = libc::rlimit { rlim_cur: table.len() as u64 + 64, rlim_max: table.len() as u64 + 64 };
    // SAFETY: plain system calls. Everything that the test has open, for itself and for other tests, is theirs alone.
    unsafe {
        libc::dup2(line, 3);
        libc::close_range(4, libc::c_uint::MAX, 0);
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    while let Some(order) = get::<Order>(3) {
        let mut answer = Answer::default();
        if let Err(e) = perform(&mut table, order, &mut answer) {
            answer.errno = e.raw_os_error().unwrap_or(libc::EIO);
        }
        if !put(3, &answer) {
            break;
        }
    }
    // SAFETY: ends the process at once; what the test registered for its own end is not run.
    unsafe { libc::_exit(0) }
}

fn perform(table: &mut [Option<OwnedFd>], order: Order, answer: &mut Answer) -> io::Result<()> {
    let none = || io::Error::from_raw_os_error(libc::EBADF);
    let at = match order {
        Order::Open { at, stream, v6 } => {
            let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
            let kind = if stream { libc::SOCK_STREAM } else { libc::SOCK_DGRAM };
            *table.get_mut(usize::from(at)).ok_or_else(none)? = None;
            table[usize::from(at)] = Some(sock::socket(family, kind, 0)?);
            return Ok(());
        }
        Order::Reset => {
            for place in table.iter_mut() {
                if let Some(socket) = place.take() {
                    let _ = sock::end_at_once(&socket);
                }
            }
            return Ok(());
        }
        Order::Close { at } => return table.get_mut(usize::from(at)).and_then(Option::take).map(drop).ok_or_else(none),
        Order::Set { at, .. }
        | Order::Bind { at, .. }
        | Order::Listen { at, .. }
        | Order::Connect { at, .. }
        | Order::Disconnect { at }
        | Order::Accept { at, .. }
        | Order::Send { at, .. }
        | Order::Receive { at, .. }
        | Order::Shutdown { at, .. }
        | Order::Name { at } => usize::from(at),
    };
    if let Order::Accept { into, wait, .. } = order {
        let listener = table.get(at).and_then(Option::as_ref).ok_or_else(none)?;
        sock::limit(listener, Duration::from_millis(wait.into()));
        let (accepted, peer) = sock::accept(listener)?;
        (answer.local, answer.peer) = (Some(sock::local(&accepted)?), Some(peer));
        *table.get_mut(usize::from(into)).ok_or_else(none)? = Some(accepted);
        return Ok(());
    }
    call(table.get(at).and_then(Option::as_ref).ok_or_else(none)?, order, answer)
}

/// A call on one socket that makes no other.
fn call(socket: &OwnedFd, order: Order, answer: &mut Answer) -> io::Result<()> {
    match order {
        Order::Set { level, option, value, .. } => sock::set(socket, level, option, value)?,
        Order::Bind { to, .. } => sock::bind(socket, to)?,
        Order::Listen { queue, .. } => {
            // SAFETY: no pointers.
            check(unsafe { libc::listen(socket.as_raw_fd(), queue) })?
        }
        Order::Connect { to, .. } => {
            sock::limit(socket, PATIENCE);
            sock::connect(socket, to)?;
        }
        Order::Disconnect { .. } => {
            let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
            // SAFETY: address and size belong together.
            check(unsafe { libc::connect(socket.as_raw_fd(), &nowhere, size_of_val(&nowhere) as u32) })?
        }
        Order::Send { byte, count, .. } => {
            let bytes = [byte; ROOM];
            sock::limit(socket, PATIENCE);
            answer.count = sock::send(socket, bytes.get(..usize::from(count)).unwrap_or(&bytes))? as u16;
            return Ok(());
        }
        Order::Receive { wait, .. } => {
            let mut bytes = [0; ROOM];
            sock::limit(socket, Duration::from_millis(wait.into()));
            // a stream does not say who sent it
            let count = if sock::get(socket, libc::SOL_SOCKET, libc::SO_TYPE)? == libc::SOCK_STREAM {
                sock::recv(socket, &mut bytes)?
            } else {
                let (count, from) = sock::recv_from(socket, &mut bytes)?;
                answer.peer = Some(from);
                count
            };
            (answer.count, answer.byte) = (count as u16, bytes[0]);
            return Ok(());
        }
        Order::Shutdown { how, .. } => {
            // SAFETY: no pointers.
            return check(unsafe { libc::shutdown(socket.as_raw_fd(), how) });
        }
        _ => {}
    }
    answer.local = Some(sock::local(socket)?);
    Ok(())
}

fn check(returned: i32) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends a value as it lies in memory; false when nobody is there.
fn put<T: Copy>(line: RawFd, value: &T) -> bool {
    // SAFETY: pointer and size are the value's own; the kernel copies bytes, whatever they mean.
    let sent = unsafe { libc::send(line, (&raw const *value).cast(), size_of::<T>(), libc::MSG_NOSIGNAL) };
    sent == size_of::<T>() as isize
}

/// Receives a value; `None` when the other end is closed.
fn get<T: Copy>(line: RawFd) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    loop {
        // SAFETY: pointer and size are the value's own.
        let got = unsafe { libc::recv(line, value.as_mut_ptr().cast(), size_of::<T>(), 0) };
        if got == size_of::<T>() as isize {
            // SAFETY: the same program sent a value of this type, as a whole.
            return Some(unsafe { value.assume_init() });
        }
        if got >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
}
