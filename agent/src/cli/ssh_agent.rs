//! The part of an ssh agent that `agent machine ssh` needs: it knows the one key that the machine lets in, and the
//! machine's host signs by it. ssh talks to it on a socket in its own private directory
//! (draft-ietf-sshm-ssh-agent).

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use data_encoding::BASE64;
use proto::{
    id::{MachineName, SessionId},
    wire::api::{Error, LoginAnswer, LoginRequest, SshAccess},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::AbortHandle,
    time,
};

use super::client::Client;
use crate::machine::openssh::{KIND, string, take};

/// Larger messages are none of ssh's.
const MAX_BYTES: u32 = 16 * 1024;
/// A host that does not answer is told by ssh's own failure.
const SIGNED_WITHIN: Duration = Duration::from_secs(10);

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// Ends when it is dropped.
#[derive(Debug)]
pub struct Serving {
    task: AbortHandle,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Serving {
    /// Gives why the machine's host did not sign, for which ssh has no words.
    pub fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the agent knows.
#[derive(Clone, Debug)]
struct Known {
    client: Client,
    session_id: SessionId,
    machine: MachineName,
    /// The public key as it travels.
    blob: Vec<u8>,
    failure: Arc<Mutex<Option<Error>>>,
}

/// Listens at `path` for ssh, with the key that the machine lets in.
pub fn serve(path: &Path, client: &Client, access: &SshAccess, key: &str) -> io::Result<Serving> {
    let blob = key.split(' ').nth(1).and_then(|text| BASE64.decode(text.as_bytes()).ok());
    let blob = blob.ok_or_else(|| io::Error::other("the machine's key cannot be read"))?;
    let known = Known {
        client: client.clone(),
        session_id: access.session_id,
        machine: access.machine.clone(),
        blob,
        failure: Arc::default(),
    };
    let failure = known.failure.clone();
    let listener = UnixListener::bind(path)?;
    let serving = tokio::spawn(async move {
        // ssh comes once, and asks one thing after the other.
        while let Ok((stream, _)) = listener.accept().await {
            if let Err(error) = talk(stream, &known).await {
                tracing::debug!(%error, "ssh asks nothing more");
            }
        }
    });
    Ok(Serving { task: serving.abort_handle(), failure })
}

async fn talk(mut stream: UnixStream, known: &Known) -> io::Result<()> {
    loop {
        let length = match stream.read_u32().await {
            Ok(length) if length <= MAX_BYTES => length,
            Ok(length) => return Err(io::Error::other(format!("a message of {length} bytes"))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut message = Vec::new();
        (&mut stream).take(length.into()).read_to_end(&mut message).await?;
        let answer = answer(&message, known).await;
        let mut framed = Vec::new();
        string(&mut framed, &answer);
        stream.write_all(&framed).await?;
    }
}

async fn answer(message: &[u8], known: &Known) -> Vec<u8> {
    match message.split_first() {
        Some((&REQUEST_IDENTITIES, _)) => {
            let mut answer = vec![IDENTITIES_ANSWER, 0, 0, 0, 1];
            string(&mut answer, &known.blob);
            string(&mut answer, known.machine.to_string().as_bytes());
            answer
        }
        Some((&SIGN_REQUEST, asked)) => match signed(asked, known).await {
            Some(signature) => {
                let (mut answer, mut whole) = (vec![SIGN_RESPONSE], Vec::new());
                string(&mut whole, KIND);
                string(&mut whole, &signature);
                string(&mut answer, &whole);
                answer
            }
            None => vec![FAILURE],
        },
        _ => vec![FAILURE],
    }
}

/// Lets the machine's host sign.
async fn signed(asked: &[u8], known: &Known) -> Option<[u8; 64]> {
    let (blob, rest) = take(asked)?;
    let (question, _flags) = take(rest)?;
    if blob != known.blob {
        return None;
    }
    let request = LoginRequest {
        session_id: known.session_id,
        machine: known.machine.clone(),
        question: BASE64.encode(question),
    };
    let asking = known.client.post::<LoginAnswer>("/v1/machine/login", &request);
    match time::timeout(SIGNED_WITHIN, asking).await.ok()? {
        Ok(answer) => Some(answer.signature.0),
        Err(error) => {
            *known.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(client: &Path) -> Known {
        Known {
            client: Client::new(client.to_owned()),
            session_id: "0a".repeat(16).parse().unwrap(),
            machine: "web-1".parse().unwrap(),
            blob: b"the key".to_vec(),
            failure: Arc::default(),
        }
    }

    #[tokio::test]
    async fn the_one_key_is_listed_and_whatever_else_is_asked_fails() {
        let dir = tempfile::tempdir().unwrap();
        let known = known(&dir.path().join("nobody"));
        let listed = answer(&[REQUEST_IDENTITIES], &known).await;
        assert_eq!(listed, b"\x0c\0\0\0\x01\0\0\0\x07the key\0\0\0\x05web-1");
        let sign = |blob: &[u8]| {
            let mut message = vec![SIGN_REQUEST];
            [blob, b"question"].iter().for_each(|part| string(&mut message, part));
            message.extend([0; 4]);
            message
        };
        // Nobody is there who would sign.
        for asked in [sign(b"another"), sign(b"the key"), vec![SIGN_REQUEST, 0, 0], vec![27], Vec::new()] {
            assert_eq!(answer(&asked, &known).await, [FAILURE], "{asked:?}");
        }
        assert!(known.failure.lock().unwrap().is_some(), "and why it was not signed is known");
    }

    #[tokio::test]
    async fn too_much_ends_the_talk() {
        let (mut ssh, ours) = UnixStream::pair().unwrap();
        let dir = tempfile::tempdir().unwrap();
        ssh.write_u32(MAX_BYTES + 1).await.unwrap();
        assert!(talk(ours, &known(dir.path())).await.is_err());
    }
}
