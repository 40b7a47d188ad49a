//! The canonical request: the bytes that client and server must agree on, made of the raw URI and the headers.
//!
//! Path and query are brought to one form byte by byte, never decoded as a whole: an encoded slash stays encoded, `..` and
//! `//` stay as they are.

use super::{Claim, Form, Head};

const UPPER_HEX: &[u8; 16] = b"0123456789ABCDEF";

/// How the path stands in the canonical request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathForm {
    /// Every byte encoded the one right way, as S3 documents it.
    Normal,
    /// As it came in: some clients send and sign what they did not need to encode. It names the same key.
    Raw,
}

/// Builds it. None where the form is raw and would not differ from the normal one.
pub(super) fn request(head: &Head<'_>, claim: &Claim<'_>, payload_hash: &str, form: PathForm) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(768);
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b'\n');
    let path_at = out.len();
    encode(&mut out, head.path.as_bytes(), Part::Path);
    if form == PathForm::Raw {
        if &out[path_at..] == head.path.as_bytes() {
            return None;
        }
        out.truncate(path_at);
        out.extend_from_slice(head.path.as_bytes());
    }
    out.push(b'\n');
    query(&mut out, head.query, matches!(claim.form, Form::Query { .. }));
    out.push(b'\n');
    for name in claim.signed_headers.split(';') {
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        if name == "host" {
            out.extend_from_slice(head.host.trim().as_bytes());
        } else {
            header(&mut out, head, name);
        }
        out.push(b'\n');
    }
    out.push(b'\n');
    out.extend_from_slice(claim.signed_headers.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(payload_hash.as_bytes());
    Some(out)
}

/// The values of a header, joined by commas, each trimmed and with single spaces.
fn header(out: &mut Vec<u8>, head: &Head<'_>, name: &str) {
    for (index, value) in head.headers.get_all(name).iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        // A header is bytes, in whatever encoding the client signed and sent.
        let words = value.as_bytes().split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        for (index, word) in words.enumerate() {
            if index > 0 {
                out.push(b' ');
            }
            out.extend_from_slice(word);
        }
    }
}

/// The pairs of the query, each encoded, in order.
fn query(out: &mut Vec<u8>, raw: &str, presigned: bool) {
    if raw.is_empty() {
        return;
    }
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::with_capacity(8);
    for part in raw.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let name = encoded(name);
        if !(presigned && name == b"X-Amz-Signature") {
            pairs.push((name, encoded(value)));
        }
    }
    pairs.sort_unstable();
    for (index, (name, value)) in pairs.iter().enumerate() {
        if index > 0 {
            out.push(b'&');
        }
        out.extend_from_slice(name);
        out.push(b'=');
        out.extend_from_slice(value);
    }
}

fn encoded(raw: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + 8);
    encode(&mut out, raw.as_bytes(), Part::Query);
    out
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Path,
    Query,
}

/// Appends raw bytes with everything but unreserved characters encoded (and slashes, in a path).
fn encode(out: &mut Vec<u8>, raw: &[u8], part: Part) {
    let mut rest = raw;
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, tail, literal) = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, tail, false),
                _ => (first, rest.get(1..).unwrap_or_default(), true),
            },
            (b'+', _) if part == Part::Query => (b' ', tail, true),
            _ => (first, tail, true),
        };
        rest = tail;
        let unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
        if unreserved || (part == Part::Path && byte == b'/' && literal) {
            out.push(byte);
        } else {
            out.push(b'%');
            out.push(UPPER_HEX[usize::from(byte >> 4)]);
            out.push(UPPER_HEX[usize::from(byte & 15)]);
        }
    }
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_form() {
        let path = |raw: &str| {
            let mut out = Vec::new();
            encode(&mut out, raw.as_bytes(), Part::Path);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(path("/b/a b"), "/b/a%20b");
        assert_eq!(path("/b//../x%2fy%2F"), "/b//../x%2Fy%2F");
        assert_eq!(path("/b/%7e%41+*"), "/b/~A%2B%2A");
        assert_eq!(path("/é%"), "/%C3%A9%25");
        assert_eq!(path("%4"), "%254");
        assert_eq!(path("%zz"), "%25zz");
    }

    #[test]
    fn a_query_is_sorted_by_its_encoded_pairs() {
        let form = |raw: &str, presigned: bool| {
            let mut out = Vec::new();
            query(&mut out, raw, presigned);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(form("uploads", false), "uploads=");
        assert_eq!(form("b=2&a=2&&a=1&A=%2f", false), "A=%2F&a=1&a=2&b=2");
        assert_eq!(form("prefix=a+b%2Bc", false), "prefix=a%20b%2Bc");
        assert_eq!(form("X-Amz-Signature=1&x=1", true), "x=1");
        assert_eq!(form("X-Amz-Signature=1&x=1", false), "X-Amz-Signature=1&x=1");
    }
}
