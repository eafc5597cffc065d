//! What changes in a message that is passed on from one connection to another.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, Uri};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

/// Headers that belong to one connection only.
const OF_ONE_CONNECTION: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// Removes what belongs to one connection only, including what `Connection` names.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in OF_ONE_CONNECTION {
        headers.remove(name);
    }
}

/// Makes a request's headers those of the next connection. A wish to speak another protocol goes with it.
pub(crate) fn prepare(headers: &mut HeaderMap) {
    let protocol = headers.get(header::UPGRADE).cloned();
    strip(headers);
    if let Some(protocol) = protocol {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
}

/// The URI as it stands in a request to the server itself: path and query.
pub(crate) fn origin_form(uri: &Uri) -> Uri {
    uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| path.clone().into())
}

/// Once an upgrade was accepted, carries bytes between the two connections until both have ended.
pub(crate) fn pipe(
    client: OnUpgrade,
    response: &mut Response<Incoming>,
) -> impl Future<Output = ()> + Send + use<> {
    let inside = hyper::upgrade::on(response);
    async move {
        if let (Ok(client), Ok(inside)) = (client.await, inside.await) {
            let (mut client, mut inside) = (TokioIo::new(client), TokioIo::new(inside));
            // Either side may hang up; there is nobody to tell.
            tokio::io::copy_bidirectional(&mut client, &mut inside).await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_connection_names_stays_behind() {
        let mut given =
            headers(&[("connection", "close, x-mine"), ("x-mine", "1"), ("te", "a"), ("x-b", "2")]);
        strip(&mut given);
        assert_eq!(given, headers(&[("x-b", "2")]));
    }

    #[test]
    fn a_wish_for_another_protocol_goes_on() {
        let mut given =
            headers(&[("connection", "Upgrade, x-mine"), ("upgrade", "websocket"), ("x-mine", "1")]);
        prepare(&mut given);
        assert_eq!(given, headers(&[("connection", "upgrade"), ("upgrade", "websocket")]));
    }
}
