//! Promise: what cannot be granted is refused with the right exit code and one line that says what to do; nothing changes.

use crate::lab::probe::assert_reaches;
use crate::lab::run::Output;
use crate::lab::still::{Still, assert_bare, devices, released};
use crate::lab::wait::eventually;
use crate::lab::*;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

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

// ---- exhaustion

/// A pool, the size every container asks for, how many fit, and what the refusal of one more says.
type Full = (&'static str, &'static str, u32, usize, &'static [&'static str]);

fn fills_up((pool, host_range, size, fit, says): Full, name: &str) {
    let config = format!("ephemeral_ports = \"{pool}\"\nephemeral_ports_per_container = {size}\nports = \"\"\n");
    let host = Host::with(name).config(&config).port_range(host_range).build();
    let held: Vec<Container> = (1..=fit).map(|n| host.bare(&format!("c{n}"), &[])).collect();
    let mut blocks: Vec<_> = held.iter().map(|c| c.block.clone()).collect();
    blocks.sort_by_key(|b| *b.start());
    for pair in blocks.windows(2) {
        assert!(pair[0].end() < pair[1].start(), "{pool}: blocks {:?} and {:?} overlap", pair[0], pair[1]);
    }
    for block in &blocks {
        assert_eq!((block.len(), u32::from(*block.start()) % size), (size as usize, 0), "{pool}: block {block:?}");
    }
    let still = Still::of(&host);
    attach_refused(&host, &spare(), &format!("one more than {pool} holds"), &[], 3, &[&[pool, "c1"], says].concat());
    still.check_all("after the refusal");
    held[0].detach();
    assert_eq!(host.bare("again", &[]).block, held[0].block, "the only block that became free");
}

#[test]
fn the_25th_container_of_the_example() {
    fills_up(("32768-57344", "57345 60999", 1024, 24, &["1024", "24"]), "refuse-25th");
}

#[test]
fn small_blocks_run_out() {
    fills_up(("32768-33023", "57344 60999", 16, 16, &["16 ports", "holds 16"]), "refuse-small");
}

#[test]
fn sixteen_ports_carry_a_hundred_connections() {
    let host = Host::new("small-block");
    let small = host.bare("small", &["--ephemeral-ports", "16"]);
    let echo = Echo::start(&host.peer, Proto::Tcp, SocketAddr::new(PEER4, 20_000));
    for n in 0..100 {
        let local = assert_reaches(&format!("connection {n} out of a block of 16"), &small.ns, Proto::Tcp, echo.at);
        assert!(small.block.contains(&local.port()), "connection {n} came from {local}");
        // a closed connection's port is free again after a moment, not after a minute
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_largest_blocks_run_out() {
    fills_up(("16384-65535", "10000 16383", 16384, 3, &["16384", "holds 3", "c3"]), "refuse-large");
}

#[test]
fn what_would_fit_is_said() {
    let host = Host::new("refuse-fits");
    let _large = host.bare("large", &["--ephemeral-ports", "16384"]);
    let still = Still::of(&host);
    let args = ["--ephemeral-ports", "16384"];
    attach_refused(&host, &spare(), "a second block of 16384", &args, 3, &["large", "8192 would fit"]);
    still.check_all("after the refusal");
    host.bare("fits", &["--ephemeral-ports", "8192"]);
}

#[test]
fn assignable_ports_run_out() {
    let host = Host::with("refuse-auto").config("ports = \"31000-31003\"\n").build();
    let _three = host.bare("three", &["--ports", "auto:3"]);
    let still = Still::of(&host);
    attach_refused(&host, &spare(), "two of one left", &["--ports", "auto:2"], 3, &["31000-31003", "auto:2", "1"]);
    still.check_all("after the refusal");
}

// ---- the pool and the host's own ports

#[test]
fn a_pool_in_the_hosts_ephemeral_range() {
    let host = Host::with("refuse-overlap").port_range("32768 60999").unprepared().build();
    let still = Still::of(&host);
    let spare = spare();
    let says = ["32768-57343", "32768-60999", "portslice setup"];
    attach_refused(&host, &spare, "an unreserved pool", &[], 5, &says);
    refused("an unreserved pool, by hook", &host.prestart("x", spare.pid(), &[]), 5, &says);
    still.check_all("after the refusal");
    assert!(!host.state_dir().exists(), "a refusal on a host that was never prepared made {:?}", host.state_dir());
    host.portslice(["setup"]).ok();
    host.bare("after-setup", &[]);
    // the host's own connections avoid what is reserved
    let echo = Echo::start(&host.peer, Proto::Udp, SocketAddr::new(PEER4, 20_000));
    for _ in 0..50 {
        let local = assert_reaches("the host's own", &host.ns, Proto::Udp, echo.at);
        assert!(!(32768..=57343).contains(&local.port()), "the host's own connection came from {local}");
    }
}

#[test]
fn a_reservation_taken_back_is_noticed() {
    let host = Host::with("refuse-unreserved").port_range("32768 60999").build();
    let reserved = host.ns.sysctl("ipv4.ip_local_reserved_ports");
    host.ns.set_sysctl("ipv4.ip_local_reserved_ports", "\n");
    let still = Still::of(&host);
    attach_refused(&host, &spare(), "a pool no longer reserved", &[], 5, &["portslice setup"]);
    still.check_all("after the refusal");
    host.ns.set_sysctl("ipv4.ip_local_reserved_ports", &reserved);
}

/// What a config file must not say, and what is said about it.
const BAD_CONFIGS: [(&str, &str, &[&str]); 19] = [
    ("ports in the pool", "ports = \"40000-40009\"", &["ports", "40000-40009", "ephemeral_ports"]),
    ("a pool below 1024", "ephemeral_ports = \"1000-2047\"", &["ephemeral_ports", "1024"]),
    ("an empty pool", "ephemeral_ports = \"\"", &["ephemeral_ports"]),
    ("a pool beyond 65535", "ephemeral_ports = \"60000-70000\"", &["ephemeral_ports", "65535"]),
    ("a range that ends before it begins", "ephemeral_ports = \"40000-39000\"", &["ephemeral_ports", "40000"]),
    ("no power of two", "ephemeral_ports_per_container = 1000", &["ephemeral_ports_per_container", "power of two"]),
    ("too small a block", "ephemeral_ports_per_container = 8", &["ephemeral_ports_per_container", "16"]),
    ("too large a block", "ephemeral_ports_per_container = 32768", &["ephemeral_ports_per_container", "16384"]),
    ("a pool without a block", "ephemeral_ports = \"32768-33000\"", &["32768-33000", "1024", "128"]),
    ("an unknown key", "port = \"31000\"", &["port", "did you mean ports"]),
    ("a key twice", "ports = \"31000\"\nports = \"31001\"", &["line 2", "ports"]),
    ("a number for a set", "ports = 31000", &["ports", "31000-31009"]),
    ("a string for a flag", "host_loopback = \"true\"", &["host_loopback"]),
    ("a relative directory", "state_dir = \"run/portslice\"", &["state_dir", "absolute"]),
    ("a cooldown without a unit", "block_cooldown = \"60\"", &["block_cooldown"]),
    ("a bare rate", "egress_rate_limit_per_container = \"1000\"", &["egress_rate_limit_per_container"]),
    ("no TOML", "ports: 31000", &["line 1", "TOML"]),
    ("control characters", "\u{1b}[2J\u{0}\u{7} = 1", &["line 1"]),
    ("a long line", "LONG", &["line 1"]),
];

#[test]
fn a_config_that_cannot_be_meant() {
    let host = Host::with("refuse-config").unprepared().build();
    let good = std::fs::read_to_string(host.config_file()).expect("config");
    let spare = spare();
    let nested = format!("ports = {}", "[".repeat(200_000));
    let long = format!("{} = 1", "a".repeat(4 << 20));
    for (what, text, says) in BAD_CONFIGS.into_iter().chain([("deep nesting", nested.as_str(), &["line 1"] as &[&str])])
    {
        std::fs::write(host.config_file(), if text == "LONG" { &long } else { text }).expect("config");
        for out in [
            host.portslice(["list"]),
            host.portslice(["attach", "x", "--pid", &spare.pid().to_string()]),
            host.prestart("x", spare.pid(), &[]),
            host.poststop("x"),
        ] {
            refused(&format!("{what}, `{}`", out.line), &out, 2, says);
            assert!(!out.stderr.contains('\u{1b}'), "{what}: escape characters on the terminal: {out}");
        }
    }
    std::fs::write(host.config_file(), good).expect("config");
    assert!(!host.state_dir().exists(), "a refused config made {:?}", host.state_dir());
    assert_bare("after all", &spare);
}

#[test]
fn a_config_file_that_is_named_must_be_there() {
    let host = Host::with("refuse-no-config").unprepared().build();
    let out = host.portslice(["--config", "/nonexistent/portslice.toml", "list"]);
    refused("a missing config file", &out, 1, &["/nonexistent/portslice.toml"]);
}

// ---- ports in use

/// A socket of the host that holds `port`; connected ones talk to the peer.
fn hold(host: &Host, proto: Proto, by: IpAddr, port: u16, connected: bool) -> OwnedFd {
    host.inside(|| {
        let fd = probe::open(proto, by).expect("socket");
        sock::bind(&fd, SocketAddr::new(if connected { by } else { probe::any(by) }, port)).expect("bind");
        match (connected, proto.connects()) {
            (true, _) => {
                let peer = if by.is_ipv4() { PEER4 } else { PEER6 };
                sock::connect(&fd, SocketAddr::new(peer, 20_000)).expect("connect");
            }
            (false, true) => sock::listen(&fd).expect("listen"),
            (false, false) => {}
        }
        fd
    })
}

#[test]
fn a_port_that_a_process_of_the_host_has() {
    let host = Host::new("refuse-process");
    let _servers = [PEER4, PEER6].map(|at| Echo::start(&host.peer, Proto::Tcp, SocketAddr::new(at, 20_000)));
    let own = std::fs::read_to_string("/proc/self/comm").expect("comm");
    let pid = std::process::id().to_string();
    let (still, spare) = (Still::of(&host), spare());
    for proto in probe::BOTH {
        for by in [HOST4, HOST6] {
            for connected in [false, true] {
                let what = format!("31005 held through {proto:?}, {by}, connected: {connected}");
                let held = hold(&host, proto, by, 31_005, connected);
                let says = ["31005", &pid, own.trim_end(), if proto == Proto::Tcp { "TCP" } else { "UDP" }];
                // a child of ours that is about to be another program shares our sockets for a moment
                let named = || {
                    let pid = spare.pid().to_string();
                    let out = host.portslice(["attach", "x", "--pid", &pid, "--ports", "31000-31009"]);
                    says.iter().all(|text| out.stderr.contains(text))
                };
                attach_refused(&host, &spare, &what, &["--ports", "31000-31009"], 4, &says[..1]);
                assert!(eventually(named), "{what}: should say {says:?}");
                // and one that the host picks is another
                let free = host.bare("auto", &["--ports", "auto:10"]);
                assert!(!free.ports.contains(&31_005), "{what}: auto:10 took {:?}", free.ports);
                free.detach();
                free.kill();
                drop(held);
                released(&host.ns, 31_005);
            }
        }
    }
    assert_eq!(host.ids(), [""; 0]);
    let mut files = still::files(&host);
    files.retain(|name, _| name.contains("/leases/"));
    assert!(files.is_empty(), "leases left: {files:?}");
    drop(still);
}

#[test]
fn a_block_in_which_the_host_has_a_socket_is_skipped() {
    let host = Host::with("refuse-block-used").config("ephemeral_ports = \"32768-34815\"\n").build();
    let held = hold(&host, Proto::Udp, HOST4, 33_000, false);
    let one = host.bare("one", &[]);
    assert_eq!(one.block, 33_792..=34_815, "the block without a socket of the host");
    let still = Still::of(&host);
    attach_refused(&host, &spare(), "only a block with a socket is left", &[], 3, &["32768-34815", "one"]);
    still.check_all("after the refusal");
    drop(held);
    released(&host.ns, 33_000);
    assert_eq!(host.bare("two", &[]).block, 32_768..=33_791);
}

#[test]
fn a_port_that_is_leased_or_not_assignable() {
    let host = Host::new("refuse-leased");
    let _one = host.bare("holder-1", &["--ports", "31000-31009,31100"]);
    let (still, spare) = (Still::of(&host), spare());
    let rows: [(&str, i32, &[&str]); 10] = [
        ("31000", 4, &["31000", "holder-1"]),
        ("30999-31000", 2, &["30999"]),
        ("31009-31010", 4, &["31009", "holder-1"]),
        ("31050-31150", 4, &["31100", "holder-1"]),
        ("80", 2, &["80", "31000-31999"]),
        ("32000", 2, &["32000", "31000-31999"]),
        ("33000", 2, &["33000", "32768-57343"]),
        ("31010-31005", 2, &["31010"]),
        ("auto:990", 3, &["auto:990", "989"]),
        ("31200,auto:0", 2, &["auto:0"]),
    ];
    for (ports, code, says) in rows {
        attach_refused(&host, &spare, ports, &["--ports", ports], code, says);
        still.check(ports);
        let out = host.prestart("refused", spare.pid(), &[("portslice/ports", ports)]);
        refused(&format!("{ports} by annotation"), &out, code, says);
        still.check(ports);
    }
    still.check_all("after all refusals");
}

// ---- hostile documents

/// What a hook must never be talked into: what it is, the document, exit code, what is said.
fn documents(pid: u32) -> Vec<(&'static str, Vec<u8>, i32, &'static str)> {
    let with = |annotations: &str| format!("{{\"id\":\"x\",\"pid\":{pid},\"annotations\":{annotations}}}").into_bytes();
    let id = |id: &str| format!("{{\"id\":{id},\"pid\":{pid}}}").into_bytes();
    let pid_is = |pid: &str| format!("{{\"id\":\"x\",\"pid\":{pid}}}").into_bytes();
    let nested = format!("{{\"id\":\"x\",\"pid\":{pid},\"annotations\":{{}},\"x\":{}", "[".repeat(1_000_000));
    let dead = {
        let mut child = std::process::Command::new("true").spawn().expect("true");
        let _ = child.wait();
        child.id()
    };
    vec![
        ("nothing", Vec::new(), 2, "state"),
        ("a space", b" ".to_vec(), 2, "state"),
        ("no object", b"[]".to_vec(), 2, "state"),
        ("binary", (0..=255).cycle().take(100_000).collect(), 2, "state"),
        ("no UTF-8", [b"{\"id\":\"x\xff\",\"pid\":", pid.to_string().as_bytes(), b"}"].concat(), 2, "state"),
        ("8 MB of blanks", vec![b' '; 8 << 20], 2, "state"),
        ("5 MB of annotations", with(&format!("{{\"a\":\"{}\"}}", "x".repeat(5 << 20))), 2, "state"),
        ("a million brackets", nested.into_bytes(), 2, "state"),
        ("cut off", with("{\"portslice/ports\":\"31"), 2, "state"),
        ("something behind it", [with("{}"), b"{}".to_vec()].concat(), 2, "state"),
        ("the id twice", format!("{{\"id\":\"x\",\"id\":\"y\",\"pid\":{pid}}}").into_bytes(), 2, "id"),
        ("no id", format!("{{\"pid\":{pid}}}").into_bytes(), 2, "id"),
        ("a number for an id", id("7"), 2, "state"),
        ("an empty id", id("\"\""), 2, "id"),
        ("a directory above", id("\"..\""), 2, "id"),
        ("this directory", id("\".\""), 2, "id"),
        ("a path", id("\"../../etc/passwd\""), 2, "id"),
        ("a slash", id("\"a/b\""), 2, "id"),
        ("a newline", id("\"a\\nb\""), 2, "id"),
        ("an escape character", id("\"a\\u001b[2Jb\""), 2, "id"),
        ("a zero byte", id("\"a\\u0000b\""), 2, "id"),
        ("256 bytes", id(&format!("\"{}\"", "a".repeat(256))), 2, "id"),
        ("a megabyte of id", id(&format!("\"{}\"", "a".repeat(1 << 20))), 2, "id"),
        ("no pid", b"{\"id\":\"x\"}".to_vec(), 2, "pid"),
        ("a null pid", pid_is("null"), 2, "pid"),
        ("pid 0", pid_is("0"), 2, "pid"),
        ("a negative pid", pid_is("-1"), 2, "pid"),
        ("a pid beyond 32 bits", pid_is("4294967297"), 2, "pid"),
        ("a pid beyond 64 bits", pid_is("18446744073709551617"), 2, "state"),
        ("a string for a pid", pid_is(&format!("\"{pid}\"")), 2, "state"),
        ("a fraction for a pid", pid_is("1.5"), 2, "state"),
        ("a pid that never was", pid_is("4194303"), 6, "4194303"),
        ("a dead process", pid_is(&dead.to_string()), 6, "gone"),
        ("annotations that are a list", with("[]"), 2, "state"),
        ("a number for an annotation", with("{\"portslice/ports\":31000}"), 2, "portslice/ports"),
        ("a list for an annotation", with("{\"portslice/ports\":[\"31000\"]}"), 2, "portslice/ports"),
        ("an unknown key", with("{\"portslice/prots\":\"31000\"}"), 2, "did you mean ports"),
        ("a key without a name", with("{\"portslice/\":\"1\"}"), 2, "unknown key"),
        ("a key in capitals", with("{\"portslice/PORTS\":\"31000\"}"), 2, "did you mean ports"),
        ("a key of control characters", with("{\"portslice/\\u001b[2J\\n\":\"1\"}"), 2, "unknown key"),
        ("a huge key", with(&format!("{{\"portslice/{}\":\"1\"}}", "k".repeat(1 << 20))), 2, "unknown key"),
        ("a huge set", with(&format!("{{\"portslice/ports\":\"{}\"}}", "31000,".repeat(50_000))), 2, "portslice/ports"),
        ("a set of letters", with("{\"portslice/ports\":\"many\"}"), 2, "portslice/ports"),
        ("a set of control characters", with("{\"portslice/ports\":\"\\u001b]0;x\\u0007\\n\"}"), 2, "portslice/ports"),
        ("no power of two", with("{\"portslice/ephemeral-ports\":\"1000\"}"), 2, "portslice/ephemeral-ports"),
        ("a negative size", with("{\"portslice/ephemeral-ports\":\"-1024\"}"), 2, "portslice/ephemeral-ports"),
        ("neither true nor false", with("{\"portslice/host-loopback\":\"yes\"}"), 2, "portslice/host-loopback"),
        ("a bare rate", with("{\"portslice/egress-rate\":\"1000\"}"), 2, "portslice/egress-rate"),
        ("a label with a newline", with("{\"portslice/source\":\"a\\nb\"}"), 2, "portslice/source"),
    ]
}

#[test]
fn hostile_state_documents() {
    let host = Host::new("refuse-hostile");
    let (still, spare) = (Still::of(&host), spare());
    for (what, document, code, says) in documents(spare.pid()) {
        let out = host.hook("portslice-prestart", &document);
        refused(what, &out, code, &["portslice-prestart", says]);
        assert!(!out.stderr.chars().any(|c| c.is_control() && c != '\n'), "{what}: control characters: {out}");
        still.check(what);
    }
    still.check_all("after all documents");
    assert_bare("after all", &spare);
    // poststop takes no pid and no annotations, so only its id can be wrong
    for (what, document, _, _) in documents(spare.pid()).drain(..23) {
        refused(what, &host.hook("portslice-poststop", &document), 2, &["portslice-poststop"]);
    }
    still.check_all("after all documents for poststop");
}

#[test]
fn documents_that_are_odd_but_fine() {
    let host = Host::new("odd-documents");
    let ns = Ns::net_only("odd");
    let pid = ns.pid();
    let annotations: String = (0..20_000).map(|n| format!("\"other/{n}\":\"{n}\",")).collect();
    for document in [
        format!("{{\"id\":\"x\",\"pid\":{pid}}}\n\n"),
        format!("{{\"id\":\"x\",\"pid\":{pid},\"annotations\":null,\"future\":{{\"a\":[1,2.5e300,true]}}}}"),
        format!(
            "{{\"annotations\":{{{annotations}\"portslice/ports\":\" 31000 , 31001 \"}},\"pid\":{pid},\"id\":\"x\"}}"
        ),
        format!("{{\"id\":\"{}\",\"pid\":{pid}}}", "i".repeat(255)),
        format!("{{\"id\":\"...\",\"pid\":{pid}}}"),
    ] {
        host.hook("portslice-prestart", &document).ok();
        let ids = host.ids();
        assert_eq!(ids.len(), 1, "{document:.100}");
        host.poststop(&ids[0]).ok();
        assert_bare(&format!("{document:.100}"), &ns);
    }
}

#[test]
fn the_hosts_own_namespace() {
    let host = Host::new("refuse-own");
    let still = Still::of(&host);
    let pid = host.ns.pid();
    let says = "network namespace of its own";
    let path = host.ns.path();
    refused("by hook", &host.prestart("x", pid, &[]), 5, &[says, "x"]);
    refused("by pid", &host.portslice(["attach", "x", "--pid", &pid.to_string()]), 5, &[says]);
    refused("by path", &host.portslice(["attach", "x", "--netns", &path.to_string_lossy()]), 5, &[says]);
    for path in ["/nonexistent", "/etc/passwd", "/tmp", "/dev/zero"] {
        let out = host.portslice(["attach", "x", "--netns", path]);
        refused(path, &out, 6, &[path]);
    }
    // process 1 here is in the machine's namespace, which is not this host's: nothing may be done to it either, but only
    // the hook of that namespace can tell
    still.check_all("after all");
}

#[test]
fn the_command_line_refuses_in_one_line_too() {
    let host = Host::with("refuse-usage").unprepared().build();
    let rows: [(&[&str], &[&str]); 12] = [
        (&["attach", "../x", "--pid", "1"], &["../x", "1 to 255"]),
        (&["attach", "a\nb", "--pid", "1"], &["1 to 255"]),
        (&["attach", "", "--pid", "1"], &["1 to 255"]),
        (&["attach", "x"], &["--netns"]),
        (&["attach", "x", "--pid", "0"], &["--pid"]),
        (&["attach", "x", "--pid", "-1"], &["-1"]),
        (&["attach", "x", "--pid", "many"], &["--pid", "many"]),
        (&["attach", "x", "--pid", "1", "--netns", "/x"], &["--netns", "--pid"]),
        (&["attach", "x", "--pid", "1", "--prots", "31000"], &["--prots", "--ports"]),
        (&["detach", ".."], &["1 to 255"]),
        (&["atach"], &["attach"]),
        (&["--state-dir", "relative", "list"], &["--state-dir", "absolute"]),
    ];
    for (args, says) in rows {
        refused(&args.join(" "), &host.portslice(args), 2, says);
    }
    refused("show of an unknown id", &host.portslice(["show", "nobody"]), 6, &["nobody"]);
}

// ---- the uplink

#[test]
fn an_uplink_that_cannot_be_one() {
    let host = Host::with("refuse-uplink").unprepared().build();
    let good = std::fs::read_to_string(host.config_file()).expect("config");
    host.ns.ip("link add bare0 type veth peer name bare1\nlink set bare0 up\nlink set bare1 up\n\
                link add down0 type veth peer name down1\naddr add 10.99.0.1/24 dev down0");
    let (still, spare) = (Still::of(&host), spare());
    let rows = [
        ("nope0", &["nope0", "config key uplink"]),
        ("bare0", &["bare0", "global address"]),
        ("down0", &["down0", "bring it up"]),
        ("lo", &["lo", "config key uplink"]),
    ];
    for (uplink, says) in rows {
        std::fs::write(host.config_file(), format!("{good}uplink = \"{uplink}\"\n")).expect("config");
        attach_refused(&host, &spare, uplink, &[], 5, says);
        refused(uplink, &host.portslice(["setup"]), 5, says);
        still.check_all(uplink);
    }
    std::fs::write(host.config_file(), &good).expect("config");
    host.ns.ip("link del bare0\nlink del down0");
    host.ns.ip("route del default via 10.77.0.1 dev eth0\nroute del default via fd77::1 dev eth0");
    let still = Still::of(&host);
    attach_refused(&host, &spare, "no default route", &[], 5, &["default route", "config key uplink"]);
    refused("no default route", &host.portslice(["setup"]), 5, &["default route", "config key uplink"]);
    still.check_all("no default route");
    assert!(!host.state_dir().exists(), "a refusal made {:?}", host.state_dir());
    // named, it needs no default route
    std::fs::write(host.config_file(), format!("{good}uplink = \"eth0\"\n")).expect("config");
    let named = host.bare("named", &["--ports", "31000"]);
    let _echo = Echo::start(&named.ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 31_000));
    assert_reaches("P->named", &host.peer, Proto::Tcp, SocketAddr::new(HOST4, 31_000));
    host.ns.ip("route add default via 10.77.0.1 dev eth0\nroute add default via fd77::1 dev eth0");
}

// ---- state

#[test]
fn the_state_of_another_namespace() {
    let (host, other) = (Host::new("refuse-state"), Host::new("refuse-state-other"));
    let _one = host.bare("one", &["--ports", "31000"]);
    let (still, unchanged) = (Still::of(&host), Still::of(&other));
    let spare = spare();
    let (state, pid) = (host.state_dir(), spare.pid().to_string());
    let state = state.to_string_lossy();
    for args in [
        vec!["attach", "x", "--pid", &pid],
        vec!["attach", "one", "--pid", &pid],
        vec!["detach", "one"],
        vec!["gc"],
        vec!["setup"],
        vec!["setup", "--undo"],
    ] {
        let out = other.portslice([&["--state-dir", &state], &args[..]].concat());
        let code = if args.contains(&"--undo") { out.code.unwrap_or(0) } else { 5 };
        assert_ne!(code, 0, "{args:?} with another host's state: {out}");
        refused(
            &args.join(" "),
            &out,
            code,
            if code == 5 { &["another network namespace", "--state-dir"] } else { &[] },
        );
        still.check(&args.join(" "));
    }
    still.check_all("the host whose state it is");
    unchanged.check_all("the other host");
}

#[test]
fn the_same_id_again() {
    let host = Host::new("refuse-same");
    let one = host.bare("one", &["--ports", "31000", "--ephemeral-ports", "512"]);
    let (still, spare) = (Still::of(&host), spare());
    let pid = one.ns.pid().to_string();
    let path = one.ns.path();
    for args in [
        vec!["attach", "one", "--pid", &pid, "--ports", "31000", "--ephemeral-ports", "512"],
        vec!["attach", "one", "--pid", &pid, "--ports", "31000"],
        vec!["attach", "one", "--netns", path.to_str().unwrap(), "--ports", "31000"],
    ] {
        host.portslice(&args).ok();
        still.check(&args.join(" "));
    }
    let other = spare.pid().to_string();
    let rows: [(&str, Vec<&str>, &[&str]); 5] = [
        ("another namespace", vec!["attach", "one", "--pid", &other], &["one", "attached already"]),
        ("other ports", vec!["attach", "one", "--pid", &pid, "--ports", "31001"], &["one", "31000"]),
        ("more ports", vec!["attach", "one", "--pid", &pid, "--ports", "31000,auto:1"], &["one", "31000"]),
        ("another size", vec!["attach", "one", "--pid", &pid, "--ephemeral-ports", "1024"], &["one"]),
        (
            "another setting",
            vec!["attach", "one", "--pid", &pid, "--ports", "31000", "--host-loopback", "false"],
            &["one"],
        ),
    ];
    for (what, args, says) in rows {
        refused(what, &host.portslice(&args), 7, says);
        still.check(what);
    }
    still.check_all("after all");
    let _echo = Echo::start(&one.ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 31_000));
    assert_reaches("P->one", &host.peer, Proto::Tcp, SocketAddr::new(HOST4, 31_000));
}

#[test]
fn another_id_for_the_same_namespace() {
    let host = Host::new("refuse-second");
    let one = host.bare("one", &["--ports", "31000"]);
    let still = Still::of(&host);
    let pid = one.ns.pid().to_string();
    refused("a second id", &host.portslice(["attach", "two", "--pid", &pid]), 7, &["eth0"]);
    let _echo = Echo::start(&one.ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 31_000));
    assert_reaches("P->one", &host.peer, Proto::Tcp, SocketAddr::new(HOST4, 31_000));
    still.check_all("after the refusal");
}

#[test]
fn a_namespace_that_has_a_device_of_that_name() {
    let host = Host::new("refuse-eth0");
    let ns = spare();
    ns.ip("link add eth0 type veth peer name other");
    let leases = host.list();
    let pid = ns.pid().to_string();
    refused("a namespace with eth0", &host.portslice(["attach", "x", "--pid", &pid]), 7, &["eth0", "--network none"]);
    assert_eq!(host.list(), leases);
    assert_eq!(devices(&ns), ["eth0", "lo", "other"], "devices of the namespace that was refused");
    assert_eq!(host.links(), ["eth0", "lo"], "devices of the host");
    ns.ip("link del eth0");
    host.portslice(["attach", "x", "--pid", &pid, "--ports", "31000"]).ok();
    host.portslice(["detach", "x"]).ok();
}

// ---- a full disk

/// Fills the file system of `dir` up to `free` free pages.
fn fill(dir: &Path, free: usize) {
    use std::io::Write;
    let page = vec![b'x'; 4096];
    let _ = std::fs::remove_file(dir.join("fill"));
    let mut file = std::fs::File::create(dir.join("fill")).expect("fill");
    let mut pages = 0;
    while file.write_all(&page).is_ok() {
        pages += 1;
        assert!(pages < 4096, "the file system never fills");
    }
    file.set_len(4096 * (pages as u64).saturating_sub(free as u64)).expect("fill");
}

#[test]
fn a_full_disk() {
    let host = Host::with("refuse-full").unprepared().build();
    let state = host.state_dir();
    std::fs::create_dir(&state).expect("state directory");
    let seen = host.ns.root(&state.to_string_lossy());
    for prepared in [false, true] {
        for free in 0..7 {
            let what = format!("{free} free pages, prepared: {prepared}");
            let at = state.clone();
            host.ns.inside_mounts(move || {
                let options = Some("size=256k,mode=700");
                mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), options).expect("tmpfs")
            });
            if prepared {
                host.portslice(["setup"]).ok();
            }
            fill(&seen, free);
            let ns = Ns::net_only("on a full disk");
            let pid = ns.pid().to_string();
            let attach = ["attach", "x", "--pid", &pid, "--ports", "31000"];
            let out = host.portslice(attach);
            if out.code != Some(0) {
                refused(&what, &out, 1, &[&state.to_string_lossy()]);
                assert_bare(&format!("{what}: after a failed attach"), &ns);
                assert_eq!(host.links(), ["eth0", "lo"], "{what}: devices of the host after a failed attach");
                assert_eq!(host.ids(), [""; 0], "{what}: leases after a failed attach");
                let echo = Echo::start(&host.ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), 31_000));
                assert_reaches(
                    &format!("{what}: the host's own 31000"),
                    &host.peer,
                    Proto::Udp,
                    SocketAddr::new(HOST4, 31_000),
                );
                drop(echo);
                released(&host.ns, 31_000);
            }
            std::fs::remove_file(seen.join("fill")).expect("fill");
            host.portslice(attach).ok();
            let echo = Echo::start(&ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), 31_000));
            assert_reaches(&what, &host.peer, Proto::Udp, SocketAddr::new(HOST4, 31_000));
            drop(echo);
            // a container that ends while the disk is full: refused in one line or done, and done once there is room
            fill(&seen, 0);
            let out = host.poststop("x");
            if out.code != Some(0) {
                refused(&format!("{what}: poststop"), &out, 1, &[&state.to_string_lossy()]);
            }
            std::fs::remove_file(seen.join("fill")).expect("fill");
            host.poststop("x").ok();
            assert_bare(&format!("{what}: after poststop"), &ns);
            assert_eq!(host.ids(), [""; 0], "{what}: leases after poststop");
            host.portslice(["setup", "--undo"]).ok();
            let left: Vec<_> = std::fs::read_dir(&seen).expect("state").flatten().map(|e| e.path()).collect();
            assert!(left.is_empty(), "{what}: setup --undo left {left:?}");
            let at = state.clone();
            let unmounted = || host.ns.inside_mounts(|| umount2(&at, MntFlags::empty()).is_ok());
            assert!(eventually(unmounted), "{what}: the state directory is busy");
        }
    }
    std::fs::remove_dir(&state).expect("state directory");
}
