//! A TCP port inside a namespace that leads to an address outside, so that an agent there reaches a collector here
//! without any route between the two networks.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};

use crate::netns::Netns;

/// Forwards until dropped; `cut` and `mend` break and restore the link, with the connections that are open.
#[derive(Debug)]
pub struct Forward {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
    streams: Arc<std::sync::Mutex<Vec<TcpStream>>>,
}

impl Forward {
    /// Listen on `listen` inside `netns`; every connection goes on to `target` from where the caller is.
    pub fn open(netns: &Netns, listen: SocketAddr, target: SocketAddr) -> Result<Forward> {
        let listener = netns
            .within(move || TcpListener::bind(listen))?
            .with_context(|| format!("listen on {listen} in {}", netns.name()))?;
        let address = listener.local_addr()?;
        let cut = Arc::new(AtomicBool::new(false));
        let streams = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (accept_cut, accept_streams) = (Arc::clone(&cut), Arc::clone(&streams));
        thread::spawn(move || {
            for inside in listener.incoming() {
                let Ok(inside) = inside else { return };
                if accept_cut.load(Ordering::Relaxed) {
                    continue;
                }
                let Ok(outside) = TcpStream::connect(target) else { continue };
                if let (Ok(a), Ok(b)) = (inside.try_clone(), outside.try_clone()) {
                    let mut open = accept_streams.lock().expect("no panic while held");
                    open.extend([a, b]);
                }
                pump(&inside, &outside);
                pump(&outside, &inside);
            }
        });
        Ok(Forward { address, cut, streams })
    }

    /// Where to dial inside the namespace.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Break every connection and refuse new ones.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
        for stream in self.streams.lock().expect("no panic while held").drain(..) {
            // It may be closed already.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.cut.store(false, Ordering::Relaxed);
    }
}

fn pump(from: &TcpStream, to: &TcpStream) {
    let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
    thread::spawn(move || {
        // Either side going away ends both: that is all there is to say about it.
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
}
