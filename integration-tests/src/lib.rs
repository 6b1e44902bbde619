//! Several hosts on one machine: network namespaces, the real programs, real traffic, real kills. The tests stand on
//! this, and so does the demo.

mod cache;
pub mod capture_file;
pub mod clock_voice;
pub mod faults;
pub mod feeder;
pub mod fleet;
pub mod flood;
pub mod forward;
pub mod guest;
pub mod hub;
pub mod memory_limit;
pub mod netns;
pub mod otlp_receiver;
pub mod suricata;
pub mod traffic;
