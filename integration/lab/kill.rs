//! Commands that are killed, or refused a system call, at a step of the test's choice, by way of strace.

use super::host::{Host, binary};
use super::run::Output;
use super::some;
use std::ffi::OsString;

/// The system calls that change something, and how many of each kind are left out between two kills.
pub type Steps = [(&'static str, usize)];

/// Runs a command under strace, which does `inject` to its system calls of a kind.
pub fn injected(host: &Host, call: &str, inject: &str, argv: &[&str], input: &str) -> Output {
    let program = binary(argv[0].as_ref());
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{inject}"));
    let strace = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", &trace, "-e", &inject].map(OsString::from);
    let rest = argv[1..].iter().map(OsString::from);
    host.fed(&strace.into_iter().chain([program.into()]).chain(rest).collect::<Vec<_>>(), input)
}

/// Runs a command that is killed when it makes its nth system call of a kind; false when it ended before that by itself.
/// The signal comes when the call is entered, so the call itself is not made.
pub fn killed(host: &Host, call: &str, n: usize, argv: &[&str], input: &str) -> bool {
    let out = injected(host, call, &format!("signal=SIGKILL:when={n}"), argv, input);
    assert!(matches!(out.code, None | Some(0)), "{argv:?}, killed at {call} {n}: {out}");
    out.code.is_none()
}

/// Kills `run` at every step and calls `then` after each time, until it ends by itself; where time is short at every fifth one,
/// beginning anywhere. Returns how many steps it has.
pub fn at_every_step(
    steps: &Steps,
    mut run: impl FnMut(&str, usize) -> bool,
    mut then: impl FnMut(&str, usize),
) -> usize {
    let (mut kills, mut found) = (0, 0);
    for (call, stride) in steps {
        let (first, stride) = some(*stride, 5 * stride);
        let mut last = 0;
        for n in (1 + first..).step_by(stride) {
            let died = run(call, n);
            then(&format!("killed at {call} {n}"), kills);
            if !died {
                break;
            }
            (kills, last) = (kills + 1, n);
            // setup looks at every BPF object of the machine, and others make theirs
            assert!(n < 5000, "{call} never ends");
        }
        found += last;
    }
    println!("killed {kills} times");
    found
}
