//! `CompleteMultipartUpload`: makes an object of an upload's parts. No bytes move, and none are read again: ETag and
//! checksums come from the parts'.
//!
//! Key and upload are locked exclusively: no part comes or goes while the list is checked and until it is applied. A
//! Complete that comes again, because its answer was lost, gets the same answer as long as its object is there.

use std::sync::Arc;

use http::StatusCode;
use http::header::HOST;
use lockstep_storage::image::View;
use lockstep_storage::op::{CompleteMultipartUpload, Extent, Header, Mutation, Object, Part, Upload};
use serde::Deserialize;

use super::checksums::Expected;
use super::conditions::WriteCondition;
use super::write::{self, Decision};
use super::{multipart, read};
use crate::s3::digest::{Algorithm, ChecksumType, base64_text, multipart_etag};
use crate::s3::locks::Mode;
use crate::s3::xml::{self, Writer};
use crate::s3::{Code, Gateway, Request, S3Error, S3Result, response};

/// Least length of every part but the last, in bytes.
const PART_LEN_MIN: u64 = 5 << 20;

#[derive(Debug, Deserialize)]
struct Completed {
    #[serde(rename = "Part", default)]
    parts: Vec<Named>,
}

#[derive(Debug, Deserialize)]
struct Named {
    #[serde(rename = "PartNumber")]
    number: u32,
    #[serde(rename = "ETag")]
    etag: String,
    #[serde(rename = "ChecksumCRC32", default)]
    crc32: Option<String>,
    #[serde(rename = "ChecksumCRC32C", default)]
    crc32c: Option<String>,
    #[serde(rename = "ChecksumCRC64NVME", default)]
    crc64nvme: Option<String>,
    #[serde(rename = "ChecksumSHA1", default)]
    sha1: Option<String>,
    #[serde(rename = "ChecksumSHA256", default)]
    sha256: Option<String>,
}

impl Named {
    fn etag(&self) -> &str {
        self.etag.trim().trim_matches('"')
    }

    fn checksums(&self) -> [(Algorithm, Option<&str>); 5] {
        let named = [&self.crc32, &self.crc32c, &self.crc64nvme, &self.sha1, &self.sha256];
        let mut at = 0;
        Algorithm::ALL.map(|algorithm| {
            at += 1;
            (algorithm, named[at - 1].as_deref())
        })
    }
}

/// `CompleteMultipartUpload`.
///
/// # Errors
/// S3's, for a bad list, parts that are not there or too small, and conditions that do not hold; refusals of the log.
pub async fn complete_multipart_upload(gateway: &Arc<Gateway>, mut request: Request) -> S3Result {
    let target = write::target(gateway, &request)?;
    let condition = WriteCondition::parse(&request.headers);
    let document = std::mem::take(&mut request.payload).collect(xml::DOCUMENT_LEN_MAX).await?;
    let list = parse(&document)?;
    let location = location(&request);
    let locks = vec![
        write::bucket_lock(&request, Mode::Shared),
        write::key_lock(&request, Mode::Exclusive),
        multipart::upload_lock(&request, Mode::Exclusive),
    ];
    let answer = (location, request.bucket.clone(), request.key.clone());
    let written = write::write(gateway, target, locks, move |view| {
        read::bucket(view, &request)?;
        let current = view.object(&request.bucket, &request.key)?;
        let upload = match multipart::upload(view, &request) {
            Ok(upload) => upload,
            Err(error) => {
                let again = current
                    .filter(|object| multipart_etag(list.iter().map(Named::etag)).as_ref() == Some(&object.etag));
                return again.map(Decision::Nothing).ok_or(error);
            }
        };
        condition.judge(current.as_ref())?;
        let parts = chosen(view, multipart::upload_id(&request), &list)?;
        let object = assemble(upload, &list, parts, &request)?;
        let upload_id = multipart::upload_id(&request).to_owned();
        let op =
            CompleteMultipartUpload { bucket: request.bucket, key: request.key, upload_id, object: object.clone() };
        Ok(Decision::log(Mutation::CompleteMultipartUpload(op), object))
    });
    let written = written.await?;
    let (location, bucket, key) = answer;
    let mut out = Writer::document("CompleteMultipartUploadResult");
    out.text("Location", &location).text("Bucket", &bucket).text("Key", &key).etag("ETag", &written.value.etag);
    multipart::checksum_elements(&mut out, &written.value.headers);
    Ok(written.answer(response::xml(StatusCode::OK, out.finish())))
}

fn parse(document: &[u8]) -> Result<Vec<Named>, S3Error> {
    let completed: Completed = xml::parse(document)?;
    let numbers = completed.parts.iter().map(|part| part.number);
    if completed.parts.is_empty() || completed.parts.len() > multipart::PART_NUMBER_MAX as usize {
        return Err(Code::MalformedXML.into());
    }
    if numbers.clone().zip(numbers.skip(1)).any(|(before, after)| before >= after) {
        return Err(Code::InvalidPartOrder.into());
    }
    Ok(completed.parts)
}

/// The parts of the list, which must be there as the list says.
fn chosen(view: &View, upload_id: &str, list: &[Named]) -> Result<Vec<Part>, S3Error> {
    let mut parts = Vec::with_capacity(list.len());
    let mut there = view.parts(upload_id, 0, multipart::PART_NUMBER_MAX as usize)?.into_iter();
    for named in list {
        // Both are in the order of part numbers.
        let found = there.by_ref().find(|(number, _)| *number >= named.number);
        let part = found.filter(|(number, part)| *number == named.number && same(part, named)).map(|(_, part)| part);
        let missing = || S3Error::from(Code::InvalidPart).with_detail("PartNumber", named.number.to_string());
        parts.push(part.ok_or_else(missing)?);
    }
    let small = |part: &&Part| part.len < PART_LEN_MIN;
    if let Some(part) = parts.iter().rev().skip(1).find(small) {
        let error = S3Error::from(Code::EntityTooSmall).with_detail("ProposedSize", part.len.to_string());
        return Err(error.with_detail("MinSizeAllowed", PART_LEN_MIN.to_string()));
    }
    Ok(parts)
}

fn same(part: &Part, named: &Named) -> bool {
    let checksum = |algorithm: Algorithm| {
        part.headers.iter().find(|header| header.name == algorithm.header()).map(|header| header.value.as_str())
    };
    let wrong = |(algorithm, said): &(Algorithm, Option<&str>)| {
        said.is_some_and(|said| checksum(*algorithm).is_some_and(|is| is != said))
    };
    part.etag == named.etag() && !named.checksums().iter().any(wrong)
}

/// The object that the parts make.
fn assemble(upload: Upload, list: &[Named], parts: Vec<Part>, request: &Request) -> Result<Object, S3Error> {
    let checksum = multipart::checksum_of(&upload);
    let mut object = upload.object;
    object.len = parts.iter().map(|part| part.len).sum();
    object.etag = multipart_etag(parts.iter().map(|part| part.etag.as_str())).ok_or(Code::InternalError)?;
    if request.header("x-amz-mp-object-size").is_some_and(|said| said.parse() != Ok(object.len)) {
        let message = "The provided 'x-amz-mp-object-size' header does not match what was computed.";
        return Err(S3Error::new(Code::InvalidRequest, message));
    }
    if let Some((algorithm, of)) = checksum {
        object.headers.extend(combined(algorithm, of, &parts, request)?);
    }
    let extents = list.iter().zip(parts).flat_map(|(named, part)| {
        let number = named.number;
        part.extents.into_iter().map(move |extent| Extent { part_number: number, ..extent })
    });
    object.extents = extents.collect();
    Ok(object)
}

/// The object's checksum, from the parts'. What the request says about a full object's must be that.
fn combined(algorithm: Algorithm, of: ChecksumType, parts: &[Part], request: &Request) -> Result<Vec<Header>, S3Error> {
    let value = |part: &Part| {
        let header = part.headers.iter().find(|header| header.name == algorithm.header())?;
        Some((algorithm.decode(&header.value)?, part.len))
    };
    let values: Option<Vec<_>> = parts.iter().map(value).collect();
    let combined = values.and_then(|values| algorithm.combine(of, &values)).ok_or(Code::InternalError)?;
    let said = Expected::parse(&request.headers)?;
    if of == ChecksumType::FullObject && said.value(algorithm).is_some_and(|said| said != combined) {
        let name = algorithm.name();
        let message = format!("The {name} you specified did not match the calculated checksum.");
        return Err(S3Error::new(Code::BadDigest, message));
    }
    let text = match of {
        ChecksumType::FullObject => base64_text(&combined),
        ChecksumType::Composite => format!("{}-{}", base64_text(&combined), parts.len()),
    };
    let kind = Header { name: "x-amz-checksum-type".to_owned(), value: of.name().to_owned() };
    Ok(vec![Header { name: algorithm.header().to_owned(), value: text }, kind])
}

fn location(request: &Request) -> String {
    let host = request.header(HOST.as_str()).unwrap_or("localhost");
    let key = super::listing::Encoding::Url;
    format!("http://{host}/{}/{}", request.bucket, key.of(&request.key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_in_strict_order_and_not_empty() {
        let list = |parts: &[u32]| {
            let part =
                |number: &u32| format!("<Part><PartNumber>{number}</PartNumber><ETag>&quot;e&quot;</ETag></Part>");
            let parts: String = parts.iter().map(part).collect();
            let document = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
            parse(document.as_bytes()).map(|list| list.len()).map_err(|error| error.code)
        };
        assert_eq!(list(&[1, 2, 7]), Ok(3));
        assert_eq!(list(&[2, 1]), Err(Code::InvalidPartOrder));
        assert_eq!(list(&[1, 1]), Err(Code::InvalidPartOrder));
        assert_eq!(list(&[]), Err(Code::MalformedXML));
        assert_eq!(parse(b"").map_err(|error| error.code).err(), Some(Code::MalformedXML));
    }

    #[test]
    fn a_part_is_the_same_by_etag_and_by_every_checksum_that_is_known() {
        let document = b"<CompleteMultipartUpload><Part><ETag>\"e\"</ETag><PartNumber>1</PartNumber>\
            <ChecksumCRC32>AAAAAA==</ChecksumCRC32></Part></CompleteMultipartUpload>";
        let list = parse(document).expect("good");
        let mut part = Part { etag: "e".into(), ..Part::default() };
        assert!(same(&part, &list[0]));
        part.headers.push(Header { name: "x-amz-checksum-crc32".into(), value: "AAAAAA==".into() });
        assert!(same(&part, &list[0]));
        part.headers[0].value = "BAAAAA==".into();
        assert!(!same(&part, &list[0]));
        part = Part { etag: "f".into(), ..Part::default() };
        assert!(!same(&part, &list[0]));
    }
}
