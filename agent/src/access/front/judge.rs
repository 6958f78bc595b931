//! Pure: what may come in at the front door. A browser shows pages of everybody, and each may make it ask a loopback
//! port; so every request is judged by what a browser alone writes: the name it believes to speak to (`Host`), and
//! the page that made it speak (`Origin`, Fetch Metadata: `Sec-Fetch-Site`, `-Mode`, `-Dest`).

use axum::http::{HeaderMap, HeaderName, Method, Uri, header};
use proto::names::sites;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Why a request is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// It names nobody: no browser does so.
    #[error("the request has no Host")]
    Nobody,
    /// It names several, and who reads it next may believe another of them (RFC 9112, section 3.2).
    #[error("the request has more than one Host")]
    TwoNames,
    /// It wants a tunnel, which the front door is not.
    #[error("the front door makes no tunnels; SOCKS does")]
    Tunnel,
    /// It believes to speak to somebody else: a name of the internet that was made to stand for loopback.
    #[error("{0:?} is no name of this front door; its names end in .localhost")]
    Misled(String),
    /// A page of somebody else made the browser ask.
    #[error("a page of {0} may not ask what runs here; only pages of the same session may")]
    Foreign(String),
}

/// Gives the site that a request to the front door on `port` names, if it may come in.
pub fn judge(port: u16, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<String, Stranger> {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if method == Method::CONNECT {
        return Err(Stranger::Tunnel);
    }
    if headers.get_all(header::HOST).iter().count() > 1 {
        return Err(Stranger::TwoNames);
    }
    let named = uri.authority().map(|authority| authority.as_str()).or_else(|| text(&header::HOST));
    let (to, _) = sites::authority(named.ok_or(Stranger::Nobody)?);
    if to != sites::DOMAIN && !to.ends_with(&format!(".{}", sites::DOMAIN)) {
        return Err(Stranger::Misled(to));
    }
    // "null" is a page that hides where it is from.
    let mut origins = headers.get_all(header::ORIGIN).iter().map(|origin| origin.to_str().unwrap_or("null"));
    if let Some(stranger) = origins.find(|origin| !sites::is_friend(origin, port, &to)) {
        return Err(Stranger::Foreign(stranger.to_owned()));
    }
    if headers.contains_key(header::ORIGIN) {
        return Ok(to);
    }
    // A link that somebody follows is no question of that page; a picture, a script or a frame in it is one.
    let followed = text(&FETCH_MODE) == Some("navigate") && text(&FETCH_DEST) == Some("document");
    if text(&FETCH_SITE) == Some("cross-site") && !followed {
        return Err(Stranger::Foreign("another site".to_owned()));
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn judged(lines: &[(&'static str, &'static str)]) -> Result<String, Stranger> {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        judge(7080, &Method::GET, &Uri::from_static("/"), &lines.iter().map(line).collect())
    }

    #[test]
    fn who_types_a_name_or_follows_a_link_comes_in() {
        let web = || Ok("web.shop.localhost".to_owned());
        assert_eq!(judged(&[("host", "web.shop.localhost:7080")]), web());
        assert_eq!(judged(&[("host", "WEB.shop.localhost.:7080")]), web());
        let link = [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        assert_eq!(judged(&[&[("host", "web.shop.localhost:7080")], &link[..]].concat()), web());
        for index in ["localhost:7080", "127.0.0.1:7080", "[::1]:7080", "localhost"] {
            assert_eq!(judged(&[("host", index)]), Ok("localhost".to_owned()), "{index}");
        }
    }

    #[test]
    fn pages_that_came_through_this_door_may_ask_their_own_session() {
        for (host, origin) in [
            ("web.shop.localhost:7080", "http://web.shop.localhost:7080"),
            ("web.shop.localhost:7080", "http://api.shop.localhost:7080"),
            ("127.0.0.1:7080", "http://127.0.0.1:7080"),
            ("localhost:7080", "http://localhost:7080"),
        ] {
            let asked = judged(&[("host", host), ("origin", origin)]);
            assert!(asked.is_ok(), "{origin}");
        }
    }

    #[test]
    fn pages_of_others_may_not_ask() {
        for origin in [
            "https://evil.example",
            "null",
            "http://web.blog.localhost:7080",
            "http://localhost:3000",
            "http://web.shop.localhost:3000",
            "",
        ] {
            let asked = judged(&[("host", "web.shop.localhost:7080"), ("origin", origin)]);
            assert!(matches!(asked, Err(Stranger::Foreign(_))), "{origin}: {asked:?}");
        }
        let friend = ("origin", "http://web.shop.localhost:7080");
        let two = [("host", "web.shop.localhost:7080"), friend, ("origin", "https://evil.example")];
        assert!(matches!(judged(&two), Err(Stranger::Foreign(_))));
    }

    #[test]
    fn what_a_foreign_page_shows_inside_itself_does_not_come_in() {
        for (mode, dest) in [
            ("no-cors", "image"),
            ("no-cors", "script"),
            ("navigate", "iframe"),
            ("navigate", "object"),
            ("navigate", "embed"),
        ] {
            let fetch =
                [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)];
            let asked = judged(&[&[("host", "web.shop.localhost:7080")], &fetch[..]].concat());
            assert!(matches!(asked, Err(Stranger::Foreign(_))), "{mode} {dest}");
        }
        let silent = [("host", "web.shop.localhost:7080"), ("sec-fetch-site", "cross-site")];
        assert!(matches!(judged(&silent), Err(Stranger::Foreign(_))));
    }

    #[test]
    fn two_names_and_tunnels_are_refused() {
        let twice = [("host", "web.shop.localhost:7080"), ("host", "db.shop.localhost:7080")];
        assert_eq!(judged(&twice), Err(Stranger::TwoNames));
        let to = Uri::from_static("web.shop.localhost:7080");
        let host = [(header::HOST, HeaderValue::from_static("web.shop.localhost:7080"))];
        assert_eq!(judge(7080, &Method::CONNECT, &to, &host.into_iter().collect()), Err(Stranger::Tunnel));
    }

    #[test]
    fn a_name_of_the_internet_that_stands_for_loopback_is_refused() {
        for name in ["evil.example:7080", "localhost.evil.example", "weblocalhost", "127.0.0.2:7080", ""] {
            assert!(matches!(judged(&[("host", name)]), Err(Stranger::Misled(_))), "{name}");
        }
        assert_eq!(judged(&[]), Err(Stranger::Nobody));
    }
}
