//! What it costs to read the statistics of a thousand containers, and what attaching costs meanwhile.
//!
//! One simulated host with a thousand small slices, one server on it, one client that asks again and again.

mod holder;
mod judge;
mod net;
mod product;

use holder::Holder;
use judge::{Failure, Row, SERIES, Table, best_of_series, lower_quartile, median};
use net::{Netns, host_and_peer, private_ground};
use product::Product;
use std::cell::Cell;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const MANY: usize = 1000;
const RUNS: usize = 30;
const SCRAPES: usize = 1000;
const MB: f64 = 1e6;
const SOCKET: &str = "/run/serve.sock";
/// Milliseconds `portslice list --json` of a thousand takes on the quiet machine for which the limits were set. Where
/// it takes longer, everything does, and they are wider by as much.
const QUIET_LIST: f64 = 22.0;

/// The host with its slices, and the server.
struct Bench {
    product: Product,
    server: Server,
    /// How often both pages were asked for only to see what memory that takes.
    warm: Cell<usize>,
    _namespaces: Vec<Netns>,
}

/// The server's process; ends with us. Its stderr is kept open, so that it can write there.
struct Server(Child, #[allow(dead_code, reason = "closing it would fail the server's writes")] BufReader<ChildStderr>);

fn main() -> ExitCode {
    match Bench::prepare() {
        Ok(bench) => best_of_series("stats", SERIES, || bench.series()),
        Err(e) => {
            eprintln!("stats: {e}");
            ExitCode::FAILURE
        }
    }
}

impl Bench {
    /// This process becomes the host: its own mounts, then its own network.
    fn prepare() -> Result<Bench, Failure> {
        private_ground()?;
        let (host, _peer) = host_and_peer("stats")?;
        host.enter()?;
        let product = Product::for_host("stats", None)?;
        run(&product, &["setup"])?;
        let namespaces = (0..MANY).map(|n| Netns::create(&format!("bench-{n}"))).collect::<Result<Vec<_>, _>>()?;
        for (n, place) in namespaces.iter().enumerate() {
            let netns = place.path.to_str().expect("the names of our namespaces are ASCII");
            run(&product, &["attach", &format!("bench-{n}"), "--netns", netns, "--ephemeral-ports", "16"])?;
        }
        let server = Server::start(&product)?;
        Ok(Bench { product, server, warm: Cell::new(0), _namespaces: namespaces })
    }

    fn series(&self) -> Result<Table, Failure> {
        let list = self.times(|| run(&self.product, &["list", "--json"]))?;
        let statistics = self.times(|| ask("/monitor/statistics", "\"container_id\""))?;
        let metrics = self.times(|| ask("/metrics", "container_network_receive_bytes_total{"))?;
        let one = self.times(|| run(&self.product, &["stats", "bench-500", "--json"]))?;
        let all = self.times(|| run(&self.product, &["stats", "--json"]))?;
        // the server lives through all series: once is enough
        for _ in self.warm.replace(SCRAPES / 2)..SCRAPES / 2 {
            ask("/monitor/statistics", "\"container_id\"")?;
            ask("/metrics", "container_network_receive_bytes_total{")?;
        }
        let memory = self.server.memory()?;
        let (quiet, busy, meanwhile) = self.attaches()?;
        self.table(&[list, statistics, metrics, one, all], memory, quiet, busy, meanwhile)
    }

    /// Attach and detach, alternately while nobody asks and while somebody asks without a pause. Returns the times, and
    /// how many answers there were.
    fn attaches(&self) -> Result<(Vec<f64>, Vec<f64>, usize), Failure> {
        let holder = Holder::new()?;
        let pid = holder.pid().to_string();
        let (asking, ended, answers) = (AtomicBool::new(false), AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|s| {
            let client = s.spawn(|| -> Result<(), String> {
                while !ended.load(Ordering::Relaxed) {
                    if asking.load(Ordering::Relaxed) {
                        ask("/monitor/statistics", "\"container_id\"").map_err(|e| e.to_string())?;
                        answers.fetch_add(1, Ordering::Relaxed);
                    } else {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                Ok(())
            });
            let mut times = [Vec::new(), Vec::new()];
            let measured = (0..2 * 5).try_for_each(|round| -> Result<(), Failure> {
                asking.store(round % 2 == 1, Ordering::Relaxed);
                // the last answer is on its way, or the first
                thread::sleep(Duration::from_millis(200));
                for _ in 0..RUNS {
                    let attach = ["attach", "measured", "--pid", &pid, "--ephemeral-ports", "16"];
                    times[round % 2].push(milliseconds(run(&self.product, &attach)?));
                    run(&self.product, &["detach", "measured"])?;
                }
                Ok(())
            });
            ended.store(true, Ordering::Relaxed);
            client.join().expect("the client does not panic")?;
            measured?;
            let [quiet, busy] = times;
            Ok((quiet, busy, answers.load(Ordering::Relaxed)))
        })
    }

    fn times(&self, mut once: impl FnMut() -> Result<Duration, Failure>) -> Result<Vec<f64>, Failure> {
        once()?;
        (0..RUNS).map(|_| once().map(milliseconds)).collect()
    }

    fn table(
        &self,
        [list, statistics, metrics, one, all]: &[Vec<f64>; 5],
        memory: f64,
        quiet: Vec<f64>,
        busy: Vec<f64>,
        meanwhile: usize,
    ) -> Result<Table, Failure> {
        let slowness = (median(list) / QUIET_LIST).max(1.0);
        let ms = |value: f64| format!("{value:.2} ms");
        let mb = |value: f64| format!("{value:.1} MB");
        let at_most = |figure: &str, value: f64, limit: f64, show: &dyn Fn(f64) -> String| Row {
            cells: vec![figure.to_owned(), show(value), format!("<= {}", show(limit))],
            met: Some(value <= limit),
        };
        let shown =
            |figure: &str, value: f64| Row { cells: vec![figure.to_owned(), ms(value), String::new()], met: None };
        let slower = lower_quartile(&busy) / lower_quartile(&quiet);
        if meanwhile == 0 {
            return Err("nothing was asked while attaching".into());
        }
        let rows = vec![
            at_most("/monitor/statistics", median(statistics), 60.0 * slowness, &ms),
            at_most("/metrics", median(metrics), 80.0 * slowness, &ms),
            at_most("portslice stats ID", median(one), 2.0 * slowness, &ms),
            shown("portslice stats", median(all)),
            shown("portslice list", median(list)),
            at_most(&format!("the server's memory after {SCRAPES} more answers"), memory / MB, 40.0, &mb),
            shown("attach, nobody asks", median(&quiet)),
            shown("attach, somebody always asks", median(&busy)),
            // An attach looks for sockets on a second processor, which the server and who asks it have here: a quarter more.
            at_most("attach while somebody asks, undisturbed quarter", slower, 1.4, &|x| format!("{x:.2}x")),
        ];
        Ok(Table {
            header: ["a thousand containers, median of 30", "measured", "limit"].map(String::from).to_vec(),
            rows,
        })
    }
}

impl Server {
    fn start(product: &Product) -> Result<Server, Failure> {
        let mut command = Command::new(product.binary("portslice"));
        command.args(["serve", "--listen", &format!("unix:{SOCKET}")]).envs(product.environment.clone());
        // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe.
        unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::SIGKILL)?)) };
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut said = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let mut line = String::new();
        said.read_line(&mut line)?;
        let server = Server(child, said);
        if line.contains("serving on") { Ok(server) } else { Err(format!("the server does not serve: {line}").into()) }
    }

    /// Resident bytes.
    fn memory(&self) -> Result<f64, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kilobytes * 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks once and takes the time; the answer has to tell of every container.
fn ask(path: &str, sign: &str) -> Result<Duration, Failure> {
    let begun = Instant::now();
    let mut stream = UnixStream::connect(SOCKET)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut bytes = Vec::with_capacity(8 << 20);
    stream.read_to_end(&mut bytes)?;
    let took = begun.elapsed();
    let text = String::from_utf8(bytes)?;
    let told = text.matches(sign).count();
    // one more while another is being attached
    if text.starts_with("HTTP/1.1 200 ") && (MANY..=MANY + 1).contains(&told) {
        return Ok(took);
    }
    Err(format!("{path}: {told} containers: {:.200}", text).into())
}

/// Runs the CLI to its end and takes the time. What it prints is too much for a pipe that is read afterwards.
fn run(product: &Product, arguments: &[&str]) -> Result<Duration, Failure> {
    let mut command = Command::new(product.binary("portslice"));
    command.args(arguments).envs(product.environment.clone()).stdin(Stdio::null()).stdout(Stdio::null());
    let begun = Instant::now();
    let status = command.status()?;
    let took = begun.elapsed();
    if status.success() { Ok(took) } else { Err(format!("portslice {}: {status}", arguments.join(" ")).into()) }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
