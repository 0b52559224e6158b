//! How soon slices that run carry what changed about the host: by `portslice sync`, and by the service.

use super::judge::{Failure, median};
use super::{Bench, eventually, milliseconds};
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// The service while it runs.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Bench {
    /// Milliseconds of a sync with nothing to do, and of one that finds a new address of the host.
    pub fn sync(&self) -> Result<[f64; 2], Failure> {
        let sync = || Ok::<_, Failure>(milliseconds(self.cli(&["sync"])?.took));
        let nothing = (0..9).map(|_| sync()).collect::<Result<Vec<_>, _>>()?;
        let mut changed = Vec::new();
        for n in 0..3 {
            address("add", added(n))?;
            changed.push(sync()?);
        }
        (0..3).try_for_each(|n| address("del", added(n)))?;
        sync()?;
        Ok([median(&nothing), median(&changed)])
    }

    /// Milliseconds from a new address of the host to the last of the containers in `places` that carries it, while the service
    /// runs: the median of so many.
    pub fn follow(&self, places: &[PathBuf], times: u8) -> Result<f64, Failure> {
        let mut command = Command::new(self.product.binary("portslice"));
        let child = command.arg("follow").envs(self.product.environment.iter().map(|(key, value)| (key, value)));
        let service = Service(child.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
        // its first look
        sleep(Duration::from_secs(1));
        let mut took = Vec::new();
        for n in 0..times {
            address("add", added(n))?;
            let begun = Instant::now();
            eventually("the containers to carry the address", || carried(places, added(n)))?;
            took.push(milliseconds(begun.elapsed()));
        }
        (0..times).try_for_each(|n| address("del", added(n)))?;
        drop(service);
        self.cli(&["sync"])?;
        Ok(median(&took))
    }
}

fn added(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 100 + n)
}

fn address(verb: &str, ip: Ipv4Addr) -> Result<(), Failure> {
    let status = Command::new("ip").args(["addr", verb, &format!("{ip}/24"), "dev", "eth0"]).status()?;
    if status.success() { Ok(()) } else { Err(format!("ip addr {verb} {ip}: {status}").into()) }
}

/// Do all of them carry it? The last one is asked first: slices follow in the order of their slots.
fn carried(places: &[PathBuf], ip: Ipv4Addr) -> Result<bool, Failure> {
    let places = places.to_vec();
    // A thread of its own: this one stays on the host.
    let asked = thread::spawn(move || {
        for place in places.iter().rev() {
            setns(File::open(place)?, CloneFlags::CLONE_NEWNET)?;
            let has = |a: nix::ifaddrs::InterfaceAddress| {
                a.address.and_then(|a| a.as_sockaddr_in().map(|a| a.ip())) == Some(ip)
            };
            if !getifaddrs()?.any(has) {
                return Ok(false);
            }
        }
        Ok::<_, std::io::Error>(true)
    });
    Ok(asked.join().expect("asking does not panic")?)
}
