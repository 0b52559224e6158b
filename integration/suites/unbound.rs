//! unbound at port 53: it picks its own source ports at random, most of which are somebody else's.

use super::*;
use std::fs;

const QUERIES: u64 = 300;

/// The part of its configuration that serves others, and asks the lab's server of names in place of the Internet's.
const CONFIG: &str = "
server:
    interface: 0.0.0.0
    interface: ::0
    access-control: 0.0.0.0/0 allow
    access-control: ::/0 allow
    local-data: \"who.here. A WHO\"
forward-zone:
    name: \".\"
    forward-addr: PEER
";

#[test]
fn two_of_unbound_listen_on_53_and_get_every_answer() {
    let (host, containers) = two("suites-unbound", 53);
    let upstream = dns::Server::start(&host.peer, PEER4);
    let names = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
    let programs = [0, 1].map(|n| {
        let id = &containers[n].id;
        let config = CONFIG.replace("WHO", &names[n].to_string()).replace("PEER", &PEER4.to_string());
        fs::write(Program::directory(&host, id).join("portslice.conf"), config).expect("a configuration");
        let script = "
            own unbound /var/lib/unbound
            mount -t tmpfs none /etc/unbound/unbound.conf.d
            cp portslice.conf /etc/unbound/unbound.conf.d
            exec unbound -d -p";
        Program::start(&host, &containers[n].ns, id, script)
    });
    let who = |ns: &Ns, to: SocketAddr| {
        let said = dns::resolve_name(ns, to, "who.here")?;
        let n = names.iter().position(|name| *name == said).ok_or_else(|| io::Error::other(said.to_string()))?;
        Ok(containers[n].id.clone())
    };
    let servers = Servers { host: &host, containers: &containers, inside: 53, ask: &who };
    servers.ready(&programs);
    servers.reached_at_the_hosts_addresses();
    servers.reached_on_loopback();
    for (n, outside) in OUTSIDE.into_iter().enumerate() {
        let (before, mut answers) = (upstream.asked(), 0);
        for query in 0..QUERIES {
            let name = format!("q{query}.of-{n}.example");
            match dns::resolve_name(&host.peer, SocketAddr::new(HOST4, outside), &name) {
                Ok(said) => answers += u64::from(said == dns::ANSWER),
                Err(e) => println!("{name}: {e}"),
            }
        }
        assert_eq!(answers, QUERIES, "{}", programs[n].said());
        // It asks again where no answer comes.
        let asked = upstream.asked() - before;
        assert!((QUERIES..QUERIES + QUERIES / 10).contains(&asked), "{asked} questions for {QUERIES} answers");
    }
}
