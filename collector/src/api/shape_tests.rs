//! One shape of JSON: what HTTP answers is what `gnomon -o json` makes of the answer over gRPC.

use gnomon_flow::StoredFlow;
use gnomon_proto::v1;
use gnomon_proto::v1::query_client::QueryClient;
use serde_json::Value;

use super::router;
use super::tests::{api, filled, json_of, served};

/// Of what changes from one question to the next nothing is compared.
fn still(mut answer: Value) -> Value {
    for (object, names) in
        [("", &["now", "now_err_ns", "disk_free_bytes"][..]), ("/collector", &["now", "now_err_ns"])]
    {
        if let Some(object) = answer.pointer_mut(object).and_then(Value::as_object_mut) {
            names.iter().for_each(|name| drop(object.remove(*name)));
        }
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_one_shape() {
    let fixture = filled();
    let api = api(&fixture);
    let stop = tokio_util::sync::CancellationToken::new();
    let address = served(&api, &stop).await;
    let router = router(&api);
    let mut client = QueryClient::connect(format!("http://{address}")).await.unwrap();

    let http = json_of(&router, "/api/v1/search?limit=3").await;
    let wire =
        client.search(v1::SearchRequest { limit: 3, ..Default::default() }).await.unwrap().into_inner();
    let flows: Vec<StoredFlow> = wire.flows.iter().map(|flow| flow.try_into().unwrap()).collect();
    assert_eq!(flows.len(), 3);
    let cursor = http["next_cursor"].as_str().unwrap();
    assert_eq!(http, gnomon_answers::search(&flows, cursor, wire.waiting.as_ref(), wire.partial.as_ref()));

    let fields = vec!["ip.src".to_owned()];
    let wire =
        client.count(v1::CountRequest { distinct: fields.clone(), ..Default::default() }).await.unwrap();
    assert_eq!(
        json_of(&router, "/api/v1/count?distinct=ip.src").await,
        gnomon_answers::count(wire.get_ref())
    );

    let top = v1::TopRequest {
        fields: fields.clone(),
        distinct: vec!["port.dst".to_owned()],
        ..Default::default()
    };
    let wire = client.top(top).await.unwrap();
    let http = json_of(&router, "/api/v1/top?fields=ip.src&distinct=port.dst").await;
    assert_eq!(http["rows"].as_array().map(Vec::len), Some(1));
    assert_eq!(http, gnomon_answers::top(wire.get_ref()));

    let histogram =
        v1::HistogramRequest { interval_ns: 10_000_000_000, group: "node".to_owned(), ..Default::default() };
    let wire = client.histogram(histogram).await.unwrap();
    let http = json_of(&router, "/api/v1/histogram?interval=10s&group=node").await;
    assert!(http["buckets"].as_array().is_some_and(|buckets| buckets.len() > 1));
    assert_eq!(http, gnomon_answers::histogram(wire.get_ref()));

    let facets = v1::FacetsRequest { fields, ..Default::default() };
    let wire = client.facets(facets).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert_eq!(json_of(&router, "/api/v1/facets?fields=ip.src").await, gnomon_answers::facets(&wire));

    let wire = client.hunts(v1::HuntsRequest {}).await.unwrap();
    assert_eq!(json_of(&router, "/api/v1/hunts").await, gnomon_answers::hunts(wire.get_ref()));
    let hunt = v1::HuntRequest { name: "scan".to_owned(), ..Default::default() };
    let wire = client.hunt(hunt).await.unwrap();
    assert_eq!(json_of(&router, "/api/v1/hunt?name=scan").await, gnomon_answers::findings(wire.get_ref()));

    let wire = client.agents(v1::AgentsRequest {}).await.unwrap();
    assert_eq!(json_of(&router, "/api/v1/agents").await, gnomon_answers::agents(wire.get_ref()));
    let wire = client.fields(v1::FieldsRequest {}).await.unwrap();
    assert_eq!(json_of(&router, "/api/v1/fields").await, gnomon_answers::fields(wire.get_ref()));
    let wire = client.status(v1::StatusRequest {}).await.unwrap();
    assert_eq!(
        still(json_of(&router, "/api/v1/status").await),
        still(gnomon_answers::status(wire.get_ref()))
    );
    let wire = client.clock(v1::ClockRequest {}).await.unwrap();
    assert_eq!(still(json_of(&router, "/api/v1/clock").await), still(gnomon_answers::clock(wire.get_ref())));
    stop.cancel();
}
