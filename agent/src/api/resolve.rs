//! Finds what a person means by the name of a session, machine or service. Pure: a list and a text in, one
//! id or a refusal that names the candidates out.

use proto::{
    id::{MachineName, Name, SessionId},
    names::published::HOSTS,
    wire::api::{Error, Kind, MachineRow, SessionRow},
};

/// Finds a session by its label, its id, or a beginning of its id (4 digits and more).
pub fn find_session<'a>(sessions: &'a [SessionRow], text: &str) -> Result<&'a SessionRow, Error> {
    let named: Vec<_> = sessions.iter().filter(|session| session.name == text).collect();
    let found = if named.is_empty() && text.len() >= 4 {
        sessions.iter().filter(|session| session.id.to_string().starts_with(text)).collect()
    } else {
        named
    };
    match found[..] {
        [session] => Ok(session),
        [] => {
            let names: Vec<&str> = sessions.iter().map(|session| session.name.as_str()).collect();
            let error = Error::new(Kind::NotFound, format!("there is no session {text:?}"));
            Err(match names[..] {
                [] => error.because("this host knows no session").next("agent session up topology.toml"),
                _ => {
                    error.because(format!("this host knows {}", names.join(", "))).next("agent session list")
                }
            })
        }
        _ => {
            let ids: Vec<String> = found.iter().map(|session| session.id.to_string()).collect();
            Err(Error::new(Kind::Ambiguous, format!("{} sessions are called {text:?}", ids.len()))
                .because(format!("their ids are {}", ids.join(" and ")))
                .next("use the id in place of the name"))
        }
    }
}

/// Takes the zone off a name as lists print it: what they print is what every verb takes.
pub fn without_zone<'a>(text: &'a str, zone: &str) -> &'a str {
    let text = text.strip_suffix('.').unwrap_or(text);
    text.strip_suffix(zone).and_then(|text| text.strip_suffix('.')).unwrap_or(text)
}

/// How a service is spelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spelled {
    /// One of a group or machine; without a name the only one.
    OfLabel { session: String, label: String, service: Option<Name> },
    /// One that a host publishes.
    OfHost { host: String, service: Name },
}

/// Reads `GROUP.SESSION`, `SERVICE.GROUP.SESSION` or `SERVICE.HOST.host`, with the zone behind it or without;
/// `GROUP.SESSION/SERVICE`; `SESSION/MACHINE` and `SESSION/MACHINE/SERVICE`. A machine stands where a group does.
pub fn spelled(text: &str, zone: &str) -> Result<Spelled, Error> {
    let wrong = |because: &str| {
        Error::new(Kind::Usage, format!("{text:?} names no service"))
            .because(because)
            .next("write GROUP.SESSION, SERVICE.GROUP.SESSION or SERVICE.HOST.host: agent service list")
    };
    let name = |label: &str| label.parse::<Name>().map_err(|error| wrong(&error.to_string()));
    let of_label = |session: &str, label: &str, service: Option<&str>| {
        if label.parse::<MachineName>().is_err() {
            name(label)?;
        }
        let service = service.map(name).transpose()?;
        Ok(Spelled::OfLabel { session: session.to_owned(), label: label.to_owned(), service })
    };
    let parts: Vec<&str> = text.split('/').collect();
    let (place, service) = match parts[..] {
        [place] => (place, None),
        [session, label] if !session.contains('.') => return of_label(session, label, None),
        [session, label, service] if !session.contains('.') => {
            return of_label(session, label, Some(service));
        }
        [place, service] => (place, Some(service)),
        _ => return Err(wrong("it has too many parts")),
    };
    let labels: Vec<&str> = without_zone(place, zone).split('.').collect();
    match (&labels[..], service) {
        (labels, _) if labels.contains(&"") => Err(wrong("a part of it is empty")),
        ([service, host, HOSTS], None) => {
            Ok(Spelled::OfHost { host: (*host).to_owned(), service: name(service)? })
        }
        ([host, HOSTS], Some(service)) => {
            Ok(Spelled::OfHost { host: (*host).to_owned(), service: name(service)? })
        }
        ([_, HOSTS], None) => Err(wrong("it is a host, which may publish several")),
        ([label, session], service) => of_label(session, label, service),
        ([service, label, session], None) => of_label(session, label, Some(service)),
        ([_], _) => Err(wrong("it has no dot")),
        _ => Err(wrong("it has too many parts")),
    }
}

/// Finds a machine by `MACHINE`, `SESSION/MACHINE`, `ID/MACHINE` or `MACHINE.SESSION`. A group's name stands for its
/// only machine.
pub fn find_machine<'a>(machines: &'a [MachineRow], text: &str) -> Result<&'a MachineRow, Error> {
    let (session, name) = match (text.split_once('/'), text.split_once('.')) {
        (Some((session, name)), _) | (None, Some((name, session))) => (Some(session), name),
        (None, None) => (None, text),
    };
    let in_session = |row: &&MachineRow| {
        session.is_none_or(|session| {
            row.session == session || session.len() >= 4 && row.session_id.to_string().starts_with(session)
        })
    };
    let rows: Vec<&MachineRow> = machines.iter().filter(in_session).collect();
    let exact = |row: &&&MachineRow| row.name.to_string() == name;
    let mut found: Vec<&MachineRow> = rows.iter().filter(exact).copied().collect();
    if found.is_empty() {
        found = rows.iter().filter(|row| row.group == name).copied().collect();
    }
    match found[..] {
        [machine] => Ok(machine),
        [] => Err(Error::new(Kind::NotFound, format!("there is no machine {text:?}"))
            .because(match rows.len() {
                0 => "no session here has machines by that name".to_owned(),
                _ => format!("there are {}", list(&rows)),
            })
            .next("agent machine list")),
        _ => Err(Error::new(Kind::Ambiguous, format!("{text:?} fits {} machines", found.len()))
            .because(format!("it may be {}", list(&found)))
            .next(format!("name one of them, such as {}", full_name(found[0], &found)))),
    }
}

/// Bounds the list in a message.
const SHOWN: usize = 12;

fn list(rows: &[&MachineRow]) -> String {
    let mut names: Vec<String> = rows.iter().take(SHOWN).map(|row| full_name(row, rows)).collect();
    if rows.len() > SHOWN {
        names.push(format!("{} more", rows.len() - SHOWN));
    }
    names.join(", ")
}

/// Writes `SESSION/MACHINE`, with the id where another session has the same name.
fn full_name(row: &MachineRow, among: &[&MachineRow]) -> String {
    let twin = among.iter().any(|other| other.session == row.session && other.session_id != row.session_id);
    if twin {
        format!("{}/{}", row.session_id.short(), row.name)
    } else {
        format!("{}/{}", row.session, row.name)
    }
}

/// Names a machine in full, for a request.
pub fn key(row: &MachineRow) -> (SessionId, MachineName) {
    (row.session_id, row.name.clone())
}
