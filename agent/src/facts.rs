//! Remembers what happened on this host, so that `agent events --since SEQ` answers after a restart.
//!
//! Owns `DATA/facts/`: segments of one JSON line per fact, named by their first sequence number.
//! Sequence numbers count from 1 and never repeat. A torn last line (power loss) costs that line.
//! Nothing here decides: facts come in over a broadcast, readers look at the [`Log`].

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use proto::{
    facts::{Event, Fact},
    id::Name,
    limits::MAX_FACTS,
    time::Timestamp,
};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

/// Facts in one segment. Four old segments and the growing one hold [`MAX_FACTS`] at any time.
const SEGMENT_FACTS: usize = MAX_FACTS / 4;
/// Segments kept, the growing one included.
const SEGMENTS: usize = 5;

/// Why the facts cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("keeping facts in {}", path.display())]
pub struct FactsError {
    path: PathBuf,
    source: io::Error,
}

/// The newest facts of this host. Cheap to clone; readers wait on [`Log::changed`].
#[derive(Clone, Debug)]
pub struct Log {
    ring: Arc<Mutex<VecDeque<Event>>>,
    last: watch::Receiver<u64>,
}

/// Writes facts down, one after the other. There is one per data directory.
#[derive(Debug)]
pub struct Recorder {
    dir: PathBuf,
    host: Name,
    ring: Arc<Mutex<VecDeque<Event>>>,
    last: watch::Sender<u64>,
    file: Option<File>,
    segment: Option<PathBuf>,
    lines: usize,
    failing: bool,
}

/// Opens the facts in `dir`, which is made if it is missing.
pub fn open(dir: &Path, host: &Name) -> Result<(Log, Recorder), FactsError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| FactsError { path, source }
    };
    fs::create_dir_all(dir).map_err(at(dir))?;
    let mut ring = VecDeque::new();
    let (mut last, mut lines, mut segment) = (0, 0, None);
    for (first, path) in segments(dir).map_err(at(dir))? {
        let kept = read_segment(&path).map_err(at(&path))?;
        last = last.max(first.saturating_sub(1)).max(kept.last_seq);
        lines = kept.lines;
        segment = Some(path);
        ring.extend(kept.events);
        trim(&mut ring);
    }
    let ring = Arc::new(Mutex::new(ring));
    let (sender, receiver) = watch::channel(last);
    let log = Log { ring: ring.clone(), last: receiver };
    let dir = dir.to_owned();
    let host = host.clone();
    Ok((log, Recorder { dir, host, ring, last: sender, file: None, segment, lines, failing: false }))
}

impl Log {
    /// Gives the facts after `seq` that are still kept, oldest first.
    pub fn after(&self, seq: u64) -> Vec<Event> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let from = ring.partition_point(|event| event.seq <= seq);
        ring.range(from..).cloned().collect()
    }

    /// Gives the number of the newest fact, and waits for newer ones.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.last.clone()
    }
}

impl Recorder {
    /// Records one fact, in memory always, on disk if it can be written.
    pub fn record(&mut self, fact: Fact, now: Timestamp) {
        let seq = *self.last.borrow() + 1;
        let event = Event::new(seq, now, &self.host, fact);
        let written = self.write(&event);
        if let Err(error) = &written
            && !self.failing
        {
            tracing::warn!(dir = %self.dir.display(), %error, "facts cannot be written, they are kept in memory only");
        }
        self.failing = written.is_err();
        {
            let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            ring.push_back(event);
            trim(&mut ring);
        }
        self.last.send_replace(seq);
    }

    /// Records everything that is broadcast, until `end` and everything that was said before it. `now`
    /// reads the clock.
    pub async fn run(
        mut self,
        mut facts: broadcast::Receiver<Fact>,
        now: impl Fn() -> Timestamp,
        end: CancellationToken,
    ) {
        loop {
            // Cancel-safe: a fact is recorded at once when it is received. What waits comes before the end.
            let heard = tokio::select! {
                biased;
                heard = facts.recv() => heard,
                () = end.cancelled() => return,
            };
            match heard {
                Ok(fact) => self.record(fact, now()),
                Err(broadcast::error::RecvError::Lagged(lost)) => {
                    tracing::warn!(lost, "facts came faster than they could be recorded");
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn write(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        if self.lines >= SEGMENT_FACTS {
            (self.file, self.segment) = (None, None);
        }
        let mut file = match self.file.take() {
            Some(file) => file,
            None => self.open_segment(event.seq)?,
        };
        file.write_all(&line)?;
        self.lines += 1;
        self.file = Some(file);
        Ok(())
    }

    /// Goes on with the last segment, or starts one. What a power loss or a full disk left of a
    /// line is ended, so that the next line stands alone.
    fn open_segment(&mut self, first: u64) -> io::Result<File> {
        let path = match self.segment.clone() {
            Some(path) => path,
            None => {
                let old = segments(&self.dir)?;
                for (_, path) in old.iter().take((old.len() + 1).saturating_sub(SEGMENTS)) {
                    fs::remove_file(path)?;
                }
                self.lines = 0;
                self.dir.join(format!("{first:020}.jsonl"))
            }
        };
        let torn = fs::read(&path).is_ok_and(|text| text.last().is_some_and(|last| *last != b'\n'));
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        if torn {
            file.write_all(b"\n")?;
        }
        self.segment = Some(path);
        Ok(file)
    }
}

fn trim(ring: &mut VecDeque<Event>) {
    while ring.len() > MAX_FACTS {
        ring.pop_front();
    }
}

/// Lists the segments by first sequence number.
fn segments(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let first = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jsonl")?.parse().ok());
        found.extend(first.map(|first| (first, path)));
    }
    found.sort_unstable();
    Ok(found)
}

struct Segment {
    events: Vec<Event>,
    last_seq: u64,
    lines: usize,
}

/// Reads one segment. A line of an unknown kind (another version wrote it) is skipped, its number
/// counts; a line that is no JSON is the torn end of a file and counts for nothing.
fn read_segment(path: &Path) -> io::Result<Segment> {
    #[derive(serde::Deserialize)]
    struct Numbered {
        seq: u64,
    }
    let text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
    let mut segment = Segment { events: Vec::new(), last_seq: 0, lines: 0 };
    for line in text.lines() {
        segment.lines += 1;
        if let Ok(event) = serde_json::from_str::<Event>(line) {
            segment.last_seq = segment.last_seq.max(event.seq);
            segment.events.push(event);
        } else if let Ok(Numbered { seq }) = serde_json::from_str(line) {
            segment.last_seq = segment.last_seq.max(seq);
        }
    }
    Ok(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(name: &str) -> Fact {
        Fact::MemberUp { member: name.parse().unwrap() }
    }

    fn open_in(dir: &Path) -> (Log, Recorder) {
        open(dir, &"nas".parse().unwrap()).unwrap()
    }

    fn seqs(log: &Log, after: u64) -> Vec<u64> {
        log.after(after).iter().map(|event| event.seq).collect()
    }

    #[test]
    fn numbers_go_on_and_old_facts_are_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..3 {
            let (log, mut recorder) = open_in(dir.path());
            assert_eq!(*log.changed().borrow(), round * 2);
            recorder.record(fact("attic"), Timestamp(1));
            recorder.record(fact("cellar"), Timestamp(2));
        }
        let (log, _recorder) = open_in(dir.path());
        assert_eq!(seqs(&log, 0), [1, 2, 3, 4, 5, 6]);
        assert_eq!(seqs(&log, 4), [5, 6]);
        assert_eq!(seqs(&log, 99), [0; 0]);
        assert_eq!(log.after(5)[0].fact, fact("cellar"));
        assert_eq!(segments(dir.path()).unwrap().len(), 1, "a restart starts no new segment");
    }

    #[test]
    fn a_torn_line_costs_that_line_only() {
        let dir = tempfile::tempdir().unwrap();
        let (_, mut recorder) = open_in(dir.path());
        recorder.record(fact("attic"), Timestamp(1));
        let (_, path) = segments(dir.path()).unwrap().remove(0);
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(b"{\"seq\":2,\"time\":\"19").unwrap();
        let (log, mut recorder) = open_in(dir.path());
        recorder.record(fact("cellar"), Timestamp(2));
        assert_eq!(seqs(&log, 0), [1, 2]);
        let (log, _recorder) = open_in(dir.path());
        assert_eq!(seqs(&log, 0), [1, 2]);
    }

    #[test]
    fn a_kind_of_another_version_keeps_its_number() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("00000000000000000001.jsonl"),
            "{\"seq\":7,\"time\":\"x\",\"host\":\"nas\",\"kind\":\"comet-seen\"}\n",
        )
        .unwrap();
        let (log, mut recorder) = open_in(dir.path());
        recorder.record(fact("attic"), Timestamp(1));
        assert_eq!(seqs(&log, 0), [8]);
    }

    #[test]
    fn memory_and_disk_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let (log, mut recorder) = open_in(dir.path());
        let total = MAX_FACTS as u64 + 2 * SEGMENT_FACTS as u64;
        for _ in 0..total {
            recorder.record(Fact::AgentStopped, Timestamp(1));
        }
        assert_eq!(log.after(0).len(), MAX_FACTS);
        assert_eq!(segments(dir.path()).unwrap().len(), SEGMENTS);
        let (again, _recorder) = open_in(dir.path());
        assert_eq!(seqs(&again, 0), seqs(&log, 0));
    }

    #[tokio::test]
    async fn broadcast_facts_are_recorded_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (log, recorder) = open_in(dir.path());
        let (sender, receiver) = broadcast::channel(8);
        sender.send(fact("attic")).unwrap();
        sender.send(fact("cellar")).unwrap();
        let end = CancellationToken::new();
        end.cancel();
        // A sender lives on: the end alone ends it, and loses nothing that was said before.
        recorder.run(receiver, || Timestamp(5), end).await;
        assert_eq!(seqs(&log, 0), [1, 2]);
    }
}
