//! A bandwidth limit: a rate, and how far and for how long it may be exceeded.
//!
//! What does not live here: where a limit comes from (`request`, `config`) and how the kernel is told.

use super::{Rate, Size};
use crate::error::{Error, Result};
use crate::refusal::one_line;
use serde::{Deserialize, Serialize};

/// A bandwidth limit of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limit {
    /// What it always gets. Unlimited is a value, too: it overrides a configured limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// What a burst may reach; not below the rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceil: Option<Rate>,
    /// How much may go at the ceil rate; at least [`Limit::SMALLEST_BURST`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<Size>,
}

impl Limit {
    /// A burst must hold one full-sized packet with its headers, or nothing would ever be sent.
    pub const SMALLEST_BURST: Size = Size::from_bytes(1600);

    /// The limit itself if its parts agree. A part that is missing agrees with anything, so whoever fills one in
    /// (from the configuration, from the lease) checks again. `place` is what the refusal is about.
    pub fn checked(self, place: &str) -> Result<Limit> {
        let refuse = |why| Err(Error::invalid(one_line(place), why));
        match (self.rate, self.ceil) {
            (Some(rate), Some(ceil)) if ceil.is_below(rate) => {
                return refuse(format!("the ceil {ceil} is below the rate {rate}; give a ceil of at least the rate"));
            }
            _ => {}
        }
        match self.burst {
            Some(burst) if burst < Self::SMALLEST_BURST => {
                refuse(format!("a burst of {burst} holds no full packet; give at least {}", Self::SMALLEST_BURST))
            }
            _ => Ok(self),
        }
    }
}
