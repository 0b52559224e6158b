//! Many containers, one host IP: leased port blocks, steering, limits and counters for any OCI runtime.
//!
//! # Map
//!
//! Data flows one way: a face decodes its input into a [`request`], a verb of [`mod@slice`] carries it out, the face
//! encodes the outcome. Imports only go down this list.
//!
//! * [`face`]: the ways in. The hooks, the runtime shim, the CNI and the netavark plugin, the command line, the server and
//!   the service that follows the host; each decodes, calls one verb, encodes.
//! * [`doctor`]: looks at everything that could be in the way and says how to mend it.
//! * [`explain`]: which way a packet takes through the data path, in words.
//! * [`register`]: telling container engines about portslice: merging into their configuration, and taking that back.
//! * [`oci`]: the state document and the bundle, as hooks are given them, which engine is behind them, editing a bundle, and
//!   how engines are told of the hooks (CDI).
//! * [`mod@slice`]: the verbs, and the one loop over steps. The only place where order matters.
//! * [`wire`]: carrying out steps: one file a kind of step, each looked at, performed and undone there.
//! * [`stats`]: one container's counters as a value, and its renderings.
//! * [`plan`]: pure decisions. Who gets which ports, which steps a host, a slice and a change have.
//! * [`lease`]: who has what: the records, the ledger that keeps them, and the view of the kernel's tables.
//! * [`steer`]: the BPF data path, its maps, and finding both in the kernel.
//! * [`cpu`]: CPU limits: the formula, the container's cgroups, writing them there or through systemd.
//! * [`host`]: facts about this host, and what was done to it.
//! * [`net`]: blocking netlink: links, addresses, routes, filters, sockets, namespaces.
//! * [`log`]: where it goes, as the configuration says.
//! * [`config`], [`request`], [`ports`], [`rate`], [`cpus`]: values, parsed once, valid from then on.
//! * [`error`], [`refusal`], [`file`], [`mod@format`]: how things are said when they go wrong, how files are read, and which
//!   formats of them.

pub mod config;
pub mod cpu;
pub mod cpus;
pub mod doctor;
pub mod error;
pub mod explain;
pub mod face;
pub mod file;
pub mod format;
pub mod host;
pub mod lease;
pub mod log;
pub mod net;
pub mod oci;
pub mod plan;
pub mod ports;
pub mod rate;
pub mod refusal;
pub mod register;
pub mod request;
pub mod slice;
pub mod stats;
pub mod steer;
pub mod wire;
