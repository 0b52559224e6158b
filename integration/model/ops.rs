//! What workers do: one operation at a time, chosen at random and killed at random.

use crate::lab::host::binary;
use crate::lab::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Child, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock, mpsc};
use std::time::{Duration, Instant};

/// Namespaces that containers may live in: more than the pool has blocks for.
pub const PLACES: u64 = 14;
/// No command may take longer.
const LIMIT: Duration = Duration::from_secs(45);
/// Eight blocks, and twelve ports.
const CONFIG: &str = "ephemeral_ports = \"32768-33279\"\nephemeral_ports_per_container = 64\nports = \"31000-31011\"\n";

/// Random numbers that a seed repeats (splitmix64).
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let a = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        b ^ (b >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// How a command is interrupted.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// It is not.
    Itself,
    /// SIGKILL after some microseconds.
    Killed(u64),
    /// At one of the points that the product offers.
    Fault(u64),
}

/// A command that ended.
pub struct Done {
    /// Exit code; `None` for one that was killed.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// The host, and what happened on it.
pub struct World {
    /// The host.
    pub host: Host,
    /// Namespaces. A reader uses the process that holds one; ending it takes a writer, because its number is given out again.
    pub places: Vec<RwLock<Ns>>,
    /// How many of them are used in this round: in one of few, an undo finds no container.
    pub used: AtomicU64,
    /// Held for writing while the host may be unprepared: only then another installation may have it.
    prepared: RwLock<()>,
    /// A lease file was deleted since the last look.
    pub lost: AtomicBool,
    /// The operations of this round.
    log: Mutex<Vec<String>>,
    /// How often which verb came to which exit code.
    counts: Mutex<BTreeMap<String, u32>>,
    violations: Mutex<Vec<String>>,
    start: Instant,
}

impl World {
    /// A host with room for a few.
    pub fn new(seed: u64) -> World {
        let host = Host::with("model").config(CONFIG).build();
        let places = (0..PLACES).map(|n| RwLock::new(Ns::net_only(&format!("place {n}")))).collect();
        let world = World {
            host,
            places,
            used: AtomicU64::new(PLACES),
            prepared: RwLock::new(()),
            lost: AtomicBool::new(false),
            log: Mutex::default(),
            counts: Mutex::default(),
            violations: Mutex::default(),
            start: Instant::now(),
        };
        for name in ["own", "joins", "other"] {
            let network = match name {
                "joins" => json!({"type": "network", "path": "/run/netns/pod"}),
                _ => json!({"type": "network"}),
            };
            let caps: &[&str] = if seed.is_multiple_of(2) { &[] } else { &["CAP_NET_RAW"] };
            let spec = json!({"linux": {"namespaces": [network]}, "process": {"capabilities": {"bounding": caps}}});
            let dir = world.host.dir.join(name);
            std::fs::create_dir(&dir).expect("a bundle");
            std::fs::write(dir.join("config.json"), spec.to_string()).expect("a bundle");
        }
        world
    }

    /// Something that must not be.
    pub fn violated(&self, what: String) {
        self.violations.lock().unwrap().push(what);
    }

    /// Fails with what was violated, and the operations that led there.
    #[track_caller]
    pub fn assert_sound(&self, what: &str) {
        let violations = std::mem::take(&mut *self.violations.lock().unwrap());
        let log = std::mem::take(&mut *self.log.lock().unwrap());
        assert!(violations.is_empty(), "{what}:\n  {}\nafter\n{}", violations.join("\n  "), log.join("\n"));
    }

    /// How often which verb came to which exit code.
    pub fn summary(&self) -> String {
        let counts = self.counts.lock().unwrap();
        counts.iter().map(|(what, count)| format!("{what}: {count}")).collect::<Vec<_>>().join(", ")
    }

    /// One operation.
    pub fn operation(&self, random: &mut Random) {
        let end = match random.below(10) {
            0 | 1 => End::Killed(random.pick(&[2_000, 10_000, 40_000, 80_000]) * random.below(1000) / 1000),
            2 => End::Fault(1 + random.below(30)),
            _ => End::Itself,
        };
        let lonely = self.used.load(Ordering::SeqCst) < PLACES;
        match random.below(100) {
            20..50 if lonely => {
                (0..2).for_each(|_| self.detach(random, End::Itself));
                self.undo(end);
            }
            0..36 => self.attach(random, end),
            36..48 => self.set(random, end),
            48..62 => self.detach(random, end),
            62..72 => self.poststop(random, end),
            72..79 => self.end_place(random),
            79..84 => drop(self.verb(&["gc"], end, &[0])),
            84..87 => drop(self.verb(&["setup"], end, &[0, 7])),
            87..89 => drop(self.verb(&["fsck"], end, &[0, 1])),
            89..91 => drop(self.verb(&["fsck", "--rebuild"], end, &[0, 1])),
            91 | 92 => self.undo(end),
            93 => self.lose(random),
            94 => drop(self.verb(&["list", "--json"], end, &[0])),
            _ => self.intrude(random),
        }
    }

    /// A container of its own, or one more in a namespace: by process or by path, by hand or by hook.
    fn attach(&self, random: &mut Random, end: End) {
        let (n, other) = (self.place(random), self.place(random));
        // Now and then somebody takes the id of another.
        let of = if random.chance(5) { other } else { n };
        let id = name(random, of);
        let ports = match random.below(8) {
            0 | 1 => None,
            2 => Some("auto:1".to_owned()),
            3 => Some("auto:3".to_owned()),
            _ => Some(port(random)),
        };
        let mut keys: Vec<(&str, String)> = ports.into_iter().map(|ports| ("ports", ports)).collect();
        if random.chance(10) {
            keys.push(("ephemeral-ports", random.pick(&["16", "128", "256"]).into()));
        }
        if random.chance(12) {
            keys.push((random.pick(&["egress-rate", "ingress-rate"]), random.pick(&["10mbit", "30mbit"]).into()));
        }
        let place = self.places[n as usize].read().unwrap();
        let codes = [0, 3, 4, 7];
        match random.below(3) {
            0 => {
                let bundle = random.pick(&["own", "joins"]);
                let annotations: BTreeMap<String, String> =
                    keys.into_iter().map(|(key, value)| (format!("portslice/{key}"), value)).collect();
                let state = json!({"ociVersion": "1.0.2", "id": id, "status": "creating", "pid": place.pid(),
                    "bundle": self.host.dir.join(bundle), "annotations": annotations});
                self.run(&["portslice-prestart"], &state.to_string(), end, &codes);
            }
            way => {
                let at = if way == 1 { place.pid().to_string() } else { place.path().to_string_lossy().into_owned() };
                let mut args = vec!["attach".into(), id, if way == 1 { "--pid" } else { "--netns" }.into(), at];
                args.extend(keys.into_iter().flat_map(|(key, value)| [format!("--{key}"), value]));
                self.verb(&args.iter().map(String::as_str).collect::<Vec<_>>(), end, &codes);
            }
        }
    }

    fn set(&self, random: &mut Random, end: End) {
        let id = self.someone(random);
        let rate = random.pick(&["10mbit", "20mbit", "0B", "default"]);
        let (key, value) = match random.below(5) {
            0 => ("--egress-rate", rate.to_owned()),
            1 => ("--ingress-rate", rate.to_owned()),
            2 => ("--ports", format!("+{}", port(random))),
            3 => ("--ports", format!("-{}", port(random))),
            _ => ("--ports", port(random)),
        };
        let force = if random.chance(50) { &["--force"][..] } else { &[] };
        self.verb(&[&["set", &id, key, &value], force].concat(), end, &[0, 2, 4, 6, 7]);
    }

    fn detach(&self, random: &mut Random, end: End) {
        self.verb(&["detach", &self.someone(random)], end, &[0, 7]);
    }

    fn poststop(&self, random: &mut Random, end: End) {
        let id = self.someone(random);
        let state = self.stopped(&id, random.pick(&["own", "joins", "other"]));
        self.run(&["portslice-poststop"], &state, end, &[0, 7]);
    }

    /// What a runtime says of a container of a bundle that ended.
    pub fn stopped(&self, id: &str, bundle: &str) -> String {
        let bundle = self.host.dir.join(bundle);
        json!({"ociVersion": "1.0.2", "id": id, "status": "stopped", "bundle": bundle}).to_string()
    }

    /// A namespace ends, and nobody is told.
    fn end_place(&self, random: &mut Random) {
        let n = self.place(random);
        let mut place = self.places[n as usize].write().unwrap();
        place.kill();
        *place = Ns::net_only(&format!("place {n}"));
        self.note(format!("place {n} is another now, of process {}", place.pid()));
    }

    /// Undone and set up again; refused while there are containers.
    fn undo(&self, end: End) {
        let _alone = self.prepared.write().unwrap();
        self.verb(&["setup", "--undo"], end, &[0, 7]);
        self.verb(&["setup"], End::Itself, &[0]);
    }

    fn place(&self, random: &mut Random) -> u64 {
        random.below(self.used.load(Ordering::SeqCst))
    }

    /// Mostly a container that there is.
    fn someone(&self, random: &mut Random) -> String {
        let listed = |name: &str| std::fs::read_dir(self.host.state_dir().join(name)).into_iter().flatten().flatten();
        let all = listed("leases").chain(listed("members"));
        let all: Vec<String> = all.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        let n = self.place(random);
        if all.is_empty() || random.chance(20) {
            return name(random, n);
        }
        all[random.below(all.len() as u64) as usize].clone()
    }

    /// Somebody deletes a lease.
    fn lose(&self, random: &mut Random) {
        let id = self.someone(random);
        if std::fs::remove_file(self.host.state_dir().join("leases").join(&id)).is_ok() {
            self.note(format!("the lease of {id} was deleted"));
            self.lost.store(true, Ordering::SeqCst);
        }
    }

    /// Another installation tries to have the host.
    fn intrude(&self, random: &mut Random) {
        let _prepared = self.prepared.read().unwrap();
        let (n, verb) = (self.place(random), random.below(5));
        self.intrusion(n, verb, &name(random, n));
    }

    /// One of its verbs: refused, or without an effect because it has nothing.
    pub fn intrusion(&self, n: u64, verb: u64, id: &str) {
        let dir = self.host.dir.join("intruder");
        let place = self.places[n as usize].read().unwrap();
        let pid = place.pid().to_string();
        let args: &[&str] = match verb {
            0 => &["setup"],
            1 => &["attach", id, "--pid", &pid],
            2 => &["gc"],
            3 => &["detach", id],
            _ => &["setup", "--undo"],
        };
        let dir = dir.to_string_lossy();
        self.verb(&[&["--state-dir", &dir], args].concat(), End::Itself, if verb < 2 { &[5] } else { &[0, 5] });
    }

    /// Runs `portslice ARGS...`.
    fn verb(&self, args: &[&str], end: End, codes: &[i32]) -> Done {
        self.run(&[&["portslice"], args].concat(), "", end, codes)
    }

    /// The same, undisturbed.
    pub fn quiet(&self, args: &[&str], codes: &[i32]) -> Done {
        self.verb(args, End::Itself, codes)
    }

    /// A hook, undisturbed.
    pub fn quiet_hook(&self, hook: &str, state: &str) -> Done {
        self.run(&[hook], state, End::Itself, &[0])
    }

    /// Runs a command, and judges its exit code and what it says.
    fn run(&self, argv: &[&str], input: &str, end: End, codes: &[i32]) -> Done {
        let mut command = self.host.command([binary(argv[0].as_ref()).as_os_str()]);
        command.args(&argv[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let End::Fault(n) = end {
            command.env("PORTSLICE_FAULT", n.to_string());
        }
        let began = self.start.elapsed();
        let mut child = command.spawn().expect("a command");
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        if let End::Killed(after) = end {
            std::thread::sleep(Duration::from_micros(after));
            let _ = child.kill();
        }
        let pid = child.id();
        let out = in_time(child);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let done = Done { code: out.status.code(), stdout: text(out.stdout), stderr: text(out.stderr) };
        let line = format!(
            "{:.3}-{:.3} {pid} {} {input} {end:?}: {:?} {} {}",
            began.as_secs_f64(),
            self.start.elapsed().as_secs_f64(),
            argv.join(" "),
            done.code,
            done.stderr.trim(),
            if argv.contains(&"list") { "" } else { done.stdout.trim() }
        );
        self.judge(argv, end, codes, &done, &line);
        self.note(line);
        done
    }

    fn judge(&self, argv: &[&str], end: End, codes: &[i32], done: &Done, line: &str) {
        // A hook may have had the host set up by a command that was killed.
        let also = |code| code == 1 && matches!(end, End::Fault(_)) && argv[0] == "portslice-prestart";
        let fine = match done.code {
            None => end != End::Itself,
            Some(code) => codes.contains(&code) || also(code),
        };
        let says = done.code == Some(1) && argv.contains(&"fsck") && !done.stdout.is_empty();
        let one_line = matches!(done.code, None | Some(0)) || says || done.stderr.lines().count() == 1;
        if !fine || !one_line {
            self.violated(format!("exit codes {codes:?} and one line at most: {line}"));
        }
        let verb = argv.iter().find(|word| !word.starts_with('-') && **word != "portslice").unwrap_or(&argv[0]);
        let verb = if argv.ends_with(&["--undo"]) { "undo" } else { verb };
        let verb = if argv.contains(&"--state-dir") { "intruder" } else { verb };
        let code = done.code.map_or("killed".to_owned(), |code| code.to_string());
        *self.counts.lock().unwrap().entry(format!("{verb} {code}")).or_default() += 1;
    }

    fn note(&self, line: String) {
        self.log.lock().unwrap().push(line);
    }
}

/// Waits for a command to end, and kills it when it never does.
fn in_time(child: Child) -> Output {
    let pid = Pid::from_raw(child.id() as i32);
    let (ended, watched) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if watched.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        let out = child.wait_with_output().expect("a command");
        drop(ended);
        out
    })
}

/// The first, second or third container of a place. No name begins another one.
fn name(random: &mut Random, place: u64) -> String {
    let which = random.pick(&["a", "a", "a", "b", "c"]);
    format!("{which}{place:02}")
}

/// One of the ports, or two next to each other.
fn port(random: &mut Random) -> String {
    let first = 31_000 + random.below(11);
    if random.chance(30) { format!("{first}-{}", first + 1) } else { first.to_string() }
}
