//! A small S3 client: one connection, path style, SigV4 with an unsigned payload. What the demo's writers and readers use.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::KeyPair;

/// Longest time for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The error of a request that got no answer for so long.
pub const NO_ANSWER: &str = "no answer in time";

/// An answer: status, headers, body.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// One connection to an S3 endpoint.
pub struct S3Client {
    sender: SendRequest<Full<Bytes>>,
    address: String,
    key: KeyPair,
}

impl S3Client {
    /// Connects to `address` (host and port).
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(address: &str, key: &KeyPair) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|e| format!("{address}: {e}"))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        Ok(Self { sender, address: address.to_owned(), key: key.clone() })
    }

    /// Sends a request and reads the whole answer. `target` is path and query, already encoded.
    ///
    /// # Errors
    /// When the connection breaks or nothing comes in time: the outcome is then unknown.
    pub async fn send(&mut self, method: Method, target: &str, body: Bytes) -> Result<Answer, String> {
        self.exchange(method, target, &[], body).await
    }

    /// Copies the object at `source` (bucket and key, as a path) to `target`.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn copy(&mut self, source: &str, target: &str) -> Result<Answer, String> {
        self.exchange(Method::PUT, target, &[("x-amz-copy-source", source)], Bytes::new()).await
    }

    async fn exchange(
        &mut self,
        method: Method,
        target: &str,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<Answer, String> {
        let mut request = Request::builder()
            .method(method.clone())
            .uri(target)
            .header("host", &self.address)
            .header("x-amz-content-sha256", "UNSIGNED-PAYLOAD");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Full::new(body)).map_err(|e| e.to_string())?;
        self.sign(&method, target, headers, request.headers_mut())?;
        let exchange = async {
            self.sender.ready().await.map_err(|e| e.to_string())?;
            let (head, body) = self.sender.send_request(request).await.map_err(|e| e.to_string())?.into_parts();
            let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
            Ok(Answer { status: head.status, headers: head.headers, body })
        };
        timeout(REQUEST_TIMEOUT, exchange).await.map_err(|_| NO_ANSWER.to_owned())?
    }

    fn sign(
        &self,
        method: &Method,
        target: &str,
        more: &[(&'static str, &str)],
        headers: &mut HeaderMap,
    ) -> Result<(), String> {
        let identity = Credentials::new(&self.key.access_key, &self.key.secret_key, None, None, "demo").into();
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = PayloadChecksumKind::NoHeader;
        settings.percent_encoding_mode = aws_sigv4::http_request::PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = aws_sigv4::http_request::UriPathNormalizationMode::Disabled;
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region("us-east-1")
            .name("s3")
            .time(SystemTime::now())
            .settings(settings)
            .build()
            .map_err(|e| e.to_string())?
            .into();
        let signed = [("host", self.address.as_str()), ("x-amz-content-sha256", "UNSIGNED-PAYLOAD")];
        let url = format!("http://{}{target}", self.address);
        let signed = signed.into_iter().chain(more.iter().copied());
        let request = SignableRequest::new(method.as_str(), url, signed, SignableBody::UnsignedPayload)
            .map_err(|e| e.to_string())?;
        let (instructions, _) = sign(request, &params).map_err(|e| e.to_string())?.into_parts();
        for (name, value) in instructions.headers() {
            let name = http::HeaderName::from_bytes(name.as_bytes()).map_err(|e| e.to_string())?;
            headers.insert(name, value.parse().map_err(|_| "signature".to_owned())?);
        }
        Ok(())
    }
}
