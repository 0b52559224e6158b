//! Other programs take over what is claimed.

use super::*;
use crate::upgrade::Build;

#[test]
fn claims_survive_other_programs_and_other_maps() {
    for (name, build) in [("programs", Build::other()), ("maps", Build::raised())] {
        let host = host(&format!("claims-upgrade-{name}"));
        let (a, b) = (open(&host, "a"), open(&host, "b"));
        let echo = Echo::start(&a.ns, Proto::Tcp, SocketAddr::new(ANY4, 8000));
        let held = bound(&a.ns, UDP, ANY4, 8001, false).expect("free");
        build.run(&host, &["setup"]).ok();
        assert_reaches("after the upgrade", &host.peer, Proto::Tcp, SocketAddr::new(HOST4, 8000));
        refused(&b.ns, TCP, ANY4, 8000, "it is a's still");
        refused(&b.ns, UDP, ANY4, 8001, "it is a's still");
        succeeds(&b.ns, UDP, ANY4, 8002, "what was offered is offered");
        assert_eq!(build.run(&host, &["fsck"]).ok().stdout, "");
        drop((echo, held));
        let free = || {
            build.run(&host, &["sync"]).ok();
            bound(&b.ns, UDP, ANY4, 8001, false).is_ok() && bound(&b.ns, TCP, ANY4, 8000, true).is_ok()
        };
        assert!(wait::eventually(free), "{name}: what is closed is free");
        // what wrote newer formats is alone in reading them
        for ended in [&["detach", "a"][..], &["detach", "b"], &["setup", "--undo"]] {
            build.run(&host, ended).ok();
        }
    }
}

#[test]
fn sockets_from_before_the_programs_are_looked_after() {
    let host = host("claims-taken-off");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    let echo = Echo::start(&a.ns, Proto::Tcp, SocketAddr::new(ANY4, 8000));
    let config = std::fs::read_to_string(host.config_file()).expect("config");
    // Somebody takes the programs off, and what is bound then nobody sees.
    let book = portslice::steer::Book::open(
        &host.ns.root(&portslice::plan::host::bpf_directory(&host.state_dir()).to_string_lossy()),
    );
    let book = book.and_then(|book| book.id()).expect("the book");
    for (link, program) in portslice::steer::find::on_cgroups().expect("links") {
        if portslice::steer::find::book_of_program(program).expect("programs") == Some(book) {
            portslice::steer::find::unhook(link).expect("taken off");
        }
    }
    let unseen = bound(&a.ns, UDP, ANY4, 8001, false).expect("nobody judges");
    host.portslice(["sync"]).ok();
    assert_eq!(std::fs::read_to_string(host.config_file()).expect("config"), config);
    refused(&b.ns, UDP, ANY4, 8001, "it was bound meanwhile");
    refused(&b.ns, TCP, ANY4, 8000, "it was bound before");
    assert_eq!(claims(&host, &a), Claims { tcp: set("8000"), udp: set("8001"), resting: set("") });
    drop((echo, unseen));
    found_free(&host, &b.ns, UDP, 8001);
    found_free(&host, &b.ns, TCP, 8000);
}

#[test]
fn claims_end_with_the_programs_and_are_found_again() {
    let host = host("claims-rules");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    let socket = bound(&a.ns, TCP, ANY4, 8000, false).expect("free");
    let of_host = bound(&host.ns, TCP, ANY4, 8001, false).expect("free");
    let judged = std::fs::read_to_string(host.config_file()).expect("config");
    let off = judged.replace("\"require\"", "\"off\"");
    assert_ne!(judged, off);
    std::fs::write(host.config_file(), off).expect("config");
    host.portslice(["setup"]).ok();
    assert_eq!(maps(&host).steered(8000, false), None, "nobody would tell when it is closed");
    drop(listening(&host.ns, 8000));
    drop(of_host);
    // whoever has the slot next has nothing of the one before
    b.detach().ok();
    let c = host.bare("c", &[]);
    assert!(claims(&host, &c).is_empty());
    std::fs::write(host.config_file(), judged).expect("config");
    host.portslice(["setup"]).ok();
    let b = open(&host, "b");
    refused(&b.ns, TCP, ANY4, 8000, "a has it still");
    found_free(&host, &b.ns, TCP, 8001);
    drop(socket);
    found_free(&host, &b.ns, TCP, 8000);
}
