//! What a request asks, read from its query string and its JSON body by the table of routes: what the table does not
//! name is refused, because a misspelt parameter would change the question silently.

use gnomon_clock::UtcNs;
use gnomon_expression::{moment, relative_ns};
use serde_json::Value;

use super::routes::{Kind, Parameter, Route};
use crate::query::{QueryError, TimeRange};

/// The parameters of one request.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    values: Vec<(&'static Parameter, String)>,
}

impl Parameters {
    /// From the decoded pairs of the query string and from the body, which is a JSON object or empty.
    pub(super) fn read(
        route: &'static Route,
        pairs: Vec<(String, String)>,
        body: &[u8],
    ) -> Result<Parameters, QueryError> {
        let mut parameters = Parameters::default();
        for (name, value) in pairs {
            parameters.add(route, &name, value)?;
        }
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(parameters);
        }
        let object = match serde_json::from_slice(body) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return Err(invalid("body", "is no JSON object")),
            Err(error) => return Err(invalid("body", format!("is no JSON: {error}"))),
        };
        for (name, value) in object {
            let scalar = |value: Value| match value {
                Value::String(text) => Ok(text),
                Value::Number(number) => Ok(number.to_string()),
                Value::Bool(b) => Ok(b.to_string()),
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    Err(invalid("body", format!("{} is no text, number or bool", quoted(&name))))
                }
            };
            match value {
                Value::Null => {}
                Value::Array(list) => {
                    for value in list {
                        parameters.add(route, &name, scalar(value)?)?;
                    }
                }
                value => parameters.add(route, &name, scalar(value)?)?,
            }
        }
        Ok(parameters)
    }

    fn add(&mut self, route: &'static Route, name: &str, value: String) -> Result<(), QueryError> {
        let parameter =
            route.parameters.iter().find(|parameter| parameter.name == name).ok_or_else(|| {
                let known: Vec<&str> = route.parameters.iter().map(|parameter| parameter.name).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                invalid("parameter", format!("{} is unknown; there are {known}", quoted(name)))
            })?;
        let again = self.values.iter().any(|(known, _)| known.name == name);
        if again && parameter.kind != Kind::List {
            return Err(invalid(parameter.name, "is given twice"));
        }
        self.values.push((parameter, value));
        Ok(())
    }

    /// The text, or empty.
    pub(super) fn text(&self, name: &str) -> &str {
        self.values.iter().find(|(parameter, _)| parameter.name == name).map_or("", |(_, value)| value)
    }

    /// All values, those in one text separated by commas.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let values = self.values.iter().filter(|(parameter, _)| parameter.name == name);
        let items = values.flat_map(|(_, value)| value.split(',')).map(str::trim);
        items.filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    pub(super) fn flag(&self, name: &'static str) -> Result<bool, QueryError> {
        match self.text(name) {
            "" | "false" | "0" => Ok(false),
            "true" | "1" => Ok(true),
            other => Err(invalid(name, format!("{} is neither true nor false", quoted(other)))),
        }
    }

    /// The number, or 0.
    pub(super) fn number<T: TryFrom<u64>>(&self, name: &'static str) -> Result<T, QueryError> {
        let text = self.text(name);
        let number = if text.is_empty() { Some(0) } else { text.parse::<u64>().ok() };
        number
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| invalid(name, format!("{} is no whole number in range", quoted(text))))
    }

    /// A length of time in nanoseconds, or 0.
    pub(super) fn duration_ns(&self, name: &'static str) -> Result<u64, QueryError> {
        let text = self.text(name);
        let ns =
            if text.is_empty() { Some(0) } else { relative_ns(text).and_then(|ns| u64::try_from(ns).ok()) };
        ns.ok_or_else(|| invalid(name, format!("{} is no length of time: write 10s, 5m or 1h", quoted(text))))
    }

    /// `since`, `until` and `by_ingest_time`.
    pub(super) fn range(&self, now: UtcNs) -> Result<TimeRange, QueryError> {
        let time = |name: &'static str| match self.text(name) {
            "" => Ok(None),
            text => moment(text, now).map(Some).ok_or_else(|| {
                let forms = "write 2026-01-31T12:00:00Z, unix seconds, -1h or now";
                invalid(name, format!("{} is no time: {forms}", quoted(text)))
            }),
        };
        Ok(TimeRange {
            since: time("since")?,
            until: time("until")?,
            by_ingest: self.flag("by_ingest_time")?,
        })
    }
}

fn invalid(field: &'static str, problem: impl Into<String>) -> QueryError {
    QueryError::Invalid { field, problem: problem.into() }
}

/// What was sent, short enough to send back.
fn quoted(text: &str) -> String {
    let cut = text.floor_char_boundary(60);
    if cut < text.len() { format!("{:?}…", &text[..cut]) } else { format!("{text:?}") }
}
