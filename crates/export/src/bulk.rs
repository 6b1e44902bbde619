//! Elasticsearch's bulk form: an action before each document, and an answer with a status for each.

use gnomon_flow::StoredFlow;
use serde_json::{Value, json};

/// The line before a document. The id is the record's own, so that what is sent twice is there once.
pub fn bulk_action(flow: &StoredFlow) -> String {
    let id = if flow.record.is_interim() {
        format!("{}.{}", flow.id(), flow.record.revision)
    } else {
        flow.id().to_string()
    };
    json!({"create": {"_id": id}}).to_string()
}

/// What became of the documents of a bulk request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BulkAnswer {
    /// Refused for good, and the first reason.
    pub refused: u64,
    pub reason: Option<String>,
    /// To be sent again: the cluster was too busy (429) or failed (5xx).
    pub again: Vec<usize>,
}

impl BulkAnswer {
    /// `None` when it is no answer to a bulk request.
    pub fn read(body: &[u8]) -> Option<BulkAnswer> {
        let answer: Value = serde_json::from_slice(body).ok()?;
        let mut read = BulkAnswer::default();
        if !answer.get("errors")?.as_bool()? {
            return Some(read);
        }
        for (index, item) in answer.get("items")?.as_array()?.iter().enumerate() {
            let Some(item) = item.as_object().and_then(|item| item.values().next()) else { continue };
            match item.get("status").and_then(Value::as_u64).unwrap_or(0) {
                // 409: it is there already.
                200..=299 | 409 => {}
                429 | 500..=599 => read.again.push(index),
                status => {
                    read.refused += 1;
                    read.reason.get_or_insert_with(|| {
                        let why = item
                            .pointer("/error/reason")
                            .and_then(Value::as_str)
                            .unwrap_or("no reason given");
                        format!("status {status}: {why}")
                    });
                }
            }
        }
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_already_is_no_error_and_what_was_too_much_comes_again() {
        let items = json!([
            {"create": {"status": 201}},
            {"create": {"status": 409, "error": {"reason": "version conflict"}}},
            {"create": {"status": 429, "error": {"reason": "queue full"}}},
            {"create": {"status": 400, "error": {"reason": "no such field"}}},
        ]);
        let body = json!({"took": 1, "errors": true, "items": items}).to_string();
        let read = BulkAnswer::read(body.as_bytes()).expect("an answer");
        assert_eq!((read.refused, read.reason.as_deref()), (1, Some("status 400: no such field")));
        assert_eq!(read.again, [2]);
        assert_eq!(BulkAnswer::read(b"{\"errors\": false, \"items\": []}"), Some(BulkAnswer::default()));
        assert_eq!(BulkAnswer::read(b"<html>"), None);
    }
}
