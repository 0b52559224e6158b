//! What the programs at the sockets cost: calls in a container with open ports, and in a namespace that is none of ours, each
//! relative to the same calls there without any program.
//!
//! The programs are on a cgroup of the benchmark's own. Of every namespace two processes take turns, round by round: one in that
//! cgroup and one outside, whose sockets meet no program. Nothing else differs. CPU time is measured; a ratio is the median, over
//! rounds, of the ratio within a round.

mod group;
mod judge;
mod net;
mod product;

use group::Group;
use judge::{Failure, Row, SERIES, Table, best_of_series, median};
use net::{Netns, host_and_peer, private_ground};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{ForkResult, Pid, fork};
use product::Product;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const ROUNDS: usize = 31;
/// A port that is free, and open to the container.
const PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(10);

/// What a program does again and again.
#[derive(Clone, Copy)]
enum Load {
    BindTcp,
    BindUdp,
    Connect,
    Datagrams,
}

/// How often one sample does it: 20 to 30 ms.
const LOADS: [(Load, &str, u32, f64); 4] = [
    (Load::BindTcp, "TCP socket, bind, close", 2000, 1.35),
    (Load::BindUdp, "UDP socket, bind, close", 2000, 1.35),
    (Load::Connect, "connect, accept, close both", 500, 1.08),
    (Load::Datagrams, "UDP send, receive", 5000, 1.02),
];
/// The most that any of them may take in a namespace that is none of ours.
const NOT_OURS: f64 = 1.06;

/// A process that does what it is told, and says how long that took.
struct Worker {
    pid: Pid,
    line: UnixStream,
}

/// The processes of a namespace: outside the cgroup and in it.
struct Place {
    without: Worker,
    with: Worker,
}

struct Bench {
    container: Place,
    stranger: Place,
    _cgroup: Group,
}

fn main() -> ExitCode {
    match Bench::prepare() {
        Ok(mut bench) => best_of_series("sockets", SERIES, || bench.series()),
        Err(e) => {
            eprintln!("sockets: {e}");
            ExitCode::FAILURE
        }
    }
}

impl Bench {
    fn prepare() -> Result<Bench, Failure> {
        private_ground()?;
        let cgroup = Group::new("sockets")?;
        let (host, _peer) = host_and_peer("sockets")?;
        let product = Product::for_host("sockets", Some(cgroup.path()))?;
        run(&host, &product, &["setup"])?;
        let [inside, stranger] = ["inside", "stranger"].map(Netns::create);
        let (inside, stranger) = (inside?, stranger?);
        let path = inside.path.to_str().expect("the names of our namespaces are ASCII");
        let open = format!("1024-{}", PORT + 1000);
        run(&host, &product, &["attach", "inside", "--netns", path, "--open-ports", &open])?;
        stranger.ip("link set lo up")?;
        let place = |netns: &Netns| -> Result<Place, Failure> {
            Ok(Place { without: Worker::start(netns, None)?, with: Worker::start(netns, Some(&cgroup))? })
        };
        let mut bench = Bench { container: place(&inside)?, stranger: place(&stranger)?, _cgroup: cgroup };
        bench.container.refuses_only_with()?;
        Ok(bench)
    }

    fn series(&mut self) -> Result<Table, Failure> {
        let mut rows = Vec::new();
        for (load, name, times, limit) in LOADS {
            let (base, inside) = self.container.compare(load, times)?;
            let (_, stranger) = self.stranger.compare(load, times)?;
            let judged = |ratio: f64, limit: f64| [format!("{ratio:.3}"), format!("<= {limit:.2}")];
            let cells = [name.to_owned(), format!("{:.2} us", base * 1e6)].into_iter();
            let cells = cells.chain(judged(inside, limit)).chain(judged(stranger, NOT_OURS)).collect();
            rows.push(Row { cells, met: Some(inside <= limit && stranger <= NOT_OURS) });
        }
        let header =
            ["CPU time of", "no program", "container", "limit", "not ours", "limit"].map(String::from).to_vec();
        Ok(Table { header, rows })
    }
}

impl Place {
    /// Seconds that it takes without programs, and how much longer it takes with them.
    fn compare(&mut self, load: Load, times: u32) -> Result<(f64, f64), Failure> {
        let (mut bases, mut ratios) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let order = if round % 2 == 0 { [false, true] } else { [true, false] };
            let mut took = [0.0; 2];
            for with in order {
                let worker = if with { &mut self.with } else { &mut self.without };
                took[usize::from(with)] = worker.times(load, times)?;
            }
            // the first round fills caches
            if round > 0 {
                bases.push(took[0] / f64::from(times));
                ratios.push(took[1] / took[0]);
            }
        }
        Ok((median(&bases), median(&ratios)))
    }

    /// Whoever is in the cgroup is told that a port is not his: what is compared are calls with programs and without.
    fn refuses_only_with(&mut self) -> Result<(), Failure> {
        match (self.without.binds_foreign()?, self.with.binds_foreign()?) {
            (true, false) => Ok(()),
            (without, with) => {
                Err(format!("binds a foreign port: {without} without programs, {with} with them").into())
            }
        }
    }
}

impl Worker {
    fn start(netns: &Netns, cgroup: Option<&Group>) -> io::Result<Worker> {
        let (line, theirs) = UnixStream::pair()?;
        // SAFETY: this process has one thread.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Worker { pid: child, line }),
            ForkResult::Child => {
                drop(line);
                let done = enter(netns, cgroup).and_then(|()| serve(theirs));
                done.unwrap_or_else(|e| eprintln!("sockets: {e}"));
                // SAFETY: ends the process at once; what the benchmark cleans up is the parent's.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// Seconds of CPU time that it takes to do something so many times.
    fn times(&mut self, load: Load, times: u32) -> io::Result<f64> {
        self.ask(load as u8, times).map(|nanoseconds| nanoseconds as f64 * 1e-9)
    }

    fn binds_foreign(&mut self) -> io::Result<bool> {
        self.ask(FOREIGN, 1).map(|bound| bound == 1)
    }

    fn ask(&mut self, what: u8, times: u32) -> io::Result<u64> {
        let mut order = vec![what];
        order.extend(times.to_ne_bytes());
        self.line.write_all(&order)?;
        let mut answer = [0; 8];
        self.line.read_exact(&mut answer)?;
        Ok(u64::from_ne_bytes(answer))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// To bind a port that is nobody's and that is not open.
const FOREIGN: u8 = 9;
const NOT_OPEN: u16 = 20_000;

fn enter(netns: &Netns, cgroup: Option<&Group>) -> io::Result<()> {
    netns.enter()?;
    match cgroup {
        Some(cgroup) => cgroup.enter(),
        None => Ok(()),
    }
}

fn serve(mut line: UnixStream) -> io::Result<()> {
    let mut order = [0; 5];
    while line.read_exact(&mut order).is_ok() {
        let times = u32::from_ne_bytes([order[1], order[2], order[3], order[4]]);
        let answer = if order[0] == FOREIGN {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, NOT_OPEN)).is_ok().into()
        } else {
            timed(LOADS[usize::from(order[0])].0, times)?
        };
        line.write_all(&answer.to_ne_bytes())?;
    }
    Ok(())
}

/// Nanoseconds of CPU time.
fn timed(load: Load, times: u32) -> io::Result<u64> {
    let clock = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    let here = SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT);
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT);
    let begun;
    match load {
        Load::BindTcp | Load::BindUdp => {
            let kind = if matches!(load, Load::BindTcp) { libc::SOCK_STREAM } else { libc::SOCK_DGRAM };
            begun = clock()?;
            for _ in 0..times {
                bind(kind, any)?;
            }
        }
        Load::Connect => {
            let listener = bind(libc::SOCK_STREAM, any)?;
            // SAFETY: no pointers.
            check(unsafe { libc::listen(listener.as_raw_fd(), 16) })?;
            let listener = TcpListener::from(listener);
            begun = clock()?;
            for _ in 0..times {
                let client = TcpStream::connect(here)?;
                // the server's end closes first: its port, not one of the block, has the connections in TIME_WAIT
                drop(listener.accept()?);
                drop(client);
            }
        }
        Load::Datagrams => {
            let (server, client) = (UdpSocket::bind(any)?, UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?);
            server.set_read_timeout(Some(PATIENCE))?;
            client.connect(here)?;
            begun = clock()?;
            for _ in 0..times {
                client.send(&[0; 64])?;
                server.recv(&mut [0; 64])?;
            }
        }
    }
    Ok((clock()? - begun).as_nanos() as u64)
}

/// A socket, bound. Servers set SO_REUSEADDR for the sake of their connections in TIME_WAIT, as most do.
fn bind(kind: i32, to: SocketAddrV4) -> io::Result<OwnedFd> {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: the descriptor is new and ours alone; all pointers come with their true sizes.
    unsafe {
        let fd = libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, 0);
        check(fd)?;
        let socket = OwnedFd::from_raw_fd(fd);
        if kind == libc::SOCK_STREAM {
            let on = 1i32;
            let option = (&raw const on).cast();
            check(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, option, size_of::<i32>() as u32))?;
        }
        check(libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as u32))?;
        Ok(socket)
    }
}

fn check(returned: i32) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Runs the command line on the host to its end.
fn run(host: &Netns, product: &Product, arguments: &[&str]) -> Result<(), Failure> {
    let mut command = host.command(Path::new(&product.binary("portslice")));
    let out = command.args(arguments).envs(product.environment.clone()).output()?;
    if out.status.success() {
        return Ok(());
    }
    Err(format!("portslice {}: {}", arguments.join(" "), String::from_utf8_lossy(&out.stderr).trim()).into())
}
