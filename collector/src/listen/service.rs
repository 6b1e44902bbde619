//! What every request goes through, whatever door it came by: whose name it calls, who may do what, places for requests,
//! watched bodies.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tonic::Status;
use tower::Service;

use super::access::{Access, Need};
use super::activity::Activity;
use super::body::{AnswerBody, Reading, RequestBody, Watch};
use super::host::{self, Door, Refused, is_grpc};
use super::identity::{Connection, Identity};
use super::refusal::{Reason, Refusals};
use super::server::Settings;
use super::unfinished::Unfinished;
use crate::api;

/// What a connection's requests are judged by.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) door: Door,
    pub(super) access: Access,
    pub(super) settings: Arc<Settings>,
}

/// The service of one connection.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) router: Router,
    /// Or why the certificate that was shown is not taken.
    pub(super) identity: Result<Identity, String>,
    pub(super) connection: Connection,
    pub(super) rules: Arc<Rules>,
    pub(super) activity: Arc<Activity>,
    pub(super) refusals: Refusals,
    pub(super) unfinished: Unfinished,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<AnswerBody>, Infallible>> + Send>>;

impl Service<Request<Incoming>> for Desk {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Answering {
        let desk = self.clone();
        Box::pin(async move { Ok(desk.answer(request).await) })
    }
}

impl Desk {
    async fn answer(self, request: Request<Incoming>) -> Response<AnswerBody> {
        // Being closed for others: whoever asked asks again.
        let Some(under_way) = self.activity.begin() else {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return response.map(AnswerBody::of_nobody);
        };
        let (mut parts, body) = request.into_parts();
        let need = Need::of(parts.uri.path());
        let judged = host::check(&parts, &self.rules.door, &self.rules.settings.names)
            .and_then(|()| self.allowed(need))
            .and_then(|()| self.request_place(need));
        let place = match judged {
            Ok(place) => place,
            Err(refused) => {
                self.refusals.refused(refused.reason, self.connection.peer, &refused.text);
                let response = refusal(&refused, is_grpc(&parts.headers));
                return response.map(|body| AnswerBody::new(body, under_way, None));
            }
        };
        parts.extensions.insert(self.connection.clone());
        let path = parts.uri.path();
        let reading = if need == Need::Ingest || path.starts_with("/grpc.reflection.") {
            Reading::Messages
        } else {
            Reading::Whole
        };
        let watch = Watch {
            peer: self.connection.peer,
            refusals: self.refusals.clone(),
            unfinished: self.unfinished.clone(),
        };
        let body = RequestBody::new(body, &parts.headers, reading, watch);
        let mut router = self.router;
        match router.call(Request::from_parts(parts, body)).await {
            Ok(response) => response.map(|body| AnswerBody::new(body, under_way, place)),
            Err(never) => match never {},
        }
    }

    fn allowed(&self, need: Need) -> Result<(), Refused> {
        let refused = |reason, text: String| {
            let status = match reason {
                Reason::NoCertificate | Reason::Certificate => StatusCode::UNAUTHORIZED,
                _ => StatusCode::FORBIDDEN,
            };
            Err(Refused { reason, status, text })
        };
        match &self.identity {
            Err(text) if need != Need::Nothing => refused(Reason::Certificate, text.clone()),
            Err(_) => Ok(()),
            Ok(identity) => {
                self.rules.access.check(identity, need).or_else(|(reason, text)| refused(reason, text))
            }
        }
    }

    /// Agents' streams have a place in the fleet instead.
    fn request_place(&self, need: Need) -> Result<Option<super::places::RequestPlace>, Refused> {
        match need {
            Need::Ingest | Need::Nothing => Ok(None),
            Need::Query | Need::Administer => match self.activity.place().request() {
                Some(place) => Ok(Some(place)),
                None => Err(Refused {
                    reason: Reason::Busy,
                    status: StatusCode::TOO_MANY_REQUESTS,
                    text: "too many requests of this peer are under way".to_owned(),
                }),
            },
        }
    }
}

fn refusal(refused: &Refused, grpc: bool) -> Response<Body> {
    if grpc && refused.status != StatusCode::BAD_REQUEST {
        let text = refused.text.clone();
        return match refused.status {
            StatusCode::UNAUTHORIZED => Status::unauthenticated(text),
            StatusCode::TOO_MANY_REQUESTS => Status::resource_exhausted(text),
            _ => Status::permission_denied(text),
        }
        .into_http();
    }
    let code = refused.reason.name();
    let mut response = api::failure(refused.status, code, &refused.text);
    if refused.status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if refused.status == StatusCode::BAD_REQUEST {
        // What follows on the connection cannot be trusted to begin where it seems to.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
