//! Servers of TCP at their default ports: nginx at 80, redis at 6379, iperf3 at 5201.

use super::*;
use serde_json::Value;
use std::fs;

#[test]
fn two_of_nginx_listen_on_80() {
    let (host, containers) = two("suites-nginx", 80);
    let programs = containers.each_ref().map(|container| {
        fs::write(Program::directory(&host, &container.id).join("index.html"), &container.id).expect("a page");
        let script = "
            own root /var/lib/nginx
            own root /var/log/nginx
            mount --bind . /var/www/html
            exec nginx -g 'daemon off;'";
        Program::start(&host, &container.ns, &container.id, script)
    });
    let page = |ns: &Ns, to: SocketAddr| {
        let answer = request(ns, to, "GET /index.html HTTP/1.0\r\n\r\n")?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        if head.contains("Server: nginx") { Ok(body.to_owned()) } else { Err(io::Error::other(answer)) }
    };
    let servers = Servers { host: &host, containers: &containers, inside: 80, ask: &page };
    servers.ready(&programs);
    servers.reached_at_the_hosts_addresses();
    servers.reached_on_loopback();
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
