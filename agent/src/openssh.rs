//! Writes ed25519 keys as OpenSSH text: what `ssh -i`, `known_hosts` and `authorized_keys` read.
//! Pure. The format is OpenSSH's PROTOCOL.key; it is short enough that no crate is needed.

use data_encoding::BASE64;
use ed25519_dalek::SigningKey;

const KIND: &[u8] = b"ssh-ed25519";

/// Writes the public key of `seed`: `ssh-ed25519 AAAA.. COMMENT`.
#[allow(dead_code)] // TODO: ends when the daemon tells the machines' host keys
pub fn public(seed: &[u8; 32], comment: &str) -> String {
    let key = SigningKey::from_bytes(seed).verifying_key();
    format!("ssh-ed25519 {} {comment}", BASE64.encode(&public_blob(key.as_bytes())))
}

/// Writes the private key of `seed`, without a passphrase.
pub fn private(seed: &[u8; 32], comment: &str) -> String {
    let key = SigningKey::from_bytes(seed);
    let public = key.verifying_key();
    let mut secret = Vec::new();
    // Two equal numbers tell a reader that decryption worked; nothing is encrypted here.
    secret.extend([0u8; 8]);
    string(&mut secret, KIND);
    string(&mut secret, public.as_bytes());
    string(&mut secret, &key.to_keypair_bytes());
    string(&mut secret, comment.as_bytes());
    // The cipher "none" has blocks of 8 bytes; padding counts from 1.
    secret.extend((1..=7u8).take(secret.len().next_multiple_of(8) - secret.len()));

    let mut all = b"openssh-key-v1\0".to_vec();
    string(&mut all, b"none");
    string(&mut all, b"none");
    string(&mut all, b"");
    all.extend(1u32.to_be_bytes());
    string(&mut all, &public_blob(public.as_bytes()));
    string(&mut all, &secret);

    let text = BASE64.encode(&all);
    let mut lines = String::from("-----BEGIN OPENSSH PRIVATE KEY-----\n");
    for at in (0..text.len()).step_by(70) {
        lines.push_str(&text[at..text.len().min(at + 70)]);
        lines.push('\n');
    }
    lines.push_str("-----END OPENSSH PRIVATE KEY-----\n");
    lines
}

fn public_blob(public: &[u8; 32]) -> Vec<u8> {
    let mut blob = Vec::new();
    string(&mut blob, KIND);
    string(&mut blob, public);
    blob
}

fn string(to: &mut Vec<u8>, bytes: &[u8]) {
    // Every string here is shorter than a kilobyte.
    to.extend((bytes.len() as u32).to_be_bytes());
    to.extend(bytes);
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, process::Command};

    use super::*;

    #[test]
    fn ssh_keygen_reads_the_private_key_and_finds_our_public_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for comment in ["", "a", "session shop", "1234567"] {
            fs::write(&path, private(&[7; 32], comment)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let Ok(read) = Command::new("ssh-keygen").arg("-y").arg("-f").arg(&path).output() else {
                return eprintln!("SKIPPED: ssh-keygen is not installed");
            };
            let said = String::from_utf8(read.stdout).unwrap();
            assert_eq!(
                said.trim(),
                public(&[7; 32], comment).trim(),
                "{}",
                String::from_utf8_lossy(&read.stderr)
            );
        }
    }

    #[test]
    fn the_public_key_is_one_line() {
        assert_eq!(
            public(&[0; 32], "x"),
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop x"
        );
    }
}
