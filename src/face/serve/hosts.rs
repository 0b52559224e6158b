//! Which hosts the server answers for, by a request's `Host`.
//!
//! A page that somebody's browser shows may ask this server under the page's own name, once that name leads here (DNS
//! rebinding); the browser then hands the answer to the page. The name in the request gives that away: it is none of ours.

use std::net::IpAddr;

use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri};

use crate::config::HostName;
use crate::refusal::quoted;

/// How a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// Through a unix socket: no browser does, and every host is meant.
    Unix,
    /// Through TCP, to this address of ours.
    Tcp(Option<IpAddr>),
}

/// The hosts that requests over TCP may name, beside the address they came to and this machine's loopback addresses.
pub struct Hosts {
    /// This machine's own name, in lower case.
    machine: Option<String>,
    /// Names from the configuration.
    configured: Vec<HostName>,
}

impl Hosts {
    /// Of this machine.
    pub fn of(configured: &[HostName]) -> Self {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let machine = name.map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty());
        Hosts { machine, configured: configured.to_vec() }
    }

    /// Refuses a request that is meant for another host; the error is one line. A request that names none is no browser's.
    pub fn check(&self, came: Came, uri: &Uri, headers: &HeaderMap) -> Result<(), String> {
        let Came::Tcp(own) = came else { return Ok(()) };
        let named = headers.get_all(HOST).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        // RFC 9112, 3.2.2: what stands in the request's first line goes before the header. Both have to be ours.
        let named = named.chain(uri.authority().map(|authority| authority.to_string()));
        match named.into_iter().find(|name| !self.is_ours(name, own)) {
            None => Ok(()),
            Some(other) => Err(format!(
                "this server is not meant for the host {}: ask for it by its address, or name that host in the key \
                 serve_hosts",
                quoted(&other)
            )),
        }
    }

    fn is_ours(&self, named: &str, own: Option<IpAddr>) -> bool {
        let Some(host) = host_of(named) else { return false };
        if let Ok(address) = host.parse::<IpAddr>() {
            let address = address.to_canonical();
            if address.is_loopback() || own.is_some_and(|own| own.to_canonical() == address) {
                return true;
            }
        }
        host == "localhost" || self.machine.as_ref() == Some(&host) || self.configured.iter().any(|name| name.is(&host))
    }
}

/// The host of `host:port`, in lower case, without brackets and the root's dot.
fn host_of(named: &str) -> Option<String> {
    let authority: Authority = named.parse().ok().filter(|_| !named.contains('@'))?;
    let host = authority.host();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_our_own_names_are_answered() {
        let configured = vec!["metrics.example.org".parse().unwrap()];
        let hosts = Hosts { machine: Some("node1".into()), configured };
        let own = Some("::ffff:192.0.2.7".parse().unwrap());
        let check = |came, host: &str| {
            let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_str(host).unwrap())]);
            hosts.check(came, &Uri::from_static("/metrics"), &headers)
        };
        for host in [
            "127.0.0.1",
            "127.0.0.1:5051",
            "localhost",
            "LocalHost:5051",
            "localhost.",
            "[::1]:5051",
            "[::1]",
            "192.0.2.7:9",
            "node1:5051",
            "Metrics.Example.org",
        ] {
            assert_eq!(check(Came::Tcp(own), host), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:5051",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.0.2.8",
            "[2001:db8::1]:5051",
            "localhost@evil.example",
            "evil@localhost",
            "node1.evil.example",
            "",
            "::1",
        ] {
            let why = check(Came::Tcp(own), host).expect_err(host);
            assert!(why.contains("serve_hosts") && why.contains(&quoted(host)) && !why.contains('\n'), "{why}");
            assert_eq!(check(Came::Unix, host), Ok(()), "{host}");
        }
        let none = HeaderMap::new();
        assert_eq!(hosts.check(Came::Tcp(own), &Uri::from_static("/metrics"), &none), Ok(()));
        assert!(hosts.check(Came::Tcp(own), &Uri::from_static("http://evil.example/metrics"), &none).is_err());
    }
}
