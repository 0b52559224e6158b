//! The integration tests: a real kernel, real namespaces, one file a promise.
//!
//! Needs root, iproute2 and the built binaries (`PORTSLICE_BIN` names their directory). Every test makes its own simulated
//! host (`lab::Host`) and traffic stays between the namespaces it made; the machine's own network is never touched.

mod bandwidth;
mod beside;
mod bound;
mod cdi;
mod change;
mod cni;
mod crash;
mod doctor;
mod dry_run;
mod echo;
mod ended;
mod engines;
mod explain;
mod fair;
mod following;
mod fragments;
mod groups;
mod inhabited;
mod isolated;
mod kernel;
mod lab;
mod locks;
mod mesos;
mod model;
mod multihomed;
mod names;
mod namespaces;
mod netavark;
mod own_devices;
mod owned;
mod path_matrix;
mod podman;
mod pods;
mod powers;
mod processor;
mod rebuild;
mod refusals;
mod register;
mod reserved;
mod runtimes;
mod scale;
mod serve;
mod shim;
mod silent;
mod statistics;
mod tamper;
mod told;
mod transparent;
mod undo;
mod upgrade;
mod verdicts;
mod whole;
mod wire;
