//! Machines as people use them: lists, wishes, ssh, consoles.

use std::time::Duration;

use mesh::net::ForwardError;
use proto::{
    id::{HostId, MachineName, Name, SessionId},
    picture::{Change, Picture, rows},
    seal::Seed,
    session::{MachineEntry, Mandate, Phase, Share, slice},
    trust::Capability,
    wire::{
        api::{self, Error, Kind},
        rpc::{Answer, Refusal, Request},
    },
};
use tokio::time::{Instant, sleep};

use super::{ApiResult, App, Pipe, refused, sessions::unexpected};
use crate::session::nic;

/// How long `machine stop` waits for the host to say that it stops: a share there, a record back.
const WISH_SHOWN: Duration = Duration::from_secs(3);
/// A machine answers on the network before its programs listen: until when a port that refuses is tried again.
const LISTENS_WITHIN: Duration = Duration::from_secs(5);
const DIAL_AGAIN: Duration = Duration::from_millis(200);

impl App {
    /// Tells every machine of every session.
    pub async fn machines(&self) -> ApiResult<api::Machines> {
        let picture = self.picture();
        let rows = picture.shares.values().flat_map(|share| rows::machines(&picture, share));
        Ok(api::Machines { machines: rows.collect() })
    }

    fn find(
        &self,
        session: SessionId,
        machine: &MachineName,
    ) -> ApiResult<(std::sync::Arc<Share>, MachineEntry)> {
        let missing = || {
            Error::new(Kind::NotFound, format!("there is no machine {machine}")).next("agent machine list")
        };
        let share = self.picture().share(session).cloned().ok_or_else(missing)?;
        let group = share.directory.groups.get(&machine.group).ok_or_else(missing)?;
        let entry =
            group.machines.iter().find(|entry| entry.machine == *machine).cloned().ok_or_else(missing)?;
        Ok((share, entry))
    }

    /// Commits whether a machine shall run: `machine start` and `machine stop`.
    pub async fn wish(
        &self,
        session: SessionId,
        machine: MachineName,
        run: bool,
    ) -> ApiResult<api::MachineRow> {
        let what = format!("{machine} was not {}", if run { "started" } else { "stopped" });
        let before = self.row(session, &machine)?;
        let wanted = |share: &Share| Mandate::wish(share, &machine, run);
        let request = |mandate| Request::Wish { session, machine: machine.clone(), run, mandate };
        match self.inner.sessions.decide(session, wanted, request).await {
            Ok(Answer::Done) => {}
            Ok(answer) => return Err(unexpected(&what, &answer)),
            Err(refusal) => return Err(refused(what, refusal)),
        }
        // Its host hears of it in a moment; until then the row would show what was before.
        let done = |row: &api::MachineRow| (row.state == Phase::Stopped) != run || *row != before;
        let of = move |change: &Change| *change == Change::Session(session);
        let shown = |_: &Picture| self.row(session, &machine).is_ok_and(|row| done(&row));
        self.inner.pictures.until(of, WISH_SHOWN, shown).await;
        let row = self.row(session, &machine)?;
        if done(&row) { Ok(row) } else { Err(self.not_yet(&row, &what).await) }
    }

    /// Says that a wish is committed and nothing came of it so far.
    async fn not_yet(&self, row: &api::MachineRow, what: &str) -> Error {
        let host = row.host.as_deref().unwrap_or("its host");
        let troubles = self.troubles([host].into_iter()).await;
        let because = match &troubles[..] {
            [] => format!("{host} has not acted on it in {} s", WISH_SHOWN.as_secs()),
            known => known.join("; "),
        };
        Error::new(Kind::TimedOut, format!("{what} yet; it goes on"))
            .because(because)
            .next("agent machine list, and agent doctor on that host")
    }

    fn row(&self, session: SessionId, machine: &MachineName) -> ApiResult<api::MachineRow> {
        let (share, _) = self.find(session, machine)?;
        let rows = rows::machines(&self.picture(), &share);
        let row = rows.into_iter().find(|row| row.name == *machine);
        row.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no machine {machine}")))
    }

    /// Gives what ssh needs to enter a machine.
    pub async fn ssh_access(&self, session: SessionId, machine: MachineName) -> ApiResult<api::SshAccess> {
        let (share, entry) = self.find(session, &machine)?;
        self.must(Capability::Operate, &format!("{}/{machine} was not entered", share.name))?;
        let what = format!("{}/{machine} was not entered", share.name);
        let request = Request::LoginKeys { session, machine: machine.clone() };
        let own = match self.of_its_host(&what, entry.host, request).await {
            Ok(Answer::LoginKeys { own }) => own,
            // Its agent is of a version whose machines have no keys of their own.
            Ok(Answer::Refused(Refusal::Unknown)) => None,
            Ok(Answer::Refused(refusal)) => return Err(refused(what, refusal)),
            Ok(answer) => return Err(unexpected(&what, &answer)),
            Err(error) => return Err(error),
        };
        let shared = slice::host_key_seed(&share.ssh_seed, &machine);
        let host_key = own.map_or_else(|| Seed(shared).public(), |own| own.host);
        Ok(api::SshAccess {
            session: share.name.to_string(),
            session_id: session,
            user: entry.user.as_ref().map_or_else(|| "root".to_owned(), Name::to_string),
            port: 22,
            login_key: own.map(|own| slice::public_line(&own.login, share.name.as_str())),
            seed: own.is_none().then(|| data_encoding::HEXLOWER.encode(&share.ssh_seed)),
            host_key: slice::public_line(&host_key, &machine.to_string()),
            machine,
        })
    }

    /// Lets a machine's host sign what the machine's ssh server asks.
    pub async fn login(&self, request: api::LoginRequest) -> ApiResult<api::LoginAnswer> {
        let api::LoginRequest { session_id: session, machine, question } = request;
        let (share, entry) = self.find(session, &machine)?;
        let what = format!("{}/{machine} was not entered", share.name);
        let question = data_encoding::BASE64
            .decode(question.as_bytes())
            .map_err(|error| Error::new(Kind::Usage, "the request cannot be read").because(error))?;
        let request = Request::Login { session, machine, question };
        match self.of_its_host(&what, entry.host, request).await? {
            Answer::Login(signature) => Ok(api::LoginAnswer { signature }),
            Answer::Refused(refusal) => Err(refused(what, refusal)),
            answer => Err(unexpected(&what, &answer)),
        }
    }

    /// Asks the host of a machine.
    async fn of_its_host(&self, what: &str, host: HostId, request: Request) -> ApiResult<Answer> {
        self.inner.sessions.ask_host(host, request).await.map_err(|error| {
            Error::new(Kind::Unreachable, what)
                .because(format!("{}, where it is, does not answer: {error}", self.name(host)))
                .next(format!("agent net ping {}", self.name(host)))
        })
    }

    /// Connects to a TCP port of a machine, wherever it runs. One that refuses has until [`LISTENS_WITHIN`].
    pub async fn dial(&self, session: SessionId, machine: MachineName, port: u16) -> ApiResult<Pipe> {
        let (share, entry) = self.find(session, &machine)?;
        self.must(Capability::Operate, &format!("{}/{machine} was not reached on port {port}", share.name))?;
        let listens = Instant::now() + LISTENS_WITHIN;
        let dialled = loop {
            match self.inner.net.dial(session, &machine, port).await {
                Err(ForwardError::Refused { .. }) if Instant::now() < listens => sleep(DIAL_AGAIN).await,
                dialled => break dialled,
            }
        };
        let stream = dialled.map_err(|error| {
            Error::new(Kind::Failed, format!("{}/{machine} was not reached on port {port}", share.name))
                .because(format!("on {}: {error}", self.name(entry.host)))
                .next("agent machine list")
        })?;
        Ok(Box::new(stream))
    }

    /// Opens a machine's serial console, wherever it runs: what it said, then live.
    pub async fn console(&self, session: SessionId, machine: MachineName) -> ApiResult<Pipe> {
        let (share, entry) = self.find(session, &machine)?;
        self.must(Capability::Operate, &format!("the console of {}/{machine} was not opened", share.name))?;
        let opened = self.inner.net.dial(session, &machine, nic::CONSOLE_PORT).await;
        let console = opened.map_err(|error| {
            Error::new(Kind::Failed, format!("the console of {}/{machine} was not opened", share.name))
                .because(format!("on {}: {error}", self.name(entry.host)))
                .next("agent machine list")
        })?;
        Ok(Box::new(console))
    }
}
