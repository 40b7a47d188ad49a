//! A small S3 client: one connection, path style, SigV4 with an unsigned payload. What the demo's writers and readers use.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body::Body as _;
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

/// A connection to `address`.
async fn open(address: &str) -> Result<SendRequest<Full<Bytes>>, String> {
    let stream = TcpStream::connect(address).await.map_err(|e| format!("{address}: {e}"))?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}

/// One connection to an S3 endpoint.
pub struct S3Client {
    sender: SendRequest<Full<Bytes>>,
    /// The last answer may have come before the whole request had left. Hyper's client (1.12) then does not look at the next
    /// request until something else happens on the connection, so that one goes out on a new one.
    spent: bool,
    address: String,
    key: KeyPair,
}

impl S3Client {
    /// Connects to `address` (host and port).
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(address: &str, key: &KeyPair) -> Result<Self, String> {
        let sender = open(address).await?;
        Ok(Self { sender, spent: false, address: address.to_owned(), key: key.clone() })
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

    /// As [`Self::send`], with more headers, which are signed.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn exchange(
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
        let has_body = !request.body().is_end_stream();
        let exchange = async {
            if std::mem::take(&mut self.spent) {
                self.sender = open(&self.address).await?;
            }
            self.sender.ready().await.map_err(|e| e.to_string())?;
            let (head, body) = self.sender.send_request(request).await.map_err(|e| e.to_string())?.into_parts();
            let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
            self.spent = has_body && !head.status.is_success();
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const BODY_LEN: usize = 8 << 20;

    /// Refuses every request as soon as it has its head, and reads the rest of it afterwards.
    async fn refuse_early(listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buf = vec![0; 64 << 10];
                loop {
                    let mut head = Vec::new();
                    let mut left = loop {
                        let Ok(read @ 1..) = stream.read(&mut buf).await else { return };
                        head.extend_from_slice(&buf[..read]);
                        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                            break BODY_LEN - (head.len() - end - 4);
                        }
                    };
                    let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all(answer).await.expect("the client reads");
                    while left > 0 {
                        let Ok(read @ 1..) = stream.read(&mut buf).await else { return };
                        left -= read;
                    }
                }
            });
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_upload_that_is_refused_early_does_not_hold_up_the_next_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        tokio::spawn(refuse_early(listener));
        let key = KeyPair { access_key: "a".into(), secret_key: "s".into() };
        let mut client = S3Client::connect(&address, &key).await.expect("connects");
        let body = Bytes::from(vec![1; BODY_LEN]);
        for _ in 0..40 {
            let answer = client.send(Method::PUT, "/bucket/key", body.clone()).await.expect("an answer");
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        }
    }
}
