//! The one listener: who may connect, how long and with how much, and who it is.

mod access;
mod activity;
mod body;
mod host;
mod identity;
mod limits;
mod places;
mod refusal;
mod server;
mod service;
mod socket;
mod stall;
#[cfg(test)]
pub(crate) mod testing;
mod unfinished;
mod users;

pub use identity::{Connection, Identity, Peer};
pub use limits::Limits;
pub use refusal::{Reason, Refusals};
pub use server::{Entrance, Listener, Settings};
pub use socket::{Bound, SocketError, bind, places};
pub use users::Users;
