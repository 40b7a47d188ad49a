//! Checksums that come with a request: what is to be computed, and whether it was right.
//!
//! One checksum at most, in a header or announced for the trailer; `Content-MD5` beside it. An algorithm that this
//! version does not know is refused: a client that sends it relies on it.

use http::HeaderMap;
use lockstep_storage::op::Header;

use crate::s3::digest::{Algorithm, ChecksumType, Digests, base64_text, decode_content_md5};
use crate::s3::{Code, S3Error};

/// What a request says about its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    content_md5: Option<[u8; 16]>,
    /// The checksum, and its value unless that comes in the trailer.
    checksum: Option<(Algorithm, Option<Vec<u8>>)>,
}

/// Headers that begin like a checksum and are none.
const ABOUT: [&str; 3] = ["x-amz-checksum-algorithm", "x-amz-checksum-mode", "x-amz-checksum-type"];

fn invalid(message: impl Into<String>) -> S3Error {
    S3Error::new(Code::InvalidRequest, message)
}

impl Expected {
    /// Reads the headers.
    ///
    /// # Errors
    /// `InvalidDigest` for a bad Content-MD5, `InvalidRequest` for a bad checksum or more than one, `NotImplemented` for
    /// an unknown algorithm.
    pub fn parse(headers: &HeaderMap) -> Result<Self, S3Error> {
        let content_md5 = match headers.get("content-md5") {
            None => None,
            Some(value) => {
                let md5 = value.to_str().ok().and_then(decode_content_md5);
                Some(md5.ok_or(S3Error::from(Code::InvalidDigest))?)
            }
        };
        let mut checksum = None;
        for (name, value) in headers {
            let name = name.as_str();
            if !name.starts_with("x-amz-checksum-") || ABOUT.contains(&name) {
                continue;
            }
            let algorithm = known(name)?;
            let decoded = value.to_str().ok().and_then(|text| algorithm.decode(text));
            let decoded = decoded.ok_or_else(|| invalid(format!("Value for {name} header is invalid.")))?;
            only_one(&mut checksum, (algorithm, Some(decoded)))?;
        }
        for announced in headers.get_all("x-amz-trailer") {
            let names = announced.to_str().unwrap_or_default().split(',').map(str::trim);
            for name in names.filter(|name| name.to_ascii_lowercase().starts_with("x-amz-checksum-")) {
                only_one(&mut checksum, (known(name)?, None))?;
            }
        }
        agrees(headers, checksum.as_ref().map(|(algorithm, _)| *algorithm))?;
        Ok(Self { content_md5, checksum })
    }

    /// The algorithm of its checksum.
    #[must_use]
    pub fn algorithm(&self) -> Option<Algorithm> {
        self.checksum.as_ref().map(|(algorithm, _)| *algorithm)
    }

    /// The value of its checksum, if that is one of this algorithm and came in a header.
    #[must_use]
    pub fn value(&self, of: Algorithm) -> Option<&[u8]> {
        self.checksum.as_ref().filter(|(algorithm, _)| *algorithm == of).and_then(|(_, value)| value.as_deref())
    }

    /// Compares with what was computed; gives the checksum that was right.
    ///
    /// # Errors
    /// `BadDigest` where it differs, `InvalidRequest` for a bad value in the trailer, `MalformedTrailerError` for a
    /// missing one.
    pub fn verify(&self, digests: &Digests, trailers: &HeaderMap) -> Result<Option<(Algorithm, Vec<u8>)>, S3Error> {
        if self.content_md5.is_some_and(|md5| md5 != digests.md5) {
            let message = "The Content-MD5 you specified did not match what we received.";
            return Err(S3Error::new(Code::BadDigest, message));
        }
        let Some((algorithm, value)) = &self.checksum else { return Ok(None) };
        let value = if let Some(value) = value {
            value.clone()
        } else {
            let sent = trailers.get(algorithm.header()).ok_or(S3Error::from(Code::MalformedTrailerError))?;
            let decoded = sent.to_str().ok().and_then(|text| algorithm.decode(text));
            let name = algorithm.header();
            decoded.ok_or_else(|| invalid(format!("Value for {name} trailing header is invalid.")))?
        };
        if digests.checksum(*algorithm) != Some(&value[..]) {
            let name = algorithm.name();
            let message = format!("The {name} you specified did not match the calculated checksum.");
            return Err(S3Error::new(Code::BadDigest, message));
        }
        Ok(Some((*algorithm, value)))
    }
}

fn known(name: &str) -> Result<Algorithm, S3Error> {
    Algorithm::from_header(name).ok_or_else(|| S3Error::not_implemented(name))
}

type Checksum = (Algorithm, Option<Vec<u8>>);

fn only_one(checksum: &mut Option<Checksum>, found: Checksum) -> Result<(), S3Error> {
    match checksum.replace(found) {
        None => Ok(()),
        Some(_) => Err(invalid("Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.")),
    }
}

/// What the SDK says that it computed must be what it sent.
fn agrees(headers: &HeaderMap, sent: Option<Algorithm>) -> Result<(), S3Error> {
    let Some(said) = headers.get("x-amz-sdk-checksum-algorithm") else { return Ok(()) };
    let said = Algorithm::from_name(said.to_str().unwrap_or_default());
    match (said, sent) {
        (None, _) => Err(invalid("Value for x-amz-sdk-checksum-algorithm header is invalid.")),
        (Some(said), Some(sent)) if said != sent => {
            Err(invalid("Value for x-amz-sdk-checksum-algorithm header is not that of the checksum sent."))
        }
        _ => Ok(()),
    }
}

/// As stored with an object, and as answered.
#[must_use]
pub fn stored(algorithm: Algorithm, value: &[u8], of: ChecksumType) -> [Header; 2] {
    let checksum = Header { name: algorithm.header().to_owned(), value: base64_text(value) };
    [checksum, Header { name: "x-amz-checksum-type".to_owned(), value: of.name().to_owned() }]
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::s3::digest::Digester;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    fn digests() -> Digests {
        let mut digester = Digester::new(&Algorithm::ALL);
        digester.update(b"123456789");
        digester.finish()
    }

    fn outcome(sent: &[(&'static str, &'static str)], trailers: &[(&'static str, &'static str)]) -> Result<bool, Code> {
        let expected = Expected::parse(&headers(sent)).map_err(|error| error.code)?;
        let found = expected.verify(&digests(), &headers(trailers)).map_err(|error| error.code)?;
        Ok(found.is_some())
    }

    #[test]
    fn right_wrong_and_bad_checksums() {
        let trailer = ("x-amz-trailer", "x-amz-checksum-crc32");
        let right = ("x-amz-checksum-crc32", "y/Q5Jg==");
        let wrong = ("x-amz-checksum-crc32", "AAAAAA==");
        assert_eq!(outcome(&[], &[]), Ok(false));
        assert_eq!(outcome(&[right], &[]), Ok(true));
        assert_eq!(outcome(&[right, ("x-amz-sdk-checksum-algorithm", "CRC32")], &[]), Ok(true));
        assert_eq!(outcome(&[wrong], &[]), Err(Code::BadDigest));
        assert_eq!(outcome(&[("x-amz-checksum-crc32", "y/Q5")], &[]), Err(Code::InvalidRequest));
        assert_eq!(
            outcome(&[right, ("x-amz-checksum-sha1", "98O8HYCOBHMq32efZZXMNKeuNEE=")], &[]),
            Err(Code::InvalidRequest)
        );
        assert_eq!(outcome(&[right, ("x-amz-sdk-checksum-algorithm", "SHA1")], &[]), Err(Code::InvalidRequest));
        assert_eq!(outcome(&[("x-amz-checksum-xxhash64", "AAAA")], &[]), Err(Code::NotImplemented));
        assert_eq!(outcome(&[trailer], &[right]), Ok(true));
        assert_eq!(outcome(&[trailer], &[wrong]), Err(Code::BadDigest));
        assert_eq!(outcome(&[trailer], &[("x-amz-checksum-crc32", "!")]), Err(Code::InvalidRequest));
        assert_eq!(outcome(&[trailer], &[]), Err(Code::MalformedTrailerError));
        assert_eq!(outcome(&[("content-md5", "JfnnlDI7RTiF9RgfG2JNCw==")], &[]), Ok(false));
        assert_eq!(outcome(&[("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")], &[]), Err(Code::BadDigest));
        assert_eq!(outcome(&[("content-md5", "short")], &[]), Err(Code::InvalidDigest));
    }
}
