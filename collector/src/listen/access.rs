//! What a caller may do, by who it is: agents send, clients ask.

use gnomon_daemon::certificate::Role;

use super::identity::Identity;
use super::refusal::Reason;
use crate::config::WithoutRole;

/// What a path is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Anybody: health and metrics.
    Nothing,
    /// Sends what was captured.
    Ingest,
    /// Asks for what was captured.
    Query,
    /// Changes what the collector goes by: this host's root and the collector's own user.
    Administer,
}

impl Need {
    pub(super) fn of(path: &str) -> Need {
        let open = ["/healthz", "/readyz", "/metrics"].contains(&path);
        if open || path.starts_with("/grpc.health.v1.Health/") {
            Need::Nothing
        } else if path.starts_with("/gnomon.v1.Ingest/") {
            Need::Ingest
        } else if path.starts_with("/gnomon.v1.Admin/") {
            Need::Administer
        } else {
            Need::Query
        }
    }
}

/// The rules of one door.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Access {
    /// The door speaks TLS.
    pub(super) tls: bool,
    pub(super) people_need_certificate: bool,
    pub(super) without_role: WithoutRole,
    /// This process' own user.
    pub(super) own_uid: u32,
}

impl Access {
    /// Why `identity` may not, in words for whoever it is.
    pub(super) fn check(&self, identity: &Identity, need: Need) -> Result<(), (Reason, String)> {
        if need == Need::Nothing {
            return Ok(());
        }
        if need == Need::Administer {
            return match identity {
                Identity::Local { uid } if *uid == 0 || *uid == self.own_uid => Ok(()),
                _ => {
                    let text = "only root and the collector's own user may, through the Unix socket";
                    Err((Reason::User, text.to_owned()))
                }
            };
        }
        match identity {
            Identity::Local { .. } => Ok(()),
            Identity::Anonymous if !self.tls => Ok(()),
            Identity::Anonymous if need == Need::Query && !self.people_need_certificate => Ok(()),
            Identity::Anonymous => {
                let (who, flag) = match need {
                    Need::Ingest => ("agents need", "--agent"),
                    _ => ("you need", "--client"),
                };
                let text = format!(
                    "{who} a certificate of this collector's CA: make one with `gnomon-collector certs {flag} NAME`"
                );
                Err((Reason::NoCertificate, text))
            }
            Identity::Certificate(certificate) => {
                let (agent, client) = match (certificate.role, self.without_role) {
                    (Some(Role::Agent), _) | (None, WithoutRole::Agent) => (true, false),
                    (Some(Role::Client), _) | (None, WithoutRole::Client) => (false, true),
                    (Some(Role::Collector), _) | (None, WithoutRole::Refuse) => (false, false),
                    (None, WithoutRole::Both) => (true, true),
                };
                if need == Need::Ingest && agent || need == Need::Query && client {
                    return Ok(());
                }
                let to =
                    if need == Need::Ingest { "send what was captured" } else { "ask for what was captured" };
                let advice = match certificate.role {
                    None => ": see tls.without_role in the collector's configuration",
                    Some(_) => "",
                };
                Err((Reason::Role, format!("{certificate} may not {to}{advice}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gnomon_daemon::certificate::Certificate;

    use super::*;

    fn certificate(role: Option<Role>) -> Identity {
        Identity::Certificate(Arc::new(Certificate {
            name: "x".to_owned(),
            role,
            fingerprint: [0; 32],
            not_before_unix_s: 0,
            not_after_unix_s: 1,
        }))
    }

    #[test]
    fn agents_send_and_clients_ask() {
        let tls = Access { tls: true, people_need_certificate: true, ..Access::default() };
        let may = |access: &Access, identity: &Identity| {
            [Need::Ingest, Need::Query, Need::Administer, Need::Nothing]
                .map(|need| access.check(identity, need).is_ok())
        };
        assert_eq!(may(&tls, &certificate(Some(Role::Agent))), [true, false, false, true]);
        assert_eq!(may(&tls, &certificate(Some(Role::Client))), [false, true, false, true]);
        assert_eq!(may(&tls, &certificate(Some(Role::Collector))), [false, false, false, true]);
        assert_eq!(may(&tls, &certificate(None)), [false, false, false, true]);
        let both = Access { without_role: WithoutRole::Both, ..tls };
        assert_eq!(may(&both, &certificate(None)), [true, true, false, true]);
        assert_eq!(may(&both, &certificate(Some(Role::Agent))), [true, false, false, true]);
        assert_eq!(may(&tls, &Identity::Anonymous), [false, false, false, true]);
        let open = Access { people_need_certificate: false, ..tls };
        assert_eq!(may(&open, &Identity::Anonymous), [false, true, false, true]);
        assert_eq!(may(&Access::default(), &Identity::Anonymous), [true, true, false, true]);
        let own = Access { own_uid: 7, ..Access::default() };
        assert_eq!(may(&own, &Identity::Local { uid: 7 }), [true, true, true, true]);
        assert_eq!(may(&own, &Identity::Local { uid: 0 }), [true, true, true, true]);
        assert_eq!(may(&own, &Identity::Local { uid: 8 }), [true, true, false, true]);
    }

    #[test]
    fn paths_have_their_needs() {
        for (path, need) in [
            ("/healthz", Need::Nothing),
            ("/metrics", Need::Nothing),
            ("/grpc.health.v1.Health/Check", Need::Nothing),
            ("/gnomon.v1.Ingest/Stream", Need::Ingest),
            ("/gnomon.v1.Query/Search", Need::Query),
            ("/gnomon.v1.Admin/ReleaseAgent", Need::Administer),
            ("/api/v1/search", Need::Query),
            ("/metrics/", Need::Query),
            ("//gnomon.v1.Ingest/Stream", Need::Query),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Need::Query),
        ] {
            assert_eq!(Need::of(path), need, "{path}");
        }
    }
}
