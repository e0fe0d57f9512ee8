//! The key pair of manifests: Ed25519 (RFC 8032), the private half in PKCS #8 readable by its owner only, the public half
//! and signatures as one line of hexadecimal. It owns that no key is ever replaced; it refuses to know what is signed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::ops::manifest::lines::{hex, unhex};
use crate::platform::files;

/// Bytes of a public key.
const PUBLIC_BYTES: usize = 32;
/// Bytes of a signature.
const SIGNATURE_BYTES: usize = 64;

/// Where both halves lie.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub(crate) private: PathBuf,
    pub(crate) public: PathBuf,
}

impl Paths {
    /// The usual places below the root of everything kept.
    pub(crate) fn of(home: &Path) -> Self {
        let folder = home.join("keys");
        Self { private: folder.join("manifest.key"), public: folder.join("manifest.pub") }
    }
}

/// Makes a key pair.
///
/// # Errors
/// One is there already: what it signed would not be trusted any more.
pub(crate) fn generate(paths: &Paths) -> anyhow::Result<()> {
    for path in [&paths.private, &paths.public] {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
    }
    let bytes = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| anyhow!("no randomness"))?;
    let pair = Ed25519KeyPair::from_pkcs8(bytes.as_ref()).map_err(|error| anyhow!("the new key: {error}"))?;
    files::create(&paths.private, bytes.as_ref(), 0o600).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            anyhow!("{} is there; move it away if it must never sign again", paths.private.display())
        }
        _ => anyhow!("{}: {error}", paths.private.display()),
    })?;
    let public = format!("{}\n", hex(pair.public_key().as_ref()));
    files::replace(&paths.public, public.as_bytes(), 0o644).with_context(|| paths.public.display().to_string())
}

/// The signature of `text`, as it is kept in a file.
///
/// # Errors
/// There is no usable key at `private`.
pub(crate) fn sign(private: &Path, text: &[u8]) -> anyhow::Result<String> {
    let bytes =
        fs::read(private).with_context(|| format!("{} (`sanctum-mlx manifest keygen` makes it)", private.display()))?;
    let pair = Ed25519KeyPair::from_pkcs8(&bytes)
        .map_err(|error| anyhow!("{} is no Ed25519 key in PKCS #8: {error}", private.display()))?;
    Ok(format!("{}\n", hex(pair.sign(text).as_ref())))
}

/// Whether `signature`, as it is kept in a file, is of `text` and by the key at `public`.
///
/// # Errors
/// It is not, or the key is none.
pub(crate) fn verify(public: &Path, text: &[u8], signature: &str) -> anyhow::Result<()> {
    let key = fs::read_to_string(public).with_context(|| public.display().to_string())?;
    let Some(key) = unhex::<PUBLIC_BYTES>(key.trim()) else {
        bail!("{} is no public key: wants {PUBLIC_BYTES} bytes in hexadecimal", public.display());
    };
    let Some(signature) = unhex::<SIGNATURE_BYTES>(signature.trim()) else {
        bail!("it is no signature: wants {SIGNATURE_BYTES} bytes in hexadecimal");
    };
    UnparsedPublicKey::new(&ED25519, key)
        .verify(text, &signature)
        .map_err(|_| anyhow!("it is not by the key of {}, or what it signed was changed", public.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_signature_is_of_its_text_and_its_key_and_of_no_other() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, two) = (Paths::of(one.path()), Paths::of(two.path()));
        generate(&one).unwrap();
        generate(&two).unwrap();
        let signature = sign(&one.private, b"text").unwrap();
        verify(&one.public, b"text", &signature).unwrap();
        verify(&one.public, b"texts", &signature).unwrap_err();
        verify(&two.public, b"text", &signature).unwrap_err();
        verify(&one.public, b"text", &signature[2..]).unwrap_err();
        assert_eq!(fs::metadata(&one.private).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_key_is_never_replaced() {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths::of(home.path());
        generate(&paths).unwrap();
        let before = fs::read(&paths.private).unwrap();
        let error = generate(&paths).unwrap_err().to_string();
        assert!(error.contains("manifest.key is there"), "{error}");
        assert_eq!(fs::read(&paths.private).unwrap(), before);
    }

    /// Test 1 of RFC 8032, section 7.1.
    #[test]
    fn the_rfcs_signature_verifies() {
        let home = tempfile::tempdir().unwrap();
        let public = home.path().join("pub");
        fs::write(&public, "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a").unwrap();
        let signature = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b";
        verify(&public, b"", signature).unwrap();
    }
}
