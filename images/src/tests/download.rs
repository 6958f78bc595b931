//! Pulling from a server of this test: it resumes or not, breaks off, redirects, lies.

use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::{Download, ImageError, tests::*};

/// How the server behaves.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Breaks off after this many bytes of each answer, and can resume.
    Breaks(usize),
    /// Sends all at once and ignores ranges, after breaking off once.
    NeverResumes,
    /// Points to `/file` for ever.
    Circles,
    /// Has nothing.
    Empty,
}

/// Serves `body`, and tells the ranges that were asked for.
async fn serve(body: Vec<u8>, manner: Manner) -> (String, watch::Receiver<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    let (asked, ranges) = watch::channel(Vec::new());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that hangs up is no failure of the server.
            answer(stream, &body, manner, &asked).await.ok();
        }
    });
    (url, ranges)
}

async fn answer(
    stream: TcpStream,
    body: &[u8],
    manner: Manner,
    asked: &watch::Sender<Vec<String>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut range = "all".to_owned();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? <= 2 {
            break;
        }
        if let Some(("range", value)) = line.trim().to_lowercase().split_once(": ") {
            range = value.to_owned();
        }
    }
    asked.send_modify(|all| all.push(range.clone()));
    let first = asked.borrow().len() == 1;
    let start = range.strip_prefix("bytes=").and_then(|r| r.trim_end_matches('-').parse().ok()).unwrap_or(0);
    let (head, start, limit) = match manner {
        Manner::Empty => ("404 Not Found\r\nContent-Length: 0".to_owned(), body.len(), 0),
        Manner::Circles => ("302 Found\r\nLocation: /file\r\nContent-Length: 0".to_owned(), body.len(), 0),
        Manner::Breaks(_) if start >= body.len() => {
            ("416 Range Not Satisfiable\r\nContent-Length: 0".to_owned(), body.len(), 0)
        }
        Manner::Breaks(limit) if start > 0 => {
            let range = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
            let head = format!(
                "206 Partial Content\r\nContent-Range: {range}\r\nContent-Length: {}",
                body.len() - start
            );
            (head, start, limit)
        }
        Manner::Breaks(limit) => (format!("200 OK\r\nContent-Length: {}", body.len()), 0, limit),
        Manner::NeverResumes => {
            let limit = if first { body.len() / 2 } else { body.len() };
            (format!("200 OK\r\nContent-Length: {}", body.len()), 0, limit)
        }
    };
    stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    stream.write_all(&body[start..body.len().min(start.saturating_add(limit))]).await?;
    stream.shutdown().await
}

fn download(url: &str, body: &[u8]) -> Download {
    Download { url: url.to_owned(), sha256: Sha256::digest(body).into(), arch: "x86_64".to_owned() }
}

fn left(host: &Host) -> [usize; 3] {
    ["raw", "scratch", "pulls"].map(|sub| files(&host.dir.join(sub)))
}

#[tokio::test]
async fn a_download_that_breaks_off_is_resumed_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    let digest = disk(&raw, 3 * MIB, MIB);
    let body = std::fs::read(&raw).unwrap();
    let (url, ranges) = serve(body.clone(), Manner::Breaks(2 * MIB as usize)).await;
    let mut host = Host::start(&dir.path().join("images"), 1).await;
    let wanted = download(&url, &body);
    let pulled = host.images.pull(&wanted, giving("vendor:1"), &progress()).await.unwrap();
    assert_eq!((pulled.digest, pulled.size), (digest, 3 * MIB));
    assert_eq!(std::fs::read(host.images.path(digest).unwrap()).unwrap(), body);
    assert_eq!(*ranges.borrow(), ["all", "bytes=2097152-"]);
    assert_eq!(left(&host), [1, 0, 0]);
    assert_eq!(host.facts(), [format!("image vendor:1 is here, 3145728 bytes from {url}")]);
    // Known by its checksum, so nothing is asked for again.
    host.images.pull(&wanted, giving("vendor:latest"), &progress()).await.unwrap();
    assert_eq!(ranges.borrow().len(), 2);
    assert_eq!(host.images.list()[&digest].names.len(), 2);
    host.stop().await;
}

#[tokio::test]
async fn a_download_goes_on_after_a_restart_of_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let body = noise(3 * MIB);
    let (url, ranges) = serve(body.clone(), Manner::Breaks(2 * MIB as usize)).await;
    let wanted = download(&url, &body);
    let host = Host::start(&dir.path().join("images"), 1).await;
    let (progress, mut seen) = watch::channel(Progress::default());
    tokio::select! {
        _ = host.images.pull(&wanted, giving("x"), &progress) => panic!("not dropped"),
        _ = seen.wait_for(|progress| progress.done > MIB) => {}
    }
    let host = Host::start(&host.stop().await, 1).await;
    host.images.pull(&wanted, giving("x"), &crate::tests::progress()).await.unwrap();
    assert!(ranges.borrow().last().unwrap().starts_with("bytes="), "{:?}", ranges.borrow());
    host.stop().await;
}

#[tokio::test]
async fn a_server_that_cannot_resume_sends_all_of_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let body = noise(3 * MIB);
    let (url, ranges) = serve(body.clone(), Manner::NeverResumes).await;
    let host = Host::start(&dir.path().join("images"), 1).await;
    let pulled = host.images.pull(&download(&url, &body), giving("x"), &progress()).await.unwrap();
    assert_eq!(pulled.digest, Digest::of(&body));
    assert_eq!(ranges.borrow().len(), 2);
    host.stop().await;
}

#[tokio::test]
async fn wrong_bytes_are_refused_with_both_checksums_and_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let body = noise(MIB);
    let (url, _) = serve(body.clone(), Manner::Breaks(usize::MAX)).await;
    let host = Host::start(&dir.path().join("images"), 1).await;
    let refused = host.images.pull(&download(&url, b"other"), giving("x"), &progress()).await.unwrap_err();
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(&Sha256::digest(bytes));
    let (want, got) = (hex(b"other"), hex(&body));
    let said = format!("the checksum differs: sha256 {got} instead of {want}");
    assert_eq!(refused.to_string(), said);
    assert_eq!(left(&host), [0, 0, 0]);
    host.stop().await;
}

#[tokio::test]
async fn what_is_no_disk_is_refused_though_its_checksum_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let body = b"\xfd7zXZ\0 packed".to_vec();
    let (url, _) = serve(body.clone(), Manner::Breaks(usize::MAX)).await;
    let host = Host::start(&dir.path().join("images"), 1).await;
    let refused = host.images.pull(&download(&url, &body), giving("x"), &progress()).await.unwrap_err();
    assert!(refused.to_string().contains("compressed with xz"), "{refused}");
    assert_eq!(left(&host), [0, 0, 0]);
    host.stop().await;
}

#[tokio::test]
async fn a_pulled_qcow2_is_converted_and_its_download_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, qcow2) = (dir.path().join("disk.raw"), dir.path().join("disk.qcow2"));
    let digest = disk(&raw, 16 * MIB, MIB);
    if !qemu_img(&["convert", "-c", "-O", "qcow2", raw.to_str().unwrap(), qcow2.to_str().unwrap()]) {
        return;
    }
    let body = std::fs::read(&qcow2).unwrap();
    let (url, _) = serve(body.clone(), Manner::Breaks(usize::MAX)).await;
    let host = Host::start(&dir.path().join("images"), 1).await;
    let pulled = host.images.pull(&download(&url, &body), giving("x"), &progress()).await.unwrap();
    assert_eq!(pulled.digest, digest);
    assert_eq!(left(&host), [1, 0, 0]);
    host.stop().await;
}

#[tokio::test]
async fn missing_files_and_circles_end_the_download_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::start(&dir.path().join("images"), 1).await;
    for (manner, because) in [(Manner::Empty, "404"), (Manner::Circles, "too many redirects")] {
        let (url, _) = serve(b"x".to_vec(), manner).await;
        let refused = host.images.pull(&download(&url, b"x"), giving("x"), &progress()).await.unwrap_err();
        assert!(matches!(&refused, ImageError::Download { .. }), "{refused}");
        assert!(refused.to_string().contains(because), "{refused}");
    }
    host.stop().await;
}
