//! Which request calls which method of [`App`]. One line of the table a method; the handlers only
//! take requests apart and put answers together.

use std::io;

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, FromRequest, Query, Request, State, rejection::JsonRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper_util::{rt::TokioIo, server::conn::auto::upgrade};
use mesh::net::splice;
use proto::{
    id::{MachineName, SessionId},
    limits::MAX_API_BYTES,
    topology::Parcel,
    wire::api::{self, Error, Kind},
};
use serde::Deserialize;
use tokio::{io::AsyncWriteExt, net::UnixStream};

use super::{
    RAW,
    answers::{answer, events_body, finish, refusal, steps},
    held::{Held, Lasting},
    resolve::{self, Spelled, find_machine, find_session},
};
use crate::app::{App, Pipe, services::Service};

/// What a raw connection holds in each direction.
const RAW_BYTES: usize = 32 * 1024;

/// Builds the routes of the local API.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/v1/status", get(|State(app): App_| answer(async move { app.status().await })))
        .route("/v1/join", post(|State(app): App_, Body_(join)| finish(async move { app.join(join).await })))
        .route("/v1/hosts", get(|State(app): App_| answer(async move { app.hosts().await })))
        .merge(rights())
        .route("/v1/sessions", get(|State(app): App_| answer(async move { app.sessions().await })))
        .route("/v1/sessions/plan", post(|app: App_, body: Body_<api::PlanRequest>| answer(plan(app, body))))
        .route("/v1/sessions/up", post(|app: App_, body: Body_<api::PlanRequest>| finish(up(app, body))))
        .route("/v1/session", get(|app: App_, of: OfSession| answer(session_status(app, of))))
        .route("/v1/session/up", get(|app: App_, of: OfSession| answer(up_progress(app, of))))
        .route(
            "/v1/session/down",
            get(|app: App_, of: OfId| answer(down_progress(app, of)))
                .post(|app: App_, of: OfSession| finish(down(app, of))),
        )
        .merge(machines())
        .merge(services())
        .route("/v1/net/check", get(|State(app): App_| answer(async move { app.check().await })))
        .route("/v1/rtts", get(|State(app): App_| answer(async move { app.rtts().await })))
        .route("/v1/paths", get(|State(app): App_| answer(async move { app.paths() })))
        .route(
            "/v1/ping",
            get(|State(app): App_, of: OfHost| answer(async move { app.ping(&of.host).await })),
        )
        .route("/v1/images", get(|State(app): App_| answer(async move { app.images().await })))
        .route("/v1/image/import", post(image_import))
        .route("/v1/image/pull", post(image_pull))
        .route(
            "/v1/image/remove",
            post(|State(app): App_, Body_(image)| finish(async move { app.image_remove(image).await })),
        )
        .route("/v1/tokens", get(|State(app): App_| answer(async move { app.tokens().await })))
        .route(
            "/v1/token/create",
            post(|State(app): App_, Body_(create)| finish(async move { app.token_create(create).await })),
        )
        .route(
            "/v1/token/revoke",
            post(|State(app): App_, Body_(token)| finish(async move { app.token_revoke(token).await })),
        )
        .route("/v1/doctor", get(|State(app): App_| answer(async move { app.doctor().await })))
        .route("/v1/internals", get(|State(app): App_| answer(async move { app.internals().await })))
        .route("/v1/events", get(events))
        .fallback(|request: Request| async move {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            refusal(
                Error::new(Kind::NotFound, format!("the API has no {method} {path}"))
                    .because("the program and the daemon may be of different versions")
                    .next("agent status"),
            )
        })
        .layer(DefaultBodyLimit::max(MAX_API_BYTES))
        .with_state(app)
}

/// Who belongs to the mesh, and what they may.
fn rights() -> Router<App> {
    Router::new()
        .route(
            "/v1/host/loss",
            get(|State(app): App_, Query(of): Query<MaybeHost>| {
                answer(async move { app.host_loss(of.host).await })
            }),
        )
        .route(
            "/v1/host/out",
            post(|State(app): App_, Body_(out)| finish(async move { app.host_out(out).await })),
        )
        .route(
            "/v1/host/rename",
            post(|State(app): App_, Body_(rename)| finish(async move { app.host_rename(rename).await })),
        )
        .route(
            "/v1/host/issuer",
            post(|State(app): App_, Body_(issuer)| finish(async move { app.host_issuer(issuer).await })),
        )
        .route(
            "/v1/restore",
            post(|State(app): App_, Body_(request)| finish(async move { app.restore(request).await })),
        )
        .route("/v1/leave", post(|State(app): App_| finish(async move { app.leave().await })))
}

/// Machines, and how they are entered.
fn machines() -> Router<App> {
    Router::new()
        .route("/v1/machines", get(|State(app): App_| answer(async move { app.machines().await })))
        .route("/v1/machine/start", post(|app: App_, of: OfMachine| finish(wish(app, of, true))))
        .route("/v1/machine/stop", post(|app: App_, of: OfMachine| finish(wish(app, of, false))))
        .route("/v1/machine/ssh", get(|app: App_, of: OfMachine| answer(ssh_access(app, of))))
        .route(
            "/v1/machine/login",
            post(|State(app): App_, Body_(login)| answer(async move { app.login(login).await })),
        )
        .route("/v1/machine/dial", get(dial))
        .route("/v1/machine/console", get(console))
}

fn services() -> Router<App> {
    Router::new()
        .route("/v1/services", get(|State(app): App_| answer(async move { app.services().await })))
        .route("/v1/service/found", get(|app: App_, of: OfService| answer(service_found(app, of))))
        .route("/v1/service/connect", get(service_connect))
        .route("/v1/service/open", post(|app: App_, body: Body_<_>| finish(service_open(app, body))))
        .route("/v1/service/close", post(|app: App_, body: Body_<_>| finish(service_close(app, body))))
        .route(
            "/v1/service/publish",
            post(|State(app): App_, Body_(wanted)| finish(async move { app.service_publish(wanted).await })),
        )
        .route(
            "/v1/service/unpublish",
            post(|State(app): App_, Body_(wanted)| {
                finish(async move { app.service_unpublish(wanted).await })
            }),
        )
}

type App_ = State<App>;
type OfSession = Query<BySession>;
type OfId = Query<BySessionId>;
type OfMachine = Query<ByMachine>;
type OfHost = Query<ByHost>;
type OfService = Query<api::ServiceNamed>;

#[derive(Deserialize)]
struct BySession {
    session: String,
}

#[derive(Deserialize)]
struct BySessionId {
    session: SessionId,
}

#[derive(Deserialize)]
struct MaybeHost {
    host: Option<String>,
}

#[derive(Deserialize)]
struct ByHost {
    host: String,
}

#[derive(Deserialize)]
struct ByMachine {
    machine: String,
}

#[derive(Deserialize)]
struct Since {
    since: Option<u64>,
    #[serde(default)]
    follow: bool,
}

#[derive(Deserialize)]
struct Dialled {
    machine: String,
    port: u16,
}

/// A JSON body whose mistakes are answered in our words.
struct Body_<T>(T);

impl<S: Send + Sync, T> FromRequest<S> for Body_<T>
where
    Json<T>: FromRequest<S, Rejection = JsonRejection>,
{
    type Rejection = Response;
    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => Ok(Body_(body)),
            Err(rejection) => Err(refusal(
                Error::new(Kind::Usage, "the request cannot be read").because(rejection.body_text()),
            )),
        }
    }
}

async fn plan(State(app): App_, Body_(wanted): Body_<api::PlanRequest>) -> Result<api::PlanReport, Error> {
    let replace = wanted.replace.clone();
    app.plan(Parcel::try_from(wanted)?.intent, replace).await
}

async fn up(State(app): App_, Body_(wanted): Body_<api::PlanRequest>) -> Result<api::UpAnswer, Error> {
    let (index, replace) = (wanted.index, wanted.replace.clone());
    app.up(Parcel::try_from(wanted)?, replace, index).await
}

async fn session(app: &App, Query(of): &OfSession) -> Result<SessionId, Error> {
    let list = app.sessions().await?;
    Ok(find_session(&list.sessions, &of.session)?.id)
}

async fn session_status(State(app): App_, of: OfSession) -> Result<api::SessionStatus, Error> {
    app.session_status(session(&app, &of).await?).await
}

async fn up_progress(State(app): App_, of: OfSession) -> Result<api::UpProgress, Error> {
    app.up_progress(session(&app, &of).await?).await
}

async fn down(State(app): App_, of: OfSession) -> Result<api::DownProgress, Error> {
    app.down(session(&app, &of).await?).await
}

/// Asks by id: by now the session's name may be forgotten.
async fn down_progress(State(app): App_, Query(of): OfId) -> Result<api::DownProgress, Error> {
    app.down_progress(of.session).await
}

async fn machine(app: &App, text: &str) -> Result<(SessionId, MachineName), Error> {
    let list = app.machines().await?;
    find_machine(&list.machines, resolve::without_zone(text, app.zone())).map(resolve::key)
}

async fn wish(State(app): App_, Query(of): OfMachine, run: bool) -> Result<api::MachineRow, Error> {
    let (session, machine) = machine(&app, &of.machine).await?;
    app.wish(session, machine, run).await
}

async fn ssh_access(State(app): App_, Query(of): OfMachine) -> Result<api::SshAccess, Error> {
    let (session, machine) = machine(&app, &of.machine).await?;
    app.ssh_access(session, machine).await
}

async fn service(app: &App, text: &str) -> Result<Service, Error> {
    match resolve::spelled(text, app.zone())? {
        Spelled::OfHost { host, service } => app.service_of_host(&host, &service),
        Spelled::OfLabel { session, label, service } => {
            let list = app.sessions().await?;
            app.service_of(find_session(&list.sessions, &session)?.id, &label, service.as_ref())
        }
    }
}

async fn service_open(
    State(app): App_,
    Body_(named): Body_<api::ServiceNamed>,
) -> Result<api::ServiceOpened, Error> {
    app.service_open(service(&app, &named.service).await?).await
}

async fn service_close(
    State(app): App_,
    Body_(named): Body_<api::ServiceNamed>,
) -> Result<api::ServiceClosed, Error> {
    Ok(app.service_close(service(&app, &named.service).await?))
}

async fn service_found(State(app): App_, Query(of): OfService) -> Result<api::ServiceFound, Error> {
    app.service_found(service(&app, &of.service).await?)
}

/// Joins a connection with one to a service; its machine counts it as long as it lasts.
async fn service_connect(
    State(app): App_,
    lasting: Extension<Lasting>,
    Query(of): OfService,
    request: Request,
) -> Response {
    let pipe = async {
        let place = lasting.take()?;
        let (stream, counted) = app.service_connect(service(&app, &of.service).await?).await?;
        Ok((stream, (place, counted)))
    };
    upgrade(pipe.await, request)
}

async fn dial(
    State(app): App_,
    lasting: Extension<Lasting>,
    Query(to): Query<Dialled>,
    request: Request,
) -> Response {
    let pipe = async {
        let place = lasting.take()?;
        let (session, machine) = machine(&app, &to.machine).await?;
        Ok((app.dial(session, machine, to.port).await?, place))
    };
    upgrade(pipe.await, request)
}

async fn console(
    State(app): App_,
    lasting: Extension<Lasting>,
    Query(of): OfMachine,
    request: Request,
) -> Response {
    let pipe = async {
        let place = lasting.take()?;
        let (session, machine) = machine(&app, &of.machine).await?;
        Ok((app.console(session, machine).await?, place))
    };
    upgrade(pipe.await, request)
}

/// Answers 101 and joins the connection with the pipe, byte for byte. What is held is let go with it.
pub fn upgrade<H: Send + 'static>(pipe: Result<(Pipe, H), Error>, mut request: Request) -> Response {
    let (mut pipe, held) = match pipe {
        Ok(pipe) => pipe,
        Err(error) => return refusal(error),
    };
    let raw = request.headers().get(header::UPGRADE).is_some_and(|name| name.as_bytes() == RAW.as_bytes());
    if !raw {
        return refusal(Error::new(Kind::Usage, format!("this request needs \"Upgrade: {RAW}\"")));
    }
    let upgraded = hyper::upgrade::on(&mut request);
    // The task ends with either side of the connection.
    tokio::spawn(async move {
        let ended = match upgraded.await.map(upgrade::downcast::<TokioIo<Held>>) {
            Ok(Ok(client)) => {
                let (socket, _place) = client.io.into_inner().into_parts();
                join(socket, &client.read_buf, &mut pipe).await.err()
            }
            Ok(Err(_)) => return tracing::error!("a raw connection is none of the local API's socket"),
            Err(error) => return tracing::debug!(%error, "a client went before its connection was raw"),
        };
        tracing::debug!(?ended, "a raw connection ended");
        drop(held);
    });
    let head = [(header::UPGRADE, RAW), (header::CONNECTION, "upgrade")];
    (StatusCode::SWITCHING_PROTOCOLS, head).into_response()
}

/// Joins a client with `pipe`, which gets first what the client said already.
async fn join(mut client: UnixStream, said: &[u8], pipe: &mut Pipe) -> io::Result<()> {
    pipe.write_all(said).await?;
    splice(&mut client, pipe, RAW_BYTES).await
}

async fn image_import(
    State(app): App_,
    lasting: Extension<Lasting>,
    Body_(import): Body_<api::ImageImport>,
) -> Response {
    steps(lasting.take(), |telling| async move { app.image_import(import, telling).await })
}

async fn image_pull(
    State(app): App_,
    lasting: Extension<Lasting>,
    Body_(pull): Body_<api::ImagePull>,
) -> Response {
    steps(lasting.take(), |telling| async move { app.image_pull(pull, telling).await })
}

/// Answers the facts after `since`, one JSON line each; goes on with `follow`.
async fn events(State(app): App_, lasting: Extension<Lasting>, Query(wanted): Query<Since>) -> Response {
    let place = wanted.follow.then(|| lasting.take()).transpose();
    place.map_or_else(refusal, |follows| events_body(app.facts().clone(), wanted.since.unwrap_or(0), follows))
}
