//! Conditional requests: of reads (RFC 9110, with S3's answers), of copy sources, and of writes.
//!
//! Whoever judges a write must hold its key exclusively, or the condition may have stopped being true before the op.

use http::HeaderMap;
use lockstep_storage::op::Object;

use crate::s3::{Code, S3Error};

/// What a condition says about a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Answer it.
    Go,
    /// The client has it already.
    NotModified,
    /// The named condition does not hold.
    Failed(&'static str),
}

/// Conditions of a read, as the headers say them.
#[derive(Debug, Clone, Copy, Default)]
#[allow(clippy::struct_field_names, reason = "each field is named as its header")]
pub struct Conditions<'a> {
    if_match: Option<&'a str>,
    if_none_match: Option<&'a str>,
    if_modified_since: Option<u64>,
    if_unmodified_since: Option<u64>,
}

fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Seconds since 1970; a date that is none is no condition.
fn date(headers: &HeaderMap, name: &str) -> Option<u64> {
    let time = httpdate::parse_http_date(value(headers, name)?.trim()).ok()?;
    time.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// Does one of the ETags in the header, or its `*`, match? Quotes are optional, as at AWS.
fn names(header: &str, etag: &str) -> bool {
    header.split(',').map(str::trim).any(|one| {
        let one = one.strip_prefix("W/").unwrap_or(one);
        one == "*" || one.trim_matches('"') == etag
    })
}

impl<'a> Conditions<'a> {
    /// Of the object that a GET or HEAD asks for.
    #[must_use]
    pub fn of_read(headers: &'a HeaderMap) -> Self {
        Self {
            if_match: value(headers, "if-match"),
            if_none_match: value(headers, "if-none-match"),
            if_modified_since: date(headers, "if-modified-since"),
            if_unmodified_since: date(headers, "if-unmodified-since"),
        }
    }

    /// Of the object that a copy is made from.
    #[must_use]
    pub fn of_copy_source(headers: &'a HeaderMap) -> Self {
        Self {
            if_match: value(headers, "x-amz-copy-source-if-match"),
            if_none_match: value(headers, "x-amz-copy-source-if-none-match"),
            if_modified_since: date(headers, "x-amz-copy-source-if-modified-since"),
            if_unmodified_since: date(headers, "x-amz-copy-source-if-unmodified-since"),
        }
    }

    /// Judges an object. An ETag condition that holds outranks the date that goes with it.
    #[must_use]
    pub fn judge(&self, object: &Object) -> Judgement {
        let modified = object.modified_ms / 1000;
        match (self.if_match, self.if_unmodified_since) {
            (Some(etags), _) if !names(etags, &object.etag) => return Judgement::Failed("If-Match"),
            (None, Some(date)) if modified > date => return Judgement::Failed("If-Unmodified-Since"),
            _ => {}
        }
        match (self.if_none_match, self.if_modified_since) {
            (Some(etags), _) if names(etags, &object.etag) => Judgement::NotModified,
            (None, Some(date)) if modified <= date => Judgement::NotModified,
            _ => Judgement::Go,
        }
    }

    /// As [`Conditions::judge`] for a copy source, of which nobody has a copy already.
    ///
    /// # Errors
    /// `PreconditionFailed`.
    pub fn require(&self, object: &Object) -> Result<(), S3Error> {
        match self.judge(object) {
            Judgement::Go => Ok(()),
            Judgement::NotModified => Err(failed("x-amz-copy-source-If-None-Match")),
            Judgement::Failed(condition) => Err(failed(condition)),
        }
    }
}

/// 412 that names the condition.
#[must_use]
pub fn failed(condition: &'static str) -> S3Error {
    S3Error::from(Code::PreconditionFailed).with_detail("Condition", condition)
}

/// Conditions of a write, on the object that it would replace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteCondition {
    if_match: Option<String>,
    if_none_match: Option<String>,
}

impl WriteCondition {
    /// Reads the headers.
    #[must_use]
    pub fn parse(headers: &HeaderMap) -> Self {
        let text = |name| value(headers, name).map(str::to_owned);
        Self { if_match: text("if-match"), if_none_match: text("if-none-match") }
    }

    /// What is there must have this ETag.
    #[must_use]
    pub fn if_match(etag: String) -> Self {
        Self { if_match: Some(etag), if_none_match: None }
    }

    /// Is there one?
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.if_match.is_some() || self.if_none_match.is_some()
    }

    /// Judges what is there.
    ///
    /// # Errors
    /// `NoSuchKey` where If-Match finds nothing, `PreconditionFailed`.
    pub fn judge(&self, current: Option<&Object>) -> Result<(), S3Error> {
        match (&self.if_match, current) {
            (Some(_), None) => return Err(Code::NoSuchKey.into()),
            (Some(etags), Some(object)) if !names(etags, &object.etag) => return Err(failed("If-Match")),
            _ => {}
        }
        match (&self.if_none_match, current) {
            (Some(etags), Some(object)) if names(etags, &object.etag) => Err(failed("If-None-Match")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("name"), HeaderValue::from_str(value).expect("value")))
            .collect()
    }

    fn object() -> Object {
        // Saturday, 28 Oct 2023 10:33:19.500 GMT.
        Object { etag: "abc".into(), modified_ms: 1_698_489_199_500, ..Object::default() }
    }

    const AT: &str = "Sat, 28 Oct 2023 10:33:19 GMT";
    const BEFORE: &str = "Sat, 28 Oct 2023 10:33:18 GMT";

    #[test]
    fn reads_are_judged_as_rfc_9110_orders_it() {
        let judge = |pairs: &[(&'static str, &str)]| Conditions::of_read(&headers(pairs)).judge(&object());
        assert_eq!(judge(&[]), Judgement::Go);
        assert_eq!(judge(&[("if-match", "\"abc\"")]), Judgement::Go);
        assert_eq!(judge(&[("if-match", "abc")]), Judgement::Go);
        assert_eq!(judge(&[("if-match", "\"x\", \"abc\"")]), Judgement::Go);
        assert_eq!(judge(&[("if-match", "\"x\"")]), Judgement::Failed("If-Match"));
        assert_eq!(judge(&[("if-unmodified-since", BEFORE)]), Judgement::Failed("If-Unmodified-Since"));
        assert_eq!(judge(&[("if-unmodified-since", AT)]), Judgement::Go);
        assert_eq!(judge(&[("if-match", "*"), ("if-unmodified-since", BEFORE)]), Judgement::Go);
        assert_eq!(judge(&[("if-none-match", "W/\"abc\"")]), Judgement::NotModified);
        assert_eq!(judge(&[("if-none-match", "\"x\"")]), Judgement::Go);
        assert_eq!(judge(&[("if-modified-since", AT)]), Judgement::NotModified);
        assert_eq!(judge(&[("if-modified-since", BEFORE)]), Judgement::Go);
        assert_eq!(judge(&[("if-none-match", "\"x\""), ("if-modified-since", AT)]), Judgement::Go);
        assert_eq!(judge(&[("if-modified-since", "yesterday")]), Judgement::Go);
    }

    #[test]
    fn writes_are_judged_on_what_they_would_replace() {
        let judge = |pairs: &[(&'static str, &str)], current| {
            WriteCondition::parse(&headers(pairs)).judge(current).map_err(|error| error.code)
        };
        let there = object();
        assert_eq!(judge(&[("if-none-match", "*")], None), Ok(()));
        assert_eq!(judge(&[("if-none-match", "*")], Some(&there)), Err(Code::PreconditionFailed));
        assert_eq!(judge(&[("if-none-match", "\"x\"")], Some(&there)), Ok(()));
        assert_eq!(judge(&[("if-match", "\"abc\"")], Some(&there)), Ok(()));
        assert_eq!(judge(&[("if-match", "\"x\"")], Some(&there)), Err(Code::PreconditionFailed));
        assert_eq!(judge(&[("if-match", "*")], None), Err(Code::NoSuchKey));
        assert!(!WriteCondition::parse(&headers(&[])).is_some());
    }
}
