//! The targets of warming requests.

use std::{error, fmt};

use http::{HeaderValue, Method, Request, Uri, header};

/// Returns a GET of a target. The authority of a URI becomes the `Host`, as clients send it.
pub(super) fn get(target: &str) -> Result<Request<()>, InvalidTarget> {
    let invalid = || InvalidTarget { target: target.to_owned() };
    let uri: Uri = target.parse().map_err(|_| invalid())?;
    let mut request = Request::new(());
    if let Some(authority) = uri.authority() {
        // A user name and a password are not part of the host.
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        let host = HeaderValue::from_str(host).map_err(|_| invalid())?;
        request.headers_mut().insert(header::HOST, host);
    }
    let path = uri.path_and_query().filter(|path| path.as_str().starts_with('/')).ok_or_else(invalid)?;
    *request.method_mut() = Method::GET;
    *request.uri_mut() = Uri::from(path.clone());
    Ok(request)
}

/// A text that is not the target of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidTarget {
    target: String,
}

impl fmt::Display for InvalidTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid target {:?}: expected a path such as /tables/orders?page=1, or a URI", self.target)
    }
}

impl error::Error for InvalidTarget {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_of_a_target_becomes_the_host() {
        for (target, path, host) in [
            ("/a?b=1", "/a?b=1", None),
            ("https://api.example:8443/a", "/a", Some("api.example:8443")),
            ("http://ada:secret@api.example", "/", Some("api.example")),
        ] {
            let request = get(target).expect(target);
            assert_eq!(*request.uri(), path, "{target}");
            assert_eq!(request.headers().get(header::HOST).map(|host| host.to_str().expect("text")), host, "{target}");
        }
        for target in ["", "a b", "*", "host:80"] {
            let error = get(target).expect_err(target).to_string();
            assert!(error.contains(&format!("{target:?}")) && error.contains("expected a path"), "{error}");
        }
    }
}
