//! What monitoring systems make of `/metrics`: Prometheus' own checker, a strict parser of OpenMetrics, and a Prometheus that
//! scrapes the server and is asked everything the dashboard asks.

use super::client::{Answer, Server};
use crate::lab::bundle::{Bundle, Running, Runtime};
use crate::lab::wait::eventually;
use crate::lab::*;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";
const CONFIG: &str = "ports = \"31000-31999\"\nsocket_statistics_details = true\nsnmp_statistics = true\n";
const IMAGE: &str = "docker.io/library/busybox:1.35";
/// Every label that a sample of the named container begins with, after its id.
const LABELS: &str =
    "name=\"prod/shop/web\",container=\"web\",pod=\"shop\",namespace=\"prod\",image=\"docker.io/library/busybox:1.35\"";

/// Reads all of a text on stdin by the rules of the standard.
const PARSER: &str = "import sys\n\
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse\n\
    families = list(parse(sys.stdin.read()))\n\
    print(len(families), sum(len(f.samples) for f in families), sum(1 for f in families if f.unit))\n";

/// A container as containerd's CRI starts it, with limits, busy enough to be throttled, listening on 31000.
fn named<'r>(host: &Host, runtime: &'r Runtime<'_>) -> Running<'r> {
    let program = "httpd -p 31000; while sleep 0.02; do :; done";
    let mut bundle = Bundle::new(host, "web", &["sh", "-c", program]).sliced();
    for (key, value) in [
        ("io.kubernetes.cri.container-name", "web"),
        ("io.kubernetes.cri.sandbox-name", "shop"),
        ("io.kubernetes.cri.sandbox-namespace", "prod"),
        ("io.kubernetes.cri.image-name", IMAGE),
        ("portslice/ports", "31000"),
        ("portslice/egress-rate", "100mbit"),
        ("portslice/ingress-rate", "100mbit"),
        ("portslice/cpus-limit", "0.1"),
    ] {
        bundle = bundle.annotation(key, value);
    }
    runtime.start(&bundle)
}

/// A connection from the peer that stays.
fn connection(host: &Host) -> TcpStream {
    let mut stream = None;
    let to = SocketAddr::new(HOST4, 31_000);
    let connected = eventually(|| {
        stream = host.peer.inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(1)).ok());
        stream.is_some()
    });
    assert!(connected, "the container does not answer");
    stream.expect("a connection")
}

/// Runs a checker on a text. `None`, with the reason printed, where it is not installed.
fn checked(program: &str, args: &[&str], text: &str) -> Option<(bool, String)> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        println!("skipped: {program} is not installed");
        return None;
    };
    let mut stdin = child.stdin.take().expect("stdin");
    // both read everything before they say something
    stdin.write_all(text.as_bytes()).expect("the text");
    drop(stdin);
    let output = child.wait_with_output().expect("its output");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if said.contains("No module named 'prometheus_client'") {
        println!("skipped: python3-prometheus-client is not installed");
        return None;
    }
    Some((output.status.success(), said))
}

fn scrape(server: &Server, accept: &str) -> Answer {
    let accept = if accept.is_empty() { String::new() } else { format!("Accept: {accept}\r\n") };
    server.send(&format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{accept}Connection: close\r\n\r\n"))
}

#[test]
fn both_formats_are_valid_and_negotiated() {
    let host = Host::with("serve-formats").config(CONFIG).build();
    let runtime = host.runtime("runc");
    let _web = named(&host, &runtime);
    let _other = host.bare("other", &["--executor-name", "a \"name\" \\ # x"]);
    let _stays = connection(&host);
    let server = Server::start(&host, &["--listen", "127.0.0.1:0"]);
    for accept in ["", "*/*", "text/plain", "text/html,*/*;q=0.8", "application/openmetrics-text;q=0.1,text/plain"] {
        scrape(&server, accept).is(200, PLAIN);
    }
    let of_prometheus = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    for accept in ["application/openmetrics-text", of_prometheus] {
        scrape(&server, accept).is(200, OPEN);
    }

    let plain = scrape(&server, "").body;
    assert!(!plain.contains(" unknown\n") && !plain.contains(" info\n") && !plain.contains("# UNIT"), "{plain}");
    for name in
        ["container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_start_time_seconds"]
    {
        let samples = plain.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(LABELS));
        assert_eq!(samples.count(), 1, "{name}: {plain}");
    }
    for name in ["container_network_receive_bytes_total", "container_network_transmit_packets_total"] {
        let labelled = format!(",{LABELS},interface=\"eth0\"}}");
        assert!(plain.lines().any(|line| line.starts_with(name) && line.contains(&labelled)), "{name}: {plain}");
    }
    if let Some((valid, said)) = checked("promtool", &["check", "metrics"], &plain) {
        assert!(valid && said.is_empty(), "promtool: {said}");
    }
    let open = scrape(&server, of_prometheus).body;
    if let Some((valid, said)) = checked("/usr/bin/python3", &["-c", PARSER], &open) {
        assert!(valid, "the parser: {said}");
        let numbers: Vec<usize> = said.split_whitespace().map(|word| word.parse().expect("a number")).collect();
        let samples = open.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!((numbers[0], numbers[1]), (open.matches("# TYPE ").count(), samples));
        assert!(numbers[2] > 10, "families with units: {said}");
    }
    server.end();
}

/// A Prometheus of its own, on the host's loopback address; ends with this.
struct Prometheus<'h> {
    host: &'h Host,
    child: Child,
}

const PROMETHEUS: u16 = 19_090;

impl<'h> Prometheus<'h> {
    /// Starts one that scrapes the server each second. `None`, with the reason printed, where it is not installed.
    fn start(host: &'h Host, server: &Server<'_>) -> Option<Prometheus<'h>> {
        let dir = host.dir.join("prometheus");
        std::fs::create_dir_all(&dir).expect("its directory");
        let config = dir.join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs:\n- job_name: portslice\n  static_configs: [{{targets: ['127.0.0.1:{}']}}]\n",
            server.port
        );
        std::fs::write(&config, text).expect("its configuration");
        let mut command = host.command(["prometheus"]);
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{PROMETHEUS}"))
            .args(["--log.level=warn"]);
        let log = std::fs::File::create(dir.join("log")).expect("its log");
        match command.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log).spawn() {
            Ok(child) => Some(Prometheus { host, child }),
            Err(e) => {
                println!("skipped: prometheus cannot be started ({e})");
                None
            }
        }
    }

    /// What it answers to a query; `None` while it does not answer.
    fn ask(&self, query: &str) -> Option<Vec<Value>> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let to = SocketAddr::new(LO4, PROMETHEUS);
        let mut stream = self.host.inside(|| TcpStream::connect(to).ok())?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        // HTTP/1.0: the answer is in one piece and ends with the connection
        write!(stream, "GET /api/v1/query?query={encoded} HTTP/1.0\r\n\r\n").expect("a query");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        // it listens before it is ready
        let body: Value = serde_json::from_str(body).ok()?;
        assert_eq!(body["status"], "success", "{query}: {body}");
        Some(body["data"]["result"].as_array().expect("a result").clone())
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The queries of all panels, as Grafana would send them with nothing chosen.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(include_str!("../../config/grafana-dashboard.json")).expect("JSON");
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().expect("a query");
            let query = query.replace("$__rate_interval", "10s").replace("$instance", ".*").replace("$container", ".*");
            assert!(!query.contains('$'), "a variable that is not known: {query}");
            all.push((panel["title"].as_str().expect("a title").to_owned(), query));
        }
    }
    assert!(all.len() > 30, "{} queries", all.len());
    all
}

#[test]
fn every_query_of_the_dashboard_finds_something() {
    let host = Host::with("serve-prometheus").config(CONFIG).build();
    let runtime = host.runtime("runc");
    let web = named(&host, &runtime);
    let _other = host.bare("other", &[]);
    let _stays = connection(&host);
    let server = Server::start(&host, &["--listen", "127.0.0.1:0"]);
    let Some(prometheus) = Prometheus::start(&host, &server) else { return };
    let asked = queries();
    let empty = || -> Vec<&(String, String)> {
        asked.iter().filter(|(_, query)| prometheus.ask(query).is_none_or(|found| found.is_empty())).collect()
    };
    let mut left = Vec::new();
    let all = eventually(|| {
        std::thread::sleep(Duration::from_millis(500));
        left = empty();
        left.is_empty()
    });
    assert!(all, "queries that find nothing: {left:#?}\n{}", server.ask("/metrics").body);
    let of_web = format!("container_cpu_usage_seconds_total{{id=\"{}\"}}", web.id);
    let found = prometheus.ask(&of_web).expect("an answer");
    let labels = &found[0]["metric"];
    assert_eq!(
        (&labels["namespace"], &labels["pod"], &labels["image"]),
        (&"prod".into(), &"shop".into(), &IMAGE.into())
    );
    drop(prometheus);
    server.end();
}
