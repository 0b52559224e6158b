//! Which unit a cgroup is, and the one call that systemd gets, over a bus of our own.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use portslice::cpu::systemd::{in_whole_percents, properties};
use portslice::cpu::unit::unit_of;
use portslice::cpu::{Bandwidth, Quota, Systemd, Units, Values, Version};
use zvariant::serialized::{Context, Data};
use zvariant::{LE, ObjectPath, Signature, Value};

use crate::tree::Tree;

#[test]
fn a_unit_is_told_by_where_its_cgroup_is() {
    for (path, expected) in [
        ("/system.slice/docker-1f.scope", Some("docker-1f.scope")),
        ("/machine.slice/libpod-1.scope", Some("libpod-1.scope")),
        ("/system.slice/systemd-nspawn@a.service", Some("systemd-nspawn@a.service")),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podA_B.slice/cri-containerd-1.scope",
            Some("cri-containerd-1.scope"),
        ),
        ("/kubepods.slice/kubepods-podA.slice", Some("kubepods-podA.slice")),
        ("/a\\x2db.slice/a\\x2db-c.slice/x.scope", Some("x.scope")),
        ("/web.scope", Some("web.scope")),
        ("/_cpu.slice/_cpu.scope", Some("cpu.scope")),
        // below a unit, systemd leaves everything to others
        ("/system.slice/libpod-1.scope/init.scope", None),
        ("/system.slice/libpod-1.scope/container", None),
        ("/system.slice/docker.service/web.scope", None),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/web.scope", None),
        // no slice of systemd's is there
        ("/kubepods-podA.slice/web.scope", None),
        ("/a.slice/b.slice", None),
        ("/a.slice/a-b-c.slice", None),
        ("/a.slice/a-.slice/x.scope", None),
        ("/.slice", None),
        ("/.scope", None),
        ("/box/web.scope", None),
        ("/docker/1f", None),
        ("/", None),
        ("", None),
        ("relative.scope", None),
    ] {
        assert_eq!(unit_of(path), expected, "{path}");
    }
}

#[test]
fn properties_come_to_the_same_values() {
    let values = |weight: u64, quota, period| Values {
        weight: (weight > 0).then_some(weight),
        bandwidth: Some(Bandwidth { quota, period }),
    };
    let half = values(512, Quota::Micros(50_000), 100_000);
    assert_eq!(properties(Version::V1, &half, 100_000), [("CPUShares", 512), ("CPUQuotaPerSecUSec", 500_000)]);
    assert_eq!(
        properties(Version::V2, &half, 20_000),
        [("CPUWeight", 512), ("CPUQuotaPerSecUSec", 500_000), ("CPUQuotaPeriodUSec", 100_000)]
    );
    let free = values(0, Quota::Unlimited, 50_000);
    assert_eq!(
        properties(Version::V2, &free, 100_000),
        [("CPUQuotaPerSecUSec", u64::MAX), ("CPUQuotaPeriodUSec", 50_000)]
    );
    let weight = Values { weight: Some(7), bandwidth: None };
    assert_eq!(properties(Version::V2, &weight, 100_000), [("CPUWeight", 7)]);
    let most = values(0, Quota::Micros((1 << 44) - 1), 100_000);
    assert_eq!(properties(Version::V2, &most, 100_000), [("CPUQuotaPerSecUSec", ((1 << 44) - 1) * 10)]);
}

#[test]
fn quotas_are_kept_in_whole_percents() {
    for (exact, rounded) in [(1000, 1000), (1001, 2000), (35_000, 35_000), (35_500, 36_000), (10_050_000, 10_050_000)] {
        assert_eq!(in_whole_percents(Quota::Micros(exact)), Quota::Micros(rounded));
    }
    assert_eq!(in_whole_percents(Quota::Unlimited), Quota::Unlimited);
}

/// What the bus does.
#[derive(Clone, Copy, PartialEq)]
enum Bus {
    /// Is there, but lets nobody in.
    Rejects,
    /// Answers the call with an error of that name, or without one.
    Answers(Option<&'static str>),
    /// Closes the connection instead of answering.
    HangsUp,
    /// Answers with bytes that mean nothing.
    Babbles,
}

fn read_message(stream: &mut UnixStream) -> Vec<u8> {
    let mut message = vec![0; 16];
    stream.read_exact(&mut message).unwrap();
    let number = |at: usize| u32::from_le_bytes(message[at..at + 4].try_into().unwrap()) as usize;
    let rest = number(12).next_multiple_of(8) + number(4);
    message.resize(16 + rest, 0);
    stream.read_exact(&mut message[16..]).unwrap();
    message
}

/// A message of `kind` whose header fields are `fields`, with a string as its body.
fn message(kind: u8, fields: &[u8], body: &str) -> Vec<u8> {
    let mut text = (body.len() as u32).to_le_bytes().to_vec();
    text.extend(body.bytes().chain([0]));
    let mut message = vec![b'l', kind, 1, 1];
    message.extend((text.len() as u32).to_le_bytes());
    message.extend(9u32.to_le_bytes());
    message.extend((fields.len() as u32).to_le_bytes());
    message.extend(fields);
    message.resize(message.len().next_multiple_of(8), 0);
    message.extend(text);
    message
}

/// Fields: answers `serial`, with an error's name if there is one, signature `s`.
fn fields(serial: u8, error: Option<&str>) -> Vec<u8> {
    let mut fields = vec![5, 1, b'u', 0, serial, 0, 0, 0];
    if let Some(name) = error {
        fields.extend([4, 1, b's', 0]);
        fields.extend((name.len() as u32).to_le_bytes());
        fields.extend(name.bytes().chain([0]));
        fields.resize(fields.len().next_multiple_of(8), 0);
    }
    fields.extend([8, 1, b'g', 0, 1, b's', 0]);
    fields
}

/// Serves one connection and returns the authentication and the last message it got.
fn serve(socket: &Path, hello: bool, bus: Bus) -> JoinHandle<(String, Vec<u8>)> {
    std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        let auth = String::from_utf8(line).unwrap();
        if bus == Bus::Rejects {
            stream.write_all(b"REJECTED EXTERNAL\r\n").unwrap();
            return (auth, Vec::new());
        }
        stream.write_all(b"OK 0123456789abcdef0123456789abcdef\r\n").unwrap();
        let mut begin = [0; 7];
        stream.read_exact(&mut begin).unwrap();
        assert_eq!(&begin, b"BEGIN\r\n");
        let mut serial = 0;
        if hello {
            serial += 1;
            let hello = read_message(&mut stream);
            assert!(hello.windows(5).any(|part| part == b"Hello"));
            stream.write_all(&message(2, &fields(serial, None), ":1.7")).unwrap();
            // NameAcquired, which answers nothing
            stream.write_all(&message(4, &[8, 1, b'g', 0, 1, b's', 0], ":1.7")).unwrap();
        }
        serial += 1;
        let call = read_message(&mut stream);
        match bus {
            Bus::Answers(None) => stream.write_all(&message(2, &fields(serial, None), "")).unwrap(),
            Bus::Answers(error) => stream.write_all(&message(3, &fields(serial, error), "Unit x\nis odd.")).unwrap(),
            Bus::Babbles => stream.write_all(&message(2, &[99, 200, b'z', 3, 1, 2, 3, 4, 5], "")).unwrap(),
            Bus::HangsUp | Bus::Rejects => {}
        }
        (auth, call)
    })
}

fn tree() -> Tree {
    let tree = Tree::new("", "", &[]);
    assert!(Systemd::running(&tree.roots()).is_none(), "not booted with systemd");
    tree.write("run/systemd/system/.keep", "");
    tree
}

/// zvariant takes the message apart, which has not put it together.
#[test]
fn the_call_is_the_one_systemd_knows() {
    let tree = tree();
    let bus = serve(&tree.root.join("run/dbus/system_bus_socket"), true, Bus::Answers(None));
    let systemd = Systemd::running(&tree.roots()).unwrap();
    systemd.set("web.scope", &[("CPUWeight", 50), ("CPUQuotaPerSecUSec", u64::MAX)]).unwrap();
    let (auth, call) = bus.join().unwrap();
    let uid: String = nix::unistd::geteuid().to_string().bytes().map(|b| format!("{b:02x}")).collect();
    assert_eq!(auth, format!("\0AUTH EXTERNAL {uid}\r\n"));

    type Header<'a> = (u8, u8, u8, u8, u32, u32, Vec<(u8, Value<'a>)>);
    let context = Context::new_dbus(LE, 0);
    let whole = Data::new(&call[..], context);
    let ((endian, kind, flags, version, length, serial, fields), read): (Header<'_>, usize) =
        whole.deserialize().unwrap();
    assert_eq!((endian, kind, flags, version, serial), (b'l', 1, 0, 1, 2));
    let path = ObjectPath::try_from("/org/freedesktop/systemd1").unwrap();
    let expected: [(u8, Value<'_>); 5] = [
        (1, path.into()),
        (6, "org.freedesktop.systemd1".into()),
        (2, "org.freedesktop.systemd1.Manager".into()),
        (3, "SetUnitProperties".into()),
        (8, Signature::try_from("sba(sv)").unwrap().into()),
    ];
    assert_eq!(fields, expected);

    let body = &call[read.next_multiple_of(8)..];
    assert_eq!(length as usize, body.len());
    type Arguments<'a> = (String, bool, Vec<(String, Value<'a>)>);
    let body = Data::new(body, context);
    let ((unit, runtime, properties), read): (Arguments<'_>, usize) = body.deserialize().unwrap();
    assert_eq!((unit.as_str(), runtime, read), ("web.scope", true, length as usize));
    let expected =
        [("CPUWeight".to_string(), Value::U64(50)), ("CPUQuotaPerSecUSec".to_string(), Value::U64(u64::MAX))];
    assert_eq!(properties, expected);
}

#[test]
fn every_answer_is_understood() {
    for (bus, words, code) in [
        (Bus::Answers(Some("org.freedesktop.systemd1.NoSuchUnit")), "systemd has no unit web.scope", 6),
        (Bus::Answers(Some("org.freedesktop.DBus.Error.AccessDenied")), "AccessDenied: Unit x is odd.", 1),
        (Bus::HangsUp, "it hung up", 1),
        (Bus::Babbles, "is not D-Bus", 1),
        (Bus::Rejects, "it does not let us in", 1),
    ] {
        let tree = tree();
        let served = serve(&tree.root.join("run/dbus/system_bus_socket"), true, bus);
        let error = Systemd::running(&tree.roots()).unwrap().set("web.scope", &[("CPUWeight", 50)]).unwrap_err();
        served.join().unwrap();
        assert!(error.to_string().contains(words) && !error.to_string().contains('\n'), "{error}");
        assert_eq!(error.exit_code(), code, "{error}");
    }
}

const BUS: &str = "run/dbus/system_bus_socket";
const PRIVATE: &str = "run/systemd/private";

#[test]
fn systemd_itself_is_asked_first() {
    let tree = tree();
    let systemd = Systemd::running(&tree.roots()).unwrap();
    let error = systemd.set("web.scope", &[("CPUWeight", 50)]).unwrap_err().to_string();
    assert!(error.contains("would be lost when it reloads"), "{error}");
    for socket in [BUS, PRIVATE] {
        assert_eq!(error.matches(socket).count(), 1, "{error}");
    }
    // a bus that is stuck is nothing to wait for
    std::fs::create_dir_all(tree.root.join("run/dbus")).unwrap();
    let _stuck = UnixListener::bind(tree.root.join(BUS)).unwrap();
    let private = serve(&tree.root.join(PRIVATE), false, Bus::Answers(None));
    let start = Instant::now();
    systemd.set("web.scope", &[("CPUWeight", 50)]).unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(private.join().unwrap().1.windows(17).any(|part| part == b"SetUnitProperties"));
}

#[test]
fn systemd_is_asked_again_when_it_executes_itself_anew() {
    let tree = tree();
    let socket = tree.root.join(PRIVATE);
    let old = serve(&socket, false, Bus::HangsUp);
    let new = thread::spawn(move || {
        old.join().unwrap();
        // nobody listens for a moment
        thread::sleep(Duration::from_millis(100));
        std::fs::remove_file(&socket).unwrap();
        thread::sleep(Duration::from_millis(100));
        serve(&socket, false, Bus::Answers(None)).join().unwrap()
    });
    Systemd::running(&tree.roots()).unwrap().set("web.scope", &[("CPUWeight", 50)]).unwrap();
    assert!(new.join().unwrap().1.windows(17).any(|part| part == b"SetUnitProperties"));
}

/// Whatever else comes in time.
#[test]
fn an_answer_is_not_waited_for_without_end() {
    type Speech = fn(&mut UnixStream, &[u8]) -> std::io::Result<()>;
    let drip: Speech = |stream, _| stream.write_all(b"x");
    let signals: Speech = |stream, signal| stream.write_all(signal);
    let silence: Speech = |_, _| Ok(());
    for (name, speech) in [("drip", Some(drip)), ("signals", Some(signals)), ("silence", Some(silence)), ("full", None)]
    {
        let tree = tree();
        let path = tree.root.join(PRIVATE);
        let listener = UnixListener::bind(&path).unwrap();
        let mut waiting = Vec::new();
        let speaker = speech.map(|speech| {
            let listener = listener.try_clone().unwrap();
            thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let signal = message(4, &[8, 1, b'g', 0, 1, b's', 0], "");
                if name == "signals" {
                    stream.write_all(b"OK 0123456789abcdef0123456789abcdef\r\n").unwrap();
                }
                // until the other end has had enough, and long enough for it to show that it has not
                let end = Instant::now() + Duration::from_secs(2);
                while speech(&mut stream, &signal).is_ok() && Instant::now() < end {
                    thread::sleep(Duration::from_millis(50));
                }
            })
        });
        if speech.is_none() {
            nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
            waiting.push(UnixStream::connect(&path).unwrap());
        }
        let start = Instant::now();
        let systemd = Systemd::running(&tree.roots()).unwrap().with_timeout(Duration::from_millis(300));
        let error = systemd.set("web.scope", &[("CPUWeight", 50)]).unwrap_err().to_string();
        let waited = start.elapsed();
        assert!(error.contains("private: no answer in 300ms"), "{name}: {error}");
        assert!((Duration::from_millis(250)..Duration::from_secs(2)).contains(&waited), "{name}: {waited:?}");
        if let Some(speaker) = speaker {
            speaker.join().unwrap();
        }
    }
}
