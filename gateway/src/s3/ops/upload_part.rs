//! `UploadPart`: stores a part of an upload, in place of one with the same number.

use std::sync::Arc;

use http::StatusCode;
use lockstep_storage::op::{Header, Mutation, Part, UploadPart};

use super::checksums::Expected;
use super::put_object::LEN_MAX;
use super::write::{self, Decision, Written};
use super::{headers, multipart, read};
use crate::s3::digest::{Algorithm, base64_text};
use crate::s3::locks::Mode;
use crate::s3::upload::{Plan, Target, Uploaded, upload};
use crate::s3::{Code, Gateway, Request, S3Error, S3Result, response};

/// `UploadPart`.
///
/// # Errors
/// S3's, for bad headers and digests and an upload that is not there; refusals of the log.
pub async fn upload_part(gateway: &Arc<Gateway>, mut request: Request) -> S3Result {
    let target = write::target(gateway, &request)?;
    headers::refuse_unsupported(&request.headers)?;
    let number = multipart::part_number(&request)?;
    let expected = Expected::parse(&request.headers)?;
    let algorithms = begin(&target, &request, expected.algorithm())?;

    let plan = Plan { algorithms, inline: false, len_max: LEN_MAX };
    let mut payload = std::mem::take(&mut request.payload);
    let uploaded = upload(&target, &mut payload, &plan).await?;
    expected.verify(&uploaded.digests, payload.trailers())?;
    let written = store(gateway, target, request, number, uploaded).await?;

    let mut stored = response::empty(StatusCode::OK);
    headers::insert(stored.headers_mut(), "etag", &format!("\"{}\"", written.value.etag));
    for checksum in &written.value.headers {
        headers::insert(stored.headers_mut(), &checksum.name, &checksum.value);
    }
    Ok(written.answer(stored))
}

/// Before the body: is there such an upload, and which checksums are to be computed for it?
///
/// # Errors
/// `NoSuchUpload`, `InvalidRequest` where the part has a checksum of another algorithm than the upload.
pub fn begin(target: &Target, request: &Request, sent: Option<Algorithm>) -> Result<Vec<Algorithm>, S3Error> {
    let view = target.client.view(&target.origin)?;
    read::bucket(&view, request)?;
    let asked = multipart::checksum_of(&multipart::upload(&view, request)?).map(|(algorithm, _)| algorithm);
    match (asked, sent) {
        (Some(asked), Some(sent)) if asked != sent => {
            let name = |algorithm: Algorithm| algorithm.name().to_ascii_lowercase();
            let (asked, sent) = (name(asked), name(sent));
            let message = format!(
                "Checksum Type mismatch occurred, expected checksum Type: {asked}, actual checksum Type: {sent}"
            );
            Err(S3Error::new(Code::InvalidRequest, message))
        }
        (asked, sent) => Ok(asked.or(sent).into_iter().collect()),
    }
}

/// Makes uploaded bytes a part of the upload.
///
/// # Errors
/// `NoSuchUpload` where it has ended meanwhile; refusals of the log.
pub async fn store(
    gateway: &Arc<Gateway>,
    target: Target,
    request: Request,
    number: u32,
    uploaded: Uploaded,
) -> Result<Written<Part>, S3Error> {
    let locks = vec![write::bucket_lock(&request, Mode::Shared), multipart::upload_lock(&request, Mode::Shared)];
    let checksum = |(algorithm, value): &(Algorithm, Vec<u8>)| Header {
        name: algorithm.header().to_owned(),
        value: base64_text(value),
    };
    let part = Part {
        len: uploaded.len,
        etag: uploaded.digests.etag(),
        extents: uploaded.extent.into_iter().collect(),
        headers: uploaded.digests.checksums.iter().map(checksum).collect(),
        modified_ms: 0,
    };
    let body = uploaded.guard;
    let written = write::write(gateway, target, locks, move |view| {
        read::bucket(view, &request)?;
        multipart::upload(view, &request)?;
        let upload_id = multipart::upload_id(&request).to_owned();
        let (bucket, key) = (request.bucket, request.key);
        let op = UploadPart { bucket, key, upload_id, part_number: number, part: part.clone() };
        Ok(Decision::Log {
            mutation: Box::new(Mutation::UploadPart(op)),
            payload: bytes::Bytes::new(),
            body,
            value: part,
        })
    });
    written.await
}
