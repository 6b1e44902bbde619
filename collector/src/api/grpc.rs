//! The gRPC door: wire messages ↔ questions.

use std::pin::Pin;

use gnomon_clock::UtcNs;
use gnomon_flow::FlowRef;
use gnomon_proto::v1;
use gnomon_proto::v1::query_server::{Query, QueryServer};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::codec::CompressionEncoding::Zstd;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};

use super::answers::Failure;
use super::{Api, REQUEST_BYTES_MAX, hunts};
use crate::query::{
    Different, FacetField, FacetValue, Facets, FacetsAnswer, Following, Histogram, Hunt, Measure, PcapFormat,
    PcapPiece, PcapRequest, PcapSummary, QueryError, Search, Sums, TailItem, TimeRange, Top, TopRow,
};

/// `routes` with the services for people and programs: queries, health, reflection.
pub fn add_services(routes: Routes, api: &Api) -> Routes {
    let query = QueryServer::new(Door { api: api.clone() })
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(gnomon_proto::MESSAGE_BYTES_MAX)
        .accept_compressed(Zstd)
        .send_compressed(Zstd);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(gnomon_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let routes = routes.add_service(query).add_service(health());
    match reflection.build_v1() {
        Ok(reflection) => routes.add_service(reflection),
        // The build writes the descriptors, and a test asks for them.
        Err(error) => {
            tracing::error!(%error, "gRPC reflection is not served: the descriptors cannot be read");
            routes
        }
    }
}

/// Serving as long as the process does: readiness for entries is `/readyz`.
fn health() -> tonic_health::pb::health_server::HealthServer<tonic_health::server::HealthService> {
    let service = tonic_health::server::HealthService::from_health_reporter(
        tonic_health::server::HealthReporter::new(),
    );
    tonic_health::pb::health_server::HealthServer::new(service)
}

struct Door {
    api: Api,
}

/// A Status with the place of an expression's fault as metadata: `gnomon-column`, `gnomon-length`, `gnomon-hint`.
fn status(error: &QueryError) -> Status {
    let failure = Failure::of(error);
    let code = match failure {
        Failure::BadExpression | Failure::BadRequest => Code::InvalidArgument,
        Failure::NotFound => Code::NotFound,
        Failure::Busy => Code::ResourceExhausted,
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

fn partial(reason: Option<String>) -> Option<v1::Partial> {
    reason.map(|reason| v1::Partial { reason })
}

fn id(text: &str) -> Result<FlowRef, Status> {
    text.trim().parse().map_err(|error: gnomon_flow::id::IdError| Status::invalid_argument(error.to_string()))
}

fn summary(summary: PcapSummary) -> v1::PcapSummary {
    v1::PcapSummary {
        packets: summary.packets,
        flows: summary.flows,
        time_err_ns_max: summary.time_err_ns_max,
        partial: partial(summary.partial),
    }
}

fn distinct(list: &[Different]) -> Vec<v1::Distinct> {
    list.iter().map(|different| v1::Distinct { count: different.count, error: different.error }).collect()
}

fn top_row(row: TopRow) -> v1::TopRow {
    let TopRow { values, sums, distinct: different } = row;
    let Sums { flows, packets, bytes } = sums;
    v1::TopRow { values, flows, packets, bytes, distinct: distinct(&different) }
}

fn facets_answer(answer: FacetsAnswer) -> v1::FacetsResponse {
    let value = |value: FacetValue| v1::FacetValue { value: value.value, flows: value.flows };
    let field = |field: FacetField| v1::Facet {
        field: field.name.to_owned(),
        flows: field.flows,
        values: field.values.into_iter().map(value).collect(),
        different: field.different,
        missed_max: field.missed_max,
    };
    v1::FacetsResponse {
        fields: answer.fields.into_iter().map(field).collect(),
        flows: answer.flows,
        records_read: answer.records_read,
        records: answer.records,
        last: answer.last,
        partial: partial(answer.partial),
    }
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
        let wire = request.into_inner();
        let search = Search {
            expression: wire.expression,
            range: range(wire.range),
            oldest_first: wire.oldest_first,
            limit: wire.limit,
            cursor: wire.cursor,
        };
        let page = self.api.queries.search(search).await.map_err(|error| status(&error))?;
        Ok(Response::new(v1::SearchResponse {
            flows: page.flows.iter().map(Into::into).collect(),
            next_cursor: page.next_cursor,
            partial: partial(page.partial),
        }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::StoredFlow>, Status> {
        let id = id(&request.into_inner().id)?;
        let flow = self.api.queries.get(id).await.map_err(|error| status(&error))?;
        Ok(Response::new((&flow).into()))
    }

    async fn count(&self, request: Request<v1::CountRequest>) -> Result<Response<v1::CountResponse>, Status> {
        let wire = request.into_inner();
        let answer = self.api.queries.count(&wire.expression, range(wire.range), &wire.distinct).await;
        let answer = answer.map_err(|error| status(&error))?;
        Ok(Response::new(v1::CountResponse {
            flows: answer.sums.flows,
            packets: answer.sums.packets,
            bytes: answer.sums.bytes,
            partial: partial(answer.partial),
            distinct: distinct(&answer.distinct),
        }))
    }

    async fn top(&self, request: Request<v1::TopRequest>) -> Result<Response<v1::TopResponse>, Status> {
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
        let answer = self.api.queries.top(top).await.map_err(|error| status(&error))?;
        Ok(Response::new(v1::TopResponse {
            rows: answer.rows.into_iter().map(top_row).collect(),
            others_flows: answer.others_flows,
            partial: partial(answer.partial),
        }))
    }

    async fn histogram(
        &self,
        request: Request<v1::HistogramRequest>,
    ) -> Result<Response<v1::HistogramResponse>, Status> {
        let wire = request.into_inner();
        let histogram = Histogram {
            expression: wire.expression,
            range: range(wire.range),
            interval_ns: wire.interval_ns,
            group: wire.group,
        };
        let answer = self.api.queries.histogram(histogram).await.map_err(|error| status(&error))?;
        let buckets = answer.buckets.into_iter().map(|bucket| v1::HistogramBucket {
            start_unix_ns: bucket.start.unix_ns(),
            group: bucket.group,
            flows: bucket.sums.flows,
            packets: bucket.sums.packets,
            bytes: bucket.sums.bytes,
        });
        Ok(Response::new(v1::HistogramResponse {
            interval_ns: answer.interval_ns,
            buckets: buckets.collect(),
            partial: partial(answer.partial),
        }))
    }

    async fn facets(
        &self,
        request: Request<v1::FacetsRequest>,
    ) -> Result<Response<Self::FacetsStream>, Status> {
        let wire = request.into_inner();
        let facets = Facets {
            expression: wire.expression,
            range: range(wire.range),
            fields: wire.fields,
            limit: wire.limit,
            refine: wire.refine,
            exact: wire.exact,
        };
        let answers = self.api.queries.facets(facets).await.map_err(|error| status(&error))?;
        let answers = ReceiverStream::new(answers)
            .map(|answer| answer.map(facets_answer).map_err(|error| status(&error)));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn hunt(&self, request: Request<v1::HuntRequest>) -> Result<Response<v1::HuntResponse>, Status> {
        let wire = request.into_inner();
        let hunt = Hunt {
            name: wire.name,
            expression: wire.expression,
            range: range(wire.range),
            parameters: wire.parameters.into_iter().collect(),
            limit: wire.limit,
        };
        let answer = self.api.queries.hunt(hunt).await.map_err(|error| status(&error))?;
        Ok(Response::new(v1::HuntResponse {
            findings: answer.findings.into_iter().map(hunts::finding).collect(),
            others: answer.others,
            partial: partial(answer.partial),
        }))
    }

    async fn hunts(&self, _: Request<v1::HuntsRequest>) -> Result<Response<v1::HuntsResponse>, Status> {
        Ok(Response::new(hunts::list()))
    }

    async fn pcap(&self, request: Request<v1::PcapRequest>) -> Result<Response<Self::PcapStream>, Status> {
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
        let download = self.api.queries.pcap(request).await.map_err(|error| status(&error))?;
        let chunks = download.pieces.map(|piece| match piece {
            Ok(PcapPiece::Data(data)) => Ok(v1::PcapChunk { data, summary: None }),
            Ok(PcapPiece::End(end)) => {
                Ok(v1::PcapChunk { data: bytes::Bytes::new(), summary: Some(summary(end)) })
            }
            Err(error) => Err(status(&error)),
        });
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn tail(&self, request: Request<v1::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let wire = request.into_inner();
        let following = Following { whole: wire.whole, behind: wire.behind };
        // Told at once, so that who is cut off before the first flow goes on from here too.
        let newest = self.api.store.newest_block();
        let behind = following.behind.unwrap_or(newest).min(newest);
        let begun = following.whole.then(|| Ok(v1::TailResponse { behind, ..Default::default() }));
        let items = self.api.queries.tail(&wire.expression, following).await;
        let items = items.map_err(|error| status(&error))?;
        let flows = ReceiverStream::new(items).map(|TailItem { flow, missed, behind }| {
            Ok(v1::TailResponse { flow: Some((&*flow).into()), missed, behind })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(begun).chain(flows))))
    }

    async fn agents(&self, _: Request<v1::AgentsRequest>) -> Result<Response<v1::AgentsResponse>, Status> {
        Ok(Response::new(v1::AgentsResponse { agents: self.api.fleet.agents() }))
    }

    async fn fields(&self, _: Request<v1::FieldsRequest>) -> Result<Response<v1::FieldsResponse>, Status> {
        Ok(Response::new(v1::FieldsResponse::of_table()))
    }

    async fn clock(&self, _: Request<v1::ClockRequest>) -> Result<Response<v1::ClockResponse>, Status> {
        let answer = self.api.queries.blocking({
            let api = self.api.clone();
            move || api.clock().map_err(QueryError::from)
        });
        answer.await.map(Response::new).map_err(|error| status(&error))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let answer = self.api.queries.blocking({
            let api = self.api.clone();
            move || api.status().map_err(QueryError::from)
        });
        answer.await.map(Response::new).map_err(|error| status(&error))
    }
}
