//! The doors for people and programs: gRPC and HTTP/JSON with one meaning, on one port.

mod admin;
mod answers;
mod caller;
mod clock;
mod delivery;
mod grpc;
mod http;
mod hunts;
mod json;
mod openapi;
mod parameters;
mod routes;
#[cfg(test)]
mod shape_tests;
#[cfg(test)]
mod tests;
mod wire;

use std::fmt;
use std::sync::Arc;

use crate::fleet::Fleet;
use crate::own_streams::StreamRegistry;
use crate::query::Queries;
use crate::store::Store;

pub use grpc::add_services;
pub(crate) use http::failure;
pub use openapi::openapi;

/// Bytes of a request's body.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;

/// What the doors lead to.
#[derive(Clone)]
pub struct Api {
    pub queries: Queries,
    pub store: Store,
    pub fleet: Fleet,
    /// Text of `/metrics` in the Prometheus format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Why the collector is not ready to take entries in, if it is not.
    pub not_ready: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    /// Shown by Status.
    pub version: String,
    /// Told of what questions announce.
    pub own_streams: StreamRegistry,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("version", &self.version).finish_non_exhaustive()
    }
}

/// All routes, HTTP/JSON and gRPC; see [`crate::listen`].
pub fn router(api: &Api) -> axum::Router {
    add_services(http::router(api.clone()).into(), api).into_axum_router()
}
