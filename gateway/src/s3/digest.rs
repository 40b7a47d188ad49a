//! Digests of bodies: the MD5 behind an ETag, and the checksums that clients send along.
//!
//! Every hash that the gateway computes over a body is computed here, in one pass, so that an implementation can be
//! exchanged in one place. Callers are the upload path, `CompleteMultipartUpload` (which combines the parts' digests
//! without reading a byte again) and `DeleteObjects`. Nothing here waits; large pieces belong on a blocking thread.
//!
//! # Layout
//! - `message`: MD5 of a message in pieces; `lanes`: its inner function, over one message or many at once.
//! - `pool`: digests of many uploads at once.

mod lanes;
mod message;
mod pool;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::{CrcAlgorithm, Digest as Crc, checksum_combine};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

pub use message::md5;
pub use pool::DigestPool;

use message::Message;

/// A checksum algorithm of S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// CRC-32 (ISO-HDLC).
    Crc32,
    /// CRC-32C (Castagnoli).
    Crc32c,
    /// CRC-64/NVME.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// How the checksum of an object made of parts comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumType {
    /// Over the bytes of the whole object.
    FullObject,
    /// Over the parts' digests, with the number of parts behind it.
    Composite,
}

impl ChecksumType {
    /// As in `x-amz-checksum-type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::FullObject => "FULL_OBJECT",
            Self::Composite => "COMPOSITE",
        }
    }

    /// The type with this name, whatever its case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::FullObject, Self::Composite].into_iter().find(|t| t.name().eq_ignore_ascii_case(name))
    }
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// As in `x-amz-checksum-algorithm`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The header that carries a value of it.
    #[must_use]
    pub fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// The element of an XML document that carries a value of it.
    #[must_use]
    pub fn element(self) -> &'static str {
        match self {
            Self::Crc32 => "ChecksumCRC32",
            Self::Crc32c => "ChecksumCRC32C",
            Self::Crc64Nvme => "ChecksumCRC64NVME",
            Self::Sha1 => "ChecksumSHA1",
            Self::Sha256 => "ChecksumSHA256",
        }
    }

    /// The algorithm with this name, whatever its case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name().eq_ignore_ascii_case(name))
    }

    /// The algorithm whose values this header carries.
    #[must_use]
    pub fn from_header(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.header().eq_ignore_ascii_case(name))
    }

    /// Length of a value, in bytes.
    #[must_use]
    pub fn value_len(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// A value from its base64 text; none when it is not one.
    #[must_use]
    pub fn decode(self, text: &str) -> Option<Vec<u8>> {
        BASE64.decode(text.trim()).ok().filter(|value| value.len() == self.value_len())
    }

    /// The type that an object made of parts has when the client named none.
    #[must_use]
    pub fn default_type(self) -> ChecksumType {
        match self {
            Self::Crc64Nvme => ChecksumType::FullObject,
            _ => ChecksumType::Composite,
        }
    }

    /// Whether an object made of parts can have a checksum of this type.
    #[must_use]
    pub fn supports(self, of: ChecksumType) -> bool {
        match of {
            ChecksumType::FullObject => self.crc().is_some(),
            ChecksumType::Composite => self != Self::Crc64Nvme,
        }
    }

    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Self::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    fn hasher(self) -> Hasher {
        match self {
            Self::Crc32 => Hasher::Crc(Crc::new(CrcAlgorithm::Crc32IsoHdlc)),
            Self::Crc32c => Hasher::Crc(Crc::new(CrcAlgorithm::Crc32Iscsi)),
            Self::Crc64Nvme => Hasher::Crc(Crc::new(CrcAlgorithm::Crc64Nvme)),
            Self::Sha1 => Hasher::Sha1(Sha1::new()),
            Self::Sha256 => Hasher::Sha256(Sha256::new()),
        }
    }

    /// The value of a whole from the values and lengths of its parts, without the bytes.
    ///
    /// None for a combination that S3 does not have either: a full-object SHA, or a part value of a wrong length.
    #[must_use]
    pub fn combine(self, of: ChecksumType, parts: &[(Vec<u8>, u64)]) -> Option<Vec<u8>> {
        if !self.supports(of) || parts.iter().any(|(value, _)| value.len() != self.value_len()) {
            return None;
        }
        if of == ChecksumType::Composite {
            let mut hasher = self.hasher();
            for (value, _) in parts {
                hasher.update(value);
            }
            return Some(hasher.finish(self));
        }
        let crc = self.crc()?;
        let number = |value: &[u8]| value.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let (first, rest) = parts.split_first()?;
        let combined =
            rest.iter().fold(number(&first.0), |sum, (value, len)| checksum_combine(crc, sum, number(value), *len));
        Some(combined.to_be_bytes()[8 - self.value_len()..].to_vec())
    }
}

/// Base64 of a value, as headers and XML carry it.
#[must_use]
pub fn base64_text(value: &[u8]) -> String {
    BASE64.encode(value)
}

/// The 16 bytes of a `Content-MD5` header; none when it is not one.
#[must_use]
pub fn decode_content_md5(text: &str) -> Option<[u8; 16]> {
    BASE64.decode(text.trim()).ok()?.try_into().ok()
}

enum Hasher {
    Crc(Crc),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc(crc) => crc.update(bytes),
            Self::Sha1(sha) => sha.update(bytes),
            Self::Sha256(sha) => sha.update(bytes),
        }
    }

    fn finish(self, algorithm: Algorithm) -> Vec<u8> {
        match self {
            // Every CRC comes in 64 bits; a 32-bit one stands in the low half.
            Self::Crc(crc) => crc.finalize().to_be_bytes()[8 - algorithm.value_len()..].to_vec(),
            Self::Sha1(sha) => sha.finalize().to_vec(),
            Self::Sha256(sha) => sha.finalize().to_vec(),
        }
    }
}

/// Digests of a body in the making.
pub struct Digester {
    md5: Message,
    checksums: Vec<(Algorithm, Hasher)>,
}

/// Digests of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// Its MD5.
    pub md5: [u8; 16],
    /// Its checksums, one for each algorithm asked for.
    pub checksums: Vec<(Algorithm, Vec<u8>)>,
}

impl Digester {
    /// Starts with no bytes: MD5 and these checksums.
    #[must_use]
    pub fn new(algorithms: &[Algorithm]) -> Self {
        let mut wanted = algorithms.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        Self { md5: Message::default(), checksums: wanted.into_iter().map(|a| (a, a.hasher())).collect() }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.update_checksums(bytes);
    }

    /// Adds bytes to all but the MD5. Cache-sized steps, so that every hash after the first finds them in the cache.
    fn update_checksums(&mut self, bytes: &[u8]) {
        const STEP_LEN: usize = 64 << 10;
        for step in bytes.chunks(STEP_LEN) {
            self.checksums.iter_mut().for_each(|(_, hasher)| hasher.update(step));
        }
    }

    /// The digests of all bytes.
    #[must_use]
    pub fn finish(self) -> Digests {
        let checksums = self.checksums.into_iter().map(|(a, hasher)| (a, hasher.finish(a))).collect();
        Digests { md5: self.md5.finish(), checksums }
    }
}

impl Digests {
    /// The ETag of an object stored in one piece, without quotes.
    #[must_use]
    pub fn etag(&self) -> String {
        hex(&self.md5)
    }

    /// The value of an algorithm.
    #[must_use]
    pub fn checksum(&self, of: Algorithm) -> Option<&[u8]> {
        self.checksums.iter().find(|(a, _)| *a == of).map(|(_, value)| &value[..])
    }
}

/// The ETag of an object made of parts, from their ETags: MD5 of MD5s and the number of parts. None when a part's ETag
/// is no MD5.
#[must_use]
pub fn multipart_etag<'a>(parts: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut whole = Message::default();
    let mut count = 0u32;
    for etag in parts {
        whole.update(&unhex(etag)?);
        count += 1;
    }
    Some(format!("{}-{count}", hex(&whole.finish())))
}

/// Lower-case hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
    digits.map(char::from).collect()
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let text: &[u8; 32] = text.as_bytes().try_into().ok()?;
    let mut out = [0; 16];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(bytes: &[u8]) -> Digests {
        let mut digester = Digester::new(&Algorithm::ALL);
        bytes.chunks(7).for_each(|piece| digester.update(piece));
        digester.finish()
    }

    #[test]
    fn known_values_of_the_check_string() {
        let found = digests(b"123456789");
        assert_eq!(found.etag(), "25f9e794323b453885f5181f1b624d0b");
        let value = |a| hex(found.checksum(a).expect("asked for"));
        assert_eq!(value(Algorithm::Crc32), "cbf43926");
        assert_eq!(value(Algorithm::Crc32c), "e3069283");
        assert_eq!(value(Algorithm::Crc64Nvme), "ae8b14860a799888");
        assert_eq!(value(Algorithm::Sha1), "f7c3bc1d808e04732adf679965ccc34ca7ae3441");
        assert_eq!(value(Algorithm::Sha256), "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225");
    }

    #[test]
    fn a_full_object_crc_is_combined_from_its_parts() {
        let whole: Vec<u8> = (0..10_000u32).flat_map(u32::to_le_bytes).collect();
        let expected = digests(&whole);
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            let value = |piece: &[u8]| digests(piece).checksum(algorithm).expect("asked for").to_vec();
            let parts: Vec<_> = whole.chunks(9_999).map(|p| (value(p), p.len() as u64)).collect();
            let combined = algorithm.combine(ChecksumType::FullObject, &parts);
            assert_eq!(combined.as_deref(), expected.checksum(algorithm), "{algorithm:?}");
        }
        let sha = [(vec![0; 20], 1)];
        assert_eq!(Algorithm::Sha1.combine(ChecksumType::FullObject, &sha), None);
        assert_eq!(Algorithm::Sha1.combine(ChecksumType::Composite, &[(vec![0; 19], 1)]), None);
    }

    #[test]
    fn an_etag_of_parts_is_the_md5_of_their_md5s() {
        let part = hex(&md5(b"a"));
        let both = [md5(b"a"), md5(b"a")].concat();
        assert_eq!(multipart_etag([&part[..], &part[..]]), Some(format!("{}-2", hex(&md5(&both)))));
        for bad in ["", "zz", "0cc175b9c0f1b6a831c399e26977266", "éééééééééééééééé"] {
            assert_eq!(multipart_etag([bad]), None, "{bad}");
        }
    }

    #[test]
    fn a_value_of_another_length_is_no_value() {
        assert_eq!(Algorithm::Crc32.decode("y/Q5Jg=="), Some(vec![0xcb, 0xf4, 0x39, 0x26]));
        for bad in ["y/Q5", "", "!", "y/Q5JgA="] {
            assert_eq!(Algorithm::Crc32.decode(bad), None, "{bad}");
        }
    }
}
