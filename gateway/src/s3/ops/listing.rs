//! What the lists share: limits, tokens, URL encoding, owners.

use std::borrow::Cow;
use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lockstep_storage::image::View;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::s3::query::Query;
use crate::s3::xml::Writer;
use crate::s3::{Code, S3Error, S3Result};

/// What `encoding-type=url` encodes: everything but RFC 3986's unreserved characters and the slash.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// How names in a list are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Plain,
    /// URL-encoded, because XML cannot hold every key.
    Url,
}

impl Encoding {
    /// Reads `encoding-type`.
    ///
    /// # Errors
    /// `InvalidArgument` for another than url.
    pub fn parse(query: &Query) -> Result<Self, S3Error> {
        match query.get("encoding-type") {
            None | Some("") => Ok(Self::Plain),
            Some(name) if name.eq_ignore_ascii_case("url") => Ok(Self::Url),
            Some(_) => Err(S3Error::new(Code::InvalidArgument, "Invalid Encoding Method specified in Request")),
        }
    }

    /// A name as the list writes it.
    #[must_use]
    pub fn of(self, name: &str) -> Cow<'_, str> {
        match self {
            Self::Plain => Cow::Borrowed(name),
            Self::Url => utf8_percent_encode(name, ENCODED).into(),
        }
    }

    /// The element that says it.
    pub fn element(self, out: &mut Writer) {
        if self == Self::Url {
            out.text("EncodingType", "url");
        }
    }
}

/// A limit from the query, at most `max`, which is also what it is when it is not there.
///
/// # Errors
/// `InvalidArgument` for what is no number.
pub fn limit(query: &Query, name: &str, max: usize) -> Result<usize, S3Error> {
    let Some(text) = query.get(name).filter(|text| !text.is_empty()) else { return Ok(max) };
    match text.parse::<i32>() {
        Ok(number) if number >= 0 => Ok(usize::try_from(number).unwrap_or(max).min(max)),
        _ => {
            let message = format!("Argument {name} must be an integer between 0 and 2147483647");
            Err(S3Error::new(Code::InvalidArgument, message)
                .with_detail("ArgumentName", name)
                .with_detail("ArgumentValue", text))
        }
    }
}

/// A token for the place after a name. Opaque to clients.
#[must_use]
pub fn token_encode(name: &str) -> String {
    URL_SAFE_NO_PAD.encode(name)
}

/// The name in a token; an empty token is the start.
///
/// # Errors
/// `InvalidArgument` for what is no token.
pub fn token_decode(token: &str) -> Result<String, S3Error> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    let name = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    name.ok_or_else(|| S3Error::new(Code::InvalidArgument, "The continuation token provided is incorrect"))
}

/// An owner as lists name one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Canonical id.
    pub id: String,
    /// For people.
    pub display_name: String,
}

/// Owners by user name, each looked up once a list.
pub struct Owners<'a> {
    view: &'a View,
    known: HashMap<String, Owner>,
}

impl<'a> Owners<'a> {
    /// Knows nobody yet.
    #[must_use]
    pub fn new(view: &'a View) -> Self {
        Self { view, known: HashMap::new() }
    }

    /// The owner with this user name. A user who is gone is named by the user name.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn of(&mut self, user: &str) -> Result<Owner, S3Error> {
        if let Some(owner) = self.known.get(user) {
            return Ok(owner.clone());
        }
        let found = self.view.user(user)?.unwrap_or_default();
        let or_name = |text: String| if text.is_empty() { user.to_owned() } else { text };
        let owner = Owner { id: or_name(found.id), display_name: or_name(found.display_name) };
        self.known.insert(user.to_owned(), owner.clone());
        Ok(owner)
    }
}

/// An owner or initiator.
pub fn owner_element(out: &mut Writer, name: &'static str, owner: &Owner) {
    out.nest(name, |out| {
        out.text("ID", &owner.id).text("DisplayName", &owner.display_name);
    });
}

/// Runs what reads much away from the reactor.
///
/// # Errors
/// Those of `work`; `InternalError` if it panicked.
pub async fn on_blocking_thread(work: impl FnOnce() -> S3Result + Send + 'static) -> S3Result {
    tokio::task::spawn_blocking(work).await.map_err(|_| Code::InternalError)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_as_clients_decode_them() {
        let url = Encoding::parse(&Query::parse("encoding-type=url").expect("query")).expect("url");
        for (name, encoded) in [
            ("foo+1/bar", "foo%2B1/bar"),
            ("quux ab/thud", "quux%20ab/thud"),
            ("a&<>\n\u{1}", "a%26%3C%3E%0A%01"),
            ("é-._~*", "%C3%A9-._~%2A"),
        ] {
            assert_eq!(url.of(name), encoded);
            assert_eq!(Encoding::Plain.of(name), name);
        }
        assert!(Encoding::parse(&Query::parse("encoding-type=xml").expect("query")).is_err());
    }

    #[test]
    fn limits_are_capped_and_bad_ones_refused() {
        let of = |raw: &str| limit(&Query::parse(raw).expect("query"), "max-keys", 1000).map_err(|error| error.code);
        assert_eq!(of(""), Ok(1000));
        assert_eq!(of("max-keys=0"), Ok(0));
        assert_eq!(of("max-keys=7"), Ok(7));
        assert_eq!(of("max-keys=5000"), Ok(1000));
        assert_eq!(of("max-keys=-1"), Err(Code::InvalidArgument));
        assert_eq!(of("max-keys=blah"), Err(Code::InvalidArgument));
    }

    #[test]
    fn tokens_carry_any_key() {
        for name in ["", "a", "é/\u{1}&", &"k".repeat(1024)] {
            assert_eq!(token_decode(&token_encode(name)).expect("token"), name);
        }
        assert!(token_decode("no token!").is_err());
    }
}
