//! Flow records in the forms that others read: what goes where is in `docs/exports.md`, with the source of each form.
//!
//! An [`Encoder`] turns records into bytes one by one and holds no more than one IPFIX message. Pure: no I/O, reads no
//! clock.

mod bulk;
mod csv;
mod ecs;
mod encoder;
mod eve;
mod format;
mod ipfix;
mod left;
mod object;
mod time;
mod units;
mod zeek;

pub use bulk::{BulkAnswer, bulk_action};
pub use csv::disarmed;
pub use ecs::{ECS_NAMES, EcsName};
pub use encoder::Encoder;
pub use format::{Carrier, Format};
pub use left::{Accept, Left, Tally};
pub use object::append as append_json;
pub use units::Units;
