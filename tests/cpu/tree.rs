//! A copy of what the kernel shows of cgroups: `/proc` with one container and us, and the hierarchies below a directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};

use portslice::cpu::{Place, Roots};
use portslice::error::Result;

/// The container's process.
pub const PID: u32 = 4711;

/// Removed when it goes.
pub struct Tree {
    pub root: PathBuf,
}

impl Tree {
    /// `theirs` and `ours`: `/proc/PID/cgroup` of the container and of ourselves; `mounts`: lines of mountinfo.
    pub fn new(theirs: &str, ours: &str, mounts: &[&str]) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("portslice-cpu-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let tree = Self { root: std::env::temp_dir().join(name) };
        tree.write(&format!("proc/{PID}/cgroup"), theirs);
        tree.write("proc/self/cgroup", ours);
        tree.write("proc/self/mountinfo", &(mounts.join("\n") + "\n"));
        tree
    }

    /// cpu and cpuacct in one hierarchy, as most distributions had them.
    pub fn v1_joined() -> Self {
        let tree = Self::new(
            "11:memory:/box/web\n4:cpu,cpuacct:/box/web\n1:name=systemd:/box/web\n",
            "11:memory:/\n4:cpu,cpuacct:/\n1:name=systemd:/\n",
            &[
                "24 1 0:22 / /proc rw,nosuid - proc proc rw",
                "32 25 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct",
                "33 25 0:29 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory",
            ],
        );
        tree.v1_cpu("sys/fs/cgroup/cpu,cpuacct/box/web");
        tree.v1_cpuacct("sys/fs/cgroup/cpu,cpuacct/box/web");
        tree.v1_memory("sys/fs/cgroup/memory/box/web");
        tree
    }

    /// cpu and cpuacct mounted separately, v2 beside them with nothing in it for this container.
    pub fn v1_split() -> Self {
        let tree = Self::new(
            "4:memory:/box/web\n2:cpuacct:/box/web\n1:cpu:/box/web\n0::/\n",
            "4:memory:/agent\n2:cpuacct:/\n1:cpu:/\n0::/\n",
            &[
                "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu",
                "33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct",
                "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory",
                "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw",
            ],
        );
        tree.v1_cpu("sys/fs/cgroup/cpu/box/web");
        tree.v1_cpuacct("sys/fs/cgroup/cpuacct/box/web");
        tree.v1_memory("sys/fs/cgroup/memory/box/web");
        tree.write("sys/fs/cgroup/unified/cgroup.procs", "1\n");
        tree
    }

    /// cpu on v1, the container also in a v2 cgroup of its own: systemd's hybrid mode.
    pub fn hybrid() -> Self {
        let tree = Self::new(
            "4:cpu,cpuacct:/system.slice/web.scope\n0::/system.slice/web.scope\n",
            "4:cpu,cpuacct:/system.slice\n0::/system.slice/agent.service\n",
            &[
                "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
                "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate",
            ],
        );
        tree.v1_cpu("sys/fs/cgroup/cpu,cpuacct/system.slice/web.scope");
        tree.v1_cpuacct("sys/fs/cgroup/cpu,cpuacct/system.slice/web.scope");
        tree.write("sys/fs/cgroup/unified/system.slice/web.scope/cgroup.procs", "4711\n");
        tree.pressure("sys/fs/cgroup/unified/system.slice/web.scope");
        tree
    }

    /// v2 only, the container in `path`.
    pub fn v2(path: &str) -> Self {
        let tree = Self::new(
            &format!("0::{path}\n"),
            "0::/system.slice/agent.service\n",
            &["30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot"],
        );
        tree.v2_files(&format!("sys/fs/cgroup{path}"));
        tree
    }

    pub fn place(&self) -> Result<Place> {
        Place::find(PID, &self.roots())
    }

    pub fn roots(&self) -> Roots {
        Roots { proc: self.root.join("proc"), prefix: self.root.clone() }
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap().trim().to_string()
    }

    pub fn remove(&self, path: &str) {
        let path = self.root.join(path);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }

    /// From here on the file reads as 65536 and cannot be written, not even by root: the kernel's own list is like that.
    pub fn refuse_writes(&self, path: &str) {
        self.remove(path);
        std::os::unix::fs::symlink("/proc/sys/kernel/ngroups_max", self.root.join(path)).unwrap();
    }

    pub fn v1_cpu(&self, at: &str) {
        self.files(at, &[("cpu.shares", "1024\n"), ("cpu.cfs_quota_us", "-1\n"), ("cpu.cfs_period_us", "100000\n")]);
        self.files(at, &[("cpu.stat", "nr_periods 40\nnr_throttled 7\nthrottled_time 1500000000\nnr_bursts 0\n")]);
        self.tasks(at, "tasks");
    }

    pub fn v1_cpuacct(&self, at: &str) {
        self.files(at, &[("cpuacct.stat", "user 1234\nsystem 66\n")]);
        self.tasks(at, "tasks");
    }

    fn v1_memory(&self, at: &str) {
        let stat = "cache 1\nrss 2\ntotal_cache 4096\ntotal_rss 8192\ntotal_mapped_file 12288\ntotal_swap 16384\n\
                    total_unevictable 20480\n";
        self.files(at, &[("memory.stat", stat), ("memory.usage_in_bytes", "24576\n")]);
        self.files(at, &[("memory.kmem.usage_in_bytes", "512\n"), ("memory.kmem.tcp.usage_in_bytes", "0\n")]);
        self.files(at, &[("memory.limit_in_bytes", "1048576\n")]);
        self.files(at, &[("memory.soft_limit_in_bytes", "9223372036854771712\n")]);
        self.tasks(at, "tasks");
    }

    pub fn v2_files(&self, at: &str) {
        let stat = "usage_usec 2000000\nuser_usec 1250000\nsystem_usec 750000\nnr_periods 9\nnr_throttled 3\n\
                    throttled_usec 4500000\n";
        self.files(at, &[("cpu.weight", "100\n"), ("cpu.max", "max 100000\n"), ("cpu.stat", stat)]);
        let memory = "anon 8192\nfile 4096\nkernel 2048\nsock 1024\nfile_mapped 512\nunevictable 256\n";
        self.files(at, &[("memory.stat", memory), ("memory.current", "16384\n"), ("memory.swap.current", "0\n")]);
        self.files(at, &[("memory.max", "max\n"), ("memory.low", "0\n")]);
        self.tasks(at, "cgroup.threads");
        self.pressure(at);
    }

    fn pressure(&self, at: &str) {
        let some = "some avg10=1.50 avg60=0.25 avg300=0.00 total=2500000\n";
        self.files(at, &[("cpu.pressure", &format!("{some}full avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n"))]);
        self.files(at, &[("memory.pressure", some)]);
    }

    fn tasks(&self, at: &str, threads: &str) {
        self.files(at, &[("cgroup.procs", "4711\n4712\n"), (threads, "4711\n4712\n4713\n")]);
    }

    fn files(&self, at: &str, files: &[(&str, &str)]) {
        for (name, text) in files {
            self.write(Path::new(at).join(name).to_str().unwrap(), text);
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}
