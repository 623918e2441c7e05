//! Names of networks, containers and interfaces as parts of file names. Pure text.

/// Names that encode to more are shortened: a file name has at most 255 bytes.
pub(super) const LONGEST: usize = 200;

/// A name as a part of a file name, differently for different names: letters, digits, `-` and inner dots stay,
/// other bytes become `%XX`, so `_` is free as a separator and nothing is hidden or climbs.
///
/// A name too long for a file system is cut, and a hash of the whole is appended.
pub(super) fn encode(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for (index, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || (byte == b'.' && index > 0) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    if encoded.is_empty() {
        // No other name encodes to a lone percent sign.
        encoded.push('%');
    } else if encoded.len() > LONGEST {
        encoded.truncate(LONGEST - 18);
        encoded.push_str(&format!("%h{:016x}", fnv1a(name.as_bytes())));
    }
    encoded
}

/// Hash of Fowler, Noll and Vo, 64 bits: stable between builds, as a file name has to be.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
