//! `agent net ping`: asks a host's agent through the mesh, a few times, and tells by which way the answers came.

use std::time::Duration;

use proto::wire::api::{Error, Kind, PathKind, PathRow, Pinged, Pings};

use super::{Cx, Done, client::quoted, error::Exit, ui::word};

/// Between two questions, as `ping` has it.
const PAUSE: Duration = Duration::from_secs(1);

/// Ask a host through the mesh, and see how long it takes and by which way
///
/// Two hosts find a direct way within about a second of their first words, where their routers let them; until then,
/// and where they do not, a relay carries everything. With `--require direct` the command fails with exit code 8 when
/// the last answer did not come straight.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agent net ping nas\n  agent net ping nas --require direct && rsync ...")]
pub struct Args {
    /// The host
    host: String,
    /// How often it is asked, a second apart
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
    /// Which way there must be
    #[arg(long, value_enum)]
    require: Option<Required>,
}

/// Which way there must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Required {
    /// Straight from socket to socket, without a relay
    Direct,
}

pub async fn run(cx: &Cx, args: Args) -> Done {
    let path = format!("/v1/ping?host={}", quoted(&args.host));
    let (mut answers, mut last) = (Vec::new(), None);
    let mut sent = 0;
    for turn in 0..usize::from(args.count) {
        if turn > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        sent += 1;
        match cx.client.get::<Pinged>(&path).await {
            Ok(answer) => {
                if !cx.ui.json() && !cx.ui.tell(&one(&answer)) {
                    break;
                }
                answers.push(answer);
                last = None;
            }
            Err(error) if error.kind == Kind::Unreachable => {
                cx.ui.say(&format!("{}: {}", error.what, error.because.clone().unwrap_or_default()));
                last = Some(error);
            }
            // What is wrong with the question does not change.
            Err(error) => return Err(error),
        }
    }
    let direct = answers.last().is_some_and(|answer| answer.path.kind == Some(PathKind::Direct));
    let pings = sum(args.host, sent, answers);
    cx.ui.show(&pings, |pings, _| in_words(pings));
    match last {
        Some(error) if pings.answers.is_empty() => Err(error),
        _ if args.require == Some(Required::Direct) && !direct => Err(not_direct(&pings)),
        _ => Ok(Exit::WELL),
    }
}

fn not_direct(pings: &Pings) -> Error {
    let way = pings.answers.last().map_or("no way".to_owned(), |answer| way(&answer.path));
    Error::new(Kind::NotDirect, format!("{} is not reached directly", pings.host))
        .because(format!("the way is {way}"))
        .next("agent doctor, on both hosts: what keeps others out")
}

/// Sums up what was answered to `sent` questions.
pub fn sum(host: String, sent: usize, answers: Vec<Pinged>) -> Pings {
    let mut sorted: Vec<f64> = answers.iter().map(|answer| answer.ms).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len().saturating_sub(1) / 2;
    let (least_ms, median_ms) = (sorted.first().copied(), sorted.get(middle).copied());
    Pings { host, sent, answers, least_ms, median_ms, most_ms: sorted.last().copied() }
}

/// Tells one answer.
fn one(answer: &Pinged) -> String {
    format!("{}  {:.1} ms  {}", answer.path.host, answer.ms, way(&answer.path))
}

/// Names a way.
pub fn way(path: &PathRow) -> String {
    let kind = match (path.kind, &path.via) {
        (None, _) => return "not known".to_owned(),
        (Some(PathKind::Relayed), Some(via)) => format!("relayed via {via}"),
        (Some(kind), _) => word(&kind),
    };
    [Some(kind), path.address.clone()].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// Tells the sum.
pub fn in_words(pings: &Pings) -> String {
    let counted = format!("{} of {} answered", pings.answers.len(), pings.sent);
    match (pings.least_ms, pings.median_ms, pings.most_ms) {
        (Some(least), Some(median), Some(most)) => {
            format!("{counted}: least {least:.1}, half within {median:.1}, most {most:.1} ms")
        }
        _ => counted,
    }
}
