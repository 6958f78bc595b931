//! An ed25519 key as OpenSSH writes it, so that a machine's host key can be given to it and is known
//! to us in advance. Pure: the layout is PROTOCOL.key of OpenSSH.

use data_encoding::BASE64;
use ed25519_dalek::SigningKey;
use proto::session::slice;

/// Gives the public key as one `ssh-ed25519 ...` line without a line end.
pub fn public_line(seed: &[u8; 32], comment: &str) -> String {
    slice::public_key(seed, comment)
}

/// Gives the private key as the text of an unencrypted key file.
pub fn private_file(seed: &[u8; 32], comment: &str) -> String {
    let key = SigningKey::from_bytes(seed);
    let mut secret = Vec::new();
    // Two equal numbers prove a right passphrase; without one any number will do.
    secret.extend([7, 7, 7, 7, 7, 7, 7, 7]);
    string(&mut secret, b"ssh-ed25519");
    string(&mut secret, key.verifying_key().as_bytes());
    string(&mut secret, &[seed.as_slice(), key.verifying_key().as_bytes()].concat());
    string(&mut secret, comment.as_bytes());
    secret.extend((1..8).take((8 - secret.len() % 8) % 8));

    let mut file = b"openssh-key-v1\0".to_vec();
    string(&mut file, b"none");
    string(&mut file, b"none");
    string(&mut file, b"");
    file.extend(1_u32.to_be_bytes());
    string(&mut file, &public_blob(seed));
    string(&mut file, &secret);

    let text = BASE64.encode(&file);
    let mut lines = String::from("-----BEGIN OPENSSH PRIVATE KEY-----\n");
    for at in (0..text.len()).step_by(70) {
        lines.push_str(&text[at..text.len().min(at + 70)]);
        lines.push('\n');
    }
    lines + "-----END OPENSSH PRIVATE KEY-----\n"
}

fn public_blob(seed: &[u8; 32]) -> Vec<u8> {
    let mut blob = Vec::new();
    string(&mut blob, b"ssh-ed25519");
    string(&mut blob, SigningKey::from_bytes(seed).verifying_key().as_bytes());
    blob
}

/// Appends a string with its length. Ours are all far below 4 GiB.
fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::OpenOptionsExt, process::Command};

    use super::*;

    #[test]
    fn openssh_reads_the_private_key_and_sees_our_public_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let mut open = std::fs::OpenOptions::new();
        let mut file = open.write(true).create(true).mode(0o600).open(&path).unwrap();
        file.write_all(private_file(&[9; 32], "web-1").as_bytes()).unwrap();
        let Ok(told) = Command::new("ssh-keygen").arg("-y").arg("-f").arg(&path).output() else {
            eprintln!("SKIPPED: no ssh-keygen");
            return;
        };
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        assert_eq!(String::from_utf8(told.stdout).unwrap().trim(), public_line(&[9; 32], "web-1"));
    }
}
