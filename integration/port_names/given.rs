//! How names are asked for, shown, changed while a container runs, and refused.

use super::*;

fn names_of(container: &Container) -> String {
    let shown = container.show();
    let member = &shown["members"][0];
    member["port_names"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn names_are_shown_changed_and_taken_back() {
    let host = Host::with("named-set").judged("require").build();
    let a = host.bare("a", &["--ports", "31000:80,31009"]);
    let b = host.bare("b", &["--ports", "31001:80"]);
    assert_eq!((names_of(&a), a.show()["ports"].as_str()), ("31000:80".into(), Some("31000,31009")));
    let list = host.portslice(["list"]).ok().stdout;
    assert!(list.contains("31000:80,31009") && list.contains("31001:80"), "{list}");
    let show = host.portslice(["show", "a"]).ok().stdout;
    assert!(show.contains("31000:80,31009"), "{show}");
    for asked in ["31000", "a"] {
        let said = host.portslice(["explain", asked]).ok().stdout;
        assert!(said.contains("31000:80"), "{said}");
    }

    let server = listening(&a.ns, ANY6, 80);
    let set = |change: &str| host.portslice(["set", "a", "--ports", change]);
    set("+31002:81,+31003-31004:9003-9004").ok();
    assert_eq!(names_of(&a), "31000:80,31002:81,31003-31004:9003-9004");
    let more = listening(&a.ns, ANY6, 81);
    talks(&a.ns, &more, SocketAddr::new(LO4, 81), [81, 81]);
    talks(&b.ns, &more, SocketAddr::new(HOST6, 31002), [31002, 81]);
    talks(&a.ns, &server, SocketAddr::new(LO4, 80), [80, 80]);
    drop(more);
    set("-31002,-31003:9003").ok();
    assert_eq!(names_of(&a), "31000:80,31004:9004");
    let free = || bound(&a.ns, libc::SOCK_STREAM, ANY4, 81).is_err_and(|e| e.raw_os_error() == Some(libc::EADDRINUSE));
    assert!(free(), "81 is a number as any other again");
    // A port of its own gets a name, and loses it.
    set("+31009:82").ok();
    assert_eq!(port(&bound(&a.ns, libc::SOCK_STREAM, ANY4, 31009).expect("bind")), 82);
    set("31000:80,31009").ok();
    assert_eq!((names_of(&a), a.show()["ports"].as_str()), ("31000:80".into(), Some("31000,31009")));
    assert_eq!(port(&bound(&a.ns, libc::SOCK_STREAM, ANY4, 31009).expect("bind")), 31009);
    drop(server);
    assert_eq!(host.portslice(["fsck"]).ok().stdout, "");

    // A number that a program inside has open for itself.
    let own = bound(&a.ns, libc::SOCK_STREAM, LO4, 8099).expect("its own lo");
    sock::listen(&own).expect("listen");
    set("+31005:8099")
        .refused(7, "port 8099 is open in container a already, so that it cannot be the name of another one");
    drop(own);
    assert!(wait::eventually(|| set("+31005:8099").code == Some(0)));
}

#[test]
fn names_that_cannot_be_are_refused_in_one_line_and_leave_nothing() {
    let host = Host::with("named-refused").judged("require").build();
    let a = host.bare("a", &["--ports", "31000:80,31001"]);
    let inside = a.block.start();
    let still = still::Still::of(&host);
    for (ports, words) in [
        ("31000:80", "port 31000 is leased to container a"),
        ("31002:80,31003:80", "ports 31002 and 31003 are both named 80, but bind() of 80 takes one of them"),
        ("31002:80,31002:81", "port 31002 is named 80 and 81"),
        ("31002-31004:80-81", "31002-31004:80-81 gives 3 ports 2 names; write ranges of the same length"),
        ("31002:31003,31003", "port names of container b: 31003 is a port of its own as well"),
        ("31002:31003,31003:31002", "is a port of its own as well"),
        ("31002:80/sctp", "\"sctp\" is neither tcp nor udp"),
        ("31002:0", "outside 1-65535"),
        ("auto:2:80", "\"auto:2:80\" does not say how many"),
        ("80:31002", "ports 80 cannot be assigned"),
    ] {
        let refused = host.try_bare("b", &["--ports", ports]).err().unwrap_or_else(|| panic!("{ports} is granted"));
        assert!(refused.stderr.contains(words) && refused.stderr.lines().count() == 1, "{ports}: {refused}");
    }
    let in_block = format!("+31002:{inside}");
    for (change, words) in [
        ("+31002:80", "ports 31000 and 31002 are both named 80"),
        ("+31000:81", "port 31000 is named 80 and 81"),
        ("+31002:31001", "31001 is a port of its own as well"),
        (in_block.as_str(), "lies in its block"),
        ("-31005:81", "31005 cannot be removed"),
    ] {
        let refused = host.portslice(["set", "a", "--ports", change]);
        assert!(refused.code == Some(2) && refused.stderr.contains(words), "{change}: {refused}");
        assert_eq!(refused.stderr.lines().count(), 1, "{change}: {refused}");
    }
    still.check("after the refusals");
    // A block that would have the name's number in it is not chosen.
    let next = (*a.block.end() + 1).to_string();
    let b = host.bare("b", &["--ports", &format!("31002:{next}")]);
    assert!(!b.block.contains(&next.parse().expect("a port")), "{:?}", b.block);
}

/// Members of one namespace share its numbers.
#[test]
fn a_joiner_cannot_take_a_name_that_another_member_has() {
    let host = Host::with("named-joined").judged("require").build();
    let a = host.bare("a", &["--ports", "31000:80"]);
    let join =
        |ports: &str| host.portslice(["attach", "b", "--netns", &a.ns.path().to_string_lossy(), "--ports", ports]);
    join("31001:80").refused(2, "port names of container b: ports 31000 and 31001 are both named 80");
    join("31001:31000").refused(2, "31000 is a port of its own as well");
    join("31001:81").ok();
    for (inside, outside) in [(80, 31000), (81, 31001)] {
        let server = listening(&a.ns, ANY6, inside);
        talks(&host.peer, &server, SocketAddr::new(HOST4, outside), [outside, inside]);
    }
    host.portslice(["detach", "b"]).ok();
    assert_eq!(port(&bound(&a.ns, libc::SOCK_STREAM, ANY4, 80).expect("bind")), 80);
    let gone = bound(&a.ns, libc::SOCK_STREAM, ANY4, 81).expect_err("b's name went with it");
    assert_eq!(gone.raw_os_error(), Some(libc::EADDRINUSE));
}

/// Where bind() is not judged nothing could translate.
#[test]
fn a_host_without_programs_at_the_sockets_refuses_names() {
    let host = Host::with("named-without").judged("off").build();
    let refused = host.try_bare("a", &["--ports", "31000:80"]).err().expect("granted");
    let words = "container a asks for port names, which are given at bind(), but socket_rules is \"off\"";
    assert!(refused.code == Some(5) && refused.stderr.contains(words), "{refused}");
    assert_eq!(host.ids(), [""; 0]);
    let _b = host.bare("b", &["--ports", "31000"]);
    let out = host.portslice(["set", "b", "--ports", "31000:80"]);
    assert!(out.code == Some(5) && out.stderr.contains("asks for port names"), "{out}");
}
