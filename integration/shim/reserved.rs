//! What is leased before the container exists: for as long as somebody creates it.

use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Child, Stdio};

/// A runtime that never creates anything, as one that hangs.
fn hanging(host: &Host) -> String {
    let path = host.dir.join("hangs");
    std::fs::write(&path, "#!/bin/sh\nexec sleep 1000\n").expect("script");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("script");
    path.to_string_lossy().into_owned()
}

fn create(runtime: &Runtime<'_>, bundle: &Bundle) -> Child {
    let dir = bundle.dir.to_string_lossy().into_owned();
    let mut command = runtime.command(&["create", "--bundle", &dir, &bundle.id]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the shim")
}

/// Ends the process that creates, as the kernel's killer would, and leaves nobody who could tell.
fn end(mut child: Child) {
    kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL).expect("kill");
    child.wait().expect("wait");
}

fn asking(host: &Host, name: &str, ports: &str) -> Bundle {
    Bundle::new(host, name, &["sleep", "1000"]).annotation("portslice/ports", ports)
}

#[test]
fn it_is_leased_while_its_creator_lives_and_no_longer() {
    let host = Host::new("shim-reserved");
    configure(&host, &hanging(&host), "");
    let runtime = host.runtime("portslice-runtime");
    let bundle = asking(&host, "slow", "31000");
    for reclaim in ["gc", "another container", "the same container"] {
        let creator = create(&runtime, &bundle);
        let stage = || host.list().first().map(|lease| lease["stage"].clone());
        assert!(eventually(|| stage() == Some(json!("reserved"))), "{reclaim}: {:?}; {}", host.list(), log(&host));
        let lease = slice(reclaim, &host);
        assert_eq!(lease["worker"]["pid"], creator.id(), "{reclaim}: who creates it: {lease}");
        let out = host.try_bare("other", &["--ports", "31000"]).err().expect("the port is leased");
        out.refused(4, "leased to container");
        host.portslice(["gc"]).ok();
        host.portslice(["sync"]).ok();
        assert_eq!(host.ids(), std::slice::from_ref(&bundle.id), "{reclaim}: its creator lives");
        // Another bundle of the same id ended somewhere: nothing of ours.
        let other = json!({"id": bundle.id, "status": "stopped", "bundle": "/elsewhere"}).to_string();
        host.hook("portslice-poststop", other).ok();
        assert_eq!(host.ids(), std::slice::from_ref(&bundle.id), "{reclaim}: another bundle");
        end(creator);
        assert_eq!(slice(reclaim, &host)["stage"], "gone", "{reclaim}");
        match reclaim {
            "gc" => host.portslice(["gc"]).ok(),
            "another container" => host.bare("other", &["--ports", "31000"]).detach(),
            _ => {
                let again = create(&runtime, &bundle);
                assert!(eventually(|| stage() == Some(json!("reserved"))), "{reclaim}: {:?}", host.list());
                let stopped = json!({"id": bundle.id, "status": "stopped", "bundle": bundle.dir}).to_string();
                let out = host.hook("portslice-poststop", stopped).ok();
                end(again);
                out
            }
        };
        assert_gone(reclaim, &host);
    }
}

/// A runtime that refuses a bundle calls no hook. Engines delete what they could not create, and nothing else comes after that.
#[test]
fn what_the_runtime_refused_is_free_once_the_engine_deletes_it() {
    for program in ["runc", "crun"] {
        let host = host(&format!("shim-withdrawn-{program}"), program, "");
        let runtime = host.runtime("portslice-runtime");
        let refused = asking(&host, "refused", "31000")
            .edit(|c| c["process"]["cwd"] = json!("relative"))
            .edit(|c| c["root"] = json!(null));
        let dir = refused.dir.to_string_lossy();
        let out = runtime.call(&["create", "--bundle", &dir, &refused.id]);
        assert!(out.code.is_some_and(|code| code != 0), "{program}: {out}");
        assert_eq!(host.ids(), std::slice::from_ref(&refused.id), "{program}: no hook ran; log:\n{}", log(&host));
        // What others delete is theirs.
        runtime.call(&["delete", "--force", "other"]);
        assert_eq!(host.ids(), std::slice::from_ref(&refused.id), "{program}: another was deleted");
        runtime.call(&["delete", "--force", &refused.id]);
        assert_gone(&format!("{program}, deleted"), &host);
        runtime.call(&["delete", "--force", &refused.id]);
        let again = runtime.start(&asking(&host, "again", "31000"));
        assert_eq!(slice(program, &host)["ports"], "31000", "{program}");
        again.delete().ok();
    }
}

/// The creator that still runs may yet create it.
#[test]
fn a_delete_leaves_what_is_being_created() {
    let host = Host::new("shim-deleted-early");
    configure(&host, &hanging(&host), "");
    let (runtime, bundle) = (host.runtime("portslice-runtime"), asking(&host, "slow", "31000"));
    let creator = create(&runtime, &bundle);
    let stage = || host.list().first().map(|lease| lease["stage"].clone());
    assert!(eventually(|| stage() == Some(json!("reserved"))), "{:?}; {}", host.list(), log(&host));
    configure(&host, "runc", "");
    runtime.call(&["delete", "--force", &bundle.id]);
    assert_eq!(host.ids(), std::slice::from_ref(&bundle.id), "its creator lives");
    end(creator);
    runtime.call(&["delete", "--force", &bundle.id]);
    assert_gone("deleted", &host);
}

/// What was reserved is taken up as it is, without another look at the host's sockets; where something else is asked for then,
/// that is looked at as for every other container.
#[test]
fn another_request_than_what_was_reserved_for() {
    let host = Host::new("shim-other");
    configure(&host, &hanging(&host), "");
    let _process = Echo::start(&host.ns, Proto::Tcp, SocketAddr::new(HOST4, 31_200));
    let (bundle, ns) = (asking(&host, "other", "31000"), Ns::net_only("other"));
    let creator = create(&host.runtime("portslice-runtime"), &bundle);
    let stage = || host.list().first().map(|lease| lease["stage"].clone());
    assert!(eventually(|| stage() == Some(json!("reserved"))), "{:?}; {}", host.list(), log(&host));
    end(creator);
    let path = bundle.dir.join("config.json");
    let edited = std::fs::read_to_string(&path).expect("the edited bundle");
    std::fs::write(&path, edited.replace("\"31000\"", "\"31200\"")).expect("config.json");
    let asks = json!({"portslice/ports": "31200"});
    let state = json!({"id": bundle.id, "pid": ns.pid(), "bundle": bundle.dir, "annotations": asks});
    host.hook("portslice-prestart", state.to_string()).refused(4, "port 31200 is in use by process");
    assert_eq!(host.ids(), [""; 0], "refused; log:\n{}", log(&host));
}

#[test]
fn a_container_that_cannot_be_created_leaves_nothing() {
    for program in ["runc", "crun"] {
        let host = host(&format!("shim-fails-{program}"), program, "");
        let runtime = host.runtime("portslice-runtime");
        for (what, bundle) in [
            (
                "no such command",
                asking(&host, "args", "31000").edit(|c| c["process"]["args"] = json!(["/nonexistent"])),
            ),
            ("a hook before ours", asking(&host, "before", "31000").hook("createRuntime", "/bin/false")),
            ("a hook behind ours", asking(&host, "behind", "31000").hook("createContainer", "/bin/false")),
            ("no root file system", asking(&host, "root", "31000").edit(|c| c["root"]["path"] = json!("/nonexistent"))),
        ] {
            let what = format!("{program}, {what}");
            let out = runtime.run(&bundle);
            assert!(out.code.is_some_and(|code| code != 0), "{what}: {out}");
            // crun calls no poststop; its process is gone, and with it the lease.
            host.portslice(["gc"]).ok();
            assert_gone(&what, &host);
        }
        let again = runtime.start(&asking(&host, "again", "31000"));
        assert_eq!(slice(program, &host)["ports"], "31000", "{program}");
        again.delete().ok();
        assert_gone(program, &host);
    }
}

#[test]
fn a_runtime_that_is_not_there_takes_nothing_along() {
    let host = host("shim-no-runtime", "/nonexistent/crun", "");
    let still = still::Still::of(&host);
    let bundle = asking(&host, "none", "31000");
    let before = std::fs::read(bundle.dir.join("config.json")).unwrap();
    let out = host.runtime("portslice-runtime").run(&bundle);
    out.refused(5, "no runtime is installed at /nonexistent/runc, /nonexistent/crun");
    assert_eq!(std::fs::read(bundle.dir.join("config.json")).unwrap(), before);
    still.check("no runtime");
}
