//! aws-chunked: `SIZE[;chunk-signature=HEX]CRLF BYTES CRLF` until a size of 0, then trailing headers. No input or output
//! happens here: bytes in, pieces out, whatever the borders at which the bytes come.
//!
//! A chunk's signature covers its digest and the signature before, from the head's on, so chunks can be neither changed,
//! left out nor swapped. It is compared at the end of the chunk; the pieces of it are out by then, see [`super::Payload`].

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::s3::auth::{EMPTY_SHA256, Signer, hex};
use crate::s3::error::{Code, S3Error};

/// Longest line before a chunk, in bytes. Size and signature need 100.
const LINE_LEN_MAX: usize = 1024;
/// Most bytes of trailing headers.
const TRAILER_LEN_MAX: usize = 16 << 10;
/// Smallest signed chunk but the last, in bytes: a signature for every few bytes would be an attack on our time.
const SIGNED_CHUNK_MIN: u64 = 8 << 10;
/// The header with the signature of the other trailing headers.
const TRAILER_SIGNATURE: &str = "x-amz-trailer-signature";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the line before a chunk.
    Line,
    /// In a chunk: so many bytes are still to come.
    Data(u64),
    /// In the line end behind a chunk.
    DataEnd,
    /// Behind the last chunk.
    Trailer,
}

/// Decodes one body.
pub struct Decoder {
    state: State,
    /// The line or the trailing headers, as far as they have come.
    text: Vec<u8>,
    signer: Option<Signer>,
    /// Digest of the chunk so far.
    digest: Sha256,
    /// The signature that the chunk's line gave.
    presented: String,
    chunk_len: u64,
    /// Names that must follow; none where no trailing headers may.
    trailer_names: Option<Vec<HeaderName>>,
}

impl Decoder {
    /// A decoder that verifies with `signer` where chunks are signed, and takes trailing headers of these names.
    #[must_use]
    pub fn new(signer: Option<Signer>, trailer_names: Option<Vec<HeaderName>>) -> Self {
        let (state, digest) = (State::Line, Sha256::new());
        Self { state, text: Vec::new(), signer, digest, presented: String::new(), chunk_len: u64::MAX, trailer_names }
    }

    /// Takes bytes off the front of `input` until a piece of data has come together. None: all of the input was taken.
    ///
    /// # Errors
    /// For a malformed line, a chunk that is too small, and a signature that does not match.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, S3Error> {
        while !input.is_empty() {
            match self.state {
                State::Line => self.line(input)?,
                State::Data(left) => {
                    let len = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    let piece = input.split_to(len);
                    if self.signer.is_some() {
                        self.digest.update(&piece);
                    }
                    let left = left - len as u64;
                    self.state = State::Data(left);
                    if left == 0 {
                        self.verify_chunk()?;
                        self.state = State::DataEnd;
                    }
                    return Ok(Some(piece));
                }
                State::DataEnd => self.data_end(input)?,
                State::Trailer => {
                    if self.text.len() + input.len() > TRAILER_LEN_MAX {
                        return Err(Code::MalformedTrailerError.into());
                    }
                    self.text.extend_from_slice(input);
                    input.clear();
                }
            }
        }
        Ok(None)
    }

    /// The body has ended: returns the trailing headers.
    ///
    /// # Errors
    /// `IncompleteBody` before the last chunk; `MalformedTrailerError` and `SignatureDoesNotMatch` for the trailing headers.
    pub fn finish(&mut self) -> Result<HeaderMap, S3Error> {
        if self.state != State::Trailer {
            return Err(Code::IncompleteBody.into());
        }
        let text = std::mem::take(&mut self.text);
        let Some(names) = self.trailer_names.take() else {
            let blank = text.iter().all(|b| matches!(b, b'\r' | b'\n'));
            return if blank { Ok(HeaderMap::new()) } else { Err(malformed("bytes follow the last chunk.")) };
        };
        let mut trailers = parse_trailers(&text).ok_or_else(|| S3Error::from(Code::MalformedTrailerError))?;
        let signature = trailers.remove(TRAILER_SIGNATURE);
        if let Some(signer) = &self.signer {
            let signature = signature.ok_or_else(|| S3Error::from(Code::MalformedTrailerError))?;
            verify_trailers(signer, &trailers, &text, &signature)?;
        }
        let declared = names.iter().all(|name| trailers.contains_key(name));
        if !declared || trailers.keys().any(|name| !names.contains(name)) {
            return Err(Code::MalformedTrailerError.into());
        }
        Ok(trailers)
    }

    /// Gathers the line before a chunk; at its end, begins the chunk.
    fn line(&mut self, input: &mut Bytes) -> Result<(), S3Error> {
        let end = input.iter().position(|b| *b == b'\n');
        let taken = input.split_to(end.map_or(input.len(), |end| end + 1));
        if self.text.len() + taken.len() > LINE_LEN_MAX {
            return Err(malformed("the line before a chunk is too long."));
        }
        self.text.extend_from_slice(&taken);
        if end.is_none() {
            return Ok(());
        }
        let line = std::mem::take(&mut self.text);
        let line = line.strip_suffix(b"\r\n").ok_or_else(|| malformed("a line does not end with CR LF."))?;
        let line = std::str::from_utf8(line).map_err(|_| malformed("a line is not ASCII."))?;
        let (size, extension) = line.split_once(';').unwrap_or((line, ""));
        let len = chunk_size(size.trim()).ok_or_else(|| malformed("a chunk size is not a number."))?;
        if self.signer.is_some() && len > 0 && self.chunk_len < SIGNED_CHUNK_MIN {
            return Err(Code::InvalidChunkSizeError.into());
        }
        let signature = extension.split(';').find_map(|pair| pair.trim().strip_prefix("chunk-signature="));
        signature.unwrap_or_default().clone_into(&mut self.presented);
        self.chunk_len = len;
        if len == 0 {
            self.verify_chunk()?;
            self.state = State::Trailer;
        } else {
            self.state = State::Data(len);
        }
        Ok(())
    }

    fn data_end(&mut self, input: &mut Bytes) -> Result<(), S3Error> {
        const END: &[u8] = b"\r\n";
        let at = self.text.len();
        if END.get(at) != input.first() {
            return Err(malformed("a chunk is longer than its size."));
        }
        self.text.push(END[at]);
        input.advance(1);
        if self.text.len() == END.len() {
            self.text.clear();
            self.state = State::Line;
        }
        Ok(())
    }

    fn verify_chunk(&mut self) -> Result<(), S3Error> {
        let Some(signer) = &mut self.signer else { return Ok(()) };
        let digest = hex(&std::mem::replace(&mut self.digest, Sha256::new()).finalize());
        let wanted = signer.chain("AWS4-HMAC-SHA256-PAYLOAD", &[EMPTY_SHA256, &digest]);
        if !bool::from(wanted.as_bytes().ct_eq(self.presented.as_bytes())) {
            return Err(Code::SignatureDoesNotMatch.into());
        }
        signer.signature = wanted;
        Ok(())
    }
}

fn malformed(why: &str) -> S3Error {
    S3Error::new(Code::InvalidRequest, format!("The aws-chunked body is malformed: {why}"))
}

/// 1 to 16 hex digits.
fn chunk_size(text: &str) -> Option<u64> {
    let fits = !text.is_empty() && text.len() <= 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    fits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// Non-empty lines with their ends (CR LF, or only LF as some clients write) and blanks around them removed.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty())
}

fn parse_trailers(text: &[u8]) -> Option<HeaderMap> {
    let mut trailers = HeaderMap::new();
    for line in lines(text) {
        let colon = line.iter().position(|b| *b == b':')?;
        let name = HeaderName::from_bytes(line[..colon].trim_ascii()).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        if trailers.insert(name, value).is_some() {
            return None;
        }
    }
    Some(trailers)
}

/// The canonical form has the lines sorted by name; clients with one trailing header cannot tell, and some with more send
/// and sign them in another order.
fn verify_trailers(signer: &Signer, trailers: &HeaderMap, text: &[u8], presented: &HeaderValue) -> Result<(), S3Error> {
    let line = |name: &HeaderName| {
        let value = trailers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
        [name.as_str().as_bytes(), b":", value, b"\n"].concat()
    };
    let in_order = lines(text).filter_map(|line| {
        let name = line.split(|b| *b == b':').next()?;
        HeaderName::from_bytes(name.trim_ascii()).ok().filter(|name| trailers.contains_key(name))
    });
    let as_sent: Vec<Vec<u8>> = in_order.map(|name| line(&name)).collect();
    let mut sorted = as_sent.clone();
    sorted.sort_unstable();
    let matches = |canonical: Vec<Vec<u8>>| {
        let digest = hex(&Sha256::digest(canonical.concat()));
        let wanted = signer.chain("AWS4-HMAC-SHA256-TRAILER", &[&digest]);
        bool::from(wanted.as_bytes().ct_eq(presented.as_bytes()))
    };
    if matches(sorted) || matches(as_sent) { Ok(()) } else { Err(Code::SignatureDoesNotMatch.into()) }
}
