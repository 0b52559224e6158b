//! What `portslice setup ENGINE` refuses, and what it does not touch or alter.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::system::System;
use super::{CONTAINERD, CONTAINERD_1_6, DOCKER, DOCKER_20, DOCKER_26, PODMAN, round};

/// What stands where a plugin of ours is to be is ours, or it is named.
#[test]
fn a_program_in_our_place_is_ours_or_refused_by_name() {
    let system = System::new("rubbish");
    system.program("usr/bin/podman", &PODMAN.replace("4.3.1", "5.4.2"));
    system.program("usr/bin/containerd", CONTAINERD_1_6);
    system.program("usr/libexec/portslice/portslice-netavark", "#!/bin/sh\n");
    for (engine, place, ours) in [
        ("nomad", "opt/cni/bin/portslice", "portslice-cni"),
        ("mesos", "opt/cni/bin/portslice", "portslice-cni"),
        ("containerd", "opt/cni/bin/portslice", "portslice-cni"),
        ("podman", "usr/libexec/netavark/portslice", "portslice-netavark"),
    ] {
        for rubbish in ["#!/bin/sh\nexec other\n", ""] {
            system.program(place, rubbish);
            let before = system.all();
            let parts = [&format!("/{place}: it is there, and not {ours}"), "move it away"];
            system.setup(&[engine]).refused(2, &parts);
            assert_eq!(system.all(), before, "{engine}: a refusal changes nothing");
        }
        // One that cannot be run does not do, whatever is in it; one of ours stays, in whatever version.
        let text = format!("another version of {ours}\n");
        system.write(place, &text);
        fs::set_permissions(system.0.join(place), fs::Permissions::from_mode(0o644)).unwrap();
        system.setup(&[engine]).refused(2, &["it is there, and not"]);
        system.program(place, &text);
        round(&system, engine, |system| assert_eq!(system.read(place), text, "{engine}"));
        fs::remove_file(system.0.join(place)).unwrap();
    }
    // What is to be called has to be a program as well.
    for program in ["portslice-runtime", "portslice-cni", "portslice-prestart", "portslice-netavark"] {
        let path = format!("usr/libexec/portslice/{program}");
        let engine = match program {
            "portslice-runtime" => "containerd",
            "portslice-cni" => "nomad",
            _ => "podman",
        };
        fs::set_permissions(system.0.join(&path), fs::Permissions::from_mode(0o644)).unwrap();
        let before = system.all();
        system.setup(&[engine]).refused(2, &[&format!("/{path}: it is there, and no program")]);
        assert_eq!(system.all(), before);
        fs::set_permissions(system.0.join(&path), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Not even the directory in which it is remembered what was registered.
#[test]
fn what_is_refused_leaves_no_directory() {
    let system = System::new("bare");
    fs::remove_dir_all(system.0.join("var")).unwrap();
    system.write(DOCKER, "[]");
    let before = system.all();
    system.setup(&["docker"]).refused(2, &["/etc/docker/daemon.json line 1"]);
    system.setup(&["cdi", "--programs", "/nowhere"]).refused(6, &["no portslice-prestart in /nowhere"]);
    system.setup(&["docker", "--undo"]).ok();
    assert_eq!(system.all(), before);
    // Those that were made go with what they were made for, whoever is last.
    for engines in [["mesos", "nomad"], ["cdi", "nomad"]] {
        engines.iter().for_each(|engine| drop(system.setup(&[engine]).ok()));
        engines.iter().for_each(|engine| drop(system.setup(&[engine, "--undo"]).ok()));
        assert_eq!(system.all(), before, "{engines:?}");
    }
    let nowhere = System(system.0.join("nowhere"));
    for arguments in [&["cdi"][..], &["cdi", "--undo"], &["cdi", "--dry-run"]] {
        nowhere.setup(arguments).refused(6, &["--root", "there is no such directory"]);
    }
    assert_eq!(system.all(), before);
}

/// An undo says what it did, and nothing else.
#[test]
fn an_undo_does_not_contradict_itself() {
    let system = System::new("undo");
    let text = |arguments: &[&str]| system.setup(arguments).ok();
    // Somebody made the whole file his own.
    text(&["cdi"]);
    system.write("etc/cdi/portslice.json", "{}\n");
    let said = "cdi is not registered any more; no file was changed\n\
                /etc/cdi/portslice.json was changed since setup: it stays, remove it by hand\n";
    assert_eq!(text(&["cdi", "--undo"]), said);
    assert_eq!(text(&["cdi", "--undo"]), "nothing to do\n");
    // Somebody has another runtime under our name.
    system.program("usr/bin/dockerd", DOCKER_20);
    text(&["docker"]);
    system.write(DOCKER, "{\"runtimes\": {\"portslice\": {\"path\": \"/other\"}}}\n");
    let said = "docker is not registered any more; no file was changed\n\
                /etc/docker/daemon.json was changed since setup, and has no key as setup wrote it: it stays as it is\n";
    assert_eq!(text(&["docker", "--undo"]), said);
    // Somebody has another plugin there.
    text(&["nomad"]);
    let link = system.0.join("opt/cni/bin/portslice");
    fs::remove_file(&link).unwrap();
    symlink("/elsewhere", &link).unwrap();
    let out = text(&["nomad", "--undo"]);
    assert!(out.contains("/opt/cni/bin/portslice was changed since setup: it stays"), "{out}");
    assert!(link.is_symlink() && !out.contains("linked") && !out.contains("removed /opt/cni/bin"), "{out}");
    // Another engine needs all that is there.
    fs::remove_file(&link).unwrap();
    system.program("usr/bin/dockerd", DOCKER_26);
    fs::remove_file(system.0.join(DOCKER)).unwrap();
    fs::remove_file(system.0.join("etc/cdi/portslice.json")).unwrap();
    text(&["cdi"]);
    text(&["docker"]);
    assert_eq!(text(&["cdi", "--undo"]), "cdi is not registered any more; no file was changed\n");
    // Devices are turned off as they were turned on.
    let out = text(&["docker", "--undo"]);
    assert!(out.contains("systemctl restart docker") && !out.contains("systemctl reload"), "{out}");
}

/// A dry run is refused where the run would be, and in the same words.
#[test]
fn a_dry_run_asks_the_engine_as_the_run_does() {
    let system = System::new("dry");
    let refuses = CONTAINERD_1_6.replace("&& cat \"$2\"", "&& { echo 'containerd: failed to load TOML' >&2; exit 1; }");
    system.program("usr/bin/containerd", &refuses);
    system.program("usr/bin/dockerd", &DOCKER_26.replace("grep -q", "echo 'unable to configure' >&2; ! grep -q"));
    let before = system.all();
    for options in [&["--dry-run"][..], &[]] {
        let call = |engine| system.setup(&[&[engine], options].concat());
        call("containerd").refused(5, &["failed to load TOML", "nothing was changed"]);
        call("docker").refused(5, &["dockerd would not load /etc/docker/daemon.json", "unable to configure"]);
        assert_eq!(system.all(), before, "{options:?}");
    }
}

/// As editors of other systems write files: line ends of two bytes, and a mark at the beginning.
#[test]
fn line_ends_and_the_mark_at_the_beginning_stay() {
    let system = System::new("ends");
    system.program("usr/bin/containerd", CONTAINERD_1_6);
    system.program("usr/bin/dockerd", DOCKER_20);
    let toml = include_str!("containerd-debian.toml").replace('\n', "\r\n");
    let json = include_str!("docker-odd.json").replace('\n', "\r\n");
    for (engine, path, original) in [
        ("containerd", CONTAINERD, toml.clone()),
        ("containerd", CONTAINERD, format!("\u{feff}{toml}")),
        ("docker", DOCKER, json),
    ] {
        system.write(path, &original);
        let text = round(&system, engine, |system| system.read(path));
        assert_eq!(text.matches('\n').count(), text.matches("\r\n").count(), "{engine}: {text:?}");
        // Also when somebody adds to it in between.
        system.setup(&[engine]).ok();
        let (blank, comment) = ("\r\n", "# mine\r\n");
        system.write(path, format!("{text}{}", if engine == "docker" { blank } else { comment }));
        system.setup(&[engine, "--undo"]).ok();
        let text = system.read(path);
        assert_eq!(text.matches('\n').count(), text.matches("\r\n").count(), "{engine}: {text:?}");
        assert!(engine == "docker" || text == format!("{original}{comment}"), "{engine}: {text:?}");
    }
}
