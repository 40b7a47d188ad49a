//! Requests byte by byte: signed by aws-sigv4, the signer of AWS's own SDK, and then sent as a test wants it, also in ways
//! in which no client would. What comes back is taken apart without trusting it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningInstructions,
    SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::{SigningParams, sign_chunk, sign_trailer};
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_runtime_api::http::Headers;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::node::{Node, PATIENCE, SECRET_KEY, TOKEN};

/// A request that is to be signed and sent.
#[derive(Debug, Clone)]
pub struct Ask {
    address: SocketAddr,
    /// Method.
    pub method: String,
    /// Path and query, encoded.
    pub target: String,
    /// The Host header.
    pub host: String,
    /// Other headers, in order. Those that begin with `x-amz-` and content-md5 are signed.
    pub headers: Vec<(String, String)>,
    /// Body, sent with its Content-Length unless a header names another, or a Transfer-Encoding.
    pub body: Vec<u8>,
    /// What is signed in place of the body.
    pub payload: String,
    /// Access key and secret.
    pub key: (String, String),
    /// Region of the scope.
    pub region: String,
    /// When it is signed.
    pub time: SystemTime,
    /// In the query, for so long; in the header where there is none.
    pub presigned: Option<Duration>,
}

/// A signed request.
#[derive(Debug, Clone)]
pub struct Signed {
    address: SocketAddr,
    /// Method, target and version.
    pub line: String,
    /// All headers, in order.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
    /// The signature that a chunked body goes on from.
    pub signature: String,
}

impl Ask {
    /// A request of a node's root without a body.
    #[must_use]
    pub fn new(node: &Node, method: &str, target: &str) -> Self {
        Self::to(node.s3, (node.access_key(), SECRET_KEY.into()), method, target)
    }

    /// A request without a body to whoever listens there, with an access key and its secret.
    #[must_use]
    pub fn to(address: SocketAddr, key: (String, String), method: &str, target: &str) -> Self {
        Self {
            address,
            method: method.into(),
            target: target.into(),
            host: address.to_string(),
            headers: Vec::new(),
            body: Vec::new(),
            payload: hex(&[]),
            key,
            region: "us-east-1".into(),
            time: SystemTime::now(),
            presigned: None,
        }
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With a body, signed by its digest.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.payload = hex(&self.body);
        self
    }

    /// With another thing signed in place of the body: a digest, or one of S3's words.
    #[must_use]
    pub fn payload(mut self, payload: &str) -> Self {
        self.payload = payload.into();
        self
    }

    /// Signed in the query.
    #[must_use]
    pub fn presigned(mut self, life: Duration) -> Self {
        self.presigned = Some(life);
        self.payload = "UNSIGNED-PAYLOAD".into();
        self
    }

    fn identity(&self) -> Identity {
        Credentials::new(&self.key.0, &self.key.1, None, None, "tests").into()
    }

    fn params<'a, S: Default>(&'a self, identity: &'a Identity, settings: S) -> SigningParams<'a, S> {
        let builder = SigningParams::builder().identity(identity).region(&self.region).name("s3").time(self.time);
        builder.settings(settings).build().expect("all parameters")
    }

    fn sign(&self) -> (SigningInstructions, String) {
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = match self.presigned {
            None => PayloadChecksumKind::XAmzSha256,
            Some(_) => PayloadChecksumKind::NoHeader,
        };
        if self.presigned.is_some() {
            settings.signature_location = SignatureLocation::QueryParams;
            settings.expires_in = self.presigned;
        }
        let identity = self.identity();
        let params = self.params(&identity, settings).into();
        let url = format!("http://{}{}", self.host, self.target);
        let counts = |name: &str| name.starts_with("x-amz-") || name == "content-md5";
        let signed = self.headers.iter().filter(|(name, _)| counts(&name.to_lowercase()));
        let signed = std::iter::once(("host", self.host.as_str()))
            .chain(signed.map(|(name, value)| (name.as_str(), value.as_str())));
        let body = SignableBody::Precomputed(self.payload.clone());
        let request = SignableRequest::new(&self.method, url, signed, body).expect("a request");
        sign(request, &params).expect("a signature").into_parts()
    }

    /// Signs it.
    #[must_use]
    pub fn signed(&self) -> Signed {
        let (instructions, signature) = self.sign();
        let mut target = self.target.clone();
        for (name, value) in instructions.params() {
            let value = encode(value);
            write!(target, "{}{name}={value}", if target.contains('?') { '&' } else { '?' }).expect("text");
        }
        let mut headers = vec![("Host".to_owned(), self.host.clone())];
        headers.extend(self.headers.iter().cloned());
        headers.extend(instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())));
        let framed = ["content-length", "transfer-encoding"];
        let is_framed = headers.iter().any(|(name, _)| framed.contains(&name.to_lowercase().as_str()));
        if !is_framed && (!self.body.is_empty() || self.method == "PUT" || self.method == "POST") {
            headers.push(("Content-Length".into(), self.body.len().to_string()));
        }
        headers.push(("Connection".into(), "close".into()));
        let line = format!("{} {target} HTTP/1.1", self.method);
        Signed { address: self.address, line, headers, body: self.body.clone(), signature }
    }

    /// Signs and sends it.
    pub async fn send(&self) -> Answer {
        self.signed().send().await
    }

    /// An aws-chunked body of these chunks and the empty last one, each signed, going on from `seed`.
    #[must_use]
    pub fn chunks(&self, seed: &str, chunks: &[Bytes]) -> Chunks {
        let mut out = Chunks { bytes: Vec::new(), signature: seed.to_owned() };
        for chunk in chunks.iter().chain([&Bytes::new()]) {
            out.signature = self.chunk_signature(chunk, &out.signature);
            let line = format!("{:x};chunk-signature={}\r\n", chunk.len(), out.signature);
            out.bytes.extend_from_slice(line.as_bytes());
            out.bytes.extend_from_slice(chunk);
            if !chunk.is_empty() {
                out.bytes.extend_from_slice(b"\r\n");
            }
        }
        out
    }

    /// The signature of a chunk behind another one's.
    #[must_use]
    pub fn chunk_signature(&self, chunk: &Bytes, before: &str) -> String {
        let identity = self.identity();
        sign_chunk(chunk, before, &self.params(&identity, ())).expect("a signature").into_parts().1
    }

    /// The trailing headers behind chunks, with their signature.
    #[must_use]
    pub fn trailer(&self, before: &str, pairs: &[(&'static str, &str)]) -> Vec<u8> {
        let mut headers = Headers::new();
        let mut text = String::new();
        for (name, value) in pairs {
            headers.insert(*name, (*value).to_owned());
            write!(text, "{name}:{value}\r\n").expect("text");
        }
        let identity = self.identity();
        let signed = sign_trailer(&headers, before, &self.params(&identity, ())).expect("a signature");
        write!(text, "x-amz-trailer-signature:{}\r\n\r\n", signed.into_parts().1).expect("text");
        text.into_bytes()
    }
}

/// A signed aws-chunked body.
#[derive(Debug, Clone)]
pub struct Chunks {
    /// All of it, without the line end behind the last chunk, where a trailer may follow.
    pub bytes: Vec<u8>,
    /// The last chunk's signature.
    pub signature: String,
}

impl Signed {
    /// The head as it is sent.
    #[must_use]
    pub fn head(&self) -> String {
        let mut head = format!("{}\r\n", self.line);
        for (name, value) in &self.headers {
            write!(head, "{name}: {value}\r\n").expect("text");
        }
        head + "\r\n"
    }

    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(have, _)| have.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    /// With another value of a header that is there.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        let found = self.headers.iter_mut().find(|(have, _)| have.eq_ignore_ascii_case(name));
        found.expect("the header is there").1 = value.into();
        self
    }

    /// Without a header.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(have, _)| !have.eq_ignore_ascii_case(name));
        self
    }

    /// With a header that was not signed.
    #[must_use]
    pub fn and(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sends it and reads the answer.
    pub async fn send(&self) -> Answer {
        let bytes = [self.head().as_bytes(), &self.body].concat();
        exchange(self.address, &bytes).await.expect("an answer")
    }
}

/// What came back.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Takes the first final answer out of what a connection brought; none where there is no whole head.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let rest = &bytes[end + 4..];
        let mut lines = head.split("\r\n");
        let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        if status == 100 {
            return Self::parse(rest);
        }
        let pair = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        let headers: Vec<(String, String)> = lines.filter_map(pair).collect();
        let len = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, len)| len.parse().ok());
        let body = rest[..len.unwrap_or(rest.len()).min(rest.len())].to_vec();
        Some(Self { status, headers, body })
    }

    /// A header's value; empty where there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(have, _)| have == name).map_or("", |(_, value)| value)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The text of the first element of this name; empty where there is none.
    #[must_use]
    pub fn element(&self, name: &str) -> String {
        let text = self.text();
        let inner = text.split_once(&format!("<{name}>")).and_then(|(_, rest)| rest.split_once(&format!("</{name}>")));
        inner.map_or(String::new(), |(inner, _)| inner.to_owned())
    }

    /// Status and S3's error code.
    #[must_use]
    pub fn error(&self) -> (u16, String) {
        (self.status, self.element("Code"))
    }
}

/// Sends bytes on a connection of their own and reads what comes until it ends.
///
/// # Errors
/// When nothing that is an answer comes before the end.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> Result<Answer, String> {
    let got = talk(address, bytes, false).await?;
    Answer::parse(&got).ok_or_else(|| format!("no answer in {:?}", String::from_utf8_lossy(&got)))
}

/// Asks a node's admin listener with the right token; `body` is JSON, or nothing.
///
/// # Panics
/// Where no answer comes.
pub async fn admin(node: &Node, method: &str, target: &str, body: &str) -> Answer {
    let len = body.len();
    let head = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}");
    let text = format!("{head}\r\nContent-Length: {len}\r\n\r\n{body}");
    exchange(node.admin, text.as_bytes()).await.expect("an answer")
}

/// Sends bytes, says with `ends` that nothing more will come, and reads everything until the other side closes.
///
/// # Errors
/// When it does not close in time.
pub async fn talk(address: SocketAddr, bytes: &[u8], ends: bool) -> Result<Vec<u8>, String> {
    let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    let (mut reader, mut writer) = stream.into_split();
    let mut got = Vec::new();
    let write = async {
        // The other side may close while this is written.
        let _closed = writer.write_all(bytes).await;
        if ends {
            let _closed = writer.shutdown().await;
        }
        std::future::pending::<()>().await;
    };
    let read = async {
        let mut piece = vec![0; 64 << 10];
        // A reset ends it like a close: what came before counts.
        while let Ok(len @ 1..) = reader.read(&mut piece).await {
            got.extend_from_slice(&piece[..len]);
        }
    };
    let both = async {
        tokio::select! {
            () = read => {}
            () = write => {}
        }
    };
    timeout(PATIENCE, both).await.map_err(|_| "the connection was left open".to_owned())?;
    Ok(got)
}

/// SHA-256 in hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").expect("text");
        out
    })
}

/// Every byte but the unreserved ones as `%XX`.
#[must_use]
pub fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => write!(out, "%{byte:02X}").expect("text"),
        }
        out
    })
}
