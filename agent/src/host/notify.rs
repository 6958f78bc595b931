//! What a manager of services is told: that the agent is there, what it waits for, that it goes. One datagram each on
//! the socket that the manager named; without one nothing is said.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// Longest status line: managers show one line.
const STATUS_MAX: usize = 300;

/// Says that everything that this agent does is done from now on, and how it is in one line.
pub fn ready(status: &str) {
    say(&format!("READY=1\nSTATUS={}", line(status)));
}

/// Says that the agent goes; machines do not.
pub fn stopping() {
    say("STOPPING=1\nSTATUS=ending; machines run on");
}

fn line(status: &str) -> String {
    status.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(STATUS_MAX).collect()
}

fn say(state: &str) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(&socket, state.as_bytes()) {
        tracing::warn!(%error, "the manager of services is told nothing");
    }
}

fn send(socket: &OsStr, state: &[u8]) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_one_datagram_and_no_line_of_a_stranger_s_making() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), b"READY=1").unwrap();
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        assert_eq!(line("waits\nMAINPID=1"), "waits MAINPID=1");
        assert!(send(OsStr::new("/no/such/socket"), b"READY=1").is_err());
    }
}
