//! The server: statistics over HTTP.
//!
//! ```text
//! GET /monitor/statistics          what `portslice stats --json` prints; ?container_id=ID: that container alone
//! GET /monitor/statistics.json     the same, under its oldest name
//! GET /metrics                     OpenMetrics text for Prometheus
//! GET /containers, /containers/ID  what `portslice list --json` prints, or one element of it
//! GET /healthz                     200 "ok", or 503 and one line that says why not
//! ```
//!
//! Whoever asks for statistics gets them from a pass over all containers that began after the question came: questions
//! that come while a pass runs wait for its end, and the next pass answers all of them (`pass`). So no answer is older
//! than its question, and there is never more than one pass, however many ask. Nothing is locked meanwhile.
//!
//! One thread speaks HTTP and never blocks; another reads, with helpers of its own for many containers, which enter
//! namespaces and come back; a third looks at the counters again and again where rate percentiles are configured. What
//! cannot be read of a container is left out, and the reason is in the log.
//!
//! Nobody is asked who he is: it listens on the loopback address unless told otherwise, where containers are not
//! answered, and a unix socket is for root and the socket's group.
//!
//! As root it needs no more than two capabilities:
//!
//! * `CAP_SYS_ADMIN`: enter the containers' namespaces, and read BPF maps (for which alone CAP_BPF would do),
//! * `CAP_SYS_PTRACE`: open `/proc/PID/ns/net` of processes that may do more than it, or that are another user's.
//!
//! As anybody else `CAP_DAC_OVERRIDE` besides: the state directory is root's, and so are the pinned maps, which are
//! opened for writing, too.

mod connection;
mod listen;
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

/// How long answers that are being given may take when the server is told to end.
const FAREWELL: Duration = Duration::from_secs(5);
/// Threads that read leases for `/containers` and `/healthz`.
const READERS: usize = 2;

/// Serves until SIGTERM or SIGINT. `listen` may be empty: then on the sockets that systemd handed over, else on the
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
    // a reader that hangs must not keep the process from ending
    runtime.shutdown_background();
    served
}
