//! `agent service`: where this host reaches what machines serve.

use proto::{
    id::Name,
    topology::Protocol,
    wire::api::{
        LanRow, PublishedRow, ServiceClosed, ServiceNamed, ServiceOpened, ServicePublish, ServicePublished,
        ServiceRow, ServiceUnpublish, ServiceUnpublished, Services,
    },
};

use super::{Cx, Done, error::Exit, forward, ui::table};

#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// List the services of all sessions and where this host reaches them
    #[command(after_help = "Example:\n  agent service list")]
    List,
    /// Listen for a service on this host from now on, and print its address
    ///
    /// Services listen on this host when somebody asks for their name, and for a day after their last
    /// use; this makes one listen until it is closed, also over restarts, for programs that cannot use
    /// this host's name server.
    #[command(
        after_help = "Example:\n  curl $(agent service open web.shop)\n  agent service open postgres.db.shop --json"
    )]
    Open {
        /// GROUP.SESSION, or SERVICE.GROUP.SESSION if there are several; a machine may stand for its group;
        /// SERVICE.HOST.host of what a host publishes
        service: String,
    },
    /// Listen for a service on this host no longer
    ///
    /// Connections that are open go on. The next query for its name opens it again, for a day.
    #[command(after_help = "Example:\n  agent service close postgres.db.shop")]
    Close {
        /// As `service open` takes it
        service: String,
    },
    Forward(forward::Args),
    /// Let every member reach a program of this host, by a name of its own
    ///
    /// The program listens on 127.0.0.1 alone; members reach it through the mesh, whatever router is
    /// between, as NAME.HOST.host.mesh.internal. It stays published, also over restarts, until
    /// `service unpublish`. On other hosts `service list` shows the port, where it is another one.
    #[command(after_help = "Example:\n  agent service publish files --port 8080")]
    Publish {
        /// What it is called
        name: Name,
        /// The port on which it listens on this host
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
    },
    /// Let nobody reach a program of this host any more
    ///
    /// Connections that are open go on.
    #[command(after_help = "Example:\n  agent service unpublish files")]
    Unpublish {
        /// What it was called
        name: Name,
    },
}

pub async fn run(cx: &Cx, verb: Verb) -> Done {
    match verb {
        Verb::List => {
            let services: Services = cx.client.get("/v1/services").await?;
            cx.ui.show(&services, |all, width| in_words(&all.services, &all.published, width));
        }
        Verb::Open { service } => {
            let opened: ServiceOpened = cx.client.post("/v1/service/open", &ServiceNamed { service }).await?;
            cx.ui.show(&opened, |opened, _| opened.url.clone());
        }
        Verb::Close { service } => {
            let closed: ServiceClosed =
                cx.client.post("/v1/service/close", &ServiceNamed { service }).await?;
            if !closed.closed {
                cx.ui.say("nothing listened for it on this host");
            }
            cx.ui.show(&closed, |_, _| String::new());
        }
        Verb::Forward(args) => return forward::run(cx, args).await,
        Verb::Publish { name, port } => {
            let wanted = ServicePublish { name, port };
            let published: ServicePublished = cx.client.post("/v1/service/publish", &wanted).await?;
            cx.ui.show(&published, |published, _| format!("{}:{}", published.fqdn, published.port));
        }
        Verb::Unpublish { name } => {
            let wanted = ServiceUnpublish { name };
            let done: ServiceUnpublished = cx.client.post("/v1/service/unpublish", &wanted).await?;
            if !done.unpublished {
                cx.ui.say("this host publishes nothing of that name");
            }
            cx.ui.show(&done, |_, _| String::new());
        }
    }
    Ok(Exit::WELL)
}

/// Lays services out.
pub fn in_words(services: &[ServiceRow], published: &[PublishedRow], width: Option<u16>) -> String {
    let listens = |address: &Option<String>, port: Option<u16>| {
        let here = address.as_ref().zip(port);
        here.map_or("on demand".to_owned(), |(address, port)| format!("{address}:{port}"))
    };
    let row = |service: &ServiceRow| {
        let here = listens(&service.address_here, service.port_here);
        let port = match service.protocol {
            Protocol::Tcp => service.port.to_string(),
            Protocol::Udp => format!("{}/udp", service.port),
        };
        vec![service.fqdn.clone(), service.name.clone(), port, here, behind(service)]
    };
    let publishes = |of: &PublishedRow| {
        let here = listens(&of.address_here, of.port_here);
        vec![of.fqdn.clone(), of.name.clone(), of.port.to_string(), here, format!("published by {}", of.host)]
    };
    let rows = services.iter().map(row).chain(published.iter().map(publishes));
    let listed = table(&["NAME", "SERVICE", "PORT", "HERE", "MACHINES"], rows, width);
    // On lines of their own, so that a terminal makes links of them.
    let browse = services.iter().filter_map(|service| Some(format!("browse: {}", service.url.as_ref()?)));
    let lan = services.iter().flat_map(|service| service.lan.iter().map(move |row| on_lan(service, row)));
    std::iter::once(listed).chain(browse).chain(lan).collect::<Vec<_>>().join("\n")
}

/// Tells where a service is published in the network of a host, or why it is not.
fn on_lan(service: &ServiceRow, row: &LanRow) -> String {
    let told = |what: &Option<String>, before: &str| {
        what.iter().map(|it| format!("{before}{it}")).collect::<String>()
    };
    let (url, because) = (told(&row.url, ", "), told(&row.because, ": "));
    let not = if row.url.is_none() && row.because.is_some() { "not " } else { "" };
    format!(
        "LAN: {}.{}.{} is {not}published at {}:{}{url}{because}",
        service.name, service.group, service.session, row.host, row.port
    )
}

/// Tells what is behind a service.
fn behind(service: &ServiceRow) -> String {
    let mut told = format!("{} of {} ready", service.ready, service.machines);
    for (count, what) in [(service.draining, "draining"), (service.refused, "connections refused")] {
        if count > 0 {
            told.push_str(&format!(", {count} {what}"));
        }
    }
    told
}
