//! Many clients at once, and clients that are broken or want to harm.

use super::client::{Answer, PATIENCE, Server, get};
use crate::lab::Host;
use crate::lab::wait::eventually;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: usize = 64;
const LASTING: Duration = Duration::from_secs(30);
/// No honest client waits longer for a small answer.
const PROMPT: Duration = Duration::from_millis(50);
/// As many connections as the server keeps at once.
const ROOM: usize = 256;

fn descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("descriptors").count()
}

/// A host with enough containers that an answer does not fit into a socket's buffers.
fn host(name: &str) -> (Host, Vec<crate::lab::Container>) {
    let config = "ports = \"31000-31999\"\nephemeral_ports_per_container = 16\nsnmp_statistics = true\n";
    let host = Host::with(name).config(config).build();
    let containers = (0..12).map(|n| host.bare(&format!("c{n}"), &[])).collect();
    (host, containers)
}

#[test]
fn many_clients_at_once() {
    let (host, _containers) = host("serve-many");
    let server = Server::start(&host, &["--listen", "127.0.0.1:0"]);
    server.ask("/metrics");
    // it says where it serves before it has opened all it needs
    server.ask("/healthz");
    let before = descriptors(&server);
    let answers = AtomicUsize::new(0);
    let begun = Instant::now();
    std::thread::scope(|s| {
        for n in 0..CLIENTS {
            let (server, answers) = (&server, &answers);
            s.spawn(move || {
                let paths = ["/monitor/statistics", "/metrics", "/containers", "/monitor/statistics?container_id=c3"];
                while begun.elapsed() < LASTING {
                    let path = paths[(n + answers.fetch_add(1, Ordering::Relaxed)) % paths.len()];
                    let answer = server.ask(path);
                    assert_eq!(answer.status, 200, "{path}: {answer:?}");
                    match path {
                        "/metrics" => assert!(answer.body.contains("\nportslice_scrape_errors_total ")),
                        _ => assert!(!answer.json().as_array().expect("an array").is_empty()),
                    }
                }
            });
        }
    });
    println!("{} answers to {CLIENTS} clients in {LASTING:?}", answers.load(Ordering::Relaxed));
    assert!(answers.load(Ordering::Relaxed) > 10 * CLIENTS, "{answers:?} answers in {LASTING:?}");
    assert!(eventually(|| descriptors(&server) <= before), "{} descriptors, were {before}", descriptors(&server));
    server.end();
}

#[test]
fn one_connection_many_requests() {
    let (host, _containers) = host("serve-keep");
    let server = Server::start(&host, &["--listen", "127.0.0.1:0"]);
    let mut stream = server.connect();
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // pipelined: what comes back is in order and complete
    stream.write_all(request.repeat(20).as_bytes()).expect("requests");
    stream.write_all(get("/containers").as_bytes()).expect("request");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("answers");
    let text = String::from_utf8_lossy(&bytes);
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 21, "{text}");
    assert!(text.ends_with(']'), "{text}");
    // who has asked all it wants and says so still gets its answer
    let mut stream = server.connect();
    stream.write_all(get("/metrics").as_bytes()).expect("request");
    stream.shutdown(Shutdown::Write).expect("shutdown");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("answer");
    assert_eq!(Answer::of(&bytes, false).map(|answer| answer.status), Some(200));
    server.end();
}

/// The status of what comes back, 0 when the server just closes.
fn verdict(mut stream: TcpStream, text: &[u8]) -> u16 {
    let _ = stream.write_all(text);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    Answer::of(&bytes, false).map_or(0, |answer| answer.status)
}

#[test]
fn requests_that_are_none() {
    let (host, _containers) = host("serve-garbage");
    let server = Server::start(&host, &["--listen", "127.0.0.1:0"]);
    // it says where it serves before it has opened all it needs
    server.ask("/healthz");
    let before = descriptors(&server);
    let long = "x".repeat(70_000);
    let many: String = (0..2000).map(|n| format!("X-{n}: y\r\n")).collect();
    for (text, expected) in [
        ("\u{16}\u{3}\u{1}\0garbage\r\n\r\n".to_owned(), [400, 0]),
        ("GET\r\n\r\n".to_owned(), [400, 0]),
        ("GET /metrics HTTP/9.9\r\n\r\n".to_owned(), [400, 0]),
        ("GET /metrics HTTP/1.1\r\nBad Header: x\r\n\r\n".to_owned(), [400, 0]),
        ("GET /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_owned(), [400, 0]),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), [414, 431]),
        (format!("GET /metrics HTTP/1.1\r\nX: {long}\r\n\r\n"), [431, 431]),
        (format!("GET /metrics HTTP/1.1\r\n{many}\r\n"), [431, 431]),
        (format!("GET /metrics HTTP/1.1\r\nContent-Length: 70000\r\n\r\n{long}"), [413, 413]),
        (format!("POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n11170\r\n{long}"), [413, 413]),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), [400, 0]),
    ] {
        let status = verdict(server.connect(), text.as_bytes());
        // a server that closes before it has read all may lose its answer on the way
        assert!(expected.contains(&status) || (text.len() > 20_000 && status == 0), "{status}: {:.60}", text);
        assert_eq!(server.ask("/healthz").status, 200, "after {text:.60}");
    }
    assert!(eventually(|| descriptors(&server) <= before), "{} descriptors, were {before}", descriptors(&server));
    server.end();
}

/// How long an answer takes: the shortest of a few times, since on a busy machine everything waits now and then. None of them
/// waits for others to be timed out.
fn quickest(server: &Server, path: &str) -> Duration {
    let once = || {
        let begun = Instant::now();
        assert_eq!(server.ask(path).status, 200, "{path}");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(2), "{path} only after {took:?}");
        took
    };
    (0..5).map(|_| once()).min().expect("several times")
}

/// More clients than there is room for begin a request and never finish it.
#[test]
fn half_sent_requests_delay_nobody() {
    let (host, _containers) = host("serve-half");
    let server = Server::start(&host, &["--listen", "127.0.0.1:0"]);
    server.ask("/healthz");
    let begin = |text: &[u8]| {
        let mut stream = server.connect();
        stream.write_all(text).expect("half a request");
        stream
    };
    let halves: [&[u8]; 4] =
        [b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\n", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: "];
    let mut slow = Vec::new();
    for n in 0..500 {
        slow.push(begin(halves[n % halves.len()]));
        if n % 50 == 49 {
            let took = quickest(&server, "/healthz");
            assert!(took < PROMPT, "beside {n} others only after {took:?}");
        }
    }
    // also while they go on sending, and whatever is asked
    for path in ["/healthz", "/containers", "/monitor/statistics", "/metrics", "/healthz"] {
        slow.iter_mut().for_each(|stream| drop(stream.write(b"x")));
        let took = quickest(&server, path);
        let bound = if path == "/healthz" { PROMPT } else { Duration::from_secs(1) };
        assert!(took < bound, "{path} only after {took:?}");
    }
    assert!(descriptors(&server) <= ROOM + 40, "{} descriptors", descriptors(&server));
    server.end();
}

#[test]
fn clients_that_say_nothing_or_fetch_nothing() {
    let (host, _containers) = host("serve-slow");
    let server = Server::start(&host, &["--listen", "127.0.0.1:0"]);
    // it says where it serves before it has opened all it needs
    server.ask("/healthz");
    let before = descriptors(&server);

    // all the room there is, by clients that never finish their request
    let mut slow: Vec<TcpStream> = (0..ROOM).map(|_| server.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ").expect("half a request");
    }
    let begun = Instant::now();
    assert_eq!(server.ask("/healthz").status, 200, "it has room again");
    assert!(begun.elapsed() < PATIENCE, "only after {:?}", begun.elapsed());
    for mut stream in slow {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(Answer::of(&rest, false).is_none_or(|answer| answer.status == 408), "{rest:?}");
    }

    // some that ask for much and take none of it, while others are served
    let mut greedy: Vec<TcpStream> = (0..32).map(|_| server.connect()).collect();
    for stream in &mut greedy {
        stream.set_nonblocking(true).expect("nonblocking");
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(400);
        let _ = stream.write(&request);
    }
    for _ in 0..10 {
        let begun = Instant::now();
        assert_eq!(server.ask("/monitor/statistics").status, 200);
        assert!(begun.elapsed() < Duration::from_secs(5), "served after {:?}", begun.elapsed());
    }
    let held = descriptors(&server);
    assert!(held >= before + 20, "they hold nothing: {held} descriptors");
    let begun = Instant::now();
    while descriptors(&server) > before {
        assert!(
            begun.elapsed() < Duration::from_secs(45),
            "unread answers are kept: {} descriptors",
            descriptors(&server)
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(greedy);
    server.end();
}
