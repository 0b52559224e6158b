//! What the log is told about statistics that could not be read.

use std::collections::HashMap;
use std::mem;

use super::Monitored;

/// What was told at the last look: the same trouble at every look is one line, for as long as it lasts.
#[derive(Debug, Default)]
pub struct Told(HashMap<String, Vec<String>>);

impl Told {
    /// Tells what is new.
    pub fn tell(&mut self, containers: &[Monitored]) {
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
