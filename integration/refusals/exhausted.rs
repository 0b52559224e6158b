//! Pools run out: the refusal says how many there are, who has them, and what would fit.

use super::{attach_refused, spare};
use crate::lab::probe::assert_reaches;
use crate::lab::still::Still;
use crate::lab::*;
use std::net::SocketAddr;
use std::time::Duration;

/// A pool, the size every container asks for, how many fit, and what the refusal of one more says.
type Full = (&'static str, &'static str, u32, usize, &'static [&'static str]);

fn fills_up((pool, host_range, size, fit, says): Full, name: &str) {
    let config = format!("ephemeral_ports = \"{pool}\"\nephemeral_ports_per_container = {size}\nports = \"\"\n");
    let host = Host::with(name).config(&config).port_range(host_range).build();
    let held: Vec<Container> = (1..=fit).map(|n| host.bare(&format!("c{n}"), &[])).collect();
    let mut blocks: Vec<_> = held.iter().map(|c| c.block.clone()).collect();
    blocks.sort_by_key(|b| *b.start());
    for pair in blocks.windows(2) {
        assert!(pair[0].end() < pair[1].start(), "{pool}: blocks {:?} and {:?} overlap", pair[0], pair[1]);
    }
    for block in &blocks {
        assert_eq!((block.len(), u32::from(*block.start()) % size), (size as usize, 0), "{pool}: block {block:?}");
    }
    let still = Still::of(&host);
    attach_refused(&host, &spare(), &format!("one more than {pool} holds"), &[], 3, &[&[pool, "c1"], says].concat());
    still.check_all("after the refusal");
    held[0].detach();
    assert_eq!(host.bare("again", &[]).block, held[0].block, "the only block that became free");
}

#[test]
fn the_25th_container_of_the_example() {
    fills_up(("32768-57344", "57345 60999", 1024, 24, &["1024", "24"]), "refuse-25th");
}

#[test]
fn small_blocks_run_out() {
    fills_up(("32768-33023", "57344 60999", 16, 16, &["16 ports", "holds 16"]), "refuse-small");
}

#[test]
fn sixteen_ports_carry_a_hundred_connections() {
    let host = Host::new("small-block");
    let small = host.bare("small", &["--ephemeral-ports", "16"]);
    let echo = Echo::start(&host.peer, Proto::Tcp, SocketAddr::new(PEER4, 20_000));
    for n in 0..100 {
        let local = assert_reaches(&format!("connection {n} out of a block of 16"), &small.ns, Proto::Tcp, echo.at);
        assert!(small.block.contains(&local.port()), "connection {n} came from {local}");
        // a closed connection's port is free again after a moment, not after a minute
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_largest_blocks_run_out() {
    fills_up(("16384-65535", "10000 16383", 16384, 3, &["16384", "holds 3", "c3"]), "refuse-large");
}

#[test]
fn what_would_fit_is_said() {
    let host = Host::new("refuse-fits");
    let _large = host.bare("large", &["--ephemeral-ports", "16384"]);
    let still = Still::of(&host);
    let args = ["--ephemeral-ports", "16384"];
    attach_refused(&host, &spare(), "a second block of 16384", &args, 3, &["large", "8192 would fit"]);
    still.check_all("after the refusal");
    host.bare("fits", &["--ephemeral-ports", "8192"]);
}

#[test]
fn assignable_ports_run_out() {
    let host = Host::with("refuse-auto").config("ports = \"31000-31003\"\n").build();
    let _three = host.bare("three", &["--ports", "auto:3"]);
    let still = Still::of(&host);
    attach_refused(&host, &spare(), "two of one left", &["--ports", "auto:2"], 3, &["31000-31003", "auto:2", "1"]);
    still.check_all("after the refusal");
}

#[test]
fn blocks_that_sockets_of_the_host_hold_are_named() {
    let config = "ephemeral_ports = \"32768-32895\"\nephemeral_ports_per_container = 64\nports = \"\"\n";
    let host = Host::with("refuse-sockets").config(config).build();
    let daemon = Echo::start(&host.ns, Proto::Udp, SocketAddr::new(probe::any(HOST4), 32_800));
    let one = host.bare("one", &[]);
    assert_eq!(one.block, 32_832..=32_895, "the block that the daemon's socket is not in");
    let still = Still::of(&host);
    let says = ["32768-32895", "one", "sockets of the host", "32800"];
    attach_refused(&host, &spare(), "the other block is the daemon's", &[], 3, &says);
    still.check_all("after the refusal");
    one.detach();
    let second = Echo::start(&host.ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 32_890));
    let says = ["nobody", "sockets of the host", "32800"];
    attach_refused(&host, &spare(), "both blocks are the daemons'", &[], 3, &says);
    drop(second);
    crate::lab::still::released(&host.ns, 32_890);
    host.bare("again", &[]);
    drop(daemon);
}
