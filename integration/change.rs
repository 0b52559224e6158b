//! Promise: `portslice set` changes a live container at once and as a whole, or not at all, and costs its traffic nothing.

mod killed;
mod ports;
mod raced;
mod rates;
mod refused;
