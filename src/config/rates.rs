//! What the two keys of rate statistics must agree on.

use super::{Config, Disagreement};
use std::time::Duration;

/// Looking more often would measure the looking (Mesos' bound).
const SHORTEST: Duration = Duration::from_millis(20);
/// Samples of eight series for each container: a thousand containers fill 64 MB with them.
const MOST_SAMPLES: u128 = 1000;

const WINDOW: &str = "rate_statistics_window";
const INTERVAL: &str = "rate_statistics_interval";

impl Config {
    pub(super) fn rates_agree(&self) -> Result<(), Disagreement> {
        let (window, interval) = (self.rate_statistics_window, self.rate_statistics_interval);
        let refuse = |first: &str, second: &str, why: String| Err(([first, second].map(String::from).to_vec(), why));
        match (window.is_zero(), interval.is_zero()) {
            (true, true) => Ok(()),
            (false, true) => refuse(WINDOW, INTERVAL, format!("{INTERVAL} is not set; set both, or neither")),
            (true, false) => refuse(INTERVAL, WINDOW, format!("{WINDOW} is not set; set both, or neither")),
            _ if interval < SHORTEST => {
                refuse(INTERVAL, WINDOW, format!("{interval:?} is too short; give at least {SHORTEST:?}"))
            }
            _ if window <= interval => {
                let why = format!("{WINDOW} ({window:?}) is not longer than {INTERVAL} ({interval:?}); make it longer");
                refuse(WINDOW, INTERVAL, why)
            }
            _ if window.as_nanos() / interval.as_nanos() > MOST_SAMPLES => {
                let why = format!("{window:?} holds more than {MOST_SAMPLES} samples, one each {interval:?}");
                refuse(WINDOW, INTERVAL, format!("{why}; shorten it, or lengthen {INTERVAL}"))
            }
            _ => Ok(()),
        }
    }
}
