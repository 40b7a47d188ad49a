//! What the tests through the SDK share: its client, payloads, and what a refusal looks like.

use std::fmt::Debug;
use std::net::SocketAddr;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use lockstep_tests::node::{Node, SECRET_KEY};
use md5::{Digest, Md5};

/// The SDK as it comes, but for its TLS and its retries: a refusal is to be seen the first time.
pub(crate) fn client_of(node: &Node, access_key: &str, region: &'static str) -> Client {
    client_at(node.s3, access_key, region)
}

/// The same, of whoever listens at an address.
pub(crate) fn client_at(address: SocketAddr, access_key: &str, region: &'static str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .credentials_provider(Credentials::new(access_key, SECRET_KEY, None, None, "tests"))
        .region(Region::new(region))
        .endpoint_url(format!("http://{address}"))
        .force_path_style(true)
        .retry_config(RetryConfig::disabled());
    Client::from_conf(config.build())
}

/// A node and a client of its root.
pub(crate) async fn node() -> (Node, Client) {
    let node = Node::alone().await;
    let client = client_of(&node, &node.access_key(), "us-east-1");
    (node, client)
}

/// A node, a client, and a bucket named `bucket`.
pub(crate) async fn bucket() -> (Node, Client) {
    let (node, client) = node().await;
    client.create_bucket().bucket("bucket").send().await.expect("a bucket");
    (node, client)
}

/// Bytes that differ from place to place and from seed to seed.
pub(crate) fn payload(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut word).flatten().take(len).collect()
}

/// Puts an object into `bucket`; gives its ETag.
pub(crate) async fn put(client: &Client, key: &str, bytes: impl Into<Vec<u8>>) -> String {
    let body = ByteStream::from(bytes.into());
    let put = client.put_object().bucket("bucket").key(key).body(body).send().await.expect("a put");
    put.e_tag().expect("an ETag").to_owned()
}

/// The bytes of an object in `bucket`.
pub(crate) async fn get(client: &Client, key: &str) -> Vec<u8> {
    let got = client.get_object().bucket("bucket").key(key).send().await.expect("a get");
    got.body.collect().await.expect("all bytes").to_vec()
}

/// Is there such an object in `bucket`?
pub(crate) async fn is_there(client: &Client, key: &str) -> bool {
    match client.head_object().bucket("bucket").key(key).send().await {
        Ok(_) => true,
        refused => {
            assert_eq!(status_of(&refused), 404);
            false
        }
    }
}

/// The ETag of these bytes.
pub(crate) fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", hex(&Md5::digest(bytes)))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// The status of a refusal.
pub(crate) fn status_of<T: Debug, E>(result: &Result<T, SdkError<E>>) -> u16 {
    match result {
        Err(SdkError::ServiceError(error)) => error.raw().status().as_u16(),
        Err(SdkError::ResponseError(error)) => error.raw().status().as_u16(),
        Err(_) => 0,
        Ok(answer) => panic!("not refused: {answer:?}"),
    }
}

/// Status and code of a refusal.
pub(crate) fn refused<T: Debug, E: ProvideErrorMetadata + Debug>(result: Result<T, SdkError<E>>) -> (u16, String) {
    let status = status_of(&result);
    let code = result.err().and_then(|error| error.code().map(str::to_owned));
    (status, code.unwrap_or_default())
}

/// As [`refused`], to compare with.
pub(crate) fn no(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}
