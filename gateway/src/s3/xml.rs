//! XML in and out. Answers go through a small writer that cannot leave an element open; requests are parsed by serde
//! after a scan that refuses what only an attack needs: DOCTYPE, entities of one's own, processing instructions, depth.
//!
//! Unknown elements of a request are skipped: clients send what newer versions of S3 know.

use std::fmt::{Display, Write};

use quick_xml::Reader;
use quick_xml::events::Event;
use serde::de::DeserializeOwned;

use super::error::{Code, S3Error};

/// Largest XML document of a request, in bytes: 10,000 parts with checksums, or 1,000 keys of 1 KiB, escaped.
pub const DOCUMENT_LEN_MAX: usize = 4 << 20;

/// Deepest nesting of a request's document. S3's own schemas need six.
const DEPTH_MAX: usize = 32;

/// The name space of S3's answers.
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// Writes one document.
#[derive(Debug)]
pub struct Writer {
    out: String,
    root: &'static str,
}

impl Writer {
    /// Begins a document in S3's name space.
    #[must_use]
    pub fn document(root: &'static str) -> Self {
        Self::begin(root, true)
    }

    /// Begins a document without a name space, as errors are.
    #[must_use]
    pub fn plain(root: &'static str) -> Self {
        Self::begin(root, false)
    }

    fn begin(root: &'static str, namespace: bool) -> Self {
        let mut out = String::with_capacity(512);
        out.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<");
        out.push_str(root);
        if namespace {
            out.push_str(" xmlns=\"");
            out.push_str(NAMESPACE);
            out.push('"');
        }
        out.push('>');
        Self { out, root }
    }

    /// An element with text.
    pub fn text(&mut self, name: &'static str, text: &str) -> &mut Self {
        self.tag(name);
        escape(&mut self.out, text);
        self.end(name)
    }

    /// Text of the element that is open.
    pub fn content(&mut self, text: &str) -> &mut Self {
        escape(&mut self.out, text);
        self
    }

    /// An element with text, where there is some.
    pub fn maybe(&mut self, name: &'static str, text: Option<&str>) -> &mut Self {
        if let Some(text) = text {
            self.text(name, text);
        }
        self
    }

    /// An element with a number or a boolean: what needs no escapes.
    pub fn value(&mut self, name: &'static str, value: impl Display) -> &mut Self {
        self.tag(name);
        // Writing to a String cannot fail.
        let _ = write!(self.out, "{value}");
        self.end(name)
    }

    /// An element with a time, from milliseconds since 1970.
    pub fn time(&mut self, name: &'static str, time_ms: u64) -> &mut Self {
        self.tag(name);
        self.out.push_str(&iso8601(time_ms));
        self.end(name)
    }

    /// An element with an ETag, quoted as lists want it.
    pub fn etag(&mut self, name: &'static str, etag: &str) -> &mut Self {
        self.tag(name);
        self.out.push_str("&quot;");
        escape(&mut self.out, etag);
        self.out.push_str("&quot;");
        self.end(name)
    }

    /// An element with elements in it.
    pub fn nest(&mut self, name: &'static str, inner: impl FnOnce(&mut Self)) -> &mut Self {
        self.tag(name);
        inner(self);
        self.end(name)
    }

    /// Ends the document.
    #[must_use]
    pub fn finish(mut self) -> String {
        let root = self.root;
        self.end(root);
        self.out
    }

    fn tag(&mut self, name: &str) {
        self.out.push('<');
        self.out.push_str(name);
        self.out.push('>');
    }

    fn end(&mut self, name: &str) -> &mut Self {
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
        self
    }
}

/// Appends text with what XML reserves, and what its parsers would change or refuse, as references.
fn escape(out: &mut String, text: &str) {
    let plain = |b: u8| b >= 0x20 && !matches!(b, b'&' | b'<' | b'>' | b'"' | b'\'' | 0x7f | 0xef);
    if text.bytes().all(plain) {
        out.push_str(text);
        return;
    }
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\0'..='\x1f' | '\x7f' | '\u{fffe}' | '\u{ffff}' => {
                // Writing to a String cannot fail.
                let _ = write!(out, "&#x{:x};", u32::from(c));
            }
            _ => out.push(c),
        }
    }
}

/// `2026-11-24T00:00:00.000Z` of milliseconds since 1970.
#[must_use]
pub fn iso8601(time_ms: u64) -> String {
    // Days to a civil date in the proleptic Gregorian calendar, with years that begin in March (so that the leap day is last).
    let (days, in_day) = (time_ms / 86_400_000, time_ms % 86_400_000);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (second, milli) = (in_day / 1000 % 60, in_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Parses a request's document.
///
/// # Errors
/// `MalformedXML` for anything but a plain, well-formed document of the wanted shape.
pub fn parse<T: DeserializeOwned>(document: &[u8]) -> Result<T, S3Error> {
    let malformed = || S3Error::from(Code::MalformedXML);
    if document.len() > DOCUMENT_LEN_MAX {
        return Err(malformed());
    }
    let text = std::str::from_utf8(document).map_err(|_| malformed())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    check(text).ok_or_else(malformed)?;
    quick_xml::de::from_str(text).map_err(|_| malformed())
}

/// Reads through the document; none where it is not plain.
fn check(text: &str) -> Option<()> {
    let mut reader = Reader::from_str(text);
    let mut depth = 0_usize;
    let mut roots = 0_usize;
    loop {
        match reader.read_event().ok()? {
            Event::Start(_) => {
                roots += usize::from(depth == 0);
                depth += 1;
                if depth > DEPTH_MAX {
                    return None;
                }
            }
            Event::Empty(_) => roots += usize::from(depth == 0),
            Event::End(_) => depth = depth.checked_sub(1)?,
            Event::DocType(_) | Event::PI(_) => return None,
            Event::GeneralRef(name) => {
                let predefined = matches!(&*name, "amp" | "lt" | "gt" | "quot" | "apos");
                if !predefined && !matches!(name.resolve_char_ref(), Ok(Some(_))) {
                    return None;
                }
            }
            Event::Eof => return (depth == 0 && roots == 1).then_some(()),
            Event::Text(_) | Event::CData(_) | Event::Comment(_) | Event::Decl(_) => {}
        }
    }
}
