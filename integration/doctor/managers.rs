//! Network managers that would take the devices of containers for their own.

use super::{assert_clean, first_host, found, is_mended, mend, write};
use crate::lab::*;

/// A host on which a manager runs, if that directory under /run is there.
fn host_with(name: &str, runs: &str) -> Host {
    let host = first_host(name);
    host.run(["mkdir", "-p", &format!("/run/{runs}")]).ok();
    host
}

const ALL: &str = "[Match]\\nName=*\\n[Network]\\nDHCP=yes\\n";

#[test]
fn a_file_of_networkd_that_matches_everything() {
    let host = host_with("doctor-networkd", "systemd/netif");
    host.portslice(["setup"]).ok();
    // ours is read before it
    write(&host, "/etc/systemd/network/80-all.network", ALL);
    assert_clean(&host);
    host.run(["rm", "/etc/systemd/network/05-portslice.network"]).ok();
    is_mended(&host, "networkd", "warn", &["/etc/systemd/network/80-all.network"]);

    let own = "[Match]\\nType=ether\\n[Network]\\nDHCP=yes\\n";
    write(&host, "/etc/systemd/network/00-ether.network", own);
    let finding = found(&host, "networkd", "warn", &["00-ether.network"]);
    assert!(finding["remedy"].as_str().is_some_and(|r| r.contains("06-00-ether.network")), "{finding:#}");
    // what runs here is no networkd that could be told
    host.run(["sh", "-ec", finding["remedy"].as_str().unwrap().trim_end_matches(" && networkctl reload")]).ok();
    assert_clean(&host);
    for harmless in
        ["[Match]\\nName=en*\\n", "[Match]\\nType=ether\\nKind=!*\\n", "[Match]\\nMACAddress=02:00:00:00:00:01\\n"]
    {
        write(&host, "/etc/systemd/network/00-uplink.network", harmless);
        assert_clean(&host);
    }
}

#[test]
fn a_network_manager_that_is_not_told() {
    let host = host_with("doctor-nm", "NetworkManager");
    host.portslice(["setup"]).ok();
    assert_clean(&host);
    host.run(["rm", "/etc/NetworkManager/conf.d/50-portslice.conf"]).ok();
    is_mended(&host, "NetworkManager", "warn", &["not told"]);

    let later = "/etc/NetworkManager/conf.d/99-site.conf";
    write(&host, later, "[keyfile]\\nunmanaged-devices=interface-name:docker0\\n");
    let finding = found(&host, "NetworkManager", "warn", &[later, "takes back"]);
    let command = finding["remedy"].as_str().unwrap().trim_end_matches(" && nmcli general reload conf");
    host.run(["sh", "-ec", command]).ok();
    assert_clean(&host);
}

#[test]
fn a_manager_that_does_not_run_is_no_matter() {
    let host = host_with("doctor-no-manager", "nothing");
    write(&host, "/etc/systemd/network/00-all.network", ALL);
    let finding = found(&host, "host", "warn", &["is not prepared"]);
    mend(&host, &finding);
    assert_clean(&host);
}
