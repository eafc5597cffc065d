//! The Connect framing: whatever comes in whatever pieces, the decoder neither panics nor reads differently, and what
//! it accepts is what was framed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pvm_e2b_wire::connect::{ConnectError, Envelope, EnvelopeDecoder, FrameError, encode, parse_timeout};
use pvm_e2b_wire::process::{StartRequest, StreamInputRequest};

/// All envelopes, and the error that ended them.
fn read(pieces: &[&[u8]]) -> (Vec<Envelope>, Option<FrameError>) {
    let mut decoder = EnvelopeDecoder::default().with_compression();
    let mut envelopes = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_envelope() {
                Ok(Some(envelope)) => envelopes.push(envelope),
                Ok(None) => break,
                Err(error) => return (envelopes, Some(error)),
            }
        }
    }
    (envelopes, decoder.finish().err())
}

fuzz_target!(|input: (Vec<u8>, Vec<u8>, String)| {
    let (data, cuts, header) = input;
    let whole = read(&[&data]);
    let mut pieces = Vec::new();
    let mut rest = data.as_slice();
    for cut in cuts {
        let (piece, others) = rest.split_at(usize::from(cut).min(rest.len()));
        pieces.push(piece);
        rest = others;
    }
    pieces.push(rest);
    assert_eq!(read(&pieces), whole, "pieces make no difference");

    for envelope in &whole.0 {
        let again = read(&[&encode(envelope.flags, &envelope.payload)]);
        assert_eq!(again, (vec![envelope.clone()], None), "what is read is what was framed");
        // Reading the messages may fail, and may do nothing else.
        serde_json::from_slice::<StartRequest>(&envelope.payload).ok();
        serde_json::from_slice::<StreamInputRequest>(&envelope.payload).ok();
    }
    ConnectError::from_http(500, &data);
    parse_timeout(Some(&header)).ok();
});
