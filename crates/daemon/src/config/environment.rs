//! The environment: `GNOMON_<PROGRAM>_<SECTION>_<KEY>`, resolved against the schema, never guessed.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::schema::Node;
use super::{ConfigError, Origin, suggest};

/// Not a key: names the config file itself; the program's flags read it.
const CONFIG_FILE: &str = "CONFIG";

pub(super) struct Setting {
    pub(super) variable: String,
    pub(super) key: String,
    pub(super) text: String,
}

pub(super) fn variable_name(program: &str, key: &str) -> String {
    let key: String =
        key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    format!("{}{key}", prefix(program))
}

fn prefix(program: &str) -> String {
    let program = program.strip_prefix("gnomon-").unwrap_or(program);
    format!("GNOMON_{}_", program.replace('-', "_").to_ascii_uppercase())
}

/// The settings for `program` in `environment`, sorted by variable. A variable with our prefix that is no key is an
/// error: it was meant to do something.
pub(super) fn settings(
    program: &str,
    schema: &Node,
    renamed: &[(&str, &str)],
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<Setting>, ConfigError> {
    let prefix = prefix(program);
    let keys = schema.keys();
    let mut by_variable: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for key in &keys {
        by_variable.entry(variable_name(program, &key.path)).or_default().push(&key.path);
    }
    let mut settings = Vec::new();
    for (variable, text) in environment {
        let Some(variable) = variable.to_str().filter(|name| name.starts_with(&prefix)).map(str::to_owned)
        else {
            continue;
        };
        let key = match by_variable.get(&variable).map(Vec::as_slice) {
            Some([key]) => (*key).to_owned(),
            Some(keys) => {
                let message =
                    format!("means each of {}: set them in the file or by --set", keys.join(" and "));
                return Err(ConfigError::Invalid {
                    key: variable.clone(),
                    origin: Origin::Env(variable),
                    message,
                });
            }
            None if is_foreign(&variable[prefix.len()..], &text.to_string_lossy()) => continue,
            None => return Err(unknown(program, &variable, &keys, renamed)),
        };
        let text = text.into_string().map_err(|_| ConfigError::NotUtf8 { variable: variable.clone() })?;
        settings.push(Setting { variable, key, text });
    }
    settings.sort_by(|a, b| a.variable.cmp(&b.variable));
    Ok(settings)
}

fn unknown(
    program: &str,
    variable: &str,
    keys: &[super::schema::Key<'_>],
    renamed: &[(&str, &str)],
) -> ConfigError {
    let origin = Origin::Env(variable.to_owned());
    if let Some((old, new)) = renamed.iter().find(|(old, _)| variable_name(program, old) == variable) {
        let new = variable_name(program, new);
        return ConfigError::Renamed { origin, old: (*old).to_owned(), new };
    }
    let names: Vec<String> = keys.iter().map(|key| variable_name(program, &key.path)).collect();
    ConfigError::UnknownKey {
        origin,
        nearest: suggest::nearest(variable, &names, &[]),
        key: variable.to_owned(),
        keys: format!("the variables are: {}", names.join(", ")),
    }
}

/// Variables with our prefix that others set. Kubernetes describes every Service to every pod of a namespace in
/// variables named after the Service (kubernetes.io, "Accessing the Service": `NAME_SERVICE_HOST`, and the Docker
/// link forms `NAME_PORT`, `NAME_PORT_80_TCP_ADDR`), so a Service called gnomon-collector must not stop a collector.
fn is_foreign(name: &str, text: &str) -> bool {
    let name = format!("_{name}");
    let link = |rest: &str| {
        let mut parts = rest.split('_');
        let port = parts.next().is_some_and(|port| port.parse::<u16>().is_ok());
        let protocol = parts.next().is_some_and(|protocol| matches!(protocol, "TCP" | "UDP" | "SCTP"));
        port && protocol && matches!(parts.next(), None | Some("PROTO" | "PORT" | "ADDR"))
    };
    name == format!("_{CONFIG_FILE}")
        || name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && text.contains("://"))
        || name.match_indices("_PORT_").any(|(at, found)| link(&name[at + found.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_variables_after_the_path() {
        assert_eq!(variable_name("gnomon-agent", "spool.bytes_max"), "GNOMON_AGENT_SPOOL_BYTES_MAX");
        assert_eq!(variable_name("agent", "spool.bytes_max"), "GNOMON_AGENT_SPOOL_BYTES_MAX");
    }

    #[test]
    fn knows_what_kubernetes_injects() {
        for name in [
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_GRPC",
            "PORT",
            "PORT_4317_TCP",
            "PORT_4317_TCP_ADDR",
            "QUERY_PORT_443_TCP_PROTO",
            "QUERY_SERVICE_HOST",
            "CONFIG",
        ] {
            assert!(is_foreign(name, "tcp://10.0.0.1:4317"), "{name}");
        }
        for name in ["SPOOL_BYTES", "PORT_RANGE", "SUPPORT_X", "PORT_4317_XYZ"] {
            assert!(!is_foreign(name, "tcp://10.0.0.1:4317"), "{name}");
        }
        assert!(!is_foreign("HTTP_PORT", "8080"), "a person's mistake, not an injected variable");
    }
}
