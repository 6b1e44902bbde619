//! Texts that people search for: an expression is read back as it is printed and asked of a record, an error stands where it
//! says.
#![no_main]

use gnomon_clock::UtcNs;
use gnomon_expression::{Predicate, parse};
use gnomon_flow::StoredFlow;

libfuzzer_sys::fuzz_target!(|text: &str| {
    match parse(text) {
        Ok(expression) => {
            Predicate::of(&expression, UtcNs::from_tai_ns(0)).matches(&StoredFlow::default());
            let printed = expression.to_string();
            // What is printed in full may be too long to be read.
            if printed.len() <= gnomon_expression::EXPRESSION_BYTES_MAX {
                assert_eq!(parse(&printed), Ok(expression), "{printed}");
            }
        }
        Err(error) => {
            assert!(error.column >= 1 && error.column <= text.chars().count() + 1, "{error}");
            let _ = error.caret(text);
        }
    }
});
