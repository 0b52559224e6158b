//! A mount namespace in which the data path's file system, or the state directory, is not to be seen: a verb is refused or
//! works, and never says that there is nothing.

use super::Living;
use crate::lab::host::binary;
use crate::lab::run::Output;
use crate::lab::still::Still;
use crate::lab::*;

/// Runs portslice in a mount namespace of its own, which `hide` has changed first.
fn hidden(host: &Host, hide: &str, args: &[&str]) -> Output {
    let script = format!("{hide} && shift && exec \"$0\" \"$@\"");
    let program = binary("portslice".as_ref()).to_string_lossy().into_owned();
    let wrapper = ["unshare", "-m", "--propagation", "private", "sh", "-c", &script, &program, "-"];
    host.run([&wrapper[..], args].concat())
}

#[track_caller]
fn refuses_everything(host: &Host, hide: &str, living: &Living) {
    let (still, spare) = (Still::of(host), Ns::net_only("spare"));
    let pid = spare.pid().to_string();
    for args in [
        vec!["setup", "--undo"],
        vec!["setup"],
        vec!["gc"],
        vec!["detach", "one"],
        vec!["detach", "nobody"],
        vec!["stats", "--json"],
        vec!["list", "--json"],
        vec!["attach", "two", "--pid", &pid],
    ] {
        let what = format!("{} ({hide})", args.join(" "));
        let out = hidden(host, hide, &args);
        assert_eq!(out.code, Some(5), "{what}: {out}");
        assert_eq!(out.stderr.lines().count(), 1, "{what}: {out}");
        assert!(out.stdout.trim().is_empty(), "{what}: {out}");
        living.unharmed(host, &what);
        still.check(&what);
        still::assert_bare(&what, &spare);
    }
    still.check_all(hide);
}

#[test]
fn where_the_pins_are_not_visible_nothing_is_done_or_denied() {
    let host = Host::new("unseen-pins");
    let living = Living::on(&host, "one", 31_000);
    refuses_everything(&host, &format!("umount -l '{}/bpf'", host.state_dir().display()), &living);
}

#[test]
fn where_the_state_directory_is_empty_nothing_is_done_or_denied() {
    let host = Host::new("unseen-state");
    let living = Living::on(&host, "one", 31_000);
    refuses_everything(&host, &format!("mount -t tmpfs none '{}'", host.state_dir().display()), &living);
}

#[test]
fn where_the_state_directory_is_not_there_nothing_is_done_or_denied() {
    let host = Host::new("unseen-none");
    let living = Living::on(&host, "one", 31_000);
    let (config, dir) = (host.config_file(), &host.dir);
    let hide = format!(
        "cp '{0}' /run/kept && mount -t tmpfs none '{1}' && cp /run/kept '{0}'",
        config.display(),
        dir.display()
    );
    refuses_everything(&host, &hide, &living);
}
