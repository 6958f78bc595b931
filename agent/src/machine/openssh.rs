//! Ed25519 keys as OpenSSH writes them, so that a machine's host key can be given to it and is known to us in advance,
//! and what is signed by them at a login. Pure: the layouts are those of PROTOCOL.key of OpenSSH and of RFC 4252.

use data_encoding::BASE64;
use ed25519_dalek::{Signer, SigningKey};
use proto::{
    seal::{PublicKey, Seed, Sig},
    session::slice,
};

/// The only kind of key here.
pub const KIND: &[u8] = b"ssh-ed25519";
/// `SSH_MSG_USERAUTH_REQUEST`.
const USERAUTH_REQUEST: u8 = 50;
/// How a public key logs in; the second one also names the server's key (PROTOCOL of OpenSSH).
const METHODS: [&[u8]; 2] = [b"publickey", b"publickey-hostbound-v00@openssh.com"];

/// Gives the public key as one `ssh-ed25519 ...` line without a line end.
pub fn public_line(seed: &[u8; 32], comment: &str) -> String {
    slice::public_key(seed, comment)
}

/// Signs what an ssh server asks.
pub fn sign(key: &Seed, question: &[u8]) -> Sig {
    Sig(SigningKey::from_bytes(&key.0).sign(question).to_bytes())
}

/// Tells whether an ssh server asks this, of whoever logs in by `key` (RFC 4252, section 7).
pub fn is_login(question: &[u8], key: &PublicKey) -> bool {
    read_login(question, key).is_some_and(|rest| rest.is_empty())
}

fn read_login<'a>(question: &'a [u8], key: &PublicKey) -> Option<&'a [u8]> {
    let (_session, rest) = take(question)?;
    let rest = rest.strip_prefix(&[USERAUTH_REQUEST])?;
    let (_user, rest) = take(rest)?;
    let (service, rest) = take(rest)?;
    let (method, rest) = take(rest)?;
    let (kind, rest) = take(rest.strip_prefix(&[1])?)?;
    let (blob, rest) = take(rest)?;
    let asked = service == b"ssh-connection" && METHODS.contains(&method) && kind == KIND;
    let ours = asked && blob == public_blob(key);
    match ours && method == METHODS[1] {
        true => Some(take(rest)?.1),
        false => ours.then_some(rest),
    }
}

/// Takes a string with its length from the start.
pub fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// Gives the private key as the text of an unencrypted key file.
pub fn private_file(seed: &[u8; 32], comment: &str) -> String {
    let key = SigningKey::from_bytes(seed);
    let mut secret = Vec::new();
    // Two equal numbers prove a right passphrase; without one any number will do.
    secret.extend([7, 7, 7, 7, 7, 7, 7, 7]);
    string(&mut secret, KIND);
    string(&mut secret, key.verifying_key().as_bytes());
    string(&mut secret, &[seed.as_slice(), key.verifying_key().as_bytes()].concat());
    string(&mut secret, comment.as_bytes());
    secret.extend((1..8).take((8 - secret.len() % 8) % 8));

    let mut file = b"openssh-key-v1\0".to_vec();
    string(&mut file, b"none");
    string(&mut file, b"none");
    string(&mut file, b"");
    file.extend(1_u32.to_be_bytes());
    string(&mut file, &public_blob(key.verifying_key().as_bytes()));
    string(&mut file, &secret);

    let text = BASE64.encode(&file);
    let mut lines = String::from("-----BEGIN OPENSSH PRIVATE KEY-----\n");
    for at in (0..text.len()).step_by(70) {
        lines.push_str(&text[at..text.len().min(at + 70)]);
        lines.push('\n');
    }
    lines + "-----END OPENSSH PRIVATE KEY-----\n"
}

/// Writes a public key as it travels.
pub fn public_blob(key: &PublicKey) -> Vec<u8> {
    let mut blob = Vec::new();
    string(&mut blob, KIND);
    string(&mut blob, key);
    blob
}

/// Appends a string with its length. Ours are all far below 4 GiB.
pub fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::OpenOptionsExt, process::Command};

    use super::*;

    fn login(parts: [&[u8]; 4], key: &[u8; 32], host: Option<&[u8]>) -> Vec<u8> {
        let [session, user, service, method] = parts;
        let mut asked = Vec::new();
        string(&mut asked, session);
        asked.push(USERAUTH_REQUEST);
        [user, service, method].iter().for_each(|part| string(&mut asked, part));
        asked.push(1);
        string(&mut asked, KIND);
        string(&mut asked, &public_blob(key));
        host.iter().for_each(|host| string(&mut asked, host));
        asked
    }

    #[test]
    fn nothing_but_a_login_by_this_very_key_is_signed() {
        let key = Seed([5; 32]).public();
        let (ssh, [plain, bound]) = (b"ssh-connection".as_slice(), METHODS);
        let good = login([&[1; 32], b"root", ssh, plain], &key, None);
        let hostbound = login([&[1; 32], b"root", ssh, bound], &key, Some(b"blob"));
        assert!(is_login(&good, &key) && is_login(&hostbound, &key));
        for bad in [
            login([&[1; 32], b"root", b"ssh-userauth", plain], &key, None),
            login([&[1; 32], b"root", ssh, b"hostbased"], &key, None),
            login([&[1; 32], b"root", ssh, plain], &Seed([6; 32]).public(), None),
            login([&[1; 32], b"root", ssh, plain], &key, Some(b"more")),
            login([&[1; 32], b"root", ssh, bound], &key, None),
            good[1..].to_vec(),
            good[..good.len() - 1].to_vec(),
            b"SSHSIG\0\0\0\x04file".to_vec(),
            Vec::new(),
        ] {
            assert!(!is_login(&bad, &key), "{bad:?}");
        }
    }

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
