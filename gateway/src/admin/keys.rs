//! Users and access keys: listed from the image, changed by records in the log, so that they are mirrored like every
//! write and work at the destination after promote.
//!
//! `?origin=NAME` (or `origin` in a body) names the origin; without it, the node's own.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use http::StatusCode;
use lockstep_mirror::client::{Receipt, Refusal};
use lockstep_storage::id::Origin;
use lockstep_storage::image::View;
use lockstep_storage::op::{AccessKey, DeleteAccessKey, DeleteUser, Mutation, PutAccessKey, PutUser, User};
use lockstep_storage::record::Draft;
use serde::{Deserialize, Serialize};

use super::{Admin, AdminError, AdminResult, body_of, json, query_value, read};
use crate::secret;

/// A user, in and out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserView {
    /// Name.
    pub name: String,
    /// Canonical id; empty for the name itself.
    #[serde(default)]
    pub id: String,
    /// Name for people.
    #[serde(default)]
    pub display_name: String,
    /// Mail address.
    #[serde(default)]
    pub email: String,
    /// Which origin's, in a request; none for the node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

/// An access key, in and out. The secret is shown once, in the answer to the request that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyView {
    /// The user that it speaks for.
    pub user: String,
    /// Access key id; made when it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_key: Option<String>,
    /// Secret; made when it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<String>,
    /// May it do everything?
    #[serde(default)]
    pub root: bool,
    /// Which origin's, in a request; none for the node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

pub(super) async fn list_users(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> AdminResult {
    let origin = origin(&admin, query_value(query.as_deref(), "origin"))?;
    let users = read(&admin, &origin, View::users).await?;
    let users: Vec<UserView> = users
        .into_iter()
        .map(|(name, user)| UserView {
            name,
            id: user.id,
            display_name: user.display_name,
            email: user.email,
            origin: None,
        })
        .collect();
    Ok(json(StatusCode::OK, &users))
}

pub(super) async fn add_user(State(admin): State<Arc<Admin>>, body: Bytes) -> AdminResult {
    let user: UserView = body_of(&body)?;
    let origin = origin(&admin, user.origin.clone())?;
    if user.name.is_empty()
        || user.name.len() > 64
        || !user.name.chars().all(|c| c.is_alphanumeric() || "+=,.@_-".contains(c))
    {
        return refused("a user's name has 1 to 64 letters, digits and +=,.@_-");
    }
    let name = user.name.clone();
    if read(&admin, &origin, move |view| view.user(&name)).await?.is_some() {
        return refused(&format!("there is a user '{}' already", user.name));
    }
    let stored = User { id: user.id.clone(), display_name: user.display_name.clone(), email: user.email.clone() };
    write(&admin, &origin, Mutation::PutUser(PutUser { name: user.name.clone(), user: stored })).await?;
    Ok(json(StatusCode::OK, &user))
}

pub(super) async fn remove_user(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> AdminResult {
    let origin = origin(&admin, query_value(query.as_deref(), "origin"))?;
    let name = needed(query.as_deref(), "name")?;
    if name == secret::ROOT_USER {
        return refused("the root user cannot be removed");
    }
    let looked_up = name.clone();
    if read(&admin, &origin, move |view| view.user(&looked_up)).await?.is_none() {
        return Err(AdminError(StatusCode::NOT_FOUND, format!("there is no user '{name}'")));
    }
    write(&admin, &origin, Mutation::DeleteUser(DeleteUser { name: name.clone() })).await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "removed": name })))
}

pub(super) async fn list_keys(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> AdminResult {
    let origin = origin(&admin, query_value(query.as_deref(), "origin"))?;
    let keys = read(&admin, &origin, View::access_keys).await?;
    let keys: Vec<KeyView> = keys
        .into_iter()
        .map(|(access_key, key)| KeyView {
            user: key.user,
            access_key: Some(access_key),
            secret_key: None,
            root: key.root,
            origin: None,
        })
        .collect();
    Ok(json(StatusCode::OK, &keys))
}

pub(super) async fn add_key(State(admin): State<Arc<Admin>>, body: Bytes) -> AdminResult {
    let key: KeyView = body_of(&body)?;
    let origin = origin(&admin, key.origin.clone())?;
    let made = secret::key_pair();
    let pair = secret::checked(
        "key",
        key.access_key.as_deref().unwrap_or(&made.access_key),
        key.secret_key.as_deref().unwrap_or(&made.secret_key),
    )
    .map_err(|reason| AdminError(StatusCode::BAD_REQUEST, reason))?;
    let (user, access_key) = (key.user.clone(), pair.access_key.clone());
    let found = read(&admin, &origin, move |view| Ok((view.user(&user)?, view.access_key(&access_key)?))).await?;
    match found {
        (None, _) => return refused(&format!("there is no user '{}'", key.user)),
        (_, Some(_)) => return refused(&format!("there is a key '{}' already", pair.access_key)),
        (Some(_), None) => {}
    }
    let root = key.user == secret::ROOT_USER;
    let stored = AccessKey { secret: pair.secret_key.clone(), user: key.user.clone(), created_ms: 0, root };
    write(&admin, &origin, Mutation::PutAccessKey(PutAccessKey { access_key: pair.access_key.clone(), key: stored }))
        .await?;
    let shown =
        KeyView { access_key: Some(pair.access_key), secret_key: Some(pair.secret_key), root, origin: None, ..key };
    Ok(json(StatusCode::OK, &shown))
}

pub(super) async fn remove_key(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> AdminResult {
    let origin = origin(&admin, query_value(query.as_deref(), "origin"))?;
    let access_key = needed(query.as_deref(), "access_key")?;
    let looked_up = access_key.clone();
    let (found, all) =
        read(&admin, &origin, move |view| Ok((view.access_key(&looked_up)?, view.access_keys()?))).await?;
    let Some(found) = found else {
        return Err(AdminError(StatusCode::NOT_FOUND, format!("there is no key '{access_key}'")));
    };
    if found.root && all.iter().filter(|(_, key)| key.root).count() == 1 {
        return refused("the last root key cannot be removed");
    }
    write(&admin, &origin, Mutation::DeleteAccessKey(DeleteAccessKey { access_key: access_key.clone() })).await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "removed": access_key })))
}

fn refused<T>(reason: &str) -> Result<T, AdminError> {
    Err(AdminError(StatusCode::CONFLICT, reason.to_owned()))
}

fn needed(query: Option<&str>, key: &str) -> Result<String, AdminError> {
    query_value(query, key).ok_or_else(|| AdminError(StatusCode::BAD_REQUEST, format!("{key} is missing in the query")))
}

fn origin(admin: &Admin, name: Option<String>) -> Result<Origin, AdminError> {
    match name {
        None => Ok(admin.client.node().clone()),
        Some(name) => Origin::new(&name).map_err(|error| AdminError(StatusCode::BAD_REQUEST, error.to_string())),
    }
}

/// Logs a mutation and waits until it is committed and applied.
async fn write(admin: &Admin, origin: &Origin, mutation: Mutation) -> Result<Receipt, AdminError> {
    let draft = Draft::new(mutation, Bytes::new())
        .map_err(|error| AdminError(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()))?;
    let done = async { admin.client.submit(origin, draft, None).await?.done().await };
    done.await.map_err(|refusal: Refusal| AdminError(StatusCode::SERVICE_UNAVAILABLE, refusal.to_string()))
}
