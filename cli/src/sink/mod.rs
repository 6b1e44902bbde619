//! Where exported records go: a file, standard output, a TCP connection, UDP datagrams, HTTP requests.

mod announce;
mod datagrams;
mod http;
mod stream;
mod target;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::time::Duration;

use gnomon_export::{Accept, Carrier, Encoder, Format, Tally};
use gnomon_flow::StoredFlow;

pub(crate) use announce::Announcer;
use announce::Socket;
use datagrams::Datagrams;
use http::Http;
use stream::Stream;
pub(crate) use target::Target;

/// To connect, to be done with one request, and to take what one write gives.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Between tries.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Not everything of a batch was taken.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Records at the batch's beginning that are done with.
    sent: usize,
    why: String,
    /// Whether another try may help.
    again: bool,
}

impl Failure {
    fn passing(sent: usize, why: &dyn Display) -> Failure {
        Failure { sent, why: why.to_string(), again: true }
    }

    fn lasting(sent: usize, why: &dyn Display) -> Failure {
        Failure { sent, why: why.to_string(), again: false }
    }
}

#[derive(Debug)]
enum Way {
    Stream(Stream),
    Datagrams(Datagrams),
    Http(Http),
}

#[derive(Debug)]
pub(crate) struct Sink {
    target: Target,
    way: Way,
}

impl Sink {
    /// Connections are made when there is something to send.
    pub(crate) fn new(target: Target, format: Format, accept: Accept) -> Sink {
        let encoder = |carrier| Encoder::new(format, carrier, accept);
        let way = match &target {
            Target::StandardOutput | Target::File(_) | Target::Tcp(_) => {
                Way::Stream(Stream::new(target.clone(), encoder(Carrier::Stream)))
            }
            Target::Udp(address) => Way::Datagrams(Datagrams::new(address, encoder(Carrier::Datagrams))),
            Target::Http { authority, path } => {
                Way::Http(Http::new(authority, path, encoder(Carrier::Stream)))
            }
        };
        Sink { target, way }
    }

    /// Send a batch, trying again while that may help and `tries_max` are not used up (`None`: for ever). What a broken
    /// connection had not acknowledged comes twice rather than never.
    pub(crate) async fn deliver(
        &mut self,
        mut flows: &[StoredFlow],
        tries_max: Option<u32>,
    ) -> Result<(), String> {
        let (mut tries, mut pause) = (0, PAUSE_MIN);
        loop {
            let sent = match &mut self.way {
                Way::Stream(stream) => stream.send(flows).await,
                Way::Datagrams(datagrams) => datagrams.send(flows).await,
                Way::Http(http) => http.send(flows).await,
            };
            let Err(failure) = sent else {
                if tries > 0 {
                    eprintln!("{}: goes on", self.target);
                }
                return Ok(());
            };
            if failure.sent > 0 {
                flows = &flows[failure.sent..];
                (tries, pause) = (0, PAUSE_MIN);
            }
            tries += 1;
            if !failure.again || tries_max.is_some_and(|max| tries >= max) {
                return Err(format!("{}: {}", self.target, failure.why));
            }
            if tries == 1 {
                eprintln!("{}: {}; trying again", self.target, failure.why);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Everything is out of our hands then. Makes a file with no records, too.
    pub(crate) async fn finish(&mut self) -> Result<(), String> {
        let ended = match &mut self.way {
            Way::Stream(stream) => stream.finish().await,
            Way::Datagrams(_) | Way::Http(_) => Ok(()),
        };
        ended.map_err(|why| format!("{}: {why}", self.target))
    }

    /// What it sends over, if it has a connection.
    fn socket(&self) -> Option<Socket> {
        match &self.way {
            Way::Stream(stream) => stream.socket(),
            Way::Datagrams(datagrams) => datagrams.socket(),
            Way::Http(http) => http.socket(),
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        match &self.way {
            Way::Stream(stream) => stream.encoder.tally(),
            Way::Datagrams(datagrams) => datagrams.encoder.tally(),
            Way::Http(http) => http.encoder.tally(),
        }
    }

    /// What did not arrive, in words, as far as it can be known.
    pub(crate) fn losses(&self) -> Option<String> {
        match &self.way {
            Way::Stream(_) => None,
            Way::Datagrams(datagrams) => datagrams.losses(),
            Way::Http(http) => http.losses(),
        }
    }

    /// Nobody reads any more (`| head`): that is no failure.
    pub(crate) fn is_unread(&self) -> bool {
        matches!(&self.way, Way::Stream(stream) if stream.is_unread())
    }
}
