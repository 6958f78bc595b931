//! What members ask each other and answer.

use minicbor::{Decode, Encode};

use super::{
    golden::Sample,
    sessions::{
        SESSION, contents, host, intent, machine, name, proposal, replace, share, signed, state,
        state_without_a_host,
    },
    trust::{join_answers, proof, sealed, transcript},
};
use crate::{
    id::{Digest, Epoch},
    reachability::proof::{Claim, Reached},
    reasons,
    seal::Sig,
    time::Timestamp,
    topology::Content,
    trust::Short,
    wire::{
        codec::{Form, from_bytes, to_bytes},
        rpc::{Answer, LoginKeys, Refusal, Request, Rtt},
    },
};

pub(super) fn samples() -> Vec<Sample> {
    let requests = requests().into_iter().map(|(name, request)| (format!("request.{name}"), request));
    let answers = answers().into_iter().map(|(name, answer)| (format!("answer.{name}"), answer));
    let requests = requests.map(|(name, request)| Sample::message(name, request));
    let answers = answers.map(|(name, answer)| Sample::message(name, answer));
    requests.chain(answers).collect()
}

/// A reason by itself, as it stands in the bytes beside its words.
pub(super) fn reason<T>(group: &str, reason: T) -> Sample
where
    T: Encode<()> + for<'b> Decode<'b, ()>,
{
    another(group, "", reason)
}

/// The same with a word more in its name, for a second one of the same variant.
pub(super) fn another<T>(group: &str, more: &str, reason: T) -> Sample
where
    T: Encode<()> + for<'b> Decode<'b, ()>,
{
    let bytes = to_bytes(&reason);
    Sample::bare(numbered(group, &bytes) + more, bytes, |bytes| {
        let reason: T = from_bytes(bytes, usize::MAX, Form::Sound)?;
        Ok(to_bytes(&reason))
    })
}

/// Names a sample by the numbers of its variant and of the one in it.
fn numbered(group: &str, bytes: &[u8]) -> String {
    let number = |bytes: &[u8]| match bytes {
        [0x82, number @ 0..=23, ..] => Some((u64::from(*number), bytes[2..].to_vec())),
        [0x82, 0x18, number, ..] => Some((u64::from(*number), bytes[3..].to_vec())),
        _ => None,
    };
    let (outer, rest) = number(bytes).unwrap();
    match rest {
        // The first field of the variant is a variant as well.
        rest if rest.get(1) == Some(&0) && number(&rest[2..]).is_some() => {
            format!("{group}.{outer}-{}", number(&rest[2..]).unwrap().0)
        }
        _ => format!("{group}.{outer}"),
    }
}

fn short(number: u8) -> Short {
    Short::of(&Digest([number; 32]))
}

fn claim(place: &str) -> Claim {
    Claim { endpoint: place.parse().unwrap(), relay: 17_442, discovery: 17_441 }
}

fn dial_back(place: &str) -> Request {
    Request::DialBack { claim: claim(place), certificate: Digest([6; 32]), word: [7; 16] }
}

fn requests() -> Vec<(&'static str, Request)> {
    let (session, machine, epoch, time) =
        (SESSION, || machine("web-1"), Epoch(3), Timestamp(1_790_000_000_000));
    let intent = || Box::new(intent());
    vec![
        ("ping", Request::Ping),
        ("compare", Request::Compare { summary: Digest([5; 32]), news: vec![sealed().encode()], time }),
        (
            "statements",
            Request::Statements { given: vec![sealed().encode()], wanted: vec![short(1), short(2)] },
        ),
        ("put-share", Request::PutShare(Box::new(share()))),
        ("get-share", Request::GetShare(session)),
        ("state", Request::State(session)),
        ("plan", Request::Plan { session, intent: intent(), replace: replace() }),
        (
            "up",
            Request::Up {
                session,
                intent: intent(),
                index: Some(4),
                replace: replace(),
                contents: contents(),
                mandate: None,
            },
        ),
        ("down", Request::Down { session, mandate: None }),
        ("wish", Request::Wish { session, machine: machine(), run: false, mandate: None }),
        (
            "up-signed",
            Request::Up {
                session,
                intent: intent(),
                index: None,
                replace: replace(),
                contents: contents(),
                mandate: Some(Box::new(signed())),
            },
        ),
        ("down-signed", Request::Down { session, mandate: Some(Box::new(signed())) }),
        (
            "wish-signed",
            Request::Wish { session, machine: machine(), run: true, mandate: Some(Box::new(signed())) },
        ),
        ("may-start", Request::MayStart { session, machine: machine(), epoch }),
        ("dropped", Request::Dropped { session, machine: machine(), epoch }),
        ("open-voter", Request::OpenVoter { session, name: name("shop"), outdated: Some(1_000_001) }),
        ("voices", Request::Voices(session)),
        ("join", Request::Join { transcript: Box::new(transcript()), proof: Box::new(proof()) }),
        ("content", Request::Content { session, content: Content::of(b"port = 80\n"), offset: 1 << 20 }),
        ("login-keys", Request::LoginKeys { session, machine: machine() }),
        ("login", Request::Login { session, machine: machine(), question: vec![0, 0, 0, 32] }),
        ("dial-back", dial_back("203.0.113.9:17440")),
        ("dial-back-v6", dial_back("[2001:db8::9]:17440")),
        ("long", Request::Long(vec![0; 3])),
        ("around", Request::Around),
    ]
}

fn answers() -> Vec<(String, Answer)> {
    let time = Timestamp(1_790_000_000_000);
    let mut answers = vec![
        ("done", Answer::Done),
        ("compared", Answer::Compared { have: Some(vec![short(1), short(2)]), time }),
        ("compared-equal", Answer::Compared { have: None, time }),
        ("statements", Answer::Statements(vec![sealed().encode()])),
        ("share", Answer::Share(Box::new(share()))),
        ("state", Answer::State(Box::new(state()))),
        ("state-out", Answer::State(Box::new(state_without_a_host()))),
        ("proposal", Answer::Proposal(Box::new(proposal()))),
        ("applied", Answer::Applied(Box::new(proposal()))),
        ("may-start", Answer::MayStart(true)),
        ("voter", Answer::Voter { node: 1_000_001 }),
        ("voices", Answer::Voices([host(1), host(2)].into())),
        ("content", Answer::Content(b"port = 80\n".to_vec())),
        ("login-keys", Answer::LoginKeys { own: Some(LoginKeys { login: [7; 32], host: [8; 32] }) }),
        ("login-keys-shared", Answer::LoginKeys { own: None }),
        ("login", Answer::Login(Sig([9; 64]))),
        ("dialled-back", Answer::DialledBack(Reached { endpoint: true, relay: false, discovery: true })),
        (
            "around",
            Answer::Around {
                rtts: vec![Rtt { to: host(2), rtt_us: 1_500, relayed: true }],
                seen: vec!["203.0.113.9:7440".parse().unwrap()],
            },
        ),
        ("around-v6", Answer::Around { rtts: Vec::new(), seen: vec!["[2001:db8::9]:7440".parse().unwrap()] }),
    ]
    .into_iter()
    .map(|(name, answer)| (name.to_owned(), answer))
    .collect::<Vec<_>>();
    for refusal in reasons::tests::refusals() {
        let name = numbered("refused", &to_bytes(&refusal));
        let name = match &refusal {
            Refusal::MayNot(what) => format!("{name}-{what}"),
            _ => name,
        };
        answers.push((name, Answer::Refused(refusal)));
    }
    for (name, answer) in join_answers() {
        answers.push((format!("join-{name}"), Answer::Join(Box::new(answer))));
    }
    answers
}

/// What each request needs of who asks, as people read it. A new one stands in `Request::needs` or nothing compiles, and
/// here as well.
#[test]
fn every_request_says_what_its_asker_must_be_allowed() {
    let mut told: Vec<String> = requests()
        .into_iter()
        .map(|(name, request)| format!("{name}: {}", request.needs().map_or("-", |needs| needs.as_str())))
        .collect();
    told.sort();
    expect_test::expect![[r#"
        around: -
        compare: -
        content: -
        dial-back-v6: relay
        dial-back: relay
        down-signed: operate
        down: operate
        dropped: -
        get-share: -
        join: -
        login-keys: operate
        login: operate
        long: -
        may-start: run
        open-voter: vote
        ping: -
        plan: operate
        put-share: vote
        state: operate
        statements: -
        up-signed: operate
        up: operate
        voices: -
        wish-signed: operate
        wish: operate"#]]
    .assert_eq(&told.join("\n"));
}
