//! gnomon's own streams to and from the wire.

use std::net::IpAddr;

use gnomon_flow::{OwnStreams, StreamEnd, Transport, TransportStream};

use crate::v1;
use crate::wire::{WireError, array, narrow};

impl From<&StreamEnd> for v1::StreamEnd {
    fn from(end: &StreamEnd) -> v1::StreamEnd {
        let address = match end.address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        v1::StreamEnd { address, port: end.port.into() }
    }
}

impl TryFrom<&v1::StreamEnd> for StreamEnd {
    type Error = WireError;

    fn try_from(wire: &v1::StreamEnd) -> Result<StreamEnd, WireError> {
        let field = "stream_end.address";
        let address = match wire.address.len() {
            4 => IpAddr::from(array::<4>(field, &wire.address)?),
            _ => IpAddr::from(array::<16>(field, &wire.address)?),
        };
        Ok(StreamEnd::new(address, narrow("stream_end.port", wire.port)?))
    }
}

impl From<&TransportStream> for v1::TransportStream {
    fn from(stream: &TransportStream) -> v1::TransportStream {
        let [local, remote] = stream.ends();
        v1::TransportStream {
            protocol: stream.transport().number().into(),
            local: Some((&local).into()),
            remote: Some((&remote).into()),
        }
    }
}

impl TryFrom<&v1::TransportStream> for TransportStream {
    type Error = WireError;

    fn try_from(wire: &v1::TransportStream) -> Result<TransportStream, WireError> {
        let field = "transport_stream.protocol";
        let transport = Transport::of_number(narrow(field, wire.protocol)?)
            .ok_or_else(|| WireError::new(field, format!("{} is neither TCP nor UDP", wire.protocol)))?;
        let end = |end: &Option<v1::StreamEnd>, field| match end {
            Some(end) => StreamEnd::try_from(end),
            None => Err(WireError::missing(field)),
        };
        Ok(TransportStream::new(
            transport,
            end(&wire.local, "transport_stream.local")?,
            end(&wire.remote, "transport_stream.remote")?,
        ))
    }
}

impl From<&OwnStreams> for v1::OwnStreams {
    fn from(own: &OwnStreams) -> v1::OwnStreams {
        v1::OwnStreams {
            endpoints: own.endpoints().map(|end| (&end).into()).collect(),
            streams: own.streams().map(|stream| (&stream).into()).collect(),
        }
    }
}

impl From<&v1::OwnStreams> for OwnStreams {
    /// Of what makes sense, as much as a set holds.
    fn from(wire: &v1::OwnStreams) -> OwnStreams {
        let mut own = OwnStreams::default();
        for end in wire.endpoints.iter().take(OwnStreams::ENDPOINTS_MAX).flat_map(StreamEnd::try_from) {
            own.add_endpoint(end);
        }
        for stream in wire.streams.iter().take(OwnStreams::STREAMS_MAX).flat_map(TransportStream::try_from) {
            own.add_stream(stream);
        }
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn end() -> impl Strategy<Value = StreamEnd> {
        (any::<IpAddr>(), 1u16..).prop_map(|(address, port)| StreamEnd::new(address, port))
    }

    proptest! {
        #[test]
        fn a_set_survives_the_wire(
            endpoints in prop::collection::vec(end(), 0..9),
            streams in prop::collection::vec((any::<bool>(), end(), end()), 0..9),
        ) {
            let mut own = OwnStreams::default();
            endpoints.into_iter().for_each(|end| { own.add_endpoint(end); });
            for (udp, one, other) in streams {
                own.add_stream(TransportStream::new(Transport::ALL[usize::from(udp)], one, other));
            }
            prop_assert_eq!(OwnStreams::from(&v1::OwnStreams::from(&own)), own);
        }
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        let good = v1::StreamEnd { address: vec![10, 0, 0, 1], port: 1 };
        let ends = [
            v1::StreamEnd { address: vec![1; 5], port: 1 },
            v1::StreamEnd { address: vec![10, 0, 0, 2], port: 70_000 },
            v1::StreamEnd { address: vec![0; 4], port: 1 },
            good.clone(),
        ];
        let stream = v1::TransportStream { protocol: 1, local: Some(good.clone()), remote: Some(good) };
        let half = v1::TransportStream { protocol: 6, remote: None, ..stream.clone() };
        let own = OwnStreams::from(&v1::OwnStreams { endpoints: ends.to_vec(), streams: vec![stream, half] });
        assert_eq!((own.endpoints().count(), own.streams().count()), (1, 0));
    }
}
