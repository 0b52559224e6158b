//! What the shim costs, beside the runtime called directly, both in turn: a create with the same hooks, and a command that is
//! handed on.

use super::*;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Enough to judge by, where there is time for it; otherwise the two are only called.
fn rounds() -> usize {
    if long() { 25 } else { 3 }
}
/// Timings on a busy machine miss a limit now and then; a real regression misses it every time.
const SERIES: usize = 6;

/// Binaries without optimization are not what anybody runs: they are measured only in so far as they work.
fn optimized() -> bool {
    let size = std::fs::metadata(host::binary("portslice-runtime".as_ref())).expect("the shim").len();
    if size > 16 << 20 {
        println!("not judged: the shim has {} MB, so it is no release build", size >> 20);
    }
    size <= 16 << 20
}

/// How long a command takes whose container keeps the standard streams.
fn timed(runtime: &Runtime<'_>, args: &[&str]) -> Duration {
    let mut command = runtime.command(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    let status = command.status().expect("a runtime");
    let took = begun.elapsed();
    assert!(status.success(), "{args:?}: {status}");
    took
}

fn lower_quartile(mut all: Vec<Duration>) -> f64 {
    all.sort();
    all[all.len() / 4].as_secs_f64() * 1e3
}

/// Measures in turn until the limit is met, and says what was found.
fn assert_within(what: &str, within: impl Fn(f64, f64) -> bool, mut turn: impl FnMut() -> (Duration, Duration)) {
    let mut said = Vec::new();
    for _ in 0..SERIES {
        let (direct, shim): (Vec<_>, Vec<_>) = (0..rounds()).map(|_| turn()).unzip();
        let (direct, shim) = (lower_quartile(direct), lower_quartile(shim));
        let line = format!("{what}: {direct:.2} ms directly, {shim:.2} ms by the shim");
        println!("{line}");
        said.push(line);
        if within(direct, shim) || !long() || !optimized() {
            return;
        }
    }
    panic!("{}", said.join("\n"));
}

#[test]
fn commands_that_are_handed_on_take_hardly_longer() {
    let host = host("shim-handed-on", "runc", "");
    let (shim, root) = (host.runtime("portslice-runtime"), host.dir.join("direct"));
    let runc = host.runtime_at(&path_of("runc"), &root);
    assert_within("list", |direct, shim| shim <= direct + 0.8, || (timed(&runc, &["list"]), timed(&shim, &["list"])));
}

#[test]
fn a_create_takes_hardly_longer_than_with_the_hooks_alone() {
    let host = host("shim-create", "runc", "");
    let (shim, root) = (host.runtime("portslice-runtime"), host.dir.join("direct"));
    let runc = host.runtime_at(&path_of("runc"), &root);
    let asking = |name: &str| Bundle::new(&host, name, &["sleep", "1000"]).annotation("portslice/ports", "auto:2");
    let hooked = asking("hooked").hook("createRuntime", "portslice-prestart").hook("poststop", "portslice-poststop");
    let plain = asking("plain");
    let create = |runtime: &Runtime<'_>, bundle: &Bundle| {
        std::fs::write(bundle.dir.join("config.json"), serde_json::to_vec_pretty(&bundle.config).unwrap()).unwrap();
        let took = timed(runtime, &["create", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id]);
        timed(runtime, &["delete", "--force", &bundle.id]);
        took
    };
    assert_within("create", |direct, shim| shim <= direct * 1.15, || (create(&runc, &hooked), create(&shim, &plain)));
    assert_gone("afterwards", &host);
}
