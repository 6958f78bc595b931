//! `agent image`: disk content that the mesh knows.

use std::path::PathBuf;

use proto::wire::api::{Error, ImageImport, ImagePull, ImageRow, Images, Kind, Named, Progress, Step};

use super::{
    Cx, Done,
    error::{self, Exit},
    file,
    ui::{Ui, bytes, or_dash, table},
};
use crate::cli::client::Lines;

#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Take a raw or qcow2 file as an image
    ///
    /// Returns when every host that is up knows the name; the content travels when a host needs it.
    #[command(after_help = "Example:\n  agent image import tiny.raw --name tiny")]
    Import {
        /// The file, on this host
        path: PathBuf,
        /// What topologies call it, such as tiny or debian:12
        #[arg(long)]
        name: String,
        /// Take the name from other content that has it
        #[arg(long)]
        replace: bool,
    },
    /// Download an image and check it
    #[command(
        after_help = "Example:\n  agent image pull https://example.org/tiny.qcow2 --sha256 9f86d0... --name tiny"
    )]
    Pull {
        /// Where it is
        url: String,
        /// SHA-256 of the file there, 64 hex digits
        #[arg(long, value_name = "HEX", value_parser = sha256)]
        sha256: String,
        /// What topologies call it [default: the file's name without its ending]
        #[arg(long)]
        name: Option<String>,
        /// Take the name from other content that has it
        #[arg(long)]
        replace: bool,
    },
    /// List the images that the mesh knows
    #[command(after_help = "Example:\n  agent image list")]
    List,
    /// Remove an image from this host; refused while a machine here uses it
    #[command(after_help = "Example:\n  agent image remove tiny")]
    Remove {
        /// Its name, or blake3:HASH
        image: String,
    },
}

pub async fn run(cx: &Cx, verb: Verb) -> Done {
    match verb {
        Verb::Import { path, name, replace } => {
            // Opened here first, so that a wrong path is told in the words of this shell.
            file::open(&path)?;
            let path = std::path::absolute(&path).map_err(|error| error::unreadable(&path, &error))?;
            let path = path.into_os_string().into_string().map_err(|path| {
                Error::new(Kind::Usage, format!("{} is no UTF-8", PathBuf::from(path).display()))
                    .next("rename the file")
            })?;
            let import = ImageImport { path, name, replace };
            let lines = cx.client.post_lines("/v1/image/import", &import).await?;
            return end(cx, lines, "nothing of it is kept").await;
        }
        Verb::Pull { url, sha256, name, replace } => {
            let name = name.or_else(|| name_of(&url)).ok_or_else(|| {
                Error::new(Kind::Usage, "the image needs a name")
                    .because("the URL ends without one")
                    .next(format!("agent image pull {url} --sha256 {sha256} --name tiny"))
            })?;
            let pull = ImagePull { url, sha256, name, replace };
            let lines = cx.client.post_lines("/v1/image/pull", &pull).await?;
            return end(cx, lines, "the same command goes on with what is here").await;
        }
        Verb::List => {
            let images: Images = cx.client.get("/v1/images").await?;
            cx.ui.show(&images, in_words);
        }
        Verb::Remove { image } => {
            let removed: Named = cx.client.post("/v1/image/remove", &Named { id: image }).await?;
            cx.ui.show(&removed, |removed, _| format!("{} is removed from this host", removed.id));
        }
    }
    Ok(Exit::WELL)
}

/// Watches the work to its end. Ctrl-C stops it: the agent drops what nobody waits for.
async fn end(cx: &Cx, lines: Lines, kept: &str) -> Done {
    let image = tokio::select! {
        image = watch(&cx.ui, lines) => image?,
        _ = tokio::signal::ctrl_c() => {
            cx.ui.say(&format!("\nstopped; {kept}"));
            return Ok(Exit::INTERRUPTED);
        }
    };
    cx.ui.show(&image, |image, _| {
        let name = image.name.clone().unwrap_or_default();
        format!("{name}  {}  blake3:{}", bytes(image.size), image.digest)
    });
    Ok(Exit::WELL)
}

/// Shows the steps of a long request until its last line.
async fn watch(ui: &Ui, mut lines: Lines) -> Result<ImageRow, Error> {
    let moving = ui.moving();
    while let Some(line) = lines.next().await? {
        let step = serde_json::from_slice::<Step<ImageRow>>(&line).map_err(|error| {
            Error::new(Kind::Unreachable, "the agent's answer cannot be used").because(error)
        })?;
        match step {
            Step::Progress(progress) => moving.set(how_far(&progress)),
            Step::Done(image) => return Ok(image),
            Step::Error(error) => return Err(error),
        }
    }
    Err(Error::new(Kind::Unreachable, "the agent went away before the image was complete")
        .next("run the same command again: what is there already is kept"))
}

fn how_far(progress: &Progress) -> String {
    match progress.total.filter(|total| *total > 0) {
        Some(total) => {
            let percent = (u128::from(progress.done) * 100 / u128::from(total)).min(100);
            format!("{}: {percent} % of {}", progress.stage, bytes(total))
        }
        None => format!("{}: {}", progress.stage, bytes(progress.done)),
    }
}

pub(super) fn in_words(images: &Images, width: Option<u16>) -> String {
    let row = |image: &ImageRow| {
        vec![
            or_dash(image.name.as_ref()),
            image.digest.short(),
            bytes(image.size),
            or_dash(image.allocated.map(bytes)),
            image.arch.clone(),
            if image.here { "yes" } else { "no" }.to_owned(),
            or_dash(Some(image.hosts.join(", ")).filter(|hosts| !hosts.is_empty())),
        ]
    };
    table(
        &["IMAGE", "BLAKE3", "SIZE", "STORED", "ARCH", "HERE", "HOSTS"],
        images.images.iter().map(row),
        width,
    )
}

fn sha256(text: &str) -> Result<String, String> {
    let hex = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if hex { Ok(text.to_ascii_lowercase()) } else { Err("it must be 64 hex digits".to_owned()) }
}

/// Makes an image's name of the last part of a URL.
pub(super) fn name_of(url: &str) -> Option<String> {
    let path = url.split(['?', '#']).next()?;
    let (_, rest) = path.split_once("://")?;
    let (_, file) = rest.rsplit_once('/')?;
    let name = file
        .strip_suffix(".qcow2")
        .or(file.strip_suffix(".raw"))
        .or(file.strip_suffix(".img"))
        .unwrap_or(file);
    let name = name.to_ascii_lowercase();
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b));
    plain.then_some(name)
}
