//! What a container's start costs on a host with thousands of addresses, beside one with as many as containers carry.
//!
//! A start asks the kernel for all of them, for it tells of a change to nobody who was not there. That is what is left of the
//! difference.

use super::judge::{Failure, median};
use super::net::{Netns, host_and_peer};
use super::product::Product;
use super::timed::Call;
use super::{Holder, RUNS, WARM_UP, milliseconds, settle};
use serde_json::json;
use std::net::Ipv6Addr;
use std::thread;

/// Addresses of the two hosts.
const FEW: u32 = 256;
const MANY: u32 = 5000;

/// Two hosts of their own, each with its own installation.
pub struct Crowded([Host; 2]);

struct Host {
    netns: Netns,
    _peer: Netns,
    product: Product,
}

impl Crowded {
    pub fn prepare() -> Result<Crowded, Failure> {
        Ok(Crowded([Host::prepare(FEW)?, Host::prepare(MANY)?]))
    }

    /// How many times as long the prestart hook takes where the host has thousands of addresses.
    pub fn compare(&self, bundle: &str) -> Result<f64, Failure> {
        let mut took = [Vec::new(), Vec::new()];
        let mut holders = Vec::new();
        for round in 0..WARM_UP + RUNS {
            for (host, took) in self.0.iter().zip(&mut took) {
                let holder = Holder::new()?;
                let attached = host.run("portslice-prestart", &[], &state(round, holder.pid(), bundle))?;
                if round >= WARM_UP {
                    took.push(attached);
                }
                holders.push(holder);
            }
        }
        drop(holders);
        settle();
        for host in &self.0 {
            (0..WARM_UP + RUNS).try_for_each(|round| host.run("portslice", &["detach", &id(round)], "").map(drop))?;
        }
        Ok(median(&took[1]) / median(&took[0]))
    }
}

impl Host {
    fn prepare(addresses: u32) -> Result<Host, Failure> {
        let name = format!("with-{addresses}");
        let (netns, peer) = host_and_peer(&name)?;
        netns.ip(&added(addresses))?;
        let host = Host { netns, _peer: peer, product: Product::for_host(&name, None)? };
        host.run("portslice", &["setup"], "")?;
        Ok(host)
    }

    /// Milliseconds that a program takes on this host.
    fn run(&self, name: &str, arguments: &[&str], input: &str) -> Result<f64, Failure> {
        let arguments: Vec<_> = arguments.iter().map(std::ffi::OsStr::new).collect();
        let program = self.product.binary(name);
        let call = Call { program: &program, arguments: &arguments, environment: &self.product.environment, input };
        // A thread of its own: this one stays on its host.
        let took = thread::scope(|scope| {
            let there = scope.spawn(|| {
                self.netns.enter()?;
                call.run()
            });
            there.join().expect("running a program does not panic")
        })?;
        Ok(milliseconds(took.took))
    }
}

fn id(round: usize) -> String {
    format!("crowded-{round}")
}

fn state(round: usize, pid: u32, bundle: &str) -> String {
    json!({
        "ociVersion": "1.0.2-dev", "id": id(round), "status": "creating", "pid": pid, "bundle": bundle,
        "annotations": {"portslice/ephemeral-ports": "16"},
    })
    .to_string()
}

/// Lines that bring a host with one address to so many, half of them of each family.
fn added(addresses: u32) -> String {
    let v4 = (1..addresses / 2).map(|n| format!("addr add 10.99.{}.{}/32 dev eth0", n / 250, n % 250));
    let first = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0).to_bits();
    let v6 = (0..addresses / 2)
        .map(|n| format!("addr add {}/128 dev eth0 nodad", Ipv6Addr::from_bits(first + u128::from(n) + 1)));
    v4.chain(v6).collect::<Vec<_>>().join("\n")
}
