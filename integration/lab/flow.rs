//! Streams that run until they are stopped, and meters that say what arrived when.
//!
//! Shapers count what passes a device, headers and all; a receiver sees payload. A stream knows what a byte of its payload
//! stands for, so that a test can speak of the rate that was asked for. What does not live here: who is limited to what
//! (`limit`), and how long an answer takes (`delay`).

use super::ns::Ns;
use super::probe::{self, Proto};
use super::sock;
use super::wait::eventually;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How fine a meter is.
const TICK: Duration = Duration::from_millis(1);
/// How long a meter runs.
const TICKS: usize = 120_000;
/// How soon a thread sees that it has to stop.
const POLL: Duration = Duration::from_millis(50);
/// Segments of a datagram the kernel cuts up (UDP_SEGMENT); together they stay below 64 KB.
const SEGMENTS: usize = 40;

/// How bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A connection.
    Tcp,
    /// Datagrams, one system call each.
    Udp,
    /// Datagrams, forty a system call: one each keeps a processor busy before two gigabits a second are reached.
    UdpSegments,
}

impl Carrier {
    /// The largest packet it makes where nothing cuts it up, with all its headers, in bytes.
    pub fn packet(self) -> usize {
        if self == Carrier::Udp { 1514 } else { 65_536 }
    }

    fn proto(self) -> Proto {
        if self == Carrier::Tcp { Proto::Tcp } else { Proto::Udp }
    }
}

/// What a stream is to be.
#[derive(Clone, Copy)]
pub struct Plan<'n> {
    carrier: Carrier,
    from: &'n Ns,
    into: &'n Ns,
    to: SocketAddr,
    payload: usize,
    sockets: usize,
    tune: fn(&OwnedFd, usize),
}

impl<'n> Plan<'n> {
    /// From a namespace to an address that is served in another: one socket, 1400 bytes a datagram.
    pub fn new(carrier: Carrier, from: &'n Ns, into: &'n Ns, to: SocketAddr) -> Plan<'n> {
        Plan { carrier, from, into, to, payload: 1400, sockets: 1, tune: |_, _| {} }
    }

    /// Bytes of payload in a datagram.
    pub fn payload(mut self, bytes: usize) -> Plan<'n> {
        self.payload = bytes;
        self
    }

    /// That many senders at the same time.
    pub fn sockets(mut self, count: usize) -> Plan<'n> {
        self.sockets = count;
        self
    }

    /// Does something to every sending socket, told its number.
    pub fn tuned(mut self, tune: fn(&OwnedFd, usize)) -> Plan<'n> {
        self.tune = tune;
        self
    }

    /// Sends more than any queue holds: eight sockets that may each have four megabytes on the way.
    pub fn flood(self) -> Plan<'n> {
        self.sockets(8)
            .tuned(|fd, _| sock::set(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 4i32 << 20).expect("buffer"))
    }

    /// Starts it; returns when every connection is established.
    #[track_caller]
    pub fn start(self) -> Stream {
        let what = format!("{:?} from {} to {} in {}", self.carrier, self.from.name, self.to, self.into.name);
        let sockets = self.open().unwrap_or_else(|e| panic!("{what}: {e}"));
        let overhead = self.overhead(&sockets.senders[0]).unwrap_or_else(|e| panic!("{what}: {e}"));
        let meter = Arc::new(Meter::new());
        let mut stream = Stream {
            what,
            carrier: self.carrier,
            meter,
            overhead,
            sent: Arc::default(),
            senders: Crew::new(),
            receivers: Crew::new(),
        };
        for fd in sockets.receivers {
            let (meter, buffer) = (stream.meter.clone(), vec![0; self.taken_at_once()]);
            stream.receivers.spawn(move |stop| receive(&fd, buffer, &meter, stop));
        }
        let message = vec![0x5a; self.message()];
        for fd in sockets.senders {
            let (sent, message) = (stream.sent.clone(), message.clone());
            stream.senders.spawn(move |stop| send(&fd, &message, &sent, stop));
        }
        stream
    }

    /// Bytes a send call hands over.
    fn message(&self) -> usize {
        match self.carrier {
            Carrier::Tcp => 128 << 10,
            Carrier::Udp => self.payload,
            Carrier::UdpSegments => self.payload * SEGMENTS,
        }
    }

    /// How much of a stream a receive call may take; of a datagram, a byte tells enough.
    fn taken_at_once(&self) -> usize {
        if self.carrier == Carrier::Tcp { 1 << 20 } else { 1 }
    }

    /// Bytes on the device that a byte of payload stands for: the Ethernet, IP and transport headers of its packet.
    fn overhead(&self, fd: &OwnedFd) -> io::Result<f64> {
        let ip = if self.to.is_ipv4() { 34 } else { 54 };
        let (payload, headers) = match self.carrier {
            // with the timestamp option, which the segment size leaves room for
            Carrier::Tcp => (sock::get(fd, libc::IPPROTO_TCP, libc::TCP_MAXSEG)? as usize, ip + 32),
            Carrier::Udp | Carrier::UdpSegments => (self.payload, ip + 8),
        };
        Ok((payload + headers) as f64 / payload as f64)
    }

    fn open(&self) -> io::Result<Sockets> {
        let served = serve(self.carrier, self.into, self.to)?;
        let mut senders = Vec::new();
        let mut receivers = Vec::new();
        for number in 0..self.sockets {
            let fd = self.from.inside(|| -> io::Result<OwnedFd> {
                let fd = probe::open(self.carrier.proto(), self.to.ip())?;
                sock::limit(&fd, Duration::from_secs(5));
                self.prepare(&fd)?;
                (self.tune)(&fd, number);
                sock::connect(&fd, self.to)?;
                sock::limit(&fd, POLL);
                Ok(fd)
            })?;
            senders.push(fd);
            if self.carrier == Carrier::Tcp {
                let (connection, _) = sock::accept(&served)?;
                sock::limit(&connection, POLL);
                receivers.push(connection);
            }
        }
        if self.carrier != Carrier::Tcp {
            receivers.push(served);
        }
        Ok(Sockets { senders, receivers })
    }

    fn prepare(&self, fd: &OwnedFd) -> io::Result<()> {
        match self.carrier {
            Carrier::Tcp => {
                sock::cubic(fd)?;
                // what is still on the way when the test is over is nobody's
                sock::end_at_once(fd)
            }
            Carrier::Udp => Ok(()),
            Carrier::UdpSegments => sock::set(fd, libc::SOL_UDP, libc::UDP_SEGMENT, self.payload as i32),
        }
    }
}

/// The two ends of a stream, connected.
struct Sockets {
    senders: Vec<OwnedFd>,
    receivers: Vec<OwnedFd>,
}

fn serve(carrier: Carrier, ns: &Ns, at: SocketAddr) -> io::Result<OwnedFd> {
    let fd = ns.inside(|| -> io::Result<OwnedFd> {
        let fd = probe::open(carrier.proto(), at.ip())?;
        sock::reuse(&fd)?;
        sock::bind(&fd, SocketAddr::new(probe::any(at.ip()), at.port()))?;
        match carrier {
            Carrier::Tcp => sock::listen(&fd)?,
            Carrier::Udp | Carrier::UdpSegments => {
                sock::set(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64i32 << 20)?;
                sock::set(&fd, libc::SOL_UDP, libc::UDP_GRO, 1i32)?;
            }
        }
        Ok(fd)
    })?;
    sock::limit(&fd, if carrier == Carrier::Tcp { Duration::from_secs(5) } else { POLL });
    Ok(fd)
}

/// A running stream; it ends when it is dropped.
pub struct Stream {
    /// For messages.
    pub what: String,
    /// How its bytes travel.
    pub carrier: Carrier,
    meter: Arc<Meter>,
    overhead: f64,
    sent: Arc<AtomicU64>,
    senders: Crew,
    receivers: Crew,
}

impl Stream {
    /// When the first byte arrived.
    #[track_caller]
    pub fn began(&self) -> Instant {
        let first = || self.meter.ticks.iter().position(|t| t.load(Ordering::Relaxed) > 0);
        assert!(eventually(|| first().is_some()), "{}: nothing arrives", self.what);
        self.meter.epoch + TICK * first().unwrap() as u32
    }

    /// Bytes that arrived in a window, counted as on the device.
    pub fn bytes(&self, from: Instant, window: Duration) -> f64 {
        self.meter.between(from, from + window) as f64 * self.overhead
    }

    /// Bits a second that arrived in a window, counted as on the device.
    pub fn rate(&self, from: Instant, window: Duration) -> f64 {
        self.bytes(from, window) * 8.0 / window.as_secs_f64()
    }

    /// Lets it run for a while and says how fast it was meanwhile.
    pub fn watch(&self, window: Duration) -> f64 {
        let from = Instant::now();
        std::thread::sleep(window);
        self.rate(from, window)
    }

    /// Stops sending datagrams, and waits until all have arrived, or none does any more for a while. Bytes of payload: sent,
    /// and arrived.
    pub fn finish(mut self, quiet: Duration) -> (u64, u64) {
        self.senders.stop();
        let sent = self.sent.load(Ordering::SeqCst);
        let (mut arrived, mut since) = (self.meter.total(), Instant::now());
        while arrived < sent && since.elapsed() < quiet {
            std::thread::sleep(TICK);
            let now = self.meter.total();
            if now > arrived {
                (arrived, since) = (now, Instant::now());
            }
        }
        (sent, arrived)
    }
}

/// Payload bytes by the tick they arrived in.
struct Meter {
    epoch: Instant,
    ticks: Box<[AtomicU64]>,
}

impl Meter {
    fn new() -> Meter {
        Meter { epoch: Instant::now(), ticks: (0..TICKS).map(|_| AtomicU64::new(0)).collect() }
    }

    fn add(&self, bytes: usize) {
        let tick = (self.epoch.elapsed().as_micros() / TICK.as_micros()) as usize;
        self.ticks[tick.min(TICKS - 1)].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn between(&self, from: Instant, to: Instant) -> u64 {
        let tick = |at: Instant| ((at - self.epoch).as_micros() / TICK.as_micros()) as usize;
        self.ticks[tick(from).min(TICKS)..tick(to).min(TICKS)].iter().map(|t| t.load(Ordering::Relaxed)).sum()
    }

    fn total(&self) -> u64 {
        self.ticks.iter().map(|t| t.load(Ordering::Relaxed)).sum()
    }
}

/// Threads that work until they are told to stop.
struct Crew {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    fn new() -> Crew {
        Crew { stop: Arc::default(), threads: Vec::new() }
    }

    fn spawn(&mut self, work: impl FnOnce(&AtomicBool) + Send + 'static) {
        let stop = self.stop.clone();
        self.threads.push(std::thread::spawn(move || work(&stop)));
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.stop();
    }
}

fn send(fd: &OwnedFd, message: &[u8], sent: &AtomicU64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match sock::send(fd, message) {
            Ok(n) => {
                sent.fetch_add(n as u64, Ordering::Relaxed);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::ECONNRESET | libc::EPIPE | libc::ETIMEDOUT)) => return,
            // no route for a moment, a device that is down, a port unreachable: it may pass
            Err(_) => std::thread::sleep(TICK),
        }
    }
}

fn receive(fd: &OwnedFd, mut buffer: Vec<u8>, meter: &Meter, stop: &AtomicBool) {
    hurry();
    while !stop.load(Ordering::Relaxed) {
        match sock::discard(fd, &mut buffer) {
            Ok(0) => return,
            Ok(n) => meter.add(n),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => return,
        }
    }
}

/// Puts the calling thread before all ordinary ones: a receiver that waits for its turn sees late what came in time, and then
/// all at once.
pub fn hurry() {
    let first = libc::sched_param { sched_priority: 1 };
    // SAFETY: 0 is the calling thread, and the parameters outlive the call.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &first) };
    assert!(done == 0, "SCHED_FIFO: {}", io::Error::last_os_error());
}

/// Held by a test that needs the processors to itself: of those, one runs at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
