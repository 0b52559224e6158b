//! Promise: what cannot be granted is refused with the right exit code and one line that says what to do; nothing changes.

mod asked;
mod disk;
mod exhausted;
mod ports;
mod rootless;
mod taken;
mod uplink;

use crate::lab::run::Output;
use crate::lab::still::assert_bare;
use crate::lab::*;

/// Asserts the exit code and that the one line on stderr says all of `says`.
#[track_caller]
fn refused(what: &str, out: &Output, code: i32, says: &[&str]) {
    assert!(out.code == Some(code), "{what}: should exit {code}: {out}");
    assert!(out.stderr.lines().count() == 1, "{what}: should say one line on stderr: {out}");
    for text in says {
        assert!(out.stderr.contains(text), "{what}: should say {text:?}: {out}");
    }
    assert!(out.stderr.len() < 1200, "{what}: {} bytes are no line for an operator: {out}", out.stderr.len());
    assert!(out.stdout.is_empty(), "{what}: said something on stdout: {out}");
}

/// `attach x --pid HOLDER args...` of a spare namespace, which stays as it was.
#[track_caller]
fn attach_refused(host: &Host, spare: &Ns, what: &str, args: &[&str], code: i32, says: &[&str]) {
    let pid = spare.pid().to_string();
    let out = host.portslice([&["attach", "refused", "--pid", &pid], args].concat());
    refused(what, &out, code, says);
    assert_bare(what, spare);
}

fn spare() -> Ns {
    Ns::net_only("a namespace to be refused")
}
