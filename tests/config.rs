//! The configuration file: the shipped one is the defaults, and a bad one is refused in a line that says where.

use portslice::config::{Config, LogLevel, SocketRules};
use portslice::rate::{Direction, PerCpu, Policy, Rate};
use std::path::Path;
use std::time::Duration;

const SHIPPED: &str = include_str!("../config/portslice.toml");

/// The shipped file with every key in force.
fn uncommented() -> String {
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    SHIPPED.lines().map(uncomment).collect()
}

#[test]
fn the_shipped_file_shows_every_key_with_its_default() {
    assert_eq!(Config::parse(SHIPPED, "f").unwrap(), Config::default());
    let all = uncommented();
    assert_eq!(Config::parse(&all, "f").unwrap(), Config::default());
    let serde_json::Value::Object(keys) = serde_json::to_value(Config::default()).unwrap() else { panic!() };
    let flat = |(key, value)| match value {
        // A table: its own keys follow its head.
        serde_json::Value::Object(inner) if all.contains(&format!("\n[{key}]\n")) => inner.into_iter().collect(),
        value => vec![(key, value)],
    };
    for (key, value) in keys.into_iter().flat_map(flat) {
        assert!(all.contains(&format!("\n{key} = {value}\n")), "{key} = {value}");
    }
}

#[test]
fn values_arrive_parsed() {
    let text = r#"
        ephemeral_ports = "40000-50000, 60000-65535"
        ephemeral_ports_per_container = 512
        ports = "31000-32000,80"
        open_ports = "443, 8080, 9000-9099"
        open_ports_per_container = 16
        host_ports_min = 300
        uplink = "bond0.100"
        addresses = "10.0.0.5,2001:db8::5"
        state_dir = "/var/lib/x"
        host_loopback = false
        refuse_net_admin = true
        block_cooldown = "2m"
        egress_rate_limit_per_container = "37500KB"
        ingress_rate_limit_per_container = "10gbit"
        socket_rules = "require"
        socket_cgroup = "/sys/fs/cgroup/machine.slice"
        log_file = "/var/log/portslice.log"
        log_level = "debug"
    "#;
    let config = Config::parse(text, "f").unwrap();
    assert_eq!(config.ephemeral_ports.to_string(), "40000-50000,60000-65535");
    assert_eq!(config.ephemeral_ports_per_container.get(), 512);
    assert_eq!(config.ports.to_string(), "80,31000-32000");
    assert_eq!(config.open_ports.to_string(), "443,8080,9000-9099");
    assert_eq!(config.open_ports_per_container, 16);
    assert_eq!(config.host_ports_min, 300);
    assert_eq!(config.uplink.as_deref(), Some("bond0.100"));
    assert_eq!(config.addresses.to_string(), "10.0.0.5,2001:db8::5");
    assert_eq!(config.state_dir, Path::new("/var/lib/x"));
    assert!(!config.host_loopback);
    assert!(config.refuse_net_admin && !Config::default().refuse_net_admin);
    assert_eq!(config.block_cooldown, Duration::from_secs(120));
    assert_eq!(config.egress_rate_limit_per_container.bytes_per_second(), 38_400_000);
    assert_eq!(config.ingress_rate_limit_per_container.bits_per_second(), 10_000_000_000);
    assert_eq!(config.log_file.as_deref(), Some(Path::new("/var/log/portslice.log")));
    assert_eq!(config.log_level, LogLevel::Debug);
    assert_eq!(config.socket_rules, SocketRules::Require);
    assert_eq!(config.socket_cgroup.as_deref(), Some(Path::new("/sys/fs/cgroup/machine.slice")));
}

#[test]
fn the_keys_of_each_direction_become_its_policy() {
    let text = r#"
        egress_rate_limit_per_container = "1mbit"
        egress_rate_per_cpu = "2mbit"
        minimum_egress_rate_limit = "3mbit"
        maximum_egress_rate_limit = "4mbit"
        egress_ceil_limit = "5mbit"
        egress_burst = "6KB"
        ingress_rate_limit_per_container = "11mbit"
        ingress_rate_per_cpu = "auto"
        minimum_ingress_rate_limit = "13mbit"
        maximum_ingress_rate_limit = "14mbit"
        ingress_ceil_limit = "15mbit"
        ingress_burst = "0B"
        link_speed = "25gbit"
        cpus = 64
        limit_local = false
        egress_unique_flow_per_container = true
    "#;
    let config = Config::parse(text, "f").unwrap();
    let rate = |text: &str| text.parse::<Rate>().unwrap();
    let egress = Policy {
        direction: Direction::Egress,
        per_container: rate("1mbit"),
        per_cpu: PerCpu::Rate(rate("2mbit")),
        minimum: rate("3mbit"),
        maximum: rate("4mbit"),
        ceil: rate("5mbit"),
        burst: Some("6KB".parse().unwrap()),
    };
    let ingress = Policy {
        direction: Direction::Ingress,
        per_container: rate("11mbit"),
        per_cpu: PerCpu::Auto,
        minimum: rate("13mbit"),
        maximum: rate("14mbit"),
        ceil: rate("15mbit"),
        burst: None,
    };
    assert_eq!(config.policy(Direction::Egress), egress);
    assert_eq!(config.policy(Direction::Ingress), ingress);
    assert_eq!((config.link_speed, config.cpus), (rate("25gbit"), 64));
    assert!(!config.limit_local && config.egress_unique_flow_per_container);
    assert!(ingress.needs_link() && !egress.needs_link());
}

#[test]
fn rate_statistics_are_on_when_both_keys_are_set() {
    for off in ["", "rate_statistics_window = \"\"\nrate_statistics_interval = \"0s\""] {
        let config = Config::parse(off, "f").unwrap();
        assert_eq!((config.rate_statistics_window, config.rate_statistics_interval), (Duration::ZERO, Duration::ZERO));
    }
    let on = "rate_statistics_window = \"30s\"\nrate_statistics_interval = \"500ms\"";
    let config = Config::parse(on, "f").unwrap();
    assert_eq!(config.rate_statistics_window, Duration::from_secs(30));
    assert_eq!(config.rate_statistics_interval, Duration::from_millis(500));
}

#[test]
fn a_minimum_alone_may_be_above_the_default_and_a_ceil_below_the_rate() {
    for fine in [
        "minimum_egress_rate_limit = \"10gbit\"",
        "egress_rate_limit_per_container = \"2mbit\"\negress_ceil_limit = \"1mbit\"",
        "ingress_rate_per_cpu = \"auto\"",
        "ingress_rate_per_cpu = \"1000B\"",
        "minimum_egress_rate_limit = \"1mbit\"\nmaximum_egress_rate_limit = \"1mbit\"",
    ] {
        assert!(Config::parse(fine, "f").is_ok(), "{fine}");
    }
}

/// Each of these stands in line 3 of the file; the refusal names that line, the key, and the words on the right.
/// A line of a configuration file, the key the refusal names, and words of it.
const BAD: &[(&str, &str, &str)] = &[
    ("ephemeral_port = \"1024-2047\"", "ephemeral_port", "did you mean ephemeral_ports?"),
    ("Uplink = \"eth0\"", "Uplink", "did you mean uplink?"),
    ("zzz = 1", "zzz", "unknown key; config/portslice.toml of portslice shows them all"),
    ("egress_rate = \"1mbit\"", "egress_rate", "did you mean egress_rate_limit_per_container or egress_rate_per_cpu?"),
    ("[server]", "server", "unknown key"),
    ("[ports]\nx = 1", "ports", "a port set such as"),
    ("\"a\\u001b\\n\" = 1", "a\\u{1b}", "unknown key"),
    ("ephemeral_ports = \"32768-40\"", "ephemeral_ports", "32768-40 is reversed; write 40-32768"),
    ("ephemeral_ports = \"\"", "ephemeral_ports", "give the ports that may be leased"),
    ("ephemeral_ports = \"1000-40000\"", "ephemeral_ports", "port 1000 is below 1024"),
    ("ephemeral_ports = [32768, 57343]", "ephemeral_ports", "a port set such as"),
    ("ephemeral_ports_per_container = 1000", "ephemeral_ports_per_container", "the nearest are 512 and 1024"),
    ("ephemeral_ports_per_container = -5", "ephemeral_ports_per_container", "the smallest is 16"),
    ("ephemeral_ports_per_container = \"1024\"", "ephemeral_ports_per_container", "expected a number without quotes"),
    ("ports = 31000", "ports", "expected a port set such as \"31000-31009,31100\""),
    ("ports = \"0\"", "ports", "outside 1-65535"),
    ("ports = \"31000,,31001\"", "ports", "empty item"),
    ("ports = \"80,57343-57400\"", "ports", "57343 is also in ephemeral_ports (32768-57343)"),
    ("ephemeral_ports = \"32769-33800\"", "ephemeral_ports", "the largest that fits is 512"),
    ("uplink = \"eth0/../x\"", "uplink", "not a device name"),
    ("addresses = \"eth0\"", "addresses", "\"eth0\" is not \"all\", \"uplink\", or addresses"),
    ("state_dir = \"run\"", "state_dir", "not an absolute path"),
    ("socket_rules = \"on\"", "socket_rules", "expected one of `auto`, `require`, `off`"),
    ("socket_rules = true", "socket_rules", "wanted string"),
    ("socket_cgroup = \"system.slice\"", "socket_cgroup", "not an absolute path"),
    ("state_dir = \"\"", "state_dir", "not an absolute path"),
    ("host_loopback = \"yes\"", "host_loopback", "expected a boolean"),
    ("block_cooldown = \"90\"", "block_cooldown", "\"90\" has no unit; write 0s to 24h"),
    ("block_cooldown = 90", "block_cooldown", "such as \"90s\""),
    ("egress_rate_limit_per_container = 300", "egress_rate_limit_per_container", "\"300mbit\""),
    ("egress_rate_limit_per_container = \"300\"", "egress_rate_limit_per_container", "has no unit"),
    ("ingress_rate_limit_per_container = \"-1KB\"", "ingress_rate_limit_per_container", "is negative"),
    ("egress_rate_limit_per_container = \"7kbit\"", "egress_rate_limit_per_container", "at least 1000B/s (8 Kbit/s)"),
    ("ingress_rate_limit_per_container = \"200tbit\"", "ingress_rate_limit_per_container", "above every link"),
    ("egress_rate_per_cpu = \"fast\"", "egress_rate_per_cpu", "write 37500KB, 300mbit or auto"),
    ("egress_rate_per_cpu = 5", "egress_rate_per_cpu", "or \"auto\""),
    ("egress_rate_per_cpu = \"-1KB\"", "egress_rate_per_cpu", "is negative"),
    ("ingress_rate_per_cpu = \"999B\"", "ingress_rate_per_cpu", "below the slowest limit that holds"),
    ("minimum_egress_rate_limit = \"0B\"", "minimum_egress_rate_limit", "without a limit; give 125000B"),
    ("minimum_ingress_rate_limit = \"0mbit\"", "minimum_ingress_rate_limit", "without a limit; give 125000B"),
    ("minimum_ingress_rate_limit = \"1bit\"", "minimum_ingress_rate_limit", "below the slowest"),
    (
        "maximum_egress_rate_limit = \"1000B\"",
        "maximum_egress_rate_limit",
        "maximum_egress_rate_limit (1000B/s (8 Kbit/s)) is below minimum_egress_rate_limit (125000B/s (1 Mbit/s))",
    ),
    (
        "maximum_ingress_rate_limit = \"2mbit\"\nminimum_ingress_rate_limit = \"3mbit\"",
        "maximum_ingress_rate_limit",
        "is below minimum_ingress_rate_limit (3mbit); raise the one or lower the other",
    ),
    ("egress_ceil_limit = \"1bit\"", "egress_ceil_limit", "below the slowest"),
    ("ingress_ceil_limit = \"101tbit\"", "ingress_ceil_limit", "above every link"),
    ("egress_burst = \"1500B\"", "egress_burst", "holds no full packet; give at least 1600B"),
    ("ingress_burst = \"5GB\"", "ingress_burst", "is too large; give at most 4GB"),
    ("ingress_burst = \"64kbit\"", "ingress_burst", "unknown unit"),
    ("link_speed = 10000", "link_speed", "\"300mbit\""),
    ("link_speed = \"1tbps\"", "link_speed", "unknown unit"),
    ("link_speed = \"200tbit\"", "link_speed", "above every link"),
    ("cpus = -1", "cpus", "-1 is not a number of CPUs; write 1 to 100000, or 0"),
    ("cpus = 100001", "cpus", "write 1 to 100000"),
    ("cpus = \"4\"", "cpus", "a whole number of CPUs without quotes"),
    ("cpus = 1.5", "cpus", "a whole number of CPUs without quotes"),
    ("limit_local = 1", "limit_local", "expected a boolean"),
    ("egress_unique_flow_per_container = \"\"", "egress_unique_flow_per_container", "expected a boolean"),
    ("rate_statistics_window = \"30s\"", "rate_statistics_window", "rate_statistics_interval is not set"),
    ("rate_statistics_interval = \"1s\"", "rate_statistics_interval", "rate_statistics_window is not set"),
    (
        "rate_statistics_interval = \"19ms\"\nrate_statistics_window = \"30s\"",
        "rate_statistics_interval",
        "19ms is too short; give at least 20ms",
    ),
    (
        "rate_statistics_window = \"1s\"\nrate_statistics_interval = \"1000ms\"",
        "rate_statistics_window",
        "(1s) is not longer than rate_statistics_interval (1s)",
    ),
    (
        "rate_statistics_window = \"5m\"\nrate_statistics_interval = \"20ms\"",
        "rate_statistics_window",
        "300s holds more than 1000 samples, one each 20ms",
    ),
    ("rate_statistics_window = 30", "rate_statistics_window", "such as \"500ms\""),
    ("rate_statistics_interval = \"30\"", "rate_statistics_interval", "has no unit; write 0s to 24h, such as 500ms"),
    ("open_ports = \"any\"", "open_ports", "\"any\" is not a port or a range"),
    ("open_ports = \"80,none\"", "open_ports", "none stands beside ports"),
    ("open_ports = 8080", "open_ports", "expected a port set such as \"8080,9000-9099\", \"all\" or \"none\""),
    ("open_ports = \"all\"\nsocket_rules = \"off\"", "open_ports", "which socket_rules = \"off\" does not judge"),
    ("open_ports_per_container = 0", "open_ports_per_container", "0 is not a number of ports; write 1 to 65535"),
    (
        "open_ports_per_container = 65536",
        "open_ports_per_container",
        "65536 is not a number of ports; write 1 to 65535",
    ),
    ("open_ports_per_container = \"all\"", "open_ports_per_container", "a whole number of ports without quotes"),
    ("host_ports_min = -1", "host_ports_min", "-1 is not a number of ports; write 0 to 65535"),
    ("host_ports_min = 65536", "host_ports_min", "65536 is not a number of ports; write 0 to 65535"),
    ("host_ports_min = \"1024\"", "host_ports_min", "a whole number of ports without quotes, such as 1024"),
    ("log_file = \"x.log\"", "log_file", "not an absolute path"),
    ("log_level = \"trace\"", "log_level", "expected one of `error`, `warn`, `info`, `debug`"),
    ("log_level = \"a\\nb\\u0007\"", "log_level", "unknown variant"),
    ("uplink = eth0", "uplink", "not valid TOML"),
    ("uplink \"eth0\"", "uplink", "not valid TOML"),
    ("log_file = \"/x", "log_file", "not valid TOML"),
];

#[test]
fn a_bad_file_is_refused_in_one_line() {
    for (bad, key, words) in BAD {
        let text = format!("# a file\n\n{bad}\n");
        let error = Config::parse(&text, "/etc/p.toml").unwrap_err();
        let line = error.to_string();
        assert_eq!(error.exit_code(), 2);
        assert!(line.starts_with("/etc/p.toml line 3, key "), "{bad}: {line}");
        let named = &line["/etc/p.toml line 3, key ".len()..];
        assert!(named.trim_start_matches('"').starts_with(key), "{bad}: {line}");
        assert!(line.contains(words), "{bad}: {line}");
        assert!(!line.contains(char::is_control) && line.len() < 800, "{bad}: {line}");
    }
}

#[test]
fn a_key_given_twice_is_refused_where_it_stands_again() {
    let line = Config::parse("ports = \"80\"\n\nports = \"81\"\n", "f").unwrap_err().to_string();
    assert_eq!(line, "f line 3, key \"ports\": not valid TOML: duplicate key");
}

#[test]
fn a_named_file_must_exist() {
    let error = Config::load(Some(Path::new("/nonexistent/portslice.toml"))).unwrap_err().to_string();
    assert!(error.starts_with("cannot read /nonexistent/portslice.toml: "), "{error}");
}

#[test]
fn the_command_line_moves_the_state_directory() {
    let moved = Config::default().with_state_dir(Some(Path::new("/tmp/state"))).unwrap();
    assert_eq!(moved.state_dir, Path::new("/tmp/state"));
    let error = Config::default().with_state_dir(Some(Path::new("state"))).unwrap_err().to_string();
    assert_eq!(error, "--state-dir: \"state\" is not an absolute path; write one that begins with /");
}
