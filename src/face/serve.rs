//! The server: statistics over HTTP.
//!
//! ```text
//! GET /monitor/statistics          what `portslice stats --json` prints; ?container_id=ID: that container alone
//! GET /monitor/statistics.json     the same, under its oldest name
//! GET /metrics                     text for Prometheus; OpenMetrics for whoever prefers it (Accept)
//! GET /containers, /containers/ID  what `portslice list --json` prints, or one element of it
//! GET /healthz                     200 "ok", or 503 and one line that says why not
//! ```
//!
//! A request for statistics is answered by a pass over the containers that begins after the request came. Requests that
//! come while a pass runs wait, and the next pass answers all of them (`pass`). So no answer is older than its request, and
//! at most one pass runs, however many clients ask. A pass holds no lock.
//!
//! One thread speaks HTTP and never blocks. A second thread makes the passes; for many containers it starts helpers, which
//! enter the containers' namespaces. A third thread samples counters, where rate percentiles are configured. Counters that
//! cannot be read are left out, and the reason is logged.
//!
//! Clients are not authenticated. By default the server listens on the loopback address, and does not answer containers
//! there. A unix socket is open to root and the socket's group only.
//!
//! As root the server needs two capabilities:
//!
//! * `CAP_SYS_ADMIN`: to enter the containers' namespaces, and to read BPF maps (for the maps alone CAP_BPF would do),
//! * `CAP_SYS_PTRACE`: to open `/proc/PID/ns/net` of processes that have more capabilities, or belong to another user.
//!
//! As another user it also needs `CAP_DAC_OVERRIDE`: the state directory and the pinned maps belong to root, and the maps
//! are opened for writing too.

mod accept;
mod connection;
mod crowd;
mod hosts;
mod listen;
mod lock;
mod pass;
mod rates;
mod router;

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::lease::{Leases, Ledger};
pub use listen::Listen;

/// The time for clients to fetch answers that are under way when the server ends.
const FAREWELL: Duration = Duration::from_secs(5);
/// The number of threads that read leases for `/containers` and `/healthz`.
const READERS: usize = 2;

/// Serves until SIGTERM or SIGINT, on the places `listen` and the sockets that systemd handed over. Without either, on the
/// default place.
pub fn run(config: Config, listen: &[Listen]) -> Result<()> {
    let sockets = listen::open(listen)?;
    let config = Arc::new(config);
    let leases = Arc::new(Mutex::new(Leases::of(Ledger::at(&config.state_dir))));
    let rates = rates::start(config.clone(), leases.clone())?;
    let passes = pass::start(config.clone(), leases.clone(), rates)?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(READERS)
        .build()
        .map_err(|e| Error::Failed(format!("cannot start the server: {e}")))?;
    let served = runtime.block_on(async {
        let failed = |e| Error::Failed(format!("cannot wait for signals: {e}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let end = poll_fn(|cx| match (terminate.poll_recv(cx), interrupt.poll_recv(cx)) {
            (Poll::Pending, Poll::Pending) => Poll::Pending,
            _ => Poll::Ready(()),
        });
        let containers = config.ephemeral_ports.ports().union(&config.ports);
        connection::serve(&sockets, router::router(passes, leases, config), &containers, end, FAREWELL).await
    });
    // the process must end even if a thread that reads leases hangs
    runtime.shutdown_background();
    served
}
