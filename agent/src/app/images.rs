//! Images as people name them. Import and pull end when every member that is up knows the name, so
//! that a session can be planned on any of them.

use std::{collections::BTreeSet, path::Path, time::Duration};

use proto::{
    id::{Digest, hex},
    picture::{Change, Picture, acks, images as known, rows},
    trust::Capability,
    wire::api::{self, Error, Kind},
};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{ApiResult, App, Telling};
use crate::host::words::words;

/// How long every member that is up may take to learn a name (DESIGN section 12).
const KNOWN_WITHIN: Duration = Duration::from_secs(10);
/// How long a removed image may still be listed; one turn of a task.
const UNLISTED_WITHIN: Duration = Duration::from_secs(3);

impl App {
    /// Tells every image the mesh knows.
    pub async fn images(&self) -> ApiResult<api::Images> {
        Ok(api::Images { images: rows::images(&self.picture()) })
    }

    /// Gathers what the name means elsewhere in the mesh, so that it is not given twice by accident.
    fn giving(&self, name: &str, replace: bool) -> images::Giving {
        let elsewhere = known::meanings(&self.picture()).get(name).copied();
        images::Giving { name: name.to_owned(), replace, elsewhere, now: self.inner.mesh.now() }
    }

    /// Takes a file of this host as an image; done when every up member knows its name.
    pub async fn image_import(&self, import: api::ImageImport, telling: Telling) -> ApiResult<api::ImageRow> {
        let what = format!("{} was not imported", import.path);
        self.must(Capability::Store, &what)?;
        let (progress, seen) = watch::channel(images::Progress::default());
        let _relay = AbortOnDropHandle::new(tokio::spawn(tell(seen, telling)));
        let giving = self.giving(&import.name, import.replace);
        let path = Path::new(&import.path);
        let done = self.inner.images.import(path, giving, std::env::consts::ARCH, &progress).await;
        let image = done.map_err(|error| image_error(what, &error))?;
        self.announce(&import.name, image.digest).await
    }

    /// Downloads an image; done when every up member knows its name.
    pub async fn image_pull(&self, pull: api::ImagePull, telling: Telling) -> ApiResult<api::ImageRow> {
        let what = format!("{} was not pulled", pull.url);
        self.must(Capability::Store, &what)?;
        let sha256 = hex::parse(&pull.sha256).map_err(|error| {
            Error::new(Kind::Usage, what.clone())
                .because(error)
                .next("copy the SHA-256 from where the image is published")
        })?;
        let (progress, seen) = watch::channel(images::Progress::default());
        let _relay = AbortOnDropHandle::new(tokio::spawn(tell(seen, telling)));
        let arch = std::env::consts::ARCH.to_owned();
        let download = images::Download { url: pull.url.clone(), sha256, arch };
        let giving = self.giving(&pull.name, pull.replace);
        let done = self.inner.images.pull(&download, giving, &progress).await;
        let image = done.map_err(|error| image_error(what, &error))?;
        self.announce(&pull.name, image.digest).await
    }

    /// Waits until every member that is up says that it knows the name.
    async fn announce(&self, name: &str, digest: Digest) -> ApiResult<api::ImageRow> {
        let of = move |change: &Change| {
            matches!(change, Change::Host(_) | Change::Seen(_)) || *change == Change::Image(digest)
        };
        let told = |picture: &Picture| acks::unaware_of_name(picture, name, digest).is_empty();
        self.inner.pictures.until(of, KNOWN_WITHIN, told).await;
        let picture = self.picture();
        let waiting = acks::unaware_of_name(&picture, name, digest);
        let mut rows = rows::images(&picture).into_iter();
        match rows.find(|row| row.digest == digest && row.name.as_deref() == Some(name)) {
            Some(row) if waiting.is_empty() => Ok(row),
            _ => {
                let names: Vec<String> = waiting.into_iter().map(|host| picture.name(host)).collect();
                let (names, within) = (names.join(", "), KNOWN_WITHIN.as_secs());
                Err(Error::new(Kind::TimedOut, format!("{name} is here, but not every host knows it yet"))
                    .because(format!("no word from {names} within {within} s"))
                    .next("agent image list"))
            }
        }
    }

    /// Removes an image from this host; refused while a machine uses it.
    pub async fn image_remove(&self, image: api::Named) -> ApiResult<api::Named> {
        let what = format!("{} was not removed", image.id);
        let rows = rows::images(&self.picture());
        let by_digest: Option<Digest> = image.id.parse().ok();
        let found = rows
            .iter()
            .find(|row| row.name.as_deref() == Some(image.id.as_str()) || by_digest == Some(row.digest));
        let found = found.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("there is no image {}", image.id)).next("agent image list")
        })?;
        let shares = self.picture().shares.clone();
        for share in shares.values() {
            if let Some(spec) = share.machines.iter().find(|spec| spec.image == found.digest) {
                return Err(Error::new(Kind::Refused, what)
                    .because(format!("{}/{} on this host runs on it", share.name, spec.machine))
                    .next(format!("agent session down {}", share.name)));
            }
        }
        let in_use = BTreeSet::new(); // looked at above, with the machine's name
        let removed = self.inner.images.remove(found.digest, &in_use).await;
        removed.map_err(|error| image_error(what, &error))?;
        // The list follows in a moment.
        let digest = found.digest;
        let of = move |change: &Change| *change == Change::Image(digest);
        self.inner.pictures.until(of, UNLISTED_WITHIN, |picture| !picture.images.contains_key(&digest)).await;
        Ok(image)
    }
}

/// Passes progress on until the work ends. A slow reader misses steps, not the end.
async fn tell(mut seen: watch::Receiver<images::Progress>, telling: Telling) {
    while seen.changed().await.is_ok() {
        let now = seen.borrow_and_update().clone();
        let stage = match now.step {
            images::Step::Waiting => "waiting".to_owned(),
            images::Step::Downloading => "downloading".to_owned(),
            images::Step::Converting => "converting".to_owned(),
            images::Step::Copying => "copying".to_owned(),
            images::Step::Checking => "checking".to_owned(),
            images::Step::Fetching(host) => format!("fetching from {host}"),
        };
        let step = api::Progress { stage, done: now.done, total: now.total };
        if telling.try_send(step).is_err() && telling.is_closed() {
            return;
        }
    }
}

fn image_error(what: String, error: &images::ImageError) -> Error {
    let (kind, next) = match error {
        images::ImageError::NameTaken { .. } => (Kind::Refused, "choose another name, or add --replace"),
        images::ImageError::Name(_) => (Kind::Usage, "give it a name such as tiny or debian:12"),
        images::ImageError::DiskFull | images::ImageError::NoRoom { .. } => {
            (Kind::Failed, "agent image list    then agent image remove NAME")
        }
        images::ImageError::MayNotGrow => (Kind::Failed, "ulimit -f unlimited    before agent run"),
        _ => (Kind::Failed, "agent image list"),
    };
    Error::new(kind, what).because(words(error)).next(next)
}
