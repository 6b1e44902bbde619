//! The HTTP door: every route of the table, JSON in and out.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use bytes::Bytes;
use gnomon_flow::FlowRef;
use gnomon_flow::escape::terminal_safe_json;
use gnomon_proto::v1;
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde::Serialize;
use serde_json::json;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};

use super::answers::{Failure, RETRY_AFTER_S};
use super::caller::caller;
use super::delivery::{self, Pieces};
use super::parameters::Parameters;
use super::routes::{Door, ROUTES, Route};
use super::{Api, REQUEST_BYTES_MAX, hunts, json, openapi, wire};
use crate::query::{
    Answer, Caller, Facets, FacetsAnswer, Following, Histogram, Hunt, Measure, Operation, PcapFormat,
    PcapPiece, PcapRequest, PcapSummary, Queries, QueryError, Search, TailItem, Top,
};

/// Silence after which followers by server-sent events get a comment, so that nothing between gives up.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) fn router(api: Api) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        router = router.route(route.path, method(route));
    }
    router
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            let message = format!("{} does not take {method}", uri.path());
            failure(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &message)
        })
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(api)
}

/// What nobody serves, for callers of both kinds.
async fn unknown(request: Request) -> Response {
    let grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        return tonic::Status::unimplemented("there is no such service here").into_http::<Body>();
    }
    let message = format!("there is no {}; /openapi.json lists what there is", request.uri().path());
    failure(StatusCode::NOT_FOUND, "not_found", &message)
}

fn method(route: &'static Route) -> MethodRouter<Api> {
    if route.door == Door::Flow {
        return get(flow);
    }
    let handler = move |State(api): State<Api>, request: Request| async move {
        let events = request
            .headers()
            .get(header::ACCEPT)
            .is_some_and(|accept| accept.to_str().is_ok_and(|accept| accept.contains("text/event-stream")));
        let (parts, body) = request.into_parts();
        let body = match axum::body::to_bytes(body, REQUEST_BYTES_MAX).await {
            Ok(body) => body,
            Err(_) => {
                let message = format!("the body is longer than {REQUEST_BYTES_MAX} bytes, or broke off");
                return failure(StatusCode::PAYLOAD_TOO_LARGE, "bad_request", &message);
            }
        };
        let caller = caller(&parts.extensions);
        answer(&api, caller, route, &parts.uri, &body, events).await.unwrap_or_else(|error| refusal(&error))
    };
    if route.post { get(handler).post(handler) } else { get(handler) }
}

async fn answer(
    api: &Api,
    caller: Caller,
    route: &'static Route,
    uri: &Uri,
    body: &Bytes,
    events: bool,
) -> Result<Response, QueryError> {
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|_| QueryError::Invalid {
        field: "query string",
        problem: "is not well-formed".to_owned(),
    })?;
    let parameters = Parameters::read(route, pairs.0, body)?;
    let now = api.store.now().utc;
    let queries = &api.queries.by(caller);
    let expression = || parameters.text("expression").to_owned();
    match route.door {
        Door::Search => {
            let search = Search {
                expression: expression(),
                range: parameters.range(now)?,
                oldest_first: parameters.flag("oldest_first")?,
                limit: parameters.number("limit")?,
                cursor: parameters.text("cursor").to_owned(),
            };
            let answer = queries.search_as(search, |page| pieces(&json::Page::of(&page)));
            sent(queries, answer.await?)
        }
        Door::Count => {
            let answer =
                queries.count(&expression(), parameters.range(now)?, &parameters.list("distinct")).await?;
            Ok(written(&gnomon_answers::count(&wire::count(answer))))
        }
        Door::Top => {
            let by = match parameters.text("by") {
                "" | "flows" => Measure::Flows,
                "packets" => Measure::Packets,
                "bytes" => Measure::Bytes,
                "distinct" => Measure::Distinct,
                _ => return Err(invalid("by", "is one of flows, packets, bytes, distinct")),
            };
            let top = Top {
                expression: expression(),
                range: parameters.range(now)?,
                fields: parameters.list("fields"),
                distinct: parameters.list("distinct"),
                by,
                limit: parameters.number("limit")?,
            };
            let answer = queries.top_as(top, |answer| pieces(&json::top(&answer)));
            sent(queries, answer.await?)
        }
        Door::Histogram => {
            let histogram = Histogram {
                expression: expression(),
                range: parameters.range(now)?,
                interval_ns: parameters.duration_ns("interval")?,
                group: parameters.text("group").to_owned(),
            };
            let answer = queries.histogram_as(histogram, |answer| pieces(&json::histogram(&answer)));
            sent(queries, answer.await?)
        }
        Door::Facets => {
            let refine = parameters.flag("refine")?;
            let facets = Facets {
                expression: expression(),
                range: parameters.range(now)?,
                fields: parameters.list("fields"),
                limit: parameters.number("limit")?,
                refine,
                exact: parameters.flag("exact")?,
            };
            let shape = |answer: FacetsAnswer| gnomon_answers::facets(&wire::facets(answer)).to_string();
            let Answer { value: mut answers, charge } = queries.facets_as(facets, shape).await?;
            if !refine {
                let text = answers.recv().await.ok_or(QueryError::Fault)??;
                return sent(queries, Answer { value: Ok(vec![text.into()]), charge });
            }
            let text = |answer: Result<String, QueryError>| {
                answer.unwrap_or_else(|error| {
                    let code = Failure::of(&error).code();
                    json!({"error": {"code": code, "message": error.to_string()}}).to_string()
                })
            };
            let response = lines(ReceiverStream::new(answers).map(text), events);
            Ok(response.map(|body| delivery::of_body(queries, body, charge)))
        }
        Door::Hunt => {
            let hunt = Hunt {
                name: parameters.text("name").to_owned(),
                expression: expression(),
                range: parameters.range(now)?,
                parameters: hunts::parameters(&parameters.list("parameters"))?,
                limit: parameters.number("limit")?,
            };
            Ok(written(&gnomon_answers::findings(&wire::findings(queries.hunt(hunt).await?))))
        }
        Door::Hunts => Ok(written(&gnomon_answers::hunts(&hunts::list()))),
        Door::Pcap => {
            let format = match parameters.text("format") {
                "" | "pcapng" => PcapFormat::Pcapng,
                "pcap" => PcapFormat::Pcap,
                _ => return Err(invalid("format", "is one of pcapng, pcap")),
            };
            let ids = parameters.list("ids").iter().map(|text| flow_id(text)).collect::<Result<_, _>>()?;
            let request = PcapRequest {
                expression: expression(),
                range: parameters.range(now)?,
                ids,
                format,
                packets_max: parameters.number("packets_max")?,
            };
            pcap(queries, request).await
        }
        Door::Tail => {
            let items = ReceiverStream::new(queries.tail(&expression(), Following::default()).await?);
            let text = |item: TailItem| serde_json::to_string(&json::Tail::of(&item)).unwrap_or_default();
            Ok(lines(items.map(text), events))
        }
        Door::Agents => Ok(written(&gnomon_answers::agents(&wire::agents(api.fleet.answer())))),
        Door::Fields => Ok(written(&gnomon_answers::fields(&v1::FieldsResponse::of_table()))),
        Door::Status => {
            let status = queries.look({
                let api = api.clone();
                move || api.status().map_err(QueryError::from)
            });
            Ok(written(&gnomon_answers::status(&status.await?)))
        }
        Door::Clock => {
            let clock = queries.question(Operation::Clock, {
                let api = api.clone();
                move || api.clock().map_err(QueryError::from)
            });
            Ok(written(&gnomon_answers::clock(&clock.await?)))
        }
        Door::OpenApi => Ok(written(&openapi(&api.version))),
        Door::Healthz => Ok(text(StatusCode::OK, "ok\n".to_owned())),
        Door::Readyz => Ok(match not_ready(api).await {
            None => text(StatusCode::OK, "ready\n".to_owned()),
            Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
        }),
        Door::Metrics => {
            let metrics = Arc::clone(&api.metrics);
            Ok(text(StatusCode::OK, queries.look(move || Ok(metrics())).await?))
        }
        // Has a path of its own to read; see `method`.
        Door::Flow => Err(QueryError::Fault),
    }
}

/// On a thread that may wait for the store; it waits for no question.
async fn not_ready(api: &Api) -> Option<String> {
    let not_ready = Arc::clone(&api.not_ready);
    tokio::task::spawn_blocking(move || not_ready()).await.unwrap_or(Some("asking panicked".to_owned()))
}

async fn flow(State(api): State<Api>, Path(id): Path<String>, extensions: Extensions) -> Response {
    let queries = api.queries.by(caller(&extensions));
    let found = async { queries.get(flow_id(&id)?).await };
    match found.await {
        Ok(flow) => written(&gnomon_flow::json::AsJson(&flow)),
        Err(error) => refusal(&error),
    }
}

async fn pcap(queries: &Queries, request: PcapRequest) -> Result<Response, QueryError> {
    let format = request.format;
    let download = queries.pcap(request).await?;
    let found = download.found;
    // The summary stands in the file itself and in trailers; an error breaks the transfer off, also one that says that it was
    // cut short.
    let pieces = download.pieces.map(|piece| {
        piece.map(|piece| match piece {
            PcapPiece::Data(data) => Frame::data(data),
            PcapPiece::End(summary) => Frame::trailers(trailers(&summary)),
        })
    });
    let mut response = Response::new(Body::new(StreamBody::new(pieces)));
    let headers = response.headers_mut();
    headers.insert(
        header::TRAILER,
        HeaderValue::from_static("gnomon-packets, gnomon-packets-missing, gnomon-partial"),
    );
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    let name = format!("attachment; filename=\"gnomon.{}\"", format.extension());
    let partial = found.partial.map(|partial| ("gnomon-partial", partial));
    let said = [
        ("content-disposition", name),
        ("gnomon-flows", found.flows.to_string()),
        ("gnomon-time-error-ns", found.time_err_ns_max.to_string()),
    ];
    for (name, value) in said.into_iter().chain(partial) {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    harden(&mut response);
    Ok(response)
}

/// What is known at the end of a file.
fn trailers(summary: &PcapSummary) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    let named = summary.missing.named().into_iter().filter(|(_, packets)| *packets > 0);
    let missing: Vec<String> = named.map(|(reason, packets)| format!("{reason}={packets}")).collect();
    let said = [
        ("gnomon-packets", Some(summary.packets.to_string())),
        ("gnomon-packets-missing", Some(missing.join(", "))),
        ("gnomon-partial", summary.partial.clone()),
    ];
    for (name, value) in said {
        if let Some(Ok(value)) = value.map(|value| HeaderValue::from_str(&value)) {
            trailers.insert(name, value);
        }
    }
    trailers
}

/// JSON objects as they come, one a line or an event.
fn lines(objects: impl Stream<Item = String> + Send + 'static, events: bool) -> Response {
    let line = move |text: String| {
        let text = terminal_safe_json(&text);
        let framed = if events { format!("data: {text}\n\n") } else { format!("{text}\n") };
        Ok::<_, Infallible>(Bytes::from(framed))
    };
    let lines = objects.map(line);
    let (body, kind) = if events {
        let mut quiet = tokio::time::interval(KEEP_ALIVE);
        // The first is due after a period, not at once.
        quiet.reset();
        let lines = lines.timeout_repeating(quiet);
        (
            Body::from_stream(lines.map(|line| line.unwrap_or(Ok(Bytes::from_static(b":\n\n"))))),
            "text/event-stream",
        )
    } else {
        (Body::from_stream(lines), "application/x-ndjson")
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    harden(&mut response);
    response
}

fn flow_id(text: &str) -> Result<FlowRef, QueryError> {
    text.parse().map_err(|error: gnomon_flow::id::IdError| invalid("id", error.to_string()))
}

fn invalid(field: &'static str, problem: impl Into<String>) -> QueryError {
    QueryError::Invalid { field, problem: problem.into() }
}

/// What an answer is written as, on the thread of the question; `Err` when it cannot be.
type Written = Result<Vec<Bytes>, QueryError>;

fn pieces(answer: &impl Serialize) -> (Written, usize) {
    let mut pieces = Pieces::default();
    if let Err(error) = serde_json::to_writer(&mut pieces, answer) {
        tracing::error!(%error, "an answer cannot be written as JSON");
        return (Err(QueryError::Fault), 0);
    }
    let pieces = pieces.finish();
    let bytes = pieces.iter().map(Bytes::len).sum();
    (Ok(pieces), bytes)
}

/// The response that delivers an answer, which holds its memory until then.
fn sent(queries: &Queries, answer: Answer<Written>) -> Result<Response, QueryError> {
    let body = delivery::of_pieces(queries, answer.value?, answer.charge);
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    harden(&mut response);
    Ok(response)
}

fn written(answer: &impl Serialize) -> Response {
    match serde_json::to_string(answer) {
        Ok(body) => {
            let body = match terminal_safe_json(&body) {
                Cow::Borrowed(_) => body,
                Cow::Owned(safe) => safe,
            };
            with_type(StatusCode::OK, "application/json", body.into_bytes())
        }
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            refusal(&QueryError::Fault)
        }
    }
}

fn text(status: StatusCode, text: String) -> Response {
    with_type(status, "text/plain; version=0.0.4; charset=utf-8", text.into_bytes())
}

fn with_type(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response {
    let mut response = (status, [(header::CONTENT_TYPE, kind)], body).into_response();
    harden(&mut response);
    response
}

/// What others wrote into packets is data for a program, never a page for a browser.
fn harden(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

fn refusal(error: &QueryError) -> Response {
    let kind = Failure::of(error);
    let status = match kind {
        Failure::BadExpression | Failure::BadRequest => StatusCode::BAD_REQUEST,
        Failure::NotFound => StatusCode::NOT_FOUND,
        Failure::Busy => StatusCode::TOO_MANY_REQUESTS,
        Failure::TooLarge => StatusCode::UNPROCESSABLE_ENTITY,
        Failure::Cancelled | Failure::Cut => StatusCode::SERVICE_UNAVAILABLE,
        Failure::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    if kind == Failure::Internal {
        tracing::warn!(%error, "a query failed");
    }
    let mut response = match error {
        QueryError::Expression(error) => {
            let body = json!({"error": {
                "code": kind.code(), "message": error.message, "hint": error.hint,
                "column": error.column, "length": error.length,
            }});
            with_type(status, "application/json", body.to_string().into_bytes())
        }
        error => failure(status, kind.code(), &error.to_string()),
    };
    if kind == Failure::Busy {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_S.into());
    }
    response
}

pub(crate) fn failure(status: StatusCode, code: &str, message: &str) -> Response {
    let body = json!({"error": {"code": code, "message": message}});
    with_type(status, "application/json", body.to_string().into_bytes())
}
