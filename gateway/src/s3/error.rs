//! S3's errors: the codes with their HTTP status and AWS's wording, and the one error type that every handler returns.
//!
//! The protocol ends here: refusals of the log and errors of the image are turned into codes in this file and nowhere
//! else. The service renders an [`S3Error`] as XML (without a body for HEAD) and adds the request's id and resource.

use std::fmt;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use lockstep_mirror::client::Refusal;
use lockstep_storage::id::{Epoch, Seq};
use lockstep_storage::image::ImageError;

macro_rules! codes {
    ($($name:ident $status:literal $message:literal,)*) => {
        /// An error code of S3. `name()` is the wire name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $message] $name,)*
        }

        impl Code {
            /// The name in the XML.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// The HTTP status that S3 gives it.
            #[must_use]
            pub fn status(self) -> StatusCode {
                let number: u16 = match self { $(Self::$name => $status,)* };
                StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }

            /// What S3 says where nothing more precise is known.
            #[must_use]
            pub fn message(self) -> &'static str {
                match self { $(Self::$name => $message,)* }
            }
        }
    };
}

codes! {
    AccessDenied 403 "Access Denied",
    AuthorizationHeaderMalformed 400 "The authorization header that you provided is not valid.",
    AuthorizationQueryParametersError 400 "Error parsing the query authorization parameters.",
    BadDigest 400 "The Content-MD5 or checksum value that you specified did not match what the server received.",
    BucketAlreadyExists 409 "The requested bucket name is not available. Select a different name and try again.",
    BucketAlreadyOwnedByYou 409 "Your previous request to create the named bucket succeeded and you already own it.",
    BucketNotEmpty 409 "The bucket you tried to delete is not empty.",
    ConditionalRequestConflict 409 "A conflicting operation occurred during the request. Try again.",
    EntityTooLarge 400 "Your proposed upload exceeds the maximum allowed object size.",
    EntityTooSmall 400 "Your proposed upload is smaller than the minimum allowed object size.",
    IllegalLocationConstraintException 400 "The specified location constraint is incompatible with this endpoint.",
    IncompleteBody 400 "You did not provide the number of bytes specified by the Content-Length HTTP header.",
    InsufficientStorage 507 "There is not enough free space to take the write. Deletes are still taken.",
    InternalError 500 "We encountered an internal error. Please try again.",
    InvalidAccessKeyId 403 "The AWS access key ID that you provided does not exist in our records.",
    InvalidArgument 400 "Invalid Argument",
    InvalidBucketName 400 "The specified bucket is not valid.",
    InvalidChunkSizeError 403 "Only the last chunk is allowed to have a size less than 8192 bytes",
    InvalidDigest 400 "The Content-MD5 or checksum value that you specified is not valid.",
    InvalidLocationConstraint 400 "The specified location constraint is not valid.",
    InvalidPart 400 "One or more of the specified parts could not be found.",
    InvalidPartNumber 416 "The requested partnumber is not satisfiable.",
    InvalidPartOrder 400 "The list of parts was not in ascending order.",
    InvalidRange 416 "The requested range is not satisfiable",
    InvalidRequest 400 "Invalid Request",
    InvalidStorageClass 400 "The storage class you specified is not valid.",
    InvalidTag 400 "The tag provided was not a valid tag.",
    InvalidURI 400 "Couldn't parse the specified URI.",
    KeyTooLongError 400 "Your key is too long",
    MalformedPOSTRequest 400 "The body of your POST request is not well-formed multipart/form-data.",
    MalformedTrailerError 400 "The request contained trailing data that was not well-formed or did not conform to our published schema.",
    MalformedXML 400 "The XML you provided was not well-formed or did not validate against our published schema",
    MaxMessageLengthExceeded 400 "Your request was too large.",
    MetadataTooLarge 400 "Your metadata headers exceed the maximum allowed metadata size",
    MethodNotAllowed 405 "The specified method is not allowed against this resource.",
    MissingContentLength 411 "You must provide the Content-Length HTTP header.",
    MissingRequestBodyError 400 "Request body is empty.",
    MissingSecurityHeader 400 "Your request is missing a required header.",
    NoSuchBucket 404 "The specified bucket does not exist",
    NoSuchKey 404 "The specified key does not exist.",
    NoSuchUpload 404 "The specified multipart upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.",
    NoSuchVersion 404 "The specified version does not exist.",
    NotImplemented 501 "A header or query you provided implies functionality that is not implemented",
    NotModified 304 "Not Modified",
    OperationAborted 409 "A conflicting conditional operation is currently in progress against this resource. Try again.",
    PreconditionFailed 412 "At least one of the pre-conditions you specified did not hold",
    RequestHeaderSectionTooLarge 400 "Your request header section exceeds the maximum allowed request header section size.",
    RequestTimeTooSkewed 403 "The difference between the request time and the current time is too large.",
    RequestTimeout 400 "Your socket connection to the server was not read from or written to within the timeout period.",
    ServiceUnavailable 503 "Service is unable to handle request.",
    SignatureDoesNotMatch 403 "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
    SlowDown 503 "Please reduce your request rate.",
    TooManyBuckets 400 "You have attempted to create more buckets than allowed",
    UnexpectedContent 400 "This request does not support content",
    XAmzContentSHA256Mismatch 400 "The provided 'x-amz-content-sha256' header does not match what was computed.",
}

/// Why a request fails, as the client is told.
#[derive(Debug)]
pub struct S3Error {
    /// S3's code, which fixes the status.
    pub code: Code,
    /// One sentence for people.
    pub message: String,
    /// More headers of the answer, e.g. Retry-After.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// More elements of the error XML, in order: name and text.
    pub details: Vec<(&'static str, String)>,
    /// The record of a write whose outcome is unknown: the service makes `x-lockstep-seq` of it.
    pub logged: Option<(Epoch, Seq)>,
}

impl S3Error {
    /// An error with its own wording.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), headers: Vec::new(), details: Vec::new(), logged: None }
    }

    /// The same with one more header of the answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The same with one more element in its XML.
    #[must_use]
    pub fn with_detail(mut self, name: &'static str, text: impl Into<String>) -> Self {
        self.details.push((name, text.into()));
        self
    }

    /// 503 that asks to come back after so many seconds.
    #[must_use]
    pub fn unavailable(message: impl Into<String>, retry_after_s: u32) -> Self {
        Self::new(Code::ServiceUnavailable, message).with_header(RETRY_AFTER, HeaderValue::from(retry_after_s))
    }

    /// 501 that names what is missing.
    #[must_use]
    pub fn not_implemented(what: &str) -> Self {
        Self::new(Code::NotImplemented, format!("{what} is not implemented."))
    }
}

impl From<Code> for S3Error {
    fn from(code: Code) -> Self {
        Self::new(code, code.message())
    }
}

impl fmt::Display for S3Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)
    }
}

impl std::error::Error for S3Error {}

/// Seconds after which a client may find a node in another state than one that must not write.
const ROLE_RETRY_S: u32 = 5;

impl From<Refusal> for S3Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unavailable { reason, retry_after_s } => Self::unavailable(reason, retry_after_s),
            Refusal::NotWritable { reason } | Refusal::Gone(reason) => Self::unavailable(reason, ROLE_RETRY_S),
            Refusal::NoSpace { reason } => Self::new(Code::InsufficientStorage, reason),
            Refusal::Unknown { epoch, seq, reason } => {
                let message = format!("The outcome of the write is unknown, it may yet become visible: {reason}");
                let mut error = Self::unavailable(message, 1);
                error.logged = Some((epoch, seq));
                error
            }
        }
    }
}

impl From<ImageError> for S3Error {
    fn from(error: ImageError) -> Self {
        // The client learns nothing about files and engines; the operator reads it here, where the error is handled.
        tracing::error!(%error, "the image cannot be read");
        match error {
            ImageError::NoSpace => Code::InsufficientStorage.into(),
            _ => Code::InternalError.into(),
        }
    }
}
