//! Promise: what the CLI tells of containers is there over HTTP, to any number of clients, whatever some of them do.

pub mod client;
mod hosts;
mod monitoring;
mod power;
mod rough;

use crate::lab::wait::eventually;
use crate::lab::*;
use client::{Server, get};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::Duration;

/// Without what differs from one look to the next.
fn settled(mut array: Value) -> Value {
    for one in array.as_array_mut().expect("an array") {
        one["statistics"].as_object_mut().expect("statistics").remove("timestamp").expect("a timestamp");
    }
    array
}

/// One number of `/metrics`.
#[track_caller]
fn metric(page: &str, series: &str) -> f64 {
    let found = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {series} in\n{page}")).parse().expect("a number")
}

/// Sends a datagram to the peer and waits until nothing moves any more.
fn talk(container: &Container) {
    let peer = Echo::start(&container.host().peer, Proto::Udp, SocketAddr::new(PEER4, 20_000));
    probe::assert_reaches("traffic to count", &container.ns, Proto::Udp, peer.at);
    drop(peer);
    std::thread::sleep(Duration::from_millis(200));
}

#[test]
fn the_same_as_the_command_line() {
    let host = Host::new("serve-same");
    let one = host.bare("one", &["--ports", "31000", "--executor-name", "the \"first\"", "--egress-rate", "10mbit"]);
    let _two = host.bare("two", &[]);
    talk(&one);
    let server = Server::start(&host, &["--listen", "127.0.0.1:0"]);

    let told = host.portslice(["stats", "--json"]).ok().json();
    for path in ["/monitor/statistics", "/monitor/statistics.json"] {
        let answer = server.ask(path).is(200, "application/json");
        assert_eq!(settled(answer.json()), settled(told.clone()), "{path}");
    }
    assert_eq!(told[0]["statistics"]["net_tx_packets"], 1, "{told}");
    let single = server.ask("/monitor/statistics?container_id=two").is(200, "application/json").json();
    assert_eq!(settled(single), settled(Value::Array(vec![told[1].clone()])));

    let leases = Value::Array(host.list());
    assert_eq!(server.ask("/containers").is(200, "application/json").json(), leases);
    assert_eq!(server.ask("/containers/two").is(200, "application/json").json(), leases[1]);
    assert_eq!(server.ask("/healthz").is(200, "text/plain; charset=utf-8").body, "ok\n");

    let page = server.ask("/metrics");
    let page = page.is(200, "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(
        metric(&page.body, "container_network_transmit_packets_total{id=\"one\",name=\"one\",interface=\"eth0\"}"),
        1.0
    );
    assert_eq!(
        metric(&page.body, "container_network_transmit_packets_total{id=\"two\",name=\"two\",interface=\"eth0\"}"),
        0.0
    );
    let limit = "portslice_rate_limit_bytes_per_second{id=\"one\",name=\"one\",direction=\"egress\"}";
    assert_eq!(metric(&page.body, limit), 1_250_000.0);
    assert!(page.body.contains("executor_name=\"the \\\"first\\\"\""), "{}", page.body);
    assert_eq!(metric(&page.body, "portslice_host_ready"), 1.0);
    assert_eq!(metric(&page.body, "portslice_leases"), 2.0);
    assert_eq!(metric(&page.body, "portslice_scrape_errors_total"), 0.0);
    server.end();
}

#[test]
fn containers_that_come_and_go_are_seen() {
    let host = Host::new("serve-change");
    let server = Server::start(&host, &["--listen", "127.0.0.1:0"]);
    let ids = || -> Vec<String> {
        let all = server.ask("/monitor/statistics").json();
        all.as_array().unwrap().iter().map(|one| one["container_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(), [""; 0]);
    let one = host.bare("one", &[]);
    assert_eq!(ids(), ["one"]);
    let _two = host.bare("two", &[]);
    host.portslice(["set", "one", "--ports", "31007"]).ok();
    assert_eq!(ids(), ["one", "two"]);
    assert_eq!(server.ask("/containers/one").json()["ports"], "31007");
    one.detach();
    assert_eq!(ids(), ["two"]);
    server.ask("/containers/one").is(404, "text/plain; charset=utf-8");
    server.end();
}

/// The host's loopback address is the containers', too.
#[test]
fn containers_are_not_answered() {
    let host = Host::new("serve-inside");
    let container = host.bare("c", &["--ports", "31000"]);
    let places = ["127.0.0.1:0", "0.0.0.0:7051", "[::]:7052"];
    let server = Server::start(&host, &places.map(|place| ["--listen", place]).concat());
    server.ask("/healthz").is(200, "text/plain; charset=utf-8");
    let to = [(LO4, server.port), (LO4, 7051), (HOST4, 7051), (HOST4, 7052), (LO6, 7052), (HOST6, 7052)];
    for to in to.map(|(ip, port)| SocketAddr::new(ip, port)) {
        for (who, ns) in [("a container", &container.ns), ("the host", &host.ns)] {
            let mut stream = ns.inside(|| TcpStream::connect(to)).expect("connect");
            stream.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
            let _ = stream.write_all(get("/containers").as_bytes());
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            let answered = String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 200 ");
            assert_eq!(answered, who == "the host", "{who} asked {to}: {:?}", String::from_utf8_lossy(&answer));
        }
    }
    server.end();
}

#[test]
fn a_container_that_vanished_takes_nobody_along() {
    let host = Host::new("serve-vanished");
    let (gone, stays) = (host.bare("gone", &[]), host.bare("stays", &[]));
    talk(&stays);
    talk(&gone);
    let server = Server::start(&host, &["--listen", "127.0.0.1:0"]);
    gone.kill();
    let all = server.ask("/monitor/statistics").is(200, "application/json").json();
    let of =
        |id: &str| all.as_array().unwrap().iter().find(|one| one["container_id"] == id).unwrap()["statistics"].clone();
    assert!(of("stays")["net_tcp_active_connections"].is_number() && of("stays")["net_tx_errors"].is_number());
    assert_eq!(of("gone")["net_tx_packets"], 1, "what the data path counted is still there: {all}");
    for field in ["net_tcp_active_connections", "net_tx_errors"] {
        assert!(of("gone").get(field).is_none(), "{field} of a namespace that is gone: {all}");
    }
    let page = server.ask("/metrics").is(200, "text/plain; version=0.0.4; charset=utf-8").body.clone();
    assert!(metric(&page, "portslice_scrape_errors_total") >= 2.0);
    let said = server.end();
    assert!(said.contains("gone: its device portslice"), "the reason is in the log: {said}");
    gone.detach();
}

#[test]
fn other_requests_are_refused() {
    let host = Host::new("serve-refused");
    let _one = host.bare("one", &[]);
    let server = Server::start(&host, &["--listen", "127.0.0.1:0"]);
    for (path, status) in [
        ("/", 404),
        ("/monitor", 404),
        ("/monitor/statistics/", 404),
        ("/monitor/statistics.jsonp", 404),
        ("/monitor/../metrics", 404),
        ("/%2e%2e/metrics", 404),
        ("//metrics", 404),
        ("/containers/", 404),
        ("/containers/two", 404),
        ("/containers/..", 404),
        ("/containers/%2e%2e%2fhost.json", 404),
        ("/containers/../host.json", 404),
        ("/containers/one/..", 404),
        ("/containers/one%00", 404),
        ("/containers/%ff", 400),
        ("/monitor/statistics?container_id=two", 404),
        ("/monitor/statistics?container_id=../one", 404),
        ("/monitor/statistics?container_id=one&container_id=one", 400),
        ("/monitor/statistics?other=1", 200),
        ("/metrics?x", 200),
    ] {
        let answer = server.ask(path);
        assert_eq!(answer.status, status, "{path}: {answer:?}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert_eq!(server.send(&request).status, 405, "{method}");
    }
    let head = server.send("HEAD /containers HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let with_body = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(server.send(with_body).status, 413);
    server.end();
}

#[test]
fn places_to_listen() {
    let host = Host::new("serve-places");
    let path = host.dir.join("p.sock");
    let place = format!("unix:{}", path.display());
    drop(UnixListener::bind(&path).expect("a stale socket"));
    let server = Server::start(&host, &["--listen", "127.0.0.1:0", "--listen", &place, "--listen", "0.0.0.0:0"]);
    let mode = std::fs::metadata(&path).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660, "only root and its group may ask");
    assert_eq!(client::over_unix(&path, &get("/healthz")).status, 200);
    assert_eq!(server.ask("/healthz").status, 200);
    let warnings = server.said().lines().filter(|line| line.starts_with("portslice: warning: 0.0.0.0:")).count();
    assert_eq!(warnings, 1, "{}", server.said());

    host.portslice(["serve", "--listen", &place]).refused(7, "somebody else does");
    let port = format!("127.0.0.1:{}", server.port);
    host.portslice(["serve", "--listen", &port]).refused(4, "somebody else does");
    host.portslice(["serve", "--listen", "localhost:1"]).refused(2, "no place to listen");
    host.portslice(["serve", "--listen", "192.0.2.1:1"]).refused(1, "cannot listen on 192.0.2.1:1");
    assert_eq!(client::over_unix(&path, &get("/healthz")).status, 200, "those that were refused disturbed it");
    server.end();
    assert!(!path.exists(), "the socket outlives its server");
}

#[test]
fn sockets_of_systemd() {
    let host = Host::new("serve-systemd");
    let path = host.dir.join("activated.sock");
    let socket = UnixListener::bind(&path).expect("a socket");
    let server = Server::inheriting(&host, socket);
    assert_eq!(client::over_unix(&path, &get("/healthz")).status, 200);
    server.end();
    assert!(path.exists(), "it is systemd's to remove");
}

#[test]
fn health_says_what_is_wrong() {
    let host = Host::with("serve-health").unprepared().build();
    let server = Server::start(&host, &["--listen", "127.0.0.1:0"]);
    let sick = server.ask("/healthz");
    assert!(sick.status == 503 && sick.body == "the host is not prepared: run `portslice setup`\n", "{sick:?}");
    assert_eq!(server.ask("/monitor/statistics").is(200, "application/json").body, "[]");
    host.portslice(["setup"]).ok();
    assert_eq!(server.ask("/healthz").status, 200);
    let record = host.state_dir().join("host.json");
    let kept = std::fs::read(&record).expect("the record");
    std::fs::write(&record, "{").expect("damage");
    for path in ["/healthz", "/monitor/statistics", "/metrics"] {
        let sick = server.ask(path);
        assert!(sick.status == 503 && sick.body.contains("host.json is damaged"), "{path}: {sick:?}");
        assert_eq!(sick.body.lines().count(), 1, "{sick:?}");
    }
    std::fs::write(&record, kept).expect("mended");
    assert_eq!(server.ask("/healthz").status, 200);
    server.end();
}

#[test]
fn rates_have_percentiles() {
    let config = "ports = \"31000-31999\"\nrate_statistics_window = \"600ms\"\nrate_statistics_interval = \"20ms\"\n";
    let host = Host::with("serve-rates").config(config).build();
    let one = host.bare("one", &[]);
    let server = Server::start(&host, &["--listen", "127.0.0.1:0"]);
    let rates = || {
        let all = server.ask("/monitor/statistics").json();
        all[0]["statistics"]["net_rate_statistics"].clone()
    };
    assert!(eventually(|| rates()["tx_packet_rate"]["samples"].as_u64() > Some(5)), "{}", rates());
    talk(&one);
    let busy = rates();
    assert!(
        busy["tx_packet_rate"]["max"].as_f64() > Some(1.0) && busy["rx_rate"]["max"].as_f64() > Some(1.0),
        "{busy}"
    );
    assert_eq!((&busy["tx_rate"]["min"], &busy["rx_error_rate"]["max"]), (&Value::from(0.0), &Value::from(0.0)));
    assert_eq!(busy["sampling_window_secs"], 0.6);
    assert_eq!(busy["sampling_interval_secs"], 0.02);
    assert!(eventually(|| rates()["tx_packet_rate"]["max"] == 0.0), "the window moves on: {}", rates());
    // another container under the same id is not the continuation of this one
    one.detach();
    let _again = host.bare("one", &[]);
    assert!(eventually(|| rates()["tx_packet_rate"]["samples"].as_u64() > Some(1)), "{}", rates());
    assert_eq!(rates()["tx_packet_rate"]["max"], 0.0);
    server.end();
}
