//! OpenMetrics text for Prometheus.
//!
//! Where cAdvisor has a metric for the same thing it has cAdvisor's name; the rest begins with `portslice_`. `id` is the
//! container's id, `portslice_container_info` joins it with the other names. What is not known has no sample. Which
//! metrics there are is said in `families`; rate percentiles and Mesos' configuration-like fields are not among them:
//! Prometheus computes the one, and the other are labels or limits.

mod families;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::sample::Monitored;
use crate::error::{Error, Result};
use families::{FAMILIES, Kind, Number};

/// `Content-Type` of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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

/// Renders it, the end mark included.
pub fn render(page: Page) -> Result<String> {
    /// What a container's samples take, so that the text is not copied again and again while it grows.
    const EACH: usize = 4096;
    let mut text = String::with_capacity(EACH * (page.containers.len() + 2));
    let mut registry = Registry::default();
    registry.register_collector(Box::new(page));
    let failed = |_| Error::Failed("cannot render the metrics: formatting failed".into());
    text::encode(&mut text, &registry).map_err(failed)?;
    Ok(text)
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for family in FAMILIES {
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, family.kind.metric_type())?;
            for container in self.containers.iter() {
                let id = container.container_id.as_str();
                let mut done = Ok(());
                (family.of)(&container.statistics, &mut |label, number| {
                    let Some(number) = number.filter(|_| done.is_ok()) else { return };
                    done = match label {
                        Some(label) => write(&mut metric, family.kind, &[("id", id), label], number),
                        None => write(&mut metric, family.kind, &[("id", id)], number),
                    };
                });
                done?;
            }
        }
        self.names(&mut encoder)?;
        self.host.encode(&mut encoder)
    }
}

impl Page {
    fn names(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "The container's names.";
        let mut metric = encoder.encode_descriptor("portslice_container", help, None, MetricType::Info)?;
        self.containers.iter().try_for_each(|container| {
            metric.encode_info(&[
                ("id", container.container_id.as_str()),
                ("name", container.name.as_deref().unwrap_or_default()),
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
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
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

fn write<const N: usize>(
    metric: &mut MetricEncoder,
    kind: Kind,
    labels: &[(&str, &str); N],
    number: Number,
) -> fmt::Result {
    encode(&mut metric.encode_family(labels)?, kind, number)
}

fn encode(metric: &mut MetricEncoder, kind: Kind, number: Number) -> fmt::Result {
    match (kind, number) {
        (Kind::Counter, Number::Whole(n)) => metric.encode_counter::<NoLabelSet, _, f64>(&n, None),
        (Kind::Counter, Number::Real(n)) => metric.encode_counter::<NoLabelSet, _, f64>(&n, None),
        (Kind::Gauge | Kind::Unknown, Number::Whole(n)) => metric.encode_gauge(&n),
        (Kind::Gauge | Kind::Unknown, Number::Signed(n)) | (Kind::Counter, Number::Signed(n)) => {
            metric.encode_gauge(&n)
        }
        (Kind::Gauge | Kind::Unknown, Number::Real(n)) => metric.encode_gauge(&n),
    }
}

impl Kind {
    fn metric_type(self) -> MetricType {
        match self {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Unknown => MetricType::Unknown,
        }
    }
}
