//! Requests that name a host: a page in somebody's browser must not be able to read the statistics (DNS rebinding).

use super::client::{Server, over_unix};
use crate::lab::*;

fn request(host: &str) -> String {
    format!("GET /containers HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

#[test]
fn only_hosts_that_are_meant_are_answered() {
    let config = "ports = \"31000-31999\"\nserve_hosts = [\"Metrics.example.org\"]\n";
    let host = Host::with("serve-hosts").config(config).build();
    let _one = host.bare("one", &[]);
    let path = host.dir.join("s.sock");
    let place = format!("unix:{}", path.display());
    let server = Server::start(&host, &["--listen", "127.0.0.1:0", "--listen", &place]);
    let port = server.port;
    for named in ["127.0.0.1", "localhost", "[::1]:5051", "LOCALHOST:1", "metrics.example.org:80"] {
        server.send(&request(named)).is(200, "application/json");
    }
    server.send(&request(&format!("localhost:{port}"))).is(200, "application/json");
    for named in ["evil.example", &format!("evil.example:{port}"), "127.0.0.1.evil.example", "192.0.2.9", "x@localhost"]
    {
        let refused = server.send(&request(named)).is(421, "text/plain; charset=utf-8");
        assert!(refused.body.contains("serve_hosts") && refused.body.lines().count() == 1, "{named}: {refused:?}");
        assert!(!refused.body.contains("\"one\""), "{named}: {refused:?}");
        assert_eq!(over_unix(&path, &request(named)).status, 200, "{named}, through the unix socket");
    }
    let absolute = "GET http://evil.example/containers HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(server.send(absolute).status, 421, "the host of the first line");
    let nameless = "GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n";
    assert_eq!(server.send(nameless).status, 200, "no browser asks without a host");
    server.end();
}

/// Who listens on every address is asked by any of them, but not by others.
#[test]
fn the_address_that_was_connected_to_is_meant() {
    let host = Host::new("serve-wildcard");
    let server = Server::start(&host, &["--listen", "127.0.0.1:0", "--listen", "0.0.0.0:7051"]);
    for (named, status) in [(HOST4.to_string(), 200), (format!("{HOST4}:7051"), 200), (PEER4.to_string(), 421)] {
        let stream = host.inside(|| std::net::TcpStream::connect((HOST4, 7051)).expect("connect"));
        let answer = super::client::exchange(stream, &request(&named));
        assert_eq!(answer.status, status, "{named}: {answer:?}");
    }
    server.end();
}
