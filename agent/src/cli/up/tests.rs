//! `up` and `down` against written answers on a real socket.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Json, Router,
    routing::{get, post},
};
use clap::Parser;
use proto::{
    id::SessionId,
    session::{ChangeAction, Guard, How},
    topology::Topology,
    wire::api::{DownProgress, PlanChange, PlanObstacle, PlanReport, SessionState, SessionStatus},
};

use super::*;
use crate::{
    api::listen,
    cli::{Cli, Noun, Ui, client::Client, session::Verb},
    host::data::DataDir,
};

const SHOP: SessionId = SessionId([0x0a; 16]);

fn serve(routes: Router) -> (tempfile::TempDir, Cx) {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::choose(Some(dir.path())).unwrap();
    let listener = listen(&data.socket(), None).unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (dir, Cx { ui: Ui::new(false), client: Client::new(data.socket()), data, chosen: true })
}

fn verb(line: &str) -> Verb {
    let cli = Cli::try_parse_from(std::iter::once("agent").chain(line.split(' '))).unwrap();
    let Noun::Session(verb) = cli.noun else { panic!("a verb of session") };
    verb
}

fn args(line: &str) -> Args {
    let Verb::Up(args) = verb(line) else { panic!("up") };
    args
}

fn wanted() -> PlanRequest {
    let topology = Topology { session: "shop".parse().unwrap(), groups: Default::default() };
    PlanRequest {
        topology,
        files: Default::default(),
        ssh_keys: Default::default(),
        index: None,
        replace: Default::default(),
    }
}

fn answer(obstacles: Vec<PlanObstacle>) -> UpAnswer {
    let done = obstacles.is_empty();
    UpAnswer {
        id: done.then_some(SHOP),
        generation: done.then_some(1),
        plan: PlanReport {
            session: "shop".into(),
            changes: Vec::new(),
            rejected: Vec::new(),
            obstacles,
            replaces: Vec::new(),
            fetch: Vec::new(),
            index: 0,
            notes: Vec::new(),
        },
    }
}

fn status(state: Phase) -> SessionStatus {
    let machine = MachineRow {
        name: "web-1".parse().unwrap(),
        group: "web".into(),
        session: "shop".into(),
        session_id: SHOP,
        host: Some("nas".into()),
        state,
        guard: Guard::Hold,
        epoch: 1,
        address: None,
        reason: None,
        why: None,
    };
    SessionStatus {
        id: SHOP,
        name: "shop".into(),
        state: SessionState::Starting,
        generation: 1,
        coordinator: Some("nas".into()),
        voters: Vec::new(),
        subnet: None,
        machines: vec![machine],
        services: Vec::new(),
        level: Default::default(),
        below: Vec::new(),
    }
}

/// Answers progress that is complete from the `ready`th question on.
fn routes(answer: UpAnswer, ready: usize) -> (Router, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let progress = move || async move {
        let complete = count.fetch_add(1, Ordering::Relaxed) >= ready;
        let status = status(if complete { Phase::Ready } else { Phase::Starting });
        Json(UpProgress {
            status,
            everywhere: complete,
            behind: Vec::new(),
            fetching: Vec::new(),
            away: Vec::new(),
        })
    };
    let up = || async { Json(answer) };
    (Router::new().route("/v1/sessions/up", post(up)).route("/v1/session/up", get(progress)), asked)
}

#[tokio::test]
async fn up_returns_when_all_is_as_it_was_asked_to_be() {
    let (routes, asked) = routes(answer(Vec::new()), 2);
    let (_dir, cx) = serve(routes);
    assert_eq!(commit(&cx, wanted(), &args("session up t")).await.unwrap(), Exit::WELL);
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn up_that_takes_too_long_goes_on_and_says_so() {
    let (routes, _) = routes(answer(Vec::new()), usize::MAX);
    let (_dir, cx) = serve(routes);
    let error = commit(&cx, wanted(), &args("session up t --timeout 500ms")).await.unwrap_err();
    assert_eq!((error.kind, error.because.as_deref()), (Kind::TimedOut, Some("web-1 is starting")));
    assert_eq!(error.next.as_deref(), Some("agent session status shop"));
}

#[tokio::test]
async fn a_session_that_is_ended_elsewhere_meanwhile_is_told_as_that() {
    let gone = || async {
        let error = Error::new(Kind::NotFound, "there is no session \"shop\"");
        (axum::http::StatusCode::NOT_FOUND, Json(proto::wire::api::ErrorBody { error }))
    };
    let up = || async { Json(answer(Vec::new())) };
    let routes = Router::new().route("/v1/sessions/up", post(up)).route("/v1/session/up", get(gone));
    let (_dir, cx) = serve(routes);
    let error = commit(&cx, wanted(), &args("session up t")).await.unwrap_err();
    assert_eq!(error.what, "shop was ended while it was waited for");
    assert_eq!(error.next.as_deref(), Some("agent session up t"));
}

#[tokio::test]
async fn up_does_not_wait_when_told_so_or_when_nothing_was_committed() {
    let (open, asked) = routes(answer(Vec::new()), 0);
    let (_dir, cx) = serve(open);
    assert_eq!(commit(&cx, wanted(), &args("session up t --wait none")).await.unwrap(), Exit::WELL);
    assert_eq!(asked.load(Ordering::Relaxed), 0);

    let obstacle =
        PlanObstacle { machine: "web-1".parse().unwrap(), because: "no QEMU anywhere".into(), why: None };
    let (closed, asked) = routes(answer(vec![obstacle]), 0);
    let (_dir, cx) = serve(closed);
    let error = commit(&cx, wanted(), &args("session up t")).await.unwrap_err();
    assert_eq!((error.kind, asked.load(Ordering::Relaxed)), (Kind::Refused, 0));
}

async fn down(away: &[&str], gone_after: usize, line: &str) -> Result<Exit, Error> {
    let away: Vec<String> = away.iter().map(|host| host.to_string()).collect();
    let asked = Arc::new(AtomicUsize::new(0));
    let progress = move || async move {
        let gone = asked.fetch_add(1, Ordering::Relaxed) >= gone_after;
        Json(DownProgress {
            id: SHOP,
            name: "shop".into(),
            gone,
            remaining: Vec::new(),
            away,
            behind: Vec::new(),
            because: Vec::new(),
        })
    };
    let routes = Router::new()
        .route("/v1/session", get(|| async { Json(status(Phase::Ready)) }))
        .route("/v1/session/down", get(progress.clone()).post(progress));
    let (_dir, cx) = serve(routes);
    let Verb::Down(args) = verb(line) else { panic!("down") };
    crate::cli::down::run(&cx, args).await
}

#[tokio::test]
async fn down_returns_when_nothing_is_left_where_it_can_look() {
    assert_eq!(down(&[], 2, "session down shop --yes").await.unwrap(), Exit::WELL);
    let partly = down(&["attic"], 0, "session down shop --yes").await.unwrap_err();
    assert_eq!(partly.kind, Kind::Partly);
    let late = down(&[], usize::MAX, "session down shop --yes --timeout 500ms").await.unwrap_err();
    assert_eq!(late.kind, Kind::TimedOut);
}

#[test]
fn the_next_command_is_one_that_can_be_typed() {
    let progress = |machines: &[(&str, &str, Phase)], away: &[&str]| {
        let mut status = status(Phase::Ready);
        let row = status.machines.remove(0);
        let rows = machines.iter().map(|(name, host, state)| MachineRow {
            name: name.parse().unwrap(),
            host: Some(host.to_string()),
            state: *state,
            ..row.clone()
        });
        status.machines = rows.collect();
        let away = away.iter().map(|host| host.to_string()).collect();
        UpProgress { status, everywhere: true, behind: Vec::new(), fetching: Vec::new(), away }
    };
    let failed = [("db-1", "attic", Phase::Failed), ("web-1", "nas", Phase::Failed)];
    let console = |machine: &str| format!("agent machine console shop/{machine}    shows what it said last");
    assert_eq!(next(&progress(&failed, &[])), console("db-1"));
    assert_eq!(next(&progress(&failed, &["attic"])), console("web-1"), "attic answers nobody");
    let away = next(&progress(&failed[..1], &["attic"]));
    assert_eq!(away, "agent host list    shows which hosts are away");
    let stopped = [("db-1", "nas", Phase::Stopped), ("web-1", "nas", Phase::Waiting)];
    assert_eq!(next(&progress(&stopped, &[])), "agent machine start shop/db-1");
}

#[tokio::test]
async fn disks_are_lost_only_when_told_and_without_a_terminal_nobody_is_asked() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let up = move |Json(wanted): Json<PlanRequest>| async move {
        count.fetch_add(1, Ordering::Relaxed);
        let change = PlanChange {
            machine: "web-1".parse().unwrap(),
            action: ChangeAction::Change,
            how: Some(How::Replace),
            host: "nas".into(),
            because: "replace: image is other now; its disk starts empty".into(),
            why: None,
        };
        let told = wanted.replace.allows(&change.machine);
        let mut answer = answer(Vec::new());
        if !told {
            (answer.id, answer.generation, answer.plan.replaces) = (None, None, vec![change]);
        }
        Json(answer)
    };
    let (_dir, cx) = serve(Router::new().route("/v1/sessions/up", post(up)));
    for line in ["session up t.toml", "session up t.toml --yes"] {
        let error = commit(&cx, wanted(), &args(line)).await.unwrap_err();
        assert_eq!(error.kind, Kind::Refused);
        assert_eq!(error.next.as_deref(), Some("agent session up t.toml --replace web-1"));
    }
    assert_eq!(asked.load(Ordering::Relaxed), 2, "nothing is tried again");
    let mut told = wanted();
    told.replace = proto::session::Replace::all();
    assert_eq!(commit(&cx, told, &args("session up t --wait none")).await.unwrap(), Exit::WELL);
}
