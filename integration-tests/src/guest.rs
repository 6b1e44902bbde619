//! A whole machine of its own: a real kernel with drivers of its own and a clock that may be set to anything, under an
//! emulator, because namespaces share both with the host. Without root, without KVM, without any network but its own.

pub mod initramfs;
pub mod machine;
pub mod ntp_server;
pub mod parts;
pub mod scene;
pub mod sightings;
pub mod time_run;
pub mod verdict;
pub mod wire;
