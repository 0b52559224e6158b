//! What is asked cannot be meant: configuration, the state document of a hook, the command line.

use super::{refused, spare};
use crate::lab::still::{Still, assert_bare};
use crate::lab::*;

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

/// What a hook must never be talked into: what it is, the document, exit code, what is said.
fn documents(pid: u32) -> Vec<(&'static str, Vec<u8>, i32, &'static str)> {
    let with = |annotations: &str| format!("{{\"id\":\"x\",\"pid\":{pid},\"annotations\":{annotations}}}").into_bytes();
    let id = |id: &str| format!("{{\"id\":{id},\"pid\":{pid}}}").into_bytes();
    let pid_is = |pid: &str| format!("{{\"id\":\"x\",\"pid\":{pid}}}").into_bytes();
    let nested = format!("{{\"id\":\"x\",\"pid\":{pid},\"annotations\":{{}},\"x\":{}", "[".repeat(1_000_000));
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
        ("a dead process", pid_is(&dead_pid().to_string()), 6, "gone"),
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

/// The pid of a process that has ended and was reaped.
fn dead_pid() -> u32 {
    let mut child = std::process::Command::new("true").spawn().expect("true");
    let _ = child.wait();
    child.id()
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
        host.portslice(["detach", &ids[0]]).ok();
        assert_bare(&format!("{document:.100}"), &ns);
    }
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
