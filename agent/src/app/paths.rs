//! The ways to other hosts: which there are, and one question to a host with the time that its answer took.

use std::time::{Duration, Instant};

use proto::{
    id::HostId,
    picture::{Member, rows},
    wire::{
        api::{self, Error, Kind},
        rpc::Request,
    },
};

use super::{ApiResult, App};
use crate::{host::words::words, picture::way};

/// How long an answer is waited for: a relay around the world, and a packet lost on the way.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

impl App {
    /// Tells how every other member is reached now.
    pub fn paths(&self) -> ApiResult<api::Paths> {
        let picture = self.picture();
        let others = picture.members.iter().filter(|(id, _)| **id != picture.me);
        let mut paths: Vec<_> = others.map(|(id, member)| self.path_row(*id, member)).collect();
        paths.sort_by(|a, b| a.host.cmp(&b.host));
        Ok(api::Paths { paths })
    }

    /// Asks a host's agent once, and takes the time.
    pub async fn ping(&self, name: &str) -> ApiResult<api::Pinged> {
        let (id, member) = self.member(name).map_err(|meant| {
            let missing =
                Error::new(Kind::NotFound, format!("no host is called {name}")).next("agent host list");
            Error { because: meant, ..missing }
        })?;
        if id == self.inner.mesh.me() {
            return Err(Error::new(Kind::Usage, format!("{name} is this host")).next("agent net paths"));
        }
        let start = Instant::now();
        let answer = self.inner.mesh.call(id, Request::Ping, ANSWER_WITHIN).await;
        let ms = start.elapsed().as_secs_f64() * 1000.0;
        match answer {
            // Whatever it says, it is there.
            Ok(_) => Ok(api::Pinged { ms, path: self.path_row(id, &member) }),
            Err(error) => Err(Error::new(Kind::Unreachable, format!("{name} does not answer"))
                .because(words(&error))
                .next("agent net paths")),
        }
    }

    /// Asks the connection itself: the picture is a moment behind.
    fn path_row(&self, id: HostId, member: &Member) -> api::PathRow {
        rows::path(member, self.inner.mesh.path(id).map(|(path, owner)| way(path, owner)))
    }
}
