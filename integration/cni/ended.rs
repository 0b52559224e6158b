//! The ends of attachments: DEL in every shape, GC, and commands that are killed.

use super::*;
use crate::lab::kill::{Steps, at_every_step};
use crate::lab::run::run_with_input;
use crate::lab::still::assert_bare;
use crate::lab::wait::eventually;

#[test]
fn del_succeeds_whatever_it_is_told() {
    let host = Host::new("cni-del");
    for (what, netns, gone) in
        [("with all", true, false), ("without CNI_NETNS", false, false), ("too late", true, true)]
    {
        let ns = Ns::net_only("container");
        let attachment = Attachment::new("web", &ns.path()).annotated(&PORTS);
        let result = attachment.add(&host);
        if gone {
            ns.kill();
        }
        let told = match netns {
            true => attachment.clone().with("prevResult", result),
            false => Attachment { netns: "".into(), ..attachment.clone() },
        };
        told.del(&host);
        assert_eq!(host.ids(), [""; 0], "{what}");
        if !gone {
            assert_bare(what, &ns);
        }
        told.del(&host);
        attachment.del(&host);
        assert!(eventually(|| host.links() == ["eth0", "lo"]), "{what}: {:?}", host.links());
    }
    Attachment::new("unknown", "/run/netns/none".as_ref()).del(&host);
}

/// On a host that never had a container, and one on which nothing works.
#[test]
fn del_succeeds_where_nothing_was_ever_attached() {
    let host = Host::with("cni-del-bare").unprepared().build();
    let attachment = Attachment::new("unknown", "/run/netns/none".as_ref());
    attachment.del(&host);
    attachment.call(&host, "GC").failed(7, "cni.dev/valid-attachments is missing");
    attachment.clone().with("cni.dev/valid-attachments", json!([])).call(&host, "GC").ok();
    assert!(!host.state_dir().exists(), "nothing was made");
    // The first ADD makes the host ready.
    let ns = Ns::net_only("container");
    let attachment = Attachment::new("web", &ns.path()).annotated(&PORTS);
    attachment.call(&host, "STATUS").ok();
    attachment.add(&host);
    assert_works("on a host that was not prepared", &host, &ns, 31_000);
}

/// By either name of the list, and nothing that another network, a hook or a person attached.
#[test]
fn gc_ends_exactly_what_is_not_listed() {
    let host = Host::new("cni-gc");
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let all: Vec<Ns> = (0..6).map(|n| Ns::net_only(&format!("container {n}"))).collect();
        let attachment = |n: usize, id: &str| Attachment::new(id, &all[n].path());
        let kept = attachment(0, "kept");
        let result = kept.add(&host);
        attachment(1, "stale").add(&host);
        Attachment { device: "eth5".into(), ..attachment(2, "renamed") }.add(&host);
        attachment(3, "elsewhere").with("name", json!("other")).add(&host);
        host.prestart("hooked", all[4].pid(), &[]).ok();
        host.portslice(["attach", "byhand", "--pid", &all[5].pid().to_string()]).ok();
        let listed = json!([{"containerID": "kept", "ifname": "eth0"}, {"containerID": "renamed", "ifname": "eth0"},
            {"containerID": "never", "ifname": "eth0"}]);
        let out = kept.clone().with(key, listed).call(&host, "GC").ok();
        assert_eq!(out.stdout, "", "{key}");
        assert_eq!(host.ids(), ["byhand", "elsewhere", "hooked", "kept"], "{key}");
        kept.check(&host, &result).ok();
        assert_bare(key, &all[1]);
        kept.clone().with(key, json!([])).call(&host, "GC").ok();
        assert_eq!(host.ids(), ["byhand", "elsewhere", "hooked"], "{key}");
        for id in host.ids() {
            host.portslice(["detach", &id]).ok();
        }
    }
}

/// An ADD that is killed at any call is taken back by a DEL, or finished by the next ADD.
#[test]
fn an_add_that_is_killed_leaves_nothing_behind() {
    const WRITES: &Steps = &[("rename", 1), ("bpf", 2), ("sendto", 1), ("flock", 1)];
    let host = Host::new("cni-killed");
    let ns = Ns::net_only("container");
    let attachment = Attachment::new("web", &ns.path()).annotated(&PORTS);
    let killed = |call: &str, n: usize| {
        let inner = attachment.command(&host, "ADD");
        let mut command = host.command(["strace", "-f", "-qqq", "-o", "/dev/null", "-e"]);
        command.arg(format!("trace={call}")).arg("-e").arg(format!("inject={call}:signal=SIGKILL:when={n}"));
        command.arg(inner.get_program());
        command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let out = run_with_input(&mut command, Some(&attachment.network.to_string()), host::COMMAND_LIMIT);
        assert!(matches!(out.code, None | Some(0)), "killed at {call} {n}: {out}");
        out.code.is_none()
    };
    let then = |what: &str, kills: usize| {
        if kills.is_multiple_of(2) {
            let result = attachment.add(&host);
            attachment.check(&host, &result).ok();
        }
        attachment.del(&host);
        assert_eq!(host.ids(), [""; 0], "{what}");
        assert_bare(what, &ns);
        assert!(eventually(|| host.links() == ["eth0", "lo"]), "{what}: {:?}", host.links());
    };
    let kills = at_every_step(WRITES, killed, then);
    assert!(kills > 10, "only {kills} steps were found: is strace's injection at work?");
}
