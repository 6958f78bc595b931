//! What guests without a computer speak with, to measure the way there: it takes and gives bytes, and has a page.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
};

use anyhow::Result;

/// What a request of HTTP is answered with.
pub(super) const PAGE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n";
/// Requests of HTTP that come one after the other, none of which has a body: each ends with an empty line (RFC 9112,
/// section 2.1).
#[derive(Default)]
pub(super) struct Requests {
    /// How much of the end was seen.
    matched: usize,
}

/// Serves [`super::Guest`]s until killed: of a connection that orders `g` it gets so many bytes, one that orders `p` brings
/// them and gets one byte as a receipt; any other is kept until its guest ends it.
pub fn run(listener: &TcpListener) -> Result<()> {
    for stream in listener.incoming() {
        let stream = stream?;
        let serve = || serve(stream).ok();
        // Thousands may be held at once.
        std::thread::Builder::new().stack_size(128 * 1024).spawn(serve)?;
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut order = [0; 9];
    stream.read_exact(&mut order)?;
    let mut piece = vec![0; 64 * 1024];
    if order.starts_with(b"GET ") {
        return pages(&stream, &order, &mut piece);
    }
    let [what, count @ ..] = order;
    let mut left = u64::from_be_bytes(count);
    while left > 0 {
        let most = left.min(piece.len() as u64) as usize;
        left -= match what {
            b'g' => {
                stream.write_all(&piece[..most])?;
                most as u64
            }
            _ => match stream.read(&mut piece[..most])? {
                0 => return Ok(()),
                count => count as u64,
            },
        };
    }
    if what == b'p' {
        stream.write_all(b"!")?;
    }
    // Until its guest ends it.
    stream.read(&mut piece).map(drop)
}

/// Answers requests of HTTP, of which `first` is the beginning.
fn pages(mut stream: &TcpStream, first: &[u8], piece: &mut [u8]) -> io::Result<()> {
    let mut requests = Requests::default();
    requests.ended(first);
    stream.set_nodelay(true)?;
    loop {
        let count = stream.read(piece)?;
        if count == 0 {
            return Ok(());
        }
        for _ in 0..requests.ended(&piece[..count]) {
            stream.write_all(PAGE)?;
        }
    }
}

impl Requests {
    /// Counts the requests that end in these bytes.
    pub fn ended(&mut self, bytes: &[u8]) -> usize {
        const END: &[u8; 4] = b"\r\n\r\n";
        let mut count = 0;
        for byte in bytes {
            self.matched = match *byte {
                byte if byte == END[self.matched] => self.matched + 1,
                b'\r' => 1,
                _ => 0,
            };
            if self.matched == END.len() {
                self.matched = 0;
                count += 1;
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_end_with_an_empty_line_however_they_come() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /\r\r\n\r\nGET";
        assert_eq!(Requests::default().ended(text), 2);
        let mut requests = Requests::default();
        assert_eq!(text.iter().map(|byte| requests.ended(&[*byte])).sum::<usize>(), 2);
    }

    #[test]
    fn a_source_answers_requests_of_http() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        std::thread::spawn(move || run(&listener));
        let mut stream = TcpStream::connect(at).unwrap();
        for _ in 0..3 {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            let mut answer = vec![0; PAGE.len()];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, PAGE);
        }
    }
}
