//! Names that runtimes ask for by their own words: CNI's portMappings, as containerd, Nomad and Mesos give them, netavark's, and
//! the annotation of a bundle.

use super::*;
use crate::lab::bundle::Bundle;
use crate::lab::cni::Attachment;
use crate::lab::host::binary;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;

#[track_caller]
fn serves(host: &Host, ns: &Ns, inside: u16, outside: u16) {
    let server = listening(ns, ANY6, inside);
    assert_eq!(port(&server), inside);
    talks(&host.peer, &server, SocketAddr::new(HOST4, outside), [outside, inside]);
    talks(ns, &server, SocketAddr::new(LO4, inside), [inside, inside]);
}

fn names(host: &Host) -> Value {
    host.list()[0]["members"][0]["port_names"].clone()
}

#[test]
fn port_mappings_of_cni_name_ports() {
    let host = Host::with("named-cni").judged("require").build();
    let ns = Ns::net_only("container");
    let mapping = |outside: u16, inside: u16, protocol: &str| json!({"hostPort": outside, "containerPort": inside, "protocol": protocol});
    let mapped =
        |mappings: Value| Attachment::new("web", &ns.path()).with("runtimeConfig", json!({"portMappings": mappings}));
    // Nomad gives both protocols (`port "http" { static = 31000, to = 80 }`).
    let attachment = mapped(json!([
        mapping(31_000, 80, "tcp"),
        mapping(31_000, 80, "udp"),
        mapping(31_053, 53, "udp"),
        mapping(31_004, 31_004, "tcp"),
    ]));
    let result = attachment.add(&host);
    assert_eq!(names(&host), "31000:80,31053:53/udp");
    assert_eq!(host.list()[0]["ports"], "31000,31004,31053");
    serves(&host, &ns, 80, 31_000);
    serves(&host, &ns, 31_004, 31_004);
    attachment.check(&host, &result).ok();
    assert_eq!(attachment.add(&host), result, "once more changes nothing");
    attachment.del(&host);
    for (mappings, words) in [
        (json!([mapping(31_000, 80, "tcp"), mapping(31_001, 80, "tcp")]), "ports 31000 and 31001 are both named 80"),
        (json!([mapping(31_000, 80, "sctp")]), "ports of \"sctp\" have no names"),
        (json!([mapping(31_000, 0, "tcp")]), "host port 31000 for container port 0: give 1 to 65535"),
    ] {
        mapped(mappings).call(&host, "ADD").failed(7, words);
    }
    assert_eq!(host.ids(), [""; 0]);
}

/// As the `network/cni` isolator of Mesos tells of a `container_port` (network_info.port_mappings).
#[test]
fn container_ports_of_mesos_name_ports() {
    let host = Host::with("named-mesos").judged("require").build();
    let ns = Ns::net_only("container");
    let mappings = json!([{"host_port": 31_000, "container_port": 8080, "protocol": "tcp"}]);
    let args = json!({"org.apache.mesos": {"network_info": {"name": "portslice", "port_mappings": mappings}}});
    let attachment = Attachment::new("task", &ns.path()).with("args", args);
    attachment.add(&host);
    assert_eq!(names(&host), "31000:8080/tcp");
    serves(&host, &ns, 8080, 31_000);
    attachment.del(&host);
}

#[test]
fn ports_that_podman_publishes_have_names() {
    let host = Host::with("named-netavark").judged("require").build();
    let ns = Ns::net_only("container");
    let mut call: Value = serde_json::from_str(include_str!("../../tests/netavark/container.json")).expect("JSON");
    call["port_mappings"] =
        json!([{"container_port": 80, "host_ip": "", "host_port": 31_700, "protocol": "tcp", "range": 2}]);
    let plugin = |verb: &str| {
        let program = binary("portslice-netavark".as_ref());
        host.fed(&[program.into(), verb.into(), ns.path().into()], call.to_string()).ok()
    };
    plugin("setup");
    assert_eq!(names(&host), "31700-31701:80-81/tcp");
    serves(&host, &ns, 80, 31_700);
    serves(&host, &ns, 81, 31_701);
    plugin("teardown");
    assert_eq!(host.ids(), [""; 0]);
}

/// A server of the root file system that is told nothing and listens on 80, twice on one host, by a real runtime.
#[test]
fn a_server_that_insists_on_80_runs_twice() {
    let host = Host::with("named-runc").judged("require").build();
    let runtime = host.runtime("runc");
    let bundle = |name: &str, ports: &str| {
        let bundle = Bundle::new(&host, name, &["httpd", "-f", "-p", "80", "-h", "/www"]);
        bundle.sliced().annotation("portslice/ports", ports)
    };
    let (one, two) = (bundle("one", "31000:80"), bundle("two", "31001:80/tcp"));
    let www = host.dir.join("rootfs/www");
    std::fs::create_dir_all(&www).expect("www");
    std::fs::write(www.join("index.html"), "named").expect("a page");
    let running = [runtime.start(&one), runtime.start(&two)];
    let page = |ns: &Ns, to: SocketAddr| {
        let answer = ns.inside(|| {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        });
        answer.is_ok_and(|answer: String| answer.ends_with("named"))
    };
    for (container, outside) in running.iter().zip([31_000, 31_001]) {
        for client in [&host.peer, &host.ns] {
            let to = SocketAddr::new(HOST4, outside);
            assert!(wait::eventually(|| page(client, to)), "{} at {to}", client.name);
        }
        let inside = container.exec(&["wget", "-qO-", "http://127.0.0.1:80/index.html"]).ok();
        assert_eq!(inside.stdout, "named", "{inside}");
    }
    for container in &running {
        container.delete();
    }
    assert_eq!(host.ids(), [""; 0]);
}
