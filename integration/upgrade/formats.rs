//! Format numbers: older ones are converted, newer ones and none are refused by name.

use super::*;
use serde_json::{Value, json};

/// Changes a record of the state directory.
fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut record: Value = serde_json::from_slice(&std::fs::read(path).expect("the record")).expect("JSON");
    change(&mut record);
    std::fs::write(path, record.to_string()).expect("the record");
}

/// Is every verb refused with one line that says `text`, and nothing harmed?
#[track_caller]
fn refused(host: &Host, busy: &mut Busy, text: &str) {
    let spare = Ns::net_only("spare");
    let pid = spare.pid().to_string();
    for args in [
        vec!["setup"],
        vec!["setup", "--undo"],
        vec!["list"],
        vec!["gc"],
        vec!["detach", "c0"],
        vec!["set", "c0", "--cpus", "1"],
        vec!["attach", "new", "--pid", &pid],
    ] {
        host.portslice(args).refused(5, text);
        busy.lives(text);
    }
}

#[test]
fn that_are_unknown_are_refused_by_name() {
    let host = Host::new("formats-unknown");
    let mut busy = Busy::on(&host, 1);
    let path = host.state_dir().join("host.json");
    let right = std::fs::read(&path).expect("the record");

    edit(&path, |record| record["format"] = json!(9));
    let newer = format!("{} was written by a newer portslice (format 9, this one knows 1)", path.display());
    refused(&host, &mut busy, &newer);
    edit(&path, |record| drop(record.as_object_mut().expect("a record").remove("format")));
    refused(&host, &mut busy, &format!("{} bears no format number", path.display()));
    std::fs::write(&path, &right).expect("the record");
    edit(&path, |record| record["layout"] = json!(99));
    refused(&host, &mut busy, "was written by a newer portslice (format 99, this one knows 10)");
    std::fs::write(&path, &right).expect("the record");

    let lease = host.state_dir().join("leases/c0");
    let right = std::fs::read(&lease).expect("the lease");
    edit(&lease, |record| record["format"] = json!(7));
    let newer = format!("the lease {} (its ports count as taken) was written by a newer portslice", lease.display());
    host.portslice(["detach", "c0"]).refused(5, &newer);
    edit(&lease, |record| drop(record.as_object_mut().expect("a record").remove("format")));
    host.portslice(["detach", "c0"]).refused(5, "bears no format number");
    let taken = host.try_bare("new", &["--ports", "31000"]).err().expect("its port is taken");
    assert_eq!(taken.code, Some(4), "{taken}");
    std::fs::write(&lease, right).expect("the lease");
    busy.lives("after all");
    busy.reached(&host, "after all");
    busy.lost_nothing(&host, &Build::this(), "after all");
}

/// What a conversion must not change of a container.
fn kept_of(shown: &Value) -> Value {
    json!([
        shown["id"],
        shown["slot"],
        shown["block"],
        shown["ports"],
        shown["members"],
        shown["netns"],
        shown["epoch"]
    ])
}

#[test]
fn that_are_older_are_converted_under_connections() {
    let (this, raised) = (Build::this(), Build::raised());
    let host = Host::new("formats-older");
    let mut busy = Busy::on(&host, 3);
    let gone = host.bare("gone", &["--ports", "31050"]);
    gone.detach();
    busy.lives("before");
    let shown = |build: &Build, id: &str| build.run(&host, &["show", id, "--json"]).ok().json();
    let counted = |build: &Build, id: &str| -> u64 {
        let all = build.run(&host, &["stats", "--json"]).ok().json();
        let one = all.as_array().expect("statistics").iter().find(|s| s["container_id"] == id).expect("its own");
        one["net_rx_bytes"].as_u64().or(one["statistics"]["net_rx_bytes"].as_u64()).expect("bytes")
    };
    let before: Vec<Value> = busy.containers.iter().map(|c| kept_of(&shown(&this, &c.id))).collect();
    let bytes = counted(&this, "c0");
    assert!(bytes > 0);
    // A program that waits for its moment says so instead of changing what it cannot read.
    raised.run(&host, &["list"]).refused(5, "was written by an older portslice");
    let maps = ids(&host, "map");

    let spare = Ns::net_only("spare");
    let pid = spare.pid().to_string();
    let (out, new) = race::both(
        || raised.run(&host, &["setup"]),
        || raised.run(&host, &["attach", "new", "--pid", &pid, "--ports", "31060"]),
    );
    out.ok();
    new.ok();
    busy.lives("converted");
    assert!(ids(&host, "map").iter().zip(&maps).all(|(now, then)| now.0 == then.0 && now.1 != then.1), "new maps");
    assert_eq!(stale(&host, &busy.containers), [] as [String; 0]);
    let after: Vec<Value> = busy.containers.iter().map(|c| kept_of(&shown(&raised, &c.id))).collect();
    assert_eq!(before, after, "the leases say the same");
    assert!(counted(&raised, "c0") >= bytes, "counters never go back");
    assert!(shown(&raised, "c0")["drops"].get("raised").is_some(), "the new maps have what the new layout adds");
    busy.reached(&host, "converted");
    busy.lost_nothing(&host, &raised, "converted");
    let echo = Echo::start(&spare, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 31_060));
    assert_reaches("attached meanwhile", &host.peer, Proto::Tcp, SocketAddr::new(HOST4, echo.at.port()));
    let next = &busy.containers[0].ns;
    assert_reaches("attached meanwhile, from beside", next, Proto::Tcp, SocketAddr::new(HOST4, echo.at.port()));
    raised.run(&host, &["fsck"]).ok();

    let newer = host.portslice(["list"]);
    newer.refused(5, "was written by a newer portslice (format 2, this one knows 1)");
    for id in ["new", "c0", "c1", "c2"] {
        raised.run(&host, &["detach", id]).ok();
    }
    raised.run(&host, &["setup", "--undo"]).ok();
}

#[test]
fn that_are_older_wait_for_who_works_on_a_slice() {
    let (this, raised) = (Build::this(), Build::raised());
    let host = Host::new("formats-wait");
    let mut busy = Busy::on(&host, 1);
    let ns = Ns::net_only("slow");
    let pid = ns.pid().to_string();
    // It is held up for a while between the decision and the end of the wiring.
    let program = this.0.to_string_lossy().into_owned();
    let attach = [program.as_str(), "attach", "slow", "--pid", &pid, "--ports", "31070"];
    let (slow, ()) = race::both(
        || kill::injected(&host, "setns", "delay_enter=1500000:when=2+", &attach, ""),
        || {
            let lease = host.state_dir().join("leases/slow");
            assert!(wait::eventually(|| lease.exists()), "the attach does not begin");
            let took = raised.run(&host, &["setup"]).ok().took;
            assert!(took > std::time::Duration::from_millis(500), "it did not wait: {took:?}");
        },
    );
    slow.ok();
    busy.lives("converted");
    let echo = Echo::start(&ns, Proto::Tcp, SocketAddr::new(probe::any(HOST4), 31_070));
    assert_reaches("attached by the older one", &host.peer, Proto::Tcp, SocketAddr::new(HOST4, echo.at.port()));
    for id in ["slow", "c0"] {
        raised.run(&host, &["detach", id]).ok();
    }
    raised.run(&host, &["setup", "--undo"]).ok();
}
