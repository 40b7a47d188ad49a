//! One HTTP/1.1 request to a node's admin address, and its JSON answer.
//!
//! A refusal comes back as the node's own sentence; a node that cannot be reached is named with its address.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Target;

/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer, in bytes.
const ANSWER_LEN_MAX: usize = 16 << 20;

/// Speaks to one node.
#[derive(Debug, Clone)]
pub struct AdminClient {
    uri: Uri,
    authority: String,
    token: String,
}

impl AdminClient {
    /// For the node and token that the command line names.
    ///
    /// # Errors
    /// When the address is none, or no token is found.
    pub fn new(target: &Target) -> Result<Self, String> {
        Self::with_token(&target.admin, find_token(target)?)
    }

    /// For a node's admin address and its token.
    ///
    /// # Errors
    /// When the address is no `http://` URL.
    pub fn with_token(admin: &str, token: String) -> Result<Self, String> {
        let uri: Uri = admin.parse().map_err(|_| format!("'{admin}' is not a URL like http://127.0.0.1:9001"))?;
        match (uri.scheme_str(), uri.authority()) {
            (Some("http"), Some(authority)) => {
                let authority = authority.to_string();
                Ok(Self { uri, authority, token })
            }
            _ => Err(format!("'{admin}' is not a URL like http://127.0.0.1:9001")),
        }
    }

    /// One request. `path` with its query; `body` as JSON where there is one.
    ///
    /// # Errors
    /// With one sentence: the node's own, or why it cannot be reached.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, String> {
        let (status, answer) = self.exchange(method, path, body).await?;
        let value: Value = serde_json::from_slice(&answer).unwrap_or_default();
        if status.is_success() {
            return Ok(value);
        }
        Err(self.refusal(status, &value))
    }

    /// As [`Self::call`], with whatever status and body come.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(StatusCode, Bytes), String> {
        let response = self.send(method, path, body).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LEN_MAX).collect().await;
        Ok((status, body.map_err(|error| self.failed(&error))?.to_bytes()))
    }

    /// One request whose answer is lines without an end in sight.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn lines(&self, method: Method, path: &str, body: Value) -> Result<Lines, String> {
        let response = self.send(method, path, Some(body)).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(Lines { body: response.into_body(), waiting: BytesMut::new(), seen: 0 });
        }
        let body = Limited::new(response.into_body(), ANSWER_LEN_MAX).collect().await;
        let value: Value =
            serde_json::from_slice(&body.map_err(|error| self.failed(&error))?.to_bytes()).unwrap_or_default();
        Err(self.refusal(status, &value))
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> String {
        format!("no answer from {}: {error}", self.authority)
    }

    /// The node's own sentence.
    fn refusal(&self, status: StatusCode, value: &Value) -> String {
        let sentence = value.get("error").and_then(Value::as_str);
        sentence.map_or_else(|| format!("{} answers {status}", self.authority), str::to_owned)
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Response<Incoming>, String> {
        let host = self.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let address = (host, self.uri.port_u16().unwrap_or(80));
        let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(format!("cannot reach a node at {}: {error}", self.authority)),
            Err(_) => return Err(format!("cannot reach a node at {}: it takes too long", self.authority)),
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.failed(&error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.authority)
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body.map(|body| Bytes::from(body.to_string())).unwrap_or_default()))
            .map_err(|error| self.failed(&error))?;
        sender.send_request(request).await.map_err(|error| self.failed(&error))
    }
}

/// An answer that comes line by line.
pub struct Lines {
    body: Incoming,
    waiting: BytesMut,
    /// Bytes of `waiting` that hold no end of line.
    seen: usize,
}

impl Lines {
    /// The next line, without its end; none at the end of the answer.
    ///
    /// # Errors
    /// When the answer breaks off, or a line is longer than 16 MiB.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(end) = self.waiting[self.seen..].iter().position(|byte| *byte == b'\n') {
                let mut line = self.waiting.split_to(self.seen + end + 1);
                line.truncate(line.len() - 1);
                self.seen = 0;
                return Ok(Some(line.freeze()));
            }
            self.seen = self.waiting.len();
            if self.seen > ANSWER_LEN_MAX {
                return Err("the node sends a line without an end".into());
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(format!("the answer breaks off: {error}")),
                Some(Ok(frame)) => self.waiting.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            }
        }
    }
}

/// The token in a file.
///
/// # Errors
/// When it cannot be read.
pub fn read_token(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map(|text| text.trim().to_owned());
    text.map_err(|error| format!("cannot read the admin token in {}: {error}", path.display()))
}

fn find_token(target: &Target) -> Result<String, String> {
    if let Ok(token) = std::env::var("LOCKSTEP_ADMIN_TOKEN") {
        return Ok(token.trim().to_owned());
    }
    if let Some(path) = &target.token_file {
        return read_token(path);
    }
    let named = std::env::var_os("LOCKSTEP_DATA_DIR").map(PathBuf::from);
    let dirs = named.into_iter().chain(["./lockstep-data".into(), "/var/lib/lockstep".into()]);
    let found = dirs.map(|dir| dir.join("admin.token")).find(|path| path.exists());
    found.map_or_else(
        || {
            Err("no admin token: name the file that serve wrote (admin.token in its data directory) with --token-file"
                .into())
        },
        |path| read_token(&path),
    )
}
