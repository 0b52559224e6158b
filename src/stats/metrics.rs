//! The text of `/metrics`, in Prometheus' format or in OpenMetrics.
//!
//! Where cAdvisor has a metric for the same thing it has cAdvisor's name and labels; the rest begins with `portslice_`. Values
//! are in base units, seconds and bytes. `id` is the container's id and `name` what people call it, or else as much of the id
//! as engines show; `container`, `pod`, `namespace` and `image` are there where the engine tells them.
//! `portslice_container_info` has all names. What is not known has no sample. Which metrics there are is said in `families`
//! and `protocols`; rate percentiles and Mesos' configuration-like fields are not among them: Prometheus computes the one, and
//! the other are labels or limits.

mod families;
mod protocols;
mod text;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text as encoding};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::sample::Monitored;
use super::table::short;
use crate::error::{Error, Result};
use families::{FAMILIES, Kind, Number};
use protocols::PROTOCOLS;
pub use text::Format;

/// All that one scrape tells.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The containers.
    pub containers: Arc<Vec<Monitored>>,
    /// The host.
    pub host: HostFigures,
}

/// What concerns the host, and the scrape itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostFigures {
    /// Is it prepared for containers?
    pub ready: bool,
    /// Containers that there are.
    pub leases: usize,
    /// Containers that there may be at once.
    pub slots: usize,
    /// Ports of the pool.
    pub pool_ports: u32,
    /// Those of them that are leased.
    pub pool_ports_leased: u32,
    /// Ports of a block of ordinary size.
    pub block_ports: u32,
    /// How many more blocks of ordinary size fit.
    pub blocks_free: u32,
    /// How long reading everything took.
    pub took: Duration,
    /// Passes over all containers since the start, this one too.
    pub passes: u64,
    /// Sources that could not be read in them.
    pub errors: u64,
}

/// Renders it, whole.
pub fn render(page: Page, format: Format) -> Result<String> {
    /// What a container's samples take, so that the text is not copied again and again while it grows.
    const EACH: usize = 5120;
    let mut text = String::with_capacity(EACH * (page.containers.len() + 2));
    let mut registry = Registry::default();
    registry.register_collector(Box::new(page));
    let failed = |_| Error::Failed("cannot render the metrics: formatting failed".into());
    encoding::encode(&mut text, &registry).map_err(failed)?;
    Ok(match format {
        Format::OpenMetrics => text,
        Format::Prometheus => text::to_prometheus(&text),
    })
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let containers: Vec<Labelled<'_>> = self.containers.iter().map(Labelled::of).collect();
        for family in FAMILIES {
            let (stem, unit) = stem_and_unit(family.name);
            let kind = family.kind;
            let mut metric = encoder.encode_descriptor(stem, family.help, unit.as_ref(), kind.metric_type())?;
            for container in &containers {
                let mut done = Ok(());
                (family.of)(container.monitored, &mut |label, number| {
                    if let Some(number) = number.filter(|_| done.is_ok()) {
                        done = container.write(&mut metric, kind, label, number);
                    }
                });
                done?;
            }
        }
        self.protocols(&containers, &mut encoder)?;
        self.names(&mut encoder)?;
        self.host.encode(&mut encoder)
    }
}

/// A container with the labels that all of its samples have.
struct Labelled<'a> {
    monitored: &'a Monitored,
    labels: Vec<(&'static str, &'a str)>,
}

impl<'a> Labelled<'a> {
    fn of(monitored: &'a Monitored) -> Self {
        let names = &monitored.names;
        let mut labels = vec![("id", monitored.container_id.as_str()), ("name", name_of(monitored))];
        let told = [
            ("container", &names.container),
            ("pod", &names.pod),
            ("namespace", &names.namespace),
            ("image", &names.image),
        ];
        labels.extend(told.into_iter().filter_map(|(key, name)| Some((key, name.as_deref()?))));
        Labelled { monitored, labels }
    }

    fn write(
        &self,
        metric: &mut MetricEncoder,
        kind: Kind,
        label: Option<(&'static str, &str)>,
        number: Number,
    ) -> fmt::Result {
        match label {
            None => encode(&mut metric.encode_family(&self.labels.as_slice())?, kind, number),
            Some(label) => encode(&mut metric.encode_family(&(self.labels.as_slice(), [label]))?, kind, number),
        }
    }
}

/// What people call the container. Never empty: legends are made of it.
fn name_of(monitored: &Monitored) -> &str {
    monitored.name.as_deref().filter(|name| !name.is_empty()).unwrap_or_else(|| short(&monitored.container_id))
}

/// A name that ends in a base unit, without the unit, and the unit.
fn stem_and_unit(name: &str) -> (&str, Option<Unit>) {
    for (ending, unit) in [
        ("_bytes_per_second", Unit::Other("bytes_per_second".into())),
        ("_seconds", Unit::Seconds),
        ("_bytes", Unit::Bytes),
    ] {
        if let Some(stem) = name.strip_suffix(ending) {
            return (stem, Some(unit));
        }
    }
    (name, None)
}

impl Page {
    /// The protocols' counters, where they are read.
    fn protocols(&self, containers: &[Labelled<'_>], encoder: &mut DescriptorEncoder) -> fmt::Result {
        if self.containers.iter().all(|container| container.statistics.net.net_snmp_statistics.is_none()) {
            return Ok(());
        }
        for protocol in PROTOCOLS.iter() {
            let (stem, unit) = stem_and_unit(&protocol.name);
            let kind = protocol.kind;
            let mut metric = encoder.encode_descriptor(stem, &protocol.help, unit.as_ref(), kind.metric_type())?;
            for container in containers {
                if let Some(number) = protocol.of(&container.monitored.statistics.net) {
                    container.write(&mut metric, kind, None, number)?;
                }
            }
        }
        Ok(())
    }

    fn names(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "The container's names.";
        fn told(name: &Option<String>) -> &str {
            name.as_deref().unwrap_or_default()
        }
        let mut metric = encoder.encode_descriptor("portslice_container", help, None, MetricType::Info)?;
        self.containers.iter().try_for_each(|container| {
            metric.encode_info(&[
                ("id", container.container_id.as_str()),
                ("name", name_of(container)),
                ("container", told(&container.names.container)),
                ("pod", told(&container.names.pod)),
                ("namespace", told(&container.names.namespace)),
                ("image", told(&container.names.image)),
                ("engine", told(&container.engine)),
                ("slice", &container.slice),
                ("executor_id", &container.executor_id),
                ("executor_name", &container.executor_name),
                ("framework_id", &container.framework_id),
                ("source", &container.source),
            ])
        })
    }
}

impl HostFigures {
    fn encode(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let mut build = encoder.encode_descriptor("portslice_build", "What serves this.", None, MetricType::Info)?;
        build.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        let whole = |n: u32| Number::Whole(n.into());
        let count = |n: usize| Number::Whole(n as u64);
        for (name, help, number) in [
            ("portslice_host_ready", "1 when the host is prepared for containers.", whole(self.ready.into())),
            ("portslice_leases", "Containers with a slice of the host.", count(self.leases)),
            ("portslice_slots", "Containers that may have one at once.", count(self.slots)),
            ("portslice_pool_ports", "Ports that may be leased as blocks.", whole(self.pool_ports)),
            ("portslice_pool_ports_leased", "Ports that are leased as blocks.", whole(self.pool_ports_leased)),
            ("portslice_block_ports", "Ports of a block of ordinary size.", whole(self.block_ports)),
            ("portslice_blocks_free", "Blocks of ordinary size that are free.", whole(self.blocks_free)),
            (
                "portslice_scrape_duration_seconds",
                "Time it took to read everything.",
                Number::Real(self.took.as_secs_f64()),
            ),
        ] {
            let (stem, unit) = stem_and_unit(name);
            let mut metric = encoder.encode_descriptor(stem, help, unit.as_ref(), MetricType::Gauge)?;
            encode(&mut metric, Kind::Gauge, number)?;
        }
        for (name, help, n) in [
            ("portslice_scrapes", "Passes over all containers.", self.passes),
            ("portslice_scrape_errors", "Sources that could not be read in them.", self.errors),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            encode(&mut metric, Kind::Counter, Number::Whole(n))?;
        }
        Ok(())
    }
}

fn encode(metric: &mut MetricEncoder, kind: Kind, number: Number) -> fmt::Result {
    match (kind, number) {
        (Kind::Counter, Number::Whole(n)) => metric.encode_counter::<NoLabelSet, _, f64>(&n, None),
        (Kind::Counter, Number::Real(n)) => metric.encode_counter::<NoLabelSet, _, f64>(&n, None),
        // No counter goes below zero: none is told so.
        (Kind::Counter, Number::Signed(_)) => Ok(()),
        (Kind::Gauge, Number::Whole(n)) => metric.encode_gauge(&n),
        (Kind::Gauge, Number::Signed(n)) => metric.encode_gauge(&n),
        (Kind::Gauge, Number::Real(n)) => metric.encode_gauge(&n),
    }
}

impl Kind {
    fn metric_type(self) -> MetricType {
        match self {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        }
    }
}
