//! Servers of TCP at their default ports: nginx at 80, redis at 6379, iperf3 at 5201.

use super::*;
use serde_json::Value;
use std::fs;

/// nginx as its package configures it, with a page that has a name.
fn nginx(host: &Host, ns: &Ns, name: &str) -> Program {
    fs::write(Program::directory(host, name).join("index.html"), name).expect("a page");
    let script = "
        own root /var/lib/nginx
        own root /var/log/nginx
        mount --bind . /var/www/html
        exec nginx -g 'daemon off;'";
    Program::start(host, ns, name, script)
}

fn page(ns: &Ns, to: SocketAddr) -> io::Result<String> {
    let answer = request(ns, to, "GET /index.html HTTP/1.0\r\n\r\n")?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    if head.contains("Server: nginx") { Ok(body.to_owned()) } else { Err(io::Error::other(answer)) }
}

#[test]
fn two_of_nginx_listen_on_80() {
    let (host, containers) = two("suites-nginx", 80);
    let programs = containers.each_ref().map(|container| nginx(&host, &container.ns, &container.id));
    let servers = Servers { host: &host, containers: &containers, inside: 80, ask: &page };
    servers.ready(&programs);
    servers.reached_at_the_hosts_addresses();
    servers.reached_on_loopback();
}

/// Where 80 is open to everybody, as on one host: who comes second is told, be it on the host itself, and has it after the first.
#[test]
fn the_second_nginx_is_told_that_80_is_taken() {
    let host = Host::with("suites-taken").judged("require").build();
    let [a, b] = ["a", "b"].map(|id| host.bare(id, &["--open-ports", "80"]));
    let clients = [&host.peer, &host.ns, &a.ns, &b.ns];
    let serves = |name: &str, program: &Program| {
        for client in clients {
            for to in [HOST4, HOST6] {
                let answers = || page(client, SocketAddr::new(to, 80)).is_ok_and(|said| said == name);
                let why = || host.portslice(["explain", "80"]).stdout + &program.said();
                assert!(wait::eventually(answers), "{} at {to}: no {name}: {}", client.name, why());
            }
        }
    };
    let first = nginx(&host, &a.ns, "first");
    serves("first", &first);
    for ns in [&b.ns, &host.ns, &a.ns] {
        let mut second = nginx(&host, ns, "second");
        assert!(second.ended(Duration::from_secs(30)), "{}: two have 80", ns.name);
        let said = second.said();
        assert!(said.contains("bind() to 0.0.0.0:80 failed (98: Address already in use)"), "{}: {said}", ns.name);
        drop(second);
        fs::remove_dir_all(Program::directory(&host, "second")).expect("its files");
    }
    drop(first);
    for (ns, name) in [(&b.ns, "after"), (&host.ns, "then"), (&a.ns, "again")] {
        let next = nginx(&host, ns, name);
        serves(name, &next);
    }
}

/// Its package has it listen on loopback alone; told so while it runs, it listens everywhere.
#[test]
fn two_of_redis_listen_on_6379() {
    let (host, containers) = two("suites-redis", 6379);
    let programs = containers.each_ref().map(|container| {
        let script = "
            own redis /run/redis
            own redis /var/lib/redis
            cd /var/lib/redis
            as redis redis-server /etc/redis/redis.conf --daemonize no --logfile ''";
        Program::start(&host, &container.ns, &container.id, script)
    });
    let who = |ns: &Ns, to: SocketAddr| {
        let answer = request(ns, to, "GET who\r\nQUIT\r\n")?;
        let lines: Vec<&str> = answer.lines().collect();
        if let ["$1", who, "+OK"] = lines[..] { Ok(who.to_owned()) } else { Err(io::Error::other(answer)) }
    };
    let servers = Servers { host: &host, containers: &containers, inside: 6379, ask: &who };
    for (container, program) in containers.iter().zip(&programs) {
        let named =
            || request(&container.ns, SocketAddr::new(LO4, 6379), &format!("SET who {}\r\nQUIT\r\n", container.id));
        assert!(wait::eventually(|| named().is_ok()), "{}: {}", container.id, program.said());
    }
    servers.ready(&programs);
    servers.reached_on_loopback();
    for outside in OUTSIDE {
        refused(&host.peer, SocketAddr::new(HOST4, outside));
    }
    for container in &containers {
        let change = "CONFIG SET protected-mode no\r\nCONFIG SET bind \"* -::*\"\r\nQUIT\r\n";
        let done = request(&container.ns, SocketAddr::new(LO6, 6379), change).expect("redis");
        assert_eq!(done, "+OK\r\n".repeat(3), "{}", container.id);
    }
    servers.reached_at_the_hosts_addresses();
    servers.reached_on_loopback();
}

/// Connections in both directions, and datagrams on the same number.
#[test]
fn two_of_iperf3_listen_on_5201() {
    let (host, containers) = two("suites-iperf3", 5201);
    let programs = containers
        .each_ref()
        .map(|container| Program::start(&host, &container.ns, &container.id, "exec iperf3 --server --forceflush"));
    for ((n, container), program) in containers.iter().enumerate().zip(&programs) {
        let listens = || program.said().contains("Server listening on 5201");
        assert!(wait::eventually(listens), "{}: {}", container.id, program.said());
        for (to, client) in [(HOST4, &host.peer), (HOST6, &host.peer), (HOST4, &containers[1 - n].ns), (LO4, &host.ns)]
        {
            for more in [&[][..], &["--reverse"], &["--udp", "--bitrate", "20M", "--length", "1000"]] {
                let port = OUTSIDE[n].to_string();
                let mut command = client.command("iperf3");
                command.args(["--json", "--bytes", "200K", "--client", &to.to_string(), "--port", &port]).args(more);
                let measured = run::run(&mut command, Duration::from_secs(20));
                let what = format!("{} to {} at {to} {more:?}", client.name, container.id);
                let said = measured.json();
                assert_eq!((said.get("error"), measured.code), (None, Some(0)), "{what}: {measured}");
                let Value::Array(streams) = &said["start"]["connected"] else { panic!("{what}: {said}") };
                let own = streams[0]["local_port"].as_u64().expect("a port");
                // each of them tells of its streams, by what the programs call their own ends
                let stream =
                    format!("port 5201 connected to {} port {own}", streams[0]["local_host"].as_str().unwrap());
                let told = || programs.each_ref().map(|program| program.said().contains(&stream));
                assert!(wait::eventually(|| told()[n]), "{what}: nothing of {stream}: {}", program.said());
                assert!(!told()[1 - n], "{what}: {stream} is the other one's");
            }
        }
    }
}
