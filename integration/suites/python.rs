//! CPython's own tests of sockets, and of what is built on them.

use super::compare::{Chosen, Outcomes, Side, Sides, Suite};
use super::*;
use std::fs;

/// Modules of tests, and how many of each pass at least, wherever they run.
const QUICK: [(&str, usize); 3] = [("test_socketserver", 20), ("test_httpservers", 50), ("test_socket", 400)];
const SLOW: [(&str, usize); 3] = [("test_ftplib", 80), ("test_ssl", 120), ("test_asyncio", 1500)];

/// How long one run of a module may take.
const LIMIT: Duration = Duration::from_secs(1200);

/// Sockets of virtual machines are of no network namespace, and the test of them waits for ever where the machine is one.
const LEFT_OUT: &str = "*VSOCK*";

/// No server of names is asked, as none would answer. Names of files are short: paths of Unix sockets have a limit.
const SCRIPT: &str = "
dir=$PWD
echo nameserver 127.0.0.1 >resolv.conf
mount --bind resolv.conf /etc/resolv.conf
mkdir /run/t
cd /run/t
env -i PATH=\"$PATH\" LC_ALL=C.UTF-8 HOME=/run/t TMPDIR=/run/t /usr/bin/python3 -m test -u network --timeout 400 \\
    --junit-xml /run/t/outcomes.xml -i 'LEFT_OUT' --matchfile \"$dir/matching\" MODULE || true
cp outcomes.xml \"$dir\"
";

#[test]
fn tests_of_python_pass_as_on_a_plain_host() {
    let sides = Sides::new("suites-python");
    for (module, least) in QUICK.iter().chain(if long() { &SLOW[..] } else { &[] }) {
        let run = |side: &Side<'_>, chosen: Chosen<'_>, round| run(side, module, chosen, round);
        sides.compare(&Suite { name: module, least: *least, run: &run });
    }
}

fn run(side: &Side<'_>, module: &str, chosen: Chosen<'_>, round: usize) -> Outcomes {
    let name = format!("{module}-{round}");
    let dir = Program::directory(side.host, &name);
    let patterns = chosen.map_or_else(|| "*\n".to_owned(), |tests| tests.iter().map(|test| pattern(test)).collect());
    fs::write(dir.join("matching"), patterns).expect("patterns");
    let script = SCRIPT.replace("LEFT_OUT", LEFT_OUT).replace("MODULE", module);
    let mut program = Program::start(side.host, side.ns, &name, &script);
    assert!(program.ended(LIMIT), "{module} in {} still ran after {LIMIT:?}:\n{}", side.ns.name, program.said());
    let found = fs::read_to_string(dir.join("outcomes.xml")).map(|xml| outcomes(&xml)).unwrap_or_default();
    if chosen.is_some() || found.is_empty() {
        println!("{module} in {}:\n{}", side.ns.name, program.said());
    }
    found
}

/// A line that picks a test by its name: a class that could not be set up stands for all of its own.
fn pattern(test: &str) -> String {
    match test.strip_prefix("setUpClass (") {
        Some(class) => format!("{}.*\n", class.trim_end_matches(')')),
        None => format!("{test}\n"),
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

#[test]
fn a_report_tells_what_passed() {
    let xml = r#"<testsuites tests="5"><testcase name="t.A.one" time="1" /><testcase name="t.A.two" time="1"><skipped>x
        </skipped></testcase><testcase name="t.A.three (n=1)"><failure>x</failure></testcase><testcase name="t.A.three (n=2)" />
        <testcase name="setUpClass (t.B)"><error/></testcase></testsuites>"#;
    let found: Vec<(String, bool)> = outcomes(xml).into_iter().collect();
    let wanted = [("setUpClass (t.B)", false), ("t.A.one", true), ("t.A.three", false), ("t.A.two", false)];
    assert_eq!(found, wanted.map(|(name, passed)| (name.to_owned(), passed)));
    assert_eq!(pattern("setUpClass (t.B)"), "t.B.*\n");
}
