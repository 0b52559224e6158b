//! Percentiles of what a container sends and receives in a second, over a moving window.
//!
//! No I/O. What does not live here: reading the counters (`net`), and the thread that does so at every interval
//! (`face::serve`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;

/// The fewest samples that a window holds, as in Mesos.
const FEWEST: usize = 3;
/// The number of counters in a [`Snapshot`].
const SERIES: usize = 8;

/// The configured sampling of rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Samples older than this no longer count.
    pub window: Duration,
    /// The time between two samples.
    pub interval: Duration,
}

/// A container's counters at one moment: bytes, packets, drops and errors, first received, then sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot(pub [u64; SERIES]);

/// The last samples of one container.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    last: Option<(Instant, Snapshot)>,
    samples: VecDeque<[f64; SERIES]>,
}

/// Mesos' object `net_rate_statistics`. Rates are per second; bytes include Ethernet headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names are Mesos' own")]
pub struct RateStatistics {
    pub rx_rate: Percentiles,
    pub rx_packet_rate: Percentiles,
    pub rx_drop_rate: Percentiles,
    pub rx_error_rate: Percentiles,
    pub tx_rate: Percentiles,
    pub tx_packet_rate: Percentiles,
    pub tx_drop_rate: Percentiles,
    pub tx_error_rate: Percentiles,
    pub sampling_window_secs: f64,
    pub sampling_interval_secs: f64,
}

/// Percentiles of one series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names are Mesos' own")]
pub struct Percentiles {
    pub min: f64,
    pub max: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub p9999: f64,
    /// The number of samples.
    pub samples: u64,
}

impl Sampling {
    /// The sampling that the configuration asks for; `None` when it is turned off.
    pub fn of(config: &crate::config::Config) -> Option<Self> {
        let (window, interval) = (config.rate_statistics_window, config.rate_statistics_interval);
        (!window.is_zero() && !interval.is_zero()).then_some(Self { window, interval })
    }

    /// The number of samples that the window holds.
    fn capacity(&self) -> usize {
        ((self.window.as_nanos() / self.interval.as_nanos().max(1)) as usize).max(FEWEST)
    }
}

impl Rates {
    /// Adds a sample: the rates between the last snapshot and this one. If a counter went back, counting has begun anew, and
    /// all samples are dropped.
    pub fn add(&mut self, at: Instant, snapshot: Snapshot, sampling: &Sampling) {
        if let Some((then, before)) = self.last {
            let seconds = at.saturating_duration_since(then).as_secs_f64();
            if snapshot.0.iter().zip(&before.0).any(|(now, before)| now < before) {
                self.samples.clear();
            } else if seconds > 0.0 {
                while self.samples.len() >= sampling.capacity() {
                    self.samples.pop_front();
                }
                self.samples.push_back(std::array::from_fn(|i| (snapshot.0[i] - before.0[i]) as f64 / seconds));
            }
        }
        self.last = Some((at, snapshot));
    }

    /// Computes the percentiles of all samples; `None` before there are two samples.
    pub fn statistics(&self, sampling: &Sampling) -> Option<RateStatistics> {
        if self.samples.len() < 2 {
            return None;
        }
        let series = |i: usize| Percentiles::of(self.samples.iter().map(|sample| sample[i]).collect());
        Some(RateStatistics {
            rx_rate: series(0),
            rx_packet_rate: series(1),
            rx_drop_rate: series(2),
            rx_error_rate: series(3),
            tx_rate: series(4),
            tx_packet_rate: series(5),
            tx_drop_rate: series(6),
            tx_error_rate: series(7),
            sampling_window_secs: sampling.window.as_secs_f64(),
            sampling_interval_secs: sampling.interval.as_secs_f64(),
        })
    }
}

impl Percentiles {
    /// Computes the percentiles of at least one sample. Percentile `p` is at position `p * (n - 1)` of the sorted samples,
    /// interpolated between the two samples next to that position.
    fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_unstable_by(f64::total_cmp);
        let last = samples.len() - 1;
        let at = |p: f64| {
            let position = p * last as f64;
            let below = position as usize;
            let (low, high) = (samples[below], samples[(below + 1).min(last)]);
            low + (high - low) * (position - below as f64)
        };
        Percentiles {
            min: samples[0],
            max: samples[last],
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            samples: samples.len() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLING: Sampling = Sampling { window: Duration::from_secs(5), interval: Duration::from_secs(1) };

    /// The rates after snapshots a second apart, in each of which all counters have the same value.
    fn after(counters: &[u64]) -> Rates {
        let start = Instant::now();
        let mut rates = Rates::default();
        for (n, counter) in counters.iter().enumerate() {
            rates.add(start + Duration::from_secs(n as u64), Snapshot([*counter; SERIES]), &SAMPLING);
        }
        rates
    }

    #[test]
    fn percentiles_lie_between_samples() {
        let p = Percentiles::of(vec![40.0, 10.0, 30.0, 20.0, 50.0]);
        assert_eq!((p.min, p.p50, p.max, p.samples), (10.0, 30.0, 50.0, 5));
        assert!((p.p90 - 46.0).abs() < 1e-9 && (p.p95 - 48.0).abs() < 1e-9, "{p:?}");
        assert!((p.p99 - 49.6).abs() < 1e-9 && (p.p9999 - 49.996).abs() < 1e-9, "{p:?}");
        let one = Percentiles::of(vec![7.0]);
        assert_eq!((one.min, one.p50, one.p9999, one.max), (7.0, 7.0, 7.0, 7.0));
    }

    #[test]
    fn two_samples_are_the_fewest() {
        assert_eq!(after(&[0, 100]).statistics(&SAMPLING), None);
        let statistics = after(&[0, 100, 400]).statistics(&SAMPLING).unwrap();
        let rx = statistics.rx_rate;
        assert_eq!((rx.min, rx.p50, rx.max, rx.samples), (100.0, 200.0, 300.0, 2));
        assert_eq!(statistics.tx_error_rate, rx);
        assert_eq!((statistics.sampling_window_secs, statistics.sampling_interval_secs), (5.0, 1.0));
    }

    #[test]
    fn the_window_moves_on() {
        let rx = after(&[0, 1, 3, 6, 10, 15, 21, 28]).statistics(&SAMPLING).unwrap().rx_rate;
        assert_eq!((rx.samples, rx.min, rx.max), (5, 3.0, 7.0));
        let few = Sampling { window: Duration::from_millis(1500), interval: Duration::from_secs(1) };
        assert_eq!(few.capacity(), FEWEST);
    }

    #[test]
    fn counters_that_go_back_begin_anew() {
        assert_eq!(after(&[100, 200, 300, 0]).statistics(&SAMPLING), None);
        let rx = after(&[100, 200, 300, 0, 5, 15]).statistics(&SAMPLING).unwrap().rx_rate;
        assert_eq!((rx.samples, rx.min, rx.max), (2, 5.0, 10.0));
    }
}
