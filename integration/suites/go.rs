//! Go's own tests of its packages `net` and `net/http`, as its package has them in source.

use super::compare::{Chosen, Outcomes, Side, Sides, Suite};
use super::*;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How long building or running the tests of one package may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Tests that need the Internet are not among the short ones.
const SCRIPT: &str = "
echo nameserver 127.0.0.1 >resolv.conf
mount --bind resolv.conf /etc/resolv.conf
cd \"$(/usr/bin/go env GOROOT)/src/PACKAGE\"
exec env -i PATH=\"$PATH\" HOME=/run TMPDIR=/run TESTS -test.v -test.short -test.timeout 250s -test.run 'CHOSEN'";

#[test]
fn tests_of_go_pass_as_on_a_plain_host() {
    let sides = Sides::new("suites-go");
    for (package, least) in [("net", 150), ("net/http", 400)] {
        if package == "net" || long() {
            let tests = sides.made(|dir| build(dir, package));
            let run = |side: &Side<'_>, chosen: Chosen<'_>, round| run(side, (package, &tests), chosen, round);
            sides.compare(&Suite { name: package, least, run: &run });
        }
    }
}

/// Builds the tests of a package; nothing is downloaded for that.
fn build(dir: &Path, package: &str) -> PathBuf {
    let tests = dir.join(package.replace('/', "-") + ".test");
    let mut command = Command::new("/usr/bin/go");
    command.args(["test", "-c", "-o"]).arg(&tests).arg(package).env_clear().current_dir(dir);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", dir);
    command.envs([("CGO_ENABLED", "0"), ("GOPROXY", "off"), ("GOTOOLCHAIN", "local"), ("GO111MODULE", "off")]);
    run::run(&mut command, LIMIT).ok();
    tests
}

fn run(side: &Side<'_>, (package, tests): (&str, &Path), chosen: Chosen<'_>, round: usize) -> Outcomes {
    let chosen = chosen.map_or_else(String::new, |names| {
        format!("^({})$", names.iter().map(String::as_str).collect::<Vec<_>>().join("|"))
    });
    let script =
        SCRIPT.replace("PACKAGE", package).replace("TESTS", &tests.to_string_lossy()).replace("CHOSEN", &chosen);
    let name = format!("{}-{round}", package.replace('/', "-"));
    let mut program = Program::start(side.host, side.ns, &name, &script);
    assert!(program.ended(LIMIT), "{package} in {} still ran after {LIMIT:?}:\n{}", side.ns.name, program.said());
    let said = program.said();
    if !chosen.is_empty() {
        println!("{package} in {}:\n{said}", side.ns.name);
    }
    outcomes(&said)
}

/// What came of the tests, by lines like `--- PASS: TestListen (0.01s)`; those of parts of a test are further in.
fn outcomes(said: &str) -> Outcomes {
    let lines = said.lines().filter_map(|line| line.strip_prefix("--- ")?.split_once(": "));
    let named = lines.filter_map(|(outcome, rest)| Some((rest.split(' ').next()?.to_owned(), outcome == "PASS")));
    named.collect()
}

#[test]
fn what_go_says_tells_what_passed() {
    let said = "=== RUN   TestA\n--- PASS: TestA (0.00s)\n    --- FAIL: TestA/part (0.00s)\n--- SKIP: TestB (0.00s)\n--- FAIL: TestC (1s)\nFAIL\n";
    let found: Vec<(String, bool)> = outcomes(said).into_iter().collect();
    assert_eq!(
        found,
        [("TestA", true), ("TestB", false), ("TestC", false)].map(|(name, passed)| (name.to_owned(), passed))
    );
}
