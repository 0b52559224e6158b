//! A firewall on the host does not see what goes to and from containers, whichever tool made it.

use super::{assert_clean, findings, is_mended};
use crate::lab::*;

/// Whether a tool works on this kernel; says so if not.
fn works(host: &Host, argv: &[&str]) -> bool {
    let exists =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(argv[0]).exists());
    let out = exists.then(|| host.run(argv));
    match &out {
        Some(out) if out.code == Some(0) => true,
        Some(out) => {
            println!("skipped: {out}");
            false
        }
        None => {
            println!("skipped: there is no {}", argv[0]);
            false
        }
    }
}

#[test]
fn a_policy_of_nftables_is_named() {
    let host = Host::new("doctor-nft");
    if !works(&host, &["nft", "add", "table", "inet", "mine"]) {
        return;
    }
    // nothing of this acts on a packet
    host.run(["nft", "add chain inet mine input { type filter hook input priority 0; policy accept; }"]).ok();
    host.run(["nft", "add chain inet mine other"]).ok();
    host.run(["nft", "add rule inet mine other drop"]).ok();
    assert_clean(&host);
    host.run(["nft", "add chain inet mine input { policy drop; }"]).ok();
    host.run(["nft", "add rule inet mine input tcp dport 22 accept"]).ok();
    host.run(["nft", "add rule inet mine input iif lo accept"]).ok();
    host.run(["nft", "add table ip nat"]).ok();
    host.run(["nft", "add chain ip nat out { type nat hook postrouting priority 100; }"]).ok();
    host.run(["nft", "add rule ip nat out ip daddr 198.51.100.0/24 masquerade"]).ok();
    let seen = ["chain input of table inet mine (policy drop, 2 rules)", "chain out of table ip nat (1 rule)"];
    is_mended(&host, "firewall", "warn", &seen);
    let out = host.portslice(["doctor", "-v"]).ok();
    assert!(out.stdout.contains("firewall: containers' traffic does not pass chain input"), "it is still told: {out}");
}

#[test]
fn a_chain_of_either_iptables_is_named() {
    for (tool, table) in [
        ("iptables-legacy", "chain FORWARD of table filter (iptables) (1 rule)"),
        ("ip6tables-legacy", "chain FORWARD of table filter (ip6tables) (1 rule)"),
        ("iptables-nft", "chain FORWARD of table ip filter (1 rule)"),
        ("ip6tables-nft", "chain FORWARD of table ip6 filter (1 rule)"),
    ] {
        let host = Host::new("doctor-iptables");
        // makes the table and its chains, which let everything pass
        if !works(&host, &[tool, "-L"]) {
            continue;
        }
        assert_clean(&host);
        host.run([tool, "-A", "FORWARD", "-i", "eth0", "-j", "DROP"]).ok();
        is_mended(&host, "firewall", "warn", &[table]);
        std::fs::write(host.config_file(), "ports = \"31000-31999\"\n").expect("config");
        host.run([tool, "-F"]).ok();
        host.run([tool, "-P", "INPUT", "DROP"]).ok();
        let found = findings(&host);
        assert!(
            found.len() == 1
                && found[0]["seen"]
                    .as_str()
                    .is_some_and(|seen| seen.contains("INPUT") && seen.contains("(policy drop)")),
            "{found:#?}"
        );
    }
}
