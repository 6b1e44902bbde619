//! An error and its causes in one line, for logs and for people.

use std::error::Error;

/// What `error` says, and its causes behind it, each once: many libraries repeat their cause in their own message.
pub fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    /// Says `0`; its cause is `1`.
    #[derive(Debug)]
    struct Link(&'static str, Option<Box<Link>>);

    impl fmt::Display for Link {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Link {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn each_cause_is_said_once() {
        let chain = |first, second, third| {
            let third = Link(third, None);
            in_one_line(&Link(first, Some(Box::new(Link(second, Some(Box::new(third)))))))
        };
        assert_eq!(chain("a", "b", "c"), "a: b: c");
        assert_eq!(chain("read x: gone", "gone", "os"), "read x: gone: os");
        assert_eq!(chain("read x: gone: os", "tried", "os"), "read x: gone: os: tried");
    }
}
