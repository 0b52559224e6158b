//! What a limit has to drop is counted, and who waits for room loses nothing.

use super::*;
use crate::lab::limit::MBIT;

fn stat(container: &Container, key: &str) -> u64 {
    let all = container.host().portslice(["stats", &container.id, "--json"]).ok().json();
    all[0]["statistics"][key].as_u64().unwrap_or_else(|| panic!("{}: no {key} in {all}", container.id))
}

#[test]
fn what_a_limit_drops_is_counted() {
    let rows = Way::BOTH.map(|way| Row { way, carrier: Carrier::Udp, rate: 10 * MBIT, peer: PEER4 });
    let scene = Scene::new("limit-drops", rows.into());
    for (n, (way, reason, counter)) in
        [(Way::Egress, "egress_limit", "net_tx_dropped"), (Way::Ingress, "ingress_limit", "net_rx_dropped")]
            .into_iter()
            .enumerate()
    {
        let container = &scene.containers[n];
        assert_eq!((container.drops(reason), stat(container, counter)), (0, 0), "{way:?}: before anything was sent");
        let (sent, arrived) = {
            let stream = scene.plan(n).flood().start();
            std::thread::sleep(Duration::from_millis(700));
            stream.finish(Duration::from_millis(300))
        };
        let lost = (sent - arrived) / 1400;
        let (drops, dropped) = (container.drops(reason), stat(container, counter));
        println!("{way:?}: {} of {} datagrams lost, {drops} counted", lost, sent / 1400);
        assert!(lost > 100, "{way:?}: a flood of {sent} bytes through 10 Mbit/s lost only {lost} datagrams");
        assert_eq!(drops, lost, "{way:?}: datagrams counted as dropped, and those that did not arrive");
        assert_eq!(dropped, lost, "{way:?}: {counter}");
    }
}

/// One socket that waits for room, as every program's does.
#[test]
fn a_sender_that_waits_loses_nothing() {
    let carriers = [(Carrier::Udp, 100), (Carrier::Udp, 1400), (Carrier::UdpSegments, 1400)];
    let rates = [MBIT, 10 * MBIT, 300 * MBIT];
    let all = rates.iter().flat_map(|rate| carriers.map(|(carrier, payload)| (*rate, carrier, payload)));
    let all: Vec<_> = all.collect();
    let rows =
        all.iter().map(|(rate, carrier, _)| Row { way: Way::Egress, carrier: *carrier, rate: *rate, peer: PEER4 });
    let scene = Scene::new("limit-waits", rows.collect());
    let streams: Vec<flow::Stream> =
        all.iter().enumerate().map(|(n, (.., payload))| scene.plan(n).payload(*payload).start()).collect();
    std::thread::sleep(Duration::from_secs(1));
    for (n, stream) in streams.into_iter().enumerate() {
        let what = format!("{}, {} bytes at {} bit/s", stream.what, all[n].2, all[n].0);
        let (sent, arrived) = stream.finish(Duration::from_secs(2));
        assert_eq!(arrived, sent, "{what}: payload that arrived, of what was sent");
        assert_eq!(scene.containers[n].drops("egress_limit"), 0, "{what}");
    }
}

/// A connection may have no more on the way than its socket's share of the queue, at a rate at which each packet takes its
/// time as well.
#[test]
fn a_connection_loses_nothing_at_the_source() {
    let rates = [MBIT, 10 * MBIT, 300 * MBIT];
    let rows = rates.map(|rate| Row { way: Way::Egress, carrier: Carrier::Tcp, rate, peer: PEER4 });
    let scene = Scene::new("limit-tcp-waits", rows.into());
    let streams = [0, 1, 2].map(|n| scene.plan(n).start());
    std::thread::sleep(Duration::from_secs(2));
    for (stream, container) in streams.iter().zip(&scene.containers) {
        assert_eq!(container.drops("egress_limit"), 0, "{}", stream.what);
    }
}
