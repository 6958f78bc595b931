//! Pure: what may come in at the front door. A browser shows pages of everybody, and each may make it ask a loopback
//! port; so every request is judged by what a browser alone writes: the name it believes to speak to (`Host`), and
//! the page that made it speak (`Origin`, Fetch Metadata: `Sec-Fetch-Site`, `Sec-Fetch-Mode`).

use axum::http::{HeaderMap, HeaderName, Uri, header};
use proto::names::sites;

/// Names that are loopback itself: the index.
const LOOPBACK: [&str; 2] = ["127.0.0.1", "[::1]"];
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Why a request is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// It names nobody: no browser does so.
    #[error("the request has no Host")]
    Nobody,
    /// It believes to speak to somebody else: a name of the internet that was made to stand for loopback.
    #[error("{0:?} is no name of this front door; its names end in .localhost")]
    Misled(String),
    /// A page of somebody else made the browser ask.
    #[error("a page of {0} may not ask what runs here; only pages of the same session may")]
    Foreign(String),
}

/// Gives the site that a request names, if it may come in.
pub fn judge(uri: &Uri, headers: &HeaderMap) -> Result<String, Stranger> {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let named = uri.authority().map(|authority| authority.as_str()).or_else(|| text(&header::HOST));
    let named = host(named.ok_or(Stranger::Nobody)?);
    let to = if LOOPBACK.contains(&named.as_str()) { sites::DOMAIN.to_owned() } else { named };
    if to != sites::DOMAIN && !to.ends_with(&format!(".{}", sites::DOMAIN)) {
        return Err(Stranger::Misled(to));
    }
    if headers.contains_key(header::ORIGIN) {
        // "null" is a page that hides where it is from.
        let origin = text(&header::ORIGIN).unwrap_or("null");
        let from = origin.split_once("://").map_or(String::new(), |(_, authority)| host(authority));
        return if sites::is_friend(&from, &to) { Ok(to) } else { Err(Stranger::Foreign(origin.to_owned())) };
    }
    // A link that somebody follows is no question of that page; an image or a script in it is one.
    let asked_by_page = text(&FETCH_MODE).is_some_and(|mode| mode != "navigate");
    if text(&FETCH_SITE) == Some("cross-site") && asked_by_page {
        return Err(Stranger::Foreign("another site".to_owned()));
    }
    Ok(to)
}

/// Takes the port and the final dot off a host.
fn host(authority: &str) -> String {
    let without = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    without.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn judged(lines: &[(&'static str, &'static str)]) -> Result<String, Stranger> {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        judge(&Uri::from_static("/"), &lines.iter().map(line).collect())
    }

    #[test]
    fn who_types_a_name_or_follows_a_link_comes_in() {
        let web = || Ok("web.shop.localhost".to_owned());
        assert_eq!(judged(&[("host", "web.shop.localhost:7080")]), web());
        assert_eq!(judged(&[("host", "WEB.shop.localhost.:7080")]), web());
        let link = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        assert_eq!(judged(&[&[("host", "web.shop.localhost:7080")], &link[..]].concat()), web());
        for index in ["localhost:7080", "127.0.0.1:7080", "[::1]:7080", "localhost"] {
            assert_eq!(judged(&[("host", index)]), Ok("localhost".to_owned()), "{index}");
        }
    }

    #[test]
    fn pages_of_the_same_session_may_ask() {
        for origin in ["http://web.shop.localhost:7080", "http://api.shop.localhost:7080"] {
            let asked = judged(&[("host", "web.shop.localhost:7080"), ("origin", origin)]);
            assert!(asked.is_ok(), "{origin}");
        }
    }

    #[test]
    fn pages_of_others_may_not_ask() {
        for origin in
            ["https://evil.example", "null", "http://web.blog.localhost:7080", "http://localhost:3000", ""]
        {
            let asked = judged(&[("host", "web.shop.localhost:7080"), ("origin", origin)]);
            assert!(matches!(asked, Err(Stranger::Foreign(_))), "{origin}: {asked:?}");
        }
        let image = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")];
        let asked = judged(&[&[("host", "web.shop.localhost:7080")], &image[..]].concat());
        assert!(matches!(asked, Err(Stranger::Foreign(_))));
    }

    #[test]
    fn a_name_of_the_internet_that_stands_for_loopback_is_refused() {
        for name in ["evil.example:7080", "localhost.evil.example", "weblocalhost", "127.0.0.2:7080", ""] {
            assert!(matches!(judged(&[("host", name)]), Err(Stranger::Misled(_))), "{name}");
        }
        assert_eq!(judged(&[]), Err(Stranger::Nobody));
    }
}
