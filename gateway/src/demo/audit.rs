//! The reader's side: lists everything at a site, reads every key that a ledger knows, and compares. What is found there
//! is noted as decided, so that a second audit, at the other site or after another failure, must find the same.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::client::S3Client;
use super::ledger::{Known, Ledger, State, Upload};
use super::workload::BUCKET;
use crate::config::KeyPair;

/// Readers at once.
const READERS: usize = 8;

/// What a reader found.
#[derive(Debug, Default)]
pub struct Audit {
    /// Keys whose state is right.
    pub equal: u64,
    /// Objects listed.
    pub objects: u64,
    /// Bytes read back of them.
    pub bytes: u64,
    /// Uploads listed.
    pub uploads: u64,
    /// Keys whose last operation was not answered.
    pub unanswered: u64,
    /// Of these, keys that show the effect of such an operation.
    pub done_unanswered: u64,
    /// Everything that is not as it must be, in a sentence each.
    pub different: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listing {
    #[serde(default)]
    contents: Vec<Listed>,
    is_truncated: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    key: String,
    size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Uploads {
    #[serde(default, rename = "Upload")]
    uploads: Vec<ListedUpload>,
    is_truncated: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedUpload {
    key: String,
    upload_id: String,
}

/// Compares a site with a ledger.
///
/// # Errors
/// When the site does not answer; a difference is no error but part of the outcome.
pub async fn audit(address: &str, key: &KeyPair, ledger: &mut Ledger) -> Result<Audit, String> {
    let mut client = S3Client::connect(address, key).await?;
    let listed = list_objects(&mut client).await?;
    let uploads = list_uploads(&mut client).await?;
    let mut audit = Audit {
        objects: listed.len() as u64,
        uploads: uploads.len() as u64,
        different: std::mem::take(&mut ledger.wrong),
        ..Audit::default()
    };
    for key in listed.keys().filter(|key| !ledger.keys.contains_key(*key)) {
        audit.different.push(format!("{key} is listed, and nobody wrote it"));
    }
    audit.check_uploads(&uploads, ledger);
    let names: Vec<(String, Known)> = ledger.keys.iter().map(|(name, known)| (name.clone(), known.clone())).collect();
    let share = names.len().div_ceil(READERS).max(1);
    let readers: Vec<_> =
        names.chunks(share).map(|names| tokio::spawn(read(address.to_owned(), key.clone(), names.to_vec()))).collect();
    for reader in readers {
        for (name, found) in reader.await.map_err(|error| error.to_string())?? {
            audit.check_key(&name, found, listed.get(&name).copied(), ledger);
        }
    }
    Ok(audit)
}

impl Audit {
    fn check_key(&mut self, name: &str, found: Result<State, String>, listed: Option<u64>, ledger: &mut Ledger) {
        let Some(known) = ledger.keys.get_mut(name) else { return };
        let state = match found {
            Ok(state) => state,
            Err(what) => return self.different.push(format!("{name}: {what}; expected {known:?}")),
        };
        let len = state.map(|content| content.len as u64);
        if len != listed {
            return self.different.push(format!("{name}: {len:?} bytes when read, {listed:?} when listed"));
        }
        self.equal += 1;
        self.bytes += len.unwrap_or_default();
        self.unanswered += u64::from(!known.unanswered.is_empty());
        self.done_unanswered += u64::from(!known.unanswered.is_empty() && state != known.acknowledged);
        known.answer(state);
    }

    /// Every open upload is there, and no other but one whose begin was not answered.
    fn check_uploads(&mut self, listed: &BTreeSet<(String, String)>, ledger: &mut Ledger) {
        for id in listed.iter().filter(|id| !ledger.uploads.contains_key(id)) {
            if !ledger.begun.contains(&id.0) {
                self.different.push(format!("upload {id:?} is listed, and nobody began it"));
            }
        }
        for (id, upload) in &ledger.uploads {
            if *upload == Upload::Open && !listed.contains(id) {
                self.different.push(format!("upload {id:?} is gone"));
            }
        }
        ledger.uploads = listed.iter().map(|id| (id.clone(), Upload::Open)).collect();
        ledger.begun.clear();
    }
}

/// Reads keys one after the other: the state that each one has, or why it is none of those that it may have.
async fn read(
    address: String,
    key: KeyPair,
    names: Vec<(String, Known)>,
) -> Result<Vec<(String, Result<State, String>)>, String> {
    let mut client = S3Client::connect(&address, &key).await?;
    let mut found = Vec::with_capacity(names.len());
    for (name, known) in names {
        let answer = client.send(Method::GET, &format!("/{BUCKET}/{name}"), Bytes::new()).await?;
        let is = |state: &&State| match state {
            None => answer.status == StatusCode::NOT_FOUND,
            Some(content) => answer.status == StatusCode::OK && answer.body == content.bytes(),
        };
        let state = known.possible().find(is).copied();
        found.push((name, state.ok_or_else(|| format!("{}, {} bytes", answer.status, answer.body.len()))));
    }
    Ok(found)
}

/// Every key with its size.
async fn list_objects(client: &mut S3Client) -> Result<BTreeMap<String, u64>, String> {
    let mut all = BTreeMap::new();
    loop {
        let after = all.last_key_value().map(|(key, _): (&String, &u64)| encoded(key)).unwrap_or_default();
        let target = format!("/{BUCKET}?list-type=2&max-keys=1000&start-after={after}");
        let page: Listing = fetch(client, &target).await?;
        let before = all.len();
        all.extend(page.contents.into_iter().map(|listed| (listed.key, listed.size)));
        if !page.is_truncated {
            return Ok(all);
        }
        if all.len() == before {
            return Err(format!("the list goes on after {after} and has nothing more"));
        }
    }
}

/// Every upload by key and id.
async fn list_uploads(client: &mut S3Client) -> Result<BTreeSet<(String, String)>, String> {
    let mut all = BTreeSet::new();
    loop {
        let after = all.last().map(|(key, id): &(String, String)| (encoded(key), id.clone())).unwrap_or_default();
        let target = format!("/{BUCKET}?key-marker={}&upload-id-marker={}&uploads=", after.0, after.1);
        let page: Uploads = fetch(client, &target).await?;
        let before = all.len();
        all.extend(page.uploads.into_iter().map(|listed| (listed.key, listed.upload_id)));
        if !page.is_truncated {
            return Ok(all);
        }
        if all.len() == before {
            return Err(format!("the list of uploads goes on after {after:?} and has nothing more"));
        }
    }
}

async fn fetch<T: DeserializeOwned>(client: &mut S3Client, target: &str) -> Result<T, String> {
    let answer = client.send(Method::GET, target, Bytes::new()).await?;
    let text = String::from_utf8_lossy(&answer.body);
    if answer.status != StatusCode::OK {
        return Err(format!("GET {target}: {}: {text}", answer.status));
    }
    quick_xml::de::from_str(&text).map_err(|error| format!("GET {target}: {error}"))
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
