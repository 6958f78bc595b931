//! Who belongs to the mesh and what they may: putting hosts out, leaving, other names, issuers.

use mesh::RightsError;
use proto::{
    id::{HostId, Name},
    level::Feature,
    picture::loss,
    trust::OutBecause,
    wire::api::{self, Error, Kind, MemberState},
};

use super::{ApiResult, App};
use crate::{daemon, host::words::words, machine::halt};

/// How long hosts that are out are shown; somebody who looks for one that was lost finds it.
const SHOWN_MS: u64 = 30 * 24 * 60 * 60 * 1000;

impl App {
    /// Lists the hosts that are out, but for those whose name another one has by now.
    pub(super) fn out_rows(&self) -> Vec<api::HostRow> {
        let (members, now) = (self.inner.mesh.members().borrow().clone(), self.inner.mesh.now());
        let is_shown = |out: &&mesh::Out| {
            now.since_ms(out.since) < SHOWN_MS
                && !members.hosts.values().any(|member| Some(&member.name) == out.name.as_ref())
        };
        let row = |out: &mesh::Out| {
            let name = out.name.as_ref().map_or_else(|| out.host.short(), Name::to_string);
            let state = match out.because {
                OutBecause::Evicted => MemberState::Evicted,
                OutBecause::Removed | OutBecause::Left => MemberState::Left,
            };
            api::HostRow::bare(out.host, name, state)
        };
        members.out.values().filter(is_shown).map(row).collect()
    }

    /// Tells what the mesh loses with a host; this one unless another is named.
    pub async fn host_loss(&self, of: Option<String>) -> ApiResult<api::HostLoss> {
        let of = of.unwrap_or_else(|| self.inner.mesh.name().to_string());
        let (host, member) = self.meant(&of)?;
        let picture = self.picture();
        let is_older = |member: &&proto::picture::Member| {
            member.level.is_some_and(|level| !level.allows(Feature::Evict))
        };
        let older = picture.members.values().filter(is_older).map(|member| member.name.to_string());
        let published = picture.host_record(host).map(|record| record.published.keys());
        let issuers = picture.members.values().filter(|member| member.issuer).count();
        Ok(api::HostLoss {
            host: member.name.to_string(),
            state: member.state,
            here: host == picture.me,
            sessions: loss::sessions(&picture, host),
            published: published.into_iter().flatten().map(Name::to_string).collect(),
            tokens: self.inner.mesh.tokens_of(host),
            last_issuer: member.issuer && issuers == 1,
            older: older.collect(),
        })
    }

    /// Puts a host out of the mesh for good.
    pub async fn host_out(&self, out: api::HostPutOut) -> ApiResult<api::HostOut> {
        let (host, member) = self.meant(&out.host)?;
        let (verb, reason) = match out.evict {
            true => ("evict", OutBecause::Evicted),
            false => ("remove", OutBecause::Removed),
        };
        let what = format!("{} stays a host of the mesh", member.name);
        if !out.evict && member.is_up() {
            return Err(Error::new(Kind::Refused, what)
                .because("it is up; only a host that is gone for good is removed")
                .next(format!(
                    "on {0}: agent leave    or to cut it off: agent host evict {0}",
                    member.name
                )));
        }
        let lost = loss::sessions(&self.picture(), host);
        let fallen: Vec<&str> =
            lost.iter().filter(|session| !session.stands).map(|session| &*session.session).collect();
        if out.evict && !out.now && !fallen.is_empty() {
            return Err(Error::new(Kind::Refused, what)
                .because(format!("without its vote no majority is left of {}", fallen.join(", ")))
                .next(format!(
                    "agent session down {}    or agent host evict {} --now",
                    fallen[0], member.name
                )));
        }
        match self.inner.mesh.put_out(host, reason) {
            Ok(dead) => Ok(api::HostOut { host: self.reference(host, &member.name), tokens: dead.tokens }),
            Err(error) => {
                Err(self.no_right(&what, &error, &format!("agent host {verb} {}", member.name)).await)
            }
        }
    }

    /// Gives a host another name.
    pub async fn host_rename(&self, rename: api::HostRename) -> ApiResult<api::HostRef> {
        let (host, member) = self.meant(&rename.host)?;
        let what = format!("{} keeps its name", member.name);
        match self.inner.mesh.rename(host, rename.name.clone()) {
            Ok(()) => Ok(self.reference(host, &rename.name)),
            Err(error) => {
                let again = format!("agent host rename {} {}", member.name, rename.name);
                Err(self.no_right(&what, &error, &again).await)
            }
        }
    }

    /// Makes a host an issuer, or a plain member again.
    pub async fn host_issuer(&self, issuer: api::HostIssuer) -> ApiResult<api::HostRef> {
        let (host, member) = self.meant(&issuer.host)?;
        let (what, verb) = match issuer.issuer {
            true => (format!("{} is not promoted", member.name), "promote"),
            false => (format!("{} is not demoted", member.name), "demote"),
        };
        match self.inner.mesh.set_issuer(host, issuer.issuer) {
            Ok(()) => Ok(self.reference(host, &member.name)),
            Err(error) => {
                Err(self.no_right(&what, &error, &format!("agent host {verb} {}", member.name)).await)
            }
        }
    }

    /// Takes the mesh's root key back.
    pub async fn restore(&self, request: api::RestoreRequest) -> ApiResult<api::Restored> {
        let mesh = &self.inner.mesh;
        match mesh.restore(&request.recovery) {
            Ok(()) => Ok(api::Restored {
                mesh: api::MeshRef { id: mesh.mesh_id(), name: self.mesh_name() },
                host: self.reference(mesh.me(), &mesh.name()),
                others: mesh.members().borrow().hosts.len().saturating_sub(1) as u64,
            }),
            Err(mesh::RestoreError::Rights(RightsError::Said(said @ mesh::SayError::Store(_)))) => {
                Err(self.not_said("the root key is not restored", &said).await)
            }
            Err(error) => Err(daemon::not_restored(&error)),
        }
    }

    /// Takes this host out of the mesh, and ends its agent once others have heard of it.
    pub async fn leave(&self) -> ApiResult<api::Left> {
        let name = self.inner.mesh.name();
        // First of all: what others start in their place must not run twice.
        self.inner.sessions.leave(true);
        for left in halt::all(&self.inner.data.sessions(), &self.inner.run).await {
            tracing::warn!(left, "a machine may still run");
        }
        let unheard = match self.inner.mesh.leave().await {
            Ok(unheard) => unheard,
            Err(error) => {
                self.inner.sessions.leave(false);
                return Err(self.no_right("this host did not leave", &error, "agent leave").await);
            }
        };
        self.inner.end.cancel();
        Ok(api::Left {
            mesh: api::MeshRef { id: self.inner.mesh.mesh_id(), name: self.mesh_name() },
            host: self.reference(self.inner.mesh.me(), &name),
            unheard: unheard.iter().map(Name::to_string).collect(),
        })
    }

    fn reference(&self, id: HostId, name: &Name) -> api::HostRef {
        api::HostRef { id, name: name.to_string() }
    }

    /// Finds a member by its name, or by its id as lists print it.
    fn meant(&self, of: &str) -> ApiResult<(HostId, proto::picture::Member)> {
        let by_id = || {
            let picture = self.picture();
            let found = picture.members.iter().find(|(id, _)| id.to_string() == of || id.short() == of);
            found.map(|(id, member)| (*id, member.clone()))
        };
        self.member(of).or_else(|because| by_id().ok_or(because)).map_err(|because| {
            let error = Error::new(Kind::NotFound, format!("there is no host {of}")).next("agent host list");
            because.into_iter().fold(error, Error::because)
        })
    }

    async fn no_right(&self, what: &str, error: &RightsError, again: &str) -> Error {
        let on = |names: &[Name]| names.iter().map(Name::as_str).collect::<Vec<_>>().join(" or ");
        let refused = Error::new(Kind::Refused, what).because(words(error));
        match error {
            RightsError::Said(said @ mesh::SayError::Store(_)) => self.not_said(what, said).await,
            RightsError::NotIssuer(names) => refused.next(format!("on {}: {again}", on(names))),
            RightsError::NoRoot(names) if names.is_empty() => {
                refused.next("agent init --restore    with the recovery phrase, on any host of the mesh")
            }
            RightsError::NoRoot(names) => refused.next(format!("on {}: {again}", on(names))),
            RightsError::Itself => refused.next("agent leave"),
            _ => refused.next("agent host list"),
        }
    }
}
