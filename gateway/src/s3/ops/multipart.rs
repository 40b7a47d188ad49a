//! What the multipart operations share: part numbers, upload ids, locks, checksums in XML.

use http::HeaderMap;
use lockstep_storage::image::View;
use lockstep_storage::op::{Header, Upload};

use crate::s3::digest::{Algorithm, ChecksumType};
use crate::s3::locks::{Mode, Name};
use crate::s3::xml::Writer;
use crate::s3::{Code, Request, S3Error};

/// Highest part number.
pub const PART_NUMBER_MAX: u32 = 10_000;

/// The upload id of a request; empty, which no upload has, where it is missing.
#[must_use]
pub fn upload_id(request: &Request) -> &str {
    request.query.get("uploadId").unwrap_or_default()
}

/// The part number of a request.
///
/// # Errors
/// `InvalidArgument`.
pub fn part_number(request: &Request) -> Result<u32, S3Error> {
    let number = request.query.get("partNumber").and_then(|text| text.parse().ok());
    number.filter(|number| (1..=PART_NUMBER_MAX).contains(number)).ok_or_else(|| {
        S3Error::new(Code::InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive")
    })
}

/// The upload of a request.
///
/// # Errors
/// `NoSuchUpload`.
pub fn upload(view: &View, request: &Request) -> Result<Upload, S3Error> {
    let id = upload_id(request);
    let found = if id.is_empty() { None } else { view.upload(&request.bucket, &request.key, id)? };
    found.ok_or_else(|| S3Error::from(Code::NoSuchUpload).with_detail("UploadId", id))
}

/// The lock of a request's upload.
#[must_use]
pub fn upload_lock(request: &Request, mode: Mode) -> (Name, Mode) {
    (Name::Upload(request.origin.clone(), upload_id(request).to_owned()), mode)
}

/// The checksum that the parts of an upload and its object are to have, as its creator asked.
///
/// # Errors
/// `InvalidRequest` for an unknown algorithm or type, or two that do not go together.
pub fn asked_checksum(headers: &HeaderMap) -> Result<Option<(Algorithm, ChecksumType)>, S3Error> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let invalid = |message: String| S3Error::new(Code::InvalidRequest, message);
    let algorithm = match text("x-amz-checksum-algorithm") {
        None => None,
        Some(name) => {
            let known = Algorithm::from_name(name);
            Some(known.ok_or_else(|| invalid("Checksum algorithm provided is unsupported.".to_owned()))?)
        }
    };
    let of = match text("x-amz-checksum-type") {
        None => None,
        Some(name) => {
            let known = ChecksumType::from_name(name);
            Some(known.ok_or_else(|| invalid("Value for x-amz-checksum-type header is invalid.".to_owned()))?)
        }
    };
    match (algorithm, of) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(invalid(
            "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.".to_owned(),
        )),
        (Some(algorithm), of) => {
            let of = of.unwrap_or(algorithm.default_type());
            if !algorithm.supports(of) {
                let (of, name) = (of.name(), algorithm.name().to_ascii_lowercase());
                return Err(invalid(format!(
                    "The {of} checksum type cannot be used with the {name} checksum algorithm."
                )));
            }
            Ok(Some((algorithm, of)))
        }
    }
}

/// The checksum that an upload was created with.
#[must_use]
pub fn checksum_of(upload: &Upload) -> Option<(Algorithm, ChecksumType)> {
    let algorithm = Algorithm::from_name(&upload.checksum_algorithm)?;
    Some((algorithm, ChecksumType::from_name(&upload.checksum_type).unwrap_or(algorithm.default_type())))
}

/// Stored checksums as elements.
pub fn checksum_elements(out: &mut Writer, stored: &[Header]) {
    for header in stored {
        if let Some(algorithm) = Algorithm::from_header(&header.name) {
            out.text(algorithm.element(), &header.value);
        }
    }
    let kind = stored.iter().find(|header| header.name == "x-amz-checksum-type");
    out.maybe("ChecksumType", kind.map(|kind| kind.value.as_str()));
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn algorithms_go_with_the_types_that_s3_has() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            let header = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            asked_checksum(&pairs.iter().map(header).collect()).map_err(|error| error.code)
        };
        let (algorithm, kind) = ("x-amz-checksum-algorithm", "x-amz-checksum-type");
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[(algorithm, "CRC32")]), Ok(Some((Algorithm::Crc32, ChecksumType::Composite))));
        assert_eq!(of(&[(algorithm, "CRC64NVME")]), Ok(Some((Algorithm::Crc64Nvme, ChecksumType::FullObject))));
        assert_eq!(
            of(&[(algorithm, "CRC32C"), (kind, "FULL_OBJECT")]),
            Ok(Some((Algorithm::Crc32c, ChecksumType::FullObject)))
        );
        for bad in
            [&[(algorithm, "SHA256"), (kind, "FULL_OBJECT")][..], &[(algorithm, "CRC64NVME"), (kind, "COMPOSITE")]]
        {
            assert_eq!(of(bad), Err(Code::InvalidRequest), "{bad:?}");
        }
        assert_eq!(of(&[(kind, "COMPOSITE")]), Err(Code::InvalidRequest));
        assert_eq!(of(&[(algorithm, "CRC33")]), Err(Code::InvalidRequest));
    }
}
