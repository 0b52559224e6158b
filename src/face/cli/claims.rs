//! Claims as `list`, `show` and `explain` tell of them.
//!
//! What does not live here: reading them ([`Maps::all_claims`](crate::steer::Maps::all_claims)).

use serde_json::{Value, json};

use crate::lease::Offer;
use crate::ports::{OpenPorts, PortRange, PortSet};
use crate::steer::{Claim, Held};

/// The most claims that are told one by one.
const MOST: usize = 16;

/// In a column: `8080,53/udp,443/tcp`. A port without a protocol is claimed of both.
pub fn short(claims: &[Claim]) -> String {
    if claims.is_empty() {
        return "-".into();
    }
    let of = |udp: bool| -> PortSet {
        let own = claims.iter().filter(|claim| claim.udp == udp);
        own.filter_map(|claim| PortRange::new(claim.port, claim.port)).collect()
    };
    let (tcp, udp) = (of(false), of(true));
    let with = |ports: PortSet, protocol: &str| {
        ports.ranges().iter().map(|range| format!("{range}{protocol}")).collect::<Vec<_>>()
    };
    let both = with(tcp.intersection(&udp), "").into_iter();
    let single = [with(tcp.difference(&udp), "/tcp"), with(udp.difference(&tcp), "/udp")];
    both.chain(single.into_iter().flatten()).collect::<Vec<_>>().join(",")
}

/// One by one: `8080/tcp by 2 sockets; 8081/tcp rests for 42 s`.
pub fn listed(claims: &[Claim]) -> String {
    let one = |claim: &Claim| format!("{}/{} {}", claim.port, protocol(claim.udp), held(claim.held));
    let mut all: Vec<String> = claims.iter().take(MOST).map(one).collect();
    if claims.len() > MOST {
        all.push(format!("{} more", claims.len() - MOST));
    }
    if all.is_empty() { "nothing".into() } else { all.join("; ") }
}

/// As JSON: an array with one element a port and protocol.
pub fn json(claims: &[Claim]) -> Value {
    let one = |claim: &Claim| {
        let mut one = json!({"port": claim.port, "protocol": protocol(claim.udp)});
        match claim.held {
            Held::Sockets(n) => one["sockets"] = n.into(),
            Held::Uncounted => {}
            Held::Rests(left) => {
                one["sockets"] = 0.into();
                one["rests_seconds"] = left.as_secs().into();
            }
        }
        one
    };
    claims.iter().map(one).collect()
}

/// Enters the claims of a slice into what is told of it as JSON: of one that may claim, and of one that still holds some.
pub fn enter(view: &mut Value, offer: &Offer, claims: &[Claim]) {
    if !offer.is_none() || !claims.is_empty() {
        view["claims"] = json(claims);
    }
}

/// What a slice may claim: `all; of these 1024-31999,61000-65535; 2 of 1024 claimed`.
pub fn offered(offer: &Offer, claims: usize) -> String {
    if offer.is_none() {
        return "none".into();
    }
    let asked = OpenPorts::from(offer.asked.clone());
    let of_these = match &offer.ports {
        ports if *ports == offer.asked => String::new(),
        ports if ports.is_empty() => "; none of these is ever free".into(),
        ports => format!("; of these {ports}"),
    };
    format!("{asked}{of_these}; {claims} of {} claimed", offer.limit)
}

/// What `explain` says of a port: `port 8080 of TCP: claimed by web (slot 3), 2 sockets`. `whose`: whoever holds it.
pub fn told(claim: &Claim, whose: &str) -> String {
    let protocol = if claim.udp { "UDP" } else { "TCP" };
    let by = match claim.held {
        Held::Sockets(1) => "1 socket".into(),
        Held::Sockets(n) => format!("{n} sockets"),
        Held::Uncounted => "its sockets are from before, and not counted".into(),
        Held::Rests(left) => format!("resting for {} s more, since connections may be in TIME_WAIT", left.as_secs()),
    };
    format!("port {} of {protocol}: claimed by {whose}, {by}", claim.port)
}

fn protocol(udp: bool) -> &'static str {
    if udp { "udp" } else { "tcp" }
}

fn held(held: Held) -> String {
    match held {
        Held::Sockets(1) => "by 1 socket".into(),
        Held::Sockets(n) => format!("by {n} sockets"),
        Held::Uncounted => "by sockets from before".into(),
        Held::Rests(left) => format!("rests for {} s", left.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn claims() -> Vec<Claim> {
        let claim = |port, udp, held| Claim { port, udp, slot: 3, held };
        vec![
            claim(80, false, Held::Sockets(1)),
            claim(443, false, Held::Sockets(12)),
            claim(8080, false, Held::Rests(Duration::from_secs(42))),
            claim(80, true, Held::Sockets(2)),
            claim(5353, true, Held::Uncounted),
        ]
    }

    #[test]
    fn claims_in_a_column_are_short() {
        assert_eq!(short(&claims()), "80,443/tcp,8080/tcp,5353/udp");
        assert_eq!(short(&[]), "-");
    }

    #[test]
    fn claims_one_by_one_say_what_holds_them() {
        let all = "80/tcp by 1 socket; 443/tcp by 12 sockets; 8080/tcp rests for 42 s; 80/udp by 2 sockets; \
                   5353/udp by sockets from before";
        assert_eq!(listed(&claims()), all);
        assert!(
            listed(&claims().repeat(5)).ends_with("; 80/tcp by 1 socket; 9 more"),
            "{}",
            listed(&claims().repeat(5))
        );
        assert_eq!(listed(&[]), "nothing");
        assert_eq!(told(&claims()[1], "web (slot 3)"), "port 443 of TCP: claimed by web (slot 3), 12 sockets");
        assert!(told(&claims()[2], "web (slot 3)").contains("by web (slot 3), resting for 42 s more"));
        let mut view = json!({});
        enter(&mut view, &Offer::default(), &[]);
        assert_eq!(view, json!({}));
        enter(&mut view, &Offer::default(), &claims()[2..4]);
        let rests = json!({"port": 8080, "protocol": "tcp", "sockets": 0, "rests_seconds": 42});
        assert_eq!(view["claims"], json!([rests, {"port": 80, "protocol": "udp", "sockets": 2}]));
    }

    #[test]
    fn an_offer_says_what_of_it_is_never_free() {
        let set = |text: &str| text.parse::<PortSet>().unwrap();
        let offer = |asked: &str, ports: &str| Offer { asked: set(asked), ports: set(ports), limit: 1024 };
        for (offer, text) in [
            (Offer::default(), "none"),
            (offer("8080", "8080"), "8080; 2 of 1024 claimed"),
            (offer("1024-65535", "1024-32767"), "all; of these 1024-32767; 2 of 1024 claimed"),
            (offer("40000", ""), "40000; none of these is ever free; 2 of 1024 claimed"),
        ] {
            assert_eq!(offered(&offer, 2), text);
        }
    }
}
