//! The gRPC door: wire messages ↔ questions.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};

use axum::body::Body;
use axum::http;
use axum::middleware::map_response;
use bytes::Bytes;
use gnomon_clock::UtcNs;
use gnomon_flow::{FlowRef, TransportStream};
use gnomon_proto::v1::query_server::{Query, QueryServer};
use gnomon_proto::{Message, v1};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::codec::CompressionEncoding::Zstd;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Code, Request, Response, Status};
use tonic_health::ServingStatus;

use super::answers::{Failure, RETRY_AFTER_S};
use super::caller::caller;
use super::{Api, REQUEST_BYTES_MAX, delivery, hunts, wire};
use crate::own_streams::parse_announcement;
use crate::query::{
    Answer, Charge, Facets, Following, Histogram, HistogramAnswer, Hunt, Measure, Operation, PcapFormat,
    PcapPiece, PcapRequest, PcapSummary, Queries, QueryError, Search, SearchPage, Sums, TailItem, TimeRange,
    Top, TopAnswer, TopRow,
};

/// `routes` with the services for people and programs: queries, health, reflection.
pub fn add_services(routes: Routes, api: &Api) -> Routes {
    let query = QueryServer::new(Door { api: api.clone() })
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(gnomon_proto::MESSAGE_BYTES_MAX)
        .accept_compressed(Zstd)
        .send_compressed(Zstd);
    let own_streams = api.own_streams.clone();
    let query = InterceptedService::new(query, move |request: Request<()>| {
        own_streams.announce(announced(request.metadata()));
        Ok(request)
    });
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(gnomon_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes =
        routes.add_service(query).add_service(super::admin::service(&api.store)).add_service(health());
    // Many tools still ask by the older name.
    let routes = match (reflection().build_v1(), reflection().build_v1alpha()) {
        (Ok(reflection), Ok(older)) => routes.add_service(reflection).add_service(older),
        // The build writes the descriptors, and a test asks for them.
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "gRPC reflection is not served: the descriptors cannot be read");
            routes
        }
    };
    let delivered = map_response(move |mut response: http::Response<Body>| {
        let held = response.extensions_mut().remove::<Held>();
        if let Some(Delivered { queries, charge, message }) = held.and_then(Held::take) {
            response = response.map(|body| match message {
                Some(message) => delivery::of_message(&queries, message, charge),
                None => delivery::of_body(&queries, body, charge),
            });
        }
        std::future::ready(response)
    });
    routes.into_axum_router().layer(delivered).into()
}

/// What an answer is charged, on its way to the body that it becomes; and the message itself where it was written already.
#[derive(Clone)]
struct Held(Arc<Mutex<Option<Delivered>>>);

struct Delivered {
    /// Of the question.
    queries: Queries,
    charge: Charge,
    message: Option<Vec<Bytes>>,
}

impl Held {
    fn of(queries: &Queries, charge: Charge, message: Option<Vec<Bytes>>) -> Held {
        Held(Arc::new(Mutex::new(Some(Delivered { queries: queries.clone(), charge, message }))))
    }

    fn take(self) -> Option<Delivered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn held<T>(queries: &Queries, Answer { value, charge }: Answer<T>) -> Response<T> {
    let mut response = Response::new(value);
    response.extensions_mut().insert(Held::of(queries, charge, None));
    response
}

/// A large message is written on the thread of its question: megabytes would hold up what else runs on the server's threads.
/// What stands in its place on the way through the server is empty.
fn written<T: Default>(queries: &Queries, Answer { value, charge }: Answer<Vec<Bytes>>) -> Response<T> {
    let mut response = Response::new(T::default());
    response.extensions_mut().insert(Held::of(queries, charge, Some(value)));
    response
}

/// How a message is written for the caller of `request`.
fn writing<T, M: Message>(request: &Request<T>) -> impl Fn(M) -> (Vec<Bytes>, usize) + Send + 'static {
    let accepted = request.metadata().get("grpc-accept-encoding").and_then(|value| value.to_str().ok());
    let zstd = accepted.is_some_and(|list| list.split(',').any(|encoding| encoding.trim() == "zstd"));
    move |message: M| {
        let pieces = delivery::message(message.encode_to_vec(), zstd);
        let bytes = pieces.iter().map(Bytes::len).sum();
        (pieces, bytes)
    }
}

/// The streams that whoever asks has open, as it says: of an export, where it goes to.
fn announced(metadata: &MetadataMap) -> impl Iterator<Item = TransportStream> + '_ {
    let values = metadata.get_all(gnomon_proto::OWN_STREAM_METADATA).iter();
    values.filter_map(|value| parse_announcement(value.to_str().ok()?))
}

/// Serving as long as the process does: readiness for entries is `/readyz`.
fn health() -> tonic_health::pb::health_server::HealthServer<tonic_health::server::HealthService> {
    let reporter = tonic_health::server::HealthReporter::new();
    for name in ["gnomon.v1.Ingest", "gnomon.v1.Query", "gnomon.v1.Admin"] {
        let mut set = pin!(reporter.set_service_status(name, ServingStatus::Serving));
        // Nobody else has the reporter: it does not wait.
        let done = set.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        debug_assert!(done.is_ready());
    }
    let service = tonic_health::server::HealthService::from_health_reporter(reporter);
    tonic_health::pb::health_server::HealthServer::new(service)
}

struct Door {
    api: Api,
}

impl Door {
    /// Where a request's questions go: they count for its caller.
    fn queries<T>(&self, request: &Request<T>) -> Queries {
        self.api.queries.by(caller(request.extensions()))
    }
}

/// A Status with the place of an expression's fault as metadata: `gnomon-column`, `gnomon-length`, `gnomon-hint`.
fn status(error: &QueryError) -> Status {
    let failure = Failure::of(error);
    let code = match failure {
        Failure::BadExpression | Failure::BadRequest => Code::InvalidArgument,
        Failure::NotFound => Code::NotFound,
        Failure::Busy | Failure::TooLarge => Code::ResourceExhausted,
        Failure::Cancelled => Code::Cancelled,
        Failure::Cut => Code::Aborted,
        Failure::Internal => Code::Internal,
    };
    if failure == Failure::Internal {
        tracing::warn!(%error, "a query failed");
    }
    let mut metadata = MetadataMap::new();
    if let QueryError::Expression(error) = error {
        for (key, number) in [("gnomon-column", error.column), ("gnomon-length", error.length)] {
            metadata.insert(key, number.into());
        }
    }
    if failure == Failure::Busy {
        metadata.insert("retry-after", RETRY_AFTER_S.into());
    }
    // A message travels in a header: what was quoted from an expression may be too long for it.
    let message = error.to_string();
    let cut = message.floor_char_boundary(2048);
    Status::with_metadata(code, &message[..cut], metadata)
}

fn range(wire: Option<v1::TimeRange>) -> TimeRange {
    let wire = wire.unwrap_or_default();
    TimeRange {
        since: wire.since_unix_ns.map(UtcNs::from_unix_ns),
        until: wire.until_unix_ns.map(UtcNs::from_unix_ns),
        by_ingest: wire.by_ingest_time,
    }
}

fn id(text: &str) -> Result<FlowRef, Status> {
    text.trim().parse().map_err(|error: gnomon_flow::id::IdError| Status::invalid_argument(error.to_string()))
}

fn summary(summary: PcapSummary) -> v1::PcapSummary {
    v1::PcapSummary {
        packets: summary.packets,
        flows: summary.flows,
        time_err_ns_max: summary.time_err_ns_max,
        partial: wire::partial(summary.partial),
        packets_kept: summary.packets_kept,
        missing: summary
            .missing
            .named()
            .into_iter()
            .filter(|(_, packets)| *packets > 0)
            .map(|(reason, packets)| v1::PacketsMissing { reason: reason.to_owned(), packets })
            .collect(),
    }
}

fn top_row(row: TopRow) -> v1::TopRow {
    let TopRow { values, sums, distinct: different } = row;
    let Sums { flows, packets, bytes } = sums;
    v1::TopRow { values, flows, packets, bytes, distinct: wire::distinct(&different) }
}

type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Query for Door {
    type FacetsStream = Streaming<v1::FacetsResponse>;
    type PcapStream = Streaming<v1::PcapChunk>;
    type TailStream = Streaming<v1::TailResponse>;

    async fn search(
        &self,
        request: Request<v1::SearchRequest>,
    ) -> Result<Response<v1::SearchResponse>, Status> {
        let (queries, write) = (self.queries(&request), writing(&request));
        let wire = request.into_inner();
        let search = Search {
            expression: wire.expression,
            range: range(wire.range),
            oldest_first: wire.oldest_first,
            limit: wire.limit,
            cursor: wire.cursor,
        };
        let shape = move |page: SearchPage| {
            write(v1::SearchResponse {
                // Each goes when it was made into a message.
                flows: page.flows.into_iter().map(|flow| (&flow).into()).collect(),
                next_cursor: page.next_cursor,
                waiting: wire::waiting(page.waiting),
                partial: wire::partial(page.partial),
            })
        };
        queries
            .search_as(search, shape)
            .await
            .map(|answer| written(&queries, answer))
            .map_err(|error| status(&error))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::StoredFlow>, Status> {
        let queries = self.queries(&request);
        let id = id(&request.into_inner().id)?;
        let flow = queries.get(id).await.map_err(|error| status(&error))?;
        Ok(Response::new((&flow).into()))
    }

    async fn count(&self, request: Request<v1::CountRequest>) -> Result<Response<v1::CountResponse>, Status> {
        let queries = self.queries(&request);
        let wire = request.into_inner();
        let answer = queries.count(&wire.expression, range(wire.range), &wire.distinct).await;
        let answer = answer.map_err(|error| status(&error))?;
        Ok(Response::new(wire::count(answer)))
    }

    async fn top(&self, request: Request<v1::TopRequest>) -> Result<Response<v1::TopResponse>, Status> {
        let (queries, write) = (self.queries(&request), writing(&request));
        let wire = request.into_inner();
        let by = match v1::Measure::try_from(wire.by) {
            Ok(v1::Measure::Unspecified | v1::Measure::Flows) => Measure::Flows,
            Ok(v1::Measure::Packets) => Measure::Packets,
            Ok(v1::Measure::Bytes) => Measure::Bytes,
            Ok(v1::Measure::Distinct) => Measure::Distinct,
            Err(_) => return Err(Status::invalid_argument(format!("by: {} is no measure", wire.by))),
        };
        let (expression, range) = (wire.expression, range(wire.range));
        let (fields, distinct) = (wire.fields, wire.distinct);
        let top = Top { expression, range, fields, distinct, by, limit: wire.limit };
        let shape = move |answer: TopAnswer| {
            write(v1::TopResponse {
                rows: answer.rows.into_iter().map(top_row).collect(),
                others_flows: answer.others_flows,
                waiting: wire::waiting(answer.waiting),
                partial: wire::partial(answer.partial),
            })
        };
        queries
            .top_as(top, shape)
            .await
            .map(|answer| written(&queries, answer))
            .map_err(|error| status(&error))
    }

    async fn histogram(
        &self,
        request: Request<v1::HistogramRequest>,
    ) -> Result<Response<v1::HistogramResponse>, Status> {
        let (queries, write) = (self.queries(&request), writing(&request));
        let wire = request.into_inner();
        let histogram = Histogram {
            expression: wire.expression,
            range: range(wire.range),
            interval_ns: wire.interval_ns,
            group: wire.group,
        };
        let shape = move |answer: HistogramAnswer| {
            let buckets = answer.buckets.into_iter().map(|bucket| v1::HistogramBucket {
                start_unix_ns: bucket.start.unix_ns(),
                group: bucket.group,
                flows: bucket.sums.flows,
                packets: bucket.sums.packets,
                bytes: bucket.sums.bytes,
            });
            write(v1::HistogramResponse {
                interval_ns: answer.interval_ns,
                buckets: buckets.collect(),
                waiting: wire::waiting(answer.waiting),
                partial: wire::partial(answer.partial),
            })
        };
        queries
            .histogram_as(histogram, shape)
            .await
            .map(|answer| written(&queries, answer))
            .map_err(|error| status(&error))
    }

    async fn facets(
        &self,
        request: Request<v1::FacetsRequest>,
    ) -> Result<Response<Self::FacetsStream>, Status> {
        let queries = self.queries(&request);
        let wire = request.into_inner();
        let facets = Facets {
            expression: wire.expression,
            range: range(wire.range),
            fields: wire.fields,
            limit: wire.limit,
            refine: wire.refine,
            exact: wire.exact,
        };
        let Answer { value, charge } =
            queries.facets_as(facets, wire::facets).await.map_err(|error| status(&error))?;
        let answers = ReceiverStream::new(value).map(|answer| answer.map_err(|error| status(&error)));
        Ok(held(&queries, Answer { value: Box::pin(answers) as Self::FacetsStream, charge }))
    }

    async fn hunt(&self, request: Request<v1::HuntRequest>) -> Result<Response<v1::HuntResponse>, Status> {
        let queries = self.queries(&request);
        let wire = request.into_inner();
        let hunt = Hunt {
            name: wire.name,
            expression: wire.expression,
            range: range(wire.range),
            parameters: wire.parameters.into_iter().collect(),
            limit: wire.limit,
        };
        let answer = queries.hunt(hunt).await.map_err(|error| status(&error))?;
        Ok(Response::new(wire::findings(answer)))
    }

    async fn hunts(&self, _: Request<v1::HuntsRequest>) -> Result<Response<v1::HuntsResponse>, Status> {
        Ok(Response::new(hunts::list()))
    }

    async fn pcap(&self, request: Request<v1::PcapRequest>) -> Result<Response<Self::PcapStream>, Status> {
        let queries = self.queries(&request);
        let wire = request.into_inner();
        let format = match v1::PcapFormat::try_from(wire.format) {
            Ok(v1::PcapFormat::Unspecified | v1::PcapFormat::Pcapng) => PcapFormat::Pcapng,
            Ok(v1::PcapFormat::Pcap) => PcapFormat::Pcap,
            Err(_) => return Err(Status::invalid_argument(format!("format: {} is unknown", wire.format))),
        };
        let request = PcapRequest {
            expression: wire.expression,
            range: range(wire.range),
            ids: wire.ids.iter().map(|text| id(text)).collect::<Result<_, _>>()?,
            format,
            packets_max: wire.packets_max,
        };
        let download = queries.pcap(request).await.map_err(|error| status(&error))?;
        let chunks = download.pieces.map(|piece| match piece {
            Ok(PcapPiece::Data(data)) => Ok(v1::PcapChunk { data, summary: None }),
            Ok(PcapPiece::End(end)) => Ok(v1::PcapChunk { data: Bytes::new(), summary: Some(summary(end)) }),
            Err(error) => Err(status(&error)),
        });
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn tail(&self, request: Request<v1::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let queries = self.queries(&request);
        let wire = request.into_inner();
        let following = Following { whole: wire.whole, behind: wire.behind };
        // Told at once, so that who is cut off before the first flow goes on from here too.
        let newest = self.api.store.newest_block();
        let behind = following.behind.unwrap_or(newest).min(newest);
        let begun = following.whole.then(|| Ok(v1::TailResponse { behind, ..Default::default() }));
        let items = queries.tail(&wire.expression, following).await;
        let items = items.map_err(|error| status(&error))?;
        let flows = ReceiverStream::new(items).map(|TailItem { flow, missed, behind }| {
            Ok(v1::TailResponse { flow: Some((&*flow).into()), missed, behind })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(begun).chain(flows))))
    }

    async fn agents(&self, _: Request<v1::AgentsRequest>) -> Result<Response<v1::AgentsResponse>, Status> {
        Ok(Response::new(wire::agents(self.api.fleet.answer())))
    }

    async fn fields(&self, _: Request<v1::FieldsRequest>) -> Result<Response<v1::FieldsResponse>, Status> {
        Ok(Response::new(v1::FieldsResponse::of_table()))
    }

    async fn clock(&self, request: Request<v1::ClockRequest>) -> Result<Response<v1::ClockResponse>, Status> {
        let queries = self.queries(&request);
        let answer = queries.question(Operation::Clock, {
            let api = self.api.clone();
            move || api.clock().map_err(QueryError::from)
        });
        answer.await.map(Response::new).map_err(|error| status(&error))
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let queries = self.queries(&request);
        let answer = queries.look({
            let api = self.api.clone();
            move || api.status().map_err(QueryError::from)
        });
        answer.await.map(Response::new).map_err(|error| status(&error))
    }
}
