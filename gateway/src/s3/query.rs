//! The query of a request, decoded once: pairs in the order in which they came.
//!
//! Signing works on the raw query; this is what handlers and the routing table read.

use percent_encoding::percent_decode;

use super::error::{Code, S3Error};

/// Most pairs that a query may have: S3 itself knows about thirty names.
const PAIRS_MAX: usize = 128;

/// Decoded pairs of a query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Decodes a raw query, without its `?`. A `+` is a space, as in forms and at AWS.
    ///
    /// # Errors
    /// `InvalidURI` for what is not UTF-8, `InvalidArgument` for too many pairs.
    pub fn parse(raw: &str) -> Result<Self, S3Error> {
        let mut pairs = Vec::new();
        for part in raw.split('&').filter(|part| !part.is_empty()) {
            if pairs.len() == PAIRS_MAX {
                return Err(S3Error::new(Code::InvalidArgument, "The query has too many parameters."));
            }
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            pairs.push((decode(name)?, decode(value)?));
        }
        Ok(Self { pairs })
    }

    /// The value of the first pair with this name; empty for a name without a value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// Is there a pair with this name?
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// All pairs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

fn decode(raw: &str) -> Result<String, S3Error> {
    if !raw.bytes().any(|b| b == b'%' || b == b'+') {
        return Ok(raw.to_owned());
    }
    let spaced = raw.replace('+', " ");
    let bytes = percent_decode(spaced.as_bytes()).decode_utf8();
    bytes.map(std::borrow::Cow::into_owned).map_err(|_| S3Error::new(Code::InvalidURI, "The query is not UTF-8."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded_once() {
        let query = Query::parse("uploads&prefix=a%2Bb+c&x==&%C3%A9=%25&empty=").unwrap();
        assert!(query.has("uploads"));
        assert_eq!(query.get("uploads"), Some(""));
        assert_eq!(query.get("prefix"), Some("a+b c"));
        assert_eq!(query.get("x"), Some("="));
        assert_eq!(query.get("é"), Some("%"));
        assert_eq!(query.get("empty"), Some(""));
        assert_eq!(query.get("none"), None);
    }

    #[test]
    fn what_is_not_utf8_or_too_long_is_refused() {
        assert_eq!(Query::parse("prefix=%ff").unwrap_err().code, Code::InvalidURI);
        assert!(Query::parse(&"a&".repeat(PAIRS_MAX)).is_ok());
        assert_eq!(Query::parse(&"a&".repeat(PAIRS_MAX + 1)).unwrap_err().code, Code::InvalidArgument);
    }
}
