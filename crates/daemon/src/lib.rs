//! What every gnomon daemon does: configuration, telemetry, health, shutdown, build info.
//!
//! A daemon's `main` is: parse flags, [`config::load`], [`telemetry::init`], [`shutdown::Shutdown::install`], run the
//! pipeline, [`exit::report`]. Nothing here knows what an agent or a collector is.

pub mod build_info;
pub mod certificate;
pub mod certificate_time;
pub mod config;
pub mod connector;

pub mod example;
pub mod exit;
pub mod notify;
pub mod process;
pub mod reload;
pub mod shutdown;
pub mod telemetry;
