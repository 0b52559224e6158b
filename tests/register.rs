//! `portslice setup ENGINE` on real configuration files, without root: below a directory that is a system of its own, with
//! programs that answer as engines do.

#[path = "register/system.rs"]
mod system;

#[path = "register/left_alone.rs"]
mod left_alone;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use system::System;

const CONTAINERD: &str = "etc/containerd/config.toml";
const DOCKER: &str = "etc/docker/daemon.json";

/// containerd as it answers: the dump of a file is the file.
const CONTAINERD_1_6: &str = "#!/bin/sh\n\
    [ \"$1\" != --version ] || { echo 'containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3'; exit; }\n\
    [ \"$1 $3 $4\" = '--config config dump' ] && cat \"$2\"\n";
const CONTAINERD_2: &str = "#!/bin/sh\n\
    [ \"$1\" != --version ] || { echo 'containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7193e4'; exit; }\n\
    cat \"$2\"\n";
const DOCKER_20: &str = "#!/bin/sh\necho 'Docker version 20.10.24+dfsg1, build 297e128'\n";
const DOCKER_26: &str = "#!/bin/sh\n\
    [ \"$1\" != --version ] || { echo 'Docker version 26.1.5+dfsg1, build a72d7cd'; exit; }\n\
    [ \"$1 $2\" = '--validate --config-file' ] && grep -q '\"cdi\": true' \"$3\"\n";
const PODMAN: &str = "#!/bin/sh\n\
    [ \"$1\" != --version ] || { echo 'podman version 4.3.1'; exit; }\n\
    echo '      --hooks-dir strings   Set the OCI hooks directory path (default [/usr/share/containers/oci/hooks.d])'\n";

/// The dry run changes nothing and its diff, which patch(1) understands, is what the run does; a second run has nothing to do;
/// the undo leaves everything as it was. Returns what `look` saw while it was registered.
fn round<T>(system: &System, engine: &str, look: impl FnOnce(&System) -> T) -> T {
    let before = system.all();
    let diff = system.setup(&[engine, "--dry-run"]).ok();
    assert_eq!(system.all(), before, "{engine}: a dry run changes nothing");
    assert!(diff.lines().any(|line| line.starts_with("+++ /")), "{engine}: a unified diff: {diff}");
    let done = system.setup(&[engine]).ok();
    assert_ne!(system.all(), before, "{engine}: {done}");
    for line in diff.lines().filter_map(|line| line.strip_prefix("+++ ")) {
        assert!(line == "/dev/null" || done.contains(line), "{engine}: {line} is told: {done}");
    }
    let registered = system.all();
    assert_eq!(system.setup(&[engine]).ok(), "nothing to do\n", "{engine}: a second time");
    assert_eq!(system.setup(&[engine, "--dry-run"]).ok(), "nothing to do\n", "{engine}: a second dry run");
    assert_eq!(system.all(), registered, "{engine}: a second time");
    let seen = look(system);
    let back = system.setup(&[engine, "--undo", "--dry-run"]).ok();
    assert!(back.contains("--- /"), "{engine}: {back}");
    system.setup(&[engine, "--undo"]).ok();
    assert_eq!(system.all(), before, "{engine}: the undo leaves what was there, to the byte");
    assert_eq!(system.setup(&[engine, "--undo"]).ok(), "nothing to do\n", "{engine}: a second undo");
    assert_eq!(system.all(), before);
    seen
}

fn toml(text: &str) -> toml::Table {
    text.parse().unwrap_or_else(|e| panic!("{e}:\n{text}"))
}

/// Every line of the original is there, in order.
#[track_caller]
fn keeps(original: &str, text: &str) {
    let mut rest = text.lines();
    for line in original.lines() {
        assert!(rest.any(|other| other == line), "the line {line:?} is lost or moved in\n{text}");
    }
}

#[test]
fn containerd_of_debian() {
    let system = System::new("containerd-debian");
    let original = include_str!("register/containerd-debian.toml");
    system.write(CONTAINERD, original);
    fs::set_permissions(system.0.join(CONTAINERD), fs::Permissions::from_mode(0o600)).unwrap();
    system.program("usr/bin/containerd", CONTAINERD_1_6);
    let text = round(&system, "containerd", |system| {
        let target = fs::read_link(system.0.join("usr/lib/cni/portslice")).unwrap();
        assert_eq!(target, Path::new("/usr/libexec/portslice/portslice-cni"), "where this file says that plugins are");
        let list = system.read("etc/cni/portslice.d/10-portslice.conflist");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&list).unwrap()["plugins"][0]["type"], "portslice");
        assert_eq!(fs::metadata(system.0.join(CONTAINERD)).unwrap().permissions().mode() & 0o777, 0o600);
        system.read(CONTAINERD)
    });
    keeps(original, &text);
    let runtimes = &toml(&text)["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"];
    assert_eq!(
        runtimes["portslice"]["options"]["BinaryName"].as_str(),
        Some("/usr/libexec/portslice/portslice-runtime")
    );
    for key in ["pod_annotations", "container_annotations"] {
        assert_eq!(runtimes["portslice"][key], toml::Value::from(vec!["portslice/*"]));
    }
    assert_eq!(runtimes["portslice"]["cni_conf_dir"].as_str(), Some("/etc/cni/portslice.d"));
    assert_eq!(
        runtimes["runc"]["runtime_type"].as_str(),
        Some("io.containerd.runc.v2"),
        "with ours alone CRI does not load"
    );
}

#[test]
fn containerd_with_every_default_written_down() {
    let system = System::new("containerd-default");
    let original = include_str!("register/containerd-default.toml");
    system.write(CONTAINERD, original);
    system.program("usr/bin/containerd", CONTAINERD_1_6);
    let text = round(&system, "containerd", |system| system.read(CONTAINERD));
    keeps(original, &text);
    // as its siblings are written
    let header =
        "\n        [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.portslice]\n          runtime_type = ";
    assert!(text.contains(header), "{text}");
    let ours = &toml(&text)["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"]["portslice"];
    assert_eq!(ours["options"]["SystemdCgroup"].as_bool(), Some(false), "as runc has it");
}

#[test]
fn containerd_of_version_2() {
    let system = System::new("containerd-2");
    let original = include_str!("register/containerd-v3.toml");
    system.write(CONTAINERD, original);
    system.program("usr/local/bin/containerd", CONTAINERD_2);
    let text = round(&system, "containerd", |system| {
        assert!(system.0.join("srv/cni/bin/portslice").is_symlink());
        system.read(CONTAINERD)
    });
    keeps(original, &text);
    let runtimes = &toml(&text)["plugins"]["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"];
    assert_eq!(runtimes["portslice"]["options"]["SystemdCgroup"].as_bool(), Some(true), "as runc has it");
    assert_eq!(runtimes["runc"].as_table().unwrap().len(), 2, "runc is as it was");

    // without a configuration, what this version reads is written
    fs::remove_file(system.0.join(CONTAINERD)).unwrap();
    let text = round(&system, "containerd", |system| system.read(CONTAINERD));
    assert_eq!(toml(&text)["version"].as_integer(), Some(3));
    assert!(toml(&text)["plugins"]["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"]["runc"].is_table());
}

#[test]
fn containerd_as_docker_packages_it_does_not_read_the_handler() {
    let system = System::new("containerd-docker");
    // No version: it is the oldest one.
    let original =
        "#   Copyright 2018-2022 Docker Inc.\n\ndisabled_plugins = [\"cri\"]\n\n#root = \"/var/lib/containerd\"\n";
    system.write(CONTAINERD, original);
    system.program("usr/bin/containerd", CONTAINERD_1_6);
    let out = system.setup(&["containerd"]).ok();
    assert!(out.contains("disabled_plugins turns CRI off"), "{out}");
    assert!(toml(&system.read(CONTAINERD))["plugins"]["cri"]["containerd"]["runtimes"]["portslice"].is_table());
    system.setup(&["containerd", "--undo"]).ok();
    assert_eq!(system.read(CONTAINERD), original);
}

#[test]
fn containerd_that_would_not_load_is_left_alone() {
    let system = System::new("containerd-check");
    // Its default runtime is nowhere, so CRI does not load.
    let missing = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = \"kata\"\n";
    system.write(CONTAINERD, missing);
    system.program("usr/bin/containerd", CONTAINERD_1_6);
    let before = system.all();
    system.setup(&["containerd"]).refused(5, &["default runtime kata is not configured", "nothing was changed"]);
    assert_eq!(system.all(), before);
    let refuses = CONTAINERD_1_6.replace("&& cat \"$2\"", "&& { echo 'containerd: failed to load TOML' >&2; exit 1; }");
    system.program("usr/bin/containerd", &refuses);
    let before = system.all();
    system.setup(&["containerd"]).refused(5, &["failed to load TOML", "nothing was changed"]);
    assert_eq!(system.all(), before);
}

#[test]
fn docker_without_devices_has_the_runtime() {
    let system = System::new("docker-20");
    let original = include_str!("register/docker-odd.json");
    system.write(DOCKER, original);
    system.program("usr/sbin/dockerd", DOCKER_20);
    let text = round(&system, "docker", |system| {
        assert!(!system.0.join("etc/cdi").exists(), "this version has no devices");
        system.read(DOCKER)
    });
    let (ours, theirs): (serde_json::Value, serde_json::Value) =
        (serde_json::from_str(&text).unwrap(), serde_json::from_str(original).unwrap());
    assert_eq!(ours["runtimes"]["portslice"]["path"], "/usr/libexec/portslice/portslice-runtime");
    assert_eq!(ours["runtimes"]["nvidia"], theirs["runtimes"]["nvidia"]);
    assert_eq!(ours.get("features"), None);
    for kept in
        ["\n\t  \"log-driver\" : \"journald\",\n", "\"10.0.0.7:5000\",   \"[fd00::7]:5000\"", "12345678901234567890123"]
    {
        assert!(text.contains(kept), "{text}");
    }
    let out = system.setup(&["docker"]).ok();
    assert!(out.contains("systemctl reload docker") && out.contains("cannot check"), "{out}");
}

#[test]
fn docker_with_devices_has_them_too() {
    let system = System::new("docker-26");
    system.program("usr/bin/dockerd", DOCKER_26);
    let (file, device) =
        round(&system, "docker", |system| (system.read(DOCKER), system.read("etc/cdi/portslice.json")));
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    assert_eq!((&file["features"]["cdi"], file["runtimes"]["portslice"].is_object()), (&true.into(), true));
    let device: serde_json::Value = serde_json::from_str(&device).unwrap();
    assert_eq!(device["devices"][0]["name"], "default");

    // Docker refuses what it cannot load.
    system.program("usr/bin/dockerd", &DOCKER_26.replace("grep -q", "echo 'unable to configure' >&2; ! grep -q"));
    let before = system.all();
    system.setup(&["docker"]).refused(5, &["dockerd would not load /etc/docker/daemon.json", "unable to configure"]);
    assert_eq!(system.all(), before);

    // Devices do without the runtime.
    system.program("usr/bin/dockerd", DOCKER_26);
    fs::remove_file(system.0.join("usr/libexec/portslice/portslice-runtime")).unwrap();
    let out = system.setup(&["docker"]).ok();
    assert!(
        out.contains("no portslice-runtime") && system.read("etc/cdi/portslice.json").contains("poststop"),
        "{out}"
    );
    assert!(out.contains("systemctl restart docker") && !out.contains("systemctl reload"), "{out}");
}

#[test]
fn podman_has_hooks_where_it_looks_for_them() {
    let system = System::new("podman");
    system.program("usr/bin/podman", PODMAN);
    let directory = "usr/share/containers/oci/hooks.d";
    system.write(&format!("{directory}/10-other.json"), "{}");
    let hook = round(&system, "podman", |system| system.read(&format!("{directory}/50-portslice-prestart.json")));
    let hook: serde_json::Value = serde_json::from_str(&hook).unwrap();
    assert_eq!(hook["hook"]["path"], "/usr/libexec/portslice/portslice-prestart");
    // Networks have drivers in a later version, where ours is installed.
    let driver = |system: &System| fs::read_link(system.0.join("usr/libexec/netavark/portslice")).ok();
    system.program("usr/bin/portslice-netavark", "#!/bin/sh\n");
    system.program("usr/bin/podman", PODMAN);
    assert_eq!(round(&system, "podman", driver), None);
    system.program("usr/bin/podman", &PODMAN.replace("4.3.1", "5.4.2"));
    assert_eq!(round(&system, "podman", driver).as_deref(), Some(Path::new("/usr/bin/portslice-netavark")));
    fs::remove_file(system.0.join("usr/bin/portslice-netavark")).unwrap();
    fs::remove_file(system.0.join("usr/libexec/portslice/portslice-runtime")).unwrap();
    system.program("usr/bin/portslice-runtime", "#!/bin/sh\n");
    // A package has them already: that is as good, and not ours to remove.
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/oci-hooks.d");
    for entry in fs::read_dir(shipped).unwrap().flatten() {
        system.write(&format!("{directory}/{}", entry.file_name().display()), fs::read(entry.path()).unwrap());
    }
    let before = system.all();
    assert!(system.setup(&["podman"]).ok().starts_with("nothing to do\n"));
    system.setup(&["podman", "--undo"]).ok();
    assert_eq!(system.all(), before);
}

#[test]
fn crio_has_a_file_of_its_own_and_hooks_where_it_looks_for_them() {
    let system = System::new("crio");
    let original = include_str!("register/crio.conf");
    system.write("etc/crio/crio.conf", original);
    system.program("usr/bin/crio", "#!/bin/sh\n[ \"$1 $3\" = '--config config' ] && cat \"$2\"\n");
    let file = round(&system, "crio", |system| {
        assert!(system.0.join("srv/hooks.d/50-portslice-poststop.json").exists());
        assert_eq!(system.read("etc/crio/crio.conf"), original);
        system.read("etc/crio/crio.conf.d/50-portslice.conf")
    });
    let handler = &toml(&file)["crio"]["runtime"]["runtimes"]["portslice"];
    assert_eq!(handler["runtime_path"].as_str(), Some("/usr/libexec/portslice/portslice-runtime"));
    assert_eq!(handler.get("allowed_annotations"), None, "CRI-O does not start with one that it does not know");
}

#[test]
fn nomad_mesos_kubernetes_and_devices() {
    let system = System::new("others");
    let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
    let list = round(&system, "nomad", |system| {
        assert!(system.0.join("opt/cni/bin/portslice").is_symlink());
        json(system.read("opt/cni/config/portslice.conflist"))
    });
    assert_eq!((&list["name"], &list["plugins"][0]["type"]), (&"portslice".into(), &"portslice".into()));
    let network = round(&system, "mesos", |system| json(system.read("etc/mesos/cni/portslice.conf")));
    assert_eq!((&network["name"], &network["type"]), (&"portslice".into(), &"portslice".into()), "no list of plugins");
    let out = system.setup(&["mesos"]).ok();
    assert!(out.contains("--network_cni_config_dir=/etc/mesos/cni --network_cni_plugins_dir=/opt/cni/bin"), "{out}");
    system.setup(&["mesos", "--undo"]).ok();
    let device = round(&system, "cdi", |system| json(system.read("etc/cdi/portslice.json")));
    let hooks = device["devices"][0]["containerEdits"]["hooks"].as_array().unwrap();
    let stages: Vec<&str> = hooks.iter().filter_map(|hook| hook["hookName"].as_str()).collect();
    assert_eq!(
        (stages.as_slice(), device["kind"].as_str()),
        (&["createRuntime", "poststop"][..], Some("portslice/net"))
    );
    let manifest = round(&system, "kubernetes", |system| system.read("etc/portslice/kubernetes.yaml"));
    kubernetes(&manifest);
}

/// What Kubernetes would refuse, as far as it can be told without it, or what would do nothing.
fn kubernetes(manifest: &str) {
    let documents = serde_yaml_ng::Deserializer::from_str(manifest);
    let all: Vec<serde_json::Value> = documents.map(|one| serde::Deserialize::deserialize(one).unwrap()).collect();
    let [class, config, daemons] = all.as_slice() else { panic!("three objects are expected: {manifest}") };
    let kinds = |one: &serde_json::Value| {
        format!("{} {} {}", one["apiVersion"], one["kind"], one["metadata"]["name"]).replace('"', "")
    };
    assert_eq!(
        [class, config, daemons].map(kinds),
        ["node.k8s.io/v1 RuntimeClass portslice", "v1 ConfigMap portslice", "apps/v1 DaemonSet portslice"]
    );
    assert_eq!(class["handler"], "portslice", "as containerd calls it");
    let list: serde_json::Value =
        serde_json::from_str(config["data"]["10-portslice.conflist"].as_str().unwrap()).unwrap();
    assert_eq!(list["plugins"][0]["type"], "portslice");
    toml(config["data"]["portslice.toml"].as_str().unwrap());
    let (selector, pod) = (&daemons["spec"]["selector"]["matchLabels"], &daemons["spec"]["template"]);
    assert_eq!(selector, &pod["metadata"]["labels"]);
    let named = |list: &serde_json::Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    let volumes = named(&pod["spec"]["volumes"]);
    for kind in ["initContainers", "containers"] {
        for container in pod["spec"][kind].as_array().unwrap() {
            assert_eq!(container["image"], concat!("portslice:", env!("CARGO_PKG_VERSION")));
            assert!(
                container["command"].as_array().is_some_and(|words| words.iter().all(|word| word.is_string())),
                "{container}"
            );
            let mounts = container.get("volumeMounts").map(named).unwrap_or_default();
            assert!(mounts.iter().all(|mount| volumes.contains(mount)), "{mounts:?} of {volumes:?}");
        }
    }
    // The script is one that a shell understands.
    let script = pod["spec"]["initContainers"][0]["command"][2].as_str().unwrap();
    let understood = std::process::Command::new("sh").args(["-n", "-c", script]).output().unwrap();
    assert!(understood.status.success(), "{script}");
}

#[test]
fn what_others_changed_since_stays() {
    let system = System::new("edited");
    system.write(CONTAINERD, include_str!("register/containerd-debian.toml"));
    system.program("usr/bin/containerd", CONTAINERD_1_6);
    system.setup(&["containerd"]).ok();
    let edited = system.read(CONTAINERD).replace("version = 2\n", "version = 2\n# of the site\noom_score = -999\n");
    system.write(CONTAINERD, &edited);
    assert_eq!(system.setup(&["containerd"]).ok(), "nothing to do\n", "our keys are as they are to be");
    let out = system.setup(&["containerd", "--undo"]).ok();
    assert!(out.contains("was changed since setup: only our keys are taken out"), "{out}");
    let expected = include_str!("register/containerd-debian.toml")
        .replace("version = 2\n", "version = 2\n# of the site\noom_score = -999\n");
    assert_eq!(system.read(CONTAINERD), expected);

    system.write(DOCKER, "{\n  \"mtu\": 1400\n}\n");
    system.program("usr/bin/dockerd", DOCKER_20);
    system.setup(&["docker"]).ok();
    system.write(DOCKER, system.read(DOCKER).replace("1400", "1500"));
    system.setup(&["docker", "--undo"]).ok();
    assert_eq!(system.read(DOCKER), "{\n  \"mtu\": 1500\n}\n");

    // A file that is ours as a whole, and is not any more: it is neither overwritten nor removed.
    system.setup(&["cdi"]).ok();
    system.write("etc/cdi/portslice.json", "{}\n");
    let before = system.all();
    assert!(system.setup(&["cdi"]).ok().starts_with("nothing to do\n"));
    assert_eq!(system.all(), before);
    for program in ["portslice-prestart", "portslice-poststop", "portslice-runtime"] {
        system.program(&format!("opt/portslice/{program}"), "#!/bin/sh\n");
    }
    let before = system.all();
    system.setup(&["cdi", "--programs", "/opt/portslice"]).refused(2, &["/etc/cdi/portslice.json", "move it away"]);
    assert_eq!(system.all(), before);
    let out = system.setup(&["cdi", "--undo"]).ok();
    assert!(out.contains("/etc/cdi/portslice.json was changed since setup: it stays"), "{out}");
    assert_eq!(system.read("etc/cdi/portslice.json"), "{}\n");
}

#[test]
fn programs_that_moved_are_registered_anew_and_the_undo_still_leads_back() {
    let system = System::new("moved");
    let original = include_str!("register/docker-odd.json");
    system.write(DOCKER, original);
    system.program("usr/bin/dockerd", DOCKER_20);
    let before = system.all();
    system.setup(&["docker"]).ok();
    system.program("opt/portslice/portslice-runtime", "#!/bin/sh\n");
    system.setup(&["docker", "--programs", "/opt/portslice"]).ok();
    assert!(system.read(DOCKER).contains("\"/opt/portslice/portslice-runtime\""));
    system.setup(&["docker", "--undo"]).ok();
    // A link of ours is changed as well.
    system.program("opt/portslice/portslice-cni", "#!/bin/sh\n");
    system.setup(&["nomad"]).ok();
    system.setup(&["nomad", "--programs", "/opt/portslice"]).ok();
    let link = system.0.join("opt/cni/bin/portslice");
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("/opt/portslice/portslice-cni"));
    system.setup(&["nomad", "--undo"]).ok();
    fs::remove_dir_all(system.0.join("opt/portslice")).unwrap();
    fs::remove_dir(system.0.join("opt")).unwrap();
    assert_eq!(system.all(), before);
    // One of somebody else is not.
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    symlink("/elsewhere", &link).unwrap();
    system.setup(&["nomad"]).refused(2, &["/opt/cni/bin/portslice: it is there, and no link to"]);
}

#[test]
fn a_file_that_cannot_be_written_takes_the_others_back() {
    let system = System::new("half");
    system.program("usr/bin/podman", PODMAN);
    // Where the second file is written before it is put in its place, there is a directory.
    let place = "usr/share/containers/oci/hooks.d/.50-portslice-poststop.json.portslice-new";
    fs::create_dir_all(system.0.join(place)).unwrap();
    let before = system.all();
    system.setup(&["podman"]).refused(1, &["cannot write", place]);
    assert_eq!(system.all(), before);
    fs::remove_dir(system.0.join(place)).unwrap();
    system.setup(&["podman"]).ok();
    for program in ["portslice-prestart", "portslice-poststop", "portslice-runtime"] {
        system.program(&format!("opt/portslice/{program}"), "#!/bin/sh\n");
    }
    fs::create_dir_all(system.0.join(place)).unwrap();
    let before = system.all();
    system.setup(&["podman", "--programs", "/opt/portslice"]).refused(1, &["cannot write"]);
    assert_eq!(system.all(), before, "also when it had been registered before");
}

#[test]
fn what_several_engines_need_goes_with_the_last_of_them() {
    let system = System::new("shared");
    system.program("usr/bin/podman", PODMAN);
    system.program("usr/bin/dockerd", DOCKER_26);
    let before = system.all();
    let engines = ["podman", "crio", "nomad", "mesos", "cdi", "docker"];
    let shared = [
        "usr/share/containers/oci/hooks.d/50-portslice-prestart.json",
        "opt/cni/bin/portslice",
        "etc/cdi/portslice.json",
    ];
    for order in [[0, 1, 2, 3, 4, 5], [1, 0, 3, 2, 5, 4]] {
        engines.iter().for_each(|engine| drop(system.setup(&[engine]).ok()));
        for pair in order.chunks(2) {
            system.setup(&[engines[pair[0]], "--undo"]).ok();
            assert_eq!(system.setup(&[engines[pair[1]]]).ok(), "nothing to do\n", "{}", engines[pair[1]]);
        }
        assert!(shared.iter().all(|path| system.0.join(path).symlink_metadata().is_ok()));
        for pair in order.chunks(2) {
            system.setup(&[engines[pair[1]], "--undo"]).ok();
        }
        assert_eq!(system.all(), before, "{order:?}");
    }
}

#[test]
fn a_link_stays_a_link() {
    let system = System::new("link");
    system.program("usr/bin/dockerd", DOCKER_20);
    system.write("srv/config/daemon.json", "{}\n");
    fs::create_dir_all(system.0.join("etc/docker")).unwrap();
    symlink("../../srv/config/daemon.json", system.0.join(DOCKER)).unwrap();
    round(&system, "docker", |system| assert!(system.0.join(DOCKER).is_symlink()));
    // The system's own root is meant.
    fs::remove_file(system.0.join(DOCKER)).unwrap();
    symlink("/srv/config/daemon.json", system.0.join(DOCKER)).unwrap();
    round(&system, "docker", |system| assert!(system.0.join(DOCKER).is_symlink()));
    // One that leads nowhere there is not replaced.
    fs::remove_file(system.0.join(DOCKER)).unwrap();
    symlink(env!("CARGO_MANIFEST_DIR").to_owned() + "/Cargo.toml", system.0.join(DOCKER)).unwrap();
    system.setup(&["docker"]).refused(2, &["leads nowhere"]);
}

#[test]
fn a_broken_file_is_named_with_its_line_and_nothing_changes() {
    let system = System::new("broken");
    system.program("usr/bin/dockerd", DOCKER_20);
    system.program("usr/bin/containerd", CONTAINERD_1_6);
    system.program("usr/bin/crio", "#!/bin/sh\ncat \"$2\"\n");
    system.write(DOCKER, "{\n  \"mtu\": 1400,\n}\n");
    system.write(CONTAINERD, "version = 2\n\n[plugins\n");
    system.write("etc/crio/crio.conf", "[crio.runtime]\nhooks_dir = /srv\n");
    let before = system.all();
    system.setup(&["docker"]).refused(2, &["/etc/docker/daemon.json line 3 column 1: ", "nothing was changed"]);
    system.setup(&["containerd"]).refused(2, &["/etc/containerd/config.toml line 3 column 9: ", "nothing was changed"]);
    system.setup(&["crio"]).refused(2, &["etc/crio/crio.conf line 2 column 13: "]);
    assert_eq!(system.all(), before);
    system.write(DOCKER, "{\"runtimes\": []}");
    system.setup(&["docker"]).refused(2, &["/etc/docker/daemon.json, key runtimes: is no table"]);
    system.write(DOCKER, b"{\"mtu\": \"\xff\"}");
    system.setup(&["docker"]).refused(2, &["daemon.json: not UTF-8"]);
}

#[test]
fn what_is_missing_is_named() {
    let system = System::new("missing");
    fs::remove_dir_all(system.0.join("usr")).unwrap();
    system.setup(&["cdi"]).refused(6, &["no portslice-prestart in /usr/libexec/portslice", "--programs"]);
    system.setup(&["crio", "--verify"]).refused(5, &["--verify", "another system"]);
    system.setup(&["host"]).refused(2, &["--root", "only for an engine"]);
    let out = system.setup(&["dockre"]);
    out.refused(2, &["docker"]);
    assert_eq!(system.all().len(), 3, "nothing is left: {:?}", system.all().keys());
}
