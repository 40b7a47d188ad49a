//! What a request says about itself: credential, scope, time, signed headers, signature, and how its payload is signed.
//!
//! Everything is checked here that needs no secret: form, scope, clock, expiry, and that nothing that counts is left unsigned.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use percent_encoding::percent_decode_str;

use super::{ALGORITHM, EMPTY_SHA256, EXPIRES_MAX_S, Head, SERVICE, SKEW_MAX_S, Timestamp};
use crate::s3::error::{Code, S3Error};

/// Where the signature stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// In the Authorization header.
    Header,
    /// In the query: a presigned URL.
    Query {
        /// Its life in seconds.
        expires_s: i64,
    },
}

/// A signature, taken apart.
#[derive(Debug, Clone)]
pub struct Claim<'a> {
    /// Where it stands.
    pub form: Form,
    /// Access key id.
    pub access_key: &'a str,
    /// Access key and scope: `AKID/20261124/us-east-1/s3/aws4_request`.
    pub(super) credential: &'a str,
    /// Scope: `20261124/us-east-1/s3/aws4_request`.
    pub(super) scope: &'a str,
    pub(super) region: &'a str,
    pub(super) signed_headers: &'a str,
    pub(super) signature: &'a str,
    /// When it was made.
    pub timestamp: Timestamp,
    payload_hash: Option<&'a str>,
    has_body: bool,
}

/// The parts of an Authorization header or of a presigned query, as text.
struct Parts<'a> {
    form: Form,
    credential: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
    timestamp: Timestamp,
}

/// The pairs of a presigned query that belong to the signature, decoded. Kept by the caller, because a claim borrows.
#[derive(Debug, Default)]
pub struct PresignedQuery<'a> {
    algorithm: Option<Cow<'a, str>>,
    credential: Option<Cow<'a, str>>,
    date: Option<Cow<'a, str>>,
    expires: Option<Cow<'a, str>>,
    signed_headers: Option<Cow<'a, str>>,
    signature: Option<Cow<'a, str>>,
    payload_hash: Option<Cow<'a, str>>,
    version_two: bool,
    twice: bool,
}

impl<'a> PresignedQuery<'a> {
    /// Finds them in a raw query.
    #[must_use]
    pub fn read(raw: &'a str) -> Self {
        let mut found = Self::default();
        for part in raw.split('&') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            // The version 2 form is `AWSAccessKeyId=…&Signature=…&Expires=…`.
            found.version_two |= name == "AWSAccessKeyId";
            let name = percent_decode_str(name).decode_utf8_lossy();
            let slot = match &*name {
                "X-Amz-Algorithm" => &mut found.algorithm,
                "X-Amz-Credential" => &mut found.credential,
                "X-Amz-Date" => &mut found.date,
                "X-Amz-Expires" => &mut found.expires,
                "X-Amz-SignedHeaders" => &mut found.signed_headers,
                "X-Amz-Signature" => &mut found.signature,
                "X-Amz-Content-Sha256" => &mut found.payload_hash,
                _ => continue,
            };
            found.twice |= slot.is_some();
            *slot = Some(percent_decode_str(value).decode_utf8_lossy());
        }
        found
    }

    /// Is it one of version 2?
    #[must_use]
    pub fn is_version_two(&self) -> bool {
        self.version_two && !self.is_there()
    }

    fn is_there(&self) -> bool {
        self.algorithm.is_some() || self.signature.is_some() || self.credential.is_some()
    }
}

impl<'a> Claim<'a> {
    /// Reads and checks what a request claims. `now_s` is seconds since 1970, `has_body` whether bytes may follow.
    ///
    /// # Errors
    /// `AccessDenied` without a signature; S3's codes for a malformed, outdated or incomplete one.
    pub fn read(
        head: &Head<'a>,
        presigned: &'a PresignedQuery<'a>,
        region: &str,
        now_s: i64,
        has_body: bool,
    ) -> Result<Self, S3Error> {
        let authorization = head.headers.get(AUTHORIZATION).filter(|value| !value.is_empty());
        let parts = match authorization {
            Some(_) if presigned.is_there() => {
                let message = "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query \
                               string parameter or the Authorization header should be specified";
                return Err(S3Error::new(Code::InvalidArgument, message));
            }
            Some(value) => {
                let text = value.to_str().map_err(|_| malformed_header("it is not ASCII"))?;
                from_header(text, head.headers)?
            }
            None if presigned.is_there() => from_query(presigned)?,
            None => return Err(Code::AccessDenied.into()),
        };
        let (access_key, scope) = parts.credential.split_once('/').ok_or_else(|| malformed(parts.form, CREDENTIAL))?;
        let claimed_region = check_scope(&parts, scope, region)?;
        check_clock(&parts, now_s)?;
        check_signed_headers(&parts, head.headers)?;
        let header_hash = text_header(head.headers, "x-amz-content-sha256")?;
        let query_hash = presigned.payload_hash.as_deref().filter(|_| parts.form != Form::Header);
        Ok(Self {
            form: parts.form,
            access_key,
            credential: parts.credential,
            scope,
            region: claimed_region,
            signed_headers: parts.signed_headers,
            signature: parts.signature,
            timestamp: parts.timestamp,
            payload_hash: header_hash.or(query_hash),
            has_body,
        })
    }

    /// What the client says of its payload: a digest or one of the words. Where it says nothing, an empty body has the
    /// digest of nothing, and any other is unsigned.
    #[must_use]
    pub fn payload_hash(&self) -> &'a str {
        match (self.payload_hash, self.form) {
            (Some(hash), _) => hash,
            (None, Form::Header) if !self.has_body => EMPTY_SHA256,
            (None, _) => "UNSIGNED-PAYLOAD",
        }
    }
}

const CREDENTIAL: &str =
    "the Credential is mal-formed; expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".";

fn malformed(form: Form, why: &str) -> S3Error {
    match form {
        Form::Header => malformed_header(why),
        Form::Query { .. } => malformed_query(why),
    }
}

fn malformed_header(why: &str) -> S3Error {
    S3Error::new(Code::AuthorizationHeaderMalformed, format!("The authorization header is malformed; {why}"))
}

fn malformed_query(why: &str) -> S3Error {
    S3Error::new(Code::AuthorizationQueryParametersError, format!("Error parsing the query parameters; {why}"))
}

fn version_two() -> S3Error {
    let message = "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.";
    S3Error::new(Code::InvalidRequest, message)
}

fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, S3Error> {
    let text = headers.get(name).map(|value| value.to_str());
    text.transpose().map_err(|_| S3Error::new(Code::InvalidArgument, format!("The header {name} is not ASCII.")))
}

/// `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`, in any order, with or without spaces.
fn from_header<'a>(text: &'a str, headers: &'a HeaderMap) -> Result<Parts<'a>, S3Error> {
    let (scheme, fields) = text.trim().split_once([' ', '\t']).unwrap_or((text.trim(), ""));
    if scheme != ALGORITHM {
        return Err(match scheme {
            "AWS" => version_two(),
            _ => S3Error::new(Code::InvalidArgument, "Unsupported Authorization Type"),
        });
    }
    let (mut credential, mut signed_headers, mut signature) = (None, None, None);
    for field in fields.split(',').map(str::trim).filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once('=').ok_or_else(|| malformed_header("a field has no value."))?;
        let slot = match name.trim() {
            "Credential" => &mut credential,
            "SignedHeaders" => &mut signed_headers,
            "Signature" => &mut signature,
            _ => return Err(malformed_header("it has an unknown field.")),
        };
        if slot.replace(value.trim()).is_some() {
            return Err(malformed_header("it has a field twice."));
        }
    }
    let timestamp = match text_header(headers, "x-amz-date")? {
        Some(date) => Timestamp::parse_http(date),
        None => text_header(headers, "date")?.and_then(Timestamp::parse_http),
    };
    let no_date = || S3Error::new(Code::AccessDenied, "AWS authentication requires a valid Date or x-amz-date header");
    Ok(Parts {
        form: Form::Header,
        credential: credential.ok_or_else(|| malformed_header("Credential is missing."))?,
        signed_headers: signed_headers.ok_or_else(|| malformed_header("SignedHeaders is missing."))?,
        signature: signature.ok_or_else(|| malformed_header("Signature is missing."))?,
        timestamp: timestamp.ok_or_else(no_date)?,
    })
}

fn from_query<'a>(query: &'a PresignedQuery<'a>) -> Result<Parts<'a>, S3Error> {
    let missing = || {
        let names =
            "X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires";
        let message = format!("Query-string authentication version 4 requires the {names} parameters.");
        S3Error::new(Code::AuthorizationQueryParametersError, message)
    };
    if query.twice {
        return Err(malformed_query("a parameter is there twice."));
    }
    if query.algorithm.as_deref().ok_or_else(missing)? != ALGORITHM {
        return Err(malformed_query("X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\"."));
    }
    let expires = query.expires.as_deref().ok_or_else(missing)?;
    let expires_s: i64 = expires.parse().map_err(|_| malformed_query("X-Amz-Expires should be a number."))?;
    // Ceph answers these with 403, and the common test suite expects that of everyone.
    if expires_s < 0 {
        return Err(S3Error::new(Code::AccessDenied, "X-Amz-Expires must be non-negative"));
    }
    if expires_s > EXPIRES_MAX_S {
        let message = "X-Amz-Expires must be less than a week (in seconds); that is, it must be at most 604800 seconds";
        return Err(S3Error::new(Code::AccessDenied, message));
    }
    let date = query.date.as_deref().ok_or_else(missing)?;
    let format = "X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\".";
    Ok(Parts {
        form: Form::Query { expires_s },
        credential: query.credential.as_deref().ok_or_else(missing)?,
        signed_headers: query.signed_headers.as_deref().ok_or_else(missing)?,
        signature: query.signature.as_deref().ok_or_else(missing)?,
        timestamp: Timestamp::parse(date).ok_or_else(|| malformed_query(format))?,
    })
}

/// Day, region, service and end of the scope. Returns the region.
fn check_scope<'a>(parts: &Parts<'_>, scope: &'a str, region: &str) -> Result<&'a str, S3Error> {
    let mut fields = scope.split('/');
    let (Some(day), Some(claimed), Some(service), Some(end), None) =
        (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(malformed(parts.form, CREDENTIAL));
    };
    if end != "aws4_request" {
        return Err(malformed(parts.form, "the credential should end in \"aws4_request\"."));
    }
    if service != SERVICE {
        let why = format!("incorrect service \"{service}\". This endpoint belongs to \"s3\".");
        return Err(malformed(parts.form, &why));
    }
    if claimed != region {
        let why = format!("the region '{claimed}' is wrong; expecting '{region}'");
        return Err(malformed(parts.form, &why).with_detail("Region", region));
    }
    if day != parts.timestamp.day() {
        let why = format!(
            "Invalid credential date \"{day}\". This date is not the same as X-Amz-Date: \"{}\".",
            parts.timestamp.day()
        );
        return Err(malformed(parts.form, &why));
    }
    Ok(claimed)
}

fn check_clock(parts: &Parts<'_>, now_s: i64) -> Result<(), S3Error> {
    let made_s = parts.timestamp.seconds();
    let iso = |seconds: i64| super::super::xml::iso8601(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
    match parts.form {
        Form::Header if (made_s - now_s).abs() > SKEW_MAX_S => Err(S3Error::from(Code::RequestTimeTooSkewed)
            .with_detail("RequestTime", parts.timestamp.text())
            .with_detail("ServerTime", iso(now_s))
            .with_detail("MaxAllowedSkewMilliseconds", (SKEW_MAX_S * 1000).to_string())),
        Form::Query { .. } if made_s - now_s > SKEW_MAX_S => {
            Err(S3Error::new(Code::AccessDenied, "Request is not yet valid").with_detail("ServerTime", iso(now_s)))
        }
        Form::Query { expires_s } if now_s >= made_s.saturating_add(expires_s) => {
            Err(S3Error::new(Code::AccessDenied, "Request has expired")
                .with_detail("X-Amz-Expires", expires_s.to_string())
                .with_detail("Expires", iso(made_s.saturating_add(expires_s)))
                .with_detail("ServerTime", iso(now_s)))
        }
        _ => Ok(()),
    }
}

/// Host and every `x-amz-` header must be signed: a handler acts on them.
fn check_signed_headers(parts: &Parts<'_>, headers: &HeaderMap) -> Result<(), S3Error> {
    let lower =
        |name: &str| !name.is_empty() && !name.bytes().any(|b| b.is_ascii_uppercase() || b.is_ascii_whitespace());
    if !parts.signed_headers.split(';').all(lower) {
        return Err(malformed(parts.form, "SignedHeaders must be lower-case names, separated by semicolons."));
    }
    // Each name brings its header's value into the canonical request: one that stood there a thousand times would make
    // megabytes to digest out of a small head, for whoever knows an access key's id.
    let mut names: Vec<&str> = parts.signed_headers.split(';').collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(malformed(parts.form, "SignedHeaders must not name a header twice."));
    }
    let signed = |name: &str| parts.signed_headers.split(';').any(|have| have == name);
    if !signed("host") {
        return Err(malformed(parts.form, "SignedHeaders must contain host."));
    }
    let unsigned = headers.keys().find(|name| name.as_str().starts_with("x-amz-") && !signed(name.as_str()));
    match unsigned {
        None => Ok(()),
        Some(name) => {
            let message = "There were headers present in the request which were not signed";
            Err(S3Error::new(Code::AccessDenied, message).with_detail("HeadersNotSigned", name.as_str()))
        }
    }
}
