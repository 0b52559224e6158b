//! Logs why statistics are missing, each reason once for as long as it lasts.

use std::collections::HashMap;
use std::mem;

use super::sample::Monitored;

/// The troubles of the last look, by container. A trouble that comes again at every look is logged only once.
#[derive(Debug, Default)]
pub struct Reported(HashMap<String, Vec<String>>);

impl Reported {
    /// Logs the troubles of `containers` that the last look did not have.
    pub fn log_new(&mut self, containers: &[Monitored]) {
        let before = mem::take(&mut self.0);
        for container in containers.iter().filter(|container| !container.troubles.is_empty()) {
            let id = &container.container_id;
            let known = before.get(id).map(Vec::as_slice).unwrap_or_default();
            for trouble in container.troubles.iter().filter(|trouble| !known.contains(trouble)) {
                log::warn!("{id}: {trouble}");
            }
            self.0.insert(id.clone(), container.troubles.clone());
        }
    }
}
