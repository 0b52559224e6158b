//! A host without a usable uplink.

use super::{attach_refused, refused, spare};
use crate::lab::probe::assert_reaches;
use crate::lab::still::Still;
use crate::lab::*;
use std::net::SocketAddr;

#[test]
fn an_uplink_that_cannot_be_one() {
    let host = Host::with("refuse-uplink").unprepared().build();
    let good = std::fs::read_to_string(host.config_file()).expect("config");
    host.ns.ip("link add bare0 type veth peer name bare1\nlink set bare0 up\nlink set bare1 up\n\
                link add down0 type veth peer name down1\naddr add 10.99.0.1/24 dev down0");
    let (still, spare) = (Still::of(&host), spare());
    let rows = [
        ("nope0", &["nope0", "config key uplink"]),
        ("bare0", &["bare0", "global address"]),
        ("down0", &["down0", "bring it up"]),
        ("lo", &["lo", "config key uplink"]),
    ];
    for (uplink, says) in rows {
        std::fs::write(host.config_file(), format!("{good}uplink = \"{uplink}\"\n")).expect("config");
        attach_refused(&host, &spare, uplink, &[], 5, says);
        refused(uplink, &host.portslice(["setup"]), 5, says);
        still.check_all(uplink);
    }
    std::fs::write(host.config_file(), &good).expect("config");
    host.ns.ip("link del bare0\nlink del down0");
    host.ns.ip("route del default via 10.77.0.1 dev eth0\nroute del default via fd77::1 dev eth0");
    let still = Still::of(&host);
    attach_refused(&host, &spare, "no default route", &[], 5, &["default route", "config key uplink"]);
    refused("no default route", &host.portslice(["setup"]), 5, &["default route", "config key uplink"]);
    still.check_all("no default route");
    assert!(!host.state_dir().exists(), "a refusal made {:?}", host.state_dir());
    // named, it needs no default route
    std::fs::write(host.config_file(), format!("{good}uplink = \"eth0\"\n")).expect("config");
    let named = host.bare("named", &["--ports", "31000"]);
    let _echo = Echo::start(&named.ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 31_000));
    assert_reaches("P->named", &host.peer, Proto::Tcp, SocketAddr::new(HOST4, 31_000));
    host.ns.ip("route add default via 10.77.0.1 dev eth0\nroute add default via fd77::1 dev eth0");
}
