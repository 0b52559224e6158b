//! Many containers, one host IP: leased port blocks, steering, limits and counters for any OCI runtime.
//!
//! # Map
//!
//! Data flows one way: a face decodes its input into a [`request`], a verb of [`mod@slice`] carries it out, the face
//! encodes the outcome. Imports only go down this list.
//!
//! * [`face`]: the ways in. The hooks and the command line; each decodes, calls one verb, encodes.
//! * [`doctor`]: looks at everything that could be in the way and says how to mend it.
//! * [`mod@slice`]: the verbs. Prepare the host, attach, detach, reclaim: the only place where order matters.
//! * [`oci`]: the state document and the bundle, as hooks are given them.
//! * [`plan`]: pure decisions. Who gets which ports, which steps make it work, what the data path must know.
//! * [`stats`]: one container's counters as a value, and its renderings.
//! * [`lease`]: the ledger: the file-locked store of who has what.
//! * [`steer`]: the BPF data path and its maps.
//! * [`net`]: blocking netlink: links, addresses, routes, filters, sockets, namespaces.
//! * [`host`]: facts about this host, and what was done to it.
//! * [`cpu`]: CPU limits: the formula, the container's cgroups, writing them there or through systemd.
//! * [`config`], [`request`], [`ports`], [`rate`], [`cpus`]: values, parsed once, valid from then on.
//! * [`error`], [`refusal`], [`log`]: how things are said when they go wrong.

pub mod config;
pub mod cpu;
pub mod cpus;
pub mod doctor;
pub mod error;
pub mod face;
pub mod file;
pub mod host;
pub mod lease;
pub mod log;
pub mod net;
pub mod oci;
pub mod plan;
pub mod ports;
pub mod rate;
pub mod refusal;
pub mod request;
pub mod slice;
pub mod stats;
pub mod steer;
pub mod wire;
