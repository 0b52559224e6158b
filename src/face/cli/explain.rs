//! `portslice explain`.

use std::net::IpAddr;

use serde::Serialize;

use super::{claims, named, print, print_json};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::explain::question::Question;
use crate::explain::{Explained, Names, explain};
use crate::lease::{Lease, Ledger};
use crate::net::route::Transport;
use crate::net::{Netlink, Netns, diag, link, route};
use crate::plan::host::bpf_directory;
use crate::ports::{PortRange, PortSet};
use crate::refusal::quoted;
use crate::slice::ready::peek;
use crate::steer::model::World;
use crate::steer::model::world::Path;
use crate::steer::namespaces::HOST;
use crate::steer::{Claim, Joined, Maps, Owner};
use crate::wire::Host;

/// TCP and UDP.
const PROTOCOLS: [u8; 2] = [6, 17];
/// A port that others have open, and one that hosts have: for what reaches the host itself.
const HTTPS: u16 = 443;
/// The same.
const SSH: u16 = 22;

/// What is said of a port, of a container or of a packet.
#[derive(Serialize)]
struct Answer {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    about: Vec<String>,
    packets: Vec<Explained>,
}

/// Answers `asked`; `from`: the container that sends the packet.
pub fn run(config: &Config, asked: &str, from: Option<&str>, json: bool) -> Result<()> {
    let Some(host) = peek(config)? else {
        return Err(Error::NotFound("the host is not prepared, so nothing is steered: run `portslice setup`".into()));
    };
    let sender = from.map(|text| named(config, text)).transpose()?.map(|(lease, _)| lease);
    let mut world = World::of(&host.maps)?;
    let joined = Joined::open(&bpf_directory(&config.state_dir))?;
    for (slot, entry) in &world.slots {
        world.joined.extend(joined.groups(*slot, entry.epoch)?.into_iter().map(|group| (*slot, group)));
    }
    let mut names = names(config, &mut world)?;
    names.claims = host.maps.all_claims().into_values().flatten().map(|claim| (claim.port, claim.udp)).collect();
    sender.iter().try_for_each(|lease| listen(&mut world, lease))?;
    let slot = sender.as_ref().map(|lease| lease.slot);
    if let Some(lease) = &sender
        && let Some(gone) = ended(&host, lease)?
    {
        return Err(Error::NotFound(gone));
    }
    let answer = if let Ok(port) = asked.parse::<u16>() {
        let packets = vec![way(&mut world, &names, &Question::of_port(port), slot)?];
        let mut about = about(&names, port, &host.maps);
        about.extend(named_inside(config, port, host.maps.owner(port))?);
        Answer { about, packets }
    } else if asked.contains([' ', '>']) {
        let mut question: Question = asked.parse()?;
        let mut about = Vec::new();
        let by_name = sender.as_ref().and_then(|lease| named_from_inside(&world, lease, &question));
        if let Some((port, told)) = by_name {
            (question, about) = (question.to_port(port), vec![told]);
        }
        let claim = question.claimable().and_then(|(port, udp)| host.maps.claim(port, udp));
        about.extend(claim.map(|claim| claims::told(&claim, &holder(&names, claim.slot))));
        Answer { about, packets: vec![way(&mut world, &names, &question, slot)?] }
    } else {
        container(config, &mut world, &names, (asked, &host))?
    };
    if json { print_json(&answer) } else { print(&text(&answer)) }
}

/// What reaches a container, and what it reaches: from outside, outside, and the host's loopback.
fn container(config: &Config, world: &mut World, names: &Names, (text, host): (&str, &Host)) -> Result<Answer> {
    let (lease, _) = named(config, text).map_err(|e| match e {
        Error::NotFound(_) => Error::NotFound(format!(
            "{} is no port (1-65535), no container that is attached, and no packet (\"tcp 10.0.0.5:1234 > :31005\")",
            quoted(text)
        )),
        e => e,
    })?;
    listen(world, &lease)?;
    let ports = lease.all_ports();
    let first = ports.iter().next().unwrap_or(lease.block.begin());
    let (outside, loopback) = (Question::to_outside(world, HTTPS), Question::to_loopback(world, SSH));
    let mut packets = vec![way(world, names, &Question::of_port(first), None)?];
    let gone = ended(host, &lease)?;
    if gone.is_none() {
        packets.push(way(world, names, &outside, Some(lease.slot))?);
        packets.push(way(world, names, &loopback, Some(lease.slot))?);
    }
    let ports = lease.state().port_names().beside(&ports);
    let mut about = vec![format!("{}: slot {}, device {}, ports {ports}", lease.id, lease.slot, lease.link())];
    about.extend(gone);
    if let Some(claims) = host.maps.all_claims().get(&lease.slot) {
        about.push(format!("{}: has claimed {}", lease.id, claims::listed(claims)));
    }
    Ok(Answer { about, packets })
}

/// What is to be known of a container that ended without a word.
fn ended(host: &Host, lease: &Lease) -> Result<Option<String>> {
    let why = "its device is gone, so it sends and receives nothing: `portslice gc` takes back what it had";
    Ok((!host.is_wired(lease)?).then(|| format!("{}: {why}", lease.id)))
}

/// The port that programs of a container reach under the number they ask for, where that is a name.
fn named_from_inside(world: &World, lease: &Lease, question: &Question) -> Option<(u16, String)> {
    let (asked, udp) = question.claimable().filter(|_| question.is_for_the_host(world))?;
    let names = lease.state().port_names();
    let (outside, _) = names.of(udp).find(|(_, inside)| *inside == asked)?;
    Some((outside, format!("{}: programs inside reach port {outside} as {asked}, which is its name there", lease.id)))
}

/// The way of a packet. Where the data path would ask the kernel for a route, so is done here.
fn way(world: &mut World, names: &Names, question: &Question, from: Option<u16>) -> Result<Explained> {
    let mut netlink = Netlink::route()?;
    let mut question = *question;
    let complete = question.complete(world, from)?;
    let (source, destination) = complete.ends();
    let by = complete.route_by();
    world.paths.clear();
    if from.is_some() && !world.is_local(destination) {
        // a program that does not choose gets the address of the device that its packets leave by
        let usual = route::lookup(&mut netlink, None, destination, by)?.and_then(|route| route.source);
        question = question.or_from(usual.filter(|ip| world.is_carried(*ip)));
        let (source, _) = question.complete(world, from)?.ends();
        world.paths.extend(path(&mut netlink, Some(source), destination, by)?);
    } else if from.is_none() && !world.is_local(source) {
        // as its answer would ask
        let own = Some(destination).filter(|ip| world.is_local(*ip) && !ip.is_loopback());
        world.paths.extend(path(&mut netlink, own, source, by.map(Transport::of_answer))?);
    }
    explain(world, names, &question, from)
}

fn path(netlink: &mut Netlink, from: Option<IpAddr>, to: IpAddr, by: Option<Transport>) -> Result<Option<Path>> {
    let Some(route) = route::lookup(netlink, from, to, by)? else { return Ok(None) };
    let link = link::at(netlink, route.link)?;
    let mtu = route.mtu.or(link.map(|link| link.mtu)).unwrap_or(u32::MAX);
    let network = (to, if to.is_ipv4() { 32 } else { 128 });
    Ok(Some(Path { network, kind: route.kind, device: route.link, mtu }))
}

/// Whose a port is: of TCP and UDP at once by a lease, or of each by sockets.
fn about(names: &Names, port: u16, maps: &Maps) -> Vec<String> {
    let claims: Vec<Claim> = [false, true].into_iter().filter_map(|udp| maps.claim(port, udp)).collect();
    match maps.owner(port) {
        _ if !claims.is_empty() => claims.iter().map(|claim| claims::told(claim, &holder(names, claim.slot))).collect(),
        None => match [false, true].into_iter().find_map(|udp| maps.steered(port, udp)) {
            None => vec![format!("port {port}: no container's")],
            Some(last) => {
                let last = holder(names, last);
                vec![format!("port {port}: free; what still comes there goes to {last}, which had it last")]
            }
        },
        Some(owner) => {
            let steered = if owner.steered { "" } else { ", not steered: it is only kept for it" };
            vec![format!("port {port}: {}{steered}", holder(names, owner.slot))]
        }
    }
}

/// Whoever has a slot: `web (slot 3)`, or the host.
fn holder(names: &Names, slot: u16) -> String {
    match names.leases.get(&slot) {
        _ if slot == HOST => "the host".into(),
        Some(lease) => format!("{lease} (slot {slot})"),
        None => format!("slot {slot}, without a lease"),
    }
}

/// What programs of its container know a port as, where that is another number.
fn named_inside(config: &Config, port: u16, owner: Option<Owner>) -> Result<Option<String>> {
    let Some(owner) = owner else { return Ok(None) };
    let lease = Ledger::at(&config.state_dir).all()?.into_iter().find(|lease| lease.slot == owner.slot);
    let others = PortSet::from(PortRange::new(port, port).ok_or_else(|| Error::invalid("port 0", "it is no port"))?);
    let names = lease.map(|lease| lease.state().port_names()).unwrap_or_default();
    let names = names.without(&names.outside().difference(&others));
    Ok((!names.is_empty()).then(|| format!("{names}: programs inside bind and see the number behind the colon")))
}

/// What things are called; enters the addresses of the host's other devices.
fn names(config: &Config, world: &mut World) -> Result<Names> {
    let leases = Ledger::at(&config.state_dir).all()?;
    let links = link::all(&mut Netlink::route()?)?;
    world.beside = links.iter().filter_map(|link| Some((link.index, link.mac?))).collect();
    let bare = links.iter().filter(|link| link.bare).map(|link| link.index).collect();
    let host = links.into_iter().map(|link| (link.index, link.name)).collect();
    let devices = leases.iter().map(|lease| (lease.slot, lease.link())).collect();
    let leases = leases.iter().map(|lease| (lease.slot, lease.id.to_string())).collect();
    Ok(Names { host, bare, leases, devices, ..Names::default() })
}

/// Enters the ports that sockets in a container wait at: what they wait for does not leave its lo.
fn listen(world: &mut World, lease: &Lease) -> Result<()> {
    let all = PortRange::new(1, u16::MAX).expect("1 is below 65535");
    // one that ended has none
    let Ok(netns) = Netns::open(&lease.netns) else { return Ok(()) };
    if netns.id != lease.netns_id {
        return Ok(());
    }
    let holders = netns.inside(|| diag::holders(&mut Netlink::diag()?, all))?;
    let waiting = holders.iter().filter(|holder| !holder.established);
    let [tcp, udp] = PROTOCOLS;
    world.listening.extend(waiting.map(|holder| (lease.slot, if holder.tcp { tcp } else { udp }, holder.port)));
    Ok(())
}

fn text(answer: &Answer) -> String {
    let about = answer.about.iter().map(|line| format!("{line}\n"));
    about.chain(answer.packets.iter().map(Explained::to_string)).collect()
}
