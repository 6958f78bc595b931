//! What hosts publish: this host's own wish, and where this host reaches what others publish.

use std::time::Duration;

use proto::{
    picture::{Change, Picture},
    wire::api::{self, Error, Kind},
};

use super::{ApiResult, App};
use crate::{access::published::PublishError, host::words::words};

/// How long it is waited for that this host's record says it: one turn of the task that writes it.
const TOLD: Duration = Duration::from_secs(5);

impl App {
    /// Publishes a program of this host.
    pub async fn service_publish(&self, wanted: api::ServicePublish) -> ApiResult<api::ServicePublished> {
        let api::ServicePublish { name, port } = wanted;
        if port == 0 {
            return Err(
                Error::new(Kind::Usage, "port 0 is no port").next("agent service publish NAME --port 8080")
            );
        }
        self.inner.publisher.publish(name.clone(), port).map_err(|error| not_kept(&error))?;
        self.told().await;
        let host = self.name(self.inner.mesh.me());
        Ok(api::ServicePublished { fqdn: self.published_name(name.as_str(), &host), port })
    }

    /// Takes back what this host published.
    pub async fn service_unpublish(
        &self,
        wanted: api::ServiceUnpublish,
    ) -> ApiResult<api::ServiceUnpublished> {
        let unpublished = self.inner.publisher.unpublish(&wanted.name).map_err(|error| not_kept(&error))?;
        self.told().await;
        Ok(api::ServiceUnpublished { unpublished })
    }

    /// Lists what members publish. What is shown as an address listens.
    pub(super) async fn published_rows(&self) -> Vec<api::PublishedRow> {
        let picture = self.picture();
        let mut rows = Vec::new();
        for (id, member) in picture.members.iter() {
            let Some(record) = picture.host_record(*id) else { continue };
            let ports: Vec<u16> = record.published().map(|(_, port)| port).collect();
            if *id != picture.me
                && let Err(error) = self.inner.forwards.open(*id, ports).await
            {
                tracing::warn!(host = %member.name, %error, "nothing listens here for what it publishes");
            }
            for (name, port) in record.published() {
                let here = match *id == picture.me {
                    true => Some(([127, 0, 0, 1].into(), port)),
                    false => self.inner.forwards.listening(*id, port).map(|here| (*here.ip(), here.port())),
                };
                rows.push(api::PublishedRow {
                    name: name.to_string(),
                    host: member.name.to_string(),
                    port,
                    fqdn: self.published_name(name.as_str(), member.name.as_str()),
                    address_here: here.map(|(address, _): (std::net::Ipv4Addr, u16)| address.to_string()),
                    port_here: here.map(|(_, port)| port),
                });
            }
        }
        rows
    }

    fn published_name(&self, service: &str, host: &str) -> String {
        format!("{service}.{host}.host.{}", self.inner.zone)
    }

    /// Waits until this host's record says what is published: from then on others hear it.
    async fn told(&self) {
        let (me, wanted) = (self.inner.mesh.me(), self.inner.publisher.watch());
        let says = |picture: &Picture| {
            picture.host_record(me).is_some_and(|record| record.published == **wanted.borrow())
        };
        self.inner.pictures.until(move |change| *change == Change::Host(me), TOLD, says).await;
    }
}

fn not_kept(error: &PublishError) -> Error {
    let (kind, next) = match error {
        PublishError::Full => (Kind::Refused, "agent service unpublish NAME"),
        PublishError::Unreadable { .. } | PublishError::Io(_) => (Kind::Failed, "agent doctor"),
    };
    Error::new(kind, "nothing was changed in what this host publishes").because(words(error)).next(next)
}
