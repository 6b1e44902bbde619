//! Both doors, over the router and over real sockets.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use gnomon_flow::FlowRecord;
use gnomon_proto::v1;
use gnomon_proto::v1::query_client::QueryClient;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tower::ServiceExt;

use super::*;
use crate::fleet::Introduction;
use crate::listen::testing;
use crate::query::QueryLimits;
use crate::query::testing::{Fixture, block, fixture};
use crate::store::testing::{S, epoch, record};

fn registry() -> StreamRegistry {
    StreamRegistry::new([], Arc::new(gnomon_clock::KernelClock))
}

pub(super) fn api(fixture: &Fixture) -> Api {
    let fleet = Fleet::default();
    let agent = Introduction { name: "sensor".into(), version: "1.2".into(), ..Introduction::default() };
    // The place is given up at once: an agent that is known and not connected.
    drop(fleet.join(agent, fixture.store.now().utc));
    Api {
        queries: fixture.queries.clone(),
        store: fixture.store.clone(),
        fleet,
        metrics: Arc::new(|| "gnomon_up 1\n".to_owned()),
        not_ready: Arc::new(|| None),
        version: "9.9.9".to_owned(),
        own_streams: registry(),
    }
}

pub(super) fn filled() -> Fixture {
    let mut fixture = fixture(QueryLimits::default());
    fixture.add(
        epoch(1),
        1,
        (1..=20).map(|id| record(id, 0, id * S, id * S + 5)).collect::<Vec<FlowRecord>>(),
    );
    fixture.writer.commit(&[block(2, epoch(1), &[(1, S, 1), (2, 2 * S, 1)])]).expect("block");
    fixture
}

async fn ask(
    router: &axum::Router,
    method: Method,
    uri: &str,
    body: &str,
) -> (StatusCode, axum::http::HeaderMap, Vec<u8>) {
    let request =
        Request::builder().method(method).uri(uri).body(Body::from(body.to_owned())).expect("request");
    let response = router.clone().oneshot(request).await.expect("infallible");
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 24).await.expect("body");
    (parts.status, parts.headers, bytes.to_vec())
}

pub(super) async fn json_of(router: &axum::Router, uri: &str) -> Value {
    let (status, headers, body) = ask(router, Method::GET, uri, "").await;
    assert_eq!(status, StatusCode::OK, "{uri}: {}", String::from_utf8_lossy(&body));
    assert_eq!(headers["content-type"], "application/json");
    serde_json::from_slice(&body).expect("json")
}

#[tokio::test]
async fn http_answers_as_the_manual_says() {
    let fixture = filled();
    let router = router(&api(&fixture));
    let page = json_of(&router, "/api/v1/search?expression=port%3D%3D53&limit=2").await;
    assert_eq!(page["flows"].as_array().map(Vec::len), Some(2));
    assert_eq!(page["flows"][0]["ip.src"], "10.0.0.1");
    assert!(page.get("partial").is_none());
    let next = format!("/api/v1/search?limit=100&cursor={}", page["next_cursor"].as_str().expect("cursor"));
    let rest = json_of(&router, &next).await;
    assert_eq!((rest["flows"].as_array().map(Vec::len), rest["next_cursor"].as_str()), (Some(18), Some("")));

    // A key of JSON is a name in searches.
    let id = page["flows"][0]["id"].as_str().expect("id");
    let one = json_of(&router, &format!("/api/v1/flows/{id}")).await;
    assert_eq!(one, page["flows"][0]);
    let again = json_of(&router, &format!("/api/v1/search?expression=id=={id}")).await;
    assert_eq!(again["flows"], json!([one]));

    let post = |uri: &'static str, body: Value| {
        let router = router.clone();
        async move {
            let (status, _, bytes) = ask(&router, Method::POST, uri, &body.to_string()).await;
            (status, serde_json::from_slice::<Value>(&bytes).expect("json"))
        }
    };
    let (_, count) =
        post("/api/v1/count", json!({"expression": "port.dst == 53", "since": "now-1h", "until": "now"}))
            .await;
    assert_eq!((&count["flows"], &count["packets"], &count["bytes"]), (&json!(20), &json!(20), &json!(1600)));
    let now = fixture.store.now().utc.unix_ns() / 1_000_000_000;
    let (_, count) = post("/api/v1/count", json!({"since": now - 90, "until": (now - 85).to_string()})).await;
    assert_eq!(count["flows"], 5, "RAW 10 to 15 s");
    let (_, top) =
        post("/api/v1/top", json!({"fields": ["ip.src", "port.dst"], "by": "bytes", "limit": 1})).await;
    assert_eq!(
        top["rows"],
        json!([{"values": ["10.0.0.1", "53"], "flows": 20, "packets": 20, "bytes": 1600}])
    );
    let top = json_of(&router, "/api/v1/top?fields=ip.src,port.dst").await;
    assert_eq!(top["rows"][0]["flows"], 20);
    let histogram = json_of(&router, "/api/v1/histogram?interval=10s&group=node").await;
    assert_eq!(histogram["interval_ns"], 10_000_000_000u64);
    assert_eq!(histogram["buckets"][0]["group"], "sensor");

    let agents = json_of(&router, "/api/v1/agents").await;
    assert_eq!(
        (&agents["agents"][0]["name"], &agents["agents"][0]["connected"]),
        (&json!("sensor"), &json!(false))
    );
    let status = json_of(&router, "/api/v1/status").await;
    assert_eq!((&status["flows"], &status["version"]), (&json!(20), &json!("9.9.9")));
    let fields = json_of(&router, "/api/v1/fields").await;
    assert_eq!(fields["fields"].as_array().map(Vec::len), Some(gnomon_flow::FIELDS.len()));
    assert_eq!(ask(&router, Method::GET, "/metrics", "").await.2, b"gnomon_up 1\n");
    assert_eq!(ask(&router, Method::GET, "/readyz", "").await.2, b"ready\n");
    let unready = Api { not_ready: Arc::new(|| Some("the disk is full".into())), ..api(&fixture) };
    let (status, _, body) = ask(&super::router(&unready), Method::GET, "/readyz", "").await;
    assert_eq!((status.as_u16(), body.as_slice()), (503, b"not ready: the disk is full\n".as_slice()));
}

#[tokio::test]
async fn http_says_what_is_wrong() {
    let fixture = filled();
    let router = router(&api(&fixture));
    for (method, uri, body, status, code, message) in [
        (Method::GET, "/api/v1/search?expression=prot==1", "", 400, "bad_expression", "unknown field"),
        (
            Method::GET,
            "/api/v1/search?expresion=port==1",
            "",
            400,
            "bad_request",
            "\"expresion\" is unknown; there are expression",
        ),
        (
            Method::GET,
            "/api/v1/search?limit=ten",
            "",
            400,
            "bad_request",
            "limit: \"ten\" is no whole number",
        ),
        (Method::GET, "/api/v1/search?limit=20000", "", 400, "bad_request", "more than 10000"),
        (Method::GET, "/api/v1/search?limit=1&limit=2", "", 400, "bad_request", "twice"),
        (
            Method::GET,
            "/api/v1/search?since=yesterday",
            "",
            400,
            "bad_request",
            "since: \"yesterday\" is no time",
        ),
        (
            Method::GET,
            "/api/v1/search?oldest_first=perhaps",
            "",
            400,
            "bad_request",
            "neither true nor false",
        ),
        (Method::POST, "/api/v1/search", "[]", 400, "bad_request", "no JSON object"),
        (Method::POST, "/api/v1/search", "{", 400, "bad_request", "no JSON"),
        (Method::POST, "/api/v1/search", "{\"range\":{}}", 400, "bad_request", "no text, number or bool"),
        (Method::GET, "/api/v1/top", "", 400, "bad_request", "name 1 to 8 fields"),
        (Method::GET, "/api/v1/top?fields=ip&by=luck", "", 400, "bad_request", "flows, packets, bytes"),
        (Method::GET, "/api/v1/histogram?interval=5", "", 400, "bad_request", "write 10s"),
        (Method::GET, "/api/v1/pcap?format=snoop", "", 400, "bad_request", "pcapng, pcap"),
        (Method::GET, "/api/v1/pcap?ids=7", "", 400, "bad_request", "is not a record id"),
        (Method::GET, "/api/v1/pcap?ids=0000000000000000-0-0", "", 404, "not_found", "there is no record"),
        (Method::GET, "/api/v1/flows/7", "", 400, "bad_request", "is not a record id"),
        (Method::GET, "/api/v1/flows/0000000000000000-0-0", "", 404, "not_found", "there is no record"),
        (Method::GET, "/api/v1/nothing", "", 404, "not_found", "/openapi.json"),
        (Method::DELETE, "/api/v1/search", "", 405, "method_not_allowed", "does not take DELETE"),
        (Method::POST, "/api/v1/agents", "", 405, "method_not_allowed", "does not take POST"),
    ] {
        let (got, _, bytes) = ask(&router, method, uri, body).await;
        let answer: Value = serde_json::from_slice(&bytes).expect(uri);
        let error = &answer["error"];
        assert_eq!((got.as_u16(), error["code"].as_str()), (status, Some(code)), "{uri}: {answer}");
        assert!(error["message"].as_str().is_some_and(|m| m.contains(message)), "{uri}: {answer}");
    }
    let (_, _, bytes) =
        ask(&router, Method::GET, "/api/v1/search?expression=ip==10%20%26%26%20prot==1", "").await;
    let answer: Value = serde_json::from_slice(&bytes).expect("json");
    assert_eq!((&answer["error"]["column"], &answer["error"]["length"]), (&json!(11), &json!(4)));
    let (status, ..) = ask(&router, Method::POST, "/api/v1/search", &" ".repeat(REQUEST_BYTES_MAX + 1)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn http_sends_a_capture_file_and_a_tail() {
    let mut fixture = filled();
    let router = router(&api(&fixture));
    let (status, headers, file) = ask(&router, Method::GET, "/api/v1/pcap?expression=port.dst==53", "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-type"], "application/x-pcapng");
    assert_eq!(headers["content-disposition"], "attachment; filename=\"gnomon.pcapng\"");
    assert_eq!(
        (&headers["gnomon-flows"], headers.get("gnomon-partial")),
        (&"20".parse().expect("header"), None)
    );
    assert_eq!(file[..4], [0x0A, 0x0D, 0x0D, 0x0A]);

    // One that is not read breaks off, instead of ending.
    let limits =
        QueryLimits { stalled_ms: 100, downloads_max: 1, queue_ms: 30_000, ..QueryLimits::default() };
    let mut much = crate::query::testing::fixture(limits);
    much.add(epoch(1), 1, vec![record(1, 0, S, 90 * S)]);
    for n in 0..40u64 {
        let packets: Vec<_> = (0..1000u64).map(|p| (1, (2 + n) * S + p * 1000, 1)).collect();
        much.writer.commit(&[block(2 + n, epoch(1), &packets)]).expect("block");
    }
    let request = Request::get("/api/v1/pcap").body(Body::empty()).expect("request");
    let response = super::router(&api(&much)).oneshot(request).await.expect("infallible");
    // Its place is free once it was given up.
    much.queries.pcap(crate::query::PcapRequest::default()).await.expect("pcap");
    assert!(axum::body::to_bytes(response.into_body(), 1 << 24).await.is_err());

    for (accept, start) in [("*/*", "{\"flow\":{"), ("text/event-stream", "data: {\"flow\":{")] {
        let request =
            Request::get("/api/v1/tail?expression=port==53").header("accept", accept).body(Body::empty());
        let response = router.clone().oneshot(request.expect("request")).await.expect("infallible");
        let mut lines = response.into_body().into_data_stream();
        let seq = 10 + start.len() as u64;
        fixture.add(epoch(1), seq, vec![record(1000 + seq, 0, 50 * S, 50 * S)]);
        let line = lines.next().await.expect("a line").expect("no error");
        let line = String::from_utf8_lossy(&line).into_owned();
        assert!(line.starts_with(start) && line.ends_with('\n'), "{line}");
        let object: Value = serde_json::from_str(line.trim_start_matches("data: ").trim_end()).expect("json");
        assert_eq!((&object["missed"], &object["flow"]["port.dst"]), (&json!(0), &json!(53)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn facets_come_once_or_as_they_get_better() {
    let fixture = filled();
    let api = api(&fixture);
    let router = router(&api);
    let uri = "/api/v1/facets?fields=port.dst,ip.src&expression=port==53";
    let whole = json_of(&router, uri).await;
    let field = json!({
        "field": "port.dst", "flows": 20, "values": [{"value": "53", "flows": 20}], "different": 1, "missed_max": 0,
    });
    assert_eq!((&whole["fields"][0], &whole["flows"], &whole["last"]), (&field, &json!(20), &json!(true)));
    for (accept, kind, start) in
        [("*/*", "application/x-ndjson", ""), ("text/event-stream", "text/event-stream", "data: ")]
    {
        let request = Request::get(format!("{uri}&refine=true")).header("accept", accept).body(Body::empty());
        let response = router.clone().oneshot(request.expect("request")).await.expect("infallible");
        assert_eq!(response.headers()["content-type"], kind);
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("body");
        let text = String::from_utf8(body.to_vec()).expect("text");
        let lines: Vec<Value> = text
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_str(line.strip_prefix(start).expect("a frame")).expect("json"))
            .collect();
        assert!(lines.len() > 1 && lines[0]["last"] == false, "{text}");
        assert_eq!(lines.last(), Some(&whole));
    }

    let address = served(&api, &fixture.shutdown).await;
    let mut client = QueryClient::connect(format!("http://{address}")).await.expect("connect");
    let request = v1::FacetsRequest { fields: vec!["port.dst".into()], refine: true, ..Default::default() };
    let answers = client.facets(request.clone()).await.expect("facets").into_inner();
    let answers: Vec<_> = answers.map(|answer| answer.expect("answer")).collect().await;
    let last = answers.last().expect("a last one");
    assert!(answers.len() > 1 && last.last && last.fields[0].values[0].flows == 20, "{answers:?}");
    let wrong = v1::FacetsRequest { fields: vec!["nonsense".into()], ..request };
    let error = client.facets(wrong).await.expect_err("no field");
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn hunts_are_listed_and_found_at_both_doors() {
    let mut fixture = filled();
    let probe = |port: u64| {
        let mut probe = record(1000 + port, 0, 50 * S, 50 * S);
        probe.key.resp_port = port as u16;
        probe
    };
    fixture.add(epoch(1), 40, (1..=30).map(probe).collect());
    let api = api(&fixture);
    let router = router(&api);
    let answer = json_of(&router, "/api/v1/hunt?name=scan&parameters=targets=25").await;
    let found = &answer["findings"][0];
    assert_eq!((&found["what"], &found["evidence"]["ports"]), (&json!("ports"), &json!(31)), "{answer}");
    assert_eq!(found["evidence"]["first"].as_str().map(|at| at.ends_with('Z')), Some(true));
    let (_, _, body) = ask(&router, Method::GET, "/api/v1/hunt?name=scan&parameters=targets", "").await;
    assert!(String::from_utf8_lossy(&body).contains("is no name=number"));

    let address = served(&api, &fixture.shutdown).await;
    let mut client = QueryClient::connect(format!("http://{address}")).await.expect("connect");
    let parameters = [("targets".to_owned(), 25)].into();
    let request = v1::HuntRequest { name: "scan".into(), parameters, ..Default::default() };
    let findings = client.hunt(request).await.expect("hunt").into_inner().findings;
    assert_eq!(findings[0].what, "ports");
    assert_eq!(json!(findings[0].score), found["score"]);
    assert_eq!(findings[0].expression, found["expression"]);
    let hunts = client.hunts(v1::HuntsRequest {}).await.expect("hunts").into_inner().hunts;
    assert!(hunts.iter().any(|hunt| hunt.name == "scan" && !hunt.parameters.is_empty()));
}

#[tokio::test]
async fn the_openapi_document_has_every_route_and_is_true_of_answers() {
    let fixture = filled();
    let router = router(&api(&fixture));
    let document = json_of(&router, "/openapi.json").await;
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().expect("paths");
    let documented: BTreeSet<&str> = paths.keys().map(String::as_str).collect();
    assert_eq!(documented, routes::ROUTES.iter().map(|route| route.path).collect());
    let mut ids = BTreeSet::new();
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().expect("methods") {
            assert!(ids.insert(operation["operationId"].as_str().expect("id").to_owned()), "{path} {method}");
            assert!(operation["summary"].is_string() && operation["responses"]["200"].is_object());
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("method");
            if path != "/api/v1/tail" {
                let (status, ..) = ask(&router, method, &path.replace("{id}", "x"), "").await;
                assert!(![404, 405, 500].contains(&status.as_u16()), "{path}: {status}");
            }
        }
    }
    let schemas = &document["components"]["schemas"];
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => object.iter().for_each(|(key, value)| match (key.as_str(), value) {
                ("$ref", Value::String(name)) => drop(found.insert(name.clone())),
                _ => references(value, found),
            }),
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for name in found {
        let name = name.strip_prefix("#/components/schemas/").expect("a schema");
        assert!(schemas[name].is_object(), "{name}");
    }
    for (uri, schema) in [
        ("/api/v1/search", "SearchResponse"),
        ("/api/v1/count", "CountResponse"),
        ("/api/v1/count?distinct=ip,port", "CountResponse"),
        ("/api/v1/top?fields=ip", "TopResponse"),
        ("/api/v1/top?fields=ip&distinct=port.dst&by=distinct", "TopResponse"),
        ("/api/v1/histogram", "HistogramResponse"),
        ("/api/v1/facets?limit=3", "FacetsResponse"),
        ("/api/v1/hunt?name=scan&parameters=targets=2,hours=1", "HuntResponse"),
        ("/api/v1/hunts", "HuntsResponse"),
        ("/api/v1/agents", "AgentsResponse"),
        ("/api/v1/fields", "FieldsResponse"),
        ("/api/v1/status", "StatusResponse"),
    ] {
        conforms(schemas, &schemas[schema], &json_of(&router, uri).await, uri);
    }
}

/// Check that every key of `value` is in `schema`, and of a type it allows.
fn conforms(schemas: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.strip_prefix("#/components/schemas/").expect("a schema");
        return conforms(schemas, &schemas[name], value, at);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let allowed = match &schema["type"] {
        Value::Array(kinds) => kinds.contains(&json!(kind)),
        one => *one == json!(kind),
    };
    assert!(allowed, "{at} is {kind}, not {}", schema["type"]);
    match value {
        Value::Object(object) if schema["properties"].is_object() => {
            for (key, value) in object {
                let property = &schema["properties"][key];
                assert!(property.is_object(), "{at}.{key} is not in the schema");
                conforms(schemas, property, value, &format!("{at}.{key}"));
            }
        }
        Value::Array(list) => list.iter().for_each(|value| conforms(schemas, &schema["items"], value, at)),
        _ => {}
    }
}

pub(super) async fn served(api: &Api, stop: &tokio_util::sync::CancellationToken) -> std::net::SocketAddr {
    let (port, _) = testing::serve(router(api), None, testing::settings(), stop.clone()).await;
    std::net::SocketAddr::from(([127, 0, 0, 1], port))
}

#[tokio::test]
async fn grpc_and_http_share_a_port() {
    let mut fixture = filled();
    let address = served(&api(&fixture), &fixture.shutdown).await;
    let mut stream = TcpStream::connect(address).await.expect("connect");
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");

    let mut client = QueryClient::connect(format!("http://{address}")).await.expect("connect");
    let request = v1::SearchRequest { expression: "port == 53".into(), limit: 5, ..Default::default() };
    let page = client.search(request).await.expect("search").into_inner();
    assert_eq!((page.flows.len(), page.next_cursor.is_empty()), (5, false));
    let first = gnomon_flow::StoredFlow::try_from(&page.flows[0]).expect("a flow");
    let one = client.get(v1::GetRequest { id: first.id().to_string() }).await.expect("get").into_inner();
    assert_eq!(one, page.flows[0]);
    let top = v1::TopRequest {
        fields: vec!["port.dst".into()],
        distinct: vec!["ip".into()],
        by: v1::Measure::Distinct.into(),
        ..Default::default()
    };
    let top = client.top(top).await.expect("top").into_inner();
    assert_eq!((top.rows[0].values.as_slice(), top.rows[0].flows), (["53".to_owned()].as_slice(), 20));
    assert_eq!(top.rows[0].distinct, [v1::Distinct { count: 2, error: 0.0 }]);
    let histogram = client.histogram(v1::HistogramRequest::default()).await.expect("histogram").into_inner();
    assert_eq!(histogram.buckets.iter().map(|b| b.flows).sum::<u64>(), 20);
    assert_eq!(client.count(v1::CountRequest::default()).await.expect("count").into_inner().packets, 20);
    assert_eq!(client.agents(v1::AgentsRequest {}).await.expect("agents").into_inner().agents.len(), 1);
    assert_eq!(client.status(v1::StatusRequest {}).await.expect("status").into_inner().slice_packets, 2);

    let pieces = client.pcap(v1::PcapRequest::default()).await.expect("pcap").into_inner();
    let pieces: Vec<_> = pieces.map(|piece| piece.expect("piece")).collect().await;
    let summary =
        pieces.last().and_then(|piece| piece.summary.clone()).expect("the last piece has the summary");
    assert_eq!((summary.packets, summary.flows, summary.partial), (2, 20, None));
    assert_eq!(pieces[0].data[..4], [0x0A, 0x0D, 0x0D, 0x0A]);

    let mut tail = client.tail(v1::TailRequest::default()).await.expect("tail").into_inner();
    fixture.add(epoch(1), 30, vec![record(500, 0, 50 * S, 50 * S)]);
    let item = tail.next().await.expect("an item").expect("no error");
    assert_eq!(item.flow.and_then(|flow| flow.record).map(|record| record.id), Some(500));

    let bad = v1::SearchRequest { expression: "ip == 10 && prot == 1".into(), ..Default::default() };
    let status = client.search(bad).await.expect_err("bad");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().starts_with("column 13: unknown field `prot`; did you mean port"), "{status}");
    assert_eq!(status.metadata().get("gnomon-column").map(|v| v.as_bytes()), Some(b"13".as_slice()));
    let none = client.get(v1::GetRequest { id: "0000000000000000-0-0".into() }).await.expect_err("none");
    assert_eq!(none.code(), tonic::Code::NotFound);

    // A stop ends streams and connections.
    fixture.shutdown.cancel();
    assert!(tail.next().await.is_none_or(|item| item.is_err()));
    for left in (0..100).rev() {
        if TcpStream::connect(address).await.is_err() {
            break;
        }
        assert!(left > 0, "it still listens");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn reflection_and_health_are_served() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

    let fixture = filled();
    let address = served(&api(&fixture), &fixture.shutdown).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("uri");
    let channel = channel.connect().await.expect("connect");
    let health =
        HealthClient::new(channel.clone()).check(tonic_health::pb::HealthCheckRequest::default()).await;
    assert_eq!(health.expect("health").into_inner().status, 1, "serving");
    for (service, status) in
        [("gnomon.v1.Query", Ok(1)), ("gnomon.v1.Ingest", Ok(1)), ("nobody", Err(tonic::Code::NotFound))]
    {
        let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
        let said = HealthClient::new(channel.clone()).check(request).await;
        assert_eq!(said.map(|said| said.into_inner().status).map_err(|e| e.code()), status, "{service}");
    }
    {
        use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient;
        use tonic_reflection::pb::v1alpha::server_reflection_request::MessageRequest;
        let ask = tonic_reflection::pb::v1alpha::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::FileContainingSymbol("gnomon.v1.Query".to_owned())),
        };
        let asked = tokio_stream::iter([ask]);
        let mut older = ServerReflectionClient::new(channel.clone());
        let answers = older.server_reflection_info(asked).await.expect("reflection by its older name");
        answers.into_inner().next().await.expect("an answer").expect("no error");
    }
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers =
        ServerReflectionClient::new(channel).server_reflection_info(tokio_stream::iter([ask])).await;
    let answer =
        answers.expect("reflection").into_inner().next().await.expect("an answer").expect("no error");
    let ServerReflectionResponse {
        message_response: Some(MessageResponse::ListServicesResponse(list)), ..
    } = answer
    else {
        panic!("{answer:?}")
    };
    assert!(list.service.iter().any(|service| service.name == "gnomon.v1.Query"), "{list:?}");
}
