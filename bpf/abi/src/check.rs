//! Detects a frontend that was read while it was being overwritten.
//!
//! A multilinear sum over 64-bit words with odd random factors: any single changed word changes the sum,
//! and a mix of two contents passes with a chance of about 2^-64. The order in which the writer
//! copies the bytes does not matter.

use crate::{Frontend, Key4, Key6};

const FACTORS: [u64; 9] = [
    0x9e37_79b9_7f4a_7c15,
    0xc2b2_ae3d_27d4_eb4f,
    0x1656_67b1_9e37_79f9,
    0xd6e8_feb8_6659_fd93,
    0xa076_1d64_78bd_642f,
    0xe703_7ed1_a0b4_28db,
    0x8ebc_6af0_9c88_c6e3,
    0x5899_65cc_7537_4cc3,
    0x1d8e_4e27_c47d_124f,
];

/// A key that takes part in the sum.
pub trait Key {
    /// The key's words: unequal for unequal keys.
    fn words(&self) -> [u64; 3];
}

impl Key for Key4 {
    #[inline(always)]
    fn words(&self) -> [u64; 3] {
        [(self.address as u64) << 32 | tail(self.port, self.protocol, self.layer), 0, 0]
    }
}

impl Key for Key6 {
    #[inline(always)]
    fn words(&self) -> [u64; 3] {
        let [a, b, c, d] = self.address;
        [pair(a, b), pair(c, d), tail(self.port, self.protocol, self.layer)]
    }
}

#[inline(always)]
const fn pair(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

#[inline(always)]
const fn tail(port: u16, protocol: u8, layer: u8) -> u64 {
    (port as u64) << 16 | (protocol as u64) << 8 | layer as u64
}

/// The sum of a key and of a frontend without its `check`.
#[must_use]
pub fn sum<K: Key>(key: &K, f: &Frontend) -> u64 {
    let t = &f.target;
    let [a, b] = [t.port.to_ne_bytes(), t.generation.to_ne_bytes()];
    let last = u32::from_ne_bytes([a[0], a[1], b[0], b[1]]);
    let words = [
        word(f.service_id, f.id),
        word(f.flags, f.count),
        word(f.qos_limit, f.affinity),
        word(t.address[0], t.address[1]),
        word(t.address[2], t.address[3]),
        word(last, t.id),
    ];
    sum_words(key, &words)
}

/// [`sum`] of a frontend whose fields below `check` are given as the words that they are in memory.
#[inline(always)]
#[must_use]
pub fn sum_words<K: Key>(key: &K, words: &[u64; 6]) -> u64 {
    let mut sum = 1_u64;
    for (word, factor) in words.iter().chain(&key.words()).zip(&FACTORS) {
        sum = sum.wrapping_add(word.wrapping_mul(*factor));
    }
    sum
}

/// Two neighbouring fields as one word of memory.
const fn word(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Target;

    fn frontend() -> Frontend {
        Frontend {
            check: 0,
            service_id: 1,
            id: 2,
            flags: 3,
            count: 1,
            qos_limit: 0,
            affinity: 0,
            target: Target { address: crate::mapped(0x0100_000a), port: 80, generation: 4, id: 9 },
        }
    }

    #[test]
    fn every_field_and_the_key_change_the_sum() {
        let key = Key4 { address: 1, port: 2, protocol: crate::TCP, layer: 0 };
        let base = sum(&key, &frontend());
        let changed: [fn(&mut Frontend); 9] = [
            |f| f.service_id += 1,
            |f| f.id += 1,
            |f| f.flags += 1,
            |f| f.count += 1,
            |f| f.qos_limit += 1,
            |f| f.affinity += 1,
            |f| f.target.address[3] += 1,
            |f| f.target.port += 1,
            |f| f.target.id += 1,
        ];
        for change in changed {
            let mut f = frontend();
            change(&mut f);
            assert_ne!(sum(&key, &f), base);
        }
        assert_ne!(sum(&Key4 { layer: 1, ..key }, &frontend()), base);
        assert_ne!(sum(&Key4 { address: 2, ..key }, &frontend()), base);
    }

    #[test]
    fn words_are_those_of_memory() {
        let f = Frontend {
            target: Target { port: 0x1234, generation: 0x5678, ..frontend().target },
            ..frontend()
        };
        let key = Key4 { address: 1, port: 2, protocol: crate::TCP, layer: 0 };
        let in_memory = [
            1 | 2 << 32,
            3 | 1 << 32,
            0,
            0,
            u64::from(crate::MAPPED) | 0x0100_000a << 32,
            0x1234 | 0x5678 << 16 | 9 << 32,
        ];
        if cfg!(target_endian = "little") {
            assert_eq!(sum_words(&key, &in_memory), sum(&key, &f));
        }
    }

    #[test]
    fn a_mix_of_two_contents_does_not_check() {
        let key = Key4 { address: 1, port: 2, protocol: crate::TCP, layer: 0 };
        let old = frontend();
        let mut new = old;
        new.target.address = crate::mapped(0x0200_000a);
        new.target.id = 10;
        let mut torn = new;
        torn.target.id = old.target.id;
        torn.check = sum(&key, &new);
        assert_ne!(sum(&key, &torn), torn.check);
    }
}
