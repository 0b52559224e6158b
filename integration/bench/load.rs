//! The load generator: four small conversations between a client and a server, each end a thread in its own namespace.
//!
//! The amount of work is fixed, not the time, so that cost per transaction is the only thing that varies. Both ends share
//! one CPU, where throughput is what the CPU allows; spread over two, throughput swings by tens of per cent with the
//! scheduler's mood. A warm-up that is not counted fills caches, neighbour tables and congestion windows.
//!
//! Left alone, whether a server takes its datagrams one by one or many at a time depends on what both ends did before, and is
//! a difference of more than half. In a machine whose clock counts instructions the server therefore comes first.

use super::cost::{Counter, Event, Meter};
use super::group::Group;
use super::net::Netns;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce, sockopt::ReceiveTimeout, sockopt::SndBufForce};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// What client and server say to each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Bulk TCP from client to server; a transaction is 64 KiB.
    Stream,
    /// One byte there and one back on an open TCP connection.
    Exchange,
    /// Connect, one byte there and one back, close.
    Connect,
    /// 64-byte UDP datagrams from client to server, acknowledged once a window, so that none is ever lost.
    Datagrams,
}

const WINDOW: u64 = 32;
/// Socket buffers, as the kernel counts them.
const BUFFER: usize = 2 << 20;
/// A conversation that stalls is a failure, not a wait.
const PATIENCE: Duration = Duration::from_secs(10);

impl Load {
    /// Bytes in a transaction of a stream.
    pub const CHUNK: usize = 64 << 10;

    /// Transactions: `(not counted, counted)`. Sized so that one sample takes 20 to 60 ms.
    fn amount(self) -> (u64, u64) {
        match self {
            Load::Stream => (128, 1024),
            Load::Exchange => (100, 2000),
            Load::Connect => (20, 400),
            Load::Datagrams => (4 * WINDOW, 128 * WINDOW),
        }
    }
}

/// One measured run.
#[derive(Clone, Copy)]
pub struct Sample {
    /// Both ends and the softirq threads, per transaction.
    pub cost: f64,
    /// Transactions per second.
    pub rate: f64,
}

/// Where an end of a conversation runs: its namespace, and the cgroup whose programs its sockets meet, if any.
#[derive(Clone)]
pub struct Place {
    pub netns: Netns,
    pub group: Option<Arc<Group>>,
}

impl From<Netns> for Place {
    fn from(netns: Netns) -> Place {
        Place { netns, group: None }
    }
}

/// The two ends of a conversation: who connects, who listens, and the address that leads there.
pub struct Route {
    pub client: Place,
    pub server: Place,
    pub target: SocketAddrV4,
}

/// Runs `load` once over `route`.
pub fn sample(load: Load, route: &Route, meter: &Meter) -> io::Result<Sample> {
    let (_, counted) = load.amount();
    let start = &Barrier::new(2);
    let (ready, listening) = mpsc::channel();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            settle(&route.server)?;
            server_first(load, true, meter)?;
            serve(load, route.target.port(), start, meter, ready)
        });
        let client = scope.spawn(move || {
            settle(&route.client)?;
            server_first(load, false, meter)?;
            // A server that failed has dropped its end of the channel: its own error is the one to report.
            listening.recv().map_err(|_| io::Error::other("no server"))?;
            drive(load, route.target, start, meter)
        });
        let server = server.join().expect("the server thread does not panic");
        let client = client.join().expect("the client thread does not panic");
        let (server_cost, (client_cost, wall)) = (server?, client?);
        let per = counted as f64;
        Ok(Sample { cost: meter.both(server_cost, client_cost) as f64 / per, rate: per / wall.as_secs_f64() })
    })
}

/// Moves the calling thread to its place and to the CPU that both ends share.
fn settle(place: &Place) -> io::Result<()> {
    place.netns.enter()?;
    place.group.as_ref().map_or(Ok(()), |group| group.enter())?;
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}

/// Has the server run as soon as something comes for it, in a machine whose clock counts instructions. Not for an exchange,
/// where each end waits for the other anyway.
fn server_first(load: Load, server: bool, meter: &Meter) -> io::Result<()> {
    if load == Load::Exchange || meter.event != Event::Clock {
        return Ok(());
    }
    let nice = if server { -20 } else { 0 };
    // SAFETY: plain system call; it concerns the calling thread alone.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The counted part of one end: `work` between the common start and its own end.
fn counted(start: &Barrier, meter: &Meter, work: impl FnOnce() -> io::Result<()>) -> io::Result<u64> {
    let counter = Counter::of_this_thread(meter.event)?;
    start.wait();
    let before = counter.read()?;
    work()?;
    Ok(counter.read()? - before)
}

fn serve(load: Load, port: u16, start: &Barrier, meter: &Meter, ready: mpsc::Sender<()>) -> io::Result<u64> {
    let at = (Ipv4Addr::UNSPECIFIED, port);
    let (warm, n) = load.amount();
    if load == Load::Datagrams {
        let socket = UdpSocket::bind(at)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let _ = ready.send(());
        sink(&socket, warm)?;
        return counted(start, meter, || sink(&socket, n));
    }
    let listener = TcpListener::bind(at)?;
    // A fixed window: with autotuning, throughput depends on what the first round trips happened to look like.
    setsockopt(&listener, RcvBufForce, &BUFFER)?;
    setsockopt(&listener, ReceiveTimeout, &TimeVal::new(PATIENCE.as_secs() as i64, 0))?;
    let _ = ready.send(());
    if load == Load::Connect {
        answer_calls(&listener, warm)?;
        return counted(start, meter, || answer_calls(&listener, n));
    }
    let mut stream = prepared(listener.accept()?.0)?;
    let mut part = |n| if load == Load::Exchange { echo(&mut stream, n) } else { drain(&mut stream, n) };
    part(warm)?;
    counted(start, meter, || part(n))
}

fn drive(load: Load, to: SocketAddrV4, start: &Barrier, meter: &Meter) -> io::Result<(u64, Duration)> {
    let (warm, n) = load.amount();
    let timed = |work: &mut dyn FnMut(u64) -> io::Result<()>| -> io::Result<(u64, Duration)> {
        work(warm)?;
        let mut wall = Duration::ZERO;
        let mut softirq = 0;
        let own = counted(start, meter, || {
            let (before, begun) = (meter.softirq()?, Instant::now());
            work(n)?;
            (wall, softirq) = (begun.elapsed(), meter.softirq()? - before);
            Ok(())
        })?;
        Ok((own + softirq, wall))
    };
    match load {
        Load::Datagrams => {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(to)?;
            timed(&mut |n| spray(&socket, n))
        }
        Load::Connect => timed(&mut |n| call(to, n)),
        Load::Exchange => {
            let mut stream = prepared(TcpStream::connect_timeout(&to.into(), PATIENCE)?)?;
            timed(&mut |n| ask(&mut stream, n))
        }
        Load::Stream => {
            let mut stream = prepared(TcpStream::connect_timeout(&to.into(), PATIENCE)?)?;
            timed(&mut |n| pour(&mut stream, n))
        }
    }
}

fn prepared(stream: TcpStream) -> io::Result<TcpStream> {
    setsockopt(&stream, SndBufForce, &BUFFER)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn pour(stream: &mut TcpStream, n: u64) -> io::Result<()> {
    let chunk = [0u8; Load::CHUNK];
    for _ in 0..n {
        stream.write_all(&chunk)?;
    }
    stream.read_exact(&mut [0])
}

fn drain(stream: &mut TcpStream, n: u64) -> io::Result<()> {
    let mut chunk = vec![0u8; 4 * Load::CHUNK];
    let mut left = n as usize * Load::CHUNK;
    while left > 0 {
        let most = chunk.len().min(left);
        match stream.read(&mut chunk[..most])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => left -= got,
        }
    }
    stream.write_all(&[0])
}

fn ask(stream: &mut TcpStream, n: u64) -> io::Result<()> {
    for _ in 0..n {
        stream.write_all(&[0])?;
        stream.read_exact(&mut [0])?;
    }
    Ok(())
}

fn echo(stream: &mut TcpStream, n: u64) -> io::Result<()> {
    for _ in 0..n {
        stream.read_exact(&mut [0])?;
        stream.write_all(&[0])?;
    }
    Ok(())
}

/// The server closes first: TIME_WAIT stays with the listening port, and the client's ports are free again at once.
fn call(to: SocketAddrV4, n: u64) -> io::Result<()> {
    for _ in 0..n {
        let mut stream = TcpStream::connect_timeout(&to.into(), PATIENCE)?;
        stream.write_all(&[0])?;
        stream.read_exact(&mut [0])?;
        if stream.read(&mut [0])? != 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(())
}

fn answer_calls(listener: &TcpListener, n: u64) -> io::Result<()> {
    for _ in 0..n {
        let mut stream = listener.accept()?.0;
        stream.read_exact(&mut [0])?;
        stream.write_all(&[0])?;
    }
    Ok(())
}

fn spray(socket: &UdpSocket, n: u64) -> io::Result<()> {
    for sent in 1..=n {
        socket.send(&[0; 64])?;
        if sent % WINDOW == 0 {
            socket.recv(&mut [0; 64])?;
        }
    }
    Ok(())
}

fn sink(socket: &UdpSocket, n: u64) -> io::Result<()> {
    for got in 1..=n {
        let (_, from) = socket.recv_from(&mut [0; 64])?;
        if got % WINDOW == 0 {
            socket.send_to(&[0], from)?;
        }
    }
    Ok(())
}
