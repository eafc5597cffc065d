//! Golden JSON and framing of the E2B protocol, as seen from and by the official SDKs.

use bytes::Bytes;
use proptest::prelude::*;
use pvm_e2b_wire::connect::{self, Code, ConnectError, EnvelopeDecoder, FrameError};
use pvm_e2b_wire::control::SandboxState;
use pvm_e2b_wire::filesystem::{EntryInfo, EventType, FileType, FilesystemEvent, WatchDirResponse};
use pvm_e2b_wire::list_query::{ListQuery, SortOrder};
use pvm_e2b_wire::process::{
    DataEvent, EndEvent, ProcessSelector, SendSignalRequest, Signal, StartRequest, StartResponse,
    StreamInputRequest,
};
use pvm_e2b_wire::signature::{Operation, SignatureError, sign, verify};
use serde_json::{from_value, json, to_value};

#[test]
fn start_request_of_the_sdk_is_read() {
    let body = json!({"process": {"cmd": "/bin/bash", "args": ["-l", "-c", "echo hi"], "envs": {"A": "b"}},
        "stdin": false, "tag": null, "unknown": {"x": 1}});
    let request: StartRequest = from_value(body).unwrap();
    assert_eq!(request.process.cmd, "/bin/bash");
    assert_eq!(request.process.args.len(), 3);
    assert_eq!(request.stdin, Some(false));
    assert_eq!(request.tag, None);
    assert!(request.pty.is_none());
}

#[test]
fn null_stands_for_a_default() {
    let request: StartRequest =
        from_value(json!({"process": {"cmd": "a", "args": null, "envs": null}})).unwrap();
    assert!(request.process.args.is_empty());
}

#[test]
fn process_events_have_the_proto_json_shape() {
    assert_eq!(to_value(StartResponse::started(7)).unwrap(), json!({"event": {"start": {"pid": 7}}}));
    let data = DataEvent { stdout: Some(Bytes::from_static(b"hi\xff")), ..DataEvent::default() };
    assert_eq!(to_value(StartResponse::data(data)).unwrap(), json!({"event": {"data": {"stdout": "aGn/"}}}));
    let end = EndEvent { exit_code: 0, exited: true, status: "exit status 0".into(), error: None };
    assert_eq!(
        to_value(StartResponse::ended(end)).unwrap(),
        json!({"event": {"end": {"exited": true, "status": "exit status 0"}}})
    );
    assert_eq!(to_value(StartResponse::keepalive()).unwrap(), json!({"event": {"keepalive": {}}}));
}

#[test]
fn snake_case_is_read_and_camel_case_written() {
    let end: EndEvent = from_value(json!({"exit_code": 3})).unwrap();
    assert_eq!(to_value(&end).unwrap(), json!({"exitCode": 3}));
    let entry: EntryInfo =
        from_value(json!({"symlink_target": "/x", "modified_time": "2026-01-01T00:00:00Z"})).unwrap();
    let written = to_value(&entry).unwrap();
    assert_eq!(written["symlinkTarget"], "/x");
    assert_eq!(written["modifiedTime"], "2026-01-01T00:00:00Z");
}

#[test]
fn bytes_are_read_in_every_base64_dialect() {
    for text in ["+/8=", "+/8", "-_8=", "-_8"] {
        let input: StreamInputRequest = from_value(json!({"data": {"input": {"stdin": text}}})).unwrap();
        assert_eq!(input.data.unwrap().input.stdin.unwrap(), Bytes::from_static(&[0xfb, 0xff]));
    }
    assert!(from_value::<StreamInputRequest>(json!({"data": {"input": {"stdin": "!"}}})).is_err());
}

#[test]
fn enums_are_written_by_name_and_read_by_name_or_number() {
    let request = SendSignalRequest { process: ProcessSelector::pid(1), signal: Signal::Sigkill };
    assert_eq!(to_value(&request).unwrap(), json!({"process": {"pid": 1}, "signal": "SIGNAL_SIGKILL"}));
    for value in [json!("SIGNAL_SIGTERM"), json!(15)] {
        let request: SendSignalRequest =
            from_value(json!({"process": {"tag": "t"}, "signal": value})).unwrap();
        assert_eq!(request.signal, Signal::Sigterm);
    }
    let odd: SendSignalRequest = from_value(json!({"process": {}, "signal": 2})).unwrap();
    assert_eq!(odd.signal, Signal::Unspecified);
    assert!(from_value::<SendSignalRequest>(json!({"process": {}, "signal": "SIGNAL_X"})).is_err());
}

#[test]
fn entries_write_64_bit_sizes_as_text_and_leave_defaults_out() {
    let entry = EntryInfo {
        name: "a".into(),
        file_type: FileType::File,
        path: "/a".into(),
        size: 5_000_000_000,
        mode: 0o644,
        permissions: "-rw-r--r--".into(),
        ..EntryInfo::default()
    };
    assert_eq!(
        to_value(&entry).unwrap(),
        json!({"name": "a", "type": "FILE_TYPE_FILE", "path": "/a", "size": "5000000000", "mode": 420,
            "permissions": "-rw-r--r--"})
    );
    assert_eq!(from_value::<EntryInfo>(json!({"size": 7})).unwrap().size, 7);
}

#[test]
fn watch_messages_have_the_proto_json_shape() {
    assert_eq!(to_value(WatchDirResponse::started()).unwrap(), json!({"start": {}}));
    let event = FilesystemEvent { name: "f".into(), event_type: EventType::Create, entry: None };
    assert_eq!(
        to_value(WatchDirResponse::event(event)).unwrap(),
        json!({"filesystem": {"name": "f", "type": "EVENT_TYPE_CREATE"}})
    );
}

#[test]
fn every_error_code_has_the_status_of_the_connect_protocol() {
    let expected = [
        (Code::Canceled, 499),
        (Code::Unknown, 500),
        (Code::InvalidArgument, 400),
        (Code::DeadlineExceeded, 504),
        (Code::NotFound, 404),
        (Code::AlreadyExists, 409),
        (Code::PermissionDenied, 403),
        (Code::ResourceExhausted, 429),
        (Code::FailedPrecondition, 400),
        (Code::Aborted, 409),
        (Code::OutOfRange, 400),
        (Code::Unimplemented, 501),
        (Code::Internal, 500),
        (Code::Unavailable, 503),
        (Code::DataLoss, 500),
        (Code::Unauthenticated, 401),
    ];
    for (code, status) in expected {
        assert_eq!(code.http_status(), status);
        assert_eq!(to_value(code).unwrap(), code.as_str());
    }
}

#[test]
fn unary_errors_are_read_from_connect_bodies_and_from_plain_ones() {
    let error = ConnectError::new(Code::NotFound, "process with pid 9 not found");
    assert_eq!(error.to_json(), r#"{"code":"not_found","message":"process with pid 9 not found"}"#);
    assert_eq!(ConnectError::from_http(404, &error.to_json()), error);
    let plain = ConnectError::from_http(
        502,
        br#"{"sandboxId":"i","message":"The sandbox was not found","code":502}"#,
    );
    assert_eq!(plain, ConnectError::new(Code::Unavailable, "The sandbox was not found"));
    assert_eq!(ConnectError::from_http(401, b"nope"), ConnectError::new(Code::Unauthenticated, "nope"));
}

#[test]
fn the_end_of_a_stream_is_flag_two_with_an_object() {
    assert_eq!(connect::encode_end(None).as_ref(), b"\x02\x00\x00\x00\x02{}");
    let error = ConnectError::new(Code::NotFound, "x");
    let frame = connect::encode_end(Some(&error));
    assert_eq!(&frame[5..], br#"{"error":{"code":"not_found","message":"x"}}"#);
    assert_eq!(frame[0], connect::FLAG_END_STREAM);
}

#[test]
fn envelopes_over_the_limit_are_refused_before_their_payload_came() {
    let mut decoder = EnvelopeDecoder::new(10);
    decoder.push(&[0, 0, 0, 0, 11]);
    assert_eq!(decoder.next_envelope(), Err(FrameError::TooLarge { size: 11, limit: 10 }));
}

#[test]
fn compressed_and_unknown_envelopes_are_refused() {
    for (flags, error) in
        [(1, FrameError::Compressed), (3, FrameError::Compressed), (8, FrameError::UnknownFlags(8))]
    {
        let mut decoder = EnvelopeDecoder::default();
        decoder.push(&[flags, 0, 0, 0, 0]);
        assert_eq!(decoder.next_envelope(), Err(error));
    }
}

#[test]
fn announced_compression_lets_single_envelopes_be_compressed() {
    let mut decoder = EnvelopeDecoder::default().with_compression();
    decoder.push(&connect::encode(connect::FLAG_COMPRESSED, b"xyz"));
    decoder.push(&connect::encode(0, b"{}"));
    let first = decoder.next_envelope().unwrap().unwrap();
    assert!(first.is_compressed() && !first.is_end() && first.payload == "xyz");
    assert!(!decoder.next_envelope().unwrap().unwrap().is_compressed());
    decoder.push(&[8, 0, 0, 0, 0]);
    assert_eq!(decoder.next_envelope(), Err(FrameError::UnknownFlags(8)));
}

#[test]
fn a_cut_stream_is_told_from_a_finished_one() {
    let mut decoder = EnvelopeDecoder::default();
    assert_eq!(decoder.finish(), Ok(()));
    decoder.push(&[0, 0]);
    assert_eq!(decoder.next_envelope(), Ok(None));
    assert_eq!(decoder.finish(), Err(FrameError::Truncated));
}

proptest! {
    #[test]
    fn envelopes_survive_any_split(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..8),
        cuts in prop::collection::vec(1_usize..20, 1..40),
    ) {
        let mut bytes: Vec<u8> =
            payloads.iter().flat_map(|payload| connect::encode(0, payload).to_vec()).collect();
        bytes.extend_from_slice(&connect::encode_end(None));
        let mut decoder = EnvelopeDecoder::default();
        let mut seen = Vec::new();
        let mut rest = bytes.as_slice();
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let cut = (*cuts.next().unwrap()).min(rest.len());
            decoder.push(&rest[..cut]);
            rest = &rest[cut..];
            while let Some(envelope) = decoder.next_envelope().unwrap() {
                seen.push(envelope);
            }
        }
        prop_assert!(decoder.finish().is_ok());
        prop_assert!(seen.pop().unwrap().is_end());
        let seen: Vec<Vec<u8>> = seen.into_iter().map(|envelope| envelope.payload.to_vec()).collect();
        prop_assert_eq!(seen, payloads);
    }

    #[test]
    fn the_decoder_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut decoder = EnvelopeDecoder::new(64);
        decoder.push(&bytes);
        while let Ok(Some(_)) = decoder.next_envelope() {}
    }

    #[test]
    fn list_queries_read_back_as_built(
        metadata in prop::collection::btree_map("\\PC{1,8}", "\\PC{0,8}", 0..4),
        limit in prop::option::of(1_u32..=100),
    ) {
        let query = ListQuery { metadata, limit, ..ListQuery::default() };
        prop_assert_eq!(ListQuery::parse(&query.to_query_string()).unwrap(), query);
    }
}

#[test]
fn messages_are_framed_without_an_extra_copy() {
    let frame = connect::encode_message(&StartResponse::started(1)).unwrap();
    assert_eq!(frame, connect::encode(0, br#"{"event":{"start":{"pid":1}}}"#));
}

#[test]
fn call_timeouts_are_read_with_zero_as_none() {
    assert_eq!(connect::parse_timeout(None), Ok(None));
    assert_eq!(connect::parse_timeout(Some("0")), Ok(None));
    assert_eq!(connect::parse_timeout(Some("1500")).unwrap().unwrap().as_millis(), 1500);
    for bad in ["-1", "1.5", "12345678901", "soon"] {
        assert_eq!(connect::parse_timeout(Some(bad)).unwrap_err().code, Code::InvalidArgument);
    }
}

#[test]
fn signatures_are_those_of_the_official_sdks() {
    // Made with Python's hashlib from the protocol's formula.
    let plain = "v1_YUF9d9tC7j5BqzhU70joX3AcFJs4U1N/YTPoq3iQp/0";
    assert_eq!(sign("a/b.txt", Operation::Read, "user", "tok", None), plain);
    let expiring = "v1_mUcih3xufUaJ3rlRNUOmf/DUtOmNWOaf5iDqh2OpgFM";
    assert_eq!(sign("a/b.txt", Operation::Write, "", "tok", Some(1_700_000_000)), expiring);
}

#[test]
fn signatures_are_checked_for_all_they_cover() {
    let signed = sign("a", Operation::Read, "user", "tok", Some(100));
    let check = |path, operation, user, token, expires, now| {
        verify(Some(&signed), path, operation, user, token, expires, now)
    };
    assert_eq!(check("a", Operation::Read, "user", "tok", Some(100), 100), Ok(()));
    assert_eq!(check("a", Operation::Read, "user", "tok", Some(100), 101), Err(SignatureError::Expired));
    let invalid = Err(SignatureError::Invalid);
    assert_eq!(check("b", Operation::Read, "user", "tok", Some(100), 1), invalid);
    assert_eq!(check("a", Operation::Write, "user", "tok", Some(100), 1), invalid);
    assert_eq!(check("a", Operation::Read, "root", "tok", Some(100), 1), invalid);
    assert_eq!(check("a", Operation::Read, "user", "other", Some(100), 1), invalid);
    assert_eq!(check("a", Operation::Read, "user", "tok", Some(999), 1), invalid);
    assert_eq!(check("a", Operation::Read, "user", "tok", None, 1), invalid);
    assert_eq!(verify(None, "a", Operation::Read, "user", "tok", None, 1), Err(SignatureError::Missing));
    assert_eq!(SignatureError::Expired.to_string(), "signature is already expired");
}

#[test]
fn the_list_query_of_the_python_sdk_is_read() {
    // urlencode({"metadata": urlencode({quote(k): quote(v)})})
    let raw = "metadata=user%252520id%3Da%252526b%25253Dc%26%2525C3%2525BC%3D1%25252B1&state=running%2Cpaused\
               &limit=2&order=asc&startedAfter=2026-01-01T00%3A00%3A00Z&nextToken=abc";
    let query = ListQuery::parse(raw).unwrap();
    assert_eq!(query.metadata["user id"], "a&b=c");
    assert_eq!(query.metadata["ü"], "1+1");
    assert_eq!(query.states, [SandboxState::Running, SandboxState::Paused]);
    assert_eq!((query.limit, query.order), (Some(2), SortOrder::Ascending));
    assert_eq!(query.next_token.as_deref(), Some("abc"));
    assert_eq!(query.started_after, Some("2026-01-01T00:00:00Z".parse().unwrap()));
}

#[test]
fn wrong_list_queries_name_the_parameter() {
    for (raw, parameter) in
        [("limit=0", "limit"), ("limit=101", "limit"), ("state=dead", "state"), ("metadata=a", "metadata")]
    {
        assert_eq!(ListQuery::parse(raw).unwrap_err().parameter, parameter);
    }
}
