//! What can befall slices.

use super::is_mended;
use crate::lab::*;

#[test]
fn containers_that_ended_and_nobody_told() {
    let host = Host::new("doctor-gone");
    let (a, b) = (host.bare("a", &["--ports", "31000"]), host.bare("b", &["--ports", "31001"]));
    let _c = host.bare("c", &[]);
    a.kill();
    b.kill();
    is_mended(&host, "containers", "warn", &["a, b: its container is gone"]);
    assert_eq!(host.ids(), ["c"]);
}

#[test]
fn a_lease_that_cannot_be_read() {
    let host = Host::new("doctor-lease");
    let _c = host.bare("c", &["--ports", "31000"]);
    let lease = host.state_dir().join("leases/c");
    std::fs::write(&lease, "{\"format\":").expect("lease");
    is_mended(&host, "containers", "fail", &["c", "cannot be read"]);
    std::fs::remove_file(&lease).expect("lease");
    is_mended(&host, "containers", "fail", &["c", "its lease is lost"]);
    assert_eq!(host.ids(), ["c"]);
}
