//! Passes over the containers: each reads all of them once, and answers every request that came before the pass began.
//! One thread makes the passes, one at a time.

use std::collections::HashMap;
use std::iter;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use hyper::body::Bytes;
use tokio::sync::oneshot;

use super::lock::locked;
use super::rates::Sampled;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::process::stand_back;
use crate::lease::{Lease, Leases};
use crate::ports::Pool;
use crate::ports::PortSet;
use crate::request::ContainerId;
use crate::slice::ready::peek;
use crate::stats::metrics::{self, Format, HostFigures, Page};
use crate::stats::{Groups, Monitored, Reported, collect};
use crate::steer::layout::MAX_SLOTS;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// All containers as JSON.
    Statistics,
    /// All containers for Prometheus, in this format.
    Metrics(Format),
    /// One container as JSON: the array with one element.
    One(ContainerId),
}

/// The rendered form; `None`: there is no such container. The error is one line.
pub type Answer = Result<Option<Bytes>, String>;

/// Hands requests to the thread that makes passes.
#[derive(Clone)]
pub struct Passes(mpsc::Sender<Want>);

struct Want {
    form: Form,
    reply: oneshot::Sender<Answer>,
}

impl Passes {
    /// Returns the answer of the next pass that begins.
    pub async fn ask(&self, form: Form) -> Answer {
        let (reply, answer) = oneshot::channel();
        let ended = || "the server is ending".to_owned();
        self.0.send(Want { form, reply }).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

/// Starts the thread that makes passes. The thread ends with the process.
pub fn start(config: Arc<Config>, leases: Arc<Mutex<Leases>>, rates: Option<Sampled>) -> Result<Passes> {
    let (send, wants) = mpsc::channel();
    let reader = Reader { config, leases, rates, reported: Reported::default(), passes: 0, errors: 0 };
    thread::Builder::new()
        .name("statistics".into())
        .spawn(move || reader.run(&wants))
        .map_err(|e| Error::Failed(format!("cannot start a thread: {e}")))?;
    Ok(Passes(send))
}

struct Reader {
    config: Arc<Config>,
    leases: Arc<Mutex<Leases>>,
    rates: Option<Sampled>,
    reported: Reported,
    /// The number of passes over all containers so far.
    passes: u64,
    errors: u64,
}

impl Reader {
    fn run(mut self, wants: &mpsc::Receiver<Want>) {
        // reading must not slow down the start of a container
        stand_back();
        while let Ok(first) = wants.recv() {
            // a client that closed its connection needs no answer
            let wants = iter::once(first).chain(wants.try_iter()).filter(|want| !want.reply.is_closed());
            let mut by_form: HashMap<Form, Vec<oneshot::Sender<Answer>>> = HashMap::new();
            wants.for_each(|want| by_form.entry(want.form).or_default().push(want.reply));
            self.answer(by_form);
        }
    }

    fn answer(&mut self, wants: HashMap<Form, Vec<oneshot::Sender<Answer>>>) {
        let only: Option<Vec<&ContainerId>> = wants
            .keys()
            .map(|form| match form {
                Form::One(id) => Some(id),
                Form::Statistics | Form::Metrics(_) => None,
            })
            .collect();
        let read = self.read(only.as_deref()).inspect_err(|e| log::error!("{e}")).map_err(|e| e.to_string());
        for (form, replies) in wants {
            let answer = match &read {
                Ok(page) => render(page, &form).map_err(|e| e.to_string()),
                Err(e) => Err(e.clone()),
            };
            replies.into_iter().for_each(|reply| {
                let _ = reply.send(answer.clone());
            });
        }
    }

    /// Reads the containers `only`; all containers if that is `None`.
    fn read(&mut self, only: Option<&[&ContainerId]>) -> Result<Page> {
        let begun = Instant::now();
        let leases = locked(&self.leases).now()?;
        let some: Vec<Lease>;
        let wanted = match only {
            None => leases.as_slice(),
            Some(ids) => {
                some = leases
                    .iter()
                    .filter(|lease| lease.members.iter().any(|member| ids.contains(&&member.id)))
                    .cloned()
                    .collect();
                &some
            }
        };
        let groups = Groups::of(&self.config);
        let host = peek(&self.config)?;
        let mut containers = match &host {
            Some(host) => collect(wanted, &host.sources(groups))?,
            None => Vec::new(),
        };
        if let Some(rates) = &self.rates {
            rates.enter(&mut containers);
        }
        if only.is_none() {
            self.reported.log_new(&containers);
            self.passes += 1;
            self.errors += containers.iter().map(|monitored| missing(monitored, &groups)).sum::<u64>();
        }
        let mut figures = self.figures(&leases);
        figures.ready = host.is_some();
        figures.took = begun.elapsed();
        Ok(Page { containers: Arc::new(containers), host: figures })
    }

    fn figures(&self, leases: &[Lease]) -> HostFigures {
        let pool = self.config.ephemeral_ports.ports();
        let free = pool.difference(&PortSet::from_iter(leases.iter().map(|lease| lease.block.range())));
        let size = self.config.ephemeral_ports_per_container;
        HostFigures {
            leases: leases.len(),
            // slot 0 is the host
            slots: usize::from(MAX_SLOTS) - 1,
            pool_ports: pool.len(),
            pool_ports_leased: pool.len() - free.len(),
            block_ports: size.get().into(),
            // an empty set is no pool: no block is free
            blocks_free: Pool::new(free).map_or(0, |free| free.capacity(size)),
            passes: self.passes,
            errors: self.errors,
            ..HostFigures::default()
        }
    }
}

/// Renders the result of a pass in the form that is asked for.
fn render(page: &Page, form: &Form) -> Result<Option<Bytes>> {
    let json = |containers: &[Monitored]| {
        let text = serde_json::to_vec(containers);
        text.map(|text| Some(text.into())).map_err(|e| Error::Failed(format!("cannot encode JSON: {e}")))
    };
    match form {
        Form::Statistics => json(&page.containers),
        Form::Metrics(format) => metrics::render(page.clone(), *format).map(|text| Some(text.into())),
        Form::One(id) => match page.containers.iter().position(|m| m.container_id == id.as_str()) {
            Some(at) => json(&page.containers[at..=at]),
            None => Ok(None),
        },
    }
}

/// Counts the sources of network counters that could not be read of an attached slice. Cgroups do not count: a
/// process without a cgroup of its own is no error.
fn missing(monitored: &Monitored, groups: &Groups) -> u64 {
    let net = &monitored.statistics.net;
    let gone = [
        net.net_rx_packets.is_none(),
        net.net_rx_errors.is_none(),
        groups.socket_summary && net.net_tcp_active_connections.is_none(),
        groups.socket_details && net.net_ephemeral_ports_in_use.is_none(),
        groups.snmp && net.net_snmp_statistics.is_none(),
    ];
    gone.into_iter().filter(|gone| *gone && monitored.counts_network).count() as u64
}
