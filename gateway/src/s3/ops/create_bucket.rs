//! `CreateBucket`: a new, empty bucket of the caller's.

use std::sync::Arc;

use http::StatusCode;
use http::header::LOCATION;
use lockstep_storage::op::{Bucket, CreateBucket, Mutation};
use serde::Deserialize;

use super::headers;
use super::write::{self, Decision};
use crate::s3::locks::Mode;
use crate::s3::{Code, Gateway, Request, S3Error, S3Result, response, xml};

/// In this region, S3 answers the owner who makes a bucket again with 200.
const LENIENT_REGION: &str = "us-east-1";

#[derive(Debug, Default, Deserialize)]
struct CreateBucketConfiguration {
    #[serde(rename = "LocationConstraint", default)]
    location_constraint: Option<String>,
}

/// `CreateBucket`.
///
/// # Errors
/// S3's, for a bad name or region and a bucket that is there; refusals of the log.
pub async fn create_bucket(gateway: &Arc<Gateway>, mut request: Request) -> S3Result {
    let target = write::target(gateway, &request)?;
    headers::refuse_unsupported(&request.headers)?;
    if !is_bucket_name(&request.bucket) {
        return Err(S3Error::from(Code::InvalidBucketName).with_detail("BucketName", &request.bucket));
    }
    let document = std::mem::take(&mut request.payload).collect(xml::DOCUMENT_LEN_MAX).await?;
    let region = location(&document, &gateway.region)?;
    let lenient = gateway.region == LENIENT_REGION;
    let mut created = response::empty(StatusCode::OK);
    headers::insert(created.headers_mut(), LOCATION.as_str(), &format!("/{}", request.bucket));
    let locks = vec![write::bucket_lock(&request, Mode::Exclusive)];
    let written = write::write(gateway, target, locks, move |view| {
        match view.bucket(&request.bucket)? {
            None => {}
            Some(there) if there.owner != request.caller.user() => return Err(Code::BucketAlreadyExists.into()),
            Some(_) if lenient => return Ok(Decision::Nothing(created)),
            Some(_) => return Err(Code::BucketAlreadyOwnedByYou.into()),
        }
        let meta = Bucket { created_ms: 0, owner: request.caller.user().to_owned(), region };
        Ok(Decision::log(Mutation::CreateBucket(CreateBucket { bucket: request.bucket, meta }), created))
    });
    Ok(written.await?.into_answer())
}

/// The region that the request names, which must be the node's; empty for none.
fn location(document: &[u8], region: &str) -> Result<String, S3Error> {
    if document.iter().all(u8::is_ascii_whitespace) {
        return Ok(String::new());
    }
    let configuration: CreateBucketConfiguration = xml::parse(document)?;
    let named = configuration.location_constraint.unwrap_or_default();
    if named.is_empty() || named == region {
        return Ok(named);
    }
    let message = format!(
        "The {named} location constraint is incompatible for the region specific endpoint this request was sent to."
    );
    Err(S3Error::new(Code::IllegalLocationConstraintException, message))
}

/// The rules of S3 for general purpose buckets.
fn is_bucket_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let inner = |b: &u8| edge(b) || *b == b'-' || *b == b'.';
    let fits = (3..=63).contains(&bytes.len()) && bytes.iter().all(inner);
    let edges = bytes.first().is_some_and(edge) && bytes.last().is_some_and(edge);
    let dots = !["..", ".-", "-."].iter().any(|pair| name.contains(pair));
    let reserved = ["xn--", "sthree-", "amzn-s3-demo-"].iter().any(|prefix| name.starts_with(prefix))
        || ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"].iter().any(|suffix| name.ends_with(suffix));
    fits && edges && dots && !reserved && name.parse::<std::net::Ipv4Addr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_the_rules() {
        for good in ["abc", "a-b", "a.b", "0ab", "1.2.3", "1.2.3.400", &"x".repeat(63)] {
            assert!(is_bucket_name(good), "{good}");
        }
        for bad in [
            "", "ab", "Abc", "a_b", "-ab", "ab-", ".ab", "ab.", "a..b", "a.-b", "a-.b", "1.2.3.4", "xn--a", "a b",
            "é12",
        ] {
            assert!(!is_bucket_name(bad), "{bad}");
        }
        assert!(!is_bucket_name(&"x".repeat(64)));
        assert!(!is_bucket_name("abc-s3alias"));
    }

    #[test]
    fn only_the_nodes_own_region() {
        let of = |text: &str| {
            let document = format!(
                "<CreateBucketConfiguration><LocationConstraint>{text}</LocationConstraint></CreateBucketConfiguration>"
            );
            location(document.as_bytes(), "eu-west-1").map_err(|error| error.code)
        };
        assert_eq!(of("eu-west-1"), Ok("eu-west-1".to_owned()));
        assert_eq!(of(""), Ok(String::new()));
        assert_eq!(of("us-west-2"), Err(Code::IllegalLocationConstraintException));
        assert_eq!(location(b"", "eu-west-1").map_err(|error| error.code), Ok(String::new()));
        assert_eq!(location(b"<a>", "eu-west-1").map_err(|error| error.code), Err(Code::MalformedXML));
    }
}
