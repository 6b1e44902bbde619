//! Answers on their way to a caller who may not read them.
//!
//! The server asks for the next piece when the caller has room for it. Until the last was asked for, the answer's memory is
//! charged to the caller. Nobody asks on behalf of a caller that stands still, so that a watch beside it looks every second:
//! an answer of which nothing was taken for [`QueryLimits::stalled_ms`](crate::query::QueryLimits) is given up, and after
//! [`YIELD_TICKS`] already where others wait for the memory. The caller sees the transfer break off.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tracing::Span;

use crate::query::{Charge, Queries, Refusal};

/// Bytes handed over at once, and so what a connection holds of an answer beside its own buffers.
const PIECE_BYTES: usize = 64 << 10;
/// Fast, and a tenth of the size.
const ZSTD_LEVEL: i32 = 1;
/// Between two looks at an answer.
const TICK: Duration = Duration::from_secs(1);
/// Looks without progress after which an answer gives way to questions that wait for memory.
const YIELD_TICKS: u32 = 2;

/// Collects what is written in pieces.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    whole: Vec<Bytes>,
    open: Vec<u8>,
}

impl Pieces {
    pub(super) fn finish(mut self) -> Vec<Bytes> {
        self.close();
        self.whole
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.whole.push(std::mem::take(&mut self.open).into());
        }
    }
}

impl io::Write for Pieces {
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<usize> {
        let written = bytes.len();
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.open.len()));
            self.open.extend_from_slice(now);
            bytes = later;
            if self.open.len() == PIECE_BYTES {
                self.close();
            }
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A body that holds its answer's memory until the last of it was asked for.
#[derive(Debug)]
struct Delivery {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something was asked for since the last look.
    moved: AtomicBool,
    /// More is being made: the caller waits, and not the other way round.
    awaited: AtomicBool,
}

#[derive(Debug)]
struct State {
    source: Source,
    /// Of a frame that is longer than a piece.
    rest: Bytes,
    _charge: Charge,
    /// From when it was ready to when all of it was asked for.
    _span: Span,
}

#[derive(Debug)]
enum Source {
    Pieces(VecDeque<Bytes>),
    /// Of gRPC, with the trailers that say that it is whole.
    Message(VecDeque<Bytes>),
    Body(Body),
    Ended,
    /// Given up.
    Cut,
}

/// All of `pieces`, as the body of a response.
pub(super) fn of_pieces(queries: &Queries, pieces: Vec<Bytes>, charge: Charge) -> Body {
    deliver(queries, Source::Pieces(pieces.into()), charge)
}

/// One whole message of gRPC that is written already ([`message`]), and its end.
pub(super) fn of_message(queries: &Queries, pieces: Vec<Bytes>, charge: Charge) -> Body {
    deliver(queries, Source::Message(pieces.into()), charge)
}

/// A message of gRPC in pieces, with its head (one byte whether it is compressed, four of length).
pub(super) fn message(encoded: Vec<u8>, compress: bool) -> Vec<Bytes> {
    let compressed = compress.then(|| zstd::bulk::compress(&encoded, ZSTD_LEVEL).ok()).flatten();
    let flag = u8::from(compressed.is_some());
    let mut rest = Bytes::from(compressed.unwrap_or(encoded));
    // Messages are bounded far below this.
    let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
    let mut pieces = vec![Bytes::from_iter([flag].into_iter().chain(len.to_be_bytes()))];
    while !rest.is_empty() {
        pieces.push(rest.split_to(rest.len().min(PIECE_BYTES)));
    }
    pieces
}

/// `body`, with the memory of the answer behind it.
pub(super) fn of_body(queries: &Queries, body: Body, charge: Charge) -> Body {
    deliver(queries, Source::Body(body), charge)
}

fn deliver(queries: &Queries, source: Source, charge: Charge) -> Body {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            source,
            rest: Bytes::new(),
            _charge: charge,
            _span: tracing::info_span!(parent: queries.span(), "send"),
        }),
        moved: AtomicBool::new(false),
        awaited: AtomicBool::new(false),
    });
    tokio::spawn(watch(Arc::downgrade(&shared), queries.clone()));
    Body::new(Delivery { shared })
}

/// Gives the answer up when its caller stands still; ends with it.
async fn watch(answer: Weak<Shared>, queries: Queries) {
    let stalled = Duration::from_millis(queries.limits().stalled_ms);
    let tick = TICK.min(stalled);
    let ticks_max = stalled.div_duration_f64(tick) as u32;
    let mut still = 0;
    loop {
        tokio::time::sleep(tick).await;
        let Some(answer) = answer.upgrade() else { return };
        if answer.moved.swap(false, Ordering::Relaxed) || answer.awaited.load(Ordering::Relaxed) {
            still = 0;
            continue;
        }
        still += 1;
        let patience = if queries.memory().is_wanted() { YIELD_TICKS.min(ticks_max) } else { ticks_max };
        if still >= patience {
            answer.cut();
            queries.counters().refused(Refusal::Stalled);
            return;
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the answer go, with its memory.
    fn cut(&self) {
        let gone = std::mem::replace(&mut *self.state(), State::without(Source::Cut));
        drop(gone);
    }
}

impl State {
    fn end(&mut self) {
        *self = State::without(Source::Ended);
    }

    /// With nothing that is held.
    fn without(source: Source) -> State {
        State { source, rest: Bytes::new(), _charge: Charge::default(), _span: Span::none() }
    }

    fn piece(&mut self, mut data: Bytes) -> Frame<Bytes> {
        self.rest = data.split_off(data.len().min(PIECE_BYTES));
        Frame::data(data)
    }
}

impl HttpBody for Delivery {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.shared.moved.store(true, Ordering::Relaxed);
        let mut state = self.shared.state();
        if !state.rest.is_empty() {
            let rest = std::mem::take(&mut state.rest);
            return Poll::Ready(Some(Ok(state.piece(rest))));
        }
        let frame = match &mut state.source {
            Source::Pieces(pieces) => pieces.pop_front().map(|piece| Ok(Frame::data(piece))),
            Source::Message(pieces) => match pieces.pop_front() {
                Some(piece) => Some(Ok(Frame::data(piece))),
                None => {
                    state.end();
                    let status = (HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
                    Some(Ok(Frame::trailers(HeaderMap::from_iter([status]))))
                }
            },
            Source::Body(body) => {
                self.shared.awaited.store(true, Ordering::Relaxed);
                let frame = ready!(Pin::new(body).poll_frame(context));
                self.shared.awaited.store(false, Ordering::Relaxed);
                frame
            }
            Source::Ended => None,
            Source::Cut => {
                let why = "the answer was given up, because nothing of it was read";
                return Poll::Ready(Some(Err(axum::Error::new(io::Error::new(
                    io::ErrorKind::TimedOut,
                    why,
                )))));
            }
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Some(Ok(state.piece(data))),
                Err(frame) => Some(Ok(frame)),
            },
            Some(Err(error)) => Some(Err(error)),
            None => {
                state.end();
                None
            }
        })
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.shared.state();
        let rest = state.rest.len() as u64;
        match &state.source {
            Source::Pieces(pieces) => {
                SizeHint::with_exact(rest + pieces.iter().map(|piece| piece.len() as u64).sum::<u64>())
            }
            Source::Ended => SizeHint::with_exact(0),
            Source::Message(_) | Source::Body(_) | Source::Cut => SizeHint::default(),
        }
    }
}
