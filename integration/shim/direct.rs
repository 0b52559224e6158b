//! The shim called by hand, with runc and crun behind it.

use super::*;

fn in_both(name: &str, test: impl Fn(&str, &Host, &Runtime<'_>)) {
    for program in ["runc", "crun"] {
        let host = host(&format!("shim-{name}-{program}"), program, "");
        test(program, &host, &host.runtime("portslice-runtime"));
    }
}

#[test]
fn a_container_that_asks_by_annotation() {
    in_both("annotation", |what, host, runtime| {
        let bundle = Bundle::new(host, "web", &["sleep", "1000"]);
        let bundle = bundle.annotation("portslice/ports", "31000-31001").annotation("portslice/cpus", "0.5");
        let bundle = bundle.annotation("portslice/cpus-limit", "1.5");
        let running = runtime.start(&bundle);
        let lease = slice(what, host);
        assert_eq!(
            (lease["stage"].as_str(), lease["ports"].as_str()),
            (Some("attached"), Some("31000-31001")),
            "{lease}"
        );
        assert_eq!(lease["pid"], running.pid, "{what}: {lease}");
        assert_works(what, host, running.pid, 31_000, &lease);
        let said = running.exec(&["sh", "-c", LOOKS]).ok().stdout;
        assert_told(what, host, &said, &[31_000, 31_001], &block_of(&lease));
        assert!(
            eventually(|| cpu_of(running.pid) == ("512".into(), "150000".into())),
            "{what}: {:?}",
            cpu_of(running.pid)
        );
        runtime.call(&["kill", &running.id, "KILL"]).ok();
        assert!(eventually(|| runtime.call(&["state", &running.id]).stdout.contains("\"stopped\"")), "{what}");
        runtime.call(&["delete", &running.id]).ok();
        assert_gone(what, host);
    });
}

/// Shares and quota in the cgroup of a process.
#[track_caller]
fn cpu_of(pid: u32) -> (String, String) {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("a process");
    let path = groups.lines().find(|line| line.split(':').nth(1).is_some_and(|c| c.split(',').any(|c| c == "cpu")));
    let path = path.and_then(|line| line.splitn(3, ':').nth(2)).unwrap_or_else(|| panic!("no CPU cgroup: {groups}"));
    let read = |name| {
        std::fs::read_to_string(format!("/sys/fs/cgroup/cpu{path}/{name}")).unwrap_or_default().trim().to_owned()
    };
    (read("cpu.shares"), read("cpu.cfs_quota_us"))
}

#[test]
fn a_container_that_asks_by_environment_runs_again_with_the_same_bundle() {
    in_both("environment", |what, host, runtime| {
        let bundle = Bundle::new(host, "job", &["sh", "-c", LOOKS]);
        let bundle = with_env(bundle, &["PORTSLICE_PORTS=31000,auto:1", "PORTSLICE_EPHEMERAL_PORTS=256"]);
        let mut edited = Vec::new();
        for round in 1..=3 {
            let out = runtime.run(&bundle).ok();
            let what = format!("{what}, round {round}");
            let value = |name: &str| {
                let found = out.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
                found.unwrap_or_else(|| panic!("{what}: no {name}: {out}")).to_owned()
            };
            let ports: Vec<u16> = value("PORTS").split(',').map(|port| port.parse().expect("a port")).collect();
            assert_eq!((ports.len(), ports[0]), (2, 31_000), "{what}: {out}");
            let block = value("PORTSLICE_BLOCK");
            assert_told(&what, host, &out.stdout, &ports, &block);
            let (begin, end) = block.split_once('-').expect("a block");
            assert_eq!(end.parse::<u32>().unwrap() - begin.parse::<u32>().unwrap(), 255, "{what}: {block}");
            assert_gone(&what, host);
            let config: Value =
                serde_json::from_slice(&std::fs::read(bundle.dir.join("config.json")).unwrap()).unwrap();
            assert_eq!(config["hooks"]["createRuntime"].as_array().map(Vec::len), Some(1), "{what}: {config}");
            assert_eq!(config["hooks"]["poststop"].as_array().map(Vec::len), Some(1), "{what}: {config}");
            edited.push((config["process"]["env"].as_array().map(Vec::len), config["mounts"].as_array().map(Vec::len)));
        }
        assert!(edited.windows(2).all(|two| two[0] == two[1]), "{what}: every round adds something: {edited:?}");
    });
}

#[test]
fn what_did_not_ask_is_handed_on_as_it_is() {
    in_both("untouched", |what, host, runtime| {
        let still = still::Still::of(host);
        let mut bundle = Bundle::new(host, "plain", &["sh", "-c", "echo ran; exit 3"]);
        // Nothing that a program would write: it must not even be written anew.
        let text = format!(" {}\n\n", serde_json::to_string(&bundle.config).unwrap());
        bundle.config = Value::Null;
        std::fs::write(bundle.dir.join("config.json"), &text).expect("config.json");
        let out = runtime.run(&bundle);
        assert_eq!((out.code, out.stdout.as_str()), (Some(3), "ran\n"), "{what}: {out}");
        assert_eq!(std::fs::read_to_string(bundle.dir.join("config.json")).unwrap(), text, "{what}: the bundle");
        // A configuration that is wrong keeps nothing from running that has nothing to do with it.
        std::fs::write(host.config_file(), "nonsense").expect("config");
        assert_eq!(runtime.run(&bundle).code, Some(3), "{what}: a wrong configuration");
        configure(host, what, "");
        still.check(what);
    });
}

#[test]
fn commands_need_no_environment_and_keep_their_streams() {
    in_both("bare", |what, host, runtime| {
        let bundle = Bundle::new(host, "bare", &["sleep", "1000"]).annotation("portslice/ports", "31000");
        let running = runtime.start(&bundle);
        // As Podman calls: nothing but a variable without a value. Where it finds its runtime then is what is installed.
        let call = |args: &[&str]| {
            let mut command = runtime.command(args);
            command.env_clear().env("XDG_RUNTIME_DIR", "").env("PORTSLICE_CONFIG", host.config_file());
            command
        };
        let input = r#"{"memory": {"limit": 67108864}}"#;
        let update = &mut call(&["update", "--resources", "-", &running.id]);
        run::run_with_input(update, Some(input), host::COMMAND_LIMIT).ok();
        let group = std::fs::read_to_string(format!("/proc/{}/cgroup", running.pid)).expect("a process");
        let path = group.lines().find_map(|line| line.split_once(":memory:")).expect("a memory cgroup").1.to_owned();
        let limit = std::fs::read_to_string(format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"));
        assert_eq!(limit.unwrap_or_default().trim(), "67108864", "{what}: what stood on stdin");
        let out = run::run(&mut call(&["exec", &running.id, "sh", "-c", "exit 7"]), host::COMMAND_LIMIT);
        assert_eq!(out.code, Some(7), "{what}: {out}");
        run::run(&mut call(&["delete", "--force", &running.id]), host::COMMAND_LIMIT).ok();
        assert_gone(what, host);
        // It comes again from another process. runc only warns, crun 1.8 refuses: whatever the runtime says itself is said.
        let (ours, theirs) = (
            run::run(&mut call(&["delete", "--force", &running.id]), host::COMMAND_LIMIT),
            host.runtime_at(&path_of(what), &runtime.root()).call(&["delete", "--force", &running.id]),
        );
        assert_eq!((ours.code, &ours.stdout), (theirs.code, &theirs.stdout), "{what}: {ours}\n{theirs}");
        let features =
            [runtime.call(&["features"]), host.runtime_at(&path_of(what), &runtime.root()).call(&["features"])];
        assert_eq!(
            (features[0].code, &features[0].stdout),
            (features[1].code, &features[1].stdout),
            "{what}: features"
        );
    });
}

#[test]
fn in_mode_all_everything_that_has_no_network_gets_a_slice() {
    for program in ["runc", "crun"] {
        let host = Host::new(&format!("shim-all-{program}"));
        let log = host.dir.join("portslice.log");
        let config = format!(
            "ports = \"31000-31999\"\nlog_file = \"{}\"\n[runtime]\nmode = \"all\"\npath = [\"{}\"]\n",
            log.display(),
            path_of(program)
        );
        std::fs::write(host.config_file(), config).expect("config");
        let runtime = host.runtime("portslice-runtime");
        let own = runtime.start(&Bundle::new(&host, "own", &["sleep", "1000"]));
        let lease = slice(program, &host);
        assert_eq!((&lease["id"], lease["stage"].as_str()), (&json!(own.id), Some("attached")), "{program}: {lease}");
        own.delete().ok();
        assert_gone(program, &host);
        // One that somebody else connects, before our hook looks.
        let script = host.dir.join("connect");
        let text = "#!/bin/sh\npid=$(/usr/bin/jq .pid)\n/usr/sbin/ip link add br-$pid type veth peer name eth0 netns $pid\n\
                    /usr/bin/nsenter --net=/proc/$pid/ns/net /usr/sbin/ip link set eth0 up\n";
        std::fs::write(&script, text).expect("script");
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("script");
        let connected = Bundle::new(&host, "connected", &["sleep", "1000"]).hook("prestart", &script.to_string_lossy());
        let connected = runtime.start(&connected);
        assert!(host.ids().is_empty(), "{program}: it has a network already: {:?}", host.list());
        connected.delete().ok();
        // Host networking, and a namespace that others have.
        let joined = Ns::net_only("joined");
        for (name, network) in [("host", bundle::Network::Host), ("joined", bundle::Network::Path(&joined.path()))] {
            let bundle = Bundle::new(&host, name, &["sleep", "1000"]).network(network);
            let before = std::fs::read(bundle.dir.join("config.json")).unwrap();
            let running = runtime.start(&bundle);
            assert!(host.ids().is_empty(), "{program}, {name}: {:?}", host.list());
            assert_eq!(std::fs::read(bundle.dir.join("config.json")).unwrap(), before, "{program}, {name}: its bundle");
            running.delete().ok();
        }
        assert_gone(program, &host);
    }
}
