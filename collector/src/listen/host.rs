//! Which name a request calls the collector by, and from whose page it comes.
//!
//! A page of any site can make its reader's browser send requests to loopback, and, by a name of its own that it lets
//! point there (DNS rebinding), read the answers. Such a request has a foreign name in `Host`, a foreign `Origin`, or says
//! `cross-site` in `Sec-Fetch-Site`; and a form can post only bodies of kinds that are not JSON. What no browser can
//! reach is not asked: the Unix socket, and gRPC in plain text, since browsers speak HTTP/2 over TLS alone (an agent may come
//! through a forwarder by any name).

use std::net::IpAddr;

use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, TRANSFER_ENCODING};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Version};

use super::refusal::Reason;

/// Bytes of a host that is read.
const HOST_BYTES_MAX: usize = 300;

/// What is known of the door that a request came through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Unix,
    Tcp { tls: bool, loopback: bool },
}

/// A request that is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) reason: Reason,
    pub(super) status: StatusCode,
    pub(super) text: String,
}

fn refused<T>(reason: Reason, status: StatusCode, text: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { reason, status, text: text.into() })
}

pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// `names`: of this collector, besides those of loopback.
pub(super) fn check(parts: &Parts, door: &Door, names: &[String]) -> Result<(), Refused> {
    let called = authority(parts)?;
    let Door::Tcp { tls, loopback } = *door else { return Ok(()) };
    // Who speaks TLS has checked the name against the certificate.
    if !tls && let Some(called) = &called {
        let host = called.host().trim_start_matches('[').trim_end_matches(']');
        let ours = if loopback { is_local(host) } else { is_local(host) || host.parse::<IpAddr>().is_ok() };
        let asked = !(parts.version == Version::HTTP_2 && is_grpc(&parts.headers));
        if asked && !ours && !names.iter().any(|name| name.eq_ignore_ascii_case(host)) {
            return refused(
                Reason::Host,
                StatusCode::MISDIRECTED_REQUEST,
                format!("this collector is not called {host:?}: add the name to listen.names if it is"),
            );
        }
    }
    origin(parts, called.as_ref())?;
    content_type(parts)
}

/// The collector's name in the request, well-formed. RFC 9112, section 3.2: none or two is an error of HTTP/1.1.
fn authority(parts: &Parts) -> Result<Option<Authority>, Refused> {
    let bad = |text: &str| refused(Reason::Host, StatusCode::BAD_REQUEST, text);
    let mut hosts = parts.headers.get_all(HOST).iter();
    let said = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return bad("the request has more than one Host"),
        (None, _) if parts.version == Version::HTTP_11 => return bad("the request has no Host"),
        (said, _) => said,
    };
    let parsed = match said {
        None => None,
        Some(said) => {
            let text = said.to_str().ok().filter(|text| text.len() <= HOST_BYTES_MAX && !text.contains('@'));
            match text.and_then(|text| text.parse::<Authority>().ok()) {
                Some(authority) if !authority.host().is_empty() => Some(authority),
                _ => return bad("Host is not a host and a port"),
            }
        }
    };
    match (parts.uri.authority(), parsed) {
        (Some(target), _) if target.as_str().contains('@') => {
            bad("the target has more than a host and a port")
        }
        (Some(target), Some(host)) if !target.as_str().eq_ignore_ascii_case(host.as_str()) => {
            bad("Host is another than the target's")
        }
        (Some(target), _) => Ok(Some(target.clone())),
        (None, host) => Ok(host),
    }
}

fn is_local(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// A page may ask only where it came from.
fn origin(parts: &Parts, called: Option<&Authority>) -> Result<(), Refused> {
    const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
    let foreign = |text: &str| refused(Reason::Origin, StatusCode::FORBIDDEN, text);
    for site in parts.headers.get_all(FETCH_SITE) {
        if !matches!(site.as_bytes(), b"same-origin" | b"none") {
            return foreign("a page of another site may not ask this collector (Sec-Fetch-Site)");
        }
    }
    for origin in parts.headers.get_all(ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let page = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if !page.zip(called).is_some_and(|(page, called)| page.eq_ignore_ascii_case(called.as_str())) {
            return foreign("a page of another site may not ask this collector (Origin)");
        }
    }
    Ok(())
}

/// What comes with a body says that it is JSON (or gRPC): forms of other pages cannot.
fn content_type(parts: &Parts) -> Result<(), Refused> {
    let headers = &parts.headers;
    if matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS) || is_grpc(headers) {
        return Ok(());
    }
    let mut kinds = headers.get_all(CONTENT_TYPE).iter();
    let (kind, second) = (kinds.next(), kinds.next());
    let essence = kind.and_then(|kind| kind.to_str().ok()?.split(';').next()).map(str::trim);
    let json = essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    let none = kind.is_none()
        && !headers.contains_key(TRANSFER_ENCODING)
        && headers.get(CONTENT_LENGTH).is_none_or(|length| length == "0")
        && parts.version != Version::HTTP_2;
    if json && second.is_none() || none {
        return Ok(());
    }
    refused(
        Reason::ContentType,
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "a body has to be JSON and say so: Content-Type: application/json",
    )
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    const LOOPBACK: Door = Door::Tcp { tls: false, loopback: true };
    const NETWORK: Door = Door::Tcp { tls: false, loopback: false };

    fn asked(door: &Door, method: Method, version: Version, fields: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().method(method).version(version).uri("/api/v1/search");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check(&parts, door, &["gnomon.example".to_owned()]).map_or_else(|r| r.status.as_u16(), |()| 200)
    }

    fn got(door: &Door, fields: &[(&str, &str)]) -> u16 {
        asked(door, Method::GET, Version::HTTP_11, fields)
    }

    #[test]
    fn a_host_is_said_once_and_is_ours() {
        for host in ["localhost", "LOCALHOST:7441", "127.0.0.1:7441", "[::1]:7441", "gnomon.example:80"] {
            assert_eq!(got(&LOOPBACK, &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "10.0.0.1", "localhost,evil", "[::2]"] {
            assert_eq!(got(&LOOPBACK, &[("host", host)]), 421, "{host}");
        }
        for host in ["", "a b", "x@localhost", "localhost:7441/x", "::1"] {
            assert_eq!(got(&LOOPBACK, &[("host", host)]), 400, "{host:?}");
        }
        assert_eq!(got(&LOOPBACK, &[]), 400);
        assert_eq!(got(&LOOPBACK, &[("host", "localhost"), ("host", "localhost")]), 400);
        assert_eq!(
            (got(&NETWORK, &[("host", "10.0.0.1")]), got(&NETWORK, &[("host", "e.example")])),
            (200, 421)
        );
        assert_eq!(got(&Door::Tcp { tls: true, loopback: true }, &[("host", "e.example")]), 200);
        assert_eq!(got(&Door::Unix, &[("host", "whatever")]), 200);
        let grpc = [("host", "e.example"), ("content-type", "application/grpc")];
        // No browser speaks HTTP/2 in plain text: that is an agent, by whatever name its forwarder has.
        let post = |door, version| asked(door, Method::POST, version, &grpc);
        assert_eq!((post(&LOOPBACK, Version::HTTP_2), post(&NETWORK, Version::HTTP_2)), (200, 200));
        assert_eq!((post(&LOOPBACK, Version::HTTP_11), post(&NETWORK, Version::HTTP_11)), (421, 421));
    }

    #[test]
    fn pages_of_others_are_refused() {
        let with = |name, value| got(&LOOPBACK, &[("host", "localhost:7441"), (name, value)]);
        assert_eq!(with("origin", "http://localhost:7441"), 200);
        for origin in
            ["http://evil.example", "null", "http://localhost", "file://", "http://localhost:7441.evil"]
        {
            assert_eq!(with("origin", origin), 403, "{origin}");
        }
        for (site, status) in [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)] {
            assert_eq!(with("sec-fetch-site", site), status, "{site}");
        }
    }

    #[test]
    fn a_body_is_json() {
        let with = |kind, length| {
            let fields = [("host", "localhost"), ("content-type", kind), ("content-length", length)];
            asked(&LOOPBACK, Method::POST, Version::HTTP_11, &fields)
        };
        assert_eq!((with("application/json", "5"), with("application/json; charset=utf-8", "5")), (200, 200));
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/jsonx",
        ] {
            assert_eq!(with(kind, "5"), 415, "{kind}");
        }
        let none = |length| {
            asked(
                &LOOPBACK,
                Method::POST,
                Version::HTTP_11,
                &[("host", "localhost"), ("content-length", length)],
            )
        };
        assert_eq!((none("0"), none("5")), (200, 415));
    }
}
