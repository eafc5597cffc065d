//! OUR extension between the sandbox server and our envd: the body of a large `POST /files` as plain bytes of the
//! connection, so that the kernel can move them without either program copying them.
//!
//! The server sends the request's head and query to [`PATH`] with `Upgrade: pvm-upload` and the body's length in a
//! header, and no body. envd refuses it with an ordinary answer, or takes it with 101; then the bytes follow, as many as
//! announced, and the connection ends with the answer: the status in three digits, and the JSON body. A path of its own
//! lets an envd of an earlier version say that it does not know it.

/// Where it is served.
pub const PATH: &str = "/pvm.Upload";

/// The protocol's name in `Upgrade`.
pub const UPGRADE_UPLOAD: &str = "pvm-upload";
/// Header with the number of bytes that follow.
pub const HEADER_UPLOAD_BYTES: &str = "pvm-upload-bytes";

/// Digits of a status.
const STATUS_DIGITS: usize = 3;

/// The last bytes of the connection.
pub fn encode_answer(status: u16, json: &[u8]) -> Vec<u8> {
    [format!("{status:03}").as_bytes(), json].concat()
}

/// Takes an answer apart; nothing when it is none.
pub fn decode_answer(answer: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, json) = answer.split_at_checked(STATUS_DIGITS)?;
    let status = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((status, json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_found_again() {
        assert_eq!(decode_answer(&encode_answer(507, b"{}")), Some((507, b"{}".as_slice())));
        assert_eq!(decode_answer(b"20"), None, "the connection broke");
        assert_eq!(decode_answer(b"HTTP/1.1 200"), None);
    }
}
