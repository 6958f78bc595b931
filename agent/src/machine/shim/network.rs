//! The wires of one machine's network card: QEMU's socket, the agent's packet port and dialled
//! connections meet at one `mesh::link::Edge`, which decides everything. One task owns the edge and never
//! waits for anybody: a queue towards QEMU or the agent that is full loses frames, as a wire does, and a guest that sends
//! more than the edge takes waits. Streams never lose bytes: their edge gives no more than their window.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use mesh::link::{BY_TCP, DialError, Edge, EdgeConfig, Effect, Event, Heard, PortMessage, WINDOW, gateway};
use proto::session::overlay;
use tokio::{
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    super::{
        record::{Launch, Paths},
        wire::{Counts, ShimAnswer, write},
    },
    descriptors::Descriptors,
    happening::{Happening, Happenings},
    knock::{KNOCK, KNOCK_PORT, Knock, Signs},
    names::{Guest, Names},
    outside::{Outside, Told},
    streams::{self, Line},
};
use crate::host::network;

/// Frames that wait for QEMU, packets that wait for the agent: a few milliseconds of a busy wire.
const MAX_QUEUED: usize = 512;
/// Batches of the guest's frames that wait for the edge; the guest waits for more room.
const MAX_BATCHES: usize = 4;
/// Happenings that the edge hears of together.
const MAX_TOGETHER: usize = 256;
/// With nothing due the edge is asked again after this.
const RARELY: Duration = Duration::from_secs(3600);
/// Questions by TCP that wait for the agent.
const MAX_ASKED: usize = 64;
/// Callers whose connections hold a descriptor: those into the guest, twice as many whose connection is
/// over and who have not read all of it yet. With everything else well below the usual 1,024.
const MAX_CALLERS: usize = 384;
/// A guest that uses its address for so long and answers no knock drops them: it has a firewall.
const FIREWALLED: Duration = Duration::from_secs(10);

/// What [`carry`] connects.
pub struct Wires {
    config: EdgeConfig,
    zone: String,
    path: PathBuf,
    nic: UnixStream,
    signs: watch::Sender<Signs>,
}

impl Wires {
    /// Names the wires of one machine; `nic` is connected to QEMU.
    pub fn new(launch: &Launch, paths: &Paths, nic: UnixStream, signs: watch::Sender<Signs>) -> Wires {
        let config = EdgeConfig {
            guest_mac: launch.spec.mac,
            guest_address: launch.spec.address,
            subnet: launch.subnet,
            subnet_v6: overlay::subnet_v6(launch.session),
            hostname: launch.spec.machine.to_string(),
            domain: launch.domain(),
            search: vec![launch.domain()],
            mtu: proto::limits::GUEST_MTU as u16,
            seed: rand::random(),
            egress: launch.spec.egress,
            host: None,
        };
        Wires { config, zone: launch.zone.clone(), path: paths.nic(), nic, signs }
    }
}

/// Carries the network for as long as the shim lives.
pub async fn carry(wires: Wires, mut happenings: Happenings) {
    let (to_nic, frames) = mpsc::channel(MAX_QUEUED);
    let (from_nic, mut from_guest) = mpsc::channel(MAX_BATCHES);
    tokio::spawn(streams::carry_nic(wires.nic, wires.path, frames, from_nic));
    let now = std::time::Instant::now();
    let descriptors = Descriptors::of_process();
    let guest = Guest {
        zone: wires.zone,
        subnets: (wires.config.subnet, wires.config.subnet_v6),
        egress: wires.config.egress,
    };
    let names = Names::new(guest, happenings.sender.clone(), descriptors.clone());
    let told = Told { edge: 0, happen: happenings.sender.clone() };
    let mut hub = Hub {
        outside: Outside::new(told, names.clone(), gateway(wires.config.subnet), descriptors.clone()),
        names,
        descriptors,
        blind: false,
        asked: BTreeMap::new(),
        next_asked: BY_TCP,
        edge: Edge::new(wires.config.clone(), now),
        events: Vec::new(),
        config: wires.config,
        to_nic,
        agent: None,
        dials: BTreeMap::new(),
        places: Arc::new(Semaphore::new(MAX_CALLERS)),
        next_dial: 1,
        knock: Knock::Waiting,
        heard: None,
        signs: wires.signs,
        happen: happenings.sender,
    };
    let mut happened = Vec::with_capacity(MAX_TOGETHER);
    let mut alarm = pin!(sleep(RARELY));
    loop {
        let due = [hub.edge.deadline(), hub.knock.due()].into_iter().flatten().min();
        let due = due.map_or_else(|| Instant::now() + RARELY, Instant::from_std);
        // One that rings too early costs less than setting it anew for every packet.
        if due < alarm.deadline() || alarm.is_elapsed() {
            alarm.as_mut().reset(due);
        }
        // Receiving and sleeping are cancel-safe.
        tokio::select! {
            // The task that has the other end reconnects for ever.
            Some(frames) = from_guest.recv() => hub.frames(frames),
            // The hub holds a sender, so the queue never closes.
            _ = happenings.receiver.recv_many(&mut happened, MAX_TOGETHER) => {}
            () = &mut alarm => hub.events.push(Event::Tick),
        }
        hub.take((&mut from_guest, &mut happenings.receiver), &mut happened).await;
    }
}

/// A connection into the guest. Held until the edge says that it is over, whoever ended it.
enum Dial {
    /// Its caller waits for the answer.
    Asked(UnixStream, OwnedSemaphorePermit),
    /// It stands.
    Open(Open),
}

struct Open {
    /// Bytes for the caller; `None` = no more. Never more than [`WINDOW`] bytes, so it needs no bound.
    output: mpsc::UnboundedSender<Option<Bytes>>,
    /// How many bytes the guest takes now.
    room: Arc<Semaphore>,
    /// Tells the tasks that it is over.
    _over: DropGuard,
}

/// The edge with everything that is wired to it.
struct Hub {
    config: EdgeConfig,
    edge: Edge,
    /// What the edge has not heard of yet, in order.
    events: Vec<Event>,
    outside: Outside,
    names: Names,
    descriptors: Descriptors,
    /// The host's network could not be read when it was last looked at.
    blind: bool,
    /// Questions by TCP that wait for the agent.
    asked: BTreeMap<u64, oneshot::Sender<Bytes>>,
    next_asked: u64,
    to_nic: mpsc::Sender<Bytes>,
    agent: Option<mpsc::Sender<PortMessage>>,
    dials: BTreeMap<u64, Dial>,
    places: Arc<Semaphore>,
    next_dial: u64,
    knock: Knock,
    /// When the guest first used its address.
    heard: Option<std::time::Instant>,
    signs: watch::Sender<Signs>,
    happen: mpsc::Sender<Happening>,
}

impl Hub {
    /// Takes what happened, and what else has come by now: it is answered together.
    async fn take(
        &mut self,
        (guest, more): (&mut mpsc::Receiver<Vec<BytesMut>>, &mut mpsc::Receiver<Happening>),
        happened: &mut Vec<Happening>,
    ) {
        while let Ok(frames) = guest.try_recv() {
            self.frames(frames);
        }
        while happened.len() < MAX_TOGETHER
            && let Ok(happening) = more.try_recv()
        {
            happened.push(happening);
        }
        for happening in happened.drain(..) {
            self.on(happening).await;
        }
        self.settle().await;
        self.look(std::time::Instant::now());
        self.settle().await;
    }

    /// Takes what the guest sent.
    fn frames(&mut self, frames: Vec<BytesMut>) {
        self.sign(|signs| signs.alive = true);
        if self.outside.stale(std::time::Instant::now()) {
            self.look_around();
        }
        self.events.push(Event::Frames(frames));
    }

    async fn on(&mut self, happening: Happening) {
        match happening {
            Happening::Reset => {
                self.edge = Edge::new(self.config.clone(), std::time::Instant::now());
                self.events.clear();
                self.dials.clear();
                self.outside.begin_anew();
                self.knock = Knock::Waiting;
                self.heard = None;
                self.sign(|signs| (signs.booted, signs.v6) = (false, false));
            }
            Happening::Agent(stream) => {
                let (queue, queued) = mpsc::channel(MAX_QUEUED);
                self.agent = Some(queue);
                let (read, write) = stream.into_split();
                let writing = tokio::spawn(streams::write_agent(write, queued));
                tokio::spawn(streams::hear_agent(read, self.happen.clone(), writing));
            }
            Happening::FromAgent(PortMessage::Packet(packet)) => self.events.push(Event::Packet(packet)),
            Happening::FromAgent(PortMessage::Dns { id, message }) if id >= BY_TCP => {
                // Who asked may be gone.
                self.asked.remove(&id).map(|asker| asker.send(message));
            }
            Happening::FromAgent(PortMessage::Dns { id, message }) => {
                self.events.push(Event::DnsAnswer { id, message });
            }
            Happening::Dial { port, stream } => self.asked(port, stream).await,
            Happening::Dialled(event) => self.events.push(event),
            Happening::Heard(edge, heard) if edge == self.outside.edge() => {
                self.outside.forget(&heard);
                self.events.push(Event::Heard(heard));
            }
            Happening::Named(edge, event) if edge == self.outside.edge() => self.events.push(event),
            // From before the guest was reset.
            Happening::Heard(..) | Happening::Named(..) => {}
            Happening::Ask(message, asker) => self.ask(message, asker),
            Happening::Count(asker) => {
                self.settle().await;
                // Who asked may be gone.
                asker.send(self.counts()).ok();
            }
        }
    }

    /// Looks what the host's network is. Where that cannot be seen, it is what it was when it last could be.
    fn look_around(&mut self) {
        match network::read() {
            Ok(host) => {
                self.blind = false;
                self.names.learn(&host);
                self.config.host = Some(host.clone());
                self.events.push(Event::Heard(Heard::Host(host)));
            }
            Err(error) if !self.blind => {
                self.blind = true;
                // Not eprintln, which panics when the log's disk is full.
                writeln!(io::stderr(), "shim: cannot see what this host's network is: {error}").ok();
            }
            Err(_) => {}
        }
    }

    fn counts(&self) -> Counts {
        let (outside, losses, drops) = (self.edge.outside(), self.edge.losses(), self.edge.drops());
        let carried = self.edge.carried();
        Counts {
            dials: self.edge.dials(),
            callers: MAX_CALLERS - self.places.available_permits(),
            tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
            connections: outside.streams + self.outside.ending(),
            sockets: outside.sockets,
            waiting: outside.waiting,
            denied: losses.denied,
            full: losses.full + self.descriptors.refused(),
            uncarried: losses.uncarried,
            spoofed: drops.spoofed,
            malformed: drops.malformed,
            sent: carried.sent,
            sent_bytes: carried.sent_bytes,
            received: carried.received,
            received_bytes: carried.received_bytes,
            refused: drops.refused,
            misrouted: drops.misrouted,
            ignored: drops.ignored,
        }
    }

    fn new_dial(&mut self) -> u64 {
        self.next_dial += 1;
        self.next_dial
    }

    /// Tells the edge what has happened, and carries out what it wants.
    async fn settle(&mut self) {
        while !self.events.is_empty() {
            let events = std::mem::take(&mut self.events);
            for effect in self.edge.all(events, std::time::Instant::now()) {
                let event = self.perform(effect).await;
                self.events.extend(event);
            }
        }
    }

    /// Carries out one effect, which may be an event in turn. Only answers to callers wait, and those fit
    /// into any socket.
    async fn perform(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            // A full queue loses it, as a wire would; TCP of both sides copes.
            Effect::ToGuest(frame) => drop(self.to_nic.try_send(frame)),
            Effect::Packet(packet) => self.tell_agent(PortMessage::Packet(packet)),
            Effect::DnsQuery { id, message } => self.name(id, message),
            Effect::Upstream(upstream) => self.outside.on(upstream),
            Effect::Time { ask } => return Some(Event::Time { ask, now: mesh::Clock.timestamp() }),
            Effect::Dialed { id } => return self.dialled(id).await,
            Effect::DialFailed { id, because } => self.failed(id, because).await,
            Effect::DialData { id, bytes } => return self.output(id, Some(bytes)),
            Effect::DialEnd { id } => return self.output(id, None),
            Effect::DialRoom { id, bytes } => {
                if let Some(Dial::Open(Open { room, .. })) = self.dials.get(&id) {
                    room.add_permits(bytes);
                }
            }
            Effect::DialGone { id, .. } => drop(self.dials.remove(&id)),
        }
        None
    }

    async fn asked(&mut self, port: u16, mut stream: UnixStream) {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let full = ShimAnswer::Failed(DialError::Unavailable.to_string());
            // A caller that has gone needs no answer.
            write(&mut stream, &full).await.ok();
            return;
        };
        let id = self.new_dial();
        self.dials.insert(id, Dial::Asked(stream, place));
        self.events.push(Event::Dial { id, port });
    }

    /// Has a question answered by whom it is for.
    fn name(&mut self, id: u64, message: Bytes) {
        let Some(question) = self.names.foreign(&message) else {
            return self.tell_agent(PortMessage::Dns { id, message });
        };
        let (names, happen, edge) = (self.names.clone(), self.happen.clone(), self.outside.edge());
        // The edge bounds how many there are at once.
        tokio::spawn(async move {
            if let Some(message) = names.answer(&question, true).await {
                happen.send(Happening::Named(edge, Event::DnsAnswer { id, message })).await.ok();
            }
        });
    }

    /// Asks the agent for a guest that asked by TCP.
    fn ask(&mut self, message: Bytes, asker: oneshot::Sender<Bytes>) {
        self.asked.retain(|_, asker| !asker.is_closed());
        if self.asked.len() < MAX_ASKED {
            let id = self.next_asked;
            self.next_asked = id.checked_add(1).unwrap_or(BY_TCP);
            self.asked.insert(id, asker);
            self.tell_agent(PortMessage::Dns { id, message });
        }
    }

    fn tell_agent(&mut self, message: PortMessage) {
        // An agent that is away or too slow loses packets.
        if let Some(agent) = &self.agent
            && let Err(mpsc::error::TrySendError::Closed(_)) = agent.try_send(message)
        {
            self.agent = None;
        }
    }

    /// Passes on what the guest says. A caller that hears nothing more resets the connection, as kernels do.
    fn output(&mut self, id: u64, bytes: Option<Bytes>) -> Option<Event> {
        let Some(Dial::Open(Open { output, .. })) = self.dials.get(&id) else { return None };
        let reset = Event::DialReset { id };
        output.send(bytes).is_err().then_some(reset)
    }

    /// Connects a caller with its connection. Whatever cannot be connected is reset.
    async fn dialled(&mut self, id: u64) -> Option<Event> {
        let reset = Some(Event::DialReset { id });
        if self.knocked(id, true) {
            return reset;
        }
        let Some((mut stream, place)) = self.caller(id) else { return reset };
        if write(&mut stream, &ShimAnswer::Granted).await.is_err() {
            return reset;
        }
        let (read, write) = stream.into_split();
        let (output, outputs) = mpsc::unbounded_channel();
        let line = Line {
            id,
            room: Arc::new(Semaphore::new(WINDOW)),
            over: CancellationToken::new(),
            left: CancellationToken::new(),
            happen: self.happen.clone(),
            _place: Arc::new(place),
        };
        let open = Open { output, room: line.room.clone(), _over: line.over.clone().drop_guard() };
        tokio::spawn(streams::read_dial(line.clone(), read));
        tokio::spawn(streams::write_dial(line, write, outputs));
        self.dials.insert(id, Dial::Open(open));
        None
    }

    /// Takes the caller that waits for the answer to dial `id`.
    fn caller(&mut self, id: u64) -> Option<(UnixStream, OwnedSemaphorePermit)> {
        match self.dials.remove(&id)? {
            Dial::Asked(stream, place) => Some((stream, place)),
            Dial::Open(_) => None,
        }
    }

    async fn failed(&mut self, id: u64, because: DialError) {
        if self.knocked(id, because == DialError::Refused) {
            return;
        }
        let Some((mut stream, _place)) = self.caller(id) else { return };
        let answer = match because {
            DialError::Refused => ShimAnswer::Refused,
            DialError::TimedOut => ShimAnswer::Late,
            DialError::Unavailable => ShimAnswer::Failed(because.to_string()),
        };
        write(&mut stream, &answer).await.ok();
    }

    /// Takes the outcome of a dial if it was our own knock.
    fn knocked(&mut self, id: u64, answered: bool) -> bool {
        match self.knock {
            Knock::Open { id: knock, .. } if knock == id => {}
            _ => return false,
        }
        if answered {
            self.answered();
        } else {
            self.knock = Knock::Due(std::time::Instant::now() + KNOCK);
        }
        true
    }

    fn answered(&mut self) {
        self.knock = Knock::Answered;
        self.sign(|signs| signs.booted = true);
    }

    /// Knocks when it is time.
    fn look(&mut self, now: std::time::Instant) {
        if self.edge.heard() {
            self.heard.get_or_insert(now);
        }
        if self.edge.heard_v6() {
            self.sign(|signs| signs.v6 = true);
        }
        match self.knock {
            Knock::Waiting if self.signs.borrow().alive => self.knock = Knock::Due(now),
            Knock::Due(at) if at <= now => {
                let id = self.new_dial();
                self.knock = Knock::Open { id, until: now + KNOCK };
                self.events.push(Event::Dial { id, port: KNOCK_PORT });
            }
            Knock::Open { id, until } if until <= now => {
                self.knock = Knock::Due(now);
                self.events.push(Event::DialReset { id });
                if self.heard.is_some_and(|heard| now - heard >= FIREWALLED) {
                    self.answered();
                }
            }
            _ => {}
        }
    }

    fn sign(&self, change: impl FnOnce(&mut Signs)) {
        self.signs.send_if_modified(|signs| {
            let before = *signs;
            change(signs);
            before != *signs
        });
    }
}
