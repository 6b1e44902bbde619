//! Bodies under watch: a request's has to come whole in time and holds no memory that was not reserved; an answer's has to
//! be taken.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use bytes::Bytes;
use gnomon_proto::MESSAGE_BYTES_MAX;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::activity::UnderWay;
use super::identity::Peer;
use super::limits::{BODY, BODY_BYTES_A_SECOND, TAKE_BYTES_A_TICK, TAKE_TICKS};
use super::places::{Party, RequestPlace};
use super::refusal::{Reason, Refusals};
use super::unfinished::{Reservation, Unfinished};
use crate::api::REQUEST_BYTES_MAX;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How a body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// One message: all of it has a time limit.
    Whole,
    /// A stream of gRPC messages without end: each has.
    Messages,
}

/// A request's body.
pub(super) struct RequestBody {
    inner: Incoming,
    reading: Reading,
    peer: Peer,
    refusals: Refusals,
    unfinished: Unfinished,
    /// When what has begun has to be whole.
    deadline: Option<Pin<Box<Sleep>>>,
    reserving: Option<Pin<Box<dyn Future<Output = Reservation> + Send>>>,
    reserved: Option<(Reservation, Pin<Box<WaitForCancellationFutureOwned>>)>,
    /// Read, and waits for its reservation.
    waits: Option<Frame<Bytes>>,
    messages: Messages,
    refused: bool,
}

/// Where one message of a gRPC stream ends and the next begins: a byte of flags and four of length before each.
#[derive(Clone, Copy, Debug, Default)]
struct Messages {
    head: [u8; 5],
    head_bytes: usize,
    /// Of the message that has begun.
    left: usize,
}

/// What a piece of a stream leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Nothing of a message.
    Between,
    /// The same message goes on.
    GoesOn,
    /// Another has begun: its length, where that is known.
    Begun(Option<usize>),
}

impl Messages {
    fn read(&mut self, mut piece: &[u8]) -> After {
        let mut after = if self.left > 0 || self.head_bytes > 0 { After::GoesOn } else { After::Between };
        while !piece.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(piece.len());
                piece = &piece[taken..];
                self.left -= taken;
                if self.left == 0 {
                    after = After::Between;
                }
                continue;
            }
            let taken = piece.len().min(self.head.len() - self.head_bytes);
            self.head[self.head_bytes..self.head_bytes + taken].copy_from_slice(&piece[..taken]);
            self.head_bytes += taken;
            piece = &piece[taken..];
            if self.head_bytes < self.head.len() {
                after = After::Begun(None);
                continue;
            }
            let [_, length @ ..] = self.head;
            let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            (self.head_bytes, self.left) = (0, length);
            after = if length == 0 { After::Between } else { After::Begun(Some(length)) };
        }
        after
    }
}

/// What a request's body needs of its connection.
pub(super) struct Watch {
    pub(super) peer: Peer,
    pub(super) refusals: Refusals,
    pub(super) unfinished: Unfinished,
}

impl RequestBody {
    pub(super) fn new(inner: Incoming, headers: &HeaderMap, reading: Reading, watch: Watch) -> RequestBody {
        let Watch { peer, refusals, unfinished } = watch;
        let mut body = RequestBody {
            inner,
            reading,
            peer,
            refusals,
            unfinished,
            deadline: None,
            reserving: None,
            reserved: None,
            waits: None,
            messages: Messages::default(),
            refused: false,
        };
        if !body.inner.is_end_stream() {
            // Also the first message of a stream: who opens one has something to say.
            body.begin(0);
            if reading == Reading::Whole {
                let said = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
                body.reserve(said.unwrap_or(REQUEST_BYTES_MAX).min(REQUEST_BYTES_MAX));
            }
        }
        body
    }

    fn begin(&mut self, bytes: usize) {
        let more = std::time::Duration::from_secs((bytes / BODY_BYTES_A_SECOND) as u64);
        self.deadline = Some(Box::pin(tokio::time::sleep(BODY + more)));
    }

    fn reserve(&mut self, bytes: usize) {
        self.reserving = Some(Box::pin(self.unfinished.clone().reserve(Party::of(self.peer), bytes)));
    }

    fn end(&mut self) {
        (self.deadline, self.reserving, self.reserved) = (None, None, None);
    }

    /// False when it has to be reserved first.
    fn pass(&mut self, piece: &[u8]) -> bool {
        if self.reading == Reading::Whole {
            return true;
        }
        match self.messages.read(piece) {
            After::Between => self.end(),
            After::GoesOn => {}
            After::Begun(None) => {
                self.end();
                self.begin(0);
            }
            // What is longer is refused by who reads it.
            After::Begun(Some(length)) => {
                self.end();
                let length = length.min(MESSAGE_BYTES_MAX);
                self.begin(length);
                self.reserve(length);
                return false;
            }
        }
        true
    }

    fn refuse(&mut self, reason: Reason, status: Status) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.refused = true;
        self.end();
        self.refusals.refused(reason, self.peer, status.message());
        Poll::Ready(Some(Err(Box::new(status))))
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.refused {
            return Poll::Ready(None);
        }
        loop {
            if let Some(deadline) = &mut this.deadline
                && deadline.as_mut().poll(context).is_ready()
            {
                let text = "what was begun to be sent did not come whole in time";
                return this.refuse(Reason::SlowBody, Status::deadline_exceeded(text));
            }
            if let Some((_, evicted)) = &mut this.reserved
                && evicted.as_mut().poll(context).is_ready()
            {
                let text = "too much of this peer is unfinished: others need the memory; send it again";
                return this.refuse(Reason::Unfinished, Status::resource_exhausted(text));
            }
            if let Some(reserving) = &mut this.reserving {
                let reservation = ready!(reserving.as_mut().poll(context));
                this.reserving = None;
                let evicted = Box::pin(reservation.evicted().clone().cancelled_owned());
                this.reserved = Some((reservation, evicted));
                // Its waker has to be known.
                continue;
            }
            if let Some(frame) = this.waits.take() {
                return Poll::Ready(Some(Ok(frame)));
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => {
                    if frame.data_ref().is_some_and(|piece| !this.pass(piece)) {
                        this.waits = Some(frame);
                        continue;
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => {
                    this.end();
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.refused || self.waits.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer's body.
pub(super) struct AnswerBody {
    inner: Body,
    under_way: Option<UnderWay>,
    _place: Option<RequestPlace>,
}

impl AnswerBody {
    pub(super) fn new(inner: Body, under_way: UnderWay, place: Option<RequestPlace>) -> AnswerBody {
        under_way.ticks_left.store(TAKE_TICKS, Ordering::Relaxed);
        AnswerBody { inner, under_way: Some(under_way), _place: place }
    }

    /// On a connection that is being closed.
    pub(super) fn of_nobody(inner: Body) -> AnswerBody {
        AnswerBody { inner, under_way: None, _place: None }
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        let ticks = match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let more = frame.data_ref().map_or(0, |data| data.len() / TAKE_BYTES_A_TICK);
                TAKE_TICKS.saturating_add(u32::try_from(more).unwrap_or(u32::MAX))
            }
            // Nothing was handed out.
            _ => 0,
        };
        if let Some(under_way) = &self.under_way {
            under_way.ticks_left.store(ticks, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32) -> Vec<u8> {
        [&[0][..], &length.to_be_bytes(), &vec![7; length as usize]].concat()
    }

    #[test]
    fn messages_are_told_apart_wherever_they_are_cut() {
        let stream: Vec<u8> = [message(3), message(0), message(300), message(1)].concat();
        for cut in 1..stream.len() {
            let mut messages = Messages::default();
            let mut ends = 0;
            for piece in stream.chunks(cut) {
                ends += usize::from(messages.read(piece) == After::Between);
            }
            assert!(ends >= 1 && messages.left == 0 && messages.head_bytes == 0, "cut at {cut}");
        }
        let mut messages = Messages::default();
        assert_eq!(messages.read(&[0, 0]), After::Begun(None));
        assert_eq!(messages.read(&[0, 1, 0]), After::Begun(Some(256)));
        assert_eq!(messages.read(&[1; 100]), After::GoesOn);
        assert_eq!(messages.read(&[1; 156]), After::Between);
        assert_eq!(messages.read(&[0, 0xff, 0xff, 0xff, 0xff]), After::Begun(Some(u32::MAX as usize)));
    }
}
