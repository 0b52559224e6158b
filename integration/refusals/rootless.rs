//! Callers without power over the host's network: a rootless engine's hooks, and users who are not root.

use super::{refused, spare};
use crate::lab::hook::{creating, stopped};
use crate::lab::host::binary;
use crate::lab::run::Output;
use crate::lab::still::{Still, assert_bare};
use crate::lab::*;
use std::ffi::OsString;

const SAYS: [&str; 3] = ["rootless", "user namespace", "run the engine as root"];

/// Runs a program of ours behind `before`, with `input` on its stdin.
fn behind(host: &Host, before: &[&str], program: &str, args: &[&str], input: &str) -> Output {
    let program = [binary(program.as_ref()).into()];
    let words = before.iter().map(OsString::from).chain(program).chain(args.iter().map(OsString::from));
    host.fed(&words.collect::<Vec<_>>(), input)
}

/// Root of a user namespace, as the hooks of a rootless engine are.
#[test]
fn root_of_a_user_namespace() {
    let host = Host::new("refuse-userns");
    let one = host.bare("one", &["--ports", "31000"]);
    let (still, spare) = (Still::of(&host), spare());
    let pid = spare.pid().to_string();
    let unshared = ["unshare", "--user", "--map-root-user"];
    let state = creating("x", spare.pid(), &[("portslice/ports", "31001")]);
    refused("prestart", &behind(&host, &unshared, "portslice-prestart", &[], &state), 5, &SAYS);
    refused("poststop", &behind(&host, &unshared, "portslice-poststop", &[], &stopped("one")), 5, &SAYS);
    for args in [
        &["attach", "x", "--pid", &pid][..],
        &["attach", "x", "--pid", &pid, "--dry-run"],
        &["set", "one", "--ports", "+31001"],
        &["detach", "one"],
        &["gc"],
        &["fsck"],
        &["setup"],
        &["setup", "--undo"],
        &["sync"],
        &["doctor"],
    ] {
        refused(&args.join(" "), &behind(&host, &unshared, "portslice", args, ""), 5, &SAYS);
    }
    assert_bare("after all", &spare);
    still.check_all("after all");
    drop(one);
}

/// Somebody who is not root, with and without a user namespace of his own.
#[test]
fn somebody_who_is_not_root() {
    let host = Host::new("refuse-user");
    let _one = host.bare("one", &["--ports", "31000"]);
    let still = Still::of(&host);
    let user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let rootless = [&user[..], &["unshare", "--user", "--map-root-user"]].concat();
    // The programs and the configuration of this host are root's alone to read.
    let public = std::env::temp_dir().join(&host.tag);
    std::fs::create_dir(&public).expect("a directory");
    std::fs::set_permissions(&public, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    for name in ["portslice", "portslice-prestart"] {
        crate::lab::run::copy_program(&binary(name.as_ref()), &public.join(name));
    }
    let state = creating("x", 1, &[]);
    let shell = |before: &[&str], line: &str| {
        let line = format!("unset PORTSLICE_CONFIG; cd /; {}", line.replace("DIR", &public.to_string_lossy()));
        let words = before.iter().copied().chain(["sh", "-c", &line]).map(OsString::from);
        host.fed(&words.collect::<Vec<_>>(), &state)
    };
    refused("a rootless hook", &shell(&rootless, "DIR/portslice-prestart"), 5, &SAYS);
    for command in ["attach x --pid 1", "list", "detach one", "setup"] {
        let line = format!("DIR/portslice {command}");
        refused(command, &shell(&rootless, &line), 5, &SAYS);
        refused(command, &shell(&user, &line), 5, &["run as root"]);
    }
    let _ = std::fs::remove_dir_all(&public);
    still.check_all("after all");
}
