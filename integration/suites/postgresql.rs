//! PostgreSQL at its default port 5432, twice.

use super::*;
use std::path::{Path, PathBuf};

/// A cluster as `initdb` makes it, for whoever connects; it is there already when the server is started again. It listens on what
/// "localhost" is, which has not both families on every machine.
const SCRIPT: &str = r"
printf '127.0.0.1 localhost\n::1 localhost\n' >hosts
mount --bind hosts /etc/hosts
mkdir -p data
chown postgres: data
mount --bind data /var/lib/postgresql
own postgres /run/postgresql
data=/var/lib/postgresql/main
if [ ! -d $data ]; then
    (as postgres BIN/initdb --no-sync --auth=trust --locale=C --encoding=UTF8 --pgdata=$data)
    echo 'host all all all trust' >>$data/pg_hba.conf
fi
rm -f $data/postmaster.pid
as postgres BIN/postgres -F -D $data -c cluster_name=NAME";

#[test]
fn two_of_postgresql_listen_on_5432() {
    let (host, containers) = two("suites-postgresql", 5432);
    let bin = programs();
    let start = |container: &Container, more: &str| {
        let script = SCRIPT.replace("BIN", &bin.to_string_lossy()).replace("NAME", &container.id) + more;
        Program::start(&host, &container.ns, &container.id, &script)
    };
    let who = |ns: &Ns, to: SocketAddr| query(&bin, ns, to);
    let servers = Servers { host: &host, containers: &containers, inside: 5432, ask: &who };
    let programs = containers.each_ref().map(|container| start(container, ""));
    servers.ready(&programs);
    servers.reached_on_loopback();
    for outside in OUTSIDE {
        refused(&host.peer, SocketAddr::new(HOST4, outside));
    }
    drop(programs);
    let programs = containers.each_ref().map(|container| start(container, " -c listen_addresses='*'"));
    servers.ready(&programs);
    servers.reached_at_the_hosts_addresses();
    servers.reached_on_loopback();
}

/// Asks a cluster for its name, and for the port that it believes it was reached at.
fn query(bin: &Path, ns: &Ns, to: SocketAddr) -> io::Result<String> {
    let (address, port) = (to.ip().to_string(), to.port().to_string());
    let mut command = ns.command(bin.join("psql"));
    command.args(["-X", "-A", "-t", "-U", "postgres", "-h", &address, "-p", &port, "-c"]);
    command.arg("SELECT current_setting('cluster_name') || inet_server_port()").env("PGCONNECT_TIMEOUT", "5");
    let done = run::run(&mut command, Duration::from_secs(20));
    let said = done.stdout.trim_end().strip_suffix("5432").map(str::to_owned);
    said.ok_or_else(|| io::Error::other(done.to_string()))
}

/// Where Debian has the programs of its version.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL");
    let all = versions.map(|version| version.expect("a version").path().join("bin"));
    all.filter(|bin| bin.join("postgres").exists()).max().expect("PostgreSQL's programs")
}
