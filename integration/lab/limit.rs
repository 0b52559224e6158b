//! Which limits are in force, as the kernel's own tools say, and what a limit lets through.

use super::container::Container;
use super::host::{Host, Inner};
use super::ns::Ns;
use super::run::Output;
use super::settings::settings;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// The device on which what containers send is shaped.
pub const SHAPER: &str = "portslice-limit";

/// Ten megabits a second.
pub const MBIT: u64 = 1_000_000;

/// The burst a limit has unless another is asked for: ten milliseconds of its rate, and two full frames at least. In bytes.
pub fn burst(rate: u64) -> f64 {
    (rate as f64 / 8.0 * 0.01).max(2.0 * 1514.0)
}

/// The most that a limit lets through in a window, in bytes: the burst, if it rested before; one packet more than it had room
/// for, since who has any room may send one; and again the burst for what the receiver sees a moment too early or too late.
pub fn most(rate: u64, window: Duration, packet: usize) -> f64 {
    rate as f64 / 8.0 * window.as_secs_f64() + 2.0 * burst(rate) + packet as f64
}

/// Bits a second of a rate as JSON has it ("37500KB", "300mbit"); None for a limit that is not there.
pub fn bits(rate: &Value) -> Option<u64> {
    let text = rate.as_str()?;
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).expect("a unit"));
    let power = |units: [&str; 5]| units.iter().position(|known| *known == unit).map(|power| power as u32);
    let number: u64 = number.parse().expect("a number");
    let bytes = power(["B", "KB", "MB", "GB", "TB"]).map(|power| (number * 8) << (10 * power));
    let bits = power(["bit", "kbit", "mbit", "gbit", "tbit"]).map(|power| number * 1000_u64.pow(power));
    Some(bytes.or(bits).unwrap_or_else(|| panic!("unit {unit} of {text}")))
}

/// The HTB classes of a device by their class id, with their rate in bits a second.
pub fn classes(ns: &Ns, device: &str) -> BTreeMap<String, u64> {
    let text = tc(ns, &["class", "show", "dev", device]);
    let one = |line: &str| -> Option<(String, u64)> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let rate = words.iter().position(|w| *w == "rate")?;
        Some((words[2].to_string(), tc_rate(words[rate + 1])))
    };
    text.lines().filter(|l| l.starts_with("class htb")).filter_map(one).collect()
}

/// The classes of a host's containers for what they send; none is left when none is limited. What stands above the slots is
/// no container's.
pub fn shaped(host: &Inner) -> BTreeMap<String, u64> {
    let mut all = classes(&host.ns, SHAPER);
    let slot = |class: &str| u32::from_str_radix(class.trim_start_matches("1:"), 16).expect("a class id");
    all.retain(|class, _| slot(class) & 0x1fff < 0x1000);
    all
}

/// Bits a second of "300Mbit" as tc prints it.
fn tc_rate(text: &str) -> u64 {
    let number = text.trim_end_matches("bit");
    let unit = number.trim_start_matches(|c: char| c.is_ascii_digit());
    let scale = ["", "K", "M", "G", "T"].iter().position(|u| *u == unit).unwrap_or_else(|| panic!("tc's rate {text}"));
    number.trim_end_matches(unit).parse::<u64>().expect("tc's rate") * 1000u64.pow(scale as u32)
}

/// What a tc command prints in a namespace.
pub fn tc(ns: &Ns, args: &[&str]) -> String {
    let out = ns.command("tc").args(args).output().expect("tc");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// The qdiscs, classes and filters of all devices of a host, without counters.
pub fn queues_and_filters(host: &Host) -> String {
    let what = |device: &String| {
        ["qdisc show", "class show", "filter show ingress", "filter show egress"].map(|w| format!("{w} dev {device}\n"))
    };
    let batch: String = host.links().iter().flat_map(what).collect();
    let out = host.fed(&["tc", "-force", "-batch", "-"].map(Into::into), &batch);
    batch + &settings(&out.stdout)
}

impl Container {
    /// The id of its class on `SHAPER`; the second of its two, when packets were led past a class in debt.
    pub fn class(&self) -> String {
        let second = self.show()["second"]["egress"] == true;
        format!("1:{:x}", self.lease["slot"].as_u64().expect("slot") + if second { 0x2000 } else { 0 })
    }

    /// The rate at which the host shapes what it sends.
    pub fn shaped_egress(&self) -> Option<u64> {
        self.show()["egress"].as_object()?;
        shaped(self.host()).get(&self.class()).copied()
    }

    /// The rate at which the host shapes what it receives.
    pub fn shaped_ingress(&self) -> Option<u64> {
        let classes = classes(&self.host().ns, &self.device().expect("its device"));
        assert!(classes.len() <= 2, "{}: classes {classes:?}", self.id);
        let shown = self.show();
        // without a limit, a class that still pays its debts may be left
        shown["ingress"].as_object()?;
        classes.get(if shown["second"]["ingress"] == true { "1:2" } else { "1:1" }).copied()
    }

    /// `set ID args...`.
    pub fn set(&self, args: &[&str]) -> Output {
        self.host().portslice([&["set", &self.id], args].concat())
    }

    /// The rates in force as `show --json` says them: egress, ingress.
    #[track_caller]
    pub fn shown(&self) -> [Option<u64>; 2] {
        let shown = self.show();
        ["egress", "ingress"].map(|way| bits(&shown[way]["rate"]))
    }

    /// Asserts that `show --json` and the kernel agree on the rates in force, and returns them: egress, ingress.
    #[track_caller]
    pub fn in_force(&self, what: &str) -> [Option<u64>; 2] {
        let (shown, shaped) = (self.shown(), [self.shaped_egress(), self.shaped_ingress()]);
        assert_eq!(shown, shaped, "{what}: rates as `show` and as tc have them (egress, ingress)");
        shown
    }
}

/// Whether this kernel has a queueing discipline.
pub fn has(host: &Inner, discipline: &str) -> bool {
    let spare = Ns::net_only(&format!("{} (probe)", host.name));
    spare
        .command("tc")
        .args(["qdisc", "replace", "dev", "lo", "root", discipline])
        .output()
        .expect("tc")
        .status
        .success()
}
