//! Who gets in: only who holds a good token of this mesh. All others are turned away quickly, and no
//! secret is written down anywhere on the way.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use data_encoding::{BASE32_NOPAD, BASE64, HEXLOWER, HEXUPPER};
use proto::trust::Token;
use tests::{Answer, Host, Lab, eventually, lab_or_skip};

/// How long a refusal may take.
const REFUSED_WITHIN: Duration = Duration::from_secs(3);
/// Two public hosts, so that one of them can answer while the other, the issuer, is down.
const TWO_PUBLIC: &str =
    "seed 1\nhost vps\nhost nas\nhome flat nat=symmetric delay=15ms\nhost laptop in flat\n";

#[test]
fn a_token_that_is_not_good_is_refused_quickly_and_its_secret_is_told_to_nobody() {
    if !lab_or_skip("a_token_that_is_not_good_is_refused_quickly_and_its_secret_is_told_to_nobody") {
        return;
    }
    let mut lab = Lab::empty();
    for host in lab.hosts_mut() {
        host.env.push(("AGENT_LOG".into(), "debug".into()));
    }
    lab.vps.agent(&["init", "--name", "vps"]).expect(0);
    lab.vps.start();
    let (_, good) = lab.vps.named_token(&[]);
    let (id, revoked) = lab.vps.named_token(&[]);
    lab.vps.agent(&["token", "revoke", &id]).expect(0);
    let (_, once) = lab.vps.named_token(&["--uses", "1"]);
    let (id, expired) = lab.vps.named_token(&["--expires", "1s"]);
    token_becomes(&lab.vps, &id, "expired");
    let foreign = of_another_mesh(&lab, &good);
    let wrong = Token { seed: proto::seal::Seed([7; 32]), ..parse(&good) }.to_string();

    let mut told = Vec::new();
    for (what, token) in
        [("wrong", &wrong), ("expired", &expired), ("revoked", &revoked), ("foreign", &foreign)]
    {
        told.push(refused(&lab.nas, what, token));
        told.push(refused(&lab.laptop, what, token));
    }
    for garbage in ["garbage", "mesh1", "mesh9abcdefgh", &good[..good.len() - 1], &good.replace('a', "b")] {
        told.push(refused(&lab.nas, "garbage", garbage));
    }
    told.push(lab.nas.agent(&["join", &once, "--name", "nas"]).expect(0));
    told.push(refused(&lab.laptop, "used up", &once));
    assert_eq!(lab.vps.status()["members"].as_array().map(Vec::len), Some(2), "nobody else got in");

    // Once in, a token of this mesh only tells where the others are, and one of another mesh is refused as before.
    let again = lab.nas.agent(&["join", &good, "--name", "nas"]).expect(0);
    assert!(again.stdout.contains("nas is in the mesh") && again.stdout.contains("vps"), "{again:?}");
    told.push(again);
    told.push(refused(&lab.nas, "another mesh's", &foreign));
    let named = lab.laptop.agent(&["join", &good, "--name", "vps"]).expect(4);
    assert!(named.stderr.contains("another host is called vps"), "{named:?}");
    told.push(named);
    let run = ["--join", good.as_str(), "--name", "laptop"];
    lab.laptop.start_with(&run);
    lab.nas.start();
    lab.settled();
    // The same command line after a restart: it is a member already.
    lab.laptop.stop();
    lab.laptop.start_with(&run);
    lab.settled();

    let seen: String = told.iter().map(|answer| format!("{}{}", answer.stdout, answer.stderr)).collect();
    for token in [&good, &expired, &revoked, &once, &foreign, &wrong] {
        let spellings = spellings(token);
        let inside = |text: &str| spellings.iter().any(|secret| text.contains(secret.as_str()));
        assert!(!inside(&seen), "a command told a secret: {seen}");
        for host in lab.hosts() {
            let events = host.agent(&["events", "--json-lines"]).expect(0).stdout;
            assert!(!inside(&events), "the events of {} tell a secret", host.name);
            for file in files(host.scratch()) {
                let bytes = fs::read(&file).unwrap_or_default();
                assert!(!inside(&letters(&bytes)), "{} holds a secret", file.display());
            }
        }
    }
}

#[test]
fn a_join_waits_for_an_issuer_when_only_other_members_answer() {
    if !lab_or_skip("a_join_waits_for_an_issuer_when_only_other_members_answer") {
        return;
    }
    let mut lab = Lab::on(TWO_PUBLIC);
    lab.vps.agent(&["init", "--name", "vps"]).expect(0);
    lab.vps.start();
    let first = lab.vps.token(&[]);
    lab.nas.agent(&["join", &first, "--name", "nas"]).expect(0);
    lab.nas.start();
    lab.sees(&lab.vps, "nas", "up");
    // This one also names nas, which is no issuer.
    let token = eventually(Duration::from_secs(30), "a token that names both", || {
        let token = lab.vps.token(&[]);
        let named = parse(&token).bootstrap.len();
        if named == 2 { Ok(token) } else { Err(format!("it names {named}")) }
    });
    // What nas must know before the issuer goes.
    eventually(Duration::from_secs(30), "nas knows the token", || {
        let seen = lab.nas.json(&["token", "list"]);
        let all = lab.vps.json(&["token", "list"]);
        let count = |list: &serde_json::Value| list["tokens"].as_array().map(Vec::len);
        if count(&seen) == count(&all) { Ok(()) } else { Err(seen.to_string()) }
    });
    lab.vps.stop();

    let pending = lab.laptop.agent(&["join", &token, "--name", "laptop"]).expect(5);
    assert!(pending.stderr.contains("pending") && pending.stderr.contains("vps"), "{pending:?}");
    // The token is kept for this; the name that was wished is, too.
    lab.laptop.spawn(&[]);
    lab.vps.start();
    lab.sees(&lab.vps, "laptop", "up");
    lab.settled();
    assert_eq!(lab.laptop.status()["host"]["name"], "laptop");
    let again = lab.laptop.agent(&["join", &token, "--name", "laptop"]).expect(0);
    assert!(again.stdout.contains("reached"), "{again:?}");
    let kept = spellings(&token);
    for file in files(lab.laptop.scratch()) {
        let bytes = fs::read(&file).unwrap_or_default();
        let text = letters(&bytes);
        assert!(
            !kept.iter().any(|secret| text.contains(secret.as_str())),
            "{} keeps the token",
            file.display()
        );
    }
    let said = format!("{}{}", again.stdout, again.stderr);
    assert!(!kept.iter().any(|secret| said.contains(secret.as_str())), "{again:?}");
}

#[track_caller]
fn refused(host: &Host, what: &str, token: &str) -> Answer {
    let start = Instant::now();
    let answer = host.agent(&["join", token, "--name", &host.name]);
    let took = start.elapsed();
    assert_eq!(answer.code, 4, "{what} token on {}: {answer:?}", host.name);
    assert!(took < REFUSED_WITHIN, "{what} token on {}: refused only after {took:?}", host.name);
    assert!(answer.stderr.contains("hint:"), "{what} token: {answer:?}");
    answer
}

fn parse(token: &str) -> Token {
    token.parse().expect("a token")
}

#[track_caller]
fn token_becomes(host: &Host, id: &str, state: &str) {
    eventually(Duration::from_secs(10), &format!("the token is {state}"), || {
        let tokens = host.json(&["token", "list"]);
        let row = tokens["tokens"].as_array().expect("tokens").iter().find(|row| row["id"] == id);
        match row {
            Some(row) if row["state"] == state => Ok(()),
            row => Err(format!("{row:?}")),
        }
    });
}

/// Makes a token of a real other mesh, that leads to this one's members.
fn of_another_mesh(lab: &Lab, good: &str) -> String {
    let other = Host::first("other", lab.place("vps"));
    Token { bootstrap: parse(good).bootstrap, ..parse(&other.token(&[])) }.to_string()
}

/// Everything that would give a token's secret away, as [`letters`].
fn spellings(token: &str) -> Vec<String> {
    let seed = parse(token).seed.0;
    vec![
        token.to_owned(),
        token.to_ascii_uppercase(),
        letters(&seed),
        HEXLOWER.encode(&seed),
        HEXUPPER.encode(&seed),
        // Without the last characters, which a longer text around it would change.
        BASE64.encode(&seed)[..40].to_owned(),
        BASE32_NOPAD.encode(&seed)[..50].to_owned(),
        seed[..8].iter().map(|byte| format!("{byte}, ")).collect(),
    ]
}

/// Spells bytes as one letter each, because text is searched quickly.
fn letters(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}
