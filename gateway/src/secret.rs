//! Secrets: made from the operating system's randomness, checked, and stored where only the owner can read them.
//!
//! Called when a node starts for the first time (root key, admin token) and when an operator adds a key.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use uuid::Uuid;

use crate::config::KeyPair;

/// The user that the root key speaks for.
pub const ROOT_USER: &str = "root";

/// A new access key and secret.
#[must_use]
pub fn key_pair() -> KeyPair {
    let name = Uuid::new_v4().simple().to_string().to_ascii_uppercase();
    KeyPair { access_key: format!("LK{}", &name[..18]), secret_key: token()[..40].to_owned() }
}

/// 64 hex digits that nobody can guess: 244 random bits.
#[must_use]
pub fn token() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// Checks an access key and secret: they stand in headers, URLs and credential scopes.
///
/// # Errors
/// With one sentence that names the part, prefixed by `key`.
pub fn checked(key: &str, access_key: &str, secret_key: &str) -> Result<KeyPair, String> {
    let plain = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b',' && b != b'=';
    if !(3..=128).contains(&access_key.len()) || !access_key.bytes().all(plain) {
        return Err(format!("{key}.access_key: 3 to 128 visible ASCII characters without '/', ',' and '='"));
    }
    if !(8..=256).contains(&secret_key.len()) || !secret_key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!("{key}.secret_key: 8 to 256 visible ASCII characters"));
    }
    Ok(KeyPair { access_key: access_key.to_owned(), secret_key: secret_key.to_owned() })
}

/// Writes a file that only its owner can read, durably and all at once, in place of an older one.
///
/// # Errors
/// When the file cannot be made or written.
pub fn store(path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_extension("new");
    // What an interrupted start left behind may have wider rights.
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    path.parent().map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_made_passes_the_check_and_differs() {
        let (one, other) = (key_pair(), key_pair());
        assert_ne!(one, other);
        assert_eq!(checked("x", &one.access_key, &one.secret_key).unwrap(), one);
        assert_eq!((one.access_key.len(), one.secret_key.len()), (20, 40));
        for (access_key, secret_key) in
            [("ab", "12345678"), ("a/b", "12345678"), ("abc", "1234567"), ("abc", "1234 5678")]
        {
            assert!(checked("x", access_key, secret_key).is_err(), "{access_key} {secret_key}");
        }
    }

    #[test]
    fn only_the_owner_can_read_what_is_stored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.token");
        std::fs::write(dir.path().join("admin.new"), "left behind").unwrap();
        for text in ["one", "two"] {
            store(&path, text).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
