//! What a container's start and end cost: the hooks and the CLI as processes, beside the reference CNI plugins.
//!
//! One simulated host with its programs loaded, one run. Namespaces are made before the clock starts, for both.

mod cni;
mod crowded;
mod follow;
mod holder;
mod hooks;
mod judge;
mod net;
mod product;
mod timed;

use cni::Chain;
use crowded::Crowded;
use holder::Holder;
use hooks::Hook;
use judge::{Failure, Row, SERIES, Table, best_of_series, lower_quartile, median};
use net::{Netns, host_and_peer, private_ground};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use product::Product;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};
use timed::{Call, Timed};

const RUNS: usize = 50;
const WARM_UP: usize = 3;
const MANY: usize = 1000;
const MB: f64 = 1e6;
/// Milliseconds of the chain's ADD on the quiet machine for which the limits in milliseconds were set. Where it takes
/// longer, everything does, and they are wider by as much.
const QUIET_ADD: f64 = 58.0;
/// Ephemeral ports of a container: so many that fifty containers fit the pool.
const SIZE: &str = "256";

/// The host, the product on it, and the chain it is compared with.
struct Bench {
    product: Product,
    chain: Chain,
    bundle: String,
    crowded: Crowded,
}

/// Milliseconds of every run, by what was done.
#[derive(Default)]
struct Series {
    prestart: Vec<f64>,
    poststop: Vec<f64>,
    /// The prestart hook and our CNI plugin's ADD, by turns; and its DEL.
    beside: Vec<f64>,
    add: Vec<f64>,
    del: Vec<f64>,
    detach: Vec<f64>,
    cni_add: Vec<f64>,
    cni_del: Vec<f64>,
    peak_memory: f64,
    growth: Vec<f64>,
    /// A single ingress hook, by turns with the first and the last of them.
    hooks: [Vec<f64>; 2],
    /// A sync of a thousand slices with nothing to do, and with a new address.
    sync: [f64; 2],
    /// The service with some fifty slices, and with a thousand.
    follow: [f64; 2],
    /// The prestart hook where the host has thousands of addresses, to where it has as many as containers carry.
    crowded: f64,
    doctor: Vec<f64>,
}

fn main() -> ExitCode {
    match Bench::prepare() {
        Ok(bench) => best_of_series("attach", SERIES, || bench.series()),
        Err(e) => {
            eprintln!("attach: {e}");
            ExitCode::FAILURE
        }
    }
}

impl Bench {
    /// This process becomes the host: its own mounts, then its own network.
    fn prepare() -> Result<Bench, Failure> {
        private_ground()?;
        let (host, _peer) = host_and_peer("attach")?;
        host.enter()?;
        own_sysfs()?;
        let bundle = "/run/bundle";
        fs::create_dir(bundle)?;
        fs::write(
            format!("{bundle}/config.json"),
            json!({"ociVersion": "1.0.2", "linux": {"resources": {}}}).to_string(),
        )?;
        let chain = Chain::new(Path::new("/run/cni"));
        let bench = Bench {
            product: Product::for_host("attach", None)?,
            chain,
            bundle: bundle.to_owned(),
            crowded: Crowded::prepare()?,
        };
        bench.cli(&["setup"])?;
        Ok(bench)
    }

    /// What is measured happens many times in a row, with the namespaces made before and taken down after all of it:
    /// the kernel takes a namespace down in the background for some tenths of a second, in everybody's way.
    fn series(&self) -> Result<Table, Failure> {
        let mut series = Series { crowded: self.crowded.compare(&self.bundle)?, ..Series::default() };
        self.hooks(&mut series)?;
        self.plugin(&mut series)?;
        self.live(&mut series)?;
        self.reference(&mut series)?;
        self.thousand(&mut series)?;
        self.table(&series)
    }

    /// Start and end of a container as its runtime sees them; the namespace is gone before the second hook.
    fn hooks(&self, series: &mut Series) -> Result<(), Failure> {
        let before = devices()?;
        let holders = namespaces()?;
        let mut states: Vec<Value> =
            holders.iter().enumerate().map(|(n, holder)| self.state(n, holder.pid())).collect();
        for (n, state) in states.iter().enumerate() {
            let attached = self.hook("portslice-prestart", &state.to_string())?;
            series.peak_memory = series.peak_memory.max(attached.peak_memory as f64);
            if n >= WARM_UP {
                series.prestart.push(milliseconds(attached.took));
            }
        }
        drop(holders);
        eventually("the containers' devices to vanish", || Ok(devices()? == before))?;
        settle();
        for (n, state) in states.iter_mut().enumerate() {
            state["status"] = json!("stopped");
            state.as_object_mut().expect("the state is an object").remove("pid");
            let detached = self.hook("portslice-poststop", &state.to_string())?;
            if n >= WARM_UP {
                series.poststop.push(milliseconds(detached.took));
            }
        }
        Ok(())
    }

    /// Start and end of a container that is attached by CNI, by turns with the hook: what slows the machine down slows both.
    fn plugin(&self, series: &mut Series) -> Result<(), Failure> {
        let holders = namespaces()?;
        for (n, pair) in holders.chunks_exact(2).enumerate() {
            let added = self.cni("ADD", 2 * n, &pair[0])?;
            let state = self.state(2 * n + 1, pair[1].pid());
            let attached = self.hook("portslice-prestart", &state.to_string())?;
            if n >= WARM_UP {
                series.add.push(milliseconds(added.took));
                series.beside.push(milliseconds(attached.took));
            }
        }
        settle();
        for (n, pair) in holders.chunks_exact(2).enumerate() {
            series.del.push(milliseconds(self.cni("DEL", 2 * n, &pair[0])?.took));
            self.cli(&["detach", &format!("hook-{}", 2 * n + 1)])?;
        }
        drop(holders);
        settle();
        Ok(())
    }

    fn cni(&self, command: &str, n: usize, holder: &Holder) -> Result<Timed, Failure> {
        let annotations = json!({"portslice/ports": ports(n), "portslice/ephemeral-ports": SIZE});
        let network = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "portslice",
            "runtimeConfig": {"io.kubernetes.cri.pod-annotations": annotations},
        });
        let call = [
            ("CNI_COMMAND", command.into()),
            ("CNI_CONTAINERID", format!("cni-{n}").into()),
            ("CNI_NETNS", holder.netns()),
            ("CNI_IFNAME", "eth0".into()),
        ];
        let environment: Vec<(&str, PathBuf)> = self.product.environment.iter().cloned().chain(call).collect();
        let program = self.product.binary("portslice-cni");
        Ok(Call { program: &program, arguments: &[], environment: &environment, input: &network.to_string() }.run()?)
    }

    /// What is done about slices in namespaces that live on; in the end the CLI takes them away.
    fn live(&self, series: &mut Series) -> Result<(), Failure> {
        let holders = namespaces()?;
        for (n, holder) in holders.iter().enumerate() {
            let pid = holder.pid().to_string();
            let ports = ports(n);
            let asked = ["attach", &format!("live-{n}"), "--pid", &pid, "--ports", &ports, "--ephemeral-ports", SIZE];
            self.cli(&asked)?;
        }
        settle();
        let places: Vec<PathBuf> = holders.iter().map(Holder::netns).collect();
        series.follow[0] = self.follow(&places, 20)?;
        for _ in 0..9 {
            // A machine may have findings; only a verdict counts as a failure.
            series.doctor.push(milliseconds(self.cli(&["doctor", "--json"])?.took));
        }
        for n in 0..holders.len() {
            let took = milliseconds(self.cli(&["detach", &format!("live-{n}")])?.took);
            if n >= WARM_UP {
                series.detach.push(took);
            }
        }
        drop(holders);
        settle();
        Ok(())
    }

    /// The same with the reference plugins.
    fn reference(&self, series: &mut Series) -> Result<(), Failure> {
        let holders = namespaces()?;
        let mut results = Vec::new();
        for (n, holder) in holders.iter().enumerate() {
            let (took, result) = self.chain.add(&format!("bench-cni-{n}"), &holder.netns())?;
            results.push(result);
            if n >= WARM_UP {
                series.cni_add.push(milliseconds(took));
            }
        }
        settle();
        for (n, (holder, result)) in holders.iter().zip(&results).enumerate() {
            let took = milliseconds(self.chain.delete(&format!("bench-cni-{n}"), &holder.netns(), result)?);
            if n >= WARM_UP {
                series.cni_del.push(took);
            }
        }
        drop(holders);
        settle();
        Ok(())
    }

    fn state(&self, n: usize, pid: u32) -> Value {
        json!({
            "ociVersion": "1.0.2-dev", "id": format!("hook-{n}"), "status": "creating", "pid": pid, "bundle": self.bundle,
            "annotations": {"portslice/ports": ports(n), "portslice/ephemeral-ports": SIZE},
        })
    }

    /// A thousand small slices one after the other, then all of them taken back.
    fn thousand(&self, series: &mut Series) -> Result<(), Failure> {
        let before = devices()?;
        let places = (0..MANY).map(|n| Netns::create(&format!("bench-{n}"))).collect::<Result<Vec<_>, _>>()?;
        settle();
        let mut hook = Hook::prepare()?;
        let took = &mut series.growth;
        took.clear();
        for (n, place) in places.iter().enumerate() {
            match n {
                ..RUNS => series.hooks[0].push(hook.add()?),
                _ if n >= MANY - RUNS => series.hooks[1].push(hook.add()?),
                _ => {}
            }
            let id = format!("bench-{n}");
            let netns = place.path.to_str().expect("the names of our namespaces are ASCII");
            took.push(milliseconds(self.cli(&["attach", &id, "--netns", netns, "--ephemeral-ports", "16"])?.took));
        }
        settle();
        series.sync = self.sync()?;
        series.follow[1] = self.follow(&places.iter().map(|place| place.path.clone()).collect::<Vec<_>>(), 3)?;
        places.into_iter().try_for_each(remove)?;
        eventually("a thousand devices to vanish", || Ok(devices()? == before))?;
        for n in 0..MANY {
            self.cli(&["detach", &format!("bench-{n}")])?;
        }
        let left = self.cli(&["list", "--json"])?.output;
        if left.trim() == "[]" { Ok(()) } else { Err(format!("leases left after detaching all: {left}").into()) }
    }

    fn table(&self, series: &Series) -> Result<Table, Failure> {
        let [prestart, poststop, detach, add, del] =
            [&series.prestart, &series.poststop, &series.detach, &series.cni_add, &series.cni_del].map(|s| median(s));
        let [beside, our_add, our_del] = [&series.beside, &series.add, &series.del].map(|s| median(s));
        let (first, last) = (median(&series.growth[..RUNS]), median(&series.growth[MANY - RUNS..]));
        let [few, many] = [&series.growth[..RUNS], &series.growth[MANY - RUNS..]].map(lower_quartile);
        let [hook, one_more] = series.hooks.each_ref().map(|took| lower_quartile(took));
        let walks = hooks::OF_A_SLICE * (one_more - hook);
        let slowness = (add / QUIET_ADD).max(1.0);
        let ms = |value: f64| format!("{value:.2} ms");
        let mb = |value: f64| format!("{value:.2} MB");
        let at_most = |figure: &str, value: f64, limit: f64, show: &dyn Fn(f64) -> String| Row {
            cells: vec![figure.to_owned(), show(value), format!("<= {}", show(limit))],
            met: Some(value <= limit),
        };
        let shown =
            |figure: &str, value: f64| Row { cells: vec![figure.to_owned(), ms(value), String::new()], met: None };
        let mut rows = vec![
            // Of 5 to 7 hundredths of ADD, as fast as a machine's system calls are to its starts of processes.
            at_most("prestart hook, a 12th of CNI ADD", prestart, add / 12.0, &ms),
            at_most("poststop hook", poststop, 1.5 * slowness, &ms),
            at_most("our CNI ADD, 1.5 prestart hooks by turns", our_add, 1.5 * beside, &ms),
            at_most("prestart hook, 5000 addresses to 256", series.crowded, 6.0, &|x| format!("{x:.2}x")),
            shown("our CNI DEL of a live namespace", our_del),
            at_most("detach of a live namespace, a 4th of CNI DEL", detach, del / 4.0, &ms),
            shown("CNI ADD (bridge, tuning, bandwidth, portmap)", add),
            shown("CNI DEL", del),
            at_most("hooks' peak memory", series.peak_memory / MB, 8.0, &mb),
            shown("attach, first 50 of 1000", first),
            shown("attach, last 50 of 1000", last),
            at_most("sync of 1000 slices, nothing to do", series.sync[0], 50.0 * slowness, &ms),
            at_most("sync of 1000 slices, a new address", series.sync[1], 1500.0 * slowness, &ms),
            at_most("follow, 53 slices", series.follow[0], 200.0 * slowness, &ms),
            at_most("follow, 1000 slices", series.follow[1], 2000.0 * slowness, &ms),
            at_most("doctor, 53 slices", median(&series.doctor), 300.0 * slowness, &ms),
            // of both the undisturbed quarter
            shown("the kernel's walks past hooks of 1000 slices", walks),
            at_most("growth over 1000 slices but for these walks", (many - walks) / few, 1.3, &|x| format!("{x:.2}x")),
        ];
        for hook in ["portslice-prestart", "portslice-poststop"] {
            let size = fs::metadata(self.product.binary(hook))?.len() as f64;
            rows.push(at_most(&format!("size of {hook}"), size / MB, 2.5, &mb));
        }
        Ok(Table { header: ["median of 50", "measured", "limit"].map(String::from).into(), rows })
    }

    fn hook(&self, name: &str, state: &str) -> Result<Timed, Failure> {
        self.run(name, &[], state)
    }

    fn cli(&self, arguments: &[&str]) -> Result<Timed, Failure> {
        self.run("portslice", arguments, "")
    }

    fn run(&self, name: &str, arguments: &[&str], input: &str) -> Result<Timed, Failure> {
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        let program = self.product.binary(name);
        let call = Call { program: &program, arguments: &arguments, environment: &self.product.environment, input };
        Ok(call.run()?)
    }
}

/// Replaces /sys by one that shows this network namespace, and keeps the cgroups where they were.
fn own_sysfs() -> Result<(), Failure> {
    let (none, cgroups, aside) = (None::<&str>, "/sys/fs/cgroup", "/run/cgroup");
    fs::create_dir(aside)?;
    mount(Some(cgroups), aside, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)?;
    Ok(mount(Some(aside), cgroups, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?)
}

/// Drops the last references to a namespace: the kernel takes it down in the background.
fn remove(place: Netns) -> Result<(), Failure> {
    umount2(&place.path, MntFlags::MNT_DETACH)?;
    Ok(fs::remove_file(&place.path)?)
}

/// How many network devices the host has.
/// Devices of the host, but for the pair from which its routes are asked: that comes and goes with its networks.
fn devices() -> Result<usize, Failure> {
    let all = fs::read_to_string("/proc/thread-self/net/dev")?;
    let asks = |line: &&str| ["portslice-fib:", "portslice-end:"].iter().any(|name| line.contains(name));
    Ok(all.lines().filter(|line| !asks(line)).count())
}

fn eventually(what: &str, happened: impl Fn() -> Result<bool, Failure>) -> Result<(), Failure> {
    let begun = Instant::now();
    while !happened()? {
        if begun.elapsed() > Duration::from_secs(30) {
            return Err(format!("waited 30 s for {what}").into());
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Namespaces for one series.
fn namespaces() -> Result<Vec<Holder>, Failure> {
    let holders = (0..WARM_UP + RUNS).map(|_| Holder::new()).collect::<Result<_, _>>()?;
    settle();
    Ok(holders)
}

/// Ten listening ports of the n-th container.
fn ports(n: usize) -> String {
    format!("{}-{}", 31000 + 10 * n, 31009 + 10 * n)
}

/// Lets the kernel finish what it does in the background, so that no series pays for the one before.
fn settle() {
    sleep(Duration::from_secs(1));
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
