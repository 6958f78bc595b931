//! The mesh as people see it: status, hosts, tokens.

use std::time::Duration;

use proto::{
    id::Name,
    level::Feature,
    names::sites,
    picture::{health, level, rows},
    trust::{ClockError, GrantState, May, TokenError},
    wire::api::{self, Error, Kind, MemberState},
};

use super::{ApiResult, App};
use crate::{
    doctor,
    host::{holder::holder, internals, words::words},
    machine::Qemu,
};

/// How long a member that joins again is waited for; it is tried on afterwards.
const MEET_WITHIN: Duration = Duration::from_secs(8);

impl App {
    /// Tells who this host is, who else is there, and which sessions it knows.
    pub async fn status(&self) -> ApiResult<api::Status> {
        let mesh = &self.inner.mesh;
        let picture = self.picture();
        let hosts = rows::hosts(&picture);
        let out = self.out_rows();
        let accelerator = self.inner.qemu.borrow().usable().map(|facts| facts.accelerator);
        let member = |row: &api::HostRow| api::Member {
            id: row.id,
            name: row.name.clone(),
            state: row.state,
            path: row.path.clone(),
        };
        let interface = self.inner.interface.borrow().name.clone();
        Ok(api::Status {
            mesh: api::MeshRef { id: mesh.mesh_id(), name: self.mesh_name() },
            host: api::ThisHost {
                id: mesh.me(),
                name: mesh.name().to_string(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                accelerator,
                up_s: self.inner.started.elapsed().as_secs(),
                relay: mesh.relay().map(|offer| offer.url),
            },
            dns: self.inner.served.dns.map(|address| address.to_string()),
            browser: self.inner.served.browser.map(|port| format!("http://{}:{port}/", sites::DOMAIN)),
            socks: self.inner.served.socks.map(|address| address.to_string()),
            interface,
            members: hosts.iter().chain(&out).map(member).collect(),
            sessions: self.session_rows(),
            warnings: self.warnings(&hosts),
            health: self.health().await,
            level: level::mesh_level(&picture),
            below: level::behind(&picture),
        })
    }

    pub(super) fn mesh_name(&self) -> String {
        self.inner.mesh.mesh_name().map_or_else(|| "?".to_owned(), |name| name.to_string())
    }

    fn warnings(&self, hosts: &[api::HostRow]) -> Vec<api::Warning> {
        let mut warnings = Vec::new();
        if let Qemu::Unusable(because) = &*self.inner.qemu.borrow() {
            let what = format!("this host runs no machines: {because}");
            warnings.push(api::Warning { what, next: Some("agent doctor".to_owned()) });
        }
        if let Some(what) = self.no_names() {
            warnings.push(api::Warning { what, next: Some("agent doctor".to_owned()) });
        }
        let notes = self.inner.interface.borrow().notes.clone().into_iter();
        warnings.extend(notes.map(|(what, next)| api::Warning { what, next }));
        warnings.extend(health::single_issuer(hosts));
        if let Some(what) = self.clock_off() {
            warnings.push(api::Warning { what, next: Some(doctor::MEND_CLOCK.to_owned()) });
        }
        warnings.extend(health::warnings(&self.picture(), hosts));
        warnings.extend(self.lost_sessions());
        warnings
    }

    /// Warns of sessions that nobody can change any more, because the hosts that stored them are out of the mesh.
    fn lost_sessions(&self) -> Vec<api::Warning> {
        let (picture, sessions) = (self.picture(), &self.inner.sessions);
        let lost = picture.shares.values().filter(|share| sessions.lost(share.session));
        let warning = |name: &Name| api::Warning {
            what: format!("{name} can only be ended: the hosts that stored its state are out of the mesh"),
            next: Some(format!("agent session down {name}")),
        };
        lost.map(|share| warning(&share.name)).collect()
    }

    /// Says who has the only port that names may be served on, if they are not.
    fn no_names(&self) -> Option<String> {
        let served = self.inner.served;
        let port = served.dns_wanted.filter(|_| served.dns.is_none())?;
        let by = holder(port).unwrap_or_else(|| "somebody".to_owned());
        Some(format!("names are not served here: port {port} is taken by {by}"))
    }

    /// Says how far this host's clock is off, if it is.
    fn clock_off(&self) -> Option<String> {
        let off = |ms: u64| crate::cli::span(ms / 1000);
        Some(match self.inner.mesh.clock_error()? {
            ClockError::Ahead(ms) => format!("this host's clock is {} ahead of the mesh", off(ms)),
            ClockError::Behind(ms) => format!("this host's clock is {} behind the mesh", off(ms)),
        })
    }

    /// Tells every member with what it offers.
    pub async fn hosts(&self) -> ApiResult<api::Hosts> {
        let mut hosts = rows::hosts(&self.picture());
        hosts.extend(self.out_rows());
        Ok(api::Hosts { hosts })
    }

    /// Takes a token of this host's own mesh: where its members are. Another mesh's token is refused, because a
    /// running agent is in a mesh already.
    pub async fn join(&self, request: api::JoinRequest) -> ApiResult<api::Joined> {
        let mesh = &self.inner.mesh;
        let refused = |error: mesh::MeetError| {
            let named = request.name.as_ref().map_or(String::new(), |name| format!(" as {name}"));
            let next = match &error {
                mesh::MeetError::OtherMesh { .. } => {
                    "use another data directory: agent join TOKEN --data-dir DIR"
                }
                _ => "ask for a new one: agent token create",
            };
            Error::new(Kind::Refused, format!("this host did not join{named}"))
                .because(words(&error))
                .next(next)
        };
        let token = request.token.parse().map_err(|error: TokenError| refused(error.into()))?;
        let met = mesh.meet(&token, MEET_WITHIN).await.map_err(refused)?;
        let names = |names: Vec<Name>| names.iter().map(Name::to_string).collect();
        Ok(api::Joined {
            mesh: api::MeshRef { id: mesh.mesh_id(), name: self.mesh_name() },
            host: api::HostRef { id: mesh.me(), name: mesh.name().to_string() },
            by: None,
            again: Some(api::Again { tried: true, reached: names(met.reached), silent: names(met.silent) }),
        })
    }

    /// Tells every grant.
    pub async fn tokens(&self) -> ApiResult<api::Tokens> {
        let row = |token: mesh::TokenView| api::TokenRow {
            id: token.id,
            issuer: None,
            expires: token.expires.to_string(),
            uses: u64::from(token.max_uses),
            used: u64::from(token.uses),
            admin: token.admin,
            capabilities: token.may.list(),
            state: match token.state {
                GrantState::Live { .. } => "live",
                GrantState::NotYet => "not-yet",
                GrantState::Expired => "expired",
                GrantState::Revoked => "revoked",
                GrantState::UsedUp => "used-up",
                GrantState::Unknown => "unknown",
            }
            .to_owned(),
        };
        Ok(api::Tokens { tokens: self.inner.mesh.tokens().into_iter().map(row).collect() })
    }

    /// Makes a token; refused on a host that is no issuer, naming the issuers.
    pub async fn token_create(&self, create: api::TokenCreate) -> ApiResult<api::TokenCreated> {
        if create.expires_s == 0 || create.uses == 0 {
            return Err(Error::new(Kind::Usage, "no token was made")
                .because("nobody could use it")
                .next("agent token create --expires 7d --uses 100"));
        }
        let expires_ms = create.expires_s.saturating_mul(1000);
        let may = create.can.map_or(May::ALL, May::only);
        self.check_limits(may)?;
        let wanted = mesh::TokenWish { expires_ms, uses: create.uses, admin: create.admin, may };
        let made = match self.inner.mesh.token_create(wanted).await {
            Ok(made) => made,
            Err(mesh::TokensError::Said(error @ mesh::SayError::Store(_))) => {
                return Err(self.not_said("no token was made", &error).await);
            }
            Err(error) => return Err(self.no_token(&error)),
        };
        Ok(api::TokenCreated {
            id: made.id,
            token: made.text,
            expires: made.expires.to_string(),
            uses: u64::from(create.uses),
            addresses: made.kinds.into_iter().map(str::to_owned).collect(),
        })
    }

    /// Refuses limits while somebody would not keep to them.
    fn check_limits(&self, may: May) -> ApiResult<()> {
        let picture = self.picture();
        if !may.is_limited() || level::mesh_level(&picture).allows(Feature::Limits) {
            return Ok(());
        }
        let older = level::below(&picture, Feature::Limits.since());
        let older: Vec<&str> = older.iter().map(|host| host.host.as_str()).collect();
        let because = format!("an older version runs on {}, which keeps to no limits", older.join(", "));
        let next = "upgrade these hosts, or make the token without --can";
        Err(Error::new(Kind::Refused, "no token was made").because(because).next(next))
    }

    fn no_token(&self, error: &mesh::TokensError) -> Error {
        let picture = self.picture();
        let issuers: Vec<&str> =
            picture.members.values().filter(|member| member.issuer).map(|m| m.name.as_str()).collect();
        Error::new(Kind::Refused, "no token was made")
            .because(words(error))
            .next(format!("on {}: agent token create", issuers.join(" or ")))
    }

    /// Revokes a grant, by id or a unique beginning of it.
    pub async fn token_revoke(&self, token: api::Named) -> ApiResult<api::Named> {
        let rows = self.inner.mesh.tokens();
        let found: Vec<_> = rows.iter().filter(|row| row.id.starts_with(&token.id)).collect();
        let [row] = found[..] else {
            let kind = if found.is_empty() { Kind::NotFound } else { Kind::Ambiguous };
            return Err(Error::new(kind, format!("{} tokens have the id {}", found.len(), token.id))
                .next("agent token list"));
        };
        let what = "the token was not revoked";
        match self.inner.mesh.token_revoke(&row.id) {
            Ok(()) => {}
            Err(mesh::TokensError::Said(error @ mesh::SayError::Store(_))) => {
                return Err(self.not_said(what, &error).await);
            }
            Err(error) => {
                return Err(Error::new(Kind::Refused, what).because(words(&error)).next("agent token list"));
            }
        }
        Ok(api::Named { id: row.id.clone() })
    }

    /// Tells what the agent and the shims of this host hold.
    pub async fn internals(&self) -> ApiResult<api::Internals> {
        let held = internals::look(&self.inner.data.sessions(), &self.inner.run).await;
        let held = held.map_err(|error| {
            Error::new(Kind::Failed, "what this agent holds cannot be counted").because(error)
        })?;
        let (here, others) = self.inner.net.counts();
        let all = std::iter::once((self.picture().me, here)).chain(others);
        let hosts = all.map(|(host, counts)| internals::host_flows(self.name(host), counts)).collect();
        Ok(api::Internals { hosts, ..held })
    }

    /// Tells what only the daemon can see: the proved accelerator, relays, bound ports.
    pub async fn doctor(&self) -> ApiResult<api::Checks> {
        let reach = self.inner.mesh.reach().borrow().clone();
        let hosts = rows::hosts(&self.picture());
        let qemu = self.inner.qemu.borrow().clone();
        let inside = doctor::Inside {
            qemu: qemu.usable().map(|facts| (facts.version.clone(), facts.accelerator, facts.no_kvm.clone())),
            no_qemu: if let Qemu::Unusable(because) = qemu { Some(because) } else { None },
            dns: self.inner.served.dns,
            no_names: self.no_names(),
            serves: self.inner.mesh.relay().map(|offer| offer.url),
            relays: reach.relays,
            down: hosts
                .iter()
                .filter(|row| row.state == MemberState::Down)
                .map(|row| row.name.clone())
                .collect(),
            members: hosts.len(),
            clock_off: self.clock_off(),
        };
        Ok(api::Checks { checks: doctor::judge(&inside) })
    }
}
