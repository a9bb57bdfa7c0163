//! Which part of a file a request asks for (RFC 9110, section 14).

use std::ops::Range;

/// What is sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// Everything.
    Whole,
    /// These bytes.
    Bytes(Range<u64>),
    /// Nothing: the file is shorter.
    Beyond,
}

/// Understands the header `Range` of a file of `length` bytes. What it cannot be, or asks for several parts, is as if it
/// were not there (section 14.2): the whole file is an answer to every request.
pub(super) fn asked(header: Option<&str>, length: u64) -> Part {
    let part = header.and_then(|header| header.trim().strip_prefix("bytes="));
    let Some((first, last)) = part.and_then(|part| part.trim().split_once('-')) else {
        return Part::Whole;
    };
    // Longer numbers than any file are as good as its end.
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true if !text.is_empty() => Some(text.parse().unwrap_or(u64::MAX)),
        _ => None,
    };
    let range = match (number(first), number(last)) {
        (Some(first), None) if last.is_empty() => first..length,
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(length),
        (None, Some(count)) if first.is_empty() => length.saturating_sub(count)..length,
        _ => return Part::Whole,
    };
    if range.is_empty() { Part::Beyond } else { Part::Bytes(range) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::{Part, asked};

    #[test]
    fn parts_are_understood_as_the_rfc_has_them() {
        let of_ten = |header| asked(Some(header), 10);
        assert_eq!(asked(None, 10), Part::Whole);
        for (header, range) in [
            ("bytes=0-0", 0..1),
            ("bytes=2-5", 2..6),
            ("bytes=2-", 2..10),
            ("bytes=-3", 7..10),
            ("bytes=-99", 0..10),
            ("bytes=9-99999999999999999999999", 9..10),
        ] {
            assert_eq!(of_ten(header), Part::Bytes(range), "{header}");
        }
        for header in ["bytes=10-", "bytes=10-12", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(of_ten(header), Part::Beyond, "{header}");
        }
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-2",
            "bytes=a-b",
            "bytes=0-1,4-5",
            "lines=0-1",
            "bytes=+1-2",
        ] {
            assert_eq!(of_ten(header), Part::Whole, "{header}");
        }
        assert_eq!(asked(Some("bytes=0-"), 0), Part::Beyond);
    }

    proptest! {
        #[test]
        fn a_part_lies_in_the_file(header in "(bytes=)?[0-9]{0,25}-?[0-9,]{0,25}.{0,3}", length in 0_u64..50) {
            if let Part::Bytes(range) = asked(Some(&header), length) {
                assert!(range.start < range.end && range.end <= length, "{header} {range:?}");
            }
        }
    }
}
