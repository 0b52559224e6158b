//! Writing limits and putting back what was there.

use std::cell::RefCell;

use portslice::cpu::{
    Asked, Bandwidth, Controller, CpuLimit, Intended, Place, Policy, Quota, Units, Values, forget, intend, set,
};
use portslice::error::{Error, Result};

use crate::tree::Tree;

const POLICY: Policy = Policy { enable_cfs: true, revocable_cpu_low_priority: true };

fn cpus(text: &str) -> Asked {
    Asked { cpus: Some(text.parse().unwrap()), ..Asked::default() }
}

fn values(weight: u64, quota: i64, period: u64) -> Values {
    let quota = u64::try_from(quota).map_or(Quota::Unlimited, Quota::Micros);
    Values { weight: Some(weight), bandwidth: Some(Bandwidth { quota, period }) }
}

/// As a container that is attached gets it.
fn apply(place: &Place, asked: &Asked, policy: &Policy, units: Option<&dyn Units>) -> Result<Intended> {
    let intended = intend(place, asked, policy, units)?;
    set(place, &intended.now, units)?;
    Ok(intended)
}

fn applied(tree: &Tree, asked: &Asked) -> Result<Intended> {
    apply(&tree.place().unwrap(), asked, &POLICY, None)
}

#[test]
fn v1_is_written_and_put_back() {
    for (tree, at) in
        [(Tree::v1_joined(), "sys/fs/cgroup/cpu,cpuacct/box/web"), (Tree::v1_split(), "sys/fs/cgroup/cpu/box/web")]
    {
        let file = |name: &str| tree.read(&format!("{at}/{name}"));
        tree.write(&format!("{at}/cpu.cfs_quota_us"), "70000\n");
        tree.write(&format!("{at}/cpu.cfs_period_us"), "50000\n");
        for (asked, shares, quota) in
            [("0.5", "512", "50000"), ("100.5", "102912", "10050000"), ("0.001", "2", "1000"), ("2", "2048", "200000")]
        {
            let done = applied(&tree, &cpus(asked)).unwrap();
            assert_eq!([file("cpu.shares"), file("cpu.cfs_quota_us")], [shares, quota], "{asked}");
            assert_eq!(file("cpu.cfs_period_us"), "100000");
            assert_eq!(done.now, values(shares.parse().unwrap(), quota.parse().unwrap(), 100_000));
            assert_eq!(done.notes.len(), if asked == "0.001" { 2 } else { 0 });
            if asked == "0.5" {
                assert_eq!(done.before, values(1024, 70_000, 50_000));
                let back = serde_json::from_str(&serde_json::to_string(&done.before).unwrap()).unwrap();
                set(&tree.place().unwrap(), &back, None).unwrap();
                assert_eq!([file("cpu.shares"), file("cpu.cfs_quota_us")], ["1024", "70000"]);
                assert_eq!(file("cpu.cfs_period_us"), "50000");
            }
        }
        let unlimited = Asked { limit: Some(CpuLimit::Infinite), ..cpus("1") };
        assert_eq!(applied(&tree, &unlimited).unwrap().before, values(2048, 200_000, 100_000));
        assert_eq!([file("cpu.shares"), file("cpu.cfs_quota_us")], ["1024", "-1"]);
    }
}

#[test]
fn v2_is_written_and_put_back() {
    let tree = Tree::v2("/box/web");
    let file = |name: &str| tree.read(&format!("sys/fs/cgroup/box/web/{name}"));
    tree.write("sys/fs/cgroup/box/web/cpu.max", "30000 50000\n");
    let first = applied(&tree, &cpus("0.5")).unwrap();
    assert_eq!([file("cpu.weight"), file("cpu.max")], ["50", "50000 100000"]);
    assert_eq!(first.before, values(100, 30_000, 50_000));
    applied(&tree, &cpus("0.001")).unwrap();
    assert_eq!([file("cpu.weight"), file("cpu.max")], ["1", "1000 100000"]);
    applied(&tree, &Asked { limit: Some(CpuLimit::Infinite), ..cpus("300") }).unwrap();
    assert_eq!([file("cpu.weight"), file("cpu.max")], ["10000", "max 100000"]);
    set(&tree.place().unwrap(), &first.before, None).unwrap();
    assert_eq!([file("cpu.weight"), file("cpu.max")], ["100", "30000 50000"]);
}

/// The runtime's limits are not read, let alone written, where nothing takes their place.
#[test]
fn what_is_not_asked_for_is_not_touched() {
    let tree = Tree::v1_split();
    let at = "sys/fs/cgroup/cpu/box/web";
    tree.write(&format!("{at}/cpu.cfs_quota_us"), "70000\n");
    let plain = Policy { enable_cfs: false, ..POLICY };
    let done = apply(&tree.place().unwrap(), &cpus("2"), &plain, None).unwrap();
    assert_eq!(done.before, Values { weight: Some(1024), bandwidth: None });
    assert_eq!(tree.read(&format!("{at}/cpu.cfs_quota_us")), "70000");
    let limit = Asked { limit: Some("3".parse().unwrap()), ..Asked::default() };
    assert_eq!(applied(&tree, &limit).unwrap().before.weight, None);
    assert_eq!(tree.read(&format!("{at}/cpu.shares")), "2048");

    tree.remove(at);
    let nothing = Asked::default();
    assert_eq!(apply(&Default::default(), &nothing, &POLICY, None).unwrap(), Intended::default());
    set(&Default::default(), &Values::default(), None).unwrap();
}

/// What the next container of the same name has is its own.
#[test]
fn a_cgroup_that_took_the_place_of_another_is_left_alone() {
    let tree = Tree::v1_split();
    let at = "sys/fs/cgroup/cpu/box/web";
    let place = tree.place().unwrap();
    let done = intend(&place, &cpus("2"), &POLICY, None).unwrap();
    let directory = tree.root.join(at);
    std::fs::rename(&directory, directory.with_file_name("earlier")).unwrap();
    tree.v1_cpu(at);
    let error = set(&place, &done.now, None).unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error}");
    assert!(matches!(intend(&place, &cpus("2"), &POLICY, None), Err(Error::NotFound(_))));
    assert_eq!(tree.read(&format!("{at}/cpu.shares")), "1024");
}

#[test]
fn a_write_that_fails_leaves_everything_as_it_was() {
    let tree = Tree::v1_split();
    let at = "sys/fs/cgroup/cpu/box/web";
    tree.refuse_writes(&format!("{at}/cpu.cfs_quota_us"));
    let error = applied(&tree, &cpus("2")).unwrap_err().to_string();
    assert!(error.contains("cannot write its quota into") && !error.contains('\n'), "{error}");
    assert_eq!(tree.read(&format!("{at}/cpu.shares")), "1024");

    let tree = Tree::v1_split();
    tree.refuse_writes(&format!("{at}/cpu.cfs_period_us"));
    assert!(applied(&tree, &cpus("2")).unwrap_err().to_string().contains("cannot write its period into"));
    assert_eq!(tree.read(&format!("{at}/cpu.shares")), "1024");
    assert_eq!(tree.read(&format!("{at}/cpu.cfs_quota_us")), "-1");
}

#[test]
fn what_cannot_be_put_back_is_not_overwritten() {
    let tree = Tree::v1_split();
    let at = "sys/fs/cgroup/cpu/box/web";
    let place = tree.place().unwrap();
    for (file, garbage) in [
        ("cpu.shares", "many\n"),
        ("cpu.shares", ""),
        ("cpu.shares", "-2\n"),
        ("cpu.cfs_quota_us", "1.5\n"),
        ("cpu.cfs_period_us", "99999999999999999999999\n"),
    ] {
        let before = tree.read(&format!("{at}/{file}"));
        tree.write(&format!("{at}/{file}"), garbage);
        let error = applied(&tree, &cpus("2")).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains("not what the kernel writes there"), "{error}");
        assert_eq!(tree.read(&format!("{at}/{file}")), garbage.trim());
        tree.write(&format!("{at}/{file}"), &before);
    }
    assert_eq!(tree.read(&format!("{at}/cpu.shares")), "1024");
    tree.remove(&format!("{at}/cpu.shares"));
    assert!(apply(&place, &cpus("2"), &POLICY, None).unwrap_err().to_string().contains("cannot read"));
    tree.remove(at);
    let error = apply(&place, &cpus("2"), &POLICY, None).unwrap_err();
    assert_eq!((error.exit_code(), error.to_string().contains("box/web is gone")), (6, true), "{error}");

    let tree = Tree::v2("/box/web");
    for garbage in ["max", "max max", "1 2 3", " ", "-1 100000"] {
        tree.write("sys/fs/cgroup/box/web/cpu.max", garbage);
        assert!(applied(&tree, &cpus("2")).is_err(), "{garbage}");
        assert_eq!(tree.read("sys/fs/cgroup/box/web/cpu.weight"), "100");
    }
}

/// What systemd was told, and what it answers.
struct Told {
    calls: RefCell<Vec<String>>,
    answer: fn() -> Result<()>,
}

impl Told {
    fn answering(answer: fn() -> Result<()>) -> Self {
        Self { calls: RefCell::default(), answer }
    }
}

impl Units for Told {
    fn set(&self, unit: &str, properties: &[(&'static str, u64)]) -> Result<()> {
        let shown: Vec<String> = properties.iter().map(|(name, value)| format!("{name}={value}")).collect();
        self.calls.borrow_mut().push(format!("{unit} {}", shown.join(" ")));
        (self.answer)()
    }
}

#[test]
fn systemd_is_told_before_the_files_are_written() {
    let tree = Tree::v2("/system.slice/web.scope");
    let at = "sys/fs/cgroup/system.slice/web.scope";
    let place = tree.place().unwrap();
    let systemd = Told::answering(|| Ok(()));
    tree.write(&format!("{at}/cpu.max"), "30000 50000\n");
    let done = apply(&place, &cpus("0.355"), &POLICY, Some(&systemd)).unwrap();
    assert_eq!(
        done.notes,
        ["systemd keeps whole percents of a CPU: a quota of 36000 instead of 35500 us for web.scope"]
    );
    assert_eq!([tree.read(&format!("{at}/cpu.weight")), tree.read(&format!("{at}/cpu.max"))], ["35", "36000 100000"]);
    set(&place, &done.before, Some(&systemd)).unwrap();
    assert_eq!(tree.read(&format!("{at}/cpu.max")), "30000 50000");
    assert_eq!(
        *systemd.calls.borrow(),
        [
            "web.scope CPUWeight=35 CPUQuotaPerSecUSec=360000 CPUQuotaPeriodUSec=100000",
            "web.scope CPUWeight=100 CPUQuotaPerSecUSec=600000 CPUQuotaPeriodUSec=50000",
        ]
    );

    let refusing = Told::answering(|| Err(Error::Failed("no".into())));
    assert!(apply(&place, &cpus("2"), &POLICY, Some(&refusing)).is_err());
    assert_eq!([tree.read(&format!("{at}/cpu.weight")), tree.read(&format!("{at}/cpu.max"))], ["100", "30000 50000"]);

    // a cgroup that only has such a name is nobody's to revert
    let ignorant = Told::answering(|| Err(Error::NotFound("no such unit".into())));
    apply(&place, &cpus("2"), &POLICY, Some(&ignorant)).unwrap();
    assert_eq!(tree.read(&format!("{at}/cpu.max")), "200000 100000");
}

#[test]
fn systemd_forgets_again_when_the_files_cannot_be_written() {
    let tree = Tree::hybrid();
    let at = "sys/fs/cgroup/cpu,cpuacct/system.slice/web.scope";
    let place = tree.place().unwrap();
    assert_eq!(place.of(Controller::Cpu).unwrap().path, "/system.slice/web.scope");
    tree.refuse_writes(&format!("{at}/cpu.cfs_quota_us"));
    let systemd = Told::answering(|| Ok(()));
    assert!(apply(&place, &cpus("2"), &POLICY, Some(&systemd)).is_err());
    assert_eq!(tree.read(&format!("{at}/cpu.shares")), "1024");
    assert_eq!(
        *systemd.calls.borrow(),
        ["web.scope CPUShares=2048 CPUQuotaPerSecUSec=2000000", "web.scope CPUShares=1024 CPUQuotaPerSecUSec=655360",]
    );
}

#[test]
fn a_service_that_ended_does_not_start_with_its_limits_again() {
    for (path, told) in [
        ("/system.slice/web.service", Some("web.service CPUWeight=100 CPUQuotaPerSecUSec=18446744073709551615")),
        ("/system.slice/web.scope", None),
        ("/box/web", None),
    ] {
        let tree = Tree::v2(path);
        let place = tree.place().unwrap();
        let systemd = Told::answering(|| Ok(()));
        let before = apply(&place, &cpus("2"), &POLICY, None).unwrap().before;
        tree.remove(&format!("sys/fs/cgroup{path}"));
        assert_eq!(set(&place, &before, Some(&systemd)).unwrap_err().exit_code(), 6, "{path}");
        forget(&place, &before, Some(&systemd)).unwrap();
        forget(&place, &Values::default(), Some(&systemd)).unwrap();
        assert_eq!(systemd.calls.borrow().first().map(String::as_str), told);
        assert_eq!(systemd.calls.borrow().len(), usize::from(told.is_some()), "{path}");
    }
}

#[test]
fn systemd_is_not_told_of_what_is_not_its_own() {
    for path in ["/box/web", "/system.slice/docker.service/web", "/system.slice/web.scope/init.scope"] {
        let tree = Tree::v2(path);
        let systemd = Told::answering(|| Ok(()));
        let done = apply(&tree.place().unwrap(), &cpus("0.355"), &POLICY, Some(&systemd)).unwrap();
        assert_eq!(tree.read(&format!("sys/fs/cgroup{path}/cpu.max")), "35500 100000");
        assert!(systemd.calls.borrow().is_empty() && done.notes.is_empty(), "{path}");
    }
}
