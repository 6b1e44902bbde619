//! Who asks, as far as the connection tells.

use axum::http::Extensions;

use crate::listen::{Connection, Identity, Peer};
use crate::query::Caller;

/// From what the listener put into a request's extensions.
pub(super) fn caller(extensions: &Extensions) -> Caller {
    if let Some(Connection { peer, identity, .. }) = extensions.get::<Connection>() {
        return match (identity, peer) {
            (Identity::Anonymous, Peer::Tcp(address)) => Caller::at(address.ip()),
            (Identity::Anonymous, Peer::Unix { .. }) => Caller::Unknown,
            (proven, _) => Caller::Named(proven.principal().into()),
        };
    }
    Caller::Unknown
}
