//! What every gnomon daemon does: configuration, telemetry, health, shutdown, build info.
//!
//! A daemon's `main` is: parse flags, [`config::load`], start telemetry, run the pipeline under a shutdown handle.
//! Nothing here knows what an agent or a collector is.

pub mod config;
