//! What can be wrong with a message that is well-formed protobuf.

/// A message that means nothing: which field, and what it should have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct WireError {
    pub field: &'static str,
    pub problem: String,
}

impl WireError {
    pub fn new(field: &'static str, problem: impl Into<String>) -> WireError {
        WireError { field, problem: problem.into() }
    }

    pub(crate) fn missing(field: &'static str) -> WireError {
        WireError::new(field, "is missing")
    }
}

/// Bytes of a fixed length.
pub(crate) fn array<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], WireError> {
    <[u8; N]>::try_from(bytes)
        .map_err(|_| WireError::new(field, format!("has {} bytes, not {N}", bytes.len())))
}

/// A number that protobuf carries wider than it is.
pub(crate) fn narrow<T: TryFrom<u32>>(field: &'static str, value: u32) -> Result<T, WireError> {
    T::try_from(value).map_err(|_| WireError::new(field, format!("{value} is out of range")))
}
