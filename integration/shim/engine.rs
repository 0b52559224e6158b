//! What holds in every engine that calls the shim: the engine is told of a program that notes each bundle before and behind the
//! shim, and is asked for containers as a person would.

use super::difference::unintended;
use super::*;
use crate::lab::run::Output;
use crate::serve::client::Server;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A host whose engines call the shim, with what they are told to call.
pub struct Shimmed {
    pub host: Host,
    /// The program for the engine's configuration.
    pub runtime: PathBuf,
}

/// Notes the bundle, and hands on to the shim, which has to be told where everything is: engines call with their own environment,
/// or with none.
const BEFORE: &str = r#"#!/bin/sh
before= bundle=. creates=
for word; do
    [ "$before" != --bundle ] || bundle=$word
    case $word in --bundle=*) bundle=${word#--bundle=};; create | run) creates=1;; esac
    before=$word
done
[ -z "$creates" ] || /bin/cp "$bundle/config.json" DIR/before.json
exec SHIM --portslice-config=CONFIG --portslice-state-dir=STATE "$@"
"#;

/// Stands in the place of the runtime.
const BEHIND: &str = r#"#!/bin/sh
before= bundle=. creates=
for word; do
    [ "$before" != --bundle ] || bundle=$word
    case $word in
        --bundle=*) bundle=${word#--bundle=} ;;
        --portslice*) exit 99 ;;
        create | run) creates=1 ;;
    esac
    before=$word
done
[ -z "$creates" ] || /bin/cp "$bundle/config.json" DIR/behind.json
exec PROGRAM "$@"
"#;

impl Shimmed {
    /// On this host. The shim becomes `program`, a runtime.
    pub fn on(host: Host, program: &str, more: &str) -> Shimmed {
        let (runtime, behind) = (host.dir.join("before"), host.dir.join("behind"));
        configure(&host, &behind.to_string_lossy(), more);
        let shim = host::binary("portslice-runtime".as_ref());
        for (path, text) in [(&runtime, BEFORE), (&behind, BEHIND)] {
            let text = text.replace("DIR", &host.dir.to_string_lossy()).replace("SHIM", &shim.to_string_lossy());
            let text = text.replace("CONFIG", &host.config_file().to_string_lossy());
            let text = text.replace("STATE", &host.state_dir().to_string_lossy()).replace("PROGRAM", &path_of(program));
            fs::write(path, text).expect("script");
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("script");
        }
        Shimmed { host, runtime }
    }

    /// Of the bundle that was created last, nothing differs behind the shim that is not meant to.
    #[track_caller]
    pub fn assert_bundle(&self, what: &str) {
        let read = |name: &str| fs::read(self.host.dir.join(name)).unwrap_or_else(|e| panic!("{what}: {name}: {e}"));
        let (before, behind) = (read("before.json"), read("behind.json"));
        if let Some(kept) = std::env::var_os("PORTSLICE_BUNDLES").map(PathBuf::from) {
            fs::write(kept.join(what.replace([' ', ','], "-") + ".json"), &before).expect("PORTSLICE_BUNDLES");
        }
        assert_ne!(before, behind, "{what}: it was not edited");
        assert_eq!(unintended(&before, &behind), [""; 0], "{what}");
    }
}

/// What the first program of a container was given: whatever `exec` starts gets its environment from the engine.
pub const FIRST: &str = "busybox tr '\\0' '\\n' </proc/1/environ; echo RANGE=$(cat /proc/sys/net/ipv4/ip_local_port_range); \
                         cat /etc/resolv.conf";

/// Starts a container: its name, what it asks for (`ports`, `31000`), further options of the engine, a line of shell.
type Start<'a> = dyn Fn(&str, &[(&str, &str)], &[&str], &str) -> Output + 'a;

/// How an engine is asked.
pub struct Asked<'a> {
    /// Starts a container.
    pub start: &'a Start<'a>,
    /// Runs a line of shell in it.
    pub exec: &'a dyn Fn(&str, &str) -> Output,
    /// Its first process.
    pub pid: &'a dyn Fn(&str) -> u32,
    /// Ends it and removes it.
    pub remove: &'a dyn Fn(&str),
    /// Options with which no container starts.
    pub failing: &'a [&'a str],
}

/// The lease of the container with this first process.
#[track_caller]
pub fn lease_of(what: &str, host: &Host, pid: u32) -> Value {
    let all = host.list();
    let found = all.iter().find(|lease| lease["pid"] == pid).cloned();
    found.unwrap_or_else(|| panic!("{what}: no lease of process {pid} in {all:?}; log:\n{}", log(host)))
}

/// People find what has this name in each place where they look. Docker tells a name if there is a hostname, ctr an id that
/// ends with it.
#[track_caller]
pub fn assert_known(what: &str, host: &Host, name: &str) {
    for command in ["list", "stats"] {
        let told = host.portslice([command]).ok().stdout;
        assert!(told.split_whitespace().any(|word| word.ends_with(name)), "{what}: {command} has no {name}:\n{told}");
    }
    let server = Server::start(host, &["--listen", "127.0.0.1:0"]);
    let page = server.ask("/metrics").body;
    server.end();
    for family in ["container_network_receive_packets_total{", "container_memory_usage_bytes{"] {
        let mut all = page.lines().filter(|line| line.starts_with(family));
        assert!(all.any(|line| line.contains(&format!("{name}\""))), "{what}: {family} has no {name}:\n{page}");
    }
}

/// Two containers are served, connect, know what they have, and are gone when they are removed or killed.
pub fn two_containers(what: &str, shimmed: &Shimmed, engine: &Asked<'_>) {
    let host = &shimmed.host;
    let _server = dns::by_the_peer(host);
    for (name, ports) in [("web1", "31000-31001"), ("web2", "31010-31011")] {
        (engine.start)(name, &[("ports", ports), ("cpus", "0.5")], &[], "exec sleep 1000").ok();
        shimmed.assert_bundle(&format!("{what}, {name}"));
    }
    for (name, port) in [("web1", 31_000), ("web2", 31_010)] {
        let what = format!("{what}, {name}");
        let pid = (engine.pid)(name);
        let lease = lease_of(&what, host, pid);
        assert_works(&what, host, pid, port, &lease);
        let said = (engine.exec)(name, FIRST).ok().stdout;
        assert_told(&what, host, &said, &[port, port + 1], &block_of(&lease));
        let mut resolved = String::new();
        let done = eventually(|| {
            // ctr loses what a program says now and then
            resolved = (engine.exec)(name, dns::ASK).ok().stdout;
            resolved.contains(&dns::ANSWER.to_string())
        });
        assert!(done, "{what}: {resolved}");
        assert_known(&what, host, name);
    }
    (engine.remove)("web1");
    assert!(eventually(|| host.ids().len() == 1), "{what}: one is removed: {:?}", host.ids());
    let pid = (engine.pid)("web2");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL).expect("kill");
    (engine.remove)("web2");
    assert_gone(what, host);
    let out = (engine.start)("failed", &[("ports", "31020")], engine.failing, "true");
    assert_ne!(out.code, Some(0), "{what}: {out}");
    (engine.remove)("failed");
    // crun calls no poststop; the process is gone, and with it the lease.
    host.portslice(["gc"]).ok();
    assert_gone(&format!("{what}, what failed"), host);
}

/// What stands in the way is said once in the engine's own words to the user, and nothing is left.
pub fn refusals(what: &str, shimmed: &Shimmed, engine: &Asked<'_>) {
    let host = &shimmed.host;
    let _holder = host.bare("holder", &["--ports", "31100"]);
    let _process = Echo::start(&host.ns, Proto::Tcp, SocketAddr::new(HOST4, 31_200));
    for (name, key, value, says) in [
        ("misspelt", "egress-rate", "1000", "egress-rate: "),
        ("leased", "ports", "31100", "port 31100 is leased to container holder: ask for another port"),
        ("process", "ports", "31200", "port 31200 is in use by process"),
        ("full", "ephemeral-ports", "16384", "has no free block of 16384 ports"),
    ] {
        let what = format!("{what}, {name}");
        let out = (engine.start)(name, &[(key, value)], &[], "sleep 1000");
        assert!(out.code.is_some_and(|code| code != 0), "{what}: {out}");
        let said = out.stderr.matches("portslice-runtime: ").count();
        assert!(said == 1 && out.stderr.contains(says), "{what}: should say {says:?} once: {out}");
        assert_eq!(host.ids(), ["holder"], "{what}; log:\n{}", log(host));
        (engine.remove)(name);
    }
}

/// Runs the commands of a page as they stand there, but for where the shim is; `altered` may say more. Returns what they said.
pub fn run_page(
    shimmed: &Shimmed,
    page: &str,
    env: &[(&str, String)],
    altered: impl Fn(&str) -> String,
    after: impl Fn(usize),
) {
    let host = &shimmed.host;
    let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let programs = host::binary("portslice".as_ref()).parent().expect("a directory").display().to_string();
    for (n, block) in blocks.enumerate() {
        let block = altered(&block.replace("/usr/bin/portslice-runtime", &shimmed.runtime.to_string_lossy()));
        let mut command = host.command(["sh", "-e", "-c", &block]);
        command.envs(env.iter().map(|(key, value)| (key, value)));
        command.env("PATH", format!("{programs}:/usr/sbin:/usr/bin:/sbin:/bin"));
        run::run(&mut command, host::COMMAND_LIMIT).ok();
        after(n);
    }
}
