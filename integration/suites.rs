//! Promise: real programs, and the suites that they are tested with, find inside what they find on a plain host. Servers listen where
//! their packages have them listen, twice on one host, and are reached at two ports.

mod compare;
mod go;
mod node;
mod postgresql;
mod program;
mod python;
mod servers;
mod unbound;

use crate::lab::*;
use program::Program;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long an answer may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// The ports by which everybody else knows the two containers.
const OUTSIDE: [u16; 2] = [31_000, 31_001];

/// Two containers whose programs both have the port `inside`.
fn two(name: &str, inside: u16) -> (Host, [Container; 2]) {
    let host = Host::with(name).judged("require").build();
    let [a, b] = OUTSIDE.map(|outside| format!("{outside}:{inside}"));
    let containers = [host.bare("a", &["--ports", &a]), host.bare("b", &["--ports", &b])];
    (host, containers)
}

/// Asks a server from a namespace, and returns what it calls itself.
type Ask<'a> = &'a dyn Fn(&Ns, SocketAddr) -> io::Result<String>;

/// Two servers are to be told apart, by whoever asks wherever.
struct Servers<'a> {
    host: &'a Host,
    containers: &'a [Container; 2],
    inside: u16,
    ask: Ask<'a>,
}

impl Servers<'_> {
    /// Waits until both answer within their containers.
    #[track_caller]
    fn ready(&self, programs: &[Program; 2]) {
        for (container, program) in self.containers.iter().zip(programs) {
            let at = SocketAddr::new(LO4, self.inside);
            let answers = || (self.ask)(&container.ns, at).is_ok();
            assert!(wait::eventually(answers), "{} does not answer at {at}:\n{}", container.id, program.said());
        }
    }

    /// Both are reached at their outside ports by the peer, the host and each other, and from inside at both numbers.
    #[track_caller]
    fn reached_at_the_hosts_addresses(&self) {
        for (n, container) in self.containers.iter().enumerate() {
            let other = &self.containers[1 - n];
            for to in [HOST4, HOST6] {
                for client in [&self.host.peer, &self.host.ns, &other.ns] {
                    self.is(container, client, SocketAddr::new(to, OUTSIDE[n]));
                }
                for number in [self.inside, OUTSIDE[n]] {
                    self.is(container, &container.ns, SocketAddr::new(to, number));
                }
            }
        }
    }

    /// Both are reached on loopback: by the host and each other at their outside ports, and from inside at both numbers.
    #[track_caller]
    fn reached_on_loopback(&self) {
        for (n, container) in self.containers.iter().enumerate() {
            for to in [LO4, LO6] {
                for client in [&self.host.ns, &self.containers[1 - n].ns] {
                    self.is(container, client, SocketAddr::new(to, OUTSIDE[n]));
                }
                for number in [self.inside, OUTSIDE[n]] {
                    self.is(container, &container.ns, SocketAddr::new(to, number));
                }
            }
        }
    }

    #[track_caller]
    fn is(&self, container: &Container, client: &Ns, to: SocketAddr) {
        let said = (self.ask)(client, to).unwrap_or_else(|e| panic!("{} to {to}: {e}", client.name));
        assert_eq!(said, container.id, "{} to {to}", client.name);
    }
}

/// Sends a request over a connection of its own, and returns everything that comes back until its end.
fn request(ns: &Ns, to: SocketAddr, request: &str) -> io::Result<String> {
    ns.inside(|| {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    })
}

/// Is a connection refused?
#[track_caller]
fn refused(ns: &Ns, to: SocketAddr) {
    let done = ns.inside(|| TcpStream::connect_timeout(&to, PATIENCE).map(drop));
    let kind = done.as_ref().err().map(io::Error::kind);
    assert_eq!(kind, Some(io::ErrorKind::ConnectionRefused), "{} to {to}: {done:?}", ns.name);
}
