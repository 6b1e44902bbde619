//! HTTP/1.1: batches of lines of JSON as requests, one after another on one connection. Where the path ends in `_bulk`
//! each line has Elasticsearch's action before it, and the answer is read for each record.

use std::fmt::Display;

use bytes::Bytes;
use gnomon_export::{BulkAnswer, Encoder, Units, bulk_action};
use gnomon_flow::StoredFlow;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::announce::Socket;
use super::{CONNECT_TIMEOUT, Failure, WRITE_TIMEOUT};

/// Of a request: so many records, or as many as make this many bytes.
const RECORDS_MAX: usize = 500;
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Of an answer that is read.
const ANSWER_BYTES_MAX: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Http {
    authority: String,
    path: String,
    bulk: bool,
    connection: Option<SendRequest<Full<Bytes>>>,
    socket: Option<Socket>,
    pub(super) encoder: Encoder,
    refused: u64,
    reason: Option<String>,
}

impl Http {
    pub(super) fn new(authority: &str, path: &str, encoder: Encoder) -> Http {
        let bulk = path.split('?').next().is_some_and(|path| path.ends_with("_bulk"));
        Http {
            authority: authority.to_owned(),
            path: path.to_owned(),
            bulk,
            connection: None,
            socket: None,
            encoder,
            refused: 0,
            reason: None,
        }
    }

    pub(super) async fn send(&mut self, flows: &[StoredFlow]) -> Result<(), Failure> {
        let mut sent = 0;
        while sent < flows.len() {
            // The tally of what was not taken is not kept.
            let mut encoder = self.encoder.clone();
            let (body, count) = self.body(&flows[sent..], &mut encoder);
            if !body.is_empty() {
                self.post(body).await.map_err(|failure| Failure { sent, ..failure })?;
            }
            self.encoder = encoder;
            sent += count;
        }
        Ok(())
    }

    /// A request's body, and how many records went into it.
    fn body(&self, flows: &[StoredFlow], encoder: &mut Encoder) -> (Vec<u8>, usize) {
        let (mut body, mut units, mut count) = (Vec::new(), Units::default(), 0);
        for flow in flows.iter().take(RECORDS_MAX) {
            units.clear();
            count += 1;
            if encoder.record(flow, &mut units).is_err() {
                continue;
            }
            if self.bulk {
                body.extend_from_slice(bulk_action(flow).as_bytes());
                body.push(b'\n');
            }
            body.extend_from_slice(units.bytes());
            if body.len() >= REQUEST_BYTES_MAX {
                break;
            }
        }
        (body, count)
    }

    async fn post(&mut self, body: Vec<u8>) -> Result<(), Failure> {
        let passing = |why: &dyn Display| Failure::passing(0, why);
        let mut connection = self.connected().await?;
        let request = Request::post(self.path.as_str())
            .header(header::HOST, self.authority.as_str())
            .header(header::CONTENT_TYPE, "application/x-ndjson")
            .header(header::USER_AGENT, concat!("gnomon/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::lasting(0, &error))?;
        let exchange = async {
            let response = connection.send_request(request).await.map_err(|error| passing(&error))?;
            let status = response.status();
            let answer = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok((status, answer.map_err(|error| passing(&error))?.to_bytes()))
        };
        let (status, answer) =
            timeout(WRITE_TIMEOUT, exchange).await.map_err(|_| passing(&"no answer in 30 s"))??;
        self.connection = Some(connection);
        judge_status(status, &answer)?;
        if self.bulk { self.judge_bulk(&answer) } else { Ok(()) }
    }

    fn judge_bulk(&mut self, answer: &[u8]) -> Result<(), Failure> {
        let read = BulkAnswer::read(answer).ok_or_else(|| Failure::lasting(0, &"answers no bulk request"))?;
        if !read.again.is_empty() {
            // All of it again: what is there already is told apart by its id.
            return Err(Failure::passing(0, &format!("{} records were put off", read.again.len())));
        }
        self.refused += read.refused;
        self.reason = self.reason.take().or(read.reason);
        Ok(())
    }

    async fn connected(&mut self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        if let Some(mut connection) = self.connection.take()
            && connection.ready().await.is_ok()
        {
            return Ok(connection);
        }
        let connecting = async {
            let stream = TcpStream::connect(&self.authority).await.map_err(|error| error.to_string())?;
            let socket = Socket::of_tcp(&stream);
            let shaken = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string());
            shaken.map(|(sender, connection)| (socket, sender, connection))
        };
        let (socket, sender, connection) = timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| Failure::passing(0, &"does not answer"))?
            .map_err(|error| Failure::passing(0, &error))?;
        self.socket = socket;
        // Ends with the connection; its error is told by the request.
        tokio::spawn(connection);
        Ok(sender)
    }

    pub(super) fn socket(&self) -> Option<Socket> {
        self.socket
    }

    pub(super) fn losses(&self) -> Option<String> {
        let reason = self.reason.as_deref().unwrap_or_default();
        (self.refused > 0).then(|| {
            let safe = gnomon_flow::escape::terminal_safe(reason);
            format!("{} records were refused, the first with {safe}", self.refused)
        })
    }
}

/// What a server has not taken: for now (busy, failing), or for good.
fn judge_status(status: StatusCode, answer: &[u8]) -> Result<(), Failure> {
    if status.is_success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned();
    let why = format!("answers {status}: {}", gnomon_flow::escape::terminal_safe(text.trim()));
    let again = status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    Err(Failure { sent: 0, why, again })
}
