//! Where an export goes, as it is typed.

use std::fmt;

use gnomon_export::Format;
use http::Uri;

use crate::exit::Usage;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    StandardOutput,
    File(String),
    /// `host:port`.
    Tcp(String),
    Udp(String),
    Http {
        authority: String,
        path: String,
    },
}

impl Target {
    /// Of `--write` and `--to`, and whether the form can go there.
    pub(crate) fn parse(write: Option<&str>, to: Option<&str>, format: Format) -> Result<Target, Usage> {
        let target = match (write, to) {
            (_, Some(url)) => Target::of_url(url)?,
            (None | Some("-"), None) => Target::StandardOutput,
            (Some(path), None) => Target::File(path.to_owned()),
        };
        match &target {
            Target::Udp(_) if format.has_header() => Err(Usage(format!(
                "{} begins with a line that a lost datagram may take along: try zeek-json, or tcp://",
                format.name()
            ))),
            Target::Http { .. } if !format.is_json_lines() => Err(Usage(format!(
                "{} is not sent over HTTP: jsonl, zeek-json, ecs and eve are",
                format.name()
            ))),
            _ => Ok(target),
        }
    }

    fn of_url(url: &str) -> Result<Target, Usage> {
        let bad = |why: &str| {
            Usage(format!(
                "--to {url:?}: {why}; write tcp://HOST:PORT, udp://HOST:PORT or http://HOST:PORT/PATH"
            ))
        };
        let uri: Uri = url.parse().map_err(|error| bad(&format!("{error}")))?;
        let authority = uri.authority().ok_or_else(|| bad("no host"))?.as_str();
        if authority.contains('@') {
            return Err(bad("a user and password are not sent in clear text"));
        }
        let scheme = uri.scheme_str().unwrap_or_default();
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        match scheme {
            "http" => {
                let port = if uri.port().is_some() { "" } else { ":80" };
                Ok(Target::Http { authority: format!("{authority}{port}"), path: path.to_owned() })
            }
            "tcp" | "udp" if uri.port_u16().is_none() => Err(bad("no port")),
            "tcp" | "udp" if !matches!(path, "" | "/") => Err(bad("a path means nothing there")),
            "tcp" => Ok(Target::Tcp(authority.to_owned())),
            "udp" => Ok(Target::Udp(authority.to_owned())),
            "https" => Err(bad("https is not spoken: send to a forwarder on this machine")),
            other => Err(bad(&format!("{other:?} is none of tcp, udp and http"))),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::StandardOutput => f.write_str("standard output"),
            Target::File(path) => f.write_str(path),
            Target::Tcp(address) => write!(f, "tcp://{address}"),
            Target::Udp(address) => write!(f, "udp://{address}"),
            Target::Http { authority, path } => write!(f, "http://{authority}{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_they_are_typed() {
        let of = |url| Target::parse(None, Some(url), Format::Ecs);
        assert_eq!(of("tcp://[::1]:514").ok(), Some(Target::Tcp("[::1]:514".to_owned())));
        assert_eq!(of("udp://host:4739").map(|t| t.to_string()).ok().as_deref(), Some("udp://host:4739"));
        let http = Target::Http { authority: "elastic:80".to_owned(), path: "/a/_bulk?x=1".to_owned() };
        assert_eq!(of("http://elastic/a/_bulk?x=1").ok(), Some(http));
        for bad in [
            "",
            "host:1",
            "tcp://host",
            "tcp://h:1/x",
            "https://h/",
            "ftp://h:1",
            "http://u:p@h/",
            "tcp://:x",
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
        assert!(Target::parse(None, Some("udp://h:1"), Format::Zeek).is_err());
        assert!(Target::parse(None, Some("http://h:1"), Format::Ipfix).is_err());
        assert_eq!(Target::parse(Some("-"), None, Format::Csv).ok(), Some(Target::StandardOutput));
    }
}
