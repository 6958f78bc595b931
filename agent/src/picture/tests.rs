//! Who is woken by what.

use proto::{
    id::{Digest, MeshId, SessionId},
    trust::MemberSet,
    wire::record::ImageRecord,
};

use super::*;

/// The longest that anything here may take.
const WITHIN: Duration = Duration::from_secs(10);

struct Feed {
    pictures: Pictures,
    own: Own,
    members: watch::Sender<Arc<mesh::Members>>,
    images: watch::Sender<Arc<Images>>,
    _records: watch::Sender<Arc<Records>>,
    _roll: watch::Sender<Arc<mesh::Roll>>,
    stop: CancellationToken,
}

const ME: HostId = HostId([1; 32]);
const OTHER: HostId = HostId([2; 32]);

fn seen(rtt_ms: f64) -> Arc<mesh::Members> {
    let view = |id: HostId, path| MemberView {
        id,
        name: "nas".parse().unwrap(),
        state: mesh::MemberState::Up,
        path,
        via: None,
        issuer: false,
        may: Default::default(),
        steady: true,
        level: None,
        tags: Default::default(),
        record: None,
    };
    let path = mesh::Path { kind: mesh::PathKind::Direct, rtt_ms, via: "192.0.2.1:1".into() };
    let hosts = [(ME, view(ME, None)), (OTHER, view(OTHER, Some(path)))].into();
    Arc::new(mesh::Members { me: ME, hosts, out: Default::default() })
}

fn feed() -> Feed {
    let own = Own { shares: watch::Sender::default(), reports: watch::Sender::default() };
    let (members, images) = (watch::Sender::new(seen(1.0)), watch::Sender::default());
    let records = watch::Sender::default();
    let nobody = mesh::Roll {
        set: MemberSet::new(MeshId([0; 32])),
        members: Default::default(),
        out: Default::default(),
    };
    let roll = watch::Sender::new(Arc::new(nobody));
    let inputs = Inputs {
        members: members.subscribe(),
        roll: roll.subscribe(),
        records: records.subscribe(),
        images: images.subscribe(),
        shares: own.shares.subscribe(),
        reports: own.reports.subscribe(),
    };
    let (now, pictures) = make(ME);
    let stop = CancellationToken::new();
    tokio::spawn(run(ME, inputs, now, pictures.waiting.clone(), stop.clone()));
    Feed { pictures, own, members, images, _records: records, _roll: roll, stop }
}

fn has_image(feed: &Feed, digest: Digest) {
    let record = ImageRecord {
        names: Default::default(),
        size: 1,
        allocated: 1,
        arch: "x86_64".into(),
        complete: true,
    };
    feed.images.send_modify(|images| {
        Arc::make_mut(images).insert(digest, record);
    });
}

async fn is_woken(wakes: &Wakes) -> bool {
    tokio::time::timeout(Duration::from_millis(200), wakes.changed()).await.is_ok()
}

#[tokio::test]
async fn a_loop_wakes_for_its_own_keys_once() {
    let feed = feed();
    let [mine, other] = [Digest([7; 32]), Digest([8; 32])];
    let wakes = feed.pictures.wakes(move |change| *change == Change::Image(mine));
    has_image(&feed, mine);
    assert!(is_woken(&wakes).await);
    assert!(!is_woken(&wakes).await);
    has_image(&feed, other);
    assert!(!is_woken(&wakes).await);
    feed.stop.cancel();
}

#[tokio::test]
async fn a_change_before_the_wait_is_not_missed() {
    let feed = feed();
    let wakes = feed.pictures.wakes(|change| matches!(change, Change::Image(_)));
    has_image(&feed, Digest([7; 32]));
    let there = |picture: &Picture| picture.images.len() == 1;
    assert!(feed.pictures.until(|_| true, WITHIN, there).await);
    assert!(is_woken(&wakes).await);
}

#[tokio::test]
async fn a_round_trip_is_published_and_wakes_nobody() {
    let feed = feed();
    let wakes = feed.pictures.wakes(|_| true);
    // Until the first picture is there.
    has_image(&feed, Digest([7; 32]));
    wakes.changed().await;
    feed.members.send_replace(seen(70.0));
    assert!(!is_woken(&wakes).await);
    assert_eq!(feed.pictures.now().members[&OTHER].rtt_ms(), Some(70.0));
}

#[tokio::test]
async fn who_waits_sees_what_it_waits_for() {
    let feed = feed();
    let session = SessionId([5; 16]);
    let waits = feed.pictures.until(
        move |change| *change == Change::Session(session),
        WITHIN,
        move |picture| picture.reports.contains_key(&session),
    );
    let tells = async {
        feed.own.reports.send_modify(|reports| {
            Arc::make_mut(reports).insert(session, Default::default());
        });
    };
    assert!(tokio::join!(waits, tells).0);
    let never = feed.pictures.until(|_| true, Duration::from_millis(50), |_| false);
    assert!(!never.await);
}
