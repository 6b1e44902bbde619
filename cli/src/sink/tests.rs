//! Sinks that break, by real sockets on loopback.

use gnomon_clock::{Estimate, RawNs, UtcNs};
use gnomon_flow::{Addresses, FlowEndReason, FlowId, FlowKey, FlowRecord};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::*;

fn flow(id: u64) -> StoredFlow {
    let at =
        Some(Estimate { utc: UtcNs::from_unix_ns(1_700_000_000_000_000_000), err_ns: 1, conflict: false });
    let key = FlowKey {
        ethertype: 0x0800,
        protocol: 17,
        addresses: Addresses::V4 { orig: [10, 0, 0, 1], resp: [10, 0, 0, 2] },
        orig_port: 1,
        resp_port: 2,
        ..FlowKey::default()
    };
    let record = FlowRecord {
        id: FlowId(id),
        key,
        first: RawNs(1),
        last: RawNs(2),
        end: Some(FlowEndReason::Idle),
        ..FlowRecord::default()
    };
    StoredFlow { record, first: at, last: at, ..StoredFlow::default() }
}

fn sink(target: &str, format: Format) -> Sink {
    let target = Target::parse(None, Some(target), format).expect("a target");
    Sink::new(target, format, Accept::default())
}

fn word(message: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([message[at], message[at + 1]])
}

async fn message(stream: &mut TcpStream) -> Vec<u8> {
    let mut message = vec![0; 16];
    stream.read_exact(&mut message).await.expect("a header");
    message.resize(word(&message, 2).into(), 0);
    stream.read_exact(&mut message[16..]).await.expect("a body");
    message
}

#[tokio::test]
async fn a_new_connection_begins_anew() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address");
    let mut sink = sink(&format!("tcp://{address}"), Format::Ipfix);
    for round in 0..3u64 {
        sink.deliver(&[flow(round)], Some(3)).await.expect("sent");
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let (templates, data) = (message(&mut stream).await, message(&mut stream).await);
        // A set of templates, then one of data; both before any record of this session.
        assert_eq!((word(&templates, 16), word(&data, 16)), (2, 256));
        assert_eq!((&templates[8..12], &data[8..12]), (&[0; 4][..], &[0; 4][..]), "round {round}");
        drop(stream);
        // Its end has to arrive.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(sink.tally().written, 3);
}

#[tokio::test]
async fn a_sink_that_stays_away_is_an_error_and_nothing_is_counted_as_written() {
    let mut sink = sink("tcp://127.0.0.1:1", Format::Jsonl);
    let why = sink.deliver(&[flow(1)], Some(2)).await.expect_err("nobody listens");
    assert!(why.contains("tcp://127.0.0.1:1") && why.contains("refused"), "{why}");
    assert_eq!(sink.tally().written, 0);
}

#[tokio::test]
async fn every_datagram_is_a_message_of_its_own() {
    let receiver = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let mut sink = sink(&format!("udp://{}", receiver.local_addr().expect("an address")), Format::Ipfix);
    let flows: Vec<StoredFlow> = (0..50).map(flow).collect();
    sink.deliver(&flows, Some(1)).await.expect("sent");
    let (mut datagram, mut datagrams) = ([0; 65_536], 0);
    while let Ok(received) =
        tokio::time::timeout(Duration::from_millis(200), receiver.recv(&mut datagram)).await
    {
        let length = received.expect("a datagram");
        assert!(length <= 1_400 && usize::from(word(&datagram, 2)) == length);
        datagrams += 1;
    }
    assert!(datagrams > 5, "{datagrams}");
}

#[tokio::test]
async fn datagrams_that_nobody_takes_are_told() {
    let gone = UdpSocket::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("an address");
    let mut sink = sink(&format!("udp://{gone}"), Format::Eve);
    for id in 0..5 {
        sink.deliver(&[flow(id)], Some(1)).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let losses = sink.losses().expect("losses");
    assert!(losses.contains("did not arrive: Connection refused"), "{losses}");
}

/// Answers one request on each connection, in turn.
async fn server(answers: &'static [&'static str]) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("http://{}/x/_bulk", listener.local_addr().expect("an address"));
    let serving = tokio::spawn(async move {
        let mut bodies = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let (mut request, mut part) = (String::new(), [0; 65_536]);
            while !request.ends_with("}\n") {
                let length = stream.read(&mut part).await.expect("a request");
                request.push_str(&String::from_utf8_lossy(&part[..length]));
            }
            bodies.push(request.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned()));
            stream.write_all(answer.as_bytes()).await.expect("answer");
        }
        bodies
    });
    (url, serving)
}

#[tokio::test]
async fn a_busy_server_gets_the_same_again_and_refusals_are_counted() {
    const REFUSED: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 100\r\n\r\n\
        {\"errors\":true,\"items\":[{\"create\":{\"status\":201}},{\"create\":{\"status\":400,\"error\":{\"reason\":\"x\"}}}]}";
    const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let (url, serving) = server(&[BUSY, REFUSED]).await;
    let mut sink = sink(&url, Format::Ecs);
    sink.deliver(&[flow(1), flow(2)], Some(3)).await.expect("taken in the end");
    let bodies = serving.await.expect("the server");
    assert_eq!((bodies.len(), &bodies[0]), (2, &bodies[1]));
    assert_eq!(bodies[0].lines().count(), 4, "an action before each record");
    assert_eq!(sink.losses().as_deref(), Some("1 records were refused, the first with status 400: x"));
    assert_eq!(sink.tally().written, 2);
}

#[tokio::test]
async fn a_server_that_refuses_for_good_is_not_asked_again() {
    let (url, _serving) =
        server(&["HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 5\r\n\r\nno\x1b[2"]).await;
    let why = sink(&url, Format::Ecs).deliver(&[flow(1)], None).await.expect_err("refused");
    assert!(why.contains("answers 404 Not Found: no\\u{1b}[2"), "{why}");
}
