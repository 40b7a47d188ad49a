//! `DeleteObjects`: removes up to a thousand objects, each by an op of its own.
//!
//! Not atomic over the keys, as at S3: every key has its own lock and its own line in the answer. The bucket's lock is
//! held over all of them.

use std::sync::Arc;

use futures_util::StreamExt;
use http::StatusCode;
use lockstep_mirror::client::{Answered, Receipt};
use lockstep_storage::op::{DeleteObject, Mutation};
use serde::Deserialize;

use super::checksums::Expected;
use super::conditions::WriteCondition;
use super::read;
use super::write::{self, Decision};
use crate::s3::digest::Digester;
use crate::s3::host::KEY_LEN_MAX;
use crate::s3::locks::{Held, Mode, Name};
use crate::s3::upload::Target;
use crate::s3::xml::{self, Writer};
use crate::s3::{Code, Gateway, Request, S3Error, S3Result, response};

const KEYS_MAX: usize = 1000;
/// Deletes of one request that are on their way at once.
const IN_FLIGHT_MAX: usize = 128;

#[derive(Debug, Deserialize)]
struct Delete {
    #[serde(rename = "Object", default)]
    objects: Vec<Named>,
    #[serde(rename = "Quiet", default)]
    quiet: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Named {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "VersionId", default)]
    version_id: Option<String>,
    #[serde(rename = "ETag", default)]
    etag: Option<String>,
}

type Deleted = (Named, Result<Receipt, S3Error>);

/// `DeleteObjects`.
///
/// # Errors
/// S3's, for a bad document or digest; 503 where the log refused one of the deletes: to ask again is harmless.
pub async fn delete_objects(gateway: &Arc<Gateway>, mut request: Request) -> S3Result {
    let target = write::target(gateway, &request)?;
    let expected = Expected::parse(&request.headers)?;
    let document = request.payload.collect(xml::DOCUMENT_LEN_MAX).await?;
    let mut digester = Digester::new(&expected.algorithm().into_iter().collect::<Vec<_>>());
    digester.update(&document);
    expected.verify(&digester.finish(), request.payload.trailers())?;
    let delete: Delete = xml::parse(&document)?;
    let nameless = delete.objects.iter().any(|named| named.key.is_empty());
    if nameless || delete.objects.is_empty() || delete.objects.len() > KEYS_MAX {
        return Err(Code::MalformedXML.into());
    }
    let quiet = delete.quiet.is_some_and(|quiet| quiet.trim().eq_ignore_ascii_case("true"));
    let origin = target.origin.clone();

    let held = Arc::new(write::acquire(gateway, vec![write::bucket_lock(&request, Mode::Shared)]).await?);
    let gateway = Arc::clone(gateway);
    // A task of its own: the bucket's lock outlives a client who goes away, until the last delete is done.
    let section = tokio::spawn(async move {
        read::bucket(&target.client.view(&target.origin)?, &request)?;
        let bucket = request.bucket;
        let one = |named: Named| delete_one(&gateway, &target, &bucket, Arc::clone(&held), named);
        let deleted: Vec<Deleted> =
            futures_util::stream::iter(delete.objects).map(one).buffered(IN_FLIGHT_MAX).collect().await;
        Ok::<_, S3Error>(deleted)
    });
    let deleted = section.await.map_err(|_| Code::InternalError)??;

    let answered = deleted.iter().filter_map(|(_, result)| result.as_ref().ok());
    let last = answered.clone().max_by_key(|receipt| receipt.seq).copied();
    let weakest = answered.map(|receipt| receipt.ack).min_by_key(|ack| match ack {
        Answered::Local => None,
        Answered::Mirrored(level) => Some(*level),
    });
    let mut response = response::xml(StatusCode::OK, document_of(deleted, quiet)?);
    if let (Some(last), Some(ack)) = (last, weakest) {
        write::mark(response.headers_mut(), &origin, &Receipt { ack, ..last });
    }
    Ok(response)
}

async fn delete_one(gateway: &Gateway, target: &Target, bucket: &str, bucket_held: Arc<Held>, named: Named) -> Deleted {
    if named.key.len() > KEY_LEN_MAX {
        return (named, Err(Code::KeyTooLongError.into()));
    }
    if named.version_id.as_deref().is_some_and(|id| !id.is_empty() && id != "null") {
        return (named, Err(Code::NoSuchVersion.into()));
    }
    let condition = named.etag.clone().map(WriteCondition::if_match);
    let mode = if condition.is_some() { Mode::Exclusive } else { Mode::Shared };
    let name = Name::Key(target.origin.clone(), bucket.to_owned(), named.key.clone());
    let held = match write::acquire(gateway, vec![(name, mode)]).await {
        Ok(held) => (held, bucket_held),
        Err(error) => return (named, Err(error)),
    };
    let written = write::log(target.clone(), held, |view| {
        if let Some(condition) = condition {
            condition.judge(view.object(bucket, &named.key)?.as_ref())?;
        }
        let op = DeleteObject { bucket: bucket.to_owned(), key: named.key.clone() };
        Ok(Decision::log(Mutation::DeleteObject(op), ()))
    });
    let result = written.await.and_then(|written| written.receipt.ok_or(Code::InternalError.into()));
    (named, result)
}

fn document_of(deleted: Vec<Deleted>, quiet: bool) -> Result<String, S3Error> {
    let mut out = Writer::document("DeleteResult");
    for (named, result) in deleted {
        match result {
            // SDKs try a 503 again, but not a line in a document.
            Err(error) if error.code.status().is_server_error() => return Err(error),
            Err(error) => {
                out.nest("Error", |out| {
                    out.text("Key", &named.key).maybe("VersionId", named.version_id.as_deref());
                    out.text("Code", error.code.name()).text("Message", &error.message);
                });
            }
            Ok(_) if quiet => {}
            Ok(_) => {
                out.nest("Deleted", |out| {
                    out.text("Key", &named.key).maybe("VersionId", named.version_id.as_deref());
                });
            }
        }
    }
    Ok(out.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_with_every_blank() {
        let document = b"<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Object><Key> a &amp; b\n</Key>\
            </Object><Object><Key>c</Key><ETag>\"e\"</ETag><New/></Object><Quiet>true</Quiet></Delete>";
        let delete: Delete = xml::parse(document).expect("good");
        assert_eq!(delete.objects[0].key, " a & b\n");
        assert_eq!(delete.objects[1].etag.as_deref(), Some("\"e\""));
        assert_eq!(delete.quiet.as_deref(), Some("true"));
        assert!(xml::parse::<Delete>(b"<Delete><Object><Name>c</Name></Object></Delete>").is_err());
    }
}
