//! Talking to the kernel about links, addresses, routes, filters, queues and sockets: blocking netlink, one request at a
//! time or many in one batch, and entering a network namespace.
//!
//! Builders ([`link`], [`address`], [`route`], [`filter`], [`qdisc`]) are pure and return a [`Request`]; [`Netlink`] sends it.
//! What does not live here: which link, address or filter a container needs ([`crate::plan`]).

pub mod address;
pub mod diag;
pub mod filter;
pub mod holders;
pub mod link;
pub mod netfilter;
pub mod netns;
pub mod qdisc;
mod request;
pub mod route;
mod socket;
pub mod watch;

pub use holders::Holders;
pub use netns::Netns;
pub use request::Request;
pub use socket::Netlink;
