//! Servers of Node, with its own ways to bind: of several processes with one socket among them.

use super::*;
use std::fs;

/// What comes of the steps of `node.js`, on any host.
const OUTCOMES: &str = "\
a port of the kernel's choice: reached at 127.0.0.1, ::1, 10.77.0.2
a port that is taken: EADDRINUSE
the same for 127.0.0.1: EADDRINUSE
a port that is free again: listens
a chosen source port: seen by the server
IPv6 and IPv4: both reached
IPv4 beside both: EADDRINUSE
IPv4 beside IPv6 alone: listens
datagrams: answered
datagrams at a port that is taken: EADDRINUSE
datagrams at a shared port: bound
two workers, the first process accepts: both answer
two workers accept: both answer
a worker with a socket of its own: EADDRINUSE
";

#[test]
fn servers_of_node_come_to_the_same_as_on_a_plain_host() {
    let plain = Host::with("suites-node-plain").unprepared().build();
    let host = Host::with("suites-node").judged("require").build();
    let container = host.bare("node", &["--open-ports", "8000-8099"]);
    for (host, ns) in [(&plain, &plain.ns), (&host, &container.ns)] {
        let dir = Program::directory(host, "node");
        fs::write(dir.join("servers.js"), include_str!("node.js")).expect("a script");
        let mut program = Program::start(host, ns, "node", "exec /usr/bin/node servers.js 8080 10.77.0.2");
        let ended = program.ended(Duration::from_secs(60));
        assert!(ended && program.said() == OUTCOMES, "{}: ended: {ended}\n{}", ns.name, program.said());
    }
}

/// It listens at the port that examples of it have, where two of them are known by their names.
#[test]
fn two_of_node_listen_on_3000() {
    let (host, containers) = two("suites-node-named", 3000);
    let programs = containers.each_ref().map(|container| {
        let script = "exec /usr/bin/node -e \"
            const answer = (request, response) => response.end('ID at ' + request.socket.localPort);
            require('http').createServer(answer).listen(3000);\"";
        Program::start(&host, &container.ns, &container.id, &script.replace("ID", &container.id))
    });
    let who = |ns: &Ns, to: SocketAddr| {
        let answer = request(ns, to, "GET / HTTP/1.0\r\n\r\n")?;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        body.strip_suffix(" at 3000").map(str::to_owned).ok_or_else(|| io::Error::other(answer.clone()))
    };
    let servers = Servers { host: &host, containers: &containers, inside: 3000, ask: &who };
    servers.ready(&programs);
    servers.reached_at_the_hosts_addresses();
    servers.reached_on_loopback();
}
