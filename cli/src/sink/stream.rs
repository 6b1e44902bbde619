//! A file, standard output or a TCP connection: bytes in order.

use std::io;

use gnomon_export::{Encoder, Units};
use gnomon_flow::StoredFlow;
use tokio::fs::File;
use tokio::io::{AsyncWrite, AsyncWriteExt, Stdout};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::announce::Socket;
use super::{CONNECT_TIMEOUT, Failure, Target, WRITE_TIMEOUT};

#[derive(Debug)]
enum Open {
    StandardOutput(Stdout),
    File(File),
    Tcp(TcpStream),
}

#[derive(Debug)]
pub(super) struct Stream {
    target: Target,
    open: Option<Open>,
    pub(super) encoder: Encoder,
    unread: bool,
}

impl Stream {
    pub(super) fn new(target: Target, encoder: Encoder) -> Stream {
        Stream { target, open: None, encoder, unread: false }
    }

    pub(super) fn socket(&self) -> Option<Socket> {
        match &self.open {
            Some(Open::Tcp(tcp)) => Socket::of_tcp(tcp),
            _ => None,
        }
    }

    pub(super) fn is_unread(&self) -> bool {
        self.unread
    }

    pub(super) async fn send(&mut self, flows: &[StoredFlow]) -> Result<(), Failure> {
        // What was encoded for a connection that broke is encoded again for the next one.
        let mut encoder = self.encoder.clone();
        let mut units = Units::default();
        let mut open = self.take_open(&mut encoder, &mut units).await?;
        for flow in flows {
            // What is left out is counted.
            encoder.record(flow, &mut units).unwrap_or_default();
        }
        encoder.flush(&mut units);
        let written = match &mut open {
            Open::StandardOutput(out) => write(out, units.bytes()).await,
            Open::File(out) => write(out, units.bytes()).await,
            Open::Tcp(out) => timeout(WRITE_TIMEOUT, write(out, units.bytes())).await.unwrap_or_else(|_| {
                Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads at the other end"))
            }),
        };
        match (written, &open) {
            (Ok(()), _) => {
                self.open = Some(open);
                self.encoder = encoder;
                Ok(())
            }
            (Err(error), Open::Tcp(_)) => Err(Failure::passing(0, &error)),
            (Err(error), _) => {
                self.unread = error.kind() == io::ErrorKind::BrokenPipe;
                Err(Failure::lasting(0, &error))
            }
        }
    }

    pub(super) async fn finish(&mut self) -> Result<(), String> {
        if self.open.is_none() && !matches!(self.target, Target::Tcp(_)) {
            self.send(&[]).await.map_err(|failure| failure.why)?;
        }
        match self.open.take() {
            Some(Open::File(mut file)) => file.shutdown().await.map_err(|error| error.to_string()),
            Some(Open::Tcp(mut tcp)) => tcp.shutdown().await.map_err(|error| error.to_string()),
            Some(Open::StandardOutput(_)) | None => Ok(()),
        }
    }

    /// What is open and still good, or opened anew; then the encoder begins too.
    async fn take_open(&mut self, encoder: &mut Encoder, units: &mut Units) -> Result<Open, Failure> {
        if let Some(open) = self.open.take() {
            match &open {
                Open::Tcp(tcp) if is_closed(tcp) => {}
                _ => return Ok(open),
            }
        }
        let open = match &self.target {
            Target::Tcp(address) => timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
                .await
                .map_err(|_| Failure::passing(0, &"does not answer"))?
                .map(Open::Tcp)
                .map_err(|error| Failure::passing(0, &error))?,
            Target::File(path) => {
                File::create(path).await.map(Open::File).map_err(|error| Failure::lasting(0, &error))?
            }
            _ => Open::StandardOutput(tokio::io::stdout()),
        };
        encoder.begin(units);
        Ok(open)
    }
}

/// The other end has hung up: a write would be taken, and lost.
fn is_closed(tcp: &TcpStream) -> bool {
    let mut said = [0; 512];
    loop {
        match tcp.try_read(&mut said) {
            Ok(0) => return true,
            // Whatever it has to say.
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

async fn write(out: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes).await?;
    out.flush().await
}
