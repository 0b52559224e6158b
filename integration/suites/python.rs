//! CPython's own tests of sockets and of what is built on them: the same ones pass in a container with open ports as on a plain host.

use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// Modules of tests, and how many of each pass at least, wherever they run.
const QUICK: [(&str, usize); 3] = [("test_socketserver", 20), ("test_httpservers", 50), ("test_socket", 400)];
const SLOW: [(&str, usize); 3] = [("test_ftplib", 80), ("test_ssl", 120), ("test_asyncio", 1500)];

/// How often tests that differ run once more on both sides: some fail now and then on any host.
const AGAIN: usize = 3;
/// How long one run of a module may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Sockets of virtual machines are not of any network namespace, and the test of them waits for ever where the machine is one.
const LEFT_OUT: &str = "*VSOCK*";

/// Nobody is to be asked for names, where nobody would answer. Names of files are short: paths of Unix sockets have a limit.
const SCRIPT: &str = "
dir=$PWD
echo nameserver 127.0.0.1 >resolv.conf
mount --bind resolv.conf /etc/resolv.conf
mkdir /run/t
cd /run/t
env -i PATH=\"$PATH\" LC_ALL=C.UTF-8 HOME=/run/t TMPDIR=/run/t /usr/bin/python3 -m test -u network --timeout 300 \\
    --junit-xml /run/t/outcomes.xml -i 'LEFT_OUT' --matchfile \"$dir/matching\" MODULE || true
cp outcomes.xml \"$dir\"
";

#[test]
fn pythons_tests_pass_as_on_a_plain_host() {
    let plain = Host::with("suites-plain").port_range("32768 57343").unprepared().build();
    let host = Host::with("suites-python").judged("require").build();
    let container = host.bare("python", &["--open-ports", "all"]);
    let sides = [Side { host: &plain, ns: &plain.ns }, Side { host: &host, ns: &container.ns }];
    let modules = QUICK.iter().chain(if long() { &SLOW[..] } else { &[] });
    let differing: Vec<String> = modules.flat_map(|(module, least)| compare(&sides, module, *least)).collect();
    assert!(differing.is_empty(), "these pass in one place alone:\n{}", differing.join("\n"));
}

/// Where tests run.
struct Side<'a> {
    host: &'a Host,
    ns: &'a Ns,
}

/// Whether a test passed; one that is skipped did not.
type Outcomes = BTreeMap<String, bool>;

/// Runs a module on both sides, and returns the tests that pass on one of them alone, however often they are tried.
fn compare(sides: &[Side<'_>; 2], module: &str, least: usize) -> Vec<String> {
    let everything = BTreeSet::from(["*".to_owned()]);
    let (plain, inside) = race::both(|| sides[0].run(module, &everything, 0), || sides[1].run(module, &everything, 0));
    let passed = |outcomes: &Outcomes| outcomes.values().filter(|passed| **passed).count();
    println!("{module}: {} of {} pass, inside {} of {}", passed(&plain), plain.len(), passed(&inside), inside.len());
    let mut differing = differing(&plain, &inside, plain.keys().chain(inside.keys()));
    for again in 1..=AGAIN {
        if differing.is_empty() {
            break;
        }
        println!("{module}: once more: {differing:?}");
        let patterns = differing.iter().map(|test| pattern(test)).collect();
        let [plain, inside] = sides.each_ref().map(|side| side.run(module, &patterns, again));
        differing = self::differing(&plain, &inside, differing.iter());
    }
    assert!(passed(&plain) >= least, "{module}: only {} of {} pass on a plain host", passed(&plain), plain.len());
    differing.into_iter().collect()
}

fn differing<'a>(plain: &Outcomes, inside: &Outcomes, tests: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
    let passed = |outcomes: &Outcomes, test: &String| outcomes.get(test).copied().unwrap_or(false);
    tests.filter(|test| passed(plain, test) != passed(inside, test)).cloned().collect()
}

/// What picks a test by name: a class that could not be set up stands for all of its own.
fn pattern(test: &str) -> String {
    match test.strip_prefix("setUpClass (") {
        Some(class) => format!("{}.*", class.trim_end_matches(')')),
        None => test.to_owned(),
    }
}

impl Side<'_> {
    fn run(&self, module: &str, matching: &BTreeSet<String>, round: usize) -> Outcomes {
        let name = format!("{module}-{round}");
        let dir = Program::directory(self.host, &name);
        let lines: String = matching.iter().map(|pattern| format!("{pattern}\n")).collect();
        fs::write(dir.join("matching"), lines).expect("patterns");
        let script = SCRIPT.replace("LEFT_OUT", LEFT_OUT).replace("MODULE", module);
        let mut program = Program::start(self.host, self.ns, &name, &script);
        assert!(program.ended(LIMIT), "{module} in {} still ran after {LIMIT:?}:\n{}", self.ns.name, program.said());
        let found = fs::read_to_string(dir.join("outcomes.xml")).map(|xml| outcomes(&xml)).unwrap_or_default();
        if round > 0 || found.is_empty() {
            println!("{module} in {}:\n{}", self.ns.name, program.said());
        }
        found
    }
}

/// What came of the tests in a report as JUnit's: `<testcase name="NAME" ...>` has an element in it unless the test passed. Several
/// reports of one test are those of its parts.
fn outcomes(xml: &str) -> Outcomes {
    let mut found = Outcomes::new();
    for case in xml.split("<testcase ").skip(1) {
        let attribute = case.split_once("name=\"").and_then(|(_, rest)| rest.split_once('"'));
        let Some((name, _)) = attribute else { continue };
        let whole = if name.starts_with("setUpClass") { name } else { name.split(" (").next().unwrap_or(name) };
        let passed = case.split_once('>').is_some_and(|(attributes, _)| attributes.ends_with('/'));
        *found.entry(whole.to_owned()).or_insert(true) &= passed;
    }
    found
}
