//! Signatures, with aws-sigv4 as the oracle: whatever it signs is accepted, and not one byte of what it signed can be
//! changed. No node and no socket: heads go straight to the verifier.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use lockstep_gateway::s3::auth::{Claim, Head, PresignedQuery, SigningKeys};
use lockstep_gateway::s3::{Code, S3Error};
use proptest::prelude::*;
use proptest::sample::{Index, select};

const ACCESS_KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "a/secret+with/odd=characters";
/// Wednesday, 25 November 2026, 12:00:00.
const NOW_S: i64 = 1_795_608_000;

/// A head, signed or to be signed.
#[derive(Debug, Clone, PartialEq)]
struct Signed {
    method: Method,
    path: String,
    query: String,
    host: String,
    headers: Vec<(String, String)>,
}

impl Signed {
    fn target(&self) -> String {
        if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) }
    }

    /// What the service does with a head, as far as its signature.
    fn verify(&self, now_s: i64) -> Result<(), S3Error> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Code::InvalidRequest)?;
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| Code::InvalidRequest)?);
        }
        let (path, query) = (self.path.as_str(), self.query.as_str());
        let head = Head { method: &self.method, path, query, headers: &headers, host: &self.host };
        let presigned = PresignedQuery::read(query);
        let claim = Claim::read(&head, &presigned, "us-east-1", now_s, false)?;
        if claim.access_key != ACCESS_KEY {
            return Err(Code::InvalidAccessKeyId.into());
        }
        claim.verify(&head, SECRET, &SigningKeys::default()).map(drop)
    }

    /// Has aws-sigv4 sign it, in its headers or in its query.
    fn sign(mut self, presigned: bool, payload: &str) -> Self {
        let identity = Credentials::new(ACCESS_KEY, SECRET, None, None, "tests").into();
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        if presigned {
            settings.payload_checksum_kind = PayloadChecksumKind::NoHeader;
            settings.signature_location = SignatureLocation::QueryParams;
            settings.expires_in = Some(Duration::from_mins(10));
        }
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_S as u64);
        let params = SigningParams::builder().identity(&identity).region("us-east-1").name("s3").time(time);
        let params = params.settings(settings).build().expect("all parameters").into();
        let url = format!("http://{}{}", self.host, self.target());
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let headers = headers.chain([("host", self.host.as_str())]);
        let body = SignableBody::Precomputed(payload.to_owned());
        let request = SignableRequest::new(self.method.as_str(), url, headers, body).expect("a request");
        let (instructions, _) = sign(request, &params).expect("signed").into_parts();
        for (name, value) in instructions.params() {
            let value: String =
                percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC).collect();
            let pair = format!("{name}={value}");
            self.query = if self.query.is_empty() { pair } else { format!("{}&{pair}", self.query) };
        }
        let added = instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.headers.extend(added);
        self
    }
}

/// As a client encodes a key or a value.
fn encoded(text: &str, keep: &str) -> String {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || "-._~".contains(char::from(byte)) || keep.contains(char::from(byte));
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn requests() -> impl Strategy<Value = Signed> {
    let segment = "[a-zA-Z0-9 /._~+%&=?#üé€🦀*'()@:,;!$-]{0,30}";
    let name = select(vec!["prefix", "delimiter", "marker", "partNumber", "uploadId", "x", "A", "empty", "ü"]);
    let pairs = prop::collection::vec((name, segment, any::<bool>()), 0..5);
    let value = "[!-~]([ -~]{0,20}[!-~])?";
    let header =
        select(vec!["x-amz-meta-a", "x-amz-meta-b", "x-amz-acl", "content-type", "content-md5", "x-amz-tagging"]);
    let headers = prop::collection::btree_map(header, value, 0..4);
    let methods = select(vec![Method::GET, Method::PUT, Method::HEAD, Method::DELETE, Method::POST]);
    let host = select(vec!["127.0.0.1:9000", "bucket.s3.example", "s3.example:80"]);
    (methods, segment, pairs, host, headers).prop_map(|(method, key, pairs, host, headers)| {
        let pair = |(name, value, bare): &(&str, String, bool)| {
            let name = encoded(name, "");
            if *bare && value.is_empty() { name } else { format!("{name}={}", encoded(value, "")) }
        };
        Signed {
            method,
            path: format!("/bucket/{}", encoded(&key, "/")),
            query: pairs.iter().map(pair).collect::<Vec<_>>().join("&"),
            host: host.to_owned(),
            headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        }
    })
}

fn payloads() -> impl Strategy<Value = &'static str> {
    select(vec![
        "UNSIGNED-PAYLOAD",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ])
}

/// Two heads that mean the same: percent-encoding has two cases and any byte may be encoded, a header's outer and
/// repeated blanks do not count, nor do those between the fields of an Authorization header.
fn same_meaning(one: &Signed, other: &Signed) -> bool {
    let plain = |text: &str| percent_encoding::percent_decode_str(&text.replace('+', "%20")).collect::<Vec<u8>>();
    let query = |signed: &Signed| {
        let parts = signed.query.split('&').filter(|part| !part.is_empty());
        let pairs = parts.map(|part| part.split_once('=').unwrap_or((part, "")));
        let mut pairs: Vec<_> = pairs.map(|(name, value)| (plain(name), plain(value))).collect();
        pairs.sort_unstable();
        pairs
    };
    let path = |signed: &Signed| percent_encoding::percent_decode_str(&signed.path).collect::<Vec<u8>>();
    let headers = |signed: &Signed| {
        let words = |value: &str| value.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let mut headers: Vec<_> =
            signed.headers.iter().map(|(name, value)| (name.to_lowercase(), words(value))).collect();
        headers.sort();
        headers
    };
    one.method == other.method
        && one.host.trim() == other.host.trim()
        && path(one) == path(other)
        && query(one) == query(other)
        && headers(one) == headers(other)
}

/// The head with one bit of one byte changed; none where that is no head any more.
fn changed(signed: &Signed, at: Index, bit: u8) -> Option<Signed> {
    let mut other = signed.clone();
    let mut places: Vec<&mut String> = vec![&mut other.path, &mut other.query, &mut other.host];
    for (name, value) in &mut other.headers {
        places.extend([name, value]);
    }
    let total: usize = places.iter().map(|text| text.len()).sum();
    let mut at = at.index(total);
    for text in places {
        if at < text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] ^= 1 << bit;
            *text = String::from_utf8(bytes).ok()?;
            break;
        }
        at -= text.len();
    }
    // What cannot be a request's head never comes this far.
    let target: http::Uri = other.target().parse().ok()?;
    (target.path() == other.path && target.query().unwrap_or_default() == other.query).then_some(other)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_aws_sigv4_signs_is_accepted(request in requests(), presigned in any::<bool>(), payload in payloads()) {
        let payload = if presigned { "UNSIGNED-PAYLOAD" } else { payload };
        let signed = request.sign(presigned, payload);
        prop_assert!(signed.verify(NOW_S).is_ok(), "{:?}: {signed:#?}", signed.verify(NOW_S));
    }

    #[test]
    fn no_byte_of_a_signed_part_can_be_changed(
        request in requests(),
        presigned in any::<bool>(),
        changes in prop::collection::vec((any::<Index>(), 0_u8..8), 24),
    ) {
        let signed = request.sign(presigned, "UNSIGNED-PAYLOAD");
        prop_assert!(signed.verify(NOW_S).is_ok());
        for (at, bit) in changes {
            let Some(other) = changed(&signed, at, bit) else { continue };
            if other.verify(NOW_S).is_ok() {
                prop_assert!(same_meaning(&signed, &other), "{signed:#?} was taken as {other:#?}");
            }
        }
    }

    #[test]
    fn garbage_in_the_head_never_panics(authorization in "\\PC{0,200}", query in "[!-~]{0,200}", date in "[ -~]{0,30}") {
        let headers = vec![("authorization".to_owned(), authorization), ("x-amz-date".to_owned(), date)];
        let head = Signed { method: Method::GET, path: "/".into(), query, host: "h".into(), headers };
        prop_assert!(head.verify(NOW_S).is_err());
    }
}

/// A head without oddities.
fn plain(presigned: bool) -> Signed {
    let headers = vec![("x-amz-meta-a".to_owned(), "1".to_owned())];
    let (path, query, host) = ("/bucket/key".into(), "list-type=2".into(), "127.0.0.1:9000".into());
    Signed { method: Method::GET, path, query, host, headers }.sign(presigned, "UNSIGNED-PAYLOAD")
}

fn code_at(head: &Signed, now_s: i64) -> Option<Code> {
    head.verify(now_s).err().map(|error| error.code)
}

#[test]
fn a_clock_may_be_a_quarter_of_an_hour_off_and_not_a_second_more() {
    let head = plain(false);
    for off in [-900, 0, 900] {
        assert_eq!(code_at(&head, NOW_S + off), None, "{off}");
    }
    for off in [-901, 901, -86_400, i64::MAX - NOW_S] {
        assert_eq!(code_at(&head, NOW_S + off), Some(Code::RequestTimeTooSkewed), "{off}");
    }
    let url = plain(true);
    for off in [-900, 0, 599] {
        assert_eq!(code_at(&url, NOW_S + off), None, "{off}");
    }
    for off in [-901, 600, 86_400] {
        assert_eq!(code_at(&url, NOW_S + off), Some(Code::AccessDenied), "{off}");
    }
}

/// Found by reading: each name in `SignedHeaders` puts its header's value into the canonical request, so one name said a
/// thousand times made many megabytes of a head of 32 KiB, for whoever knows an access key's id.
#[test]
fn a_header_that_is_named_twice_is_refused_before_anything_is_digested() {
    let mut head = plain(false);
    let name = "x-amz-meta-a";
    for (_, value) in head.headers.iter_mut().filter(|(name, _)| name == "authorization") {
        *value = value.replace(name, &vec![name; 1000].join(";"));
    }
    assert_eq!(code_at(&head, NOW_S), Some(Code::AuthorizationHeaderMalformed));
    let mut url = plain(true);
    url.query = url.query.replace("x%2Damz%2Dmeta%2Da", "x%2Damz%2Dmeta%2Da%3Bx%2Damz%2Dmeta%2Da");
    assert_eq!(code_at(&url, NOW_S), Some(Code::AuthorizationQueryParametersError));
}

#[test]
fn heads_that_are_incomplete_or_of_another_kind_are_refused_by_name() {
    let with = |name: &str, value: Option<&str>| {
        let mut head = plain(false);
        head.headers.retain(|(have, _)| have != name);
        head.headers.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        code_at(&head, NOW_S)
    };
    let authorization = |change: &dyn Fn(&str) -> String| {
        let head = plain(false);
        let value = head.headers.iter().find(|(name, _)| name == "authorization").map(|(_, value)| value.clone());
        with("authorization", Some(&change(&value.expect("signed"))))
    };
    assert_eq!(with("authorization", None), Some(Code::AccessDenied));
    assert_eq!(with("authorization", Some("AWS AK:sig")), Some(Code::InvalidRequest));
    assert_eq!(with("authorization", Some("Bearer x")), Some(Code::InvalidArgument));
    assert_eq!(with("x-amz-date", None), Some(Code::AccessDenied));
    for date in ["", "20261125T120000", "20261325T120000Z", "yesterday", "99999999T999999Z", "20261125t120000z"] {
        assert_eq!(with("x-amz-date", Some(date)), Some(Code::AccessDenied), "{date}");
    }
    assert_eq!(with("x-amz-date", Some("20261125T120001Z")), Some(Code::SignatureDoesNotMatch));
    assert_eq!(with("x-amz-meta-b", Some("unsigned")), Some(Code::AccessDenied));
    let malformed = Some(Code::AuthorizationHeaderMalformed);
    assert_eq!(authorization(&|text| text.replace("us-east-1", "eu-west-1")), malformed);
    assert_eq!(authorization(&|text| text.replace("/s3/", "/ec2/")), malformed);
    assert_eq!(authorization(&|text| text.replace("20261125", "20261124")), malformed);
    assert_eq!(authorization(&|text| text.replace("aws4_request", "aws5_request")), malformed);
    assert_eq!(authorization(&|text| text.replace("host;", "")), malformed);
    assert_eq!(authorization(&|text| text.replace("Signature=", "Signatur=")), malformed);
    assert_eq!(authorization(&|text| text.replace("Credential=", "Credential=a, Credential=")), malformed);
    assert_eq!(authorization(&|text| text.split(", Signature").next().unwrap_or_default().to_owned()), malformed);
    assert_eq!(authorization(&|text| text.replace(ACCESS_KEY, "AKIDOTHER")), Some(Code::InvalidAccessKeyId));
    assert_eq!(authorization(&|text| format!("{text}0")), Some(Code::SignatureDoesNotMatch));
    for (expires, code) in [
        ("-1", Code::AccessDenied),
        ("604801", Code::AccessDenied),
        ("99999999999999999999", Code::AuthorizationQueryParametersError),
        ("soon", Code::AuthorizationQueryParametersError),
        ("", Code::AuthorizationQueryParametersError),
    ] {
        let mut url = plain(true);
        url.query = url.query.replace("X-Amz-Expires=600", &format!("X-Amz-Expires={expires}"));
        assert_eq!(code_at(&url, NOW_S), Some(code), "{expires}");
    }
    let mut twice = plain(true);
    twice.query += "&X-Amz-Expires=600";
    assert_eq!(code_at(&twice, NOW_S), Some(Code::AuthorizationQueryParametersError));
}
