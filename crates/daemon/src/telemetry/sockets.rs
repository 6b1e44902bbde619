//! The sockets to the receiver of telemetry, for whoever asks later: telemetry starts before everything else.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::connector::SocketEvents;

/// One a signal, and those before them after a reconnect.
const REMEMBERED_MAX: usize = 6;

/// Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Sockets(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    opened: VecDeque<(SocketAddr, SocketAddr)>,
    watcher: Option<Arc<dyn SocketEvents>>,
}

impl Sockets {
    pub(super) fn watch(&self, events: Arc<dyn SocketEvents>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.opened.iter().for_each(|(local, remote)| events.opened(*local, *remote));
        state.watcher = Some(events);
    }
}

impl SocketEvents for Sockets {
    /// Others may send to the same receiver: only the sockets themselves are ours.
    fn resolved(&self, _address: SocketAddr) {}

    fn opened(&self, local: SocketAddr, remote: SocketAddr) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.opened.len() >= REMEMBERED_MAX {
            state.opened.pop_front();
        }
        state.opened.push_back((local, remote));
        if let Some(watcher) = &state.watcher {
            watcher.opened(local, remote);
        }
    }
}
