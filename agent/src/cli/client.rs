//! Asks the daemon: HTTP on its unix socket, one connection a request. Answers are values, lines of
//! a stream, or a raw connection. Nothing here prints or retries.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, client::conn::http1, header, upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use proto::wire::api::{Error, ErrorBody, Kind};
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::reach;
use crate::api::{RAW, connect};

/// The daemon's own waits are shorter, but for long requests, which stream.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);
/// One line of a streamed answer: a fact or a progress line.
const MAX_LINE_BYTES: usize = 1024 * 1024;
/// A whole answer: a session of the largest size, several times over.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Where the daemon listens.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// A raw connection through the daemon.
pub type Raw = TokioIo<Upgraded>;

impl Client {
    /// Names the daemon that listens at `socket`. Nothing is connected yet.
    pub fn new(socket: PathBuf) -> Client {
        Client { socket }
    }

    /// Tells whether a daemon accepts connections.
    pub async fn is_running(&self) -> bool {
        connect(&self.socket).await.is_ok()
    }

    /// Gives the process of the daemon that accepts connections.
    pub async fn process(&self) -> Option<i32> {
        connect(&self.socket).await.ok()?.peer_cred().ok()?.pid()
    }

    /// Asks with GET.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    /// Asks with POST and a JSON body.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Error> {
        self.ask(Method::POST, path, json(body)?).await
    }

    /// Asks with GET for an answer of many lines.
    pub async fn lines(&self, path: &str) -> Result<Lines, Error> {
        let response = self.send(Method::GET, path, Bytes::new(), None).await?;
        Ok(Lines::new(accepted(response).await?))
    }

    /// Asks with POST for an answer of many lines.
    pub async fn post_lines(&self, path: &str, body: &impl Serialize) -> Result<Lines, Error> {
        let response = self.send(Method::POST, path, json(body)?, None).await?;
        Ok(Lines::new(accepted(response).await?))
    }

    /// Asks for a raw connection.
    pub async fn raw(&self, path: &str) -> Result<Raw, Error> {
        Ok(TokioIo::new(self.upgraded(path).await?))
    }

    /// Asks for a raw connection, and gives it as a socket with what was already said on it.
    pub async fn socket(&self, path: &str) -> Result<(UnixStream, Bytes), Error> {
        let parts = self.upgraded(path).await?.downcast::<TokioIo<UnixStream>>();
        let parts = parts.map_err(|_| broken(&"a raw connection is no socket"))?;
        Ok((parts.io.into_inner(), parts.read_buf))
    }

    async fn upgraded(&self, path: &str) -> Result<Upgraded, Error> {
        let response = self.send(Method::GET, path, Bytes::new(), Some(RAW)).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(response).await);
        }
        hyper::upgrade::on(response).await.map_err(|error| broken(&error))
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Error> {
        let whole = async {
            let response = accepted(self.send(method, path, body, None).await?).await?;
            read(response.into_body()).await
        };
        let bytes = tokio::time::timeout(ANSWER_WITHIN, whole).await.map_err(|_| {
            Error::new(Kind::TimedOut, "the agent did not answer")
                .because(format!("{} seconds passed", ANSWER_WITHIN.as_secs()))
                .next("agent doctor")
        })??;
        serde_json::from_slice(&bytes).map_err(|error| broken(&error))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        upgrade: Option<&str>,
    ) -> Result<Response<Incoming>, Error> {
        let stream = connect(&self.socket).await.map_err(|error| unreachable(&self.socket, &error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        // Ends with the connection, which ends with the response or the raw stream.
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "agent");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(protocol) = upgrade {
            request = request.header(header::CONNECTION, "upgrade").header(header::UPGRADE, protocol);
        }
        let request = request.body(Full::new(body)).map_err(|error| broken(&error))?;
        sender.send_request(request).await.map_err(|error| match error.is_incomplete_message() {
            true => ended(),
            false => broken(&error),
        })
    }
}

/// The lines of a streamed answer.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    buffer: BytesMut,
    ready: VecDeque<Bytes>,
}

impl Lines {
    fn new(response: Response<Incoming>) -> Lines {
        Lines { body: response.into_body(), buffer: BytesMut::new(), ready: VecDeque::new() }
    }

    /// Gives the next line, `None` at the end. Cancel-safe: a frame is kept as soon as it is read.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| broken(&error))?;
            self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
            while let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                self.ready.push_back(self.buffer.split_to(end).freeze());
                self.buffer.advance(1);
            }
            if self.buffer.len() > MAX_LINE_BYTES {
                return Err(broken(&"a line is too long"));
            }
        }
    }
}

/// Writes one value of a query, with everything but letters, digits and `-._~` escaped.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => quoted.push(byte.into()),
            _ => quoted.push_str(&format!("%{byte:02X}")),
        }
    }
    quoted
}

fn json(body: &impl Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| broken(&error))
}

async fn accepted(response: Response<Incoming>) -> Result<Response<Incoming>, Error> {
    if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
}

async fn refusal(response: Response<Incoming>) -> Error {
    let status = response.status();
    match read(response.into_body()).await.map(|bytes| serde_json::from_slice::<ErrorBody>(&bytes)) {
        Ok(Ok(body)) => body.error,
        _ => broken(&format!("it answered {status}")),
    }
}

async fn read(body: Incoming) -> Result<Bytes, Error> {
    let limited = http_body_util::Limited::new(body, MAX_ANSWER_BYTES);
    limited.collect().await.map(|whole| whole.to_bytes()).map_err(|error| broken(&error))
}

fn broken(error: &dyn std::fmt::Display) -> Error {
    Error::new(Kind::Unreachable, "the agent's answer cannot be used").because(error).next("agent doctor")
}

/// The connection broke between question and answer.
fn ended() -> Error {
    Error::new(Kind::Unreachable, "the agent ended while it was asked")
        .because("whether it was done is not known")
        .next("agent status, and the same again once the agent runs")
}

fn unreachable(socket: &Path, error: &io::Error) -> Error {
    reach::unreachable(socket, error)
}

#[cfg(test)]
mod tests;
