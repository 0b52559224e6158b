//! The range that connections of a container leave from is its block, whatever root inside writes.

use super::two;
use crate::lab::*;
use std::io;

const RANGE: &str = "net/ipv4/ip_local_port_range";

/// What writing a setting of a namespace comes to.
fn write(ns: &Ns, key: &str, value: &str) -> Result<(), Option<i32>> {
    let written = ns.inside(|| std::fs::write(format!("/proc/sys/{key}"), value));
    written.map_err(|e: io::Error| e.raw_os_error())
}

fn range(ns: &Ns) -> String {
    let text = ns.sysctl("ipv4.ip_local_port_range");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn root_inside_narrows_the_range_and_never_widens_it() {
    let host = Host::with("binds-range").judged("require").build();
    let (a, b) = two(&host);
    let (first, last) = (*a.block.start(), *a.block.end());
    let of_block = format!("{first} {last}");
    assert_eq!(range(&a.ns), of_block);
    let wider = [
        format!("{} {last}", first - 1),
        format!("{first} {}", last + 1),
        format!("{} {}", b.block.start(), b.block.end()),
        format!("{first} {}", b.block.end()),
        format!("31000 {last}"),
        "1024 65535".to_owned(),
        "1024".to_owned(),
        format!("{first:#x} {:#x}", last + 1),
        format!("0{first:o} 0{:o}", last + 1),
        format!("{first}\t{}\n", last + 1),
        format!("{first}{}{}", " ".repeat(100), last + 1),
        format!("{first} -1"),
    ];
    for value in &wider {
        assert_eq!(write(&a.ns, RANGE, value), Err(Some(libc::EPERM)), "{value:?}");
        assert_eq!(range(&a.ns), of_block, "{value:?}");
    }
    for (from, to) in [(first, last - 1), (first + 1, last), (last, last), (first, last)] {
        for value in [format!("{from} {to}"), format!("{from}\t{to}\n"), format!("  {from}   {to} ")] {
            assert_eq!(write(&a.ns, RANGE, &value), Ok(()), "{value:?}");
            assert_eq!(range(&a.ns), format!("{from} {to}"), "{value:?}");
        }
    }
    assert_eq!(write(&a.ns, RANGE, &format!("{last} {first}")), Err(Some(libc::EPERM)), "the wrong way round");
    assert_eq!(write(&a.ns, "net/ipv4/tcp_fin_timeout", "33"), Ok(()), "any other setting");
    // It is the container's range that is kept, and only as long as it is one.
    for ns in [&host.ns, &host.peer] {
        let before = range(ns);
        assert_eq!(write(ns, RANGE, "2048 65000"), Ok(()), "{}", ns.name);
        assert_eq!(write(ns, RANGE, &before), Ok(()), "{}", ns.name);
    }
    let gaps = host.bare("gaps", &["--ports", "31100,31116"]);
    assert_eq!(write(&gaps.ns, RANGE, "31100 31116"), Err(Some(libc::EPERM)), "what lies between is not its own");
    a.detach();
    assert_eq!(write(&a.ns, RANGE, "2048 65000"), Ok(()), "it is no container any more");
}
