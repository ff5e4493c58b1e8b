//! Atoll's edge node: composes the isolate host, the router and the KV store into one binary.

#![forbid(unsafe_code)]

mod acme;
pub mod api;
mod archive;
pub mod bundle;
pub mod cli;
mod cluster;
pub mod config;
pub mod dispatch;
mod experiments;
mod file_look;
mod form;
mod geo;
mod held_body;
mod hop_by_hop;
pub mod inspect;
pub mod node;
mod node_file;
pub mod observe;
mod origins;
pub mod outbound;
pub mod preflight;
mod process;
pub mod project;
pub mod registry;
pub mod report;
pub mod sandbox;
mod serving;
pub mod state;
pub mod supervisor;
mod tls;
mod websocket;
