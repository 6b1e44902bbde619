//! What can go wrong between an interface and a frame, said so that somebody can act on it.

use std::io;

use crate::filter::FilterError;

/// Why a source could not be opened or can no longer capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("no interface named `{name}` in this network namespace; those here: {known}")]
    NoSuchInterface { name: String, known: String },

    /// The device was deleted or moved to another network namespace. Open it again when it returns.
    #[error("interface `{name}` is gone: it was deleted or moved to another network namespace")]
    InterfaceGone { name: String },

    /// Redirecting would cut the host off the network.
    #[error(
        "refusing to take the frames of `{name}`, which has the address {address}: the host would lose them; \
         use the host stance, or allow stealing on an addressed interface if it is really a tap"
    )]
    Addressed { name: String, address: String },

    #[error("`{name}` is down: AF_XDP binds only to an interface that is up (`ip link set dev {name} up`)")]
    InterfaceDown { name: String },

    /// Another XDP program is attached.
    #[error(
        "`{name}` already has an XDP program ({program}); detach it first (`ip link set dev {name} xdp off`)"
    )]
    Occupied { name: String, program: String },

    /// Every rung of the fallback ladder was refused.
    #[error("cannot capture on `{name}`: {refusals}")]
    NoRung { name: String, refusals: String },

    #[error("invalid capture option {option} = {value}: {rule}")]
    InvalidOption { option: &'static str, value: String, rule: &'static str },

    /// The capture filter: what is wrong with it, or that nothing here can compile it.
    #[error(transparent)]
    Filter(#[from] FilterError),

    /// A system call failed; `what` names it, its subject and what it needs.
    #[error("{what}: {source}")]
    System {
        what: String,
        #[source]
        source: io::Error,
    },

    /// The kernel would not take or attach the XDP program.
    #[error("{what}: {message}")]
    Bpf { what: &'static str, message: String },
}

impl CaptureError {
    pub(crate) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> CaptureError {
        let source = source.into();
        let mut what = what.into();
        if source.kind() == io::ErrorKind::PermissionDenied {
            what.push_str(
                " (AF_PACKET needs CAP_NET_RAW; AF_XDP needs CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW and CAP_IPC_LOCK)",
            );
        }
        CaptureError::System { what, source }
    }
}
