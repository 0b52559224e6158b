//! Which cgroup a container is in.

use portslice::cpu::{Controller, Place, Roots, Version};

use crate::tree::{PID, Tree};

/// Where `controller` has the container, below the tree; or why not.
fn found(tree: &Tree, controller: Controller) -> Result<(Version, String), String> {
    match tree.place().unwrap().of(controller) {
        Ok(cgroup) => {
            let directory = cgroup.directory.strip_prefix(&tree.root).unwrap();
            Ok((cgroup.version, directory.to_str().unwrap().to_string()))
        }
        Err(e) => {
            assert_eq!(e.exit_code(), 5, "{e}");
            Err(e.to_string())
        }
    }
}

fn at(version: Version, directory: &str) -> Result<(Version, String), String> {
    Ok((version, directory.to_string()))
}

#[test]
fn every_layout_is_understood() {
    let joined = Tree::v1_joined();
    assert_eq!(found(&joined, Controller::Cpu), at(Version::V1, "sys/fs/cgroup/cpu,cpuacct/box/web"));
    assert_eq!(found(&joined, Controller::Cpuacct), at(Version::V1, "sys/fs/cgroup/cpu,cpuacct/box/web"));
    assert_eq!(found(&joined, Controller::Memory), at(Version::V1, "sys/fs/cgroup/memory/box/web"));
    assert_eq!(joined.place().unwrap().unified(), None);

    let split = Tree::v1_split();
    assert_eq!(found(&split, Controller::Cpu), at(Version::V1, "sys/fs/cgroup/cpu/box/web"));
    assert_eq!(found(&split, Controller::Cpuacct), at(Version::V1, "sys/fs/cgroup/cpuacct/box/web"));
    // it is in the root of v2, whose pressure is the host's
    assert_eq!(split.place().unwrap().unified(), None);

    let v2 = Tree::v2("/box/web");
    for controller in [Controller::Cpu, Controller::Cpuacct, Controller::Memory] {
        assert_eq!(found(&v2, controller), at(Version::V2, "sys/fs/cgroup/box/web"));
    }

    let hybrid = Tree::hybrid();
    let v1 = "sys/fs/cgroup/cpu,cpuacct/system.slice/web.scope";
    assert_eq!(found(&hybrid, Controller::Cpu), at(Version::V1, v1));
    let why = found(&hybrid, Controller::Memory).unwrap_err();
    assert!(why.contains("for memory: no v1 hierarchy has it, and") && why.contains("has no memory.current"), "{why}");
    let place = hybrid.place().unwrap();
    assert!(place.unified().unwrap().directory.ends_with("unified/system.slice/web.scope"));
    assert_eq!(place.processes().unwrap(), place.of(Controller::Cpu).unwrap());
}

/// A pod's cgroup is told by its path before a process is in there: with a slash in front or without.
#[test]
fn a_cgroup_is_found_by_its_path() {
    for tree in [Tree::v1_joined(), Tree::v1_split(), Tree::v2("/box/web")] {
        let by_process = tree.place().unwrap();
        for path in ["/box/web", "box/web", "/box/web/"] {
            let place = Place::at(path, &tree.roots()).unwrap();
            for controller in [Controller::Cpu, Controller::Cpuacct, Controller::Memory] {
                assert_eq!(place.of(controller).unwrap(), by_process.of(controller).unwrap(), "{path}");
            }
        }
        assert!(Place::at("/box/other", &tree.roots()).unwrap().of(Controller::Memory).is_err());
        assert!(Place::at("/../web", &tree.roots()).unwrap().of(Controller::Memory).is_err());
        assert!(Place::at("/", &tree.roots()).unwrap().of(Controller::Memory).is_err());
    }
}

#[test]
fn a_mount_of_a_part_is_entered_at_that_part() {
    let mounts = [
        // somebody else's part, the one wanted, and one below that is no copy of it
        "50 31 0:29 /other /other/cpu rw - cgroup cgroup rw,cpu",
        "51 31 0:29 /docker/outer /sys/fs/cgroup/c\\040p\\134u rw - cgroup cgroup rw,cpu",
        "52 31 0:29 /docker/outer/box/web/deeper /deeper rw - cgroup cgroup rw,cpu",
    ];
    let tree = Tree::new("1:cpu:/docker/outer/box/web\n", "1:cpu:/docker/outer/agent\n", &mounts);
    tree.v1_cpu("sys/fs/cgroup/c p\\u/box/web");
    assert_eq!(found(&tree, Controller::Cpu), at(Version::V1, "sys/fs/cgroup/c p\\u/box/web"));
    // what a mount above hides is not it
    let tree = Tree::new("1:cpu:/docker/outer2/web\n", "1:cpu:/\n", &mounts);
    let why = found(&tree, Controller::Cpu).unwrap_err();
    assert!(
        why.contains("its cgroup /docker/outer2/web is not there below /other/cpu, /sys/fs/cgroup/c p\\u"),
        "{why}"
    );
}

#[test]
fn only_a_cgroup_of_its_own_counts() {
    let mount = ["32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"];
    for (theirs, ours, why) in [
        ("/", "/", "it is in the root cgroup, as the whole host"),
        ("/user/session", "/user/session", "it is in /user/session, as this process"),
        ("/user", "/user/session", "it is in /user, as this process"),
        ("/../web", "/", "its cgroup /../web is outside of this process' cgroup namespace"),
        ("/web", "/agent", "its cgroup /web is not there below /sys/fs/cgroup/cpu"),
    ] {
        let tree = Tree::new(&format!("1:cpu:{theirs}\n"), &format!("1:cpu:{ours}\n"), &mount);
        tree.write("sys/fs/cgroup/cpu/cgroup.procs", "1\n");
        tree.write("sys/fs/cgroup/cpu/user/session/cgroup.procs", "1\n");
        tree.write("sys/fs/cgroup/cpu/user/cgroup.procs", "1\n");
        let told = found(&tree, Controller::Cpu).unwrap_err();
        assert!(told.contains("no cgroup of its own for cpu: ") && told.contains(why), "{told}");
    }
    // a neighbour whose name begins alike is not an ancestor
    let tree = Tree::new("1:cpu:/user\n", "1:cpu:/user2\n", &mount);
    tree.v1_cpu("sys/fs/cgroup/cpu/user");
    assert_eq!(found(&tree, Controller::Cpu), at(Version::V1, "sys/fs/cgroup/cpu/user"));
}

#[test]
fn what_is_missing_is_named() {
    let nothing = Tree::new("0::/web\n", "0::/\n", &[]);
    let why = found(&nothing, Controller::Cpu).unwrap_err();
    assert!(
        why.contains("for cpu: no v1 hierarchy has it, and it is in /web, but that hierarchy is not mounted"),
        "{why}"
    );
    let unmounted = Tree::new("3:cpu:/web\n", "3:cpu:/\n", &["1 0 0:1 / / rw - ext4 /dev/sda rw"]);
    assert!(
        found(&unmounted, Controller::Cpu).unwrap_err().contains("it is in /web, but that hierarchy is not mounted")
    );
    assert!(found(&unmounted, Controller::Memory).unwrap_err().contains("the kernel has no cgroup v2"));
    assert!(
        unmounted.place().unwrap().processes().unwrap_err().to_string().contains("no cgroup of its own: the kernel")
    );

    let gone = Place::find(PID + 1, &nothing.roots()).unwrap_err();
    assert_eq!((gone.exit_code(), gone.to_string().contains("there is no process 4712")), (6, true), "{gone}");

    nothing.write("proc/4711/cgroup", "garbage\n:::\n\u{7}:cpu\n3:cpu:relative\n\n");
    assert!(found(&nothing, Controller::Cpu).is_err());
    nothing
        .write("proc/self/mountinfo", "x - cgroup\n - cgroup2 a b\n1 2 3 4 5 - cgroup2\n1 2 3 / \\ a - cgroup2 b c\n");
    nothing.write("proc/4711/cgroup", "0::/web\n");
    assert!(found(&nothing, Controller::Cpu).is_err());
    nothing.remove("proc/self/mountinfo");
    assert!(nothing.place().unwrap_err().to_string().contains("cannot read"));
}

/// crun's cgroup for the processes is inside the scope, which is what competes with others.
#[test]
fn the_scope_around_a_runtimes_own_cgroup_is_meant() {
    let tree = Tree::v2("/machine.slice/libpod-1.scope/container");
    tree.write("sys/fs/cgroup/machine.slice/libpod-1.scope/cpu.weight", "100\n");
    tree.write("sys/fs/cgroup/machine.slice/libpod-1.scope/cpu.stat", "usage_usec 1\n");
    assert_eq!(found(&tree, Controller::Cpu), at(Version::V2, "sys/fs/cgroup/machine.slice/libpod-1.scope"));
    let place = tree.place().unwrap();
    assert_eq!(place.of(Controller::Cpu).unwrap().path, "/machine.slice/libpod-1.scope");
    assert_eq!(place.processes().unwrap().path, "/machine.slice/libpod-1.scope/container");
    // the same name elsewhere means nothing
    let tree = Tree::v2("/machine.slice/web/container");
    assert_eq!(found(&tree, Controller::Cpu), at(Version::V2, "sys/fs/cgroup/machine.slice/web/container"));
}

#[test]
fn a_place_comes_back_from_the_ledger() {
    for tree in [Tree::v1_split(), Tree::hybrid(), Tree::v2("/box/web")] {
        let place = tree.place().unwrap();
        let json = serde_json::to_string(&place).unwrap();
        let back: Place = serde_json::from_str(&json).unwrap();
        assert_eq!(back, place);
        let memory = |place: &Place| place.of(Controller::Memory).map_err(|e| e.to_string()).cloned();
        assert_eq!(memory(&back), memory(&place));
    }
    assert!(Place::default().of(Controller::Cpu).unwrap_err().to_string().contains("it was not looked for"));
}

/// The kernel this runs on, whatever it has: our own process is never in a cgroup of its own, but it is found.
#[test]
fn the_real_proc_is_readable() {
    let place = Place::find(std::process::id(), &Roots::default()).unwrap();
    let why = place.of(Controller::Cpu).unwrap_err().to_string();
    assert!(why.contains("no cgroup of its own for cpu"), "{why}");
}
