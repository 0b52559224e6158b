//! What would go wrong at the next boot.

use super::{assert_clean, first_host, is_mended, write};

const KEY: &str = "net.ipv4.ip_local_reserved_ports";
const OURS: &str = "/etc/sysctl.d/50-portslice.conf";

#[test]
fn a_file_that_reserves_the_ports_at_boot() {
    let host = first_host("doctor-boot");
    host.portslice(["setup"]).ok();
    assert_clean(&host);
    host.run(["rm", OURS]).ok();
    is_mended(&host, "boot", "warn", &[OURS]);
}

/// Of several files that set this key only the last one counts, wherever ours stands.
#[test]
fn files_that_overwrite_each_other() {
    for other in ["/etc/sysctl.d/10-site.conf", "/etc/sysctl.d/99-site.conf"] {
        let host = first_host("doctor-boot-order");
        host.portslice(["setup"]).ok();
        write(&host, other, &format!("net.core.somaxconn = 1024\\n{KEY} = 8080,9148\\n"));
        is_mended(&host, "boot", "warn", &[other, OURS]);
        let left = host.run(["sh", "-c", &format!("cat {other}; ls /etc/sysctl.d")]).ok().stdout;
        assert!(left.contains(&format!("{KEY} = 8080,9148,31000-31999,32768-57343\n")), "{left}");
        assert!(left.contains("net.core.somaxconn = 1024\n") && !left.contains("50-portslice"), "{left}");
        // one that does not name our ports
        write(&host, other, "net/ipv4/ip_local_reserved_ports=8080\\n");
        is_mended(&host, "boot", "warn", &[other, "without the ports of containers"]);
    }
}

#[test]
fn a_unit_that_reserves_the_ports_at_boot() {
    const UNIT: &str = "/etc/systemd/system/portslice-setup.service";
    let host = first_host("doctor-boot-unit");
    host.run(["mkdir", "-p", "/run/systemd/system"]).ok();
    host.portslice(["setup"]).ok();
    // beside a unit, which merges, no file matters
    write(&host, "/etc/sysctl.d/99-site.conf", &format!("{KEY} = 8080\\n"));
    assert_clean(&host);
    host.run(["rm", "/etc/systemd/system/multi-user.target.wants/portslice-setup.service"]).ok();
    is_mended(&host, "boot", "warn", &[UNIT]);
    host.run(["rm", UNIT]).ok();
    is_mended(&host, "boot", "warn", &[UNIT]);
}
