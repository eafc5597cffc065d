//! Signed links: a link opens exactly what it was made for, until its time is over, and no other text opens anything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pvm_e2b_wire::link;
use pvm_e2b_wire::signature::{Operation, SignatureError, sign, verify};

type Input = (String, String, String, Option<i64>, i64, String, bool);

fuzz_target!(|input: Input| {
    let (path, user, token, expires, now, given, reads) = input;
    let operation = if reads { Operation::Read } else { Operation::Write };
    let other = if reads { Operation::Write } else { Operation::Read };
    let signed = sign(&path, operation, &user, &token, expires);
    let check = |text: &str, operation| verify(Some(text), &path, operation, &user, &token, expires, now);
    match expires {
        Some(end) if end < now => assert_eq!(check(&signed, operation), Err(SignatureError::Expired)),
        _ => assert_eq!(check(&signed, operation), Ok(())),
    }
    assert_eq!(check(&signed, other), Err(SignatureError::Invalid), "for one operation only");
    if given != signed {
        assert!(check(&given, operation).is_err(), "{given:?}");
    }
    let port = u16::from(reads) + 80;
    if let Some(end) = expires {
        let period = link::Period { issued_at_ms: now.unsigned_abs(), expires_at: end };
        let made = link::sign(&token, &path, port, period);
        assert_eq!(link::verify(&made, &token, &path, port, now, None), now <= end);
        assert!(!link::verify(&made, &token, &path, port, now, Some(period.issued_at_ms)));
        assert!(!link::verify(&made, &token, &path, port + 1, now, None));
        if given != made {
            assert!(!link::verify(&given, &token, &path, port, i64::MIN, None));
        }
    }
});
